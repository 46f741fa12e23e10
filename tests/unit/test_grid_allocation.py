"""The exact choice of widths, held against trying every one."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.grid_allocation import best_levels, objective
from coordinator.reward_rules import equal_gain_shift

worth = st.floats(-0.5, 1.5)
AVERSIONS = st.sampled_from([0.1, 0.5, 1.0, 2.0, 5.0, 30.0])


@st.composite
def games(draw):
    """Up to five groups of up to three devices, on up to five scores, with lower bounds."""
    scores = sorted(draw(st.sets(st.floats(0, 1), min_size=1, max_size=5)))
    values = draw(st.lists(st.lists(worth, min_size=1, max_size=3), min_size=1, max_size=5))
    level = st.integers(0, len(scores) - 1)
    floors = draw(st.lists(level, min_size=len(values), max_size=len(values)))
    return scores, values, floors


def gains_of(levels, scores, values):
    return [
        scores[level] - value
        for level, group in zip(levels, values, strict=True)
        for value in group
    ]


def least_of_all(scores, values, floors, aversion):
    """The smallest objective of every assignment that never falls, tried one by one."""
    return min(
        objective(gains_of(levels, scores, values), aversion)
        for levels in itertools.combinations_with_replacement(range(len(scores)), len(values))
        if all(level >= floor for level, floor in zip(levels, floors, strict=True))
    )


@settings(max_examples=300)
@given(games(), AVERSIONS)
def test_no_other_choice_is_better(game, aversion):
    scores, values, floors = game
    levels = best_levels(scores, values, floors, aversion)
    found = objective(gains_of(levels, scores, values), aversion)
    assert found == pytest.approx(least_of_all(scores, values, floors, aversion), abs=1e-9)
    assert list(levels) == sorted(levels)
    assert all(level >= floor for level, floor in zip(levels, floors, strict=True))


@given(st.lists(worth, min_size=2, max_size=12), st.integers(2, 8), st.floats(0.01, 1))
def test_a_small_aversion_gives_everybody_the_full_model(values, count, part):
    scores = np.linspace(0.4, 0.9, count).tolist()
    aversion = part / np.sqrt(len(values) - 1)
    groups = [[value] for value in sorted(values)]
    levels = best_levels(scores, groups, [0] * len(values), aversion)
    everybody = [count - 1] * len(values)
    assert objective(gains_of(levels, scores, groups), aversion) == pytest.approx(
        objective(gains_of(everybody, scores, groups), aversion), abs=1e-9
    )
    if part < 0.99:
        assert list(levels) == everybody


@given(st.lists(st.floats(0.2, 0.8), min_size=1, max_size=8), AVERSIONS)
def test_a_finer_ladder_comes_close_to_the_closed_form(values, aversion):
    values = sorted(values)
    high = 0.9
    shift = equal_gain_shift(values, [1] * len(values), high, aversion)
    continuous = np.minimum(np.array(values) + shift, high) - values
    scores = np.linspace(0.1, high, 201).tolist()
    floors = [0] * (len(values) - 1) + [200]
    levels = best_levels(scores, [[value] for value in values], floors, aversion)
    on_grid = objective(gains_of(levels, scores, [[value] for value in values]), aversion)
    least = objective(continuous, aversion)
    assert least - 1e-9 <= on_grid <= least + (1 + aversion) * 0.004


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(1, 4)), min_size=1, max_size=12), AVERSIONS)
def test_the_closed_form_is_as_good_as_the_finest_search(groups, aversion):
    worths, sizes = zip(*groups, strict=True)
    devices = np.repeat(worths, sizes)
    high = 1.2

    def rated(shift):
        return objective(np.minimum(devices + shift, high) - devices, aversion)

    found = equal_gain_shift(worths, sizes, high, aversion)
    tried = np.linspace(high - max(worths) - 0.3, high - min(worths) + 0.3, 601)
    assert rated(found) <= min(map(rated, tried)) + 1e-9


@given(st.lists(st.floats(0, 1), min_size=2, max_size=26))  # 1 + lambda^2
def test_in_a_small_fleet_the_closed_form_is_equal_gain(worths):
    assert equal_gain_shift(worths, [1] * len(worths), 1.2, 5.0) == pytest.approx(
        1.2 - max(worths), abs=1e-6
    )


def test_in_a_large_fleet_one_outstanding_device_does_not_hold_the_others_down():
    worths = [0.5] * 99 + [0.9]
    assert equal_gain_shift(worths, [1] * 100, 1.0, 5.0) == pytest.approx(0.5)


def test_the_choice_for_one_device_is_the_top_whatever_its_worth():
    assert best_levels([0.2, 0.4], [[5.0]], [0], 5.0) == (1,)
    assert best_levels([0.2], [[5.0], [-5.0]], [0, 0], 5.0) == (0, 0)
    assert best_levels([0.2, 0.4], [], [], 5.0) == ()


def test_equally_good_choices_give_more():
    # With lambda = 1 and two devices, each cent taken from the better off costs what it brings.
    assert best_levels([0.0, 1.0], [[-3.0], [0.0]], [0, 1], 1.0) == (1, 1)


def test_a_floor_lifts_whoever_contributed_more():
    scores = [0.5, 0.6, 0.7, 0.8]
    assert best_levels(scores, [[0.1], [0.2], [0.4]], [0, 0, 3], 5.0) == (0, 1, 3)
    assert best_levels(scores, [[0.1], [0.2], [0.4]], [2, 0, 3], 5.0) == (2, 2, 3)


def test_a_thousand_devices_on_fifty_widths_are_solved_exactly():
    values = np.sort(np.random.default_rng(0).uniform(0.5, 0.7, 1000))
    scores = np.linspace(0.6, 0.85, 50)
    levels = best_levels(scores.tolist(), [[v] for v in values], [0] * 999 + [49], 5.0)
    found = objective(scores[list(levels)] - values, 5.0)
    # Every neighbour (one device one step away, ranks kept) is worse.
    for place, step in itertools.product(range(999), (-1, 1)):
        other = np.array(levels)
        other[place] += step
        if 0 <= other[place] < 50 and np.all(np.diff(other) >= 0):
            assert objective(scores[other] - values, 5.0) >= found - 1e-12
