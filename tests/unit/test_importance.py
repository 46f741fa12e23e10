import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimmable.importance import (
    inverse,
    magnitude_importance,
    occurrences,
    order_of,
    reorder,
    taylor_importance,
    term_order,
)
from slimmable.slicing import slice_state
from slimmable.spec import AxisTerm, ConcatTerm, ProductTerm, WidthSpec
from slimmable.width import Axis

WIDTHS = (0.25, 0.5, 0.75, 1.0)


@st.composite
def terms(draw, fixed, scaling, depth=2):
    kinds = ["fixed", "scaling"] + (["product", "concat"] if depth else [])
    kind = draw(st.sampled_from(kinds))
    if kind == "fixed":
        return AxisTerm(draw(st.sampled_from(fixed)))
    if kind == "scaling":
        return AxisTerm(draw(st.sampled_from(scaling)))
    if kind == "concat":
        return ConcatTerm(
            tuple(draw(st.lists(terms(fixed, scaling, depth - 1), min_size=1, max_size=3)))
        )
    before = [AxisTerm(axis) for axis in draw(st.lists(st.sampled_from(fixed), max_size=1))]
    after = [AxisTerm(axis) for axis in draw(st.lists(st.sampled_from(fixed), max_size=1))]
    return ProductTerm((*before, draw(terms(fixed, scaling, depth - 1)), *after))


@st.composite
def specs(draw):
    axes = tuple(
        Axis(draw(st.integers(1, 6)), scales=number >= 2, granule=draw(st.sampled_from([1, 2])))
        for number in range(4)
    )
    dims = st.lists(terms([0, 1], [2, 3]), min_size=1, max_size=2)
    tensors = {f"tensor{number}": tuple(draw(dims)) for number in range(draw(st.integers(1, 3)))}
    return WidthSpec(axes, tensors)


@st.composite
def ordered(draw):
    spec = draw(specs())
    order = {
        axis: np.array(draw(st.permutations(range(spec.axes[axis].size))), dtype=np.intp)
        for axis in (2, 3)
        if draw(st.booleans())
    }
    return spec, order


def counting(spec):
    """Return a state whose values are all distinct."""
    start, state = 0, {}
    for name in spec.tensors:
        shape = spec.shape(name, 1.0)
        count = int(np.prod(shape))
        state[name] = np.arange(start, start + count, dtype=np.float32).reshape(shape)
        start += count
    return state


def equal(one, other):
    assert one.keys() == other.keys()
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name])


@given(ordered())
def test_an_order_and_its_inverse_give_the_state_back(case):
    spec, order = case
    state = counting(spec)
    equal(reorder(reorder(state, spec, order), spec, inverse(order)), state)


@given(ordered())
def test_the_order_of_a_dimension_is_a_permutation_of_its_indices(case):
    spec, order = case
    for name, dims in spec.tensors.items():
        for term, length in zip(dims, spec.shape(name, 1.0), strict=True):
            found = term_order(term, spec, order)
            np.testing.assert_array_equal(np.sort(found), np.arange(length))


@given(ordered())
def test_places_of_a_dimension_hold_the_entry_that_the_order_put_there(case):
    spec, order = case
    for place in occurrences(spec):
        term = spec.dims(place.tensor)[place.dim]
        moved = place.entries[term_order(term, spec, order)]
        asked = order.get(place.axis, np.arange(spec.axes[place.axis].size))
        expected = np.where(place.entries < 0, -1, asked[place.entries])
        np.testing.assert_array_equal(moved, expected)


@given(ordered(), st.sampled_from(WIDTHS))
def test_a_slice_of_the_ordered_state_holds_the_entries_that_were_put_first(case, width):
    spec, order = case
    cut = slice_state(reorder(counting(spec), spec, order), spec, width)
    for place in occurrences(spec):
        asked = order.get(place.axis, np.arange(spec.axes[place.axis].size))
        chosen = set(asked[: spec.axes[place.axis].keep(width)].tolist())
        indices = np.isin(place.entries, [-1, *chosen])
        full = counting(spec)[place.tensor].compress(indices, axis=place.dim)
        assert set(cut[place.tensor].ravel()) <= set(full.ravel())


@given(ordered())
def test_importance_moves_with_the_entries(case):
    spec, order = case
    state = counting(spec)
    before = magnitude_importance(state, spec)
    after = magnitude_importance(reorder(state, spec, order), spec)
    for axis, values in before.items():
        np.testing.assert_allclose(
            after[axis], values[order.get(axis, np.arange(len(values)))], rtol=1e-9
        )


def layer():
    """A hidden axis of 3 between a matrix into it and one out of it; its bias."""
    axes = (Axis(2, scales=False), Axis(3, scales=True), Axis(2, scales=False))
    tensors = {
        "in": (AxisTerm(1), AxisTerm(0)),
        "bias": (AxisTerm(1),),
        "out": (AxisTerm(2), AxisTerm(1)),
    }
    return WidthSpec(axes, tensors)


def test_magnitude_adds_up_all_tensors_of_a_group_each_by_its_own_mean():
    state = {
        "in": np.array([[3.0, 4.0], [0.0, 0.0], [5.0, 0.0]], dtype=np.float32),
        "bias": np.zeros(3, dtype=np.float32),
        "out": np.array([[1.0, 2.0, 0.0], [0.0, 0.0, 0.0]], dtype=np.float32),
    }
    found = magnitude_importance(state, layer())
    np.testing.assert_allclose(
        found[1], np.array([25, 0, 25]) * 3 / 50 + np.array([1, 4, 0]) * 3 / 5
    )
    np.testing.assert_array_equal(order_of(found)[1], [1, 0, 2])


def test_taylor_squares_the_sum_of_each_tensor_and_takes_the_mean_over_batches():
    first = {
        "in": np.array([[1.0, -1.0], [2.0, 0.0], [0.0, 1.0]]),
        "bias": np.array([0.0, 0.0, 3.0]),
        "out": np.zeros((2, 3)),
    }
    second = {name: np.zeros_like(values) for name, values in first.items()}
    second["out"] = np.array([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    found = taylor_importance([first, second], layer())
    np.testing.assert_allclose(found[1], [4 / 2, 4 / 2, (1 + 9) / 2])
    np.testing.assert_array_equal(order_of(found)[1], [2, 0, 1])


def test_taylor_without_batches_is_refused():
    with pytest.raises(ValueError, match="no batch"):
        taylor_importance([], layer())


def test_groups_and_gates_move_as_a_whole():
    # Axes: 0 gates, 1 hidden, 2 groups, 3 channels of a group.
    axes = (
        Axis(2, scales=False),
        Axis(3, scales=True),
        Axis(2, scales=True),
        Axis(2, scales=False),
    )
    spec = WidthSpec(
        axes,
        {
            "recurrent": (ProductTerm((AxisTerm(0), AxisTerm(1))), AxisTerm(1)),
            "grouped": (ProductTerm((AxisTerm(2), AxisTerm(3))),),
        },
    )
    order = {1: np.array([2, 0, 1]), 2: np.array([1, 0])}
    moved = reorder(counting(spec), spec, order)
    rows = [2, 0, 1, 5, 3, 4]  # within each gate
    np.testing.assert_array_equal(
        moved["recurrent"], counting(spec)["recurrent"][rows][:, [2, 0, 1]]
    )
    np.testing.assert_array_equal(moved["grouped"], counting(spec)["grouped"][[2, 3, 0, 1]])


def test_two_directions_count_together():
    axes = (Axis(2, scales=True),)
    spec = WidthSpec(axes, {"next": (ConcatTerm((AxisTerm(0), AxisTerm(0))),)})
    found = magnitude_importance({"next": np.array([1.0, 0.0, 1.0, 2.0])}, spec)
    np.testing.assert_allclose(found[0], np.array([2, 4]) / 3)


def test_what_is_no_order_is_refused():
    with pytest.raises(ValueError, match="axis 1: not an order of 3 entries"):
        reorder(counting(layer()), layer(), {1: np.array([0, 0, 1])})
