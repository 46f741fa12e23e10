"""Which entries a width holds in a window, by hand and against a walk over rounds."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimmable.slicing import coverage, slice_state
from slimmable.spec import AxisTerm, ConcatTerm, ProductTerm, WidthSpec
from slimmable.width import Axis
from slimmable.window import PREFIX, Window, WindowKind
from tests.unit.test_aggregation import SPEC, WIDTHS, random_state

NUMBERS = st.integers(0, 2**40)
KINDS = st.sampled_from(list(WindowKind))
WINDOWS = st.builds(Window, KINDS, NUMBERS)
AXES = st.builds(Axis, st.integers(1, 70), st.just(value=True), st.sampled_from([1, 2, 4, 8, 16]))
SOME_WIDTH = st.floats(0.01, 1.0)


def rolling(number):
    return Window(WindowKind.ROLLING, number)


def test_a_rolling_window_moves_by_one_channel_a_round_and_wraps():
    axis = Axis(5, scales=True)
    found = [rolling(number).kept(axis, 0, 0.6).tolist() for number in range(6)]
    assert found == [[0, 1, 2], [1, 2, 3], [2, 3, 4], [0, 3, 4], [0, 1, 4], [0, 1, 2]]


def test_a_rolling_window_moves_by_one_granule_where_the_axis_has_one():
    axis = Axis(12, scales=True, granule=4)
    found = [rolling(number).kept(axis, 0, 0.3).tolist() for number in range(4)]
    assert found == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [0, 1, 2, 3]]


def test_an_axis_smaller_than_its_granule_moves_by_one():
    axis = Axis(3, scales=True, granule=8)
    assert rolling(1).kept(axis, 0, 0.5).tolist() == [1, 2]


def test_axes_that_do_not_scale_keep_all_in_every_window():
    axis = Axis(4, scales=False)
    for kind in WindowKind:
        assert Window(kind, 3).kept(axis, 0, 0.25).tolist() == [0, 1, 2, 3]


@given(AXES, WINDOWS, SOME_WIDTH, st.integers(0, 9))
def test_a_window_keeps_as_many_entries_as_the_prefix_in_ascending_order(axis, window, width, at):
    found = window.kept(axis, at, width)
    assert len(found) == axis.keep(width)
    assert (np.diff(found) > 0).all()
    assert found[0] >= 0
    assert found[-1] < axis.size


@given(AXES, WINDOWS, SOME_WIDTH, SOME_WIDTH, st.integers(0, 9))
def test_narrower_sub_models_of_one_window_lie_inside_wider_ones(axis, window, one, other, at):
    narrow, wide = sorted((one, other))
    assert set(window.kept(axis, at, narrow)) <= set(window.kept(axis, at, wide))


@given(AXES, SOME_WIDTH, NUMBERS)
def test_rolling_windows_cover_every_entry_in_as_many_rounds_as_there_are_granules(
    axis, width, start
):
    granule = axis.granule if axis.granule < axis.size else 1
    rounds = math.ceil(axis.size / granule)
    held = [rolling(start + n).kept(axis, 0, width) for n in range(rounds)]
    assert set(np.concatenate(held)) == set(range(axis.size))


@given(st.integers(1, 40), SOME_WIDTH)
def test_in_a_full_turn_a_rolling_window_holds_every_channel_equally_often(size, width):
    axis = Axis(size, scales=True)
    held = np.concatenate([rolling(n).kept(axis, 0, width) for n in range(size)])
    assert set(np.bincount(held, minlength=size)) == {axis.keep(width)}


def test_random_windows_differ_by_seed_and_by_axis_and_come_again():
    axis, other = Axis(32, scales=True), Window(WindowKind.RANDOM, 8)
    window = Window(WindowKind.RANDOM, 7)
    first = window.kept(axis, 0, 0.5).tolist()
    assert first == Window(WindowKind.RANDOM, 7).kept(axis, 0, 0.5).tolist()
    assert first != window.kept(axis, 1, 0.5).tolist()
    assert first != other.kept(axis, 0, 0.5).tolist()


def test_random_windows_hold_each_channel_about_as_often_as_the_width_says():
    axis = Axis(16, scales=True)
    rounds = 800
    held = [Window(WindowKind.RANDOM, n).kept(axis, 0, 0.25) for n in range(rounds)]
    shares = np.bincount(np.concatenate(held), minlength=16) / rounds
    assert np.abs(shares - 0.25).max() < 5 * math.sqrt(0.25 * 0.75 / rounds)


@given(WINDOWS, st.sampled_from(WIDTHS))
def test_an_axis_keeps_the_same_entries_wherever_it_stands(window, width):
    rows, _ = SPEC.indices("first.weight", width, window)
    _, flat = SPEC.indices("flat.weight", width, window)
    _, skip = SPEC.indices("skip.weight", width, window)
    assert flat.tolist() == [2 * row + pixel for row in rows for pixel in range(2)]
    assert skip.tolist() == [*rows, *(8 + row for row in rows)]


@given(WINDOWS, st.sampled_from(WIDTHS), st.integers(0, 2**32 - 1))
def test_cutting_and_putting_back_is_the_identity(window, width, seed):
    state = random_state(np.random.default_rng(seed))
    cut = slice_state(state, SPEC, width, window)
    for name in SPEC.tensors:
        assert cut[name].shape == SPEC.shape(name, width)
        back = np.full_like(state[name], np.nan)
        back[coverage(SPEC, name, width, window)] = cut[name]
        held = ~np.isnan(back)
        assert held.sum() == cut[name].size
        assert (back[held] == state[name][held]).all()


@given(st.integers(0, 2**32 - 1))
def test_the_full_width_is_the_whole_model_in_every_window(seed):
    state = random_state(np.random.default_rng(seed))
    for kind in WindowKind:
        cut = slice_state(state, SPEC, 1.0, Window(kind, seed))
        assert all((cut[name] == state[name]).all() for name in state)


@given(WINDOWS, st.sampled_from(WIDTHS))
def test_a_copy_of_a_spec_that_travelled_cuts_the_same(window, width):
    # Axes in another order than they appear in: the canonical form renumbers them.
    spec = WidthSpec(
        axes=(Axis(2, scales=False), Axis(24, scales=True), Axis(16, scales=True)),
        tensors={
            "a": (AxisTerm(2), AxisTerm(1)),
            "b": (ConcatTerm((AxisTerm(1), AxisTerm(2))),),
            "c": (ProductTerm((AxisTerm(2), AxisTerm(0))),),
        },
    )
    copy = WidthSpec.from_json(spec.to_json())
    assert copy.axes != spec.axes
    for name in spec.tensors:
        pairs = zip(
            spec.indices(name, width, window), copy.indices(name, width, window), strict=True
        )
        assert all((one == other).all() for one, other in pairs)


def test_the_default_window_is_the_prefix_of_old():
    for name in SPEC.tensors:
        for width in WIDTHS:
            pairs = zip(SPEC.indices(name, width), SPEC.indices(name, width, PREFIX), strict=True)
            assert all((one == other).all() for one, other in pairs)
    assert not PREFIX.moves


@pytest.mark.parametrize("wrong", [("sideways", 0), ("rolling", -1)])
def test_what_no_window_can_be_is_refused(wrong):
    with pytest.raises(ValueError, match=r"sideways|-1"):
        Window(*wrong)
