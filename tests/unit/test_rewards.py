"""From contributions to widths: what the rules promise, on hand-made and on random fleets."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from coordinator.claims import Claim, ties
from coordinator.claims import ranked as ranked_claims
from coordinator.contribution.ledger import Ledger, Total, differ
from coordinator.entitlement import entitlements
from coordinator.reward_rules import AFFINE, EQUAL_GAIN, TOLERANCE
from coordinator.rewards import FLOOR, NONE, allocate, isotonic, score_values
from coordinator.settings import Rewards
from journal.events import Contribution, CurvePoint

LADDER = (0.25, 0.5, 0.75, 1.0)
CURVE = (0.6, 0.7, 0.75, 0.8)
RULES = ("equal-gain", "affine", "nash-welfare", "sharing-coefficient", "tiers")
TIERS = ((0.0, 0.25), (0.5, 0.5), (1.0, 1.0))


def curve(scores=CURVE, widths=LADDER, *, hidden=()):
    fitted = isotonic(list(scores))
    return [
        CurvePoint(
            width=width, score=score, low=score, high=score, offered=width not in hidden, fitted=fit
        )
        for width, score, fit in zip(widths, scores, fitted, strict=True)
    ]


def rewarded(scores, points, untrained, cutoff, *, alone=None, **policy):
    """Allocate scores, or scores per block, of devices."""
    alone = alone or {}
    claims = [Claim(device, account(score), alone.get(device)) for device, score in scores.items()]
    policy = {"tiers": TIERS if policy.get("rule") == "tiers" else ()} | policy
    return allocate(claims, points, Rewards(cutoff=cutoff, **policy), untrained)


def account(score):
    blocks = tuple(score) if isinstance(score, list | tuple) else ()
    return Total(float(np.mean(score)), blocks, rounds=1)


def widths_of(allocation):
    return {reward.device: reward.width for reward in allocation.rewards}


def by_device(allocation):
    return {reward.device: reward for reward in allocation.rewards}


contributions = st.dictionaries(
    st.sampled_from("abcdefgh"), st.floats(-1, 1), min_size=1, max_size=8
)
measured = st.dictionaries(
    st.sampled_from("abcdefgh"),
    st.lists(st.floats(-1, 1), min_size=4, max_size=4),
    min_size=1,
    max_size=8,
)
curves = st.lists(st.floats(0, 1), min_size=1, max_size=6).map(
    lambda scores: curve(scores, [(n + 1) / len(scores) for n in range(len(scores))])
)
rules = st.sampled_from(RULES)


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


@given(st.lists(st.tuples(st.floats(-1, 1), st.integers(1, 3)), max_size=6))
def test_a_weight_counts_as_so_many_equal_terms(terms):
    scores = [score for score, _ in terms]
    weights = [weight for _, weight in terms]
    repeated = isotonic(np.repeat(scores, weights).tolist())
    found = np.repeat(isotonic(scores, weights), weights).tolist()
    assert found == pytest.approx(repeated, abs=1e-12)


# --- contributions as scores --------------------------------------------------------------------


def test_equal_devices_are_worth_the_trained_model_and_a_rider_the_untrained_one():
    values = score_values({"a": 2.0, "b": 2.0, "c": 2.0}, 0.1, 0.8)
    assert values == pytest.approx({"a": 0.8, "b": 0.8, "c": 0.8})
    assert score_values({"a": 2.0, "rider": 0.0}, 0.1, 0.8)["rider"] == 0.1


def test_idle_devices_do_not_stretch_what_the_others_are_worth():
    few = rewarded({"a": 1.0, "b": 0.9, "rider": 0.0}, curve(), 0.1, 0.25)
    many = rewarded(
        {"a": 1.0, "b": 0.9} | {f"rider-{n}": 0.0 for n in range(20)}, curve(), 0.1, 0.25
    )
    assert by_device(many)["b"].value == pytest.approx(by_device(few)["b"].value)
    assert widths_of(many)["b"] == widths_of(few)["b"]


@given(contributions, st.floats(0, 1), st.floats(0, 1))
def test_a_larger_contribution_is_never_worth_less(scores, untrained, trained):
    values = score_values(scores, untrained, trained)
    for one, other in itertools.permutations(scores, 2):
        if scores[one] >= scores[other]:
            assert values[one] >= values[other]


@given(st.dictionaries(st.sampled_from("abcd"), st.floats(-1, 0), min_size=1))
def test_without_progress_everybody_is_worth_the_untrained_model(scores):
    assert score_values(scores, 0.3, 0.9) == dict.fromkeys(scores, 0.3)


# --- ties ---------------------------------------------------------------------------------------


def names(groups):
    return ["".join(claim.device for claim in group) for group in groups]


def ranked(**scores):
    return [Claim(device, account(score)) for device, score in scores.items()]


def test_contributions_that_do_not_differ_significantly_are_tied():
    claims = ranked(a=[1.0, 1.2, 0.8, 1.0], b=[1.1, 1.0, 1.0, 1.1], c=[5.0, 5.1, 4.9, 5.0])
    assert names(ties(claims, 0.05)) == ["ab", "c"]


def test_what_all_devices_share_in_a_block_cancels():
    hard = np.array([0.1, 5.0, 2.0, 9.0])
    slightly = np.array([0.1, 0.11, 0.09, 0.1])
    claims = ranked(a=list(hard), b=list(hard + slightly))
    assert names(ties(claims, 0.05)) == ["a", "b"]


def test_a_chain_of_ties_is_one_group_and_whoever_stands_between_joins_it():
    chain = ranked(a=[0.0, 0.4, 0.2], b=[0.8, 0.2, 0.5], c=[0.7, 1.1, 0.9])
    assert names(ties(chain, 0.05)) == ["abc"]
    # a and c vary much, b hardly at all: it differs from neither by rank, only by certainty.
    between = ranked(a=[-9.0, 9.0, -9.0, 9.0], b=[0.5, 0.5, 0.5, 0.5], c=[11.0, -9.0, 11.0, -9.0])
    assert names(ties(between, 0.05)) == ["abc"]


def test_without_blocks_only_equal_contributions_are_tied():
    assert names(ties(ranked(a=1.0, b=1.0, c=1.0001), 0.05)) == ["ab", "c"]


def over_rounds(**scores):
    """Claims of devices that scored so much in each round, the smallest first; sure of each."""
    ledger = Ledger()
    for number, row in enumerate(zip(*scores.values(), strict=True), start=1):
        entries = [
            Contribution(device=device, score=score, update="", blocks=(score, score))
            for device, score in zip(scores, row, strict=True)
        ]
        ledger = ledger.entered(number, entries)
    return ranked_claims([Claim(device, total) for device, total in ledger.totals.items()])


STEADY = {"a": [1.0, 1.3, 0.8, 1.1, 0.9], "b": [1.2, 0.9, 1.1, 1.0, 1.2]}


def test_who_differs_by_no_more_than_chance_in_training_is_tied():
    claims = over_rounds(**STEADY, c=[0.3, 0.4, 0.3, 0.4, 0.3])
    assert names(ties(claims, 0.05)) == ["c", "ab"]


def test_chance_lifts_nobody_whose_contribution_had_to_be_proven():
    wild = {"a": [9.0, 0.1, 2.0, 0.5, 6.0], "b": [0.2, 8.0, 1.0, 5.0, 0.3]}
    claims = over_rounds(**wild, noise=[0.3, -0.2, 0.5, -0.1, 0.2])
    assert [claim.device for claim in ties(claims, 0.05)[0]] == ["noise", "b", "a"]
    assert len(ties(claims, 0.05, least=1.0)) == 2
    found = allocate(claims, curve(), Rewards(cutoff=0.02), 0.5)
    assert widths_of(found) == {"a": 1.0, "b": 1.0, "noise": 0.25}


@given(st.lists(st.lists(st.floats(-2, 5), min_size=5, max_size=5), min_size=2, max_size=6))
def test_the_quick_search_for_ties_finds_what_comparing_all_pairs_finds(rows):
    claims = over_rounds(**{chr(97 + at): row for at, row in enumerate(rows)})
    together = {claim.device: at for at, group in enumerate(ties(claims, 0.05)) for claim in group}
    for one, other in itertools.combinations(claims, 2):
        if together[one.device] != together[other.device]:
            assert differ(one.total, other.total, 0.05)


@given(measured)
def test_ties_are_whole_intervals_of_the_ranks(scores):
    claims = sorted(
        (Claim(device, account(blocks)) for device, blocks in scores.items()),
        key=lambda claim: claim.contribution,
    )
    groups = ties(claims, 0.05)
    assert [claim for group in groups for claim in group] == claims


def test_tied_devices_get_one_width_and_are_told_so():
    scores = {"a": [1.0, 1.2, 0.8, 1.0], "b": [0.9, 1.0, 1.0, 0.9], "c": [0.5, 0.51, 0.49, 0.5]}
    found = by_device(rewarded(scores, curve(), 0.5, 0.25))
    assert found["a"].width == found["b"].width == 1.0 > found["c"].width
    assert (found["a"].equals, found["b"].equals, found["c"].equals) == (("b",), ("a",), ())
    assert "no significant difference to b: the same width" in found["a"].reason
    assert found["a"].low < 1.0 < found["a"].high


def test_a_reward_names_only_the_nearest_of_many_equals():
    found = rewarded({f"d{n:03}": 1.0 for n in range(100)}, curve(), 0.1, 0.25).rewards
    assert found[50].equals == tuple(f"d{n:03}" for n in range(42, 59) if n != 50)
    assert len(found[0].equals) == len(found[99].equals) == 16
    assert "no significant difference to d042 and 98 more: the same width" in found[50].reason


def test_all_of_many_equals_may_train_the_full_width():
    found = rewarded({f"d{n:03}": 1.0 for n in range(100)} | {"weak": 0.5}, curve(), 0.1, 0.25)
    widths = entitlements(found.rewards, (*LADDER[:-1], 0.9, 1.0))
    assert {device for device, width in widths.items() if width == 1.0} == {
        f"d{n:03}" for n in range(100)
    }


# --- allocation ---------------------------------------------------------------------------------


@given(
    st.dictionaries(st.sampled_from("abcdefgh"), st.floats(0.5, 1), min_size=1, max_size=8), curves
)
def test_where_the_widths_span_it_every_honest_device_is_granted_the_same_gain(scores, points):
    allocation = rewarded(scores, points, points[0].fitted, 0.1)
    assume(allocation.rule == EQUAL_GAIN)
    gains = [reward.target - reward.value for reward in allocation.rewards]
    assert gains == pytest.approx([gains[0]] * len(gains), abs=1e-9)
    best = max(allocation.rewards, key=lambda reward: reward.contribution)
    assert best.width == max(point.width for point in points)
    assert allocation.note == ""


@given(measured | contributions, curves, st.floats(0, 1), st.floats(0, 1), rules)
def test_a_smaller_contributor_never_gets_more(scores, points, untrained, cutoff, rule):
    rewards = rewarded(scores, points, untrained, cutoff, rule=rule).rewards
    assert {reward.device for reward in rewards} == set(scores)
    for one, other in itertools.permutations(rewards, 2):
        if one.contribution >= other.contribution:
            assert one.width >= other.width
            assert one.target >= other.target - 1e-9


@given(measured | contributions, curves, st.floats(0, 1), st.floats(0, 1), rules, st.floats(-1, 2))
def test_with_models_of_their_own_ranks_and_rationality_hold(
    scores, points, untrained, cutoff, rule, first
):
    alone = {device: first - 0.2 * n for n, device in enumerate(scores)}
    rewards = rewarded(scores, points, untrained, cutoff, rule=rule, alone=alone).rewards
    best = max(point.fitted for point in points)
    for reward in rewards:
        if reward.width and alone[reward.device] <= best:
            assert reward.score >= alone[reward.device]
    for one, other in itertools.permutations(rewards, 2):
        if one.contribution >= other.contribution:
            assert one.width >= other.width


@given(measured | contributions, curves, st.floats(0, 1), st.sampled_from(RULES[:4]))
def test_the_top_contributor_gets_the_widest_width_on_offer(scores, points, untrained, rule):
    assume(sum(map(np.mean, scores.values())) > 1e-6)
    rewards = rewarded(scores, points, untrained, 0.0, rule=rule).rewards
    best = max(rewards, key=lambda reward: reward.contribution)
    assert best.width == max(point.width for point in points)


@given(contributions, curves, st.floats(0, 1), st.floats(0, 1), rules)
def test_only_equal_gain_may_grant_more_than_its_target(scores, points, untrained, cutoff, rule):
    allocation = rewarded(scores, points, untrained, cutoff, rule=rule)
    fitted = {point.width: point.fitted for point in points}
    low, high = min(fitted.values()), max(fitted.values())
    for reward in allocation.rewards:
        if not reward.width:
            continue
        assert reward.score == fitted[reward.width]
        assert low - 1e-9 <= reward.target <= high + 1e-9
        if allocation.rule == EQUAL_GAIN:
            assert ("rounded up" in reward.reason) == (reward.score > reward.target + TOLERANCE)
            continue
        assert reward.score <= reward.target + 1e-9
        wider = [width for width in fitted if width > reward.width]
        assert all(fitted[width] > reward.target for width in wider), "a wider one was affordable"


@given(contributions, curves, st.floats(0, 1), st.floats(0.01, 1))
def test_below_the_cut_off_there_is_nothing_and_above_it_there_is_something(
    scores, points, untrained, cutoff
):
    for reward in rewarded(scores, points, untrained, cutoff).rewards:
        assert (reward.width > 0) == (reward.share >= cutoff)
        assert f"{reward.share:.2f} times the average" in reward.reason


odd = st.floats(-1e3, 1e3) | st.sampled_from([math.nan, math.inf, -math.inf, 0.0])


@given(st.dictionaries(st.sampled_from("abcdefgh"), odd, min_size=1), curves, rules)
def test_every_number_is_finite_whatever_the_contributions(scores, points, rule):
    for reward in rewarded(scores, points, 0.2, 0.25, rule=rule).rewards:
        numbers = [reward.contribution, reward.share, reward.value, reward.target, reward.score]
        assert np.isfinite([*numbers, reward.low, reward.high]).all()


def test_the_best_get_the_best_and_the_others_what_makes_gains_most_equal():
    scores = {"a": 1.3, "b": 0.95, "c": 0.75}
    allocation = rewarded(scores, curve(), 0.5, 0.25)
    assert allocation.rule == EQUAL_GAIN
    # Targets are 0.8, 0.785 and 0.725: b and c are both rounded up, and so gain alike.
    assert widths_of(allocation) == {"a": 1.0, "b": 1.0, "c": 0.75}
    reason = allocation.rewards[2].reason
    assert "width 0.75: 0.75 times the average contribution earns a score of 0.725" in reason
    assert reason.endswith("scores 0.750, rounded up because gains are most equal so")


def test_nobody_is_worth_more_than_what_all_together_have_trained():
    # The giant's gain is 0 then, not negative, and equal gain takes nothing from the others.
    allocation = rewarded({"a": 5.0, "b": 3.0, "giant": 100.0}, curve(), 0.7, 0.01)
    a, b, giant = allocation.rewards
    assert (giant.value, giant.width) == (0.8, 1.0)
    assert a.target == pytest.approx(a.value)
    assert b.value < a.value < giant.value


def test_a_free_rider_gets_nothing_and_takes_nothing_from_the_others():
    honest = {"a": 1.0, "b": 1.0, "c": 1.0}
    allocation = rewarded({**honest, "rider": 0.0}, curve(), 0.1, 0.25)
    assert widths_of(allocation) == {"a": 1.0, "b": 1.0, "c": 1.0, "rider": 0.0}
    noisy = rewarded({**honest, "rider": 1e-3}, curve(), 0.1, 0.25)
    assert widths_of(noisy) == widths_of(allocation)
    assert "no release" in noisy.rewards[-1].reason
    assert "cut-off of 0.25" in noisy.rewards[-1].reason


SURE = [1.0, 1.1, 0.9, 1.0]


def test_a_small_contribution_that_is_not_proven_is_cut_off():
    found = by_device(rewarded({"a": SURE, "noise": [1.0, -0.8, 0.5, -0.3]}, curve(), 0.1, 0.02))
    assert 0.02 < found["noise"].share < 0.25
    assert found["noise"].width == 0.0
    assert "is not significantly above 0: its 95 % interval is -" in found["noise"].reason
    without = rewarded({"a": SURE, "noise": [1.0, -0.8, 0.5, -0.3]}, curve(), 0.1, 0.02, proof=0.0)
    assert widths_of(without)["noise"] > 0.0


def test_a_small_contribution_that_is_proven_earns():
    found = by_device(rewarded({"a": SURE, "b": [0.1, 0.11, 0.09, 0.1]}, curve(), 0.1, 0.02))
    assert found["b"].share < 0.25
    assert found["b"].low > 0.0
    assert found["b"].width > 0.0


def test_a_large_contribution_earns_whether_it_is_proven_or_not():
    scores = {"a": SURE, "unsure": [3.0, -2.5, 2.5, -1.5]}
    found = by_device(rewarded(scores, curve(), 0.1, 0.02))
    assert found["unsure"].share > 0.25
    assert found["unsure"].low < 0.0 < found["unsure"].width


def test_nobody_is_cut_off_for_uncertainty_who_has_more_than_one_that_passes():
    scores = {"a": SURE, "sure": [0.05] * 4, "unsure": [0.8, -0.6, 0.4, -0.3]}
    found = by_device(rewarded(scores, curve(), 0.1, 0.02))
    assert 0.02 < found["sure"].share < found["unsure"].share < 0.25
    assert found["unsure"].width >= found["sure"].width > 0.0


def test_without_blocks_nothing_can_be_proven_and_only_the_cut_off_counts():
    found = widths_of(rewarded({"a": 1.0, "small": 0.05, "tiny": 0.005}, curve(), 0.1, 0.02))
    assert found["small"] > found["tiny"] == 0.0


def test_a_proven_contribution_below_the_cut_off_earns_nothing_all_the_same():
    found = by_device(rewarded({"a": SURE, "tiny": [0.005] * 4}, curve(), 0.1, 0.02))
    assert found["tiny"].low > 0.0 == found["tiny"].width
    assert "below the cut-off of 0.02" in found["tiny"].reason


noises = st.lists(st.floats(-0.03, 0.03), min_size=4, max_size=4)


@given(
    st.lists(st.floats(0.8, 1.2), min_size=2, max_size=5),
    st.lists(noises.filter(lambda blocks: np.mean(blocks) < 0.01), min_size=1, max_size=5),
    rules,
)
def test_noise_of_less_than_two_percent_of_the_average_never_earns(honest, noise, rule):
    scores = {f"honest-{n}": [score] * 4 for n, score in enumerate(honest)}
    riders = {f"rider-{n}": blocks for n, blocks in enumerate(noise)}
    found = by_device(rewarded(scores | riders, curve(), 0.1, 0.02, rule=rule))
    for rider in riders:
        assert found[rider].share >= 0.02 or found[rider].width == 0.0
    for device in scores:
        assert found[device].width > 0.0


@given(measured, st.floats(0, 1), st.floats(0, 1))
def test_whoever_passes_has_no_less_than_whoever_is_cut_off(scores, cutoff, proof):
    allocation = rewarded(scores, curve(), 0.1, cutoff, proof=proof)
    passed = [reward.contribution for reward in allocation.rewards if reward.width]
    cut = [reward for reward in allocation.rewards if not reward.width]
    for reward in cut:
        assert all(reward.contribution <= other for other in passed)
        assert reward.share < max(cutoff, proof)


def test_a_spread_wider_than_the_ladder_is_mapped_with_ranks_kept_and_a_note():
    # The average is 4, and what is above it is worth no more than it.
    scores = {"a": 10.0, "b": 3.0, "c": 2.0, "d": 1.0}
    allocation = rewarded(scores, curve(), 0.1, 0.1)
    assert allocation.rule == AFFINE
    assert "mapped affinely above the cut-off, ranks kept" in allocation.note
    targets = [reward.target for reward in allocation.rewards]
    assert targets == sorted(targets, reverse=True)
    assert len(set(targets)) == 4
    assert (targets[0], targets[-1]) == pytest.approx((0.8, 0.6))
    steps = np.diff(targets)
    assert steps == pytest.approx([steps[0]] * 3)
    assert widths_of(allocation) == {"a": 1.0, "b": 0.5, "c": 0.25, "d": 0.25}


@pytest.mark.parametrize("harm", [-0.1, -5.0])
def test_an_outlier_below_the_cut_off_does_not_stretch_the_map(harm):
    honest = {"a": 1.0, "b": 0.98, "c": 0.96}
    found = rewarded({**honest, "rider": harm}, curve(), 0.55, 0.1)
    assert found.rule == EQUAL_GAIN
    assert widths_of(found)["rider"] == 0.0
    assert widths_of(found)["a"] == 1.0


# --- models of their own ------------------------------------------------------------------------


def test_where_all_were_measured_alone_that_is_what_they_are_worth():
    scores, alone = {"a": 3.0, "b": 2.0, "c": 1.0}, {"a": 0.6, "b": 0.55, "c": 0.5}
    allocation = rewarded(scores, curve(), 0.1, 0.1, alone=alone)
    assert allocation.rule == EQUAL_GAIN
    assert [reward.value for reward in allocation.rewards] == [0.6, 0.55, 0.5]
    assert [reward.alone for reward in allocation.rewards] == [0.6, 0.55, 0.5]
    assert widths_of(allocation) == {"a": 1.0, "b": 0.75, "c": 0.5}
    gains = [reward.score - reward.value for reward in allocation.rewards]
    assert gains == pytest.approx([0.2] * 3)


def test_nobody_above_the_cut_off_gets_less_than_it_has_alone():
    scores, alone = {"a": 3.0, "b": 2.0, "c": 1.0}, {"a": 0.5, "c": 0.72}
    for rule in RULES:
        found = by_device(rewarded(scores, curve(), 0.1, 0.1, alone=alone, rule=rule))
        assert found["c"].score >= 0.72
        assert found["a"].width >= found["b"].width >= found["c"].width >= 0.75
    affine = by_device(rewarded(scores, curve(), 0.1, 0.1, alone=alone, rule="affine"))
    assert affine["c"].reason.endswith("scores 0.750, the least that nobody has better alone")


def test_whoever_has_better_than_is_on_offer_is_told_so_and_lifts_nobody():
    scores, alone = {"a": 3.0, "b": 1.0}, {"b": 0.95}
    found = by_device(rewarded(scores, curve(), 0.1, 0.1, alone=alone))
    assert found["b"].width == 0.25
    assert found["b"].reason.endswith("its own model scored 0.950, more than any width on offer")


def test_where_one_was_not_measured_alone_all_are_worth_their_contribution():
    scores = {"a": 1.0, "b": 0.9}
    with_one = rewarded(scores, curve(), 0.1, 0.1, alone={"a": 0.3, "b": math.nan})
    assert [reward.alone for reward in with_one.rewards] == [0.3, None]
    values = [reward.value for reward in rewarded(scores, curve(), 0.1, 0.1).rewards]
    assert [reward.value for reward in with_one.rewards] == values


def test_a_worth_in_the_other_order_than_the_contributions_is_evened_out():
    scores, alone = {"a": 3.0, "b": 2.0, "c": 1.0}, {"a": 0.5, "b": 0.6, "c": 0.45}
    allocation = rewarded(scores, curve(), 0.1, 0.1, alone=alone)
    targets = [reward.target for reward in allocation.rewards]
    assert targets == pytest.approx([0.8, 0.8, 0.7])
    assert widths_of(allocation) == {"a": 1.0, "b": 1.0, "c": 0.5}


# --- the other rules ----------------------------------------------------------------------------


def test_affine_shows_ranks_however_little_contributions_differ():
    scores = {"a": 1.0, "b": 0.999, "c": 0.998}
    allocation = rewarded(scores, curve((0.6, 0.7, 0.7, 0.8)), 0.1, 0.1, rule="affine")
    assert (allocation.rule, allocation.note) == ("affine", "")
    assert widths_of(allocation) == {"a": 1.0, "b": 0.75, "c": 0.25}


def test_nash_welfare_gives_everybody_above_the_cut_off_the_full_width():
    scores = {"a": 4.0, "b": 1.0, "c": 0.9, "rider": 0.1}
    allocation = rewarded(scores, curve(), 0.1, 0.25, rule="nash-welfare")
    assert allocation.rule == "nash-welfare"
    assert widths_of(allocation) == {"a": 1.0, "b": 1.0, "c": 1.0, "rider": 0.0}


@given(st.lists(st.floats(0.01, 0.5), min_size=1, max_size=4))
def test_no_choice_has_a_larger_product_of_gains_than_the_full_width_for_all(worths):
    products = [
        np.prod([score - worth for score, worth in zip(choice, worths, strict=True)])
        for choice in itertools.product(CURVE, repeat=len(worths))
    ]
    assert max(products) == pytest.approx(np.prod(CURVE[-1] - np.array(worths)))


@pytest.mark.parametrize(
    ("sharing", "widths"),
    [(0.0, [1.0, 0.5, 0.25]), (0.5, [1.0, 0.5, 0.5]), (0.9, [1.0, 0.75, 0.75]), (1.0, [1.0] * 3)],
)
def test_sharing_goes_from_proportional_to_equal(sharing, widths):
    scores = {"a": 1.0, "b": 0.5, "c": 0.25}
    allocation = rewarded(scores, curve(), 0.1, 0.1, rule="sharing-coefficient", sharing=sharing)
    assert allocation.rule == "sharing-coefficient"
    assert list(widths_of(allocation).values()) == widths


def test_tiers_are_the_operators_table():
    scores = {"a": 2.0, "b": 1.2, "c": 0.6, "d": 0.2}
    tiers = ((0.5, 0.25), (1.0, 0.5), (1.9, 0.75))
    allocation = rewarded(scores, curve(), 0.1, 0.0, rule="tiers", tiers=tiers)
    assert widths_of(allocation) == {"a": 0.75, "b": 0.5, "c": 0.25, "d": 0.0}
    assert allocation.rewards[3].reason.endswith("is below the lowest tier")


def test_a_tier_whose_width_is_not_offered_gives_the_next_narrower_one_or_the_narrowest():
    points = curve(hidden=(0.25, 0.75))
    scores = {"a": 2.0, "b": 1.2, "c": 0.6}
    tiers = ((0.1, 0.25), (1.9, 0.75))
    allocation = rewarded(scores, points, 0.1, 0.0, rule="tiers", tiers=tiers)
    assert widths_of(allocation) == {"a": 0.5, "b": 0.5, "c": 0.5}


# --- odd input ----------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("score", [1.0, 1e-6, 1e6])
def test_one_device_alone_gets_the_best(score, rule):
    assert widths_of(rewarded({"a": score}, curve(), 0.1, 0.25, rule=rule)) == {"a": 1.0}


@pytest.mark.parametrize("rule", RULES)
def test_equal_devices_all_get_the_best(rule):
    allocation = rewarded(dict.fromkeys("abcdefgh", 0.125), curve(), 0.1, 0.25, rule=rule)
    assert set(widths_of(allocation).values()) == {1.0}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("scores", [{"a": 0.0, "b": 0.0}, {"a": -0.5, "b": -2.0}, {"a": -1.0}])
def test_where_nobody_advanced_the_model_nobody_passes_the_cut_off(scores, rule):
    allocation = rewarded(scores, curve(), 0.1, 0.25, rule=rule)
    assert set(widths_of(allocation).values()) == {0.0}
    assert allocation.rule == FLOOR


def test_without_a_cut_off_nobody_advancing_the_model_means_the_floor_for_all():
    allocation = rewarded({"a": 0.0, "b": -2.0}, curve(), 0.1, 0.0)
    assert widths_of(allocation) == {"a": 0.25, "b": 0.25}


def test_noise_beside_noise_is_not_told_from_work_by_its_contribution():
    """That is for the curve to do: no width is offered that is no better than untrained."""
    noise = {"a": [1.0, -0.8, 0.9, -1.0], "b": [0.7, -0.9, 1.2, -0.8]}
    assert set(widths_of(rewarded(noise, curve(), 0.1, 0.02)).values()) == {1.0}
    nothing = rewarded(noise, curve(hidden=LADDER), 0.1, 0.02)
    assert set(widths_of(nothing).values()) == {0.0}
    assert nothing.rule == NONE


def test_what_is_above_zero_by_rounding_alone_is_no_progress():
    allocation = rewarded({"a": -1.0, "b": 1e-16}, curve(), 0.1, 0.25)
    assert set(widths_of(allocation).values()) == {0.0}
    assert allocation.rule == FLOOR


@given(st.floats(-1e3, 0.0))
def test_harm_of_one_device_changes_no_reward_of_another(harm):
    honest = {"a": 1.0, "b": 0.9, "rider": 0.001}
    without = widths_of(rewarded(honest, curve(), 0.1, 0.02))
    beside = widths_of(rewarded({**honest, "vandal": harm}, curve(), 0.1, 0.02))
    assert beside == {**without, "vandal": 0.0}
    assert without["rider"] == 0.0


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_a_contribution_that_is_no_number_is_cut_off_and_harms_nobody(score):
    scores = {"a": 1.0, "b": 0.9, "broken": score}
    for cutoff in (0.0, 0.25):
        found = by_device(rewarded(scores, curve(), 0.1, cutoff))
        assert (found["broken"].width, found["broken"].contribution) == (0.0, 0.0)
        assert "no finite number" in found["broken"].reason
        assert found["a"].width == 1.0
    blocks = {"a": [1.0, 1.1], "b": [1.0, score]}
    assert widths_of(rewarded(blocks, curve(), 0.1, 0.25)) == {"a": 1.0, "b": 0.0}


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_the_unit_of_contributions_does_not_matter(scale):
    scores = {"a": 1.0 * scale, "b": 0.8 * scale, "c": -0.2 * scale}
    assert widths_of(rewarded(scores, curve(), 0.4, 0.25)) == {"a": 1.0, "b": 0.75, "c": 0.0}


def test_a_score_that_fell_while_the_loss_improved_does_not_turn_the_order_round():
    rewards = rewarded({"a": 2.0, "b": 1.0}, curve(), 0.9, 0.25).rewards
    assert rewards[0].width >= rewards[1].width
    assert rewards[0].value >= rewards[1].value


def test_a_width_that_is_not_offered_is_never_granted():
    points = curve((0.6, 0.8, 0.7, 0.75), hidden=(0.75, 1.0))
    allocation = rewarded({"a": 1.0, "b": 1.0, "c": 0.4}, points, 0.1, 0.25)
    assert set(widths_of(allocation).values()) <= {0.25, 0.5}
    assert widths_of(allocation)["a"] == 0.5


@given(contributions, curves, st.sets(st.integers(0, 5)), rules)
def test_dominated_widths_are_never_granted(scores, points, dropped, rule):
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
    allocation = rewarded(scores, points, 0.1, 0.0, rule=rule)
    assert set(widths_of(allocation).values()) <= offered | {0.0}


def test_widths_of_equal_score_are_one_reward_and_the_widest_of_them_is_it():
    allocation = rewarded({"a": 1.0, "b": 0.9}, curve((0.6, 0.7, 0.7, 0.7)), 0.5, 0.25)
    assert widths_of(allocation)["a"] == 1.0


def test_a_flat_curve_rewards_all_alike():
    allocation = rewarded({"a": 3.0, "b": 1.0}, curve((0.7,) * 4), 0.1, 0.25)
    assert set(widths_of(allocation).values()) == {1.0}


def test_an_accuracy_that_falls_with_width_is_fitted_where_nobody_did_before():
    points = [
        CurvePoint(width=width, score=score, low=score, high=score, offered=True, fitted=score)
        for width, score in zip(LADDER, (0.6, 0.9, 0.8, 0.7), strict=True)
    ]
    allocation = rewarded({"a": 1.0, "b": 0.1}, points, 0.1, 0.1)
    assert widths_of(allocation) == {"a": 1.0, "b": 0.25}
    assert by_device(allocation)["a"].score == pytest.approx(0.8)


def test_a_width_whose_score_is_no_number_is_not_offered():
    points = curve()
    points[-1] = CurvePoint(width=1.0, score=math.nan, low=0, high=0, offered=True, fitted=math.nan)
    assert widths_of(rewarded({"a": 1.0}, points, 0.1, 0.25)) == {"a": 0.75}


def test_no_device():
    assert rewarded({}, curve(), 0.1, 0.25).rewards == ()


@pytest.mark.parametrize("points", [[], curve(hidden=LADDER)])
def test_where_no_width_is_offered_nobody_gets_a_release(points):
    allocation = rewarded({"a": 1.0, "b": 0.5}, points, 0.1, 0.0)
    assert (allocation.rule, widths_of(allocation)) == (NONE, {"a": 0.0, "b": 0.0})
    assert allocation.rewards[0].reason == "no release: no width is offered"
    assert "no width is offered" in allocation.note
