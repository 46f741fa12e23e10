"""One ONNX file in ONNX Runtime, checked against its manifest.

ONNX Runtime is imported only when a model is loaded: on some machines its import alone ends the
process (see `edge_agent.probe`).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from broker.messages import ModelManifest
from slimmable.task import Decoded, Task, TaskKind

Array = npt.NDArray[Any]

BATCH = 200  # of long inputs; larger ones cost memory and no less time a sample


class InferenceError(Exception):
    """Inference is not possible. The message says what to do."""


class NoModelError(InferenceError):
    """There is no model to run. The device waits for a deployment."""


class ModelFileError(InferenceError):
    """The file is no model that ONNX Runtime can run, or not the one of its manifest."""


class InputError(InferenceError, ValueError):
    """The input is not what the model takes. Convert it as the message says."""


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to answer; calls from several threads may overlap.

    Attributes:
        session: of ONNX Runtime.
        manifest: what the model is.
        task: how its outputs are read.
    """

    session: Any
    manifest: ModelManifest
    task: Task

    def check(self, x: Array) -> None:
        """Refuse an input that the model does not take.

        Raises:
            InputError: wrong type, shape or values.
        """
        shape = self.manifest.input_shape
        wanted = f"float32 of shape (N, {', '.join(map(str, shape))})"
        if not isinstance(x, np.ndarray):
            raise InputError(
                f"input is {type(x).__name__}, the model takes {wanted};"
                " convert it with numpy.asarray(x, dtype=numpy.float32)"
            )
        if x.dtype != np.float32:
            raise InputError(
                f"input is {x.dtype}, the model takes {wanted};"
                " convert it with x.astype(numpy.float32)"
            )
        if x.shape == shape:
            raise InputError(
                f"input of shape {x.shape} is one sample, the model takes {wanted};"
                " add the batch dimension with x[None]"
            )
        if x.shape[1:] != shape or x.ndim == 0 or len(x) == 0:
            raise InputError(f"input has shape {x.shape}, the model takes {wanted} with N >= 1")
        if not np.isfinite(x).all():
            bad = int(np.argmin(np.isfinite(x).reshape(len(x), -1).all(axis=1)))
            raise InputError(f"input sample {bad} holds NaN or infinity; clean the data first")

    def outputs(self, x: Array) -> Array:
        """Return what the network says about a checked input, in batches.

        Raises:
            ModelFileError: ONNX Runtime failed on this model.
        """
        names = [self.manifest.output_name]
        parts = [x[start : start + BATCH] for start in range(0, len(x), BATCH)]
        try:
            answers = [self.session.run(names, {self.manifest.input_name: p})[0] for p in parts]
        except Exception as error:  # its exceptions share no base class
            raise ModelFileError(
                f"ONNX Runtime failed on model {self.manifest.digest[:12]}:"
                f" {_first_line(error)}; report it with the model's digest"
            ) from error
        return answers[0] if len(answers) == 1 else np.concatenate(answers)

    def decode(self, x: Array) -> Decoded:
        """Return labels, values and confidences for a checked input.

        Raises:
            ModelFileError: ONNX Runtime failed on this model.
        """
        return self.task.decode(self.outputs(x), x)

    def zeros(self, samples: int = 1) -> Array:
        """Return an input of the right shape."""
        return np.zeros((samples, *self.manifest.input_shape), dtype=np.float32)


def load_model(onnx: bytes, manifest: ModelManifest, *, threads: int = 1) -> LoadedModel:
    """Load an ONNX file and compare its input and output with the manifest.

    Args:
        onnx: the file; its digest was checked by whoever read it.
        manifest: what the file is said to be.
        threads: of ONNX Runtime. One, unless the machine does nothing else.

    Raises:
        ModelFileError: not a model, of a newer format than this runtime, or not the manifest's.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    # Threads that spin while they wait take the cores of the machine's real work.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    try:
        task = Task(TaskKind(manifest.task), manifest.classes)
    except ValueError as error:
        raise ModelFileError(
            f"model {manifest.digest[:12]} is for the task {manifest.task!r}, which this agent does"
            " not know; update slimfleet on this device"
        ) from error
    try:
        session = onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no base class
        raise ModelFileError(
            f"ONNX Runtime {onnxruntime.__version__} cannot load model {manifest.digest[:12]}"
            f" (opset {manifest.opset}, IR {manifest.ir_version}): {_first_line(error)};"
            " update onnxruntime on this device or export with an older opset"
        ) from error
    _compare(session, manifest)
    return LoadedModel(session, manifest, task)


def _compare(session: Any, manifest: ModelManifest) -> None:
    inputs = {one.name: (one.type, tuple(one.shape)) for one in session.get_inputs()}
    outputs = {one.name for one in session.get_outputs()}
    kind, shape = inputs.get(manifest.input_name, ("absent", ()))
    fixed = [a == b for a, b in zip(shape[1:], manifest.input_shape, strict=False)]
    named = [isinstance(one, str) or one is None for one in shape[1:]]
    fits = (
        len(inputs) == 1
        and kind == "tensor(float)"
        and len(shape) == len(manifest.input_shape) + 1
        and all(same or free for same, free in zip(fixed, named, strict=True))
        and not isinstance(shape[0], int)
        and manifest.output_name in outputs
    )
    if not fits:
        raise ModelFileError(
            f"model {manifest.digest[:12]} takes {inputs} and gives {sorted(outputs)}, its manifest"
            f" says {manifest.input_name}: (batch, {', '.join(map(str, manifest.input_shape))}) and"
            f" {manifest.output_name}; export it again"
        )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
