import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimmable.cost import model_bytes, payload_bytes, value_count
from slimmable.slicing import check_state, coverage, slice_array, slice_state, slice_within
from slimmable.spec import AxisTerm, ConcatTerm, ProductTerm, SpecError, WidthSpec
from slimmable.state import StateError, decode_state, digest, encode_state
from slimmable.width import Axis

widths = st.floats(0.01, 1.0)
CHANNELS, PIXELS, SKIP, CLASSES = AxisTerm(0), AxisTerm(1), AxisTerm(2), AxisTerm(3)
SPEC = WidthSpec(
    axes=(
        Axis(8, scales=True, granule=2),
        Axis(3, scales=False),
        Axis(5, scales=True),
        Axis(4, scales=False),
    ),
    tensors={
        "conv": (CHANNELS, CLASSES),
        "fc": (CLASSES, ProductTerm((PIXELS, CHANNELS))),
        "join": (ConcatTerm((CHANNELS, SKIP)), CHANNELS),
        "scalar": (),
        "mean": (CHANNELS,),
    },
    statistics=frozenset({"mean"}),
)


def full_state():
    """Return a state in which every value says where it stands."""
    return {
        name: np.arange(value_count(SPEC, 1.0, [name]), dtype=np.float32).reshape(
            SPEC.shape(name, 1.0)
        )
        for name in SPEC.tensors
    }


@given(widths)
def test_a_slice_holds_the_entries_that_the_spec_names(width):
    cut = slice_state(full_state(), SPEC, width)
    check_state(cut, SPEC, width)
    for name, array in cut.items():
        assert array.flags.c_contiguous
        expected = full_state()[name]
        for dim, kept in enumerate(SPEC.indices(name, width)):
            expected = np.take(expected, kept, axis=dim)
        np.testing.assert_array_equal(array, expected)


@given(widths, widths, widths)
def test_slicing_twice_is_slicing_once(one, other, third):
    narrow, middle, wide = sorted((one, other, third))
    state = slice_state(full_state(), SPEC, wide)
    direct = slice_within(state, SPEC, narrow, wide)
    stepwise = slice_within(slice_within(state, SPEC, middle, wide), SPEC, narrow, middle)
    straight = slice_state(full_state(), SPEC, narrow)
    for name in SPEC.tensors:
        np.testing.assert_array_equal(direct[name], straight[name])
        np.testing.assert_array_equal(stepwise[name], straight[name])


@given(widths)
def test_coverage_puts_a_slice_back_where_it_was_cut(width):
    cut = slice_state(full_state(), SPEC, width)
    for name, array in full_state().items():
        held = np.zeros(array.shape, dtype=bool)
        held[coverage(SPEC, name, width)] = True
        assert held.sum() == cut[name].size
        again = np.full_like(array, -1.0)
        again[coverage(SPEC, name, width)] = cut[name]
        np.testing.assert_array_equal(again[held], array[held])
        assert (again[~held] == -1).all()


def test_a_prefix_is_cut_without_a_copy_and_a_slice_of_a_state_is_a_copy():
    array = np.zeros((4, 4))
    prefix = (np.arange(2), np.arange(4))
    assert np.shares_memory(slice_array(array, prefix), array)
    state = full_state()
    assert not np.shares_memory(slice_state(state, SPEC, 1.0)["conv"], state["conv"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conv": None}, "'conv' is missing"),
        ({"conv": np.zeros((8, 5))}, r"'conv' has shape \(8, 5\), width 1.0 needs \(8, 4\)"),
        ({"scalar": np.zeros(1)}, "'scalar' has shape"),
        ({"more": np.zeros(1)}, "'more' is not in the width spec"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_by_the_tensors_name(change, message):
    state = {**full_state(), **change}
    state = {name: array for name, array in state.items() if array is not None}
    with pytest.raises(SpecError, match=message):
        slice_state(state, SPEC, 0.5)


def test_a_state_of_another_width_is_not_cut_further():
    with pytest.raises(SpecError, match="width 0.5 needs"):
        slice_within(full_state(), SPEC, 0.25, 0.5)
    with pytest.raises(SpecError, match="does not lie inside"):
        slice_within(slice_state(full_state(), SPEC, 0.25), SPEC, 0.5, 0.25)


def test_a_part_of_a_state_can_be_checked_and_cut():
    part = {name: full_state()[name] for name in SPEC.parameters}
    check_state(part, SPEC, 1.0, names=SPEC.parameters)
    with pytest.raises(SpecError, match="'mean' is missing"):
        check_state(part, SPEC, 1.0)
    assert set(slice_within(part, SPEC, 0.5, 1.0)) == set(SPEC.parameters)


@given(widths)
def test_the_predicted_payload_is_the_size_that_travels(width):
    cut = slice_state(full_state(), SPEC, width)
    assert payload_bytes(SPEC, width) == len(encode_state(cut))
    trained = {name: cut[name] for name in SPEC.parameters}
    assert payload_bytes(SPEC, width, SPEC.parameters) == len(encode_state(trained))
    assert model_bytes(SPEC, width) == sum(array.nbytes for array in cut.values())
    assert value_count(SPEC, width, SPEC.parameters) == SPEC.parameter_count(width)


def test_a_state_survives_its_bytes_and_equal_states_have_equal_bytes():
    state = full_state()
    backwards = {name: np.asarray(state[name], order="F") for name in reversed(list(state))}
    assert encode_state(state) == encode_state(backwards)
    again = decode_state(encode_state(state))
    assert digest(encode_state(again)) == digest(encode_state(state))
    for name, array in state.items():
        assert again[name].shape == array.shape
        np.testing.assert_array_equal(again[name], array)


@given(st.binary(max_size=40))
def test_garbled_bytes_are_no_state(payload):
    with pytest.raises(StateError):
        decode_state(payload)


@given(st.data())
def test_a_garbled_state_is_refused_or_read_and_nothing_else(data):
    payload = bytearray(encode_state({"a": np.ones((2, 2), np.float32)}))
    for _ in range(data.draw(st.integers(1, 3))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    try:
        state = decode_state(bytes(payload))
    except StateError:
        return
    assert sum(array.nbytes for array in state.values()) <= len(payload)
