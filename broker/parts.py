"""Keeps the blocks of unfinished fetches on disk, so that a restart goes on where it was.

Each block has a file that begins with the SHA-256 of the rest. A file that a power cut left torn or
empty is so recognised and fetched again, and nothing has to be flushed block by block.
"""

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path

DIGEST_SIZE = 32


class PartFolder:
    """The intact blocks of every unfinished fetch, by the name of the fetch."""

    def __init__(self, folder: Path) -> None:
        """Keep blocks below ``folder``; it is made when the first one is saved."""
        self._folder = folder

    def load(self, name: str) -> dict[int, bytes]:
        """Return the intact blocks of one fetch; one that cannot be read is not intact."""
        blocks: dict[int, bytes] = {}
        for path in sorted((self._folder / name).glob("*.part")):
            try:
                content = path.read_bytes()
            except OSError:
                continue
            payload = content[DIGEST_SIZE:]
            digest = hashlib.sha256(payload).digest()
            if path.stem.isdecimal() and content[:DIGEST_SIZE] == digest:
                blocks[int(path.stem)] = payload
        return blocks

    def save(self, name: str, blocks: Mapping[int, bytes]) -> None:
        """Keep blocks of one fetch.

        Raises:
            OSError: the disk is full or the folder cannot be written.
        """
        folder = self._folder / name
        folder.mkdir(parents=True, exist_ok=True)
        for index, payload in blocks.items():
            temporary = folder / f"{index}.tmp"
            temporary.write_bytes(hashlib.sha256(payload).digest() + payload)
            temporary.replace(folder / f"{index}.part")

    def discard(self, name: str) -> None:
        """Remove the blocks of one fetch."""
        shutil.rmtree(self._folder / name, ignore_errors=True)

    def names(self) -> list[str]:
        """Return the names of the fetches of which something is kept."""
        return sorted(entry.name for entry in self._folder.glob("*"))
