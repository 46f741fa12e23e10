"""A file to be checked, and the manifest beside it. Needs neither torch nor onnx."""

from dataclasses import dataclass
from pathlib import Path

from broker.decoding import decode_document, decode_struct
from broker.errors import DecodeError
from broker.manifest import ModelManifest
from exporter.errors import ExportError
from slimmable.model import ModelInput
from slimmable.task import Task, TaskKind

MANIFEST_SUFFIX = ".manifest.json"
SLOT_MANIFEST = "manifest.msgpack"  # beside a file that an agent has installed


class CheckError(ExportError):
    """A file cannot be checked at all. Name an ONNX file that can be read."""


@dataclass(frozen=True)
class Subject:
    """A file and what is known about it.

    Attributes:
        onnx: its bytes.
        manifest: that stands beside it, or None; manifest_name: of that file.
    """

    path: Path
    onnx: bytes
    manifest: ModelManifest | None
    manifest_name: str

    @property
    def task(self) -> Task | None:
        """What its outputs mean, as the manifest says."""
        if self.manifest is None:
            return None
        return Task(TaskKind(self.manifest.task), self.manifest.classes)

    @property
    def inputs(self) -> tuple[ModelInput, ...]:
        """What it takes, as the manifest says."""
        if self.manifest is None:
            return ()
        others = (ModelInput(one.shape, one.dtype) for one in self.manifest.other_inputs)
        return (ModelInput(self.manifest.input_shape, self.manifest.input_dtype), *others)


def open_subject(path: Path) -> Subject:
    """Read a file and the manifest beside it.

    Raises:
        CheckError: one of both cannot be read.
    """
    try:
        onnx = path.read_bytes()
    except OSError as error:
        raise CheckError(f"{path} cannot be read: {error.strerror}; name an ONNX file") from error
    for beside in (path.with_name(path.stem + MANIFEST_SUFFIX), path.with_name(SLOT_MANIFEST)):
        if beside.is_file():
            return Subject(path, onnx, _read_manifest(beside), beside.name)
    return Subject(path, onnx, None, path.stem + MANIFEST_SUFFIX)


def _read_manifest(path: Path) -> ModelManifest:
    decode = decode_document if path.name.endswith(".json") else decode_struct
    try:
        return decode(path.read_bytes(), ModelManifest)
    except OSError as error:
        raise CheckError(f"{path} cannot be read: {error.strerror}") from error
    except DecodeError as error:
        raise CheckError(f"{path} is no manifest ({error}); export the model again") from error
