"""Open an ONNX file in ONNX Runtime, as a device does: on the CPU, threads that do not spin."""

from collections.abc import Mapping

import onnxruntime
from onnxruntime import GraphOptimizationLevel
from onnxruntime.capi import onnxruntime_pybind11_state as runtime_errors

from exporter.errors import ParityError
from slimmable.state import Array

# What ONNX Runtime raises over a file or an input; its exceptions share no base class.
REFUSED = (
    runtime_errors.Fail,
    runtime_errors.InvalidArgument,
    runtime_errors.InvalidGraph,
    runtime_errors.InvalidProtobuf,
    runtime_errors.NotImplemented,
    runtime_errors.RuntimeException,
)


def session_options(
    *,
    threads: int = 1,
    level: GraphOptimizationLevel = GraphOptimizationLevel.ORT_ENABLE_ALL,
) -> onnxruntime.SessionOptions:
    """Return the options of a session.

    Args:
        threads: that share the work of one call.
        level: how far ONNX Runtime rewrites the graph at start-up.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # its complaints come back as exceptions
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.graph_optimization_level = level
    return options


def open_session(
    onnx: bytes,
    *,
    threads: int = 1,
    level: GraphOptimizationLevel = GraphOptimizationLevel.ORT_ENABLE_ALL,
    weights: Mapping[str, Array] | None = None,
) -> onnxruntime.InferenceSession:
    """Return a session for ONNX bytes.

    Args:
        onnx: the file.
        threads: that share the work of one call.
        level: how far ONNX Runtime rewrites the graph.
        weights: contiguous values of the tensors that the file says are stored elsewhere. They are
            not copied and must outlive the session.

    Raises:
        ParityError: ONNX Runtime does not accept the bytes.
    """
    options = session_options(threads=threads, level=level)
    if weights:
        values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in weights.values()]
        options.add_external_initializers(list(weights), values)
    try:
        return onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
    except REFUSED as error:
        raise ParityError(f"ONNX Runtime does not load the file: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """Return what an exception says, in one line."""
    return (str(error).splitlines() or [type(error).__name__])[0]
