"""What rounds show of a device's pace, and the width and steps that follow from it."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.messages import WidthCost
from coordinator.fleet import Device
from coordinator.pace import (
    LEAST,
    MOST,
    REMEMBERED,
    followed,
    remembered,
    repaced,
    reserved,
    spread_of,
)
from coordinator.settings import Rounds, Settings, Training, WidthPolicy
from journal import events as e
from journal.events import RoundForecast
from tests.fakes.office import Office, settings

SETTINGS = Settings(
    fleet="plant",
    model="cnn1d",
    training=Training(steps=10),
    rounds=Rounds(deadline_s=100.0),
    width_policy=WidthPolicy(time_share=0.8, hysteresis=0.1),
)
ALLOWED, SPARE = 80.0, 72.0
# 10 s a width at 0.25, with a twelfth of it a step: 10 steps and 2 to set up.
FORECASTS = tuple(
    RoundForecast(width=width, predicted_s=40 * width, step_s=40 * width / 12)
    for width in (0.25, 0.5, 0.75, 1.0)
)


def device(width=1.0, pace=1.0, steps=0, forecasts=FORECASTS):
    return Device("old", width=width, pace=pace, steps=steps, forecasts=forecasts)


def applied(one, choice):
    return replace(one, width=choice.width, steps=choice.steps)


@pytest.mark.parametrize(
    ("width", "pace", "expected"),
    [
        (1.0, 2.15, None),  # 86 s: more than the 80 s that may be planned, but kept up to 88 s
        (1.0, 2.3, 0.75),  # 92 s are too many, 69 s are not
        (1.0, 3.9, 0.5),  # 78 s
        (0.75, 2.9, None),  # 87 s
        (0.75, 3.1, 0.5),
        (0.5, 1.9, 0.75),  # to become wider it must spare a tenth: 76 s are too many for 1.0
        (0.5, 1.7, 1.0),
        (0.75, 2.0, None),
    ],
)
def test_the_width_follows_the_pace_and_becoming_wider_takes_time_to_spare(width, pace, expected):
    choice = repaced(device(width, pace), SETTINGS)
    assert (choice.width if choice else None) == expected


def test_the_reason_says_what_the_rounds_have_shown():
    choice = repaced(device(1.0, 2.3), SETTINGS)
    assert choice.reason == (
        "width 0.75: 1 takes 92.0 s of the 80.0 s allowed; its rounds take 2.30 times what was"
        " predicted"
    )
    assert choice.predicted_s == pytest.approx(69.0)


SLOW = tuple(
    RoundForecast(width=width, predicted_s=60.0, step_s=5.0) for width in (0.25, 0.5, 0.75, 1.0)
)


def test_too_slow_for_the_narrowest_width_it_takes_fewer_steps_and_never_none():
    choice = repaced(device(0.25, 2.0, forecasts=SLOW), SETTINGS)
    assert (choice.width, choice.steps) == (0.25, 6)  # 20 s to set up, 10 s a step
    assert "width 0.25 with 6 of 10 steps" in choice.reason
    ruined = tuple(replace_seconds(one, 500.0) for one in SLOW)
    assert repaced(device(0.25, 4.0, forecasts=ruined), SETTINGS).steps == 1


def replace_seconds(one, seconds):
    return RoundForecast(width=one.width, predicted_s=seconds, step_s=seconds / 12)


def test_a_device_that_has_become_faster_takes_all_its_steps_again():
    choice = repaced(device(0.25, 1.05, steps=6, forecasts=SLOW[:1]), SETTINGS)
    assert (choice.width, choice.steps) == (0.25, 0)


def test_small_changes_of_the_pace_do_not_change_the_steps():
    # 30 steps and 2 to set up are 160 s; at this pace 19 of them fit.
    assert repaced(device(0.25, 1.95, steps=20, forecasts=LONG), steps_of(30)) is None
    assert repaced(device(0.25, 1.95, steps=25, forecasts=LONG), steps_of(30)).steps == 19


LONG = (RoundForecast(width=0.25, predicted_s=160.0, step_s=5.0),)


def steps_of(steps):
    changed = Training(steps=steps)
    return Settings(
        fleet="plant",
        model="cnn1d",
        training=changed,
        rounds=Rounds(deadline_s=265.0),
        width_policy=WidthPolicy(time_share=0.8),
    )


forecasts = st.lists(st.floats(0.01, 300), min_size=4, max_size=4).map(
    lambda seconds: tuple(
        replace_seconds(one, found) for one, found in zip(FORECASTS, sorted(seconds), strict=True)
    )
)


@given(
    st.sampled_from([0.25, 0.5, 0.75, 1.0]),
    st.floats(LEAST, MOST),
    st.integers(0, 9),
    forecasts,
)
def test_a_choice_fits_the_deadline_and_settles_at_once(width, pace, steps, found):
    one = device(width, pace, steps if width == 0.25 else 0, found)
    choice = repaced(one, SETTINGS)
    if choice is None:
        return
    assert choice.width > 0
    after = applied(one, choice)
    assert repaced(after, SETTINGS) is None, "it would be moved to and fro"
    if choice.steps != 1:
        assert choice.predicted_s <= ALLOWED + 1e-6


@given(st.floats(0.1, 10), st.floats(0, 1e9), st.floats(0, 1e9))
def test_no_round_however_odd_moves_the_pace_out_of_its_bounds(ratio, predicted, observed):
    assert LEAST <= followed(ratio, predicted, observed) <= max(MOST, ratio)
    assert math.isfinite(followed(ratio, predicted, math.inf))


# --- a campaign ---------------------------------------------------------------------------------


def desk_of():
    rounds = {"min_devices": 2, "budget": 8, "minimum": 8, "deadline_s": 10.0}
    desk = Office(settings(rounds=rounds)).begin("press")
    costs = tuple(
        WidthCost(width=width, step_s=2 * width, peak_bytes=1) for width in (0.25, 0.5, 0.75, 1.0)
    )
    desk.join("busy", costs=costs)
    return desk


def test_a_device_whose_rounds_take_longer_than_predicted_trains_narrower():
    desk = desk_of()
    assert desk.state.devices["busy"].width == 1.0
    [predicted] = [t.predicted_s for t in desk.state.round.opened.tasks if t.device == "busy"]
    assert predicted == pytest.approx(5.0, abs=0.01)
    for _ in range(6):
        desk.fetched("press")
        desk.wait(9.8)
        desk.fetched("busy")
        desk.scored({"press": 1.0, "busy": 1.0})
    busy = desk.state.devices["busy"]
    assert busy.pace > 1.5
    assert busy.width < 1.0
    assert "its rounds take" in busy.reason
    assert desk.state.devices["press"].width == 1.0
    assert desk.replayed() == desk.state


def test_a_late_device_is_known_to_be_slower_than_predicted():
    desk = desk_of()
    desk.fetched("press")
    desk.wait(11.0)
    assert desk.state.devices["busy"].last_drop.startswith("round 1: late")
    assert desk.state.devices["busy"].pace > 1.2
    assert desk.state.devices["press"].pace == 1.0, "it answered at once, which says nothing"


def test_a_new_profile_is_believed_again():
    desk = desk_of()
    desk.fetched("press")
    desk.wait(11.0)
    costs = (WidthCost(width=0.25, step_s=0.5, peak_bytes=1),)
    desk.join("busy", costs=costs)
    assert desk.state.devices["busy"].pace == 1.0
    assert desk.of(e.WidthChosen)[-1].width == 0.25


# --- room for rounds that differ ----------------------------------------------------------------


def test_a_chosen_deadline_has_room_for_the_longest_of_the_last_rounds():
    steady = replace(device(), ratios=(1.0,) * REMEMBERED)
    assert reserved(steady, 0.8) == 1.0, "what the share of time leaves is more"
    unsteady = replace(device(), pace=1.1, ratios=(1.0,) * 39 + (2.0,))
    assert reserved(unsteady, 0.8) == pytest.approx(0.8 * 1.1 * 2.0)
    assert reserved(replace(device(), ratios=(1.0,) * 4), 0.8) == pytest.approx(0.8 * 1.5)
    assert reserved(replace(device(), ratios=(3.0,)), 0.8) == pytest.approx(0.8 * 3.3)


def test_of_a_late_round_is_remembered_that_it_would_have_taken_longer():
    assert remembered((), 10.0, 20.0, late=False) == (2.0,)
    assert remembered((), 10.0, 20.0, late=True) == (3.0,)
    assert remembered((1.0,), 0.0, 20.0, late=True) == (1.0,)
    assert remembered(tuple(range(40)), 1.0, 99.0, late=False) == (*range(1, 40), 99.0)


def test_a_new_profile_keeps_how_much_rounds_differ_and_nothing_else_of_them():
    assert spread_of((2.0, 2.0, 4.0)) == (1.0, 1.0, 2.0)
    assert spread_of(()) == ()


def test_widths_follow_a_chosen_deadline_even_where_the_pace_is_as_predicted():
    known = replace(device(0.75), ratios=(1.0,) * REMEMBERED)
    assert repaced(known, SETTINGS) is None
    assert repaced(known, SETTINGS, 50.0).width == 1.0  # 40 s of the 40 s allowed
    narrow = repaced(known, SETTINGS, 25.0)
    assert (narrow.width, narrow.reason) == (
        0.5,
        "width 0.5: 0.75 takes 30.0 s of the 20.0 s allowed",
    )
    few = repaced(known, SETTINGS, 8.0)
    assert (few.width, few.steps) == (0.25, 5)  # 0.83 s a step, and two to set up
    assert "with 5 of 10 steps" in few.reason
