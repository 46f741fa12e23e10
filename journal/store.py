"""The journal on disk: one writer, append-only, chained, in SQLite.

A transaction is acknowledged when `Journal.append` returns: it is then on the medium. One that a
kill interrupts leaves nothing behind. What is there already is never changed, not by this software
(triggers refuse it) and not by opening a damaged file.
"""

import contextlib
import logging
import math
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import msgspec

from broker.messages import Telemetry
from journal import platform
from journal.chain import EMPTY, Head, Record, extend, verify
from journal.crashpoints import crashpoint, register
from journal.disk import make_folder
from journal.errors import (
    ChainError,
    DiskFullError,
    EventError,
    JournalClosedError,
    JournalDamagedError,
    JournalError,
    JournalLockedError,
)
from journal.events import AnyEvent
from journal.migration import NUMBERED_TELEMETRY, TELEMETRY_INDICES, migrate
from journal.reader import (
    DATABASE,
    LOCK,
    SCHEMA_VERSION,
    JournalReader,
    connect,
    explain,
    select_all_records,
    select_hashes,
    select_telemetry,
)

log = logging.getLogger(__name__)

register("journal-created", "an empty journal stands under a temporary name")
register("journal-named", "the empty journal has its name, the folder is not flushed")
register("journal-events-written", "events are written, the head is not noted")
register("journal-before-commit", "events and head are written, their transaction is open")
register("journal-after-commit", "events are on the medium, nobody has been told")

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
CREATE TABLE events (
    idx INTEGER PRIMARY KEY,
    at REAL NOT NULL,
    payload BLOB NOT NULL,
    previous BLOB NOT NULL,
    hash BLOB NOT NULL
);
CREATE TRIGGER events_are_not_changed BEFORE UPDATE ON events
    BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
CREATE TRIGGER events_are_not_deleted BEFORE DELETE ON events
    BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
-- REPLACE deletes without asking the trigger above.
CREATE TRIGGER events_only_follow BEFORE INSERT ON events
    WHEN NEW.idx IS NOT (SELECT coalesce(max(idx), -1) + 1 FROM events)
    BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
"""


class Journal:
    """The one writer of a journal; to be used from one thread.

    Open it with `Journal.open`.
    """

    def __init__(
        self, path: Path, lock: platform.FileLock, connection: sqlite3.Connection, head: Head
    ) -> None:
        """Take over what `open` has opened."""
        self._path = path
        self._lock = lock
        self._connection: sqlite3.Connection | None = connection
        self._trouble = ""
        self._head = head
        self._waiting: list[Record] = []

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open the journal of a folder, check its whole chain, and keep others from writing.

        A missing journal is made. A damaged one is left exactly as it is. One of an older version
        is copied and brought up to date, see `journal.migration`.

        Raises:
            JournalLockedError: somebody else writes it; the message says who.
            JournalVersionError: written by other software.
            ChainError: a record is broken; the error says which.
            JournalDamagedError: the file is damaged or cut off.
            DiskFullError: no room to make it.
            JournalError: the folder cannot be used.
        """
        path = folder / DATABASE
        try:
            make_folder(folder)
            lock = platform.FileLock(folder / LOCK)
        except platform.HeldError as error:
            raise JournalLockedError(
                f"journal {folder} is being written by {error.holder}; stop that process first,"
                " or use another folder"
            ) from error
        except OSError as error:
            raise JournalError(
                f"journal folder {folder} cannot be used ({error.strerror}); check the path and its"
                " permissions"
            ) from error
        try:
            if not path.exists():
                _create(path)
            head = _verify_all(folder)
            copy = migrate(path, head)
            if copy is not None:
                log.warning(
                    "%s is of the newest version now; as it was, it stands in %s", path, copy
                )
            return cls(path, lock, _connect(path), head)
        except BaseException:
            lock.release()
            raise

    @property
    def head(self) -> Head:
        """The last written record's index (-1 where there is none) and hash."""
        return self._head

    def append(self, events: Sequence[AnyEvent], at: float) -> list[Record]:
        """Write events, all or none, and return once they are on the medium.

        What `later` was given before is written with them.

        Args:
            events: in their order.
            at: the server's clock when they happened.

        Raises:
            EventError: an event cannot be recorded; nothing was written.
            DiskFullError: no room; nothing was written, trying again is safe.
            JournalClosedError: closed, or unsure since an earlier error; open it again.
            JournalError: it could not be written.
        """
        records = extend(self._tip, events, at)
        if records:
            self._write([*self._waiting, *records])
        return records

    def later(self, events: Sequence[AnyEvent], at: float) -> None:
        """Record events that nothing is said or done about, without waiting for the medium.

        They are written with the next `append`, or by `flush`; a kill before that loses them.

        Args:
            events: in their order.
            at: the server's clock when they happened.

        Raises:
            EventError: an event cannot be recorded.
            JournalClosedError: closed, or unsure since an earlier error; open it again.
        """
        self._usable()
        self._waiting += extend(self._tip, events, at)

    def flush(self) -> None:
        """Write what `later` was given.

        Raises:
            DiskFullError: no room; nothing was written, trying again is safe.
            JournalClosedError: closed, or unsure since an earlier error; open it again.
            JournalError: it could not be written.
        """
        if self._waiting:
            self._write(self._waiting)

    @property
    def _tip(self) -> Head:
        return self._waiting[-1].head if self._waiting else self._head

    def _write(self, records: Sequence[Record]) -> None:
        with self._transaction() as connection:
            connection.executemany(
                "INSERT INTO events (idx, at, payload, previous, hash) VALUES (?, ?, ?, ?, ?)",
                [(one.index, one.at, one.payload, one.previous, one.hash) for one in records],
            )
            crashpoint("journal-events-written")
            connection.executemany("UPDATE meta SET value = ? WHERE key = ?", _noted(records[-1]))
            crashpoint("journal-before-commit")
        crashpoint("journal-after-commit")
        self._head = records[-1].head
        self._waiting = []

    def records(self, start: int = 0) -> Iterator[Record]:
        """Yield the records from an index on.

        Raises:
            JournalError: it cannot be read.
        """
        connection = self._usable()
        try:
            yield from select_all_records(connection, start)
        except sqlite3.Error as error:
            raise explain(error, self._path) from error

    def hashes(self, first: int, end: int) -> list[bytes]:
        """Return the hashes of a range of written records, the last excluded.

        Raises:
            JournalDamagedError: some are gone.
            JournalError: they cannot be read.
        """
        try:
            found = select_hashes(self._usable(), first, end)
        except sqlite3.Error as error:
            raise explain(error, self._path) from error
        if len(found) != end - first:
            raise JournalDamagedError(
                f"{self._path} holds {len(found)} of the records {first} to {end - 1}; it was"
                " changed beside the server: restore it from a copy"
            )
        return found

    def add_telemetry(self, device: str, received_at: float, telemetry: Telemetry) -> None:
        """Keep one telemetry message. It is not chained.

        Raises:
            EventError: a figure in it is not finite, and would not come back as it is.
            DiskFullError: no room; nothing was written.
            JournalError: it could not be written.
        """
        if not all(map(math.isfinite, (telemetry.latency_p50_s, telemetry.latency_p95_s))):
            raise EventError(f"telemetry of {device}: a latency is not finite")
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO telemetry (device, received_at, payload) VALUES (?, ?, ?)",
                (device, received_at, msgspec.json.encode(telemetry)),
            )

    def telemetry(self, device: str, since: float = 0.0) -> list[tuple[float, Telemetry]]:
        """Return a device's telemetry with its receive times, oldest first.

        Raises:
            JournalError: it cannot be read.
        """
        try:
            return select_telemetry(self._usable(), device, since)
        except sqlite3.Error as error:
            raise explain(error, self._path) from error

    def prune_telemetry(self, before: float) -> int:
        """Forget telemetry received before a time and return how many messages that were.

        Raises:
            JournalError: it could not be written.
        """
        with self._transaction() as connection:
            return connection.execute(
                "DELETE FROM telemetry WHERE received_at < ?", (before,)
            ).rowcount

    def close(self) -> None:
        """Fold the log into the file and let others write. Doing so twice is harmless."""
        if self._connection is not None:
            with contextlib.suppress(JournalError):  # nobody has acted on what waits
                self.flush()
            # What cannot be folded in now stays in the log, where the next opening finds it.
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self._connection.close()
            self._connection = None
        self._lock.release()

    def __enter__(self) -> Self:
        """Return the journal, which is open."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def _usable(self) -> sqlite3.Connection:
        if self._connection is None or self._trouble:
            raise JournalClosedError(
                f"{self._path} is closed{self._trouble and ' to writing: ' + self._trouble};"
                " open it again"
            )
        return self._connection

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        connection = self._usable()
        try:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")
        except BaseException as error:
            with contextlib.suppress(sqlite3.Error):
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise self._failure(error) from error
            raise

    def _failure(self, error: sqlite3.Error) -> JournalError:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            return _disk_full(self._path)
        if code != sqlite3.SQLITE_BUSY:
            # After a failed flush nobody knows what the medium holds; only reading it again tells.
            self._trouble = str(error)
        return explain(error, self._path)


def _verify_all(folder: Path) -> Head:
    # Through a read-only connection: closing a writing one would fold the log into a damaged file.
    reader = JournalReader(folder, recover=True)
    noted = reader.head()
    head = verify(reader.records(), noted)
    if head != noted:
        raise ChainError(noted.index + 1, "was added past the noted end")
    return head


def _connect(path: Path) -> sqlite3.Connection:
    try:
        connection = connect(path, "mode=rw")
        try:
            _set_up(connection)
        except BaseException:
            connection.close()
            raise
    except sqlite3.Error as error:
        raise explain(error, path) from error
    return connection


def _set_up(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {'FULL' if platform.flushes() else 'OFF'}")
    # Only macOS knows the difference: its fsync stops at the drive's cache.
    connection.execute("PRAGMA fullfsync = ON")
    connection.execute("PRAGMA checkpoint_fullfsync = ON")


def _create(path: Path) -> None:
    """Make an empty journal under a temporary name first: an empty *file* is always damage."""
    log = path.with_name(path.name + "-wal")
    if log.exists() and log.stat().st_size:
        raise JournalDamagedError(f"{path} is missing beside its log {log.name}; restore it")
    fresh = path.with_name(path.name + ".new")
    for suffix in ("", "-wal", "-shm"):
        fresh.with_name(fresh.name + suffix).unlink(missing_ok=True)
    try:
        with contextlib.closing(connect(fresh, "mode=rwc")) as connection:
            _set_up(connection)
            telemetry = ";".join((NUMBERED_TELEMETRY, *TELEMETRY_INDICES))
            connection.executescript(f"BEGIN; {_SCHEMA} {telemetry}")
            connection.executemany(
                "INSERT INTO meta (key, value) VALUES (?, ?)",
                [
                    ("schema_version", SCHEMA_VERSION),
                    ("head_index", EMPTY.index),
                    ("head_hash", EMPTY.hash),
                ],
            )
            connection.execute("COMMIT")
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
            raise _disk_full(path) from error
        raise explain(error, path) from error
    crashpoint("journal-created")
    fresh.replace(path)
    crashpoint("journal-named")
    platform.flush_folder(path.parent)


def _noted(record: Record) -> list[tuple[int | bytes, str]]:
    return [(record.index, "head_index"), (record.hash, "head_hash")]


def _disk_full(path: Path) -> DiskFullError:
    return DiskFullError(
        platform.NO_SPACE, "no room to append, nothing was written; make room", str(path)
    )
