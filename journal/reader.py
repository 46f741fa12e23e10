"""Reading a journal beside its writer, without ever making or changing a file.

The queries here serve the writer too. A reader holds nothing open between two calls, so a slow one
never keeps the writer from tidying up its write-ahead log.
"""

import math
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from broker.messages import Telemetry
from journal.chain import Head, Record
from journal.errors import (
    ChainError,
    JournalDamagedError,
    JournalError,
    JournalMissingError,
    JournalVersionError,
)
from journal.platform import is_held

DATABASE = "journal.sqlite"
LOCK = "journal.lock"
SCHEMA_VERSION = 2
OLDEST_SCHEMA = 1
"""Journals since this version are read as they are; their writer brings them up to date."""

_BATCH = 500
_TRIES = 20
_PAUSE_S = 0.01
_BUSY_S = 5.0
_LIMIT_OF_INDEX = 1 << 62
_SMALLEST = 4096  # bytes of a page: SQLite takes less than one for an empty database
# Troubles of the moment or of the machine; all others mean that the content is damaged.
_NOT_DAMAGE = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_NOMEM,
    }
)
_T = TypeVar("_T")
_TELEMETRY = msgspec.json.Decoder(Telemetry)

TELEMETRY_BATCH = 2000
TelemetryMark = int
"""The number of the last telemetry message that was read: they are numbered as they come."""
TELEMETRY_START: TelemetryMark = 0


@dataclass(frozen=True, slots=True)
class Heard:
    """One telemetry message: who sent it and when it came, by the server's clock."""

    device: str
    at: float
    said: Telemetry


class JournalReader:
    """What happened, for everybody but the writer. Open to any number of processes."""

    def __init__(self, folder: Path, *, recover: bool = False, salvage: bool = False) -> None:
        """Remember the folder; it is looked at anew by each call.

        Args:
            folder: of the journal.
            recover: whether the index beside the write-ahead log may be made anew where it is
                missing. Only for the process that holds the lock.
            salvage: whether to read what is left of a file that was cut off, which SQLite refuses
                as a whole. For whoever has said already that it is damaged, never to go on from.
        """
        self._salvage = salvage
        self._path = folder / DATABASE
        self._recover = recover

    def records(self, start: int = 0) -> Iterator[Record]:
        """Yield the records from an index on, up to the newest when the end is reached.

        Of a damaged journal the records before the damage are yielded, then the error is raised.

        Raises:
            JournalError: missing, of another version, or damaged; the error's class says which.
        """
        size = _BATCH
        while True:
            first, limit = start, size
            try:
                batch = self._ask(lambda connection: select_records(connection, first, limit))  # noqa: B023
            except JournalDamagedError:
                if size == 1:
                    raise
                size = 1  # of the batch with the damage some may still be there
                continue
            yield from batch
            if len(batch) < size:
                return
            start = batch[-1].index + 1

    def head(self) -> Head:
        """Return the head as the writer last noted it.

        Raises:
            JournalError: missing, of another version, or damaged.
        """
        return self._ask(select_head)

    def has_writer(self) -> bool | None:
        """Tell whether a process has the journal open for writing; None where nobody can tell."""
        return is_held(self._path.parent / LOCK)

    def telemetry(self, device: str, since: float = 0.0) -> list[tuple[float, Telemetry]]:
        """Return a device's telemetry with its receive times, oldest first.

        Raises:
            JournalError: missing, of another version, or damaged.
        """
        return self._ask(lambda connection: select_telemetry(connection, device, since))

    def telemetry_since(
        self, mark: TelemetryMark, oldest: float = -math.inf
    ) -> tuple[list[Heard], TelemetryMark]:
        """Return the next telemetry of all devices, in the order in which it came.

        Args:
            mark: from an earlier call; `TELEMETRY_START` = from the oldest that is kept.
            oldest: what came before this server time is left out.

        Returns:
            At most `TELEMETRY_BATCH` messages, and the mark to ask for the next ones with.

        Raises:
            JournalError: missing, of another version, or damaged.
        """
        return self._ask(lambda connection: select_telemetry_since(connection, mark, oldest))

    def _ask(self, query: Callable[[sqlite3.Connection], _T]) -> _T:
        """Answer from one moment of the journal.

        While a write-ahead log stands beside it, SQLite coordinates reader and writer. Without
        one, even a read-only connection would make it; so the file is then read as unchanging, and
        the answer is thrown away if a writer came meanwhile.
        """
        for _ in range(_TRIES):
            before = self._look()
            at_rest = before[-1] == 0
            if not at_rest and not self._recover and not self._beside("-shm").exists():
                time.sleep(_PAUSE_S)  # the writer is about to remove the log as well
                continue
            options = "mode=ro&immutable=1" if at_rest else "mode=ro"
            failure: sqlite3.DatabaseError | JournalError
            try:
                with closing(connect(self._path, options)) as connection:
                    if self._salvage:  # then SQLite believes the file's size, not its header
                        connection.execute("PRAGMA writable_schema = ON")
                    else:
                        check_version(connection, self._path)
                    answer = query(connection)
            except (sqlite3.DatabaseError, JournalError) as error:
                failure = error
            else:
                if not at_rest or self._look() == before:
                    return answer
                continue
            if at_rest and self._look() != before:
                continue
            if isinstance(failure, JournalError):
                raise failure
            raise explain(failure, self._path) from failure
        raise JournalError(
            f"{self._path} has a log (-wal) that cannot be read without its index (-shm);"
            " copy both, or let the server open the journal once"
        )

    def _look(self) -> tuple[int, int, int, int]:
        """Return what changes whenever the file itself changes; the log's size comes last."""
        # Never open the file here: closing it would drop SQLite's locks of this whole process.
        try:
            database = self._path.stat()
        except FileNotFoundError:
            raise JournalMissingError(
                f"no journal in {self._path.parent}; check the folder, or start the server"
            ) from None
        if database.st_size == 0:
            raise JournalDamagedError(
                f"{self._path} is empty, cut off to nothing; restore it from a copy"
            )
        try:
            log = self._beside("-wal").stat().st_size
        except FileNotFoundError:
            log = 0
        return database.st_ino, database.st_mtime_ns, database.st_size, log

    def _beside(self, suffix: str) -> Path:
        return self._path.with_name(self._path.name + suffix)


def connect(path: Path, options: str) -> sqlite3.Connection:
    """Open a database with URI options, each statement on its own.

    Raises:
        sqlite3.OperationalError: it cannot be opened.
    """
    return sqlite3.connect(
        f"{path.resolve().as_uri()}?{options}", uri=True, isolation_level=None, timeout=_BUSY_S
    )


def schema_version(connection: sqlite3.Connection) -> object:
    """Return the version that a database says it has, None where it is no journal.

    Raises:
        sqlite3.DatabaseError: the file is damaged.
    """
    try:
        return _meta(connection, "schema_version")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_ERROR:
            raise
        return None  # no such table


def check_version(connection: sqlite3.Connection, path: Path) -> None:
    """Make sure that this software knows the schema.

    Raises:
        JournalVersionError: it does not, or this is no journal at all.
        sqlite3.DatabaseError: the file is damaged.
    """
    version = schema_version(connection)
    if version in range(OLDEST_SCHEMA, SCHEMA_VERSION + 1):
        return
    if version is None and path.stat().st_size < _SMALLEST:
        raise JournalDamagedError(
            f"{path} is cut off to {path.stat().st_size} bytes; restore it from a copy"
        )
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise JournalVersionError(
            f"{path} has schema {version}, this software knows up to {SCHEMA_VERSION};"
            " install the newer slimfleet that wrote it"
        )
    raise JournalVersionError(
        f"{path} is no journal of a known schema (found {version!r}); choose another folder"
    )


def select_hashes(connection: sqlite3.Connection, first: int, end: int) -> list[bytes]:
    """Return the hashes of a range of records, the last excluded.

    Raises:
        sqlite3.DatabaseError: the file is damaged.
    """
    rows = connection.execute(
        "SELECT hash FROM events WHERE idx >= ? AND idx < ? ORDER BY idx", (first, end)
    )
    return [row[0] for row in rows]


def select_records(connection: sqlite3.Connection, start: int, limit: int = _BATCH) -> list[Record]:
    """Return the next batch of records; a short one is the last.

    Raises:
        ChainError: a row does not even look like a record.
        sqlite3.DatabaseError: the file is damaged.
    """
    rows = connection.execute(
        "SELECT idx, at, payload, previous, hash FROM events WHERE idx >= ? ORDER BY idx LIMIT ?",
        (min(start, _LIMIT_OF_INDEX), limit),
    )
    return [_record(*row) for row in rows]


def select_all_records(connection: sqlite3.Connection, start: int) -> Iterator[Record]:
    """Yield the records from an index on, in batches, holding no transaction between them.

    Raises:
        ChainError: a row does not even look like a record.
        sqlite3.DatabaseError: the file is damaged.
    """
    while batch := select_records(connection, start):
        yield from batch
        start = batch[-1].index + 1


def select_head(connection: sqlite3.Connection) -> Head:
    """Return the head that was noted with the last append.

    Raises:
        JournalDamagedError: it is not there.
        sqlite3.DatabaseError: the file is damaged.
    """
    index, hashed = _meta(connection, "head_index"), _meta(connection, "head_hash")
    if not isinstance(index, int) or not isinstance(hashed, bytes):
        raise JournalDamagedError("the journal does not say where it ends; restore it from a copy")
    return Head(index, hashed)


def select_telemetry(
    connection: sqlite3.Connection, device: str, since: float
) -> list[tuple[float, Telemetry]]:
    """Return a device's telemetry with its receive times, oldest first.

    Raises:
        JournalDamagedError: a row cannot be read.
        sqlite3.DatabaseError: the file is damaged.
    """
    rows = connection.execute(
        "SELECT received_at, payload FROM telemetry WHERE device = ? AND received_at >= ?"
        " ORDER BY received_at, rowid",
        (device, since),
    )
    try:
        return [(at, _TELEMETRY.decode(payload)) for at, payload in rows]
    except (msgspec.DecodeError, TypeError) as error:
        raise JournalDamagedError(f"telemetry of {device} cannot be read: {error}") from error


def select_telemetry_since(
    connection: sqlite3.Connection, mark: TelemetryMark, oldest: float
) -> tuple[list[Heard], TelemetryMark]:
    """Return the telemetry of all devices after a mark, and the mark behind it.

    Raises:
        JournalDamagedError: a row cannot be read.
        sqlite3.DatabaseError: the file is damaged.
    """
    # A number is the rowid, which a journal of schema 1 has too. The plus keeps SQLite from
    # sorting by the index over times.
    rows = connection.execute(
        "SELECT device, received_at, payload, rowid FROM telemetry"
        " WHERE rowid > ? AND +received_at >= ? ORDER BY rowid LIMIT ?",
        (mark, max(oldest, -1e18), TELEMETRY_BATCH),
    ).fetchall()
    heard = []
    for device, at, payload, _ in rows:
        try:
            heard.append(Heard(device, at, _TELEMETRY.decode(payload)))
        except (msgspec.DecodeError, TypeError) as error:
            raise JournalDamagedError(f"telemetry of {device} cannot be read: {error}") from error
    return heard, rows[-1][3] if rows else mark


def explain(error: sqlite3.Error, path: Path) -> JournalError:
    """Put an error of the database into our words."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
    if code & 0xFF in _NOT_DAMAGE:
        return JournalError(f"{path}: {error}; check disk, permissions and other users of the file")
    return JournalDamagedError(
        f"{path} is damaged or cut off ({error}); nothing was changed, restore it from a copy"
    )


def _meta(connection: sqlite3.Connection, key: str) -> object:
    row = connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return row[0] if row else None


def _record(index: int, at: Any, payload: Any, previous: Any, hashed: Any) -> Record:
    # SQLite stores any type anywhere; a forged row must be a broken link, not a TypeError.
    blobs = all(isinstance(one, bytes) for one in (payload, previous, hashed))
    if not isinstance(at, float) or not blobs:
        raise ChainError(index, "is no record")
    return Record(index, at, payload, previous, hashed)
