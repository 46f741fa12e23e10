"""What passes do to a graph, before and after its weights are in it, and what bytes come out."""

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from exporter.export import export_width
from exporter.initialisation import WithoutInitialValues
from exporter.passes import fold_weights, prepare
from exporter.serialise import LARGE, to_bytes
from exporter.templates import TemplateCache
from slimmable.evaluation import initial_state
from slimmable.from_module import slimmable_from_module
from slimmable.model import ModelInput
from slimmable.task import regression

pytestmark = pytest.mark.torch

RNG = np.random.default_rng(0)
KERNEL = RNG.standard_normal((6, 2, 3)).astype(np.float32)
NORM = {
    name: RNG.uniform(0.5, 1.5, 6).astype(np.float32) for name in ("scale", "shift", "mean", "var")
}


def model_of(nodes, inputs, outputs, weights):
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(*one) for one in inputs],
        [helper.make_tensor_value_info(*one) for one in outputs],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def convolution():
    """Return a convolution with a computed zero bias and a batch norm, as a traced graph has it."""
    nodes = [
        helper.make_node("Expand", ["zero", "six"], ["bias"]),
        helper.make_node("Conv", ["x", "kernel", "bias"], ["y"]),
        helper.make_node("BatchNormalization", ["y", "scale", "shift", "mean", "var"], ["z"]),
    ]
    constants = {"zero": np.zeros(1, dtype=np.float32), "six": np.array([6])}
    return model_of(
        nodes,
        [("x", TensorProto.FLOAT, ["batch", 2, 9])],
        [("z", TensorProto.FLOAT, ["batch", 6, 7])],
        {**constants, "kernel": KERNEL, **NORM},
    )


def transposed(*, read_twice):
    """Return a product with the transpose of a weight, which a lookup may read too."""
    table = RNG.standard_normal((300, 40)).astype(np.float32)
    nodes = [
        helper.make_node("Transpose", ["table"], ["turned"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "turned"], ["z"]),
    ]
    if read_twice:
        nodes.insert(0, helper.make_node("Gather", ["table", "rows"], ["x"]))
    x = ("rows", TensorProto.INT64, ["batch"]) if read_twice else ("x", 1, ["batch", 40])
    return model_of(nodes, [x], [("z", TensorProto.FLOAT, ["batch", 300])], {"table": table})


def run(file, feed):
    return onnxruntime.InferenceSession(file).run(None, feed)[0]


def operators(graph):
    return [node.op_type for node in graph.graph]


def test_preparing_leaves_every_weight_by_its_name_and_folds_what_needs_none():
    graph = onnx_ir.from_proto(convolution())
    prepare(graph, ["kernel", *NORM])

    assert operators(graph) == ["Conv", "BatchNormalization"]
    assert [value.name for value in graph.graph.inputs] == ["x"]
    for name, array in {"kernel": KERNEL, **NORM}.items():
        found = graph.graph.initializers[name].const_value.numpy()
        np.testing.assert_array_equal(found, array)


def test_with_the_weights_in_the_batch_norm_disappears_and_the_result_stays():
    graph = onnx_ir.from_proto(convolution())
    prepare(graph, ["kernel", *NORM])
    fold_weights(graph)
    x = RNG.standard_normal((3, 2, 9)).astype(np.float32)

    assert operators(graph) == ["Conv"]
    expected = run(convolution().SerializeToString(), {"x": x})
    np.testing.assert_allclose(run(to_bytes(graph), {"x": x}), expected, atol=1e-5)


@pytest.mark.parametrize(("form", "fused"), [("none", "Gelu"), ("tanh", "FastGelu")])
def test_onnx_runtime_recognises_a_gelu(form, fused, tmp_path):
    network = nn.Sequential(nn.Linear(4, 8), nn.GELU(approximate=form), nn.Linear(8, 2))
    model = slimmable_from_module("gelu", network, (ModelInput((4,)),), regression())
    exported = export_width(model, 1.0, initial_state(model, 0), TemplateCache(tmp_path))
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(exported.onnx, options, providers=["CPUExecutionProvider"])
    optimised = onnx.load(tmp_path / "optimised.onnx")
    assert any(node.op_type.endswith(fused) for node in optimised.graph.node)


def test_a_weight_that_is_only_rearranged_is_kept_rearranged():
    graph = onnx_ir.from_proto(transposed(read_twice=False))
    fold_weights(graph)

    assert operators(graph) == ["MatMul"]
    (held,) = graph.graph.initializers.values()
    assert held.const_value.shape.numpy() == (40, 300)


def test_a_weight_that_is_also_read_as_it_stands_is_not_there_twice():
    model = transposed(read_twice=True)
    graph = onnx_ir.from_proto(model)
    fold_weights(graph)

    assert sorted(operators(graph)) == ["Gather", "MatMul", "Transpose"]
    assert len(to_bytes(graph)) < 1.01 * len(model.SerializeToString())


SHAPES = st.lists(st.integers(1, 40), max_size=3)


@given(st.lists(st.tuples(SHAPES, st.sampled_from(["float32", "int64", "bool", "float16"]))))
def test_the_bytes_are_those_of_the_graph(tensors):
    weights = {
        f"w{number}": np.asarray(RNG.integers(-9, 9, shape), dtype=dtype)
        for number, (shape, dtype) in enumerate(tensors)
    }
    whole = {"big": np.arange(LARGE, dtype=np.float32), **weights}
    graph = onnx_ir.from_proto(
        model_of(
            [helper.make_node("Identity", ["x"], ["z"])], [("x", 1, [3])], [("z", 1, [3])], whole
        )
    )
    names = list(graph.graph.initializers)
    file = to_bytes(graph)
    read = onnx.load_from_string(file)

    assert to_bytes(graph) == file
    assert list(graph.graph.initializers) == names
    assert [node.op_type for node in read.graph.node] == ["Identity"]
    assert (read.ir_version, read.graph.name) == (8, "graph")
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in read.graph.initializer}
    assert found.keys() == whole.keys()
    for name, array in whole.items():
        np.testing.assert_array_equal(found[name], array, strict=True)


def test_parameters_are_left_unset_and_everything_else_is_as_ever():
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(512, 512)
            self.register_buffer("noise", torch.empty(8).normal_(), persistent=False)

    before = torch.get_rng_state()
    torch.manual_seed(3)
    with WithoutInitialValues():
        network = Noisy()
    torch.manual_seed(3)
    expected = torch.empty(8).normal_()
    torch.set_rng_state(before)

    # Nothing was drawn for the parameters, so the buffer got the first numbers of the seed.
    assert torch.equal(network.noise, expected)
    assert isinstance(network.fc.weight, nn.Parameter)
    assert network.fc.weight.shape == (512, 512)
