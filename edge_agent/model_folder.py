"""Models as whole folders on a device's disk: placed by rename, checked by digest, collected.

::

    <folder>/models/<digest>/model.onnx
    <folder>/models/<digest>/manifest.msgpack

Which of them runs is not known here; see `edge_agent.slots`.
"""

import errno
import shutil
from collections.abc import Callable, Collection
from pathlib import Path

import msgspec

from broker.manifest import ModelManifest
from edge_agent.stored_model import (
    MANIFEST_FILE,
    MODEL_FILE,
    MODELS_FOLDER,
    InstalledModel,
    NotInstalledError,
    open_model,
)
from journal import platform
from journal.crashpoints import crashpoint, register
from journal.disk import (
    make_folder,
    register_file,
    remove_leftovers,
    write_atomically,
)
from journal.errors import DamagedFileError, DiskFullError

ROOM_FACTOR = 2  # the file itself, and as much again for what else the device must write

_INCOMING = ".incoming-"

register_file("slots-file", "a file of a model that is being placed")
register("slots-placing-begun", "an empty incoming folder stands beside the models")
register("slots-placing-written", "the incoming folder is whole, under its temporary name")
register("slots-placing-renamed", "the model is placed, the folder of models is not flushed")
register("slots-collecting-begun", "a model that nothing names is still there")
register("slots-collecting-half", "a model that nothing names has lost its manifest")


class ModelFolder:
    """The one writer of the folder of models."""

    def __init__(self, folder: Path, free_bytes: Callable[[Path], int] | None = None) -> None:
        """Open the folder of models below the agent's ``folder``, making it where it is missing.

        Args:
            folder: the agent's own.
            free_bytes: tells the room on the disk of a folder; by default it asks the system.

        Raises:
            OSError: the folder cannot be made.
        """
        self._folder = folder
        self._models = make_folder(folder / MODELS_FOLDER)
        self._free_bytes = free_bytes or _free_bytes

    def is_whole(self, digest: str) -> bool:
        """Tell whether a model is there and undamaged; reads all of it."""
        try:
            open_model(self._folder, digest).read()
        except (NotInstalledError, DamagedFileError, OSError):
            return False
        return True

    def place(self, manifest: ModelManifest, onnx: bytes) -> InstalledModel:
        """Put a model there, as a whole or not at all.

        Raises:
            DiskFullError: too little room; nothing else has changed.
            OSError: the disk failed otherwise; nothing else has changed.
        """
        described = msgspec.msgpack.encode(manifest)
        target = self._models / manifest.digest
        if self.is_whole(manifest.digest):
            # The same bytes may come back in a later release with another description.
            write_atomically(target / MANIFEST_FILE, described, kind="slots-file")
            platform.flush_folder(self._models)
            return open_model(self._folder, manifest.digest)
        self._require_room(ROOM_FACTOR * len(onnx))
        incoming = self._models / f"{_INCOMING}{manifest.digest}"
        shutil.rmtree(incoming, ignore_errors=True)
        try:
            incoming.mkdir()
            crashpoint("slots-placing-begun")
            write_atomically(incoming / MODEL_FILE, onnx, kind="slots-file")
            write_atomically(incoming / MANIFEST_FILE, described, kind="slots-file")
            crashpoint("slots-placing-written")
            shutil.rmtree(target, ignore_errors=True)  # there only if it is damaged
            incoming.rename(target)
        except OSError as error:
            shutil.rmtree(incoming, ignore_errors=True)
            if platform.no_room(error):
                raise self._disk_full(ROOM_FACTOR * len(onnx)) from error
            raise
        crashpoint("slots-placing-renamed")
        platform.flush_folder(self._models)
        return open_model(self._folder, manifest.digest)

    def collect(self, keep: Collection[str]) -> None:
        """Delete all models but these, and what a killed process left."""
        for folder in sorted(self._models.iterdir()):
            if folder.name in keep:
                remove_leftovers(folder)
                continue
            crashpoint("slots-collecting-begun")
            (folder / MANIFEST_FILE).unlink(missing_ok=True)
            crashpoint("slots-collecting-half")
            shutil.rmtree(folder, ignore_errors=True)

    def _require_room(self, needed: int) -> None:
        if self._free_bytes(self._models) < needed:
            raise self._disk_full(needed)

    def _disk_full(self, needed: int) -> DiskFullError:
        return DiskFullError(
            errno.ENOSPC,
            f"installing a model needs {needed} bytes of room, the current model stays; make room",
            str(self._models),
        )


def _free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free
