"""Read a device's models without changing anything. Imports little: programs start with it.

The agent writes what is read here, with `edge_agent.slots` and `edge_agent.model_folder`.
"""

import os
from typing import TYPE_CHECKING

import msgspec

from broker.decoding import decode_struct
from broker.errors import DecodeError
from broker.manifest import ModelManifest
from edge_agent.slot_state import SlotState, decode_slot_state
from journal.errors import DamagedFileError
from journal.reading import read_checked, read_file, read_state

if TYPE_CHECKING:
    from pathlib import Path

PathLike = str | os.PathLike[str]

SLOTS_FOLDER = "slots"
"""Where an agent keeps its slots, inside its folder."""

STATE_FILE = "slots.state"
MODELS_FOLDER = "models"
MODEL_FILE = "model.onnx"
MANIFEST_FILE = "manifest.msgpack"

_HEX = frozenset("0123456789abcdef")
_DIGEST_LENGTH = 64


class SlotsError(Exception):
    """The model slots cannot do what was asked. The message says what to do instead."""


class NotInstalledError(SlotsError):
    """No whole model of this digest is on the disk. Install it first."""


class InstalledModel(msgspec.Struct, frozen=True):
    """A model on the disk.

    Attributes:
        place: the folder that holds its two files.
        manifest: all that must be known to run it.
        counter: the deployment that named it.
        confirmed: it was seen to run on this device.
    """

    place: str
    manifest: ModelManifest
    counter: int = 0
    confirmed: bool = False

    @property
    def digest(self) -> str:
        """SHA-256 of the ONNX file."""
        return self.manifest.digest

    @property
    def file(self) -> str:
        """The ONNX file."""
        return os.path.join(self.place, MODEL_FILE)

    @property
    def folder(self) -> "Path":
        """The folder that holds its two files."""
        from pathlib import Path

        return Path(self.place)

    @property
    def path(self) -> "Path":
        """The ONNX file."""
        return self.folder / MODEL_FILE

    @property
    def manifest_path(self) -> "Path":
        """The manifest file."""
        return self.folder / MANIFEST_FILE

    def read(self) -> bytes:
        """Return the ONNX file, checked against its digest.

        Raises:
            FileNotFoundError: it was collected meanwhile.
            DamagedFileError: it has changed on the disk.
        """
        return read_checked(self.file, self.digest)


def open_model(
    folder: PathLike, digest: str, *, counter: int = 0, confirmed: bool = False
) -> InstalledModel:
    """Return the model of this digest in the agent's ``folder``; only the manifest is read.

    Raises:
        NotInstalledError: there is none, or not a whole one.
        OSError: the disk failed.
    """
    if len(digest) != _DIGEST_LENGTH or not _HEX.issuperset(digest):
        raise NotInstalledError(f"{digest[:12]!r} is no digest of a model; install it first")
    place = _inside(folder, MODELS_FOLDER, digest)
    if not os.path.isfile(_inside(place, MODEL_FILE)):
        raise NotInstalledError(f"model {digest[:12]} is not in {folder}; install it first")
    try:
        manifest = decode_struct(read_file(_inside(place, MANIFEST_FILE)), ModelManifest)
    except (FileNotFoundError, DecodeError) as error:
        raise NotInstalledError(f"{place} has no readable manifest; install it again") from error
    if manifest.digest != digest:
        raise NotInstalledError(f"{place} has another model's manifest; install it again")
    return InstalledModel(place, manifest, counter, confirmed)


def read_slot_state(folder: PathLike) -> SlotState:
    """Return what the slots in ``folder`` say; before the first deployment, that nothing runs.

    Raises:
        DamagedFileError: the state is unreadable.
        OSError: the disk failed.
    """
    path = _inside(folder, STATE_FILE)
    try:
        return decode_slot_state(read_state(path))
    except FileNotFoundError:
        return SlotState()
    except DecodeError as error:
        raise DamagedFileError(f"{path}: {error}; delete it to start anew") from error


def current_of(folder: PathLike, state: SlotState) -> InstalledModel | None:
    """Return the model that a state names, or None where it names none.

    Raises:
        NotInstalledError: it is not there.
        OSError: the disk failed.
    """
    if not state.current:
        return None
    return open_model(folder, state.current, counter=state.placed_by, confirmed=state.confirmed)


def read_current(folder: PathLike) -> InstalledModel | None:
    """Return the model that the device shall run, without changing anything on the disk.

    For whoever is not the agent: an application beside it, a command line.

    Raises:
        DamagedFileError: the state is unreadable; the agent mends it at its next start.
        NotInstalledError: the model was collected since; read again.
        OSError: the disk failed.
    """
    return current_of(folder, read_slot_state(folder))


def _inside(folder: PathLike, *names: str) -> str:
    return os.path.join(folder, *names)
