"""Journals as earlier versions made them; their schema stands here as it was and never changes."""

import contextlib
import sqlite3
from collections.abc import Iterable
from pathlib import Path

import msgspec

from broker.messages import Telemetry
from journal.chain import EMPTY, extend
from journal.events import AnyEvent
from journal.reader import DATABASE

SCHEMA_1 = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
CREATE TABLE events (
    idx INTEGER PRIMARY KEY,
    at REAL NOT NULL,
    payload BLOB NOT NULL,
    previous BLOB NOT NULL,
    hash BLOB NOT NULL
);
CREATE TABLE telemetry (device TEXT NOT NULL, received_at REAL NOT NULL, payload BLOB NOT NULL);
CREATE INDEX telemetry_of_device ON telemetry (device, received_at);
CREATE INDEX telemetry_by_age ON telemetry (received_at);
CREATE TRIGGER events_are_not_changed BEFORE UPDATE ON events
    BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
CREATE TRIGGER events_are_not_deleted BEFORE DELETE ON events
    BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
CREATE TRIGGER events_only_follow BEFORE INSERT ON events
    WHEN NEW.idx IS NOT (SELECT coalesce(max(idx), -1) + 1 FROM events)
    BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
"""


def make_schema_1(
    folder: Path,
    events: Iterable[AnyEvent],
    telemetry: Iterable[tuple[str, float, Telemetry]] = (),
) -> None:
    """Write a journal of schema 1; event number n happened at n seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    head = EMPTY
    with contextlib.closing(sqlite3.connect(folder / DATABASE, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.executescript(f"BEGIN; {SCHEMA_1}")
        for at, event in enumerate(events):
            (record,) = extend(head, [event], float(at))
            head = record.head
            db.execute(
                "INSERT INTO events VALUES (?, ?, ?, ?, ?)",
                (record.index, record.at, record.payload, record.previous, record.hash),
            )
        db.executemany(
            "INSERT INTO telemetry VALUES (?, ?, ?)",
            [(name, at, msgspec.json.encode(said)) for name, at, said in telemetry],
        )
        db.executemany(
            "INSERT INTO meta VALUES (?, ?)",
            [("schema_version", 1), ("head_index", head.index), ("head_hash", head.hash)],
        )
        db.execute("COMMIT")
