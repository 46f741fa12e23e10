"""When a device times itself anew."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.load_watch import CHANGED, ROUNDS, LoadWatch


def watch(*ratios, expected=2.0):
    found = LoadWatch()
    for ratio in ratios:
        found = found.after(expected, expected * ratio)
    return found


def test_the_first_rounds_say_what_is_normal():
    assert not watch(7.0, 7.0, 7.0).changed
    assert not watch(7.0, 7.0, 7.0, 7.2, 6.9, 7.1).changed


def test_trainings_that_take_longer_for_some_rounds_are_a_change():
    steady = (1.1,) * ROUNDS
    assert not watch(*steady, 2.5).changed
    assert not watch(*steady, 2.0, 2.0, 2.0).changed
    assert watch(*steady, 2.5, 2.5).changed
    assert watch(*steady, 0.5, 0.5).changed


@given(st.lists(st.floats(1.0, CHANGED * 0.99), max_size=20))
def test_noise_within_the_threshold_never_is(ratios):
    assert not watch(*ratios).changed


@pytest.mark.parametrize(
    ("expected", "took"),
    [(0.0, 1.0), (1.0, 0.0), (-1.0, 1.0), (math.nan, 1.0), (1.0, math.inf), (math.inf, 1.0)],
)
def test_durations_that_are_none_say_nothing(expected, took):
    assert LoadWatch().after(expected, took) == LoadWatch()
