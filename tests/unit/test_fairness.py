"""The figures of fairness, against their definitions and at their edges."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from coordinator.fairness import (
    gain_spread,
    largest_mean_gain,
    mean_gain,
    noise_ceiling,
    noise_spread,
    payoff,
    pearson,
    ranks,
    rational_share,
    smallest_gain,
    spearman,
)

numbers = st.lists(st.floats(-100, 100), min_size=2, max_size=10)


@given(numbers, st.randoms(use_true_random=False))
def test_pearson_is_that_of_numpy(x, chance):
    y = [chance.uniform(-1, 1) for _ in x]
    assume(np.ptp(x) > 1e-3 and np.ptp(y) > 1e-3)
    assert pearson(x, y) == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-9)


@given(numbers, st.floats(0.1, 5), st.floats(-3, 3))
def test_any_rising_line_correlates_fully_and_a_falling_one_inversely(x, slope, offset):
    assume(np.ptp(x) > 1e-3)
    line = [slope * value + offset for value in x]
    assert pearson(x, line) == pytest.approx(1)
    assert pearson(x, [-value for value in line]) == pytest.approx(-1)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=10))
def test_a_rank_is_the_mean_place_among_equals(values):
    for value, rank in zip(values, ranks(values), strict=True):
        below = sum(other < value for other in values)
        assert rank == below + (values.count(value) + 1) / 2


def test_spearman_sees_only_the_order():
    assert spearman([1, 2, 3, 4], [1, 10, 100, 1e6]) == pytest.approx(1)
    assert spearman([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    # Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4.
    assert spearman([1, 2, 2, 4], [1, 2, 3, 4]) == pytest.approx(math.sqrt(0.9))


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ([], []),
        ([1.0], [2.0]),
        ([1.0, 1.0], [1.0, 2.0]),
        ([0.1 + 0.2, 0.3], [1.0, 2.0]),
        ([0.0, 0.0], [1.0, 2.0]),
        ([1.0, math.nan], [1.0, 2.0]),
        ([1.0, math.inf], [1.0, 2.0]),
    ],
)
def test_a_correlation_without_spread_is_not_a_number(x, y):
    assert math.isnan(pearson(x, y))
    assert math.isnan(pearson(y, x))
    assert math.isnan(spearman(x, y)) or x == [0.1 + 0.2, 0.3]


def test_gains_as_in_the_worked_table():
    alone = [70, 72, 74, 76, 78]
    assert mean_gain([92] * 5, alone) == 18
    assert gain_spread([92] * 5, alone) == pytest.approx(2.828, abs=1e-3)
    assert smallest_gain([92] * 5, alone) == 14
    equal = [value + 14 for value in alone]
    assert (mean_gain(equal, alone), gain_spread(equal, alone)) == (14, 0)


def test_individual_rationality_is_the_share_that_does_no_worse_than_alone():
    assert rational_share([0.8, 0.6, 0.5, 0.7], [0.7, 0.6, 0.55, 0.6]) == 0.75
    assert rational_share([0.8], [0.8]) == 1.0


@pytest.mark.parametrize("figure", [mean_gain, gain_spread, smallest_gain, rational_share])
def test_a_figure_of_nobody_or_of_no_number_is_not_a_number(figure):
    assert math.isnan(figure([], []))
    assert math.isnan(figure([0.5, math.nan], [0.1, 0.1]))


def test_whoever_receives_nothing_has_a_payoff_of_nothing():
    assert payoff(None, 0.1) == 0.0
    assert payoff(0.6, 0.1) == pytest.approx(0.5)
    assert payoff(0.6, 0.7) == pytest.approx(-0.1)


@pytest.mark.parametrize(("spread", "ceiling"), [(0.3, 0.26), (1, 0.80), (3, 0.97), (10, 0.998)])
def test_the_ceiling_is_what_noise_of_half_a_point_leaves(spread, ceiling):
    rng = np.random.default_rng(0)
    true = rng.normal(0, spread, 100_000)
    first, second = (true + rng.normal(0, 0.5, true.size) for _ in range(2))
    assert noise_ceiling(first, second) == pytest.approx(ceiling, abs=0.01)
    assert pearson(first, second) == pytest.approx(noise_ceiling(first, second), abs=0.01)


def test_the_ceiling_of_perfect_and_of_contrary_measurements():
    assert noise_ceiling([1, 2, 3], [1, 2, 3]) == pytest.approx(1)
    assert noise_ceiling([1, 2, 3], [3, 2, 1]) == 0
    assert math.isnan(noise_ceiling([1, 1], [1, 1]))
    assert math.isnan(noise_ceiling([1], [1]))
    assert math.isnan(noise_ceiling([1, math.nan], [1, 2]))


def test_numbers_of_different_devices_are_refused():
    with pytest.raises(ValueError, match="one per device"):
        pearson([1, 2], [1, 2, 3])


@pytest.mark.parametrize("again", [1, 2, 5])
def test_what_follows_the_first_measurement_meets_the_ceiling_with_the_mean_of_the_others(again):
    rng = np.random.default_rng(1)
    true = rng.normal(0, 1.0, 50_000)
    first, *others = (true + rng.normal(0, 0.7, true.size) for _ in range(1 + again))
    found = noise_ceiling(first, *others)
    assert pearson(first, np.mean(others, axis=0)) == pytest.approx(found, abs=0.01)
    assert noise_spread(*others, first) == pytest.approx(0.7 / math.sqrt(1 + again), abs=0.01)


def test_one_measurement_tells_nothing_of_its_noise():
    assert math.isnan(noise_spread([1, 2, 3]))
    assert math.isnan(noise_ceiling([1, 2, 3]))


def test_an_offset_of_a_whole_measurement_is_no_noise():
    assert noise_spread([1, 2, 4], [5, 6, 8]) == pytest.approx(0)


@given(
    st.lists(st.floats(0, 100), min_size=1, max_size=6),
    st.floats(0, 20),
    st.integers(0, 1000),
)
def test_no_rewards_within_a_spread_gain_more_than_the_largest_mean_gain(alone, spread, seed):
    most = largest_mean_gain(alone, 100.0, spread)
    rng = np.random.default_rng(seed)
    best = np.full(len(alone), 100.0)
    for _ in range(30):  # towards the best one from anywhere, and only where the spread allows
        rewards = np.minimum(100.0, np.asarray(alone) + rng.uniform(-20, 100))
        rewards = rewards + rng.uniform(0, 1) * rng.uniform(0, 1, len(alone)) * (best - rewards)
        if gain_spread(rewards, alone) <= spread:
            assert mean_gain(rewards, alone) <= most + 1e-6


def test_the_largest_mean_gain_is_that_of_equal_models_or_of_equal_gains_at_the_ends():
    alone = [70, 72, 74, 76, 78]
    assert largest_mean_gain(alone, 92, 3.0) == pytest.approx(18.0)
    assert largest_mean_gain(alone, 92, 0.0) == pytest.approx(14.0)
    between = largest_mean_gain(alone, 92, 1.0)
    assert 14.0 < between < 18.0
    assert math.isnan(largest_mean_gain([math.nan], 92, 1.0))
