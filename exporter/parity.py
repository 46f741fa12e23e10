"""Does the ONNX file compute what torch computes? Imports torch and onnxruntime.

A release that fails this is not a release.
"""

import numpy as np
import onnxruntime
import torch
from onnxruntime.capi import onnxruntime_pybind11_state as runtime_errors
from torch import nn

from exporter.errors import ParityError
from slimmable.model import SlimmableModel
from slimmable.state import Array
from slimmable.task import TaskKind

TOLERANCE = 1e-4  # correct exports differ by less than 2e-6
TIE = 1e-6  # classes this close may swap places by rounding alone
BATCHES = (1, 7)  # two sizes, so that a baked-in batch size is noticed

_REFUSED = (
    runtime_errors.Fail,
    runtime_errors.InvalidArgument,
    runtime_errors.InvalidGraph,
    runtime_errors.InvalidProtobuf,
    runtime_errors.NotImplemented,
    runtime_errors.RuntimeException,
)


def open_session(onnx: bytes) -> onnxruntime.InferenceSession:
    """Return a single-threaded session for ONNX bytes.

    Raises:
        ParityError: ONNX Runtime does not accept the bytes.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # its complaints come back as exceptions
    try:
        return onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
    except _REFUSED as error:
        raise ParityError(f"ONNX Runtime does not load the file: {_first_line(error)}") from error


def check_parity(
    onnx: bytes, network: nn.Module, model: SlimmableModel, tolerance: float = TOLERANCE
) -> float:
    """Compare ONNX Runtime with torch on random input, at two batch sizes.

    Args:
        onnx: the file.
        network: the same sub-model in torch, in evaluation mode.
        model: says the shape of an input and what outputs mean.
        tolerance: on the difference, relative to the largest output where that is above 1.

    Returns:
        The largest difference.

    Raises:
        ParityError: they differ by more than ``tolerance``, choose other classes, or are not
            finite.
    """
    session = open_session(onnx)
    rng = np.random.default_rng(0)
    worst = 0.0
    for batch in BATCHES:
        x = rng.standard_normal((batch, *model.input_shape)).astype(np.float32)
        with torch.no_grad():
            expected = network(torch.from_numpy(x)).numpy()
        worst = max(worst, _difference(expected, _run(session, x), model, tolerance))
    return worst


def _run(session: onnxruntime.InferenceSession, x: Array) -> Array:
    try:
        found: Array = session.run(None, {session.get_inputs()[0].name: x})[0]
    except _REFUSED as error:
        raise ParityError(
            f"the file does not run with a batch of {len(x)}: {_first_line(error)}"
        ) from error
    return found


def _difference(expected: Array, found: Array, model: SlimmableModel, tolerance: float) -> float:
    where = f"model {model.name!r}, batch of {len(expected)}"
    if expected.shape != found.shape:
        raise ParityError(f"{where}: shape {found.shape}, torch gives {expected.shape}")
    if not (np.isfinite(expected).all() and np.isfinite(found).all()):
        raise ParityError(f"{where}: outputs hold NaN or infinity; do not release these weights")
    scale = max(1.0, float(np.abs(expected).max(initial=0.0)))
    worst = float(np.abs(expected - found).max(initial=0.0)) / scale
    if worst > tolerance:
        raise ParityError(
            f"{where}: ONNX Runtime and torch differ by {worst:.2g}, allowed are {tolerance:.2g};"
            " do not release this file"
        )
    if model.task.kind is TaskKind.CLASSIFICATION:
        chosen = np.take_along_axis(expected, found.argmax(axis=1)[:, None], axis=1)[:, 0]
        lead = float((expected.max(axis=1) - chosen).max()) / scale
        if lead > TIE:
            raise ParityError(
                f"{where}: ONNX Runtime chooses another class than torch, {lead:.2g} behind;"
                " do not release this file"
            )
    return worst


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
