"""What was measured before, on the disk: sealed, checked when read, and never needed."""

import contextlib
import logging
from pathlib import Path
from typing import TypeVar

import msgspec

from journal.disk import make_folder, write_atomically
from journal.errors import DamagedFileError
from journal.reading import digest_of, unseal

log = logging.getLogger(__name__)

T = TypeVar("T")
SUFFIX = ".profile.json"
KEPT = 16  # files; a device has few models, and the oldest are of software that is gone


class ProfileCache:
    """Answers by key, a file each. A damaged one counts as none, a full disk is no failure."""

    def __init__(self, folder: Path) -> None:
        """Use a folder, which is created when the first answer is kept."""
        self._folder = folder

    def read(self, key: str, answer: type[T]) -> T | None:
        """Return what was kept under ``key``; None where there is nothing that can be trusted."""
        path = self._path(key)
        try:
            return msgspec.json.decode(unseal(path), type=answer)
        except FileNotFoundError:
            return None
        except (OSError, DamagedFileError, msgspec.DecodeError, UnicodeDecodeError) as error:
            log.warning("%s cannot be used (%s): the machine is measured anew", path, error)
            return None

    def keep(self, key: str, answer: object) -> None:
        """Keep an answer; where that cannot be, the next start measures again."""
        data = msgspec.json.encode(answer)
        path = self._path(key)
        try:
            make_folder(self._folder)
            write_atomically(path, digest_of(data).encode() + b"\n" + data)
            self._prune(path)
        except OSError as error:  # a full disk among them
            log.warning("the profile is not kept: %s; the next start measures again", error)

    def _path(self, key: str) -> Path:
        return self._folder / f"{key[:32]}{SUFFIX}"

    def _prune(self, newest: Path) -> None:
        files = [one for one in self._folder.glob(f"*{SUFFIX}") if one != newest]
        files.sort(key=lambda one: one.stat().st_mtime_ns)
        for path in files[: max(0, len(files) + 1 - KEPT)]:
            with contextlib.suppress(OSError):
                path.unlink()
