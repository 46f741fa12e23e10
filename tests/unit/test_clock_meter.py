"""Clock offset and round trip, from messages that travel anyway."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.clock_meter import KEPT, ClockMeter

seconds = st.floats(1e-4, 5.0)


@given(
    st.floats(-1e6, 1e6),
    st.lists(seconds, min_size=1, max_size=KEPT),
    st.lists(seconds, min_size=1, max_size=KEPT),
)
def test_the_offset_is_found_within_what_messages_travel(offset, delays, trips):
    meter = ClockMeter()
    for number, delay in enumerate(delays):
        sent = 1e9 + 10 * number  # by the server's clock
        meter = meter.heard(sent, sent + delay + offset)
    for trip in trips:
        meter = meter.acknowledged(trip)
    assert abs(meter.offset_s - offset) <= max(min(delays), max(trips) / 2) + 0.01


def test_one_message_that_was_held_up_does_not_move_the_offset():
    meter = ClockMeter()
    for sent, took in ((100.0, 0.02), (200.0, 60.0), (300.0, 0.03)):
        meter = meter.heard(sent, sent + took)
    assert meter.offset_s == 0.02


def test_a_clock_that_jumps_ahead_shows_after_so_many_messages():
    meter = ClockMeter().heard(100.0, 100.0)
    for number in range(KEPT):
        assert meter.offset_s == 0.0
        meter = meter.heard(200.0 + number, 3800.0 + number)
    assert meter.offset_s == 3600.0


def test_a_clock_that_jumps_back_shows_at_once():
    assert ClockMeter().heard(100.0, 100.0).heard(200.0, -3400.0).offset_s == -3600.0


@pytest.mark.parametrize("sent_at", [0.0, -1.0, math.nan, math.inf])
def test_a_stamp_that_is_none_says_nothing(sent_at):
    assert ClockMeter().heard(sent_at, 100.0).offset_s is None


@pytest.mark.parametrize("took", [0.0, -1.0, math.nan, math.inf])
def test_a_round_trip_that_is_none_says_nothing(took):
    assert ClockMeter().acknowledged(took).round_trip_s == 0.0


def test_an_outage_is_one_odd_round_trip():
    meter = ClockMeter()
    for took in (0.02, 900.0, 0.03):
        meter = meter.acknowledged(took)
    assert meter.round_trip_s == 0.03
