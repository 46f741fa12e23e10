"""Contributions: the axioms of the Shapley value, its estimator, and what free riding earns."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.contribution.shapley import EXACT_LIMIT, exact_shapley, permutation_shapley


def names(count):
    return [f"d{n}" for n in range(count)]


def random_game(seed, devices):
    """A value for every coalition, drawn when it is asked for, and the list of who asked."""
    rng, known, asked = np.random.default_rng(seed), {}, []
    for size in range(len(devices) + 1):
        for members in itertools.combinations(devices, size):
            known[frozenset(members)] = float(rng.normal())

    def value(coalition):
        asked.append(coalition)
        return known[coalition]

    return value, asked


def smooth_game(seed, devices, noise_of=()):
    """A game like that of a round: steps toward an optimum, judged by a quadratic loss."""
    rng = np.random.default_rng(seed)
    dimension = 200
    goal = rng.standard_normal(dimension)
    steps = {
        device: (0.3 * goal + 0.2 * rng.standard_normal(dimension)) / len(devices)
        for device in devices
    }
    for device in noise_of:
        steps[device] = 1e-3 * rng.standard_normal(dimension) / len(devices)

    def value(coalition):
        where = sum((steps[device] for device in sorted(coalition)), np.zeros(dimension))
        return -float(((goal - where) ** 2).mean())

    return value


def estimated(devices, value, budget, seed=0):
    return permutation_shapley(devices, value, budget, np.random.default_rng(seed))


def brute_force(devices, value):
    totals = dict.fromkeys(devices, 0.0)
    orders = list(itertools.permutations(devices))
    for order in orders:
        inside = frozenset()
        for device in order:
            totals[device] += value(inside | {device}) - value(inside)
            inside |= {device}
    return {device: total / len(orders) for device, total in totals.items()}


@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_exact_scores_are_the_mean_over_all_orders(seed, count):
    value, _ = random_game(seed, names(count))
    assert exact_shapley(names(count), value).scores == pytest.approx(
        brute_force(names(count), value), abs=1e-9
    )


@given(st.integers(0, 2**32 - 1), st.integers(1, 7), st.integers(1, 40))
def test_scores_share_out_exactly_what_was_gained(seed, count, budget):
    value, _ = random_game(seed, names(count))
    for result in (
        exact_shapley(names(count), value),
        estimated(names(count), value, budget, seed),
    ):
        assert sum(result.scores.values()) == pytest.approx(
            value(frozenset(names(count))) - value(frozenset()), abs=1e-9
        )
        assert result.before == value(frozenset())
        assert result.after == value(frozenset(names(count)))


@given(st.integers(0, 2**32 - 1), st.integers(2, 7), st.integers(1, 40))
def test_a_device_that_changes_nothing_scores_exactly_zero(seed, count, budget):
    value, _ = random_game(seed, names(count - 1))
    devices = [*names(count - 1), "rider"]

    def with_rider(coalition):
        return value(coalition - {"rider"})

    assert exact_shapley(devices, with_rider).scores["rider"] == 0.0
    assert estimated(devices, with_rider, budget, seed).scores["rider"] == 0.0


@given(st.integers(0, 2**32 - 1), st.integers(2, 6))
def test_devices_that_do_the_same_score_the_same(seed, count):
    by_size = np.random.default_rng(seed).normal(size=count + 1)
    scores = exact_shapley(names(count), lambda coalition: float(by_size[len(coalition)])).scores
    assert list(scores.values()) == pytest.approx([scores["d0"]] * count, abs=1e-9)


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 64))
def test_the_estimator_keeps_to_its_budget_unless_one_walk_costs_more(seed, count, budget):
    value, asked = random_game(seed, names(count))
    result = estimated(names(count), value, budget, seed)
    assert result.evaluations == len(set(asked)) == len(asked), "a coalition was evaluated twice"
    assert result.evaluations <= max(budget, count + 1)
    assert set(result.scores) == set(names(count))


@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_a_budget_for_every_coalition_gives_the_exact_scores(seed, count):
    value, _ = random_game(seed, names(count))
    found = estimated(names(count), value, 2**count, seed)
    assert found == exact_shapley(names(count), value)
    assert found.method == "exact-shapley"


@pytest.mark.parametrize("seed", range(5))
def test_the_estimate_comes_closer_the_more_it_may_evaluate(seed):
    devices = names(8)
    value, _ = random_game(seed, devices)
    exact = exact_shapley(devices, value).scores

    def error(budget):
        runs = [estimated(devices, value, budget, n).scores for n in range(10)]
        return np.mean([abs(run[device] - exact[device]) for run in runs for device in devices])

    assert error(200) < error(32) < error(9)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("estimator", ["exact", "permutation"])
def test_a_rider_with_a_little_noise_earns_next_to_nothing(seed, estimator):
    devices = names(8)
    value = smooth_game(seed, devices, noise_of=["d3"])
    result = (
        exact_shapley(devices, value)
        if estimator == "exact"
        else estimated(devices, value, 32, seed)
    )
    average = sum(result.scores.values()) / len(devices)
    assert average > 0
    assert abs(result.scores["d3"]) < 0.02 * average
    assert all(result.scores[device] > 0.5 * average for device in devices if device != "d3")


def test_thirty_two_coalitions_rank_eight_devices_nearly_as_all_do():
    devices = names(8)
    for seed in range(5):
        value = smooth_game(seed, devices)
        exact = exact_shapley(devices, value).scores
        found = estimated(devices, value, 32, seed).scores
        pairs = np.array([(exact[d], found[d]) for d in devices])
        assert np.abs(pairs[:, 0] - pairs[:, 1]).max() < 0.1 * pairs[:, 0].mean()


def test_the_same_generator_gives_the_same_scores():
    value, _ = random_game(0, names(7))
    assert estimated(names(7), value, 30, 4) == estimated(names(7), value, 30, 4)


def test_nobody_took_part():
    assert estimated([], lambda _: 2.0, 8).scores == {}
    assert exact_shapley([], lambda _: 2.0).scores == {}


def test_too_many_devices_for_the_exact_value_are_told_what_to_use():
    with pytest.raises(ValueError, match="use permutation-shapley"):
        exact_shapley(names(EXACT_LIMIT + 1), lambda _: 0.0)


def test_many_devices_are_no_trouble_for_the_estimator():
    devices = names(300)
    result = estimated(devices, lambda coalition: float(len(coalition)), 32)
    assert result.scores == pytest.approx(dict.fromkeys(devices, 1.0))
    assert result.evaluations == 301
