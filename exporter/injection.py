"""Put the weights of a round into a template, by name. Imports onnx_ir.

Both directions are checked, because each alone passes on some broken template: every weight of the
graph must come from the state, and every state tensor that the network reads must be in the graph.
"""

from collections.abc import Mapping

import onnx
import onnx_ir

from exporter.errors import InjectionError
from exporter.templates import Template
from slimmable.state import Array

_FLOATS = frozenset(
    {
        onnx_ir.DataType.FLOAT,
        onnx_ir.DataType.FLOAT16,
        onnx_ir.DataType.DOUBLE,
        onnx_ir.DataType.BFLOAT16,
    }
)


def inject(template: Template, state: Mapping[str, Array]) -> onnx_ir.Model:
    """Return the template's graph with the tensors of ``state`` in it.

    Args:
        template: of the width that ``state`` is cut at.
        state: state dict, statistics included.

    Raises:
        InjectionError: a tensor is missing on either side, or has another shape or type.
    """
    graph: onnx_ir.Model = onnx_ir.from_proto(onnx.ModelProto.FromString(template.graph))
    placed: set[str] = set()
    strangers: list[str] = []
    for name, value in graph.graph.initializers.items():
        old = value.const_value
        if old is None:
            raise InjectionError(f"weight {name!r} of the graph has no type; trace the model anew")
        if name in state:
            _check_same_form(name, old, state[name])
            value.const_value = onnx_ir.tensor(state[name], name=name)
            placed.add(name)
        elif name in template.used or _holds_weights(old, name, template):
            strangers.append(name)
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
    return graph


def _holds_weights(tensor: onnx_ir.TensorProtocol, name: str, template: Template) -> bool:
    # Single values are constants of the operators (an epsilon, a scale), not weights.
    return tensor.dtype in _FLOATS and tensor.size > 1 and name not in template.constants


def _check_same_form(name: str, old: onnx_ir.TensorProtocol, new: Array) -> None:
    shape = tuple(int(length) for length in old.shape.numpy())
    if shape != new.shape or old.dtype.numpy() != new.dtype:
        raise InjectionError(
            f"tensor {name!r} is {new.dtype} {new.shape}, the graph needs {old.dtype.numpy()}"
            f" {shape}; cut the state at the template's width"
        )
