"""What a width costs that was not measured."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.interpolation import STEEPEST, completed, forecast_step
from profiler.profile import WidthCost

MIB = 2**20
NARROW, WIDE = WidthCost(0.25, 0.1, 300 * MIB), WidthCost(1.0, 1.6, 600 * MIB)
costs = st.builds(
    WidthCost,
    width=st.floats(0.01, 1.0),
    step_s=st.floats(1e-6, 1e3),
    peak_bytes=st.integers(1, 2**40),
)


def test_half_way_between_two_powers_lies_the_power_between():
    # 0.25 -> 1 is four times the width and 16 times the time: a square.
    [_, half, _] = completed([WIDE, NARROW], (0.25, 0.5, 1.0))
    assert half.step_s == pytest.approx(0.4)
    assert half.peak_bytes == 400 * MIB
    assert (half.width, half.interpolated, half.timed_steps) == (0.5, True, 0)


def test_the_published_figures_of_a_resnet_are_met_within_five_percent():
    # Steps of a ResNet-18 at 0.5 and 1 take 407 and 1438 ms; at 0.75 they were measured at 817.
    known = [WidthCost(0.5, 0.407, 234 * MIB), WidthCost(1.0, 1.438, 471 * MIB)]
    between = completed(known, (0.75,))[1]
    assert between.step_s == pytest.approx(0.817, rel=0.05)
    assert 344 * MIB <= between.peak_bytes <= 360 * MIB  # measured: 344, and never below


def test_nothing_is_made_up_outside_of_what_was_measured():
    assert completed([NARROW, WIDE], (0.125, 0.25, 1.0)) == (NARROW, WIDE)
    assert completed([NARROW], (0.25, 0.5, 1.0)) == (NARROW,)
    assert completed([], (0.25, 0.5)) == ()


@given(st.lists(costs, min_size=1, max_size=5, unique_by=lambda one: one.width), st.floats(0.01, 1))
def test_an_interpolated_width_costs_between_its_neighbours(measured, width):
    found = completed(measured, (width,))
    assert [one.width for one in found] == sorted({one.width for one in found})
    assert set(measured) <= set(found)
    for below, one, above in zip(found, found[1:], found[2:], strict=False):
        if one.interpolated:
            low, high = sorted((below.step_s, above.step_s))
            assert low * 0.999 <= one.step_s <= high * 1.001
            low, high = sorted((below.peak_bytes, above.peak_bytes))
            assert low <= one.peak_bytes <= high


def test_a_wider_width_is_forecast_by_the_steepest_power_and_then_by_the_measured_one():
    assert forecast_step([NARROW], 0.5) == pytest.approx(0.1 * 2**STEEPEST)
    linear = [WidthCost(0.25, 0.1, 1), WidthCost(0.5, 0.2, 1)]
    assert forecast_step(linear, 1.0) == pytest.approx(0.4)
    odd = [WidthCost(0.25, 0.3, 1), WidthCost(0.5, 0.2, 1)]
    assert forecast_step(odd, 1.0) == pytest.approx(0.2)
