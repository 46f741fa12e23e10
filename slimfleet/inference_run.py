"""Run a model over a file of samples: read, answer in calls, count, write. Needs no torch."""

import csv
import io
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from broker.manifest import InputTensor, ModelManifest
from edge_agent import InputError, Predictor
from edge_agent.telemetry import percentiles
from journal.disk import write_atomically
from slimfleet.config import ConfigError
from slimmable.readers import read_samples
from slimmable.samples import Samples, SamplesError
from slimmable.task import Array, Decoded, Task, TaskError, TaskKind

EXACT_IN_FLOAT32 = 2**24  # whole numbers above come out of a reader as others


@dataclass(frozen=True)
class Data:
    """What a model is to answer.

    Attributes:
        inputs: (N, ...) arrays by the name of the model's input.
        targets: (N, ...) of the task, or None where the data have none.
        samples: N.
    """

    inputs: dict[str, Array]
    targets: Array | None
    samples: int


@dataclass(frozen=True)
class Answers:
    """What the model said, and how fast.

    Attributes:
        model: which one.
        decoded: of all samples, in their order.
        score: of the task, or None where the data have no targets.
        batch: samples a call.
        latency_p50_s, latency_p95_s: of one call.
        samples_per_s: over all calls.
    """

    model: ModelManifest
    decoded: Decoded
    score: float | None
    batch: int
    latency_p50_s: float
    latency_p95_s: float
    samples_per_s: float


def read_data(
    path: Path,
    manifest: ModelManifest,
    *,
    reader: str = "",
    options: Mapping[str, Any] | None = None,
    labelled: bool = True,
) -> Data:
    """Read samples as the model takes them.

    A model of one float32 input takes what any reader gives. Several inputs, and whole numbers
    exactly, come from the arrays of an ``.npz`` file that are named as the model's inputs.

    Args:
        path: file or folder.
        manifest: of the model.
        reader: by default the one of the path: csv, images for a folder, else npz.
        options: keyword arguments of the reader.
        labelled: False where the data have no targets, or they shall not be looked at.

    Raises:
        SamplesError: the data cannot be read, or the model takes others.
    """
    chosen = reader or _reader_of(path)
    if chosen == "npz" and (manifest.other_inputs or manifest.input_dtype != "float32"):
        return _read_named(path, manifest, labelled=labelled)
    if manifest.other_inputs:
        names = [manifest.input_name, *(one.name for one in manifest.other_inputs)]
        raise SamplesError(
            f"the model takes several inputs: save {names} as arrays in an .npz file"
        )
    given = dict(options or {})
    if chosen == "csv":  # which of the columns are inputs depends on it
        given.setdefault("task", manifest.task if labelled else TaskKind.RECONSTRUCTION.value)
    try:
        samples = read_samples(path, chosen, given)
    except SamplesError as error:  # what is wrong with the values does not say where they are from
        raise error if str(path) in str(error) else SamplesError(f"{path}: {error}") from error
    x = samples.x
    if manifest.input_dtype != "float32":
        x = _whole_numbers(path, x)
    targets = _targets(samples, TaskKind(manifest.task)) if labelled else None
    return Data({manifest.input_name: x}, targets, len(samples))


def answer(
    predictor: Predictor, data: Data, batch: int, clock: Callable[[], float] = time.perf_counter
) -> Answers:
    """Answer all samples in calls of ``batch``.

    Raises:
        InferenceError: there is no model, or it failed.
        SamplesError: the model does not take these inputs, or the targets are not of its task.
    """
    manifest = predictor.require_model()
    task = Task(TaskKind(manifest.task), manifest.classes)
    if data.targets is not None:
        task.check_targets(data.targets)
    said, seconds = [], []
    for start in range(0, data.samples, batch):
        part = {name: array[start : start + batch] for name, array in data.inputs.items()}
        try:
            started = clock()
            said.append(predictor.outputs(part))
            seconds.append(clock() - started)
        except InputError as error:
            last = min(start + batch, data.samples) - 1
            raise SamplesError(f"samples {start} to {last}: {error}") from error
    outputs = np.concatenate(said)
    full = seconds[: max(1, data.samples // batch)]  # the last call may be of fewer samples
    p50, p95 = percentiles(full)
    return Answers(
        model=manifest,
        decoded=task.decode(outputs, data.inputs[manifest.input_name]),
        score=None if data.targets is None else _score(task, outputs, data.targets),
        batch=min(batch, data.samples),
        latency_p50_s=p50,
        latency_p95_s=p95,
        samples_per_s=data.samples / max(sum(seconds), 1e-9),
    )


def check_out(path: Path) -> None:
    """Refuse a file that answers cannot be written to, before the work.

    Raises:
        ConfigError: its ending is unknown, or its folder is missing.
    """
    if path.suffix not in {".csv", ".npz"}:
        raise ConfigError(f"--out {path}: the ending must be .csv or .npz")
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"--out {path}: its folder is missing; make it first")


def write_answers(path: Path, answers: Answers) -> None:
    """Write one line or entry per sample, as a whole or not at all.

    Raises:
        OSError: it cannot be written; what was there before stays.
    """
    content = _as_npz(answers) if path.suffix == ".npz" else _as_csv(answers)
    write_atomically(path, content, mode=0o644)


# --- reading --------------------------------------------------------------------------------------


def _reader_of(path: Path) -> str:
    if path.suffix.lower() == ".csv":
        return "csv"
    return "images" if path.is_dir() else "npz"


def _read_named(path: Path, manifest: ModelManifest, *, labelled: bool) -> Data:
    first = InputTensor(
        name=manifest.input_name, shape=manifest.input_shape, dtype=manifest.input_dtype
    )
    inputs = {}
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            held = {name: archive[name] for name in archive.files}
    except OSError as error:
        raise SamplesError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # numpy, zipfile and zlib raise a dozen kinds on a damaged archive
        raise SamplesError(f"{path} is not an .npz file of plain arrays: {error}") from error
    for one in (first, *manifest.other_inputs):
        name = "x" if one is first and one.name not in held else one.name
        if name not in held:
            raise SamplesError(
                f"{path} holds {sorted(held)}, the model takes an array {name!r} too"
            )
        inputs[one.name] = _typed(path, name, held[name], one.dtype)
    lengths = {name: len(array) for name, array in inputs.items()}
    targets = held.get("y") if labelled else None
    if targets is not None:
        lengths["y"] = len(targets)
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        raise SamplesError(f"{path}: arrays of {lengths} samples; they must be equally many")
    return Data(inputs, targets, lengths[first.name])


def _typed(path: Path, name: str, array: Array, dtype: str) -> Array:
    """Return numbers in the type of an input, refusing to change their values."""
    wanted = np.dtype(dtype)
    if array.dtype.kind not in "iufb" or array.ndim == 0:
        raise SamplesError(f"{path}: {name!r} is of type {array.dtype}, numbers are needed")
    if wanted.kind == "i" and array.dtype.kind == "f":
        raise SamplesError(f"{path}: {name!r} is {array.dtype}, the model takes {wanted}: convert")
    return np.ascontiguousarray(array, dtype=wanted)


def _whole_numbers(path: Path, x: Array) -> Array:
    found = x.astype(np.int64)
    if not np.array_equal(found, x) or np.abs(x).max() > EXACT_IN_FLOAT32:
        raise SamplesError(
            f"{path}: the model takes whole numbers; save them as int64 in an .npz file"
        )
    return found


def _targets(samples: Samples, kind: TaskKind) -> Array | None:
    """Return the targets, or None where a reader gave the inputs back for want of any."""
    if kind is TaskKind.CLASSIFICATION:
        return samples.y if samples.y.dtype.kind in "iu" else None
    absent = kind is TaskKind.REGRESSION and np.array_equal(samples.y, samples.x)
    return None if absent else samples.y


def _score(task: Task, outputs: Array, targets: Array) -> float:
    try:
        return task.score(outputs, targets)
    except TaskError as error:
        raise SamplesError(f"the targets are not the model's: {error}") from error


# --- writing --------------------------------------------------------------------------------------


def _as_npz(answers: Answers) -> bytes:
    decoded, model = answers.decoded, answers.model
    arrays: dict[str, Array] = {"digest": np.array(model.digest)}
    if model.task == TaskKind.CLASSIFICATION:
        arrays |= {
            "label": decoded.label,
            "confidence": decoded.confidence,
            "probability": decoded.value,
            "classes": np.array(model.classes),
        }
    elif model.task == TaskKind.REGRESSION:
        arrays["value"] = decoded.value
    else:
        arrays |= {"error": decoded.value, "confidence": decoded.confidence}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def _as_csv(answers: Answers) -> bytes:
    decoded, model = answers.decoded, answers.model
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    if model.task == TaskKind.CLASSIFICATION:
        writer.writerow(["index", "label", "class", "confidence"])
        for index, (label, sure) in enumerate(zip(decoded.label, decoded.confidence, strict=True)):
            writer.writerow([index, int(label), model.classes[label], f"{sure:.6g}"])
    elif model.task == TaskKind.REGRESSION:
        rows = decoded.value.reshape(len(decoded.value), -1)
        names = [f"value_{n}" for n in range(rows.shape[1])] if rows.shape[1] > 1 else ["value"]
        writer.writerow(["index", *names])
        for index, row in enumerate(rows):
            writer.writerow([index, *(f"{value:.8g}" for value in row)])
    else:
        writer.writerow(["index", "error", "confidence"])
        for index, (error, sure) in enumerate(zip(decoded.value, decoded.confidence, strict=True)):
            writer.writerow([index, f"{error:.8g}", f"{sure:.6g}"])
    return text.getvalue().encode()
