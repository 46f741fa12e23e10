"""Where a program finds its model: an agent's folder, or a file that was exported.

What is watched is only looked at (``stat``), so that it may be asked before every call.
"""

import os
import time

from broker.decoding import decode_document, decode_struct
from broker.errors import DecodeError
from broker.manifest import ModelManifest
from edge_agent.runtime import ModelFileError
from edge_agent.stored_model import (
    MANIFEST_FILE,
    SLOTS_FOLDER,
    STATE_FILE,
    NotInstalledError,
    read_current,
)
from journal.errors import DamagedFileError
from journal.reading import check_file, read_file

PathLike = str | os.PathLike[str]
Mark = tuple[int, ...]

SUFFIX = ".onnx"
MANIFEST_SUFFIX = ".manifest.json"

# A file may change twice within one tick of its file system's clock and look the same.
_SETTLED_AFTER_NS = 100_000_000


class ModelSource:
    """One place that holds the current model, or will."""

    def __init__(self, place: PathLike) -> None:
        """Watch a place.

        Args:
            place: an agent's folder or its slots, which may not be there yet; an ONNX file with its
                manifest; or a folder that holds one such file.
        """
        self.place = os.fspath(place)
        self._watched: tuple[str, ...] = ()

    def mark(self) -> Mark:
        """Return what changes whenever the current model may have changed, () while there is none.

        Raises:
            OSError: the disk failed.
        """
        watched = self._watched or self._find()
        marks: list[int] = []
        for path in watched:
            try:
                found = os.stat(path)
            except FileNotFoundError:
                watched = ()  # look again the next time; another file may stand for it
                marks += (0, 0, 0)
            else:
                marks += (found.st_mtime_ns, found.st_ino, found.st_size)
        self._watched = watched
        return tuple(marks)

    def read(self) -> tuple[ModelManifest, str] | None:
        """Return the manifest and the path of the current model, or None where there is none yet.

        Raises:
            ModelFileError: there is one, and it cannot be read.
        """
        try:
            return self._read(self._watched or self._find())
        except (DamagedFileError, NotInstalledError, OSError, DecodeError) as error:
            raise self._unreadable(error) from error

    def check(self, manifest: ModelManifest, file: str) -> None:
        """Refuse a file that is not the one of its manifest.

        Raises:
            ModelFileError: it was altered, or it is not there.
        """
        try:
            check_file(file, manifest.digest)
        except (DamagedFileError, OSError) as error:
            raise self._unreadable(error) from error

    def _read(self, watched: tuple[str, ...]) -> tuple[ModelManifest, str] | None:
        if not watched:
            return None
        if watched[0].endswith(SUFFIX):
            return read_manifest(watched[1]), watched[0]
        if not watched[0].endswith(STATE_FILE):
            files = ", ".join(name + SUFFIX for name in exported_names(self.place))
            raise ModelFileError(f"{self.place} holds several models, name one: {files}")
        current = read_current(os.path.dirname(watched[0]))
        return None if current is None else (current.manifest, current.file)

    def _unreadable(self, error: Exception) -> ModelFileError:
        return ModelFileError(f"the model in {self.place} cannot be read: {error}")

    def _find(self) -> tuple[str, ...]:
        """Return the files to watch, none where there is no model yet."""
        if self.place.endswith(SUFFIX):
            return self.place, _manifest_beside(self.place)
        for folder in (os.path.join(self.place, SLOTS_FOLDER), self.place):
            state = os.path.join(folder, STATE_FILE)
            if os.path.exists(state):
                return (state,)
        exported = exported_names(self.place)
        if len(exported) > 1:
            return (self.place,)
        return tuple(
            os.path.join(self.place, name + end)
            for name in exported
            for end in (SUFFIX, MANIFEST_SUFFIX)
        )


def is_settled(mark: Mark) -> bool:
    """Tell whether a file that changes from now on is sure to get another mark."""
    return time.time_ns() - max(mark[::3], default=0) > _SETTLED_AFTER_NS


def exported_names(folder: str) -> list[str]:
    """Return the names, without suffix, of the exported models in a folder."""
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(
        name.removesuffix(MANIFEST_SUFFIX) for name in names if name.endswith(MANIFEST_SUFFIX)
    )


def _manifest_beside(file: str) -> str:
    beside = file.removesuffix(SUFFIX) + MANIFEST_SUFFIX
    if os.path.exists(beside):
        return beside
    return os.path.join(os.path.dirname(file), MANIFEST_FILE)


def read_manifest(path: str) -> ModelManifest:
    """Return what a manifest file says: MessagePack on a device, JSON beside an exported file.

    Raises:
        OSError: it cannot be read.
        DecodeError: it is no manifest.
    """
    data = read_file(path)
    decode = decode_document if path.endswith(MANIFEST_SUFFIX) else decode_struct
    return decode(data, ModelManifest)
