"""Passes over an ONNX graph, each changing it in place. Imports onnxscript."""

from collections.abc import Collection, Mapping
from typing import Any

import onnx_ir
from onnx_ir.passes import PassManager
from onnx_ir.passes import common as common_passes
from onnxscript import optimizer, rewriter
from onnxscript.rewriter import pattern
from onnxscript.rewriter.rules.common import (
    fuse_batchnorm_into_conv_rule,
    fuse_batchnorm_into_conv_transpose_rule,
    fuse_batchnorm_into_gemm_rule,
)

# The IR version that belongs to opset 18. Newer ones add nothing that we use, and ONNX Runtime
# 1.17 refuses version 10 outright.
IR_VERSION = 8
PRODUCER = "slimfleet"

# Operators that only put values in another order: what they make of a weight is no larger.
_REARRANGING = frozenset({"Concat", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"})
_BATCH_NORM_RULES = (
    fuse_batchnorm_into_conv_rule,
    fuse_batchnorm_into_conv_transpose_rule,
    fuse_batchnorm_into_gemm_rule,
)


def _gelu_as_traced(op: Any, x: Any, half: Any, root: Any, one: Any) -> Any:
    return op.Mul(x, op.Mul(half, op.Add(op.Erf(op.Div(x, root)), one)))


def _gelu_as_fused(op: Any, x: Any, half: Any, root: Any, one: Any) -> Any:
    return op.Mul(op.Mul(x, op.Add(op.Erf(op.Div(x, root)), one)), half)


def _tanh_gelu_as_traced(op: Any, x: Any, half: Any, inner: Any, one: Any) -> Any:
    return op.Mul(x, op.Mul(half, op.Add(op.Tanh(inner), one)))


def _tanh_gelu_as_fused(op: Any, x: Any, half: Any, inner: Any, one: Any) -> Any:
    return op.Mul(op.Add(op.Tanh(inner), one), op.Mul(x, half))


# The operator set has no GELU yet. ONNX Runtime recognises one written out, but only with the half
# in another place than torch puts it; unrecognised, it made transformers a tenth slower.
_GELU_RULES = pattern.RewriteRuleSet(
    [
        pattern.RewriteRule(_gelu_as_traced, _gelu_as_fused),
        pattern.RewriteRule(_tanh_gelu_as_traced, _tanh_gelu_as_fused),
    ]
)


def prepare(model: onnx_ir.Model, weights: Collection[str]) -> None:
    """Fold constants and fuse operators, as far as that needs no weights.

    For this the weights become inputs of the graph, which no pass may fold, merge or rename; so
    each is still there by its name and can be injected. A graph without this pass runs up to four
    times slower: it computes a zero bias per convolution at run time, which keeps ONNX Runtime from
    folding batch norms.
    """
    graph = model.graph
    held = [graph.initializers.pop(name) for name in list(graph.initializers) if name in weights]
    values = [value.const_value for value in held]
    for value in held:
        value.const_value = None
    graph.inputs.extend(held)
    optimizer.optimize(model)
    rewriter.rewrite(model)
    rewriter.rewrite(model, _GELU_RULES)
    strip_provenance(model)
    for value, content in zip(held, values, strict=True):
        graph.inputs.remove(value)
        value.const_value = content
        if value.uses():
            graph.initializers.add(value)


def fold_weights(model: onnx_ir.Model) -> None:
    """Do what needs the weights: batch norms disappear into their convolutions.

    Only ever after the weights are in: folding mixes them.
    """
    rewriter.rewrite(model, _BATCH_NORM_RULES)
    optimizer.fold_constants_ir(model, should_fold=_rearranges_weights)
    PassManager(
        [
            common_passes.RemoveUnusedNodesPass(),
            common_passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
            common_passes.NameFixPass(),
        ]
    )(model)


def strip_provenance(model: onnx_ir.Model) -> None:
    """Remove what the exporter noted about where nodes came from.

    Stack traces hold paths of the exporting machine, are larger than a small model's weights, and
    are only allowed from IR version 10 on.
    """
    graph = model.graph
    model.doc_string = None
    graph.doc_string = None
    model.metadata_props.clear()
    graph.metadata_props.clear()
    for value in (*graph.inputs, *graph.initializers.values()):
        _strip(value)
    for node in graph.all_nodes():
        _strip(node)
        for value in node.outputs:
            _strip(value)


def stamp(model: onnx_ir.Model, facts: Mapping[str, str]) -> None:
    """Write into the file what it is, so that it can be told from any other years later."""
    model.ir_version = IR_VERSION
    model.producer_name = PRODUCER
    model.producer_version = None
    model.graph.name = facts["slimfleet.model"]
    model.metadata_props.update(facts)


def _rearranges_weights(node: onnx_ir.Node) -> bool | None:
    """Tell whether to compute a node of constants now; None leaves it to the size of its inputs.

    A weight that is also read as it stands, such as an embedding tied to the output layer, would be
    in the file twice.
    """
    if node.op_type not in _REARRANGING or node.domain:
        return None
    readers = {reader.op_type for value in node.inputs if value for reader in value.consumers()}
    return True if readers <= _REARRANGING else None


def _strip(thing: onnx_ir.Node | onnx_ir.Value) -> None:
    thing.doc_string = None
    thing.metadata_props.clear()
