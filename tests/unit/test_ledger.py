"""Accounts over rounds: their sums, where they come from, and when two of them differ."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.contribution.ledger import (
    Ledger,
    Total,
    differ,
    differ_on_recordings,
    half_width,
    statement,
)
from coordinator.contribution.round_noise import ROUNDS_THAT_TELL, RoundNoise
from coordinator.contribution.student import inside, quantile
from journal.events import Contribution, RoundScored

NUMBERS = st.floats(-1e3, 1e3)


def scored(round_, entries):
    return RoundScored(
        round=round_,
        digest="weights",
        curve=(),
        contributions=tuple(entries),
        method="permutation-shapley",
        value_before=0.0,
        value_after=0.0,
        coalitions=0,
        seconds=0.0,
        better=True,
    )


def entry(device, blocks, update="digest"):
    score = float(np.mean(blocks))
    return Contribution(device=device, score=score, update=update, blocks=tuple(blocks))


def account(blocks):
    return Total(float(np.mean(blocks)), tuple(blocks), rounds=1)


# --- Student's t --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("freedom", "level", "expected"),
    [
        (1, 0.05, 12.7062),
        (2, 0.05, 4.30265),
        (3, 0.2, 1.63774),
        (7, 0.01, 3.49948),
        (8, 0.001, 5.04131),
        (15, 0.05, 2.13145),
        (30, 0.1, 1.69726),
        (100, 0.05, 1.98397),
        (1000, 0.05, 1.96234),
    ],
)
def test_quantiles_are_those_of_the_printed_tables(freedom, level, expected):
    assert quantile(freedom, level) == pytest.approx(expected, rel=1e-5)


@given(st.integers(1, 60), st.floats(1e-6, 0.999))
def test_a_quantile_is_exceeded_as_often_as_its_level_says(freedom, level):
    angle = math.atan(quantile(freedom, level) / math.sqrt(freedom))
    assert inside(angle, freedom) == pytest.approx(1.0 - level, abs=1e-9)


@pytest.mark.parametrize(("freedom", "level"), [(0, 0.05), (3, 0.0), (3, 1.0), (3, math.nan)])
def test_no_quantile_without_freedom_or_level(freedom, level):
    with pytest.raises(ValueError, match="no t quantile"):
        quantile(freedom, level)


# --- accounts -----------------------------------------------------------------------------------


@st.composite
def histories(draw):
    """Rounds of three devices, each of which may stay away; every score has two blocks."""
    return [
        scored(
            number,
            [
                entry(device, [draw(NUMBERS), draw(NUMBERS)], f"{device}-{number}")
                for device in "abc"
                if draw(st.booleans())
            ],
        )
        for number in range(1, draw(st.integers(1, 6)) + 1)
    ]


def replayed(history, decay):
    ledger = Ledger(decay)
    for event in history:
        ledger = ledger.entered(event.round, event.contributions)
    return ledger


@given(histories(), st.floats(0.1, 1.0))
def test_an_account_is_the_sum_of_its_entries_each_with_what_is_left_of_it(history, decay):
    ledger = replayed(history, decay)
    assert ledger.round == len(history)
    for device, total in ledger.totals.items():
        entries = statement(device, history, decay)
        assert len(entries) == total.rounds
        assert total.score == pytest.approx(sum(e.weight * e.score for e in entries), abs=1e-9)
        assert total.score == pytest.approx(float(np.mean(total.blocks)), abs=1e-9)
        for one in entries:
            assert one.update == f"{device}-{one.round}"
            assert one.weight == pytest.approx(decay ** (len(history) - one.round))


def test_who_stays_away_only_decays():
    ledger = Ledger(0.5).entered(1, [entry("a", [1.0, 3.0])]).entered(2, [entry("b", [1.0, 1.0])])
    a, b = (ledger.totals[name] for name in "ab")
    assert (a.score, a.blocks, a.rounds) == (1.0, (0.5, 1.5), 1)
    assert (b.score, b.blocks, b.rounds) == (1.0, (1.0, 1.0), 1)
    assert (a.noise.weight, b.noise.weight) == (0.5, 1.0)


def test_an_account_begins_at_zero_and_is_not_begun_twice():
    ledger = Ledger().with_devices(["a", "b"])
    assert ledger.totals == {"a": Total(), "b": Total()}
    grown = ledger.entered(1, [entry("a", [1.0, 2.0])])
    assert grown.with_devices(["a", "b"]) is grown
    assert grown.totals["b"].interval == (0.0, 0.0)


def test_a_round_with_other_blocks_leaves_only_the_sum():
    ledger = Ledger().entered(1, [entry("a", [1.0, 2.0])]).entered(2, [entry("a", [1.0, 2.0, 3.0])])
    assert (ledger.totals["a"].score, ledger.totals["a"].blocks) == (3.5, ())
    assert ledger.totals["a"].interval == (3.5, 3.5)


def test_an_interval_is_that_of_the_mean_of_the_blocks():
    low, high = account([1.0, 2.0, 3.0]).interval
    assert (low, high) == pytest.approx((2 - 4.302653 / math.sqrt(3), 2 + 4.302653 / math.sqrt(3)))
    assert half_width([1.0, 2.0, 3.0], 0.5) < half_width([1.0, 2.0, 3.0], 0.01)


# --- two accounts -------------------------------------------------------------------------------

BLOCKS = st.lists(NUMBERS, min_size=4, max_size=4)


@given(BLOCKS, BLOCKS, st.floats(0.001, 0.5))
def test_whether_two_differ_does_not_depend_on_their_order(a, b, level):
    assert differ(account(a), account(b), level) == differ(account(b), account(a), level)


@given(BLOCKS, st.floats(0.001, 0.5))
def test_nobody_differs_from_itself(blocks, level):
    assert not differ(account(blocks), account(blocks), level)


@given(BLOCKS, BLOCKS)
def test_a_stricter_level_tells_fewer_apart(a, b):
    if differ(account(a), account(b), 0.01):
        assert differ(account(a), account(b), 0.2)


def test_what_is_hard_for_both_does_not_hide_their_difference():
    hard = np.array([0.0, 5.0, -5.0, 2.0])
    better, worse = account(hard + np.array([1.0, 1.1, 0.9, 1.0])), account(hard)
    assert better.interval[0] < worse.interval[1]
    assert differ(better, worse, 0.05)


def test_a_constant_difference_is_certain_and_rounding_is_none():
    assert differ(account([1.0, 2.0]), account([2.0, 3.0]), 0.001)
    assert not differ(account([1.0, 2.0]), account([1.0 + 1e-12, 2.0 + 1e-12]), 0.5)


def test_without_common_blocks_any_difference_beyond_rounding_counts():
    assert differ(Total(1.0, (), 1), Total(1.1, (), 1), 0.05)
    assert differ(Total(1.0, (0.5, 1.5), 1), Total(1.1, (), 1), 0.05)
    assert not differ(Total(0.1 + 0.2, (), 1), Total(0.3, (), 1), 0.05)


def test_who_never_took_part_is_compared_as_zero_on_every_block():
    sure, unsure = account([1.0, 1.1, 0.9, 1.0]), account([5.0, -4.0, 1.0, 2.0])
    assert differ(sure, Total(), 0.05)
    assert differ(Total(), sure, 0.05)
    assert not differ(unsure, Total(), 0.05)
    assert not differ(Total(), Total(), 0.05)


def test_equal_devices_are_told_apart_as_rarely_as_the_level_says():
    rng = np.random.default_rng(3)
    found = np.mean(
        [differ(account(rng.normal(size=8)), account(rng.normal(size=8)), 0.1) for _ in range(2000)]
    )
    assert 0.08 < found < 0.12


# --- chance in training ---------------------------------------------------------------------------


def over_rounds(scores, decay=1.0):
    """The accounts of devices that scored so much in each round; None = stayed away. Sure of it."""
    ledger = Ledger(decay).with_devices(list(scores))
    for number, row in enumerate(zip(*scores.values(), strict=True), start=1):
        entries = [
            entry(device, [score] * 4)
            for device, score in zip(scores, row, strict=True)
            if score is not None
        ]
        ledger = ledger.entered(number, entries)
    return ledger.totals


def test_noise_is_that_of_the_ratio_model():
    totals = over_rounds({"a": [3.0, 1.0, 2.0, 1.0], "b": [1.0, 1.0, 3.0, 1.0]})
    scores, advances = np.array([3.0, 1.0, 2.0, 1.0]), np.array([4.0, 2.0, 5.0, 2.0])
    theta = scores.sum() / advances.sum()
    variance = ((scores - theta * advances) ** 2 / advances).sum() / 3
    expected = quantile(3, 0.05) * math.sqrt(2 * variance * advances.sum() * 2 / 1)
    assert totals["a"].noise.difference(0.05) == pytest.approx(expected)


def test_whoever_has_the_same_part_of_every_round_has_no_noise():
    totals = over_rounds({"a": [30.0, 3.0, 0.3, 0.03], "b": [10.0, 1.0, 0.1, 0.01]})
    assert totals["a"].noise.difference(0.05) == pytest.approx(0, abs=1e-5)


def test_harm_done_by_another_device_does_not_make_the_noise_larger():
    calm = over_rounds({"a": [3.0, 2.0, 2.5, 3.0], "b": [1.0, 1.1, 1.0, 0.9]})
    rough = over_rounds(
        {"a": [3.0, 2.0, 2.5, 3.0], "b": [1.0, 1.1, 1.0, 0.9], "vandal": [0.0, -99.0, 0.0, -9.0]}
    )
    assert rough["a"].noise.difference(0.05) <= calm["a"].noise.difference(0.05)


def test_a_round_in_which_nobody_advanced_says_nothing_of_chance():
    totals = over_rounds({"a": [3.0, 0.0, 0.0], "b": [1.0, 0.0, -2.0]})
    assert (totals["a"].noise.rounds, totals["a"].rounds) == (1, 3)
    assert (totals["b"].noise.rounds, totals["b"].rounds) == (2, 3)


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_says_nothing_of_chance(odd):
    assert RoundNoise().entered(odd, 1.0, 2) == RoundNoise()
    assert RoundNoise().entered(1.0, odd, 2) == RoundNoise()


def test_what_varies_from_round_to_round_as_much_as_it_differs_is_chance():
    apart = over_rounds({"a": [1.0, 1.1, 1.0, 1.1], "b": [0.5, 0.5, 0.6, 0.5]})
    assert differ(apart["a"], apart["b"], 0.05)
    alike = over_rounds({"a": [1.0, 0.4, 1.1, 0.5], "b": [0.5, 1.0, 0.4, 0.9]})
    assert differ_on_recordings(alike["a"], alike["b"], 0.05)
    assert not differ(alike["a"], alike["b"], 0.05)


@pytest.mark.parametrize("rounds", [1, ROUNDS_THAT_TELL - 1])
def test_few_rounds_say_nothing_of_chance_and_the_recordings_decide(rounds):
    totals = over_rounds({"a": [1.0, 0.5, 1.5][:rounds], "b": [0.9, 0.6, 0.7][:rounds]})
    assert totals["a"].noise.difference(0.05) == -math.inf
    assert differ(totals["a"], totals["b"], 0.05)


def test_an_early_round_that_advanced_far_does_not_hide_what_the_later_ones_show():
    totals = over_rounds({"a": [100.0, 0.11, 0.10, 0.11], "b": [50.0, 0.05, 0.05, 0.06]})
    assert differ(totals["a"], totals["b"], 0.05)


@pytest.mark.parametrize("idle", [None, 0.0, -0.5])
@pytest.mark.parametrize("rounds", [4, 5, 10])
def test_who_works_now_and_then_is_told_from_who_works_always(idle, rounds):
    steady = [1.0 + 0.05 * (-1) ** n for n in range(rounds)]
    lazy = [1.0 if n % 2 else idle for n in range(rounds)]
    others = {f"other-{n}": steady[n:] + steady[:n] for n in range(3)}
    totals = over_rounds({"steady": steady, "lazy": lazy, **others})
    assert differ(totals["steady"], totals["lazy"], 0.05)


def test_who_stayed_away_is_judged_by_the_rounds_in_which_it_was_there():
    late = [None, None, None, 1.0, 1.0, 1.0, 1.0]
    always = {name: [1.0, 1.1, 1.0, 1.1, 1.0, 1.1, 1.0] for name in ("always", "too", "as well")}
    totals = over_rounds({"late": late, **always})
    assert totals["late"].noise.rounds == 4
    assert differ(totals["late"], totals["always"], 0.05)


@pytest.mark.parametrize("decay", [1.0, 0.8])
def test_devices_that_work_alike_are_told_apart_by_chance_as_rarely_as_the_level_says(decay):
    rng = np.random.default_rng(7)
    found = []
    for _ in range(1500):
        scores = rng.normal(1, 0.2, size=(3, 6))
        totals = over_rounds(dict(zip("abc", scores.tolist(), strict=True)), decay)
        found.append(differ(totals["a"], totals["b"], 0.1))
    assert 0.05 < np.mean(found) < 0.15


ROUNDS = st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), min_size=1, max_size=5)


@given(ROUNDS, st.floats(0.5, 1.0))
def test_chance_tells_nobody_from_itself_whatever_the_order(rounds, decay):
    totals = over_rounds(dict(zip("abc", map(list, zip(*rounds, strict=True)), strict=True)), decay)
    for one in totals.values():
        assert not differ(one, one, 0.05)
        for other in totals.values():
            assert differ(one, other, 0.05) == differ(other, one, 0.05)
