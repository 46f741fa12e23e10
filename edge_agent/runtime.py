"""One ONNX file in ONNX Runtime, checked against its manifest.

ONNX Runtime is imported only when a model is loaded: on some machines its import alone ends the
process (see `edge_agent.probe`).
"""

import os
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from broker.manifest import InputTensor, ModelManifest
from slimmable.onnx_header import HeaderError, read_header
from slimmable.task import Array, Decoded, Task, TaskKind

Inputs = Array | Mapping[str, Array]
PathLike = str | os.PathLike[str]

BATCH = 200  # of long inputs; larger ones cost memory and no less time a sample
PAYLOADS = frozenset({"onnx", "onnx-preoptimised"})

# What the exporter notes in a file that was optimised before. Loaded as it stands it starts in half
# the time; that would slow convolutions of images down, so the file says whether to.
OPTIMISED_KEY = "slimfleet.optimised"
LOAD_KEY, AS_IT_STANDS = "slimfleet.load", "as-it-stands"

_RUNTIME_TYPES = {"float32": "tensor(float)", "int64": "tensor(int64)"}


class InferenceError(Exception):
    """Inference is not possible. The message says what to do."""


class NoModelError(InferenceError):
    """There is no model to run. The device waits for a deployment."""


class ModelFileError(InferenceError):
    """The file is no model that ONNX Runtime can run, or not the one of its manifest."""


class InputError(InferenceError, ValueError):
    """The input is not what the model takes. Convert it as the message says."""


class LoadedModel(msgspec.Struct, frozen=True, eq=False, weakref=True):
    """A model ready to answer; calls from several threads may overlap.

    Attributes:
        session: of ONNX Runtime.
        manifest: what the model is.
        task: how its outputs are read.
        inputs: what it takes, the manifest's first input first.
        batch: longer inputs are answered in parts of so many samples.
    """

    session: Any
    manifest: ModelManifest
    task: Task
    inputs: tuple[InputTensor, ...]
    batch: int = BATCH

    def feed(self, inputs: Inputs) -> dict[str, Array]:
        """Return checked arrays by the name of the input that they are for.

        Args:
            inputs: an array for a model of one input, else arrays by name.

        Raises:
            InputError: wrong names, types, shapes or values.
        """
        if isinstance(inputs, Mapping):
            given = {str(name): array for name, array in inputs.items()}
        elif len(self.inputs) == 1:
            given = {self.inputs[0].name: inputs}
        else:
            raise InputError(f"the model takes several inputs; give {self._wanted()}")
        if given.keys() != {one.name for one in self.inputs}:
            raise InputError(f"inputs {sorted(given)} do not fit; give {self._wanted()}")
        for one in self.inputs:
            what = f"input {one.name!r}" if isinstance(inputs, Mapping) else "input"
            _check(what, one, given[one.name])
        lengths = {name: len(array) for name, array in given.items()}
        if len(set(lengths.values())) > 1:
            raise InputError(f"inputs differ in their number of samples: {lengths}")
        return given

    def outputs(self, feed: Mapping[str, Array]) -> Array:
        """Return what the network says about a checked feed: the output that the task reads.

        Raises:
            ModelFileError: ONNX Runtime failed on this model.
        """
        return self._run([self.manifest.output_name], feed)[0]

    def all_outputs(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """Return every output by its name.

        Raises:
            ModelFileError: ONNX Runtime failed on this model.
        """
        names = [self.manifest.output_name, *self.manifest.other_outputs]
        return dict(zip(names, self._run(names, feed), strict=True))

    def decode(self, feed: Mapping[str, Array]) -> Decoded:
        """Return labels, values and confidences for a checked feed.

        Raises:
            ModelFileError: ONNX Runtime failed on this model.
        """
        return self.task.decode(self.outputs(feed), feed[self.manifest.input_name])

    def converted(self, x: Array) -> Array:
        """Return samples in the type of the first input; readers know only float32.

        Raises:
            InputError: the model takes whole numbers, and these are not.
        """
        wanted = np.dtype(self.manifest.input_dtype)
        found = np.ascontiguousarray(x, dtype=wanted)
        if wanted.kind == "i" and not np.array_equal(found, x):
            raise InputError(f"the model takes {wanted}, the samples are not whole numbers")
        return found

    def zeros(self, samples: int = 1) -> dict[str, Array]:
        """Return a feed of the right types and shapes."""
        return {one.name: np.zeros((samples, *one.shape), dtype=one.dtype) for one in self.inputs}

    def _run(self, names: list[str], feed: Mapping[str, Array]) -> list[Array]:
        samples = len(feed[self.manifest.input_name])
        starts = range(0, samples, self.batch)
        parts = [{name: a[s : s + self.batch] for name, a in feed.items()} for s in starts]
        try:
            answers = [self.session.run(names, part) for part in parts]
        except Exception as error:  # its exceptions share no base class
            raise ModelFileError(
                f"ONNX Runtime failed on model {self.manifest.digest[:12]}:"
                f" {_first_line(error)}; report it with the model's digest"
            ) from error
        if len(answers) == 1:
            return list(answers[0])
        return [np.concatenate(pieces) for pieces in zip(*answers, strict=True)]

    def _wanted(self) -> str:
        return "a dict of " + ", ".join(f"{one.name!r}: {_form(one)}" for one in self.inputs)


def load_model(
    onnx: bytes | PathLike,
    manifest: ModelManifest,
    *,
    threads: int = 1,
    spinning: bool = False,
    batch: int = BATCH,
) -> LoadedModel:
    """Load an ONNX file and compare its inputs and outputs with the manifest.

    Args:
        onnx: the file, or its path, which saves a copy in memory: ONNX Runtime keeps bytes that it
            is given. Whoever found it has checked its digest.
        manifest: what the file is said to be.
        threads: of ONNX Runtime. One, unless the machine does nothing else.
        spinning: whether threads that wait for work keep their core busy.
        batch: longer inputs are answered in parts of so many samples.

    Raises:
        ModelFileError: not a model, of a newer format than this runtime, or not the manifest's.
    """
    import onnxruntime

    if manifest.payload not in PAYLOADS:
        raise ModelFileError(
            f"model {manifest.digest[:12]} is of the kind {manifest.payload!r}, which this agent"
            " does not know; update slimfleet on this device"
        )
    try:
        task = Task(TaskKind(manifest.task), manifest.classes)
    except ValueError as error:
        raise ModelFileError(
            f"model {manifest.digest[:12]} is for the task {manifest.task!r}, which this agent does"
            " not know; update slimfleet on this device"
        ) from error
    first = InputTensor(
        name=manifest.input_name, shape=manifest.input_shape, dtype=manifest.input_dtype
    )
    source = onnx if isinstance(onnx, bytes) else os.fspath(onnx)
    try:
        facts = read_header(source).metadata
    except HeaderError:  # ONNX Runtime refuses it below, and says more about it
        facts = {}
    except OSError as error:
        raise ModelFileError(
            f"model {manifest.digest[:12]} cannot be read: {error}; deploy it again"
        ) from error
    as_it_stands = facts.get(LOAD_KEY) == AS_IT_STANDS
    options = _session_options(threads, spinning=spinning, as_it_stands=as_it_stands)
    try:
        session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no base class
        remedy = (
            "deploy the file that was not optimised beforehand"
            if OPTIMISED_KEY in facts
            else "update onnxruntime on this device or export with an older opset"
        )
        raise ModelFileError(
            f"ONNX Runtime {onnxruntime.__version__} cannot load model {manifest.digest[:12]}"
            f" (opset {manifest.opset}, IR {manifest.ir_version}): {_first_line(error)}; {remedy}"
        ) from error
    loaded = LoadedModel(session, manifest, task, (first, *manifest.other_inputs), batch)
    _compare(loaded, facts)
    return loaded


def _session_options(threads: int, *, spinning: bool, as_it_stands: bool) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4  # its complaints come back as exceptions
    if not spinning:  # threads that spin while they wait take the cores of the machine's real work
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    if as_it_stands:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def _compare(loaded: LoadedModel, facts: Mapping[str, str]) -> None:
    """Refuse a file that is not what its manifest says."""
    manifest, session = loaded.manifest, loaded.session
    name = f"model {manifest.digest[:12]}"
    found = {one.name: (one.type, tuple(one.shape)) for one in session.get_inputs()}
    given = {one.name for one in session.get_outputs()}
    wanted = {manifest.output_name, *manifest.other_outputs}
    fits = len(found) == len(loaded.inputs) and wanted <= given
    if not fits or not all(_fits(found.get(one.name), one) for one in loaded.inputs):
        said = ", ".join(f"{one.name}: {_form(one)}" for one in loaded.inputs)
        raise ModelFileError(
            f"{name} takes {found} and gives {sorted(given)}, its manifest says {said} and"
            f" {sorted(wanted)}; export it again"
        )
    stamped = facts.get("slimfleet.spec_hash", manifest.spec_hash)
    if stamped != manifest.spec_hash:
        raise ModelFileError(
            f"{name} is stamped with the width spec {stamped[:12]}, its manifest says"
            f" {manifest.spec_hash[:12]}; export it again"
        )


def _fits(found: tuple[str, tuple[Any, ...]] | None, wanted: InputTensor) -> bool:
    """Tell whether an input of the file, with any number of samples, is the manifest's."""
    if found is None:
        return False
    kind, shape = found
    return (
        kind == _RUNTIME_TYPES.get(wanted.dtype)
        and len(shape) == len(wanted.shape) + 1
        and not isinstance(shape[0], int)
        and all(
            has == says or not isinstance(has, int)
            for has, says in zip(shape[1:], wanted.shape, strict=True)
        )
    )


def _check(what: str, wanted: InputTensor, x: object) -> None:
    form = f"the model takes {_form(wanted)}"
    if not isinstance(x, np.ndarray):
        raise InputError(
            f"{what} is {type(x).__name__}, {form};"
            f" convert it with numpy.asarray(x, dtype=numpy.{wanted.dtype})"
        )
    if x.dtype != wanted.dtype:
        raise InputError(
            f"{what} is {x.dtype}, {form}; convert it with x.astype(numpy.{wanted.dtype})"
        )
    if x.shape == wanted.shape:
        raise InputError(
            f"{what} of shape {x.shape} is one sample, {form}; add the batch dimension with x[None]"
        )
    if x.shape[1:] != wanted.shape or x.ndim == 0 or len(x) == 0:
        raise InputError(f"{what} has shape {x.shape}, {form} with N >= 1")
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        bad = int(np.argmin(np.isfinite(x).reshape(len(x), -1).all(axis=1)))
        raise InputError(f"{what} sample {bad} holds NaN or infinity; clean the data first")


def _form(one: InputTensor) -> str:
    return f"{one.dtype} of shape ({', '.join(['N', *map(str, one.shape)])})"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
