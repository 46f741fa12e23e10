"""Passes over an ONNX graph, each changing it in place. Imports onnxscript."""

from collections.abc import Mapping

import onnx_ir
from onnxscript import optimizer, rewriter

# The IR version that belongs to opset 18. Newer ones add nothing that we use, and ONNX Runtime
# 1.17 refuses version 10 outright.
IR_VERSION = 8
PRODUCER = "slimfleet"


def optimise(model: onnx_ir.Model) -> None:
    """Fold constants and fuse operators; batch norms disappear into their convolutions.

    An un-optimised graph runs up to four times slower: it computes a zero bias per convolution at
    run time, which keeps ONNX Runtime from folding the batch norms itself. Only ever after the
    weights are in: folding mixes them.
    """
    optimizer.optimize(model)
    rewriter.rewrite(model)


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


def _strip(thing: onnx_ir.Node | onnx_ir.Value) -> None:
    thing.doc_string = None
    thing.metadata_props.clear()
