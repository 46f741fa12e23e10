"""Weights, updates and ONNX files, each under the SHA-256 of its content."""

import hashlib
import mmap
import os
import re
from collections.abc import Collection
from pathlib import Path

from journal import platform
from journal.disk import (
    make_folder,
    register_file,
    remove_leftovers,
    write_atomically,
)
from journal.errors import BlobMissingError, DamagedFileError
from journal.reading import check_file, read_checked

_DIGEST = re.compile(r"[0-9a-f]{64}")

register_file("blob", "a blob")


class BlobFolder:
    """A folder of immutable files named by their digest.

    When `put` returns, the blob survives a power failure: an event may name it from then on.
    """

    def __init__(self, folder: Path, *, owner: bool = True) -> None:
        """Open the folder, making it where it is missing.

        Args:
            folder: only this class writes there.
            owner: True in the one process that owns the folder: it clears away the temporary files
                of a killed process. A worker that reads or adds beside the owner passes False.

        Raises:
            OSError: the folder cannot be made or read.
        """
        self.folder = make_folder(folder)
        self.leftovers = remove_leftovers(folder) if owner else []

    def put(self, data: bytes) -> str:
        """Keep the bytes and return their digest. Keeping the same bytes again costs one read.

        Raises:
            DiskFullError: no room; nothing was changed.
            OSError: any other failure, with the same promise.
        """
        digest = hashlib.sha256(data).hexdigest()
        try:
            self.get(digest)
        except (BlobMissingError, DamagedFileError):
            write_atomically(self.folder / digest, data, kind="blob")
        else:
            # A process killed between rename and flush left a name that is not durable yet.
            platform.flush_folder(self.folder)
        return digest

    def get(self, digest: str) -> bytes:
        """Return the bytes of a blob, checked against its digest.

        Raises:
            BlobMissingError: not in the folder, or the text is no digest.
            DamagedFileError: the file has changed on the disk.
        """
        if not _DIGEST.fullmatch(digest):
            raise BlobMissingError(f"{digest[:80]!r} is no SHA-256 digest; blobs are named by one")
        try:
            return read_checked(self.folder / digest, digest)
        except FileNotFoundError:
            raise BlobMissingError(
                f"blob {digest[:12]} is not in {self.folder}; fetch or build it again"
            ) from None

    def mapped(self, digest: str) -> memoryview:
        """Return the bytes of a blob, checked, without holding them in memory.

        Raises:
            BlobMissingError: not in the folder, or the text is no digest.
            DamagedFileError: the file has changed on the disk.
        """
        if not self.has(digest):
            raise BlobMissingError(
                f"blob {digest[:80]!r} is not in {self.folder}; fetch or build it again"
            )
        check_file(self.folder / digest, digest)
        with (self.folder / digest).open("rb") as file:
            if not os.fstat(file.fileno()).st_size:
                return memoryview(b"")
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    def size_of(self, digest: str) -> int:
        """Return the bytes of a blob, unread; 0 where it is not there."""
        return (self.folder / digest).stat().st_size if self.has(digest) else 0

    def has(self, digest: str) -> bool:
        """Tell whether a blob is there (its content is checked by `get` only)."""
        return bool(_DIGEST.fullmatch(digest)) and (self.folder / digest).is_file()

    def delete(self, digest: str) -> bool:
        """Remove a blob and tell whether it was there.

        Raises:
            OSError: it cannot be removed.
        """
        if not self.has(digest):
            return False
        (self.folder / digest).unlink(missing_ok=True)
        return True

    def collect(self, keep: Collection[str]) -> tuple[str, ...]:
        """Remove all blobs but these and return the digests of the removed ones.

        Raises:
            OSError: one cannot be removed.
        """
        removed = tuple(digest for digest in self.digests() if digest not in keep)
        for digest in removed:
            self.delete(digest)
        return removed

    def digests(self) -> tuple[str, ...]:
        """Return what is in the folder, sorted. Files of other names are none of our business."""
        return tuple(
            sorted(path.name for path in self.folder.iterdir() if _DIGEST.fullmatch(path.name))
        )

    def size(self) -> int:
        """Return the bytes of all blobs together."""
        return sum((self.folder / digest).stat().st_size for digest in self.digests())
