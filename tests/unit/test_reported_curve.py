"""The curve that devices report: trimmed against lies, monotone, and in no order."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.messages import WidthEvaluation
from coordinator.reported_curve import (
    NOT_MEASURED,
    reported_curve,
    reported_gain,
    reported_value,
    sound_evaluations,
    trimmed_mean,
)

GRID = (0.25, 0.5, 1.0)
scores = st.floats(-1e3, 1.0)


def evaluation(width, score=0.5, loss=1.0, samples=10):
    return WidthEvaluation(width=width, score=score, loss=loss, samples=samples)


def report(*given_scores, loss=1.0):
    return tuple(
        evaluation(width, score, loss) for width, score in zip(GRID, given_scores, strict=False)
    )


reports = st.dictionaries(
    st.sampled_from([f"device-{n}" for n in range(8)]),
    st.lists(scores, min_size=1, max_size=3).map(lambda found: report(*found)),
    min_size=1,
)


# --- the trimmed mean ---------------------------------------------------------------------------


@given(st.lists(scores, min_size=1, max_size=12), st.floats(0.0, 0.49), st.data())
def test_a_share_of_liars_up_to_the_trim_cannot_carry_the_mean_beyond_the_honest(
    honest, trim, data
):
    # The most liars that are still no more than the share of all: k <= trim * (n + k).
    most = math.floor(Fraction(trim) * len(honest) / (1 - Fraction(trim)))
    lies = data.draw(st.lists(scores, max_size=most))
    found = trimmed_mean([*honest, *lies], trim)
    assert min(honest) <= found.mean <= max(honest)


def test_one_of_five_is_trimmed_off_either_end():
    assert trimmed_mean([0.0, 0.4, 0.5, 0.6, 1.0], 0.2).mean == pytest.approx(0.5)
    assert trimmed_mean([-1000.0, 0.4, 0.5, 0.6, 1.0], 0.2).mean == pytest.approx(0.5)


def test_without_trim_it_is_the_t_interval_of_the_mean():
    values = [0.1, 0.4, 0.7]
    found = trimmed_mean(values, 0.0)
    half = 4.302652729911275 * np.std(values, ddof=1) / math.sqrt(3)
    assert (found.low, found.high) == pytest.approx((0.4 - half, 0.4 + half))


def test_a_trimmed_interval_uses_the_winsorised_variance():
    found = trimmed_mean([0.0, 0.4, 0.5, 0.6, 9.0], 0.2)
    spread = np.std([0.4, 0.4, 0.5, 0.6, 0.6], ddof=1)
    half = 4.302652729911275 * spread / (0.6 * math.sqrt(5))
    assert (found.low, found.high) == pytest.approx((0.5 - half, 0.5 + half))


def test_one_report_says_nothing_about_spread():
    found = trimmed_mean([0.7], 0.2)
    assert (found.mean, found.low, found.high) == (0.7, -math.inf, math.inf)


# --- the curve ----------------------------------------------------------------------------------


@given(reports, st.floats(0.0, 0.49))
def test_the_fit_rises_with_width_and_the_narrowest_reported_width_is_offered(found, trim):
    points = reported_curve(found, trim, (0.125, *GRID))
    assert [point.width for point in points] == [0.125, *GRID]
    fitted = [point.fitted for point in points if point.offered]
    assert fitted
    assert fitted == sorted(fitted)
    assert all(bool(point.why) != point.offered for point in points)
    numbers = [n for p in points for n in (p.score, p.low, p.high, p.fitted)]
    assert all(math.isfinite(number) for number in numbers)


@given(reports, st.floats(0.0, 0.49), st.randoms(use_true_random=False))
def test_neither_the_order_of_devices_nor_of_their_evaluations_matters(found, trim, shuffled):
    names = list(found)
    shuffled.shuffle(names)
    other = {name: tuple(reversed(found[name])) for name in names}
    assert reported_curve(other, trim) == reported_curve(found, trim)
    assert reported_value(other, trim) == reported_value(found, trim)


@given(
    st.lists(st.tuples(scores, scores, scores), min_size=4, max_size=8),
    st.tuples(scores, scores, scores),
)
def test_one_liar_among_five_or_more_stays_within_the_honest_range(honest, lie):
    found = {f"honest-{n}": report(*one) for n, one in enumerate(honest)}
    points = reported_curve({**found, "liar": report(*lie)}, 0.2)
    for position, point in enumerate(points):
        told = [one[position] for one in honest]
        assert min(told) <= point.score <= max(told)
    flat = [value for one in honest for value in one]
    assert all(min(flat) <= point.fitted <= max(flat) for point in points)


def test_one_that_lies_high_and_one_that_lies_low_leave_the_honest_curve():
    honest = {f"honest-{n}": report(0.5 + n / 100, 0.6 + n / 100, 0.7) for n in range(3)}
    liars = {"high": report(1.0, 1.0, 1.0), "low": report(-1000.0, -1000.0, -1000.0)}
    told, true = (reported_curve(found, 0.2) for found in ({**honest, **liars}, honest))
    assert [(p.width, p.score, p.offered, p.fitted) for p in told] == [
        (p.width, p.score, p.offered, p.fitted) for p in true
    ]


def test_two_of_five_that_agree_move_a_width_by_a_third_of_what_one_invents():
    honest = {f"honest-{n}": report(0.6) for n in range(3)}
    high = {f"liar-{n}": report(1.0) for n in range(2)}
    (point,) = reported_curve({**honest, **high}, 0.2)
    assert point.score == pytest.approx(0.6 + (1.0 - 0.6) / 3)
    low = {f"liar-{n}": report(-1000.0) for n in range(2)}
    (point,) = reported_curve({**honest, **low}, 0.2)
    assert point.score == pytest.approx(0.6 - (1000.0 + 0.6) / 3)


def test_of_four_reports_none_is_cut_off():
    honest = {f"honest-{n}": report(0.6) for n in range(3)}
    (point,) = reported_curve({**honest, "liar": report(1.0)}, 0.2)
    assert point.score == pytest.approx(0.7)


def test_a_width_that_most_devices_measure_lower_than_a_narrower_one_is_not_offered():
    found = {f"d{n}": report(0.5 + n / 50, 0.3 + n / 50 + n / 1000, 0.8) for n in range(6)}
    narrow, middle, full = reported_curve(found, 0.2)
    assert (narrow.offered, middle.offered, full.offered) == (True, False, True)
    assert middle.why == "significantly worse than width 0.25, by what devices report"
    assert middle.fitted == middle.score


def test_a_dip_that_devices_disagree_about_is_pooled():
    found = {f"d{n}": report(0.5, 0.49 + (-1) ** n * 0.1, 0.8) for n in range(6)}
    narrow, middle, _ = reported_curve(found, 0.2)
    assert middle.offered
    assert narrow.fitted == middle.fitted == pytest.approx(0.495)


def test_one_device_alone_cannot_take_a_width_off_the_ladder():
    points = reported_curve({"alone": report(0.7, 0.5, 0.9)}, 0.2)
    assert [point.offered for point in points] == [True, True, True]
    assert [point.fitted for point in points] == pytest.approx([0.6, 0.6, 0.9])
    assert (points[0].low, points[0].high) == (0.7, 0.7)


def test_a_width_that_nobody_reports_is_named_and_not_offered():
    found = {f"d{n}": report(0.4, 0.6) for n in range(3)}
    below, _, between, _, above = reported_curve(found, 0.2, (0.125, 0.375, 1.0))
    assert [p.offered for p in (below, between, above)] == [False] * 3
    assert {p.why for p in (below, between, above)} == {NOT_MEASURED}
    assert [p.score for p in (below, between, above)] == pytest.approx([0.4, 0.5, 0.6])


def test_without_any_report_there_is_no_curve_and_no_value():
    assert reported_curve({}, 0.2, GRID) == ()
    assert reported_value({}, 0.2) == 0.0


# --- values and gains ---------------------------------------------------------------------------


def test_a_value_is_minus_the_trimmed_mean_of_the_devices_losses():
    found = {f"d{n}": report(0.5, 0.5, loss=loss) for n, loss in enumerate((1.0, 2.0, 3.0))}
    found |= {"high": report(0.5, loss=1e6), "low": report(0.5, loss=0.0)}
    assert reported_value(found, 0.2) == pytest.approx(-2.0)


def minus_loss(one):
    return -one.loss


def test_a_gain_pairs_each_device_with_itself_over_the_widths_it_reported_twice():
    old = {f"d{n}": report(0.1, loss=2.0 + n) for n in range(4)}
    new = {f"d{n}": report(0.1, 0.1, 0.1, loss=1.5 + n + n / 100) for n in range(1, 6)}
    gain = reported_gain(new, old, 0.2, minus_loss)
    assert gain.mean == pytest.approx(0.48)
    assert gain.low > 0


def test_who_reported_only_once_cannot_be_compared():
    gain = reported_gain({"a": report(0.1)}, {"b": report(0.1)}, 0.2, minus_loss)
    assert (gain.mean, gain.low, gain.high) == (0.0, -math.inf, math.inf)


# --- what can be true ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "fault"),
    [
        (evaluation(0.3), "width 0.3 is none of the grid up to 0.5"),
        (evaluation(1.0), "width 1 is none of the grid up to 0.5"),
        (evaluation(math.nan), "width nan"),
        (evaluation(0.25, score=1.5), "a score of 1.5 at width 0.25"),
        (evaluation(0.25, score=-1001.0), "a score of -1001"),
        (evaluation(0.25, score=math.nan), "a score of nan"),
        (evaluation(0.25, loss=math.inf), "a loss of inf"),
        (evaluation(0.25, loss=-0.1), "a loss of -0.1"),
        (evaluation(0.25, samples=0), "0 samples"),
        (evaluation(0.25, samples=2**60), "1152921504606846976 samples"),
        (evaluation(0.5), "width 0.5 is reported twice"),
    ],
)
def test_an_evaluation_that_cannot_be_true_is_dropped_and_named(one, fault):
    sound = evaluation(0.5)
    kept, note = sound_evaluations((sound, one), GRID, 0.5)
    assert kept == (sound,)
    assert note.startswith("1 of 2 evaluations dropped: ")
    assert fault in note


def test_sound_evaluations_are_kept_without_a_word():
    told = report(-0.5, 1.0)
    assert sound_evaluations(told, GRID, 0.5) == (told, "")
