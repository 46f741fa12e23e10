"""The writer: transactions, the lock, versions, and files that were damaged."""

import contextlib
import math
import shutil
import sqlite3

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.messages import Telemetry
from journal.chain import EMPTY, verify
from journal.errors import (
    ChainError,
    DiskFullError,
    EventError,
    JournalClosedError,
    JournalDamagedError,
    JournalError,
    JournalLockedError,
    JournalVersionError,
)
from journal.events import ServerStarted, WorkFailed
from journal.reader import TELEMETRY_START, JournalReader
from journal.store import Journal

BATCH = 3


def batch(number):
    return [WorkFailed(job=f"job {number}", detail="x" * 200) for _ in range(BATCH)]


def grow(journal, batches):
    for number in range(batches):
        journal.append(batch(number), 100.0 + number)


@contextlib.contextmanager
def database(folder, *, unguarded=False):
    with contextlib.closing(sqlite3.connect(folder / "journal.sqlite")) as connection, connection:
        if unguarded:
            for (name,) in connection.execute(
                "SELECT name FROM sqlite_master WHERE type = 'trigger'"
            ).fetchall():
                connection.execute(f"DROP TRIGGER {name}")
        yield connection


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".lock"}


@pytest.fixture
def journal(tmp_path):
    with Journal.open(tmp_path) as journal:
        yield journal


def test_a_new_journal_is_empty(journal):
    assert journal.head == EMPTY
    assert list(journal.records()) == []


def test_what_was_appended_is_there_after_opening_again(tmp_path):
    with Journal.open(tmp_path / "a" / "b") as journal:
        written = journal.append([ServerStarted(epoch=1), ServerStarted(epoch=2)], 12.5)
        written += journal.append([ServerStarted(epoch=3)], 11.0)
        head = journal.head
    with Journal.open(tmp_path / "a" / "b") as journal:
        assert list(journal.records()) == written
        assert list(journal.records(2)) == written[2:]
        assert [one.event.epoch for one in journal.records()] == [1, 2, 3]
        assert journal.head == head == written[-1].head
        assert verify(journal.records(), head) == head


def test_a_long_journal_is_read_in_order(journal):
    events = [ServerStarted(epoch=one) for one in range(1201)]
    journal.append(events, 1.0)
    assert [one.event for one in journal.records()] == events
    assert [one.index for one in journal.records(1000)] == list(range(1000, 1201))


def test_records_may_be_appended_while_they_are_read(journal):
    journal.append(batch(0), 1.0)
    reading = journal.records()
    next(reading)
    journal.append(batch(1), 2.0)
    assert [one.index for one in reading] == [1, 2, 3, 4, 5]


def test_appending_nothing_writes_nothing(journal):
    assert journal.append([], 1.0) == []
    assert journal.head == EMPTY


def test_one_bad_event_keeps_the_whole_batch_out(journal):
    with pytest.raises(EventError):
        journal.append([ServerStarted(epoch=1), ServerStarted(epoch="two")], 1.0)
    assert list(journal.records()) == []
    journal.append([ServerStarted(epoch=1)], 1.0)
    assert journal.head.index == 0


def test_what_may_wait_is_written_with_the_next_events_in_the_order_it_happened(tmp_path):
    with Journal.open(tmp_path) as journal:
        journal.later([ServerStarted(epoch=1)], 1.0)
        journal.later([ServerStarted(epoch=2), ServerStarted(epoch=3)], 2.0)
        assert journal.head == EMPTY
        assert list(journal.records()) == []
        (record,) = journal.append([ServerStarted(epoch=4)], 3.0)
        assert record.index == 3
        assert [one.event.epoch for one in journal.records()] == [1, 2, 3, 4]
        assert [one.at for one in journal.records()] == [1.0, 2.0, 2.0, 3.0]
        assert verify(journal.records(), journal.head) == journal.head == record.head


def test_what_waits_is_written_when_it_is_flushed_or_the_journal_is_closed(tmp_path):
    with Journal.open(tmp_path) as journal:
        journal.later([ServerStarted(epoch=1)], 1.0)
        journal.flush()
        journal.flush()
        assert journal.head.index == 0
        journal.later([ServerStarted(epoch=2)], 2.0)
    with Journal.open(tmp_path) as journal:
        assert [one.event.epoch for one in journal.records()] == [1, 2]


def test_a_kill_loses_what_waited_and_nothing_else(tmp_path):
    with Journal.open(tmp_path / "journal") as journal:
        journal.append([ServerStarted(epoch=1)], 1.0)
        journal.later([ServerStarted(epoch=2)], 2.0)
        shutil.copytree(tmp_path / "journal", tmp_path / "killed")
    with Journal.open(tmp_path / "killed") as journal:
        assert [one.event.epoch for one in journal.records()] == [1]
        journal.append([ServerStarted(epoch=3)], 3.0)
        assert verify(journal.records()) == journal.head


def test_nothing_can_wait_in_a_closed_journal(tmp_path):
    with Journal.open(tmp_path) as journal:
        pass
    with pytest.raises(JournalClosedError):
        journal.later([ServerStarted(epoch=1)], 1.0)


def test_a_negative_zero_time_does_not_break_the_chain(tmp_path):
    with Journal.open(tmp_path) as journal:
        journal.append([ServerStarted(epoch=1)], -0.0)
    with Journal.open(tmp_path) as journal:
        assert verify(journal.records()) == journal.head


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE events SET at = 0",
        "DELETE FROM events WHERE idx = 2",
        "INSERT OR REPLACE INTO events SELECT 1, at, payload, hash, hash FROM events WHERE idx = 2",
        "INSERT INTO events SELECT 9, at, payload, previous, hash FROM events WHERE idx = 2",
    ],
)
def test_the_database_refuses_to_change_what_was_written(tmp_path, statement):
    with Journal.open(tmp_path) as journal:
        grow(journal, 1)
    with (
        pytest.raises(sqlite3.IntegrityError, match="append-only"),
        database(tmp_path) as connection,
    ):
        connection.execute(statement)


def test_a_second_writer_is_told_who_holds_the_journal(tmp_path, journal):
    with pytest.raises(JournalLockedError, match=r"process \d+ on "):
        Journal.open(tmp_path)
    journal.append([ServerStarted(epoch=1)], 1.0)
    journal.close()
    Journal.open(tmp_path).close()


def test_a_failed_opening_lets_go_of_the_lock(tmp_path):
    Journal.open(tmp_path).close()
    with database(tmp_path) as connection:
        connection.execute("UPDATE meta SET value = 99 WHERE key = 'schema_version'")
    for _ in range(2):
        with pytest.raises(JournalVersionError):
            Journal.open(tmp_path)


@pytest.mark.parametrize(
    ("version", "text"), [(3, "newer"), (99, "newer"), (0, "known schema"), ("x", "known schema")]
)
def test_a_journal_of_another_schema_is_refused_with_the_remedy(tmp_path, version, text):
    with Journal.open(tmp_path) as journal:
        grow(journal, 1)
    with database(tmp_path) as connection:
        connection.execute("UPDATE meta SET value = ? WHERE key = 'schema_version'", (version,))
    before = content(tmp_path)
    with pytest.raises(JournalVersionError, match=text):
        Journal.open(tmp_path)
    assert content(tmp_path) == before


def test_somebody_elses_database_is_not_touched(tmp_path):
    with database(tmp_path) as connection:
        connection.execute("CREATE TABLE shopping (item)")
    before = content(tmp_path)
    with pytest.raises(JournalVersionError, match="no journal"):
        Journal.open(tmp_path)
    assert content(tmp_path) == before


def test_a_file_that_is_no_database_is_not_touched(tmp_path):
    (tmp_path / "journal.sqlite").write_bytes(b"dear diary\n" * 1000)
    before = content(tmp_path)
    with pytest.raises(JournalDamagedError, match="damaged"):
        Journal.open(tmp_path)
    assert content(tmp_path) == before


def test_an_empty_file_is_damage_and_not_a_new_journal(tmp_path):
    (tmp_path / "journal.sqlite").touch()
    with pytest.raises(JournalDamagedError, match="empty"):
        Journal.open(tmp_path)
    assert (tmp_path / "journal.sqlite").stat().st_size == 0


def test_a_log_without_its_journal_is_not_taken_for_a_new_one(tmp_path):
    (tmp_path / "journal.sqlite-wal").write_bytes(b"x" * 100)
    with pytest.raises(JournalDamagedError, match="missing beside its log"):
        Journal.open(tmp_path)
    assert (tmp_path / "journal.sqlite-wal").read_bytes() == b"x" * 100


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_cut_file_is_refused_and_left_as_it_is(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("cut")
    with Journal.open(folder) as journal:
        grow(journal, 8)
    path = folder / "journal.sqlite"
    kept = data.draw(st.integers(0, path.stat().st_size - 1))
    path.write_bytes(path.read_bytes()[:kept])
    before = content(folder)
    with pytest.raises((JournalDamagedError, JournalVersionError)):
        Journal.open(folder)
    assert content(folder) == before


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_an_overwritten_page_never_passes_as_another_history(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("page")
    with Journal.open(folder) as journal:
        grow(journal, 8)
        expected = list(journal.records())
    path = folder / "journal.sqlite"
    bytes_ = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(bytes_) - 1))
    bytes_[at : at + 64] = b"\xa5" * len(bytes_[at : at + 64])
    path.write_bytes(bytes_)
    try:
        journal = Journal.open(folder)
    except JournalError:
        assert path.read_bytes() == bytes_
    else:
        with journal:
            assert list(journal.records()) == expected


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory):
    """A journal as a kill leaves it: everything in the write-ahead log."""
    folder = tmp_path_factory.mktemp("log")
    copy = tmp_path_factory.mktemp("copy")
    with Journal.open(folder) as journal:
        grow(journal, 6)
        for name in ("journal.sqlite", "journal.sqlite-wal"):
            shutil.copy(folder / name, copy / name)
    return copy


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_torn_log_gives_whole_transactions_and_never_half_of_one(
    tmp_path_factory, unfinished, data
):
    folder = tmp_path_factory.mktemp("torn")
    shutil.copy(unfinished / "journal.sqlite", folder)
    log = (unfinished / "journal.sqlite-wal").read_bytes()
    kept = data.draw(st.integers(0, len(log)))
    (folder / "journal.sqlite-wal").write_bytes(log[:kept])
    with Journal.open(folder) as journal:
        records = list(journal.records())
        assert len(records) % BATCH == 0
        assert (len(records) == 6 * BATCH) == (kept == len(log))
        assert verify(records, journal.head) == journal.head
        journal.append(batch(9), 200.0)
    with Journal.open(folder) as journal:
        assert list(journal.records())[: len(records)] == records


def test_rows_cut_off_inside_the_database_are_noticed(tmp_path):
    with Journal.open(tmp_path) as journal:
        grow(journal, 2)
    with database(tmp_path, unguarded=True) as connection:
        connection.execute("DELETE FROM events WHERE idx >= 4")
    with pytest.raises(ChainError, match="cut off") as caught:
        Journal.open(tmp_path)
    assert caught.value.index == 4


def test_an_edited_row_is_named(tmp_path):
    with Journal.open(tmp_path) as journal:
        grow(journal, 2)
    with database(tmp_path, unguarded=True) as connection:
        connection.execute("UPDATE events SET at = at + 1 WHERE idx = 3")
    with pytest.raises(ChainError, match="differ") as caught:
        Journal.open(tmp_path)
    assert caught.value.index == 3


@pytest.mark.parametrize(
    "forged", ["at = 'noon'", "payload = 'text'", "previous = 7", "hash = 1.5"]
)
def test_a_row_of_wrong_types_is_a_broken_link(tmp_path, forged):
    with Journal.open(tmp_path) as journal:
        grow(journal, 1)
    with database(tmp_path, unguarded=True) as connection:
        connection.execute(f"UPDATE events SET {forged} WHERE idx = 1")  # noqa: S608
    with pytest.raises(ChainError, match="is no record") as caught:
        Journal.open(tmp_path)
    assert caught.value.index == 1


def test_records_past_the_noted_end_are_noticed(tmp_path):
    with Journal.open(tmp_path) as journal:
        grow(journal, 1)
        noted = journal.head
        grow(journal, 1)
    with database(tmp_path) as connection:
        connection.execute("UPDATE meta SET value = ? WHERE key = 'head_index'", (noted.index,))
        connection.execute("UPDATE meta SET value = ? WHERE key = 'head_hash'", (noted.hash,))
    with pytest.raises(ChainError, match="past the noted end") as caught:
        Journal.open(tmp_path)
    assert caught.value.index == 3


def test_a_full_disk_keeps_what_was_there_and_can_be_tried_again(journal):
    grow(journal, 1)
    (pages,) = journal._connection.execute("PRAGMA page_count").fetchone()
    journal._connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(DiskFullError, match="make room"):
        journal.append([WorkFailed(job="big", detail="x" * 50_000)], 5.0)
    assert journal.head.index == BATCH - 1
    journal._connection.execute("PRAGMA max_page_count = 1000000")
    journal.append([WorkFailed(job="big", detail="x" * 50_000)], 5.0)
    assert verify(journal.records()) == journal.head
    assert journal.head.index == BATCH


def test_after_an_unknown_error_the_journal_wants_to_be_opened_again(tmp_path, journal):
    grow(journal, 1)
    with database(tmp_path) as connection:
        forged = "INSERT INTO events SELECT 3, at, payload, previous, hash FROM events WHERE idx=0"
        connection.execute(forged)
    with pytest.raises(JournalDamagedError, match="append-only"):
        journal.append(batch(1), 2.0)
    with pytest.raises(JournalClosedError, match="open it again"):
        journal.append(batch(1), 2.0)
    journal.close()
    with pytest.raises(ChainError) as caught:
        Journal.open(tmp_path)
    assert caught.value.index == 3


def test_a_closed_journal_says_so(tmp_path):
    journal = Journal.open(tmp_path)
    journal.close()
    journal.close()
    with pytest.raises(JournalClosedError):
        journal.append([ServerStarted(epoch=1)], 1.0)
    with pytest.raises(JournalClosedError):
        list(journal.records())


def test_a_clean_close_leaves_one_file_and_the_lock(tmp_path):
    with Journal.open(tmp_path) as journal:
        grow(journal, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["journal.lock", "journal.sqlite"]


def test_a_folder_that_cannot_be_used_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(JournalError, match="file"):
        Journal.open(tmp_path / "file")


def test_every_commit_reaches_the_medium(journal):
    assert journal._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert journal._connection.execute("PRAGMA synchronous").fetchone() == (2,)


@pytest.mark.parametrize("lie", [math.nan, math.inf, -math.inf])
def test_telemetry_that_would_not_come_back_the_same_is_refused_and_the_rest_stays_readable(
    tmp_path, lie
):
    with Journal.open(tmp_path) as journal:
        journal.add_telemetry("a", 1.0, Telemetry(inferences=1))
        with pytest.raises(EventError, match="telemetry of b: a latency is not finite"):
            journal.add_telemetry("b", 2.0, Telemetry(latency_p95_s=lie))
        with pytest.raises(EventError):
            journal.add_telemetry("b", 2.0, Telemetry(latency_p50_s=lie))
        heard, _ = JournalReader(tmp_path).telemetry_since(TELEMETRY_START)
        assert [one.device for one in heard] == ["a"]


def test_telemetry_is_kept_by_device_and_forgotten_by_age(tmp_path):
    with Journal.open(tmp_path) as journal:
        for at in (1.0, 3.0, 2.0):
            journal.add_telemetry("a", at, Telemetry(running="m", inferences=int(at)))
        journal.add_telemetry("b", 9.0, Telemetry(classes=(1, 2)))
    with Journal.open(tmp_path) as journal:
        assert [at for at, _ in journal.telemetry("a")] == [1.0, 2.0, 3.0]
        assert journal.telemetry("a", 2.5) == [(3.0, Telemetry(running="m", inferences=3))]
        assert journal.telemetry("b") == [(9.0, Telemetry(classes=(1, 2)))]
        assert journal.prune_telemetry(3.0) == 2
        assert [at for at, _ in journal.telemetry("a")] == [3.0]
        assert journal.head == EMPTY


def test_the_hashes_of_a_range_are_those_of_its_records(tmp_path):
    with Journal.open(tmp_path) as journal:
        journal.append([ServerStarted(epoch=n) for n in range(7)], 1.0)
        whole = [record.hash for record in journal.records()]
        assert journal.hashes(0, 7) == whole
        assert journal.hashes(2, 5) == whole[2:5]
        assert journal.hashes(3, 3) == []
        with pytest.raises(JournalDamagedError, match="holds 2 of the records 5 to 8"):
            journal.hashes(5, 9)
