"""Trained updates on a device's disk, until the server's receipt for each.

One file an update, named ``<number>.update``: the length and SHA-256 of the `Update` message, the
message, the blob. One file, so that an update is kept whole or not at all; the message has a
checksum of its own and names the digest of the blob. The newer of two updates for one round takes
the place of the older. At most `KEPT` are held: a server that has not taken an update after so many
more has closed its round long ago.
"""

import contextlib
import hashlib
import logging
import struct
import threading
from dataclasses import dataclass
from pathlib import Path

import msgspec

from broker.decoding import decode_struct
from broker.errors import BlobError, DecodeError
from broker.messages import Update
from journal.crashpoints import crashpoint, register
from journal.disk import make_folder, register_file, remove_leftovers, write_atomically

logger = logging.getLogger(__name__)

KEPT = 4
DAMAGED = ".damaged"

_HEADER = struct.Struct(">4sI32s")  # magic, length of the message, SHA-256 of the message
_MAGIC = b"SFO1"

register_file("outbox-file", "an update in the outbox")
register("outbox-put-kept", "the new update is kept, those whose place it takes are still there")
register("outbox-put-half", "one of the updates whose place was taken is deleted")
register("outbox-settle-begun", "the receipt has arrived, its update is still there")
register("outbox-settle-deleted", "the update is deleted, which is never flushed")


@dataclass(frozen=True)
class _Entry:
    number: int
    path: Path
    update: Update


class Outbox:
    """The updates that wait for a receipt. Methods may be called from any thread."""

    def __init__(self, folder: Path, *, kept: int = KEPT) -> None:
        """Open the outbox, making it where it is missing; damaged entries are set aside.

        Args:
            folder: only one process may open it.
            kept: how many updates it holds at most.

        Raises:
            OSError: the folder cannot be made or read.
        """
        self._folder = make_folder(folder)
        self._kept = kept
        self._lock = threading.Lock()
        remove_leftovers(folder)
        self._entries: list[_Entry] = []
        for path in sorted(folder.glob("*.update")):
            entry = self._open(path)
            if entry is not None:
                self._entries.append(entry)
        self._drop_superseded()

    def put(self, update: Update, data: bytes) -> None:
        """Keep an update until its receipt; what it supersedes is dropped.

        When this returns the update survives a power failure.

        Raises:
            BlobError: ``data`` is not what the update names.
            DiskFullError: no room; what was kept before is kept still.
            OSError: any other failure, with the same promise.
        """
        found = hashlib.sha256(data).hexdigest()
        if found != update.blob.blob:
            raise BlobError(
                f"update of round {update.round} names blob {update.blob.blob[:12]}, its bytes are"
                f" {found[:12]}; encode it again"
            )
        message = msgspec.msgpack.encode(update)
        header = _HEADER.pack(_MAGIC, len(message), hashlib.sha256(message).digest())
        with self._lock:
            number = 1 + max((entry.number for entry in self._entries), default=0)
            path = self._folder / f"{number:010d}.update"
            write_atomically(path, header + message + data, kind="outbox-file")
            self._entries.append(_Entry(number, path, update))
            crashpoint("outbox-put-kept")
            self._drop_superseded()

    def pending(self) -> list[Update]:
        """Return the updates that wait, in the order in which they were put."""
        with self._lock:
            return [entry.update for entry in self._entries]

    def data(self, blob: str) -> bytes:
        """Return the bytes of a waiting update's blob.

        Raises:
            BlobError: no such update waits, or its file is damaged; it is then set aside.
        """
        with self._lock:
            entry = next((one for one in self._entries if one.update.blob.blob == blob), None)
            if entry is None:
                raise BlobError(f"no update with blob {blob[:12]} waits; train the round again")
            try:
                return _read(entry.path)[1]
            except (DecodeError, OSError) as error:
                self._entries.remove(entry)
                _set_aside(entry.path, error)
                raise BlobError(
                    f"update of round {entry.update.round} is damaged on the disk;"
                    " train the round again"
                ) from error

    def settle(self, round_number: int, blob: str) -> bool:
        """Drop the update that a receipt names, and tell whether it was waiting.

        A receipt for another blob of the same round settles nothing.
        """
        with self._lock:
            for entry in self._entries:
                if (entry.update.round, entry.update.blob.blob) == (round_number, blob):
                    crashpoint("outbox-settle-begun")
                    entry.path.unlink(missing_ok=True)
                    # A power failure may bring the file back: a repeat is answered again.
                    crashpoint("outbox-settle-deleted")
                    self._entries.remove(entry)
                    return True
        return False

    def __len__(self) -> int:
        """Return how many updates wait."""
        with self._lock:
            return len(self._entries)

    def _open(self, path: Path) -> _Entry | None:
        try:
            return _Entry(int(path.stem), path, _read(path)[0])
        except (DecodeError, OSError, ValueError) as error:
            _set_aside(path, error)
            return None

    def _drop_superseded(self) -> None:
        newest = {entry.update.round: entry for entry in self._entries}
        keep = sorted(newest.values(), key=lambda entry: entry.number)[-self._kept :]
        for entry in [one for one in self._entries if one not in keep]:
            entry.path.unlink(missing_ok=True)
            crashpoint("outbox-put-half")
        self._entries = keep


def _read(path: Path) -> tuple[Update, bytes]:
    content = path.read_bytes()
    if len(content) < _HEADER.size:
        raise DecodeError(f"{len(content)} bytes are no update")
    magic, length, checksum = _HEADER.unpack_from(content)
    message = content[_HEADER.size : _HEADER.size + length]
    data = content[_HEADER.size + length :]
    if magic != _MAGIC or hashlib.sha256(message).digest() != checksum:
        raise DecodeError("header and message differ")
    update = decode_struct(message, Update)
    if hashlib.sha256(data).hexdigest() != update.blob.blob:
        raise DecodeError(f"blob is not the {update.blob.blob[:12]} that its message names")
    return update, data


def _set_aside(path: Path, error: Exception) -> None:
    aside = path.with_name(f"last{DAMAGED}")  # one for a look at it; more would fill the disk
    with contextlib.suppress(OSError):
        path.replace(aside)
    logger.warning("damaged update %s set aside as %s: %s", path, aside.name, error)
