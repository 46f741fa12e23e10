"""From contributions to widths: what the rule promises, on hand-made and on random fleets."""

import itertools

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from coordinator.rewards import AFFINE, EQUAL_GAIN, FLOOR, allocate, isotonic, score_values
from journal.events import CurvePoint

LADDER = (0.25, 0.5, 0.75, 1.0)
CURVE = (0.6, 0.7, 0.75, 0.8)


def curve(scores=CURVE, widths=LADDER, *, hidden=()):
    fitted = isotonic(list(scores))
    return [
        CurvePoint(
            width=width, score=score, low=score, high=score, offered=width not in hidden, fitted=fit
        )
        for width, score, fit in zip(widths, scores, fitted, strict=True)
    ]


def widths_of(allocation):
    return {reward.device: reward.width for reward in allocation.rewards}


contributions = st.dictionaries(
    st.sampled_from("abcdefgh"), st.floats(-1, 1), min_size=1, max_size=8
)
curves = st.lists(st.floats(0, 1), min_size=1, max_size=6).map(
    lambda scores: curve(scores, [(n + 1) / len(scores) for n in range(len(scores))])
)


# --- isotonic fit -------------------------------------------------------------------------------


def closest_by_trying_all(scores):
    """The best fit is constant on blocks: try every way to cut the sequence."""
    best = None
    for cuts in itertools.product([False, True], repeat=len(scores) - 1):
        blocks, current = [], [scores[0]]
        for cut, score in zip(cuts, scores[1:], strict=True):
            if cut:
                blocks.append(current)
                current = []
            current.append(score)
        blocks.append(current)
        means = [float(np.mean(block)) for block in blocks]
        if any(later < earlier for earlier, later in itertools.pairwise(means)):
            continue
        fit = [mean for mean, block in zip(means, blocks, strict=True) for _ in block]
        error = sum((a - b) ** 2 for a, b in zip(fit, scores, strict=True))
        if best is None or error < best[0] - 1e-15:
            best = (error, fit)
    return best[1]


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=7))
def test_the_isotonic_fit_is_the_closest_rising_sequence(scores):
    assert isotonic(scores) == pytest.approx(closest_by_trying_all(scores), abs=1e-7)


@given(st.lists(st.floats(-10, 10), max_size=30))
def test_the_isotonic_fit_rises_and_fitting_again_changes_nothing(scores):
    fit = isotonic(scores)
    assert len(fit) == len(scores)
    assert all(a <= b for a, b in itertools.pairwise(fit))
    assert isotonic(fit) == pytest.approx(fit)
    assert sum(fit) == pytest.approx(sum(scores), abs=1e-9)


# --- contributions as scores --------------------------------------------------------------------


def test_equal_devices_are_worth_the_trained_model_and_a_rider_the_untrained_one():
    values = score_values({"a": 2.0, "b": 2.0, "c": 2.0}, 0.1, 0.8)
    assert values == pytest.approx({"a": 0.8, "b": 0.8, "c": 0.8})
    assert score_values({"a": 2.0, "rider": 0.0}, 0.1, 0.8)["rider"] == 0.1


@given(contributions, st.floats(0, 1), st.floats(0, 1))
def test_a_larger_contribution_is_never_worth_less(scores, untrained, trained):
    values = score_values(scores, untrained, trained)
    for one, other in itertools.permutations(scores, 2):
        if scores[one] >= scores[other]:
            assert values[one] >= values[other]


@given(st.dictionaries(st.sampled_from("abcd"), st.floats(-1, 0), min_size=1))
def test_without_progress_everybody_is_worth_the_untrained_model(scores):
    assert score_values(scores, 0.3, 0.9) == dict.fromkeys(scores, 0.3)


# --- allocation ---------------------------------------------------------------------------------


@given(
    st.dictionaries(st.sampled_from("abcdefgh"), st.floats(0.5, 1), min_size=1, max_size=8), curves
)
def test_where_the_widths_span_it_every_honest_device_gains_the_same(scores, points):
    allocation = allocate(scores, points, untrained=points[0].fitted, cutoff=0.1)
    assume(allocation.rule == EQUAL_GAIN)
    gains = [reward.target - reward.value for reward in allocation.rewards]
    assert gains == pytest.approx([gains[0]] * len(gains), abs=1e-9)
    best = max(allocation.rewards, key=lambda reward: reward.contribution)
    assert best.width == max(point.width for point in points)
    assert allocation.note == ""


@given(contributions, curves, st.floats(0, 1), st.floats(0, 1))
def test_a_smaller_contributor_never_gets_more(scores, points, untrained, cutoff):
    rewards = allocate(scores, points, untrained, cutoff).rewards
    assert {reward.device for reward in rewards} == set(scores)
    for one, other in itertools.permutations(rewards, 2):
        if one.contribution >= other.contribution:
            assert one.width >= other.width
            assert one.target >= other.target - 1e-12


@given(contributions, curves, st.floats(0, 1), st.floats(0, 1))
def test_no_reward_is_above_what_the_rule_grants(scores, points, untrained, cutoff):
    allocation = allocate(scores, points, untrained, cutoff)
    fitted = {point.width: point.fitted for point in points}
    low, high = min(fitted.values()), max(fitted.values())
    for reward in allocation.rewards:
        if not reward.width:
            continue
        assert reward.score == fitted[reward.width] <= reward.target + 1e-9
        assert low - 1e-9 <= reward.target <= high + 1e-9
        wider = [width for width in fitted if width > reward.width]
        assert all(fitted[width] > reward.target for width in wider), "a wider one was affordable"


@given(contributions, curves, st.floats(0, 1), st.floats(0.01, 1))
def test_below_the_cut_off_there_is_nothing_and_above_it_there_is_something(
    scores, points, untrained, cutoff
):
    for reward in allocate(scores, points, untrained, cutoff).rewards:
        assert (reward.width > 0) == (reward.share >= cutoff)
        assert f"{reward.share:.2f} times the average" in reward.reason


@given(contributions, curves)
def test_every_number_is_finite_whatever_the_contributions(scores, points):
    for reward in allocate(scores, points, 0.2, 0.25).rewards:
        assert np.isfinite([reward.share, reward.value, reward.target, reward.score]).all()


def test_the_best_get_the_best_and_the_others_what_they_earned():
    scores = {"a": 1.0, "b": 0.95, "c": 0.8}
    allocation = allocate(scores, curve(), untrained=0.5, cutoff=0.25)
    assert allocation.rule == EQUAL_GAIN
    assert widths_of(allocation) == {"a": 1.0, "b": 0.75, "c": 0.5}
    assert "width 0.75: 1.04 times the average contribution" in allocation.rewards[1].reason


def test_a_free_rider_gets_nothing_and_takes_nothing_from_the_others():
    honest = {"a": 1.0, "b": 1.0, "c": 1.0}
    allocation = allocate({**honest, "rider": 0.0}, curve(), untrained=0.1, cutoff=0.25)
    assert widths_of(allocation) == {"a": 1.0, "b": 1.0, "c": 1.0, "rider": 0.0}
    noisy = allocate({**honest, "rider": 1e-3}, curve(), untrained=0.1, cutoff=0.25)
    assert widths_of(noisy) == widths_of(allocation)
    assert "no release" in noisy.rewards[-1].reason
    assert "cut-off of 0.25" in noisy.rewards[-1].reason


def test_a_spread_wider_than_the_ladder_is_mapped_with_ranks_kept_and_a_note():
    scores = {"a": 4.0, "b": 3.0, "c": 2.0, "d": 1.0}
    allocation = allocate(scores, curve(), untrained=0.1, cutoff=0.1)
    assert allocation.rule == AFFINE
    assert "mapped affinely above the cut-off, ranks kept" in allocation.note
    targets = [reward.target for reward in allocation.rewards]
    assert targets == sorted(targets, reverse=True)
    assert len(set(targets)) == 4
    assert (targets[0], targets[-1]) == pytest.approx((0.8, 0.6))
    steps = np.diff(targets)
    assert steps == pytest.approx([steps[0]] * 3)
    assert widths_of(allocation)["a"] == 1.0
    assert widths_of(allocation)["d"] == 0.25


def test_an_outlier_below_the_cut_off_does_not_stretch_the_map():
    honest = {"a": 1.0, "b": 0.98, "c": 0.96}
    with_rider = allocate({**honest, "rider": -5.0}, curve(), untrained=0.55, cutoff=0.1)
    assert with_rider.rule == FLOOR  # the rider cost more than the others gave
    mild = allocate({**honest, "rider": -0.1}, curve(), untrained=0.55, cutoff=0.1)
    assert mild.rule == EQUAL_GAIN
    assert widths_of(mild)["rider"] == 0.0
    assert widths_of(mild)["a"] == 1.0


@pytest.mark.parametrize("score", [1.0, 1e-6, 1e6])
def test_one_device_alone_gets_the_best(score):
    assert widths_of(allocate({"a": score}, curve(), 0.1, 0.25)) == {"a": 1.0}


def test_equal_devices_all_get_the_best():
    allocation = allocate(dict.fromkeys("abcdefgh", 0.125), curve(), 0.1, 0.25)
    assert set(widths_of(allocation).values()) == {1.0}


@pytest.mark.parametrize("scores", [{"a": 0.0, "b": 0.0}, {"a": 1.0, "b": -2.0}, {"a": -1.0}])
def test_where_nobody_advanced_the_model_nobody_passes_the_cut_off(scores):
    allocation = allocate(scores, curve(), 0.1, 0.25)
    assert set(widths_of(allocation).values()) == {0.0}
    assert allocation.rule == FLOOR


def test_without_a_cut_off_nobody_advancing_the_model_means_the_floor_for_all():
    allocation = allocate({"a": 1.0, "b": -2.0}, curve(), 0.1, 0.0)
    assert widths_of(allocation) == {"a": 0.25, "b": 0.25}


def test_contributions_that_cancel_but_for_rounding_count_as_no_progress():
    allocation = allocate({"a": 1.0, "b": -1.0, "c": 1e-16}, curve(), 0.1, 0.25)
    assert set(widths_of(allocation).values()) == {0.0}


def test_a_score_that_fell_while_the_loss_improved_does_not_turn_the_order_round():
    rewards = allocate({"a": 2.0, "b": 1.0}, curve(), untrained=0.9, cutoff=0.25).rewards
    assert rewards[0].width >= rewards[1].width
    assert rewards[0].value >= rewards[1].value


def test_a_width_that_is_not_offered_is_never_granted():
    points = curve((0.6, 0.8, 0.7, 0.75), hidden=(0.75, 1.0))
    allocation = allocate({"a": 1.0, "b": 1.0, "c": 0.4}, points, 0.1, 0.25)
    assert set(widths_of(allocation).values()) <= {0.25, 0.5}
    assert widths_of(allocation)["a"] == 0.5


@given(contributions, curves, st.sets(st.integers(0, 5)))
def test_dominated_widths_are_never_granted(scores, points, dropped):
    points = [
        CurvePoint(
            width=p.width,
            score=p.score,
            low=p.low,
            high=p.high,
            offered=n not in dropped,
            fitted=p.fitted,
        )
        for n, p in enumerate(points)
    ]
    offered = {point.width for point in points if point.offered}
    assume(offered)
    assert set(widths_of(allocate(scores, points, 0.1, 0.0)).values()) <= offered | {0.0}


def test_widths_of_equal_score_are_one_reward_and_the_widest_of_them_is_it():
    allocation = allocate({"a": 1.0, "b": 0.9}, curve((0.6, 0.7, 0.7, 0.7)), 0.5, 0.25)
    assert widths_of(allocation)["a"] == 1.0


def test_a_flat_curve_rewards_all_alike():
    allocation = allocate({"a": 3.0, "b": 1.0}, curve((0.7,) * 4), 0.1, 0.25)
    assert set(widths_of(allocation).values()) == {1.0}


def test_no_device_and_no_width():
    assert allocate({}, curve(), 0.1, 0.25).rewards == ()
    with pytest.raises(ValueError, match="no width was measured"):
        allocate({"a": 1.0}, [], 0.1, 0.25)
    with pytest.raises(ValueError, match="no width was measured"):
        allocate({"a": 1.0}, curve(hidden=LADDER), 0.1, 0.25)
