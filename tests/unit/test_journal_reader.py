"""The reader: beside a live writer, after it, and without leaving a trace."""

import os
import shutil

import pytest

from broker.messages import Telemetry
from journal.chain import EMPTY, verify
from journal.errors import (
    ChainError,
    JournalDamagedError,
    JournalError,
    JournalMissingError,
    JournalVersionError,
)
from journal.events import ServerStarted
from journal.reader import JournalReader
from journal.store import Journal


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def epochs(reader, start=0):
    return [one.event.epoch for one in reader.records(start)]


def test_a_reader_follows_a_live_writer(tmp_path):
    reader = JournalReader(tmp_path)
    with Journal.open(tmp_path) as journal:
        assert reader.head() == EMPTY
        for epoch in range(4):
            journal.append([ServerStarted(epoch=epoch)], 1.0)
            assert epochs(reader, epoch) == [epoch]
            assert reader.head() == journal.head
        assert verify(reader.records(), reader.head()) == journal.head
    assert epochs(reader) == [0, 1, 2, 3]


def test_a_slow_reader_sees_what_is_appended_meanwhile(tmp_path):
    with Journal.open(tmp_path) as journal:
        journal.append([ServerStarted(epoch=one) for one in range(600)], 1.0)
        reading = JournalReader(tmp_path).records()
        next(reading)
        journal.append([ServerStarted(epoch=600)], 1.0)
        assert len(list(reading)) == 600


def test_a_reader_of_a_closed_journal_leaves_no_file_behind(tmp_path):
    with Journal.open(tmp_path) as journal:
        journal.append([ServerStarted(epoch=5)], 1.0)
        journal.add_telemetry("a", 2.0, Telemetry(inferences=3))
    before = names(tmp_path)
    reader = JournalReader(tmp_path)
    assert epochs(reader) == [5]
    assert reader.head().index == 0
    assert reader.telemetry("a") == [(2.0, Telemetry(inferences=3))]
    assert names(tmp_path) == before


def test_a_reader_beside_a_writer_adds_no_file(tmp_path):
    with Journal.open(tmp_path) as journal:
        journal.append([ServerStarted(epoch=5)], 1.0)
        before = names(tmp_path)
        assert epochs(JournalReader(tmp_path)) == [5]
        assert names(tmp_path) == before


def test_a_missing_journal_is_not_made(tmp_path):
    with pytest.raises(JournalMissingError, match="no journal"):
        JournalReader(tmp_path / "nowhere").head()
    with pytest.raises(JournalMissingError):
        list(JournalReader(tmp_path).records())
    assert names(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="needs POSIX permissions")
def test_a_read_only_copy_can_be_read(tmp_path):
    with Journal.open(tmp_path / "a") as journal:
        journal.append([ServerStarted(epoch=5)], 1.0)
    (tmp_path / "b").mkdir()
    shutil.copy(tmp_path / "a" / "journal.sqlite", tmp_path / "b")
    (tmp_path / "b" / "journal.sqlite").chmod(0o444)
    (tmp_path / "b").chmod(0o555)
    try:
        assert epochs(JournalReader(tmp_path / "b")) == [5]
    finally:
        (tmp_path / "b").chmod(0o755)


def test_a_log_copied_without_its_index_is_explained_and_the_writer_can_open_it(tmp_path):
    (tmp_path / "b").mkdir()
    with Journal.open(tmp_path / "a") as journal:
        journal.append([ServerStarted(epoch=5)], 1.0)
        for name in ("journal.sqlite", "journal.sqlite-wal"):
            shutil.copy(tmp_path / "a" / name, tmp_path / "b")
    with pytest.raises(JournalError, match="index"):
        JournalReader(tmp_path / "b").head()
    assert names(tmp_path / "b") == ["journal.sqlite", "journal.sqlite-wal"]
    Journal.open(tmp_path / "b").close()
    assert epochs(JournalReader(tmp_path / "b")) == [5]


def test_a_writer_that_comes_while_a_file_at_rest_is_read_makes_the_reader_look_again(
    tmp_path, monkeypatch
):
    with Journal.open(tmp_path) as journal:
        journal.append([ServerStarted(epoch=1)], 1.0)
    reader = JournalReader(tmp_path)
    ask = JournalReader._look
    looks = []

    def look(self):
        looks.append(1)
        if len(looks) == 2:  # between the answer and the check that nothing has moved
            with Journal.open(tmp_path) as journal:
                journal.append([ServerStarted(epoch=2)], 2.0)
        return ask(self)

    monkeypatch.setattr(JournalReader, "_look", look)
    assert epochs(reader) == [1, 2]


def test_a_journal_that_is_damaged_or_of_another_kind_is_named(tmp_path):
    path = tmp_path / "journal.sqlite"
    path.write_bytes(b"no database at all, but long enough to look like a file" * 100)
    with pytest.raises(JournalDamagedError, match="damaged"):
        JournalReader(tmp_path).head()
    path.write_bytes(b"")
    with pytest.raises(JournalDamagedError, match="empty"):
        JournalReader(tmp_path).head()
    assert names(tmp_path) == ["journal.sqlite"]


def test_a_newer_journal_is_refused(tmp_path):
    with Journal.open(tmp_path) as journal:
        journal._connection.execute("UPDATE meta SET value = 3 WHERE key = 'schema_version'")
        with pytest.raises(JournalVersionError, match="newer"):
            JournalReader(tmp_path).head()


def test_the_readers_head_shows_that_rows_were_cut_off(tmp_path):
    with Journal.open(tmp_path) as journal:
        journal.append([ServerStarted(epoch=one) for one in range(5)], 1.0)
        journal._connection.execute("DROP TRIGGER events_are_not_deleted")
        journal._connection.execute("DELETE FROM events WHERE idx = 4")
        reader = JournalReader(tmp_path)
        verify(reader.records())
        with pytest.raises(ChainError, match="cut off"):
            verify(reader.records(), reader.head())
