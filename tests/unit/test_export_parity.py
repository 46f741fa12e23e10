"""A file that does not compute what torch computes is never released."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from exporter.errors import ParityError
from exporter.parity import check_parity
from exporter.sessions import open_session
from tests.fakes.toy_models import toy

pytestmark = pytest.mark.torch

CLASSES = ("calm", "busy", "broken")


class Affine(nn.Module):
    def __init__(self, weight, bias) -> None:
        super().__init__()
        self.register_buffer("weight", torch.from_numpy(weight))
        self.register_buffer("bias", torch.from_numpy(bias))

    def forward(self, x):
        return x @ self.weight + self.bias


WEIGHT = np.random.default_rng(1).standard_normal((4, 3)).astype(np.float32)
BIAS = np.array([0.1, -0.2, 0.3], dtype=np.float32)


def graph_of(weight=WEIGHT, bias=BIAS, batch="batch"):
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["input", "weight", "bias"], ["output"])],
        "affine",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, 4])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [batch, weight.shape[1]])],
        [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(bias, "bias")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def check(model: onnx.ModelProto, *, classes=(), weight=WEIGHT, bias=BIAS):
    return check_parity(model.SerializeToString(), Affine(weight, bias), toy(classes=classes))


def test_a_faithful_file_passes_and_its_difference_is_told():
    assert check(graph_of(), classes=CLASSES) < 1e-6


def test_an_altered_weight_is_noticed():
    altered = WEIGHT.copy()
    altered[2, 1] += 1e-3
    with pytest.raises(ParityError, match="differ by"):
        check(graph_of(altered))


def test_the_difference_is_measured_against_the_size_of_the_outputs():
    large = WEIGHT * 1e4
    nearly = large * np.float32(1 + 1e-5)
    assert 0.0 < check(graph_of(nearly, BIAS), weight=large) < 1e-4


def test_another_class_is_noticed_where_the_numbers_are_nearly_right():
    # All logits lie within the tolerance, so only the order of the classes gives it away.
    weight = np.zeros_like(WEIGHT)
    bias = np.array([2e-5, 0.0, 0.0], dtype=np.float32)
    with pytest.raises(ParityError, match="another class"):
        check(graph_of(weight, bias[::-1].copy()), classes=CLASSES, weight=weight, bias=bias)


def test_the_order_of_values_of_a_regression_does_not_matter():
    weight = np.zeros_like(WEIGHT)
    bias = np.array([2e-5, 0.0, 0.0], dtype=np.float32)
    assert check(graph_of(weight, bias[::-1].copy()), weight=weight, bias=bias) < 1e-4


def test_a_batch_size_baked_into_the_file_is_noticed():
    with pytest.raises(ParityError, match="batch of 3"):
        check(graph_of(batch=1))


def test_outputs_of_another_shape_are_noticed():
    with pytest.raises(ParityError, match="shape"):
        check(graph_of(WEIGHT[:, :2].copy(), BIAS[:2].copy()))


def test_weights_that_are_not_finite_are_noticed():
    broken = WEIGHT.copy()
    broken[0, 0] = np.nan
    with pytest.raises(ParityError, match="NaN"):
        check(graph_of(broken), weight=broken)


@pytest.mark.parametrize("damage", ["cut", "noise", "empty", "operator"])
def test_bytes_that_are_no_onnx_file_are_noticed(damage):
    model = graph_of()
    if damage == "operator":
        model.graph.node[0].op_type = "Gemmm"
    whole = model.SerializeToString()
    bytes_of = {"cut": whole[: len(whole) // 2], "noise": b"\xff" * 64, "empty": b""}
    with pytest.raises(ParityError, match="does not load"):
        check_parity(bytes_of.get(damage, whole), Affine(WEIGHT, BIAS), toy())


def test_a_file_that_differs_from_the_graph_as_traced_is_noticed():
    altered = WEIGHT.copy()
    altered[0, 0] += 1e-2
    file = graph_of().SerializeToString()
    same, other = (open_session(graph_of(w).SerializeToString()) for w in (WEIGHT, altered))

    assert check_parity(file, Affine(WEIGHT, BIAS), toy(), untouched=same) < 1e-6
    with pytest.raises(ParityError, match=r"ONNX Runtime and the graph as traced differ"):
        check_parity(file, Affine(WEIGHT, BIAS), toy(), untouched=other)
