"""A journal of an older version is brought up to date, with a copy of what it was."""

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from broker.messages import Telemetry
from journal.chain import verify
from journal.crashpoints import CRASH_AT, CRASHPOINTS, KILLED
from journal.errors import ChainError, DiskFullError, JournalError
from journal.events import ServerStarted, WorkFailed
from journal.migration import MIGRATIONS, copy_path, migrate
from journal.reader import DATABASE, TELEMETRY_START, JournalReader
from journal.store import Journal
from monitor.feed import JournalFeed
from tests.fakes.old_journals import make_schema_1

ROOT = Path(__file__).parents[2]
EVENTS = [ServerStarted(epoch=1), *(WorkFailed(job=str(n), detail="d") for n in range(600))]
HEARD = [
    ("a", 20.0, Telemetry(inferences=1)),
    ("b", 30.0, Telemetry(inferences=2)),
    ("a", 10.0, Telemetry(inferences=4)),  # the clock was put back
]
PLACES = sorted(name for name in CRASHPOINTS if name.startswith("migration-"))


@pytest.fixture
def old(tmp_path):
    make_schema_1(tmp_path / "journal", EVENTS, HEARD)
    return tmp_path / "journal"


def query(path, statement):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute(statement).fetchall()


def version(path):
    return query(path, "SELECT value FROM meta WHERE key = 'schema_version'")[0][0]


def copies(folder):
    return sorted(path for path in folder.iterdir() if ".schema-" in path.name)


def schema_of(path):
    rows = query(path, "SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'")
    return {(kind, name, " ".join(sql.split())) for kind, name, sql in rows}


def test_the_writer_brings_it_up_to_date_and_keeps_a_copy_of_what_it_was(old):
    before = list(JournalReader(old).records())
    with Journal.open(old) as journal:
        assert list(journal.records()) == before
        journal.append([ServerStarted(epoch=2)], 700.0)
        journal.add_telemetry("a", 40.0, Telemetry(inferences=8))
    assert version(old / DATABASE) == 2
    (copy,) = copies(old)
    assert version(copy) == 1
    assert copy == copy_path(old / DATABASE, 1, before[-1].head)
    alone = old.parent / "copy"
    alone.mkdir()
    shutil.copy(copy, alone / DATABASE)
    assert list(JournalReader(alone).records()) == before
    assert len(JournalReader(alone).telemetry("a")) == 2


def test_it_has_the_schema_of_a_new_one_then(old, tmp_path):
    Journal.open(old).close()
    Journal.open(tmp_path / "new").close()
    assert schema_of(old / DATABASE) == schema_of(tmp_path / "new" / DATABASE)


def test_opening_it_again_copies_nothing(old):
    for _ in range(2):
        Journal.open(old).close()
        assert len(copies(old)) == 1


def test_telemetry_keeps_its_order_and_a_follower_its_place(old):
    heard, mark = JournalReader(old).telemetry_since(TELEMETRY_START)
    assert [one.said.inferences for one in heard] == [1, 2, 4]
    with Journal.open(old) as journal:
        journal.add_telemetry("a", 5.0, Telemetry(inferences=8))
        assert [one.said for one in JournalReader(old).telemetry_since(mark)[0]] == [
            Telemetry(inferences=8)
        ]
        assert len(JournalReader(old).telemetry_since(TELEMETRY_START)[0]) == 4


def test_readers_read_the_old_one_as_it_is_and_change_nothing(old):
    before = (old / DATABASE).read_bytes()
    feed = JournalFeed(old)
    assert feed.refresh() == len(EVENTS) + len(HEARD)
    assert feed.damage == ""
    assert feed.view.devices["a"].inferences == 5
    assert (old / DATABASE).read_bytes() == before
    assert copies(old) == []


def test_a_damaged_old_journal_is_refused_and_left_as_it_is(old):
    with contextlib.closing(sqlite3.connect(old / DATABASE)) as connection, connection:
        connection.execute("DROP TRIGGER events_are_not_changed")
        connection.execute("UPDATE events SET at = 1.5 WHERE idx = 7")
    before = (old / DATABASE).read_bytes()
    with pytest.raises(ChainError, match="record 7"):
        Journal.open(old)
    assert (old / DATABASE).read_bytes() == before
    assert copies(old) == []


def test_a_journal_may_be_several_versions_behind(old):
    """A made-up version 0 had neither the telemetry's indices nor the rule of order."""
    path = old / DATABASE
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DROP INDEX telemetry_by_age")
        connection.execute("DROP TRIGGER events_only_follow")
        connection.execute("UPDATE meta SET value = 0 WHERE key = 'schema_version'")
    follow = """CREATE TRIGGER events_only_follow BEFORE INSERT ON events
        WHEN NEW.idx IS NOT (SELECT coalesce(max(idx), -1) + 1 FROM events)
        BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END"""
    steps = {0: ("CREATE INDEX telemetry_by_age ON telemetry (received_at)", follow), **MIGRATIONS}
    head = verify([])
    copy = migrate(path, head, steps)
    assert version(path) == 2
    assert version(copy) == 0
    with Journal.open(old) as journal:
        assert [one.event for one in journal.records()] == EVENTS


def test_a_step_that_fails_leaves_the_old_version(old):
    path = old / DATABASE
    steps = {1: (*MIGRATIONS[1], "INSERT INTO nowhere VALUES (1)")}
    with pytest.raises(JournalError, match="nowhere"):
        migrate(path, verify(JournalReader(old).records()), steps)
    assert version(path) == 1
    assert query(path, "SELECT count(*) FROM telemetry") == [(len(HEARD),)]
    Journal.open(old).close()
    assert version(path) == 2


def test_without_room_nothing_is_changed_and_the_message_says_how_much_is_needed(old):
    code = (
        "import resource, sys; from pathlib import Path; from journal.store import Journal;"
        "limit = int(sys.argv[2]); resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit));"
        "Journal.open(Path(sys.argv[1]))"
    )
    found = child("-c", code, old, 40_000)
    assert found.returncode == 1
    assert "DiskFullError" in found.stderr or "JournalError" in found.stderr
    assert version(old / DATABASE) == 1
    assert list(JournalReader(old).records())[-1].event == EVENTS[-1]


def test_no_room_is_named(old, monkeypatch):
    class Full(sqlite3.OperationalError):
        sqlite_errorcode = sqlite3.SQLITE_FULL

    def full(*_):
        raise Full

    monkeypatch.setattr("journal.migration._keep_copy", full)
    with pytest.raises(DiskFullError, match="make room for twice its size"):
        Journal.open(old)
    assert version(old / DATABASE) == 1


def child(*arguments, crash_at=""):
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), CRASH_AT: crash_at},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("place", PLACES)
def test_a_kill_leaves_the_old_version_or_the_new_one_whole(old, place):
    before = list(JournalReader(old).records())
    program = "import sys; from pathlib import Path; from journal.store import Journal;"
    killed = child("-c", f"{program} Journal.open(Path(sys.argv[1]))", old, crash_at=place)
    assert killed.returncode == KILLED, killed.stderr
    # Beside a killed writer stands its log, which a reader reads too.
    assert JournalReader(old, recover=True).head() == before[-1].head
    with Journal.open(old) as journal:
        assert list(journal.records()) == before
        assert len(journal.telemetry("a")) == 2
    assert version(old / DATABASE) == 2
    assert len([path for path in copies(old) if not path.name.endswith(".new")]) == 1
    assert not [path for path in copies(old) if path.name.endswith(".new")]
    assert version(copies(old)[0]) == 1
