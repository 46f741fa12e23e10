import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimmable.width import Axis, WidthError, WidthGrid, spread_out

widths = st.floats(0.001, 1.0)
sizes = st.integers(1, 600)
granules = st.integers(1, 32)


@given(sizes, granules, widths, widths)
def test_a_wider_width_never_keeps_fewer(size, granule, one, other):
    axis = Axis(size, scales=True, granule=granule)
    assert axis.keep(min(one, other)) <= axis.keep(max(one, other))


@given(sizes, granules)
def test_the_full_width_keeps_everything(size, granule):
    assert Axis(size, scales=True, granule=granule).keep(1.0) == size


@given(sizes, granules, widths)
def test_what_is_kept_is_a_multiple_of_the_granule_or_the_whole(size, granule, width):
    kept = Axis(size, scales=True, granule=granule).keep(width)
    assert 1 <= kept <= size
    if size >= granule:
        assert kept == size or (kept >= granule and kept % granule == 0)


@given(st.integers(32, 600), granules, widths)
def test_rounding_moves_a_length_by_at_most_half_a_granule(size, granule, width):
    kept = Axis(size, scales=True, granule=granule).keep(width)
    if kept > granule:
        assert abs(kept - size * width) <= granule / 2 + 1e-6


@given(sizes, granules, widths)
def test_a_fixed_axis_keeps_its_length(size, granule, width):
    assert Axis(size, scales=False, granule=granule).keep(width) == size


@pytest.mark.parametrize(
    ("size", "granule", "width", "kept"),
    [
        (64, 16, 0.25, 16),
        (64, 16, 0.375, 32),  # 24 lies half-way: up
        (24, 8, 0.5, 16),  # 12 lies half-way: up
        (64, 16, 0.01, 16),  # at least one granule
        (10, 16, 0.5, 5),  # shorter than a granule: no rounding
        (9, 4, 1.0, 9),  # the granule does not divide it
        (9, 4, 0.99, 8),
    ],
)
def test_a_length_is_rounded_half_up(size, granule, width, kept):
    assert Axis(size, scales=True, granule=granule).keep(width) == kept


@pytest.mark.parametrize("width", [0.0, -0.5, 1.0001, math.nan, math.inf])
def test_a_width_outside_zero_to_one_is_refused(width):
    with pytest.raises(WidthError, match="outside"):
        Axis(8, scales=True).keep(width)


@pytest.mark.parametrize(("size", "granule"), [(0, 1), (4, 0), (-1, 1)])
def test_an_axis_without_length_is_refused(size, granule):
    with pytest.raises(WidthError):
        Axis(size, scales=True, granule=granule)


@pytest.mark.parametrize(
    "wrong",
    [(), (0.5,), (0.5, 0.5, 1.0), (1.0, 0.5), (0.0, 1.0), (-1.0, 1.0), (0.5, 2.0), (math.nan, 1.0)],
)
def test_a_grid_that_is_not_ascending_to_one_is_refused(wrong):
    with pytest.raises(WidthError, match="grid"):
        WidthGrid(wrong)


def test_a_grid_says_what_lies_inside_a_width():
    grid = WidthGrid.of([1, 0.25, 0.5, 0.25])
    assert grid.widths == (0.25, 0.5, 1.0)
    assert grid.narrowest == 0.25
    assert grid.up_to(0.6) == (0.25, 0.5)
    assert grid.up_to(0.1) == ()


def test_a_grid_refuses_a_width_that_it_does_not_offer():
    grid = WidthGrid((0.5, 1.0))
    assert grid.check(0.5) == 0.5
    with pytest.raises(WidthError, match=r"choose one of \[0.5, 1.0\]"):
        grid.check(0.75)


@given(st.lists(widths, min_size=1, max_size=20, unique=True).map(sorted), st.integers(0, 25))
def test_widths_spread_out_hold_both_ends_and_are_no_more_than_asked_for(offered, most):
    chosen = spread_out(offered, most)
    assert list(chosen) == sorted(set(chosen))
    assert set(chosen) <= set(offered)
    assert len(chosen) == (min(most, len(offered)) if most else len(offered))
    assert chosen[-1] == offered[-1]
    assert most == 1 or chosen[0] == offered[0]


def test_widths_between_are_evenly_spread():
    assert spread_out([0.1, 0.2, 0.3, 0.4, 1.0], 3) == (0.1, 0.3, 1.0)
