"""The inputs that all devices score, fetched once and kept on the disk. No torch.

One file, named by the digest of its bytes: whoever has it need not fetch it again, and one that was
damaged is not taken for it. Those of another campaign are removed.
"""

from pathlib import Path

from journal.disk import make_folder, remove_leftovers, write_atomically
from slimmable.state import digest

SUFFIX = ".safetensors"


class PublicInputs:
    """What a folder holds of them."""

    def __init__(self, folder: Path) -> None:
        """Name the place; nothing is read or written yet."""
        self._folder = folder

    def find(self, name: str) -> Path | None:
        """Return the file whose bytes have this SHA-256 in hex; None where it is not here."""
        path = self._folder / f"{name}{SUFFIX}"
        try:
            return path if digest(path.read_bytes()) == name else None
        except OSError:  # not there, or the disk fails: it can be fetched again
            return None

    def keep(self, data: bytes) -> Path:
        """Keep inputs in place of any others, and return their file.

        Raises:
            OSError: the disk is full or fails.
        """
        path = make_folder(self._folder) / f"{digest(data)}{SUFFIX}"
        remove_leftovers(self._folder)
        for other in self._folder.glob(f"*{SUFFIX}"):
            if other != path:
                other.unlink()
        write_atomically(path, data)
        return path
