"""Put the weights of a round into a template, by name. Imports onnx_ir and onnxruntime.

Both directions are checked, because each alone passes on some broken template: every weight of the
graph must come from the state, and every state tensor that the network reads must be in the graph.
"""

from collections.abc import Mapping

import numpy as np
import onnx
import onnx_ir
import onnxruntime
from onnxruntime import GraphOptimizationLevel

from exporter.errors import InjectionError
from exporter.sessions import open_session
from exporter.tracing import Template
from slimmable.state import Array

_FLOATS = frozenset(
    {
        onnx.TensorProto.FLOAT,
        onnx.TensorProto.FLOAT16,
        onnx.TensorProto.DOUBLE,
        onnx.TensorProto.BFLOAT16,
    }
)


def inject(template: Template, state: Mapping[str, Array]) -> onnx_ir.Model:
    """Return the template's prepared graph with the tensors of ``state`` in it.

    Args:
        template: of the width that ``state`` is cut at.
        state: state dict, statistics included.

    Raises:
        InjectionError: a tensor is missing on either side, or has another shape or type.
    """
    _check(template, state)
    graph: onnx_ir.Model = onnx_ir.from_proto(onnx.ModelProto.FromString(template.prepared))
    for name, value in graph.graph.initializers.items():
        if name in state:
            value.const_value = onnx_ir.tensor(state[name], name=name)
        elif isinstance(value.const_value, onnx_ir.ExternalTensor):
            raise InjectionError(f"weight {name!r} of the graph is not in the state; trace anew")
    return graph


def open_untouched(template: Template, state: Mapping[str, Array]) -> onnxruntime.InferenceSession:
    """Return a session for the graph as traced, on which no pass has worked, with ``state`` in it.

    The tensors of ``state`` are not copied and must outlive the session.

    Raises:
        ParityError: ONNX Runtime does not accept the graph.
    """
    held = onnx.ModelProto.FromString(template.graph).graph.initializer
    weights = {
        # Not ascontiguousarray, which turns a scalar into a vector of one.
        tensor.name: np.asarray(state[tensor.name], order="C")
        for tensor in held
        if tensor.name in state
    }
    return open_session(
        template.graph, level=GraphOptimizationLevel.ORT_DISABLE_ALL, weights=weights
    )


def _check(template: Template, state: Mapping[str, Array]) -> None:
    """Compare the weights of the graph as traced with those of the state, in both directions."""
    placed: set[str] = set()
    strangers: list[str] = []
    for tensor in onnx.ModelProto.FromString(template.graph).graph.initializer:
        if tensor.name in state:
            _check_same_form(tensor, state[tensor.name])
            placed.add(tensor.name)
        elif tensor.name in template.used or _holds_weights(tensor, template):
            strangers.append(tensor.name)
    if strangers:
        raise InjectionError(
            f"the graph has weights that the state does not hold: {strangers[:5]};"
            " check that state and template are of one model"
        )
    lost = sorted(template.used - placed)
    if lost:
        raise InjectionError(
            f"the network reads tensors that the graph does not hold: {lost[:5]};"
            " the exporter merged or baked them in, trace the model anew"
        )


def _holds_weights(tensor: onnx.TensorProto, template: Template) -> bool:
    # Single values are constants of the operators (an epsilon, a scale), not weights.
    size = int(np.prod(tensor.dims))
    return tensor.data_type in _FLOATS and size > 1 and tensor.name not in template.constants


def _check_same_form(old: onnx.TensorProto, new: Array) -> None:
    shape, dtype = tuple(old.dims), onnx.helper.tensor_dtype_to_np_dtype(old.data_type)
    if shape != new.shape or dtype != new.dtype:
        raise InjectionError(
            f"tensor {old.name!r} is {new.dtype} {new.shape}, the graph needs {dtype}"
            f" {shape}; cut the state at the template's width"
        )
