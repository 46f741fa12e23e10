"""Samples for an export: those that statistics and int8 ranges are taken from, those that measure.

A network may take several inputs, of floating point values or of indices; they are kept by
position. No torch.
"""

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from slimmable.model import ModelInput
from slimmable.readers import read_samples
from slimmable.samples import Samples, SamplesError, split_recordings
from slimmable.state import Array
from slimmable.task import Task, TaskKind

NPZ = "npz"
Inputs = tuple[Array, ...]  # one array (N, ...) for each input of the network


@dataclass(frozen=True)
class Labelled:
    """Inputs whose right outputs are known.

    Attributes:
        inputs: one array (N, ...) for each input of the network.
        targets: (N,) class numbers, or (N, ...) values.
        recording: (N,) what each sample was cut from.
        source: where they come from, in a few words.
    """

    inputs: Inputs
    targets: Array
    recording: Array
    source: str

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.targets)

    def split(self) -> "tuple[Labelled, Labelled]":
        """Split by recordings: one part to calibrate on, one to measure with.

        Raises:
            SamplesError: there is only one recording.
        """
        # Only targets and recordings decide; inputs may be of any type and number.
        nothing = np.zeros((len(self), 1), np.float32)
        first, second = split_recordings(Samples(nothing, self.targets, self.recording))
        return self._of(first.recording), self._of(second.recording)

    def _of(self, recordings: Array) -> "Labelled":
        chosen = np.isin(self.recording, recordings)
        return Labelled(
            tuple(x[chosen] for x in self.inputs),
            self.targets[chosen],
            self.recording[chosen],
            self.source,
        )


def read_labelled(
    path: Path,
    inputs: Sequence[ModelInput],
    task: Task,
    reader: str = NPZ,
    options: Mapping[str, Any] | None = None,
) -> Labelled:
    """Read labelled samples.

    Networks with one input of floating point values take what any reader gives. The others need an
    ``.npz`` file with one array per input (``x``, ``x_1``, ...), and ``y`` and ``recording`` as
    `slimmable.readers.read_npz` describes them.

    Raises:
        SamplesError: the file cannot be read, or its targets do not fit the task.
        SamplesError: its inputs do not fit the network.
    """
    if _is_simple(inputs):
        samples = read_samples(path, reader, options)
        x: Inputs = (samples.x,)
        targets, recording = samples.y, samples.recording
    elif reader != NPZ:
        raise SamplesError(
            f"reader {reader!r} gives one input of floating point values, the model takes"
            f" {len(inputs)} of type {', '.join(one.dtype for one in inputs)}; use an .npz file"
        )
    else:
        x = read_inputs(path, inputs)
        if task.kind is TaskKind.RECONSTRUCTION:
            targets, recording = x[0], np.arange(len(x[0]))
        else:
            targets, recording = _targets(path, len(x[0]))
    _check_shapes(path, x, inputs)
    task.check_targets(targets)
    return Labelled(x, targets, recording, path.name)


def read_inputs(path: Path, inputs: Sequence[ModelInput]) -> Inputs:
    """Read unlabelled inputs from the arrays ``x``, ``x_1``, ... of an ``.npz`` file.

    Raises:
        SamplesError: the file is missing, lacks one, or its samples have another shape.
    """
    found = []
    try:
        # From memory: given a path, numpy leaves the file open where it is no archive.
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as archive:
            for name, one in zip(_names(inputs), inputs, strict=True):
                found.append(_converted(path, name, archive[name], one))
    except KeyError as error:
        raise SamplesError(
            f"data file {path} has no array {error.args[0].split()[0]!r}; the model takes"
            f" {', '.join(_names(inputs))}"
        ) from error
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise SamplesError(f"data file {path} is no .npz of numbers: {error}") from error
    _check_shapes(path, found, inputs)
    return tuple(found)


def _names(inputs: Sequence[ModelInput]) -> list[str]:
    return ["x", *(f"x_{place}" for place in range(1, len(inputs)))]


def _is_simple(inputs: Sequence[ModelInput]) -> bool:
    return len(inputs) == 1 and inputs[0].dtype == "float32"


def _converted(path: Path, name: str, array: Array, wanted: ModelInput) -> Array:
    if wanted.dtype == "float32":
        return np.asarray(array, dtype=np.float32)
    if array.dtype.kind not in "iu":
        raise SamplesError(
            f"data file {path}: {name!r} is of type {array.dtype}, the model takes integers there"
        )
    return array.astype(np.int64)


def _check_shapes(path: Path, arrays: Sequence[Array], inputs: Sequence[ModelInput]) -> None:
    for name, x, wanted in zip(_names(inputs), arrays, inputs, strict=True):
        if x.shape[1:] != wanted.shape or len(x) < 2:
            raise SamplesError(
                f"data file {path}: {name!r} has shape {x.shape}, the model needs at least two"
                f" samples of shape {wanted.shape}"
            )
        if len(x) != len(arrays[0]):
            raise SamplesError(
                f"data file {path}: {len(arrays[0])} samples in 'x' and {len(x)} in {name!r};"
                " each sample needs all inputs"
            )
        if not np.isfinite(x).all():
            raise SamplesError(f"data file {path}: {name!r} holds NaN or infinity; clean the data")


def _targets(path: Path, count: int) -> tuple[Array, Array]:
    with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as archive:
        if "y" not in archive:
            raise SamplesError(f"{path} holds no array 'y'; accuracy needs the right answers")
        y = archive["y"]
        recording = archive["recording"] if "recording" in archive else np.arange(count)
    y = y.astype(np.float32 if y.dtype.kind == "f" else np.int64)
    checked = Samples(np.zeros((count, 1), np.float32), y, recording.astype(np.int64))
    return checked.y, checked.recording
