"""Bring the database of an older version up to date: a copy first, then one transaction.

Events are never touched: their bytes and hashes are what devices and auditors have seen. A kill at
any moment leaves either the old schema or the new one, whole, and the copy once it has its name.

To change the schema: raise `journal.reader.SCHEMA_VERSION`, add the steps here under the version
that they start from, and change what `journal.store` makes anew.
"""

import contextlib
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path

from journal import platform
from journal.chain import Head
from journal.crashpoints import crashpoint, register
from journal.errors import DiskFullError, JournalError
from journal.reader import SCHEMA_VERSION, connect, explain, schema_version

register("migration-copy-written", "the copy of the old journal is whole, under a temporary name")
register("migration-copy-named", "the copy has its name, the folder is not flushed")
register("migration-step-done", "one step is made, its transaction is open")
register("migration-before-commit", "all steps are made, their transaction is open")
register("migration-after-commit", "the journal has the new schema")

# Telemetry is read in the order in which it came. Its rows had no number of their own that lasts,
# and their times are no order where the server's clock was put back.
NUMBERED_TELEMETRY = """CREATE TABLE telemetry (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    device TEXT NOT NULL,
    received_at REAL NOT NULL,
    payload BLOB NOT NULL
)"""
TELEMETRY_INDICES = (
    "CREATE INDEX telemetry_of_device ON telemetry (device, received_at)",
    "CREATE INDEX telemetry_by_age ON telemetry (received_at)",
)
Steps = Mapping[int, Sequence[str]]
MIGRATIONS: Steps = {
    1: (
        "ALTER TABLE telemetry RENAME TO telemetry_before",
        NUMBERED_TELEMETRY,
        (
            "INSERT INTO telemetry (number, device, received_at, payload)"
            " SELECT rowid, device, received_at, payload FROM telemetry_before ORDER BY rowid"
        ),
        "DROP TABLE telemetry_before",
        *TELEMETRY_INDICES,
    ),
}
"""Schema version -> statements that make the next one of it."""


def copy_path(path: Path, version: int, head: Head) -> Path:
    """Return where the copy of a journal of an older schema is kept: beside it."""
    name = f"{path.stem}.schema-{version}.{head.count}-records-{head.hash.hex()[:8]}{path.suffix}"
    return path.with_name(name)


def migrate(
    path: Path, head: Head, steps: Steps = MIGRATIONS, newest: int = SCHEMA_VERSION
) -> Path | None:
    """Bring a checked journal to the newest schema, and return where the old one was copied to.

    Only for the process that holds the lock. A journal that is up to date is left as it is.

    Args:
        path: of the database.
        head: of its chain, which was verified.
        steps: version -> statements that make the next one.
        newest: the version to reach.

    Returns:
        The copy's path, None where there was nothing to do.

    Raises:
        DiskFullError: no room for the copy or for the steps; the journal is as it was.
        JournalError: it could not be done; the journal is as it was.
    """
    try:
        with contextlib.closing(connect(path, "mode=rw")) as connection:
            found = schema_version(connection)
            if found == newest:
                return None
            assert isinstance(found, int)
            copy = _keep_copy(connection, copy_path(path, found, head))
            _apply(connection, [steps[version] for version in range(found, newest)], newest)
            return copy
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
            raise _no_room(path) from error
        raise explain(error, path) from error
    except OSError as error:
        if platform.no_room(error):
            raise _no_room(path) from error
        raise JournalError(
            f"{path} is of an older version and could not be copied ({error.strerror}); nothing was"
            " changed, check the folder's permissions"
        ) from error


def _keep_copy(connection: sqlite3.Connection, target: Path) -> Path:
    """Copy the database to a file of its own that is whole as soon as it has its name."""
    fresh = target.with_name(f"{target.name}.new")
    fresh.unlink(missing_ok=True)
    with contextlib.closing(connect(fresh, "mode=rwc")) as copy:
        _flush_commits(copy)
        connection.backup(copy)
        copy.execute("PRAGMA journal_mode = DELETE")  # one file, without a log beside it
    crashpoint("migration-copy-written")
    fresh.replace(target)
    crashpoint("migration-copy-named")
    platform.flush_folder(target.parent)
    return target


def _apply(connection: sqlite3.Connection, steps: Sequence[Sequence[str]], newest: int) -> None:
    _flush_commits(connection)
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statements in steps:
            for statement in statements:
                connection.execute(statement)
            crashpoint("migration-step-done")
        connection.execute("UPDATE meta SET value = ? WHERE key = 'schema_version'", (newest,))
        crashpoint("migration-before-commit")
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        raise
    crashpoint("migration-after-commit")


def _flush_commits(connection: sqlite3.Connection) -> None:
    connection.execute(f"PRAGMA synchronous = {'FULL' if platform.flushes() else 'OFF'}")
    connection.execute("PRAGMA fullfsync = ON")


def _no_room(path: Path) -> DiskFullError:
    return DiskFullError(
        platform.NO_SPACE,
        "no room to bring the journal of an older version up to date, it is as it was; make room"
        " for twice its size",
        str(path),
    )
