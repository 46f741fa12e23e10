"""Weights go into a template by name, and both sides must agree on the names."""

import numpy as np
import onnx_ir
import pytest
from onnx import TensorProto, helper

from exporter.errors import InjectionError
from exporter.injection import inject
from exporter.tracing import template_of

pytestmark = pytest.mark.torch

STATE = {
    "gamma": np.array([1.0, 2.0, 3.0], dtype=np.float32),
    "beta": np.array([4.0, 5.0, 6.0], dtype=np.float32),
    "gain": np.array([7.0], dtype=np.float32),
}


def weight(name, shape, type_=TensorProto.FLOAT):
    """Return an initializer whose values stem from tracing."""
    return helper.make_tensor(name, type_, shape, np.zeros(shape, dtype=np.float32))


def value(name, numbers):
    return helper.make_tensor(name, TensorProto.FLOAT, [len(numbers)], numbers)


def template(initializers, *, second="beta", used=("gamma", "beta", "gain"), constants=()):
    """Return the template of ``x * gamma + <second> * gain``."""
    nodes = [
        helper.make_node("Mul", ["x", "gamma"], ["scaled"]),
        helper.make_node("Mul", [second, "gain"], ["offset"]),
        helper.make_node("Add", ["scaled", "offset"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "affine",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return template_of(
        onnx_ir.from_proto(model), frozenset(STATE), frozenset(used), frozenset(constants)
    )


WHOLE = (weight("gamma", [3]), weight("beta", [3]), weight("gain", [1]))


def test_every_tensor_of_the_state_takes_its_place():
    graph = inject(template(WHOLE), STATE)

    for name, array in STATE.items():
        np.testing.assert_array_equal(
            graph.graph.initializers[name].const_value.numpy(), array, strict=True
        )


def test_a_template_serves_again_after_an_injection():
    one = template(WHOLE)
    inject(one, STATE)
    graph = inject(one, {name: -array for name, array in STATE.items()})

    assert graph.graph.initializers["gamma"].const_value.numpy()[0] == -1.0


@pytest.mark.parametrize("name", STATE)
def test_a_state_that_lacks_a_weight_is_refused_even_if_it_is_a_single_number(name):
    lacking = {other: array for other, array in STATE.items() if other != name}
    with pytest.raises(InjectionError, match=name):
        inject(template(WHOLE), lacking)


def test_a_template_whose_equal_weights_were_merged_is_refused():
    merged = template((weight("gamma", [3]), weight("gain", [1])), second="gamma")
    with pytest.raises(InjectionError, match="beta"):
        inject(merged, STATE)


def test_a_weight_of_unknown_origin_is_refused():
    renamed = template(
        (weight("gamma", [3]), value("beta_folded", [1.0, 1.0, 1.0]), weight("gain", [1])),
        second="beta_folded",
        used=("gamma", "gain"),
    )
    with pytest.raises(InjectionError, match="beta_folded"):
        inject(renamed, STATE)


def test_a_declared_constant_of_the_network_may_stay():
    known = template(
        (weight("gamma", [3]), value("centre", [1.0, 1.0, 1.0]), weight("gain", [1])),
        second="centre",
        used=("gamma", "gain"),
        constants=("centre",),
    )
    graph = inject(known, STATE)
    assert graph.graph.initializers["centre"].const_value.numpy().tolist() == [1.0, 1.0, 1.0]


def test_a_single_number_of_an_operator_may_stay():
    floats = template(
        (weight("gamma", [3]), value("epsilon", [1e-5]), weight("gain", [1])),
        second="epsilon",
        used=("gamma", "gain"),
    )
    graph = inject(floats, STATE)
    assert graph.graph.initializers["epsilon"].const_value.numpy().tolist() == [np.float32(1e-5)]


@pytest.mark.parametrize("shape", [[2], [3, 1], [4]])
def test_a_weight_of_another_shape_is_refused(shape):
    with pytest.raises(InjectionError, match=r"gamma.*cut the state"):
        inject(template((weight("gamma", shape), *WHOLE[1:])), STATE)


def test_a_weight_of_another_type_is_refused():
    doubled = {**STATE, "gamma": STATE["gamma"].astype(np.float64)}
    with pytest.raises(InjectionError, match="float64"):
        inject(template(WHOLE), doubled)
