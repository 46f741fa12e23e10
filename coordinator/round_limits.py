"""What holds a device back for the moment, whatever it can: time of the day, heat, traffic. Pure.

Its training width stays what it is; in this round it trains narrower, or rests. Each limit says so
in one sentence, and what ends it.
"""

import math
from dataclasses import dataclass

from coordinator.daily_hours import DailyHours
from coordinator.fleet import Campaign, Device, settings_of
from coordinator.settings import Settings
from coordinator.traffic import allowed_per_day, moved
from journal.events import RoundForecast

# A device tells when its condition changes. One that told nothing for so long is tried again: it
# may be an older agent, which tells its condition only once.
CONDITION_HOLDS_S = 3600.0
SINCE_THE_START = "since the start"  # of what `profiler.condition` says is over
# So often a device may be late with the least there is to do; then it rests, up to so many rounds.
LEFT_ALONE, MOST_RESTS = 3, 16


@dataclass(frozen=True)
class Limit:
    """What a device may train in the next round.

    Attributes:
        width: at most; 0 = it rests, infinity = whatever it can.
        reason: in one sentence; "" where nothing limits it.
        excused: the operator's limits keep it away, not the device.
    """

    width: float
    reason: str = ""
    excused: bool = False


FREE = Limit(math.inf)


def round_limit(state: Campaign, device: Device, now: float) -> Limit:
    """Return what holds a device back that could train.

    Args:
        state: of the campaign.
        device: with a width.
        now: server time.
    """
    settings = settings_of(state)
    limits = (
        _hours(settings, device, now),
        _lateness(state, device),
        _heat(settings, device, now),
        _traffic(settings, device, now),
    )
    return min(limits, key=lambda limit: limit.width)


def _hours(settings: Settings, device: Device, now: float) -> Limit:
    text = settings.width_policy.hours.get(device.device)
    if not text:
        return FREE
    hours = DailyHours.parse(text)
    left_s, needs_s = hours.left_s(now), device.pace * _forecast(device).predicted_s
    if not left_s:
        return Limit(0.0, f"outside its hours {hours}: they begin at {hours.opening}", excused=True)
    if left_s < needs_s:
        closes = f"its hours {hours} end before a round of {needs_s:.1f} s would be over"
        return Limit(0.0, f"{closes}: they begin again at {hours.opening}", excused=True)
    return FREE


def _lateness(state: Campaign, device: Device) -> Limit:
    """Let a device rest that is late whatever it is given, for longer each time."""
    if device.late_at_least < LEFT_ALONE:
        return FREE
    number = state.round.number + 1 if state.round else 1
    again = device.last_drawn + 1 + min(MOST_RESTS, 2 ** (device.late_at_least - LEFT_ALONE))
    if number >= again:
        return FREE
    return Limit(
        0.0,
        f"late in {device.late_in_a_row} rounds in a row, in {device.late_at_least} of them with as"
        f" little to do as there is: it is tried again in round {again}",
    )


def _heat(settings: Settings, device: Device, now: float) -> Limit:
    hottest, profile = settings.width_policy.hottest_c, device.profile
    if not hottest or profile is None or now > device.profiled_at + CONDITION_HOLDS_S:
        return FREE
    heat = profile.temperature_c
    hot = heat is not None and math.isfinite(heat) and heat > hottest
    slowed = [one for one in profile.throttled.split("; ") if one and SINCE_THE_START not in one]
    if not hot and not slowed:
        return FREE
    why = (
        f"it has {heat:.0f} degrees Celsius, of {hottest:g} allowed"
        if hot
        else f"its processor is held back ({slowed[0]})"
    )
    narrower = [one.width for one in device.forecasts if one.width < device.width]
    if narrower:
        width = max(narrower)
        return Limit(width, f"width {width:g} of the {device.width:g} that it could: {why}")
    if hot:
        return Limit(0.0, f"rests until it tells that it has cooled down: {why}")
    return FREE


def _traffic(settings: Settings, device: Device, now: float) -> Limit:
    allowed = allowed_per_day(settings.width_policy, device.device)
    if not allowed or not device.forecasts:
        return FREE
    left = allowed - moved(device.traffic, now)
    for one in sorted(device.forecasts, key=lambda one: -one.width):
        if one.width <= device.width and one.moved <= left:
            if one.width == device.width:
                return FREE
            wanted = _forecast(device)
            return Limit(
                one.width,
                f"traffic: width {one.width:g} of the {device.width:g} that it could, whose round"
                f" moves {wanted.moved} bytes: {_left(left, allowed)}",
            )
    least = min(one.moved for one in device.forecasts)
    return Limit(
        0.0,
        f"traffic: a round moves {least} bytes at least: {_left(left, allowed)}; those of an hour"
        " count for a day",
        excused=True,
    )


def _left(left: float, allowed: float) -> str:
    return f"{max(0.0, left):.0f} of the {allowed:.0f} bytes a day are left"


def _forecast(device: Device) -> RoundForecast:
    """Return what a round at its training width takes."""
    known = RoundForecast(width=device.width, predicted_s=device.predicted_s, step_s=0.0)
    return next((one for one in device.forecasts if one.width == device.width), known)
