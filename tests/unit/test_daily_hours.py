"""A time of the day in which a device may train."""

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.daily_hours import DailyHours

NIGHT = DailyHours.parse("22:00-06:00")


def at(hour, minute=0, second=0):
    """Return that time of some day in UTC, in seconds since the epoch."""
    moment = dt.datetime(2026, 12, 1, hour, minute, second, tzinfo=dt.UTC)
    return moment.timestamp()


@pytest.mark.parametrize(
    ("text", "hour", "minute", "hours_left"),
    [
        ("22:00-06:00", 22, 0, 8),
        ("22:00-06:00", 23, 30, 6.5),
        ("22:00-06:00", 0, 0, 6),
        ("22:00-06:00", 5, 59, 1 / 60),
        ("22:00-06:00", 6, 0, 0),
        ("22:00-06:00", 12, 0, 0),
        ("22:00-06:00", 21, 59, 0),
        ("08:00-17:30", 8, 0, 9.5),
        ("08:00-17:30", 7, 59, 0),
        ("08:00-17:30", 17, 30, 0),
        ("00:00-12:00", 0, 0, 12),
        ("12:00-00:00", 23, 59, 1 / 60),
        ("22:00-06:00 +02:00", 20, 0, 8),  # ten in the evening, two hours ahead of UTC
        ("22:00-06:00+02:00", 19, 59, 0),
        ("22:00-06:00 -05:30", 3, 30, 8),
        ("22:00-06:00 -05:30", 3, 29, 0),
    ],
)
def test_hours_last_from_their_first_minute_until_their_last(text, hour, minute, hours_left):
    left_s = DailyHours.parse(text).left_s(at(hour, minute))
    assert left_s == pytest.approx(hours_left * 3600)


def test_it_says_when_it_opens_and_by_which_clock():
    assert str(NIGHT) == "22:00-06:00 UTC"
    assert NIGHT.opening == "22:00 UTC"
    assert DailyHours.parse("06:00-07:05 +01:00").opening == "06:00 UTC+01:00"
    assert str(DailyHours.parse("06:00-07:05 -03:30")) == "06:00-07:05 UTC-03:30"


@given(st.integers(0, 1439), st.integers(0, 1439), st.integers(0, 10**6), st.integers(-840, 840))
def test_a_minute_is_inside_exactly_where_counting_minutes_says_so(opens, closes, minute, ahead):
    hours = DailyHours(opens, closes, ahead)
    inside, place = set(), opens
    while place != closes:
        inside.add(place)
        place = (place + 1) % 1440
    local = (minute + ahead) % 1440
    assert (hours.left_s(60.0 * minute) > 0) is (local in inside)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "are no hours: write"),
        ("22-6", "are no hours"),
        ("22:00", "are no hours"),
        ("22:00-06:00 CET", "are no hours"),
        ("22:00-06:00 +2", "are no hours"),
        ("24:00-06:00", "hours go from 00 to 23"),
        ("22:60-06:00", "minutes from 00 to 59"),
        ("22:00-22:00", "opens when it closes"),
        ("22:00-06:00 +15:00", "no clock is more than 14 hours"),
    ],
)
def test_what_are_no_hours_is_refused_with_what_to_write(text, why):
    with pytest.raises(ValueError, match=why):
        DailyHours.parse(text)
