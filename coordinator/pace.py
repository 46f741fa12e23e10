"""What a device's rounds have shown of its pace, and the width that follows from it. Pure.

A profile predicts; rounds tell. A machine may be busier than when it was measured, hotter, or its
profile may lie. The average of observed over predicted durations corrects every further prediction.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from broker.messages import Participation
from coordinator.fleet import Device
from coordinator.local_training import ordinary_steps
from coordinator.settings import Settings
from coordinator.width_policy import WidthChoice, allowed_s
from journal.events import RoundForecast
from profiler.prediction import follow_ratio, whole_steps

# One odd round must not throw a device out, nor a prediction of next to nothing.
LEAST, MOST = 0.25, 4.0
# Rounds that were late in a row say more: each of them at least doubles the pace, up to here.
LATEST = 4096.0
LATE_IN_A_ROW = 2


# Where the deadline is chosen, it holds the longest of so many last rounds of a device and some
# more: the next one is longer than all of 40 with a chance of 1 in 41. While fewer than five are
# known, a prediction may well be wrong by half.
REMEMBERED, TELLING = 40, 5
MORE, UNKNOWN = 1.1, 1.5
LATER = 1.5  # a late device would have taken so many times the time it had: a guess


def followed(ratio: float, predicted_s: float, observed_s: float) -> float:
    """Return the pace after a round.

    Args:
        ratio: so far, of observed over predicted durations; 1 at first.
        predicted_s: without the correction.
        observed_s: how long it took; of a late device, at least so long.
    """
    return min(max(MOST, ratio), max(LEAST, follow_ratio(ratio, predicted_s, observed_s)))


def after_late(ratio: float, predicted_s: float, budget_s: float, late_in_a_row: int) -> float:
    """Return the pace after a late round, of which only is known that it took longer than it had.

    The first late round counts as one that took all of its time. From the second in a row on the
    estimate doubles with each, as that of a timeout does which expires again (Karn and Partridge,
    SIGCOMM 1987, section 4): a profile that claims a hundred times too much is found out after
    seven rounds and not never.

    Args:
        ratio: so far.
        predicted_s: of the round, without the correction.
        budget_s: that the round had.
        late_in_a_row: this one included.
    """
    pace = followed(ratio, predicted_s, budget_s)
    if late_in_a_row < LATE_IN_A_ROW:
        return pace
    return min(LATEST, max(pace, 2.0 * ratio))


def after_profile(device: Device, forecasts: Sequence[RoundForecast]) -> float:
    """Return the pace of a device that measured itself anew.

    A new profile is believed. But who was late in a row has to be in time once before: until then
    the seconds that its rounds took stay what they are, whatever it claims.
    """
    if device.late_in_a_row < LATE_IN_A_ROW:
        return 1.0
    before = {one.width: one.predicted_s for one in device.forecasts}
    common = [one for one in forecasts if before.get(one.width, 0.0) > 0 < one.predicted_s]
    if not common:
        return device.pace
    widest = max(common, key=lambda one: one.width)
    return min(LATEST, max(LEAST, device.pace * before[widest.width] / widest.predicted_s))


def remembered(
    ratios: tuple[float, ...], predicted_s: float, observed_s: float, *, late: bool
) -> tuple[float, ...]:
    """Return the last ratios of observed over predicted durations after one more round.

    Args:
        ratios: so far, oldest first.
        predicted_s: without the correction.
        observed_s: how long it took, or how long it had.
        late: it had no longer, and would have needed more.
    """
    if predicted_s <= 0 or observed_s <= 0:
        return ratios
    ratio = min(LATEST, observed_s / predicted_s * (LATER if late else 1.0))
    return (*ratios, ratio)[-REMEMBERED:]


def spread_of(ratios: Sequence[float]) -> tuple[float, ...]:
    """Return ratios around 1: a new profile predicts anew, but how much rounds differ stays."""
    middle = median(ratios) if ratios else 0.0
    return tuple(ratio / middle for ratio in ratios) if middle > 0 else ()


def reserved(device: Device, time_share: float) -> float:
    """Return the ratio that a chosen deadline plans a device with.

    The average says nothing of how much its rounds differ, and a deadline that was chosen as short
    as possible leaves no room of its own. So it has to hold the longest of its last rounds, where
    that is more than `time_share` leaves.
    """
    longest = MORE * max(device.ratios, default=0.0)
    if len(device.ratios) < TELLING:
        longest = max(longest, UNKNOWN)
    return max(device.pace, time_share * longest)


@dataclass(frozen=True)
class Level:
    """One way to take part in a round.

    Attributes:
        seconds: that it takes, as corrected by the pace.
        steps: gradient steps.
    """

    forecast: RoundForecast
    seconds: float
    steps: int

    @property
    def work(self) -> float:
        """Gradient steps times the parameters of the width: what it adds to a round's progress.

        Four bytes a parameter; a journal that does not know the size knows how it grows.
        """
        return self.steps * (self.forecast.size / 4 or self.forecast.width**2)


@dataclass(frozen=True)
class Paced:
    """Forecasts of one device, corrected by its pace.

    Attributes:
        ratio: that predictions are multiplied by: its pace, or what is `reserved` for it.
        allowed_s: that a round may take it.
    """

    device: Device
    settings: Settings
    ratio: float
    allowed_s: float

    @property
    def ordinary(self) -> int:
        """Gradient steps of an ordinary round."""
        return ordinary_steps(self.settings, self.device.profile)

    @property
    def least(self) -> int:
        """The fewest steps with which it takes part."""
        return min(self.settings.width_policy.least_steps, self.ordinary)

    def seconds(self, one: RoundForecast, steps: int) -> float:
        """Return the corrected seconds of a round with so many steps."""
        return self.ratio * (one.predicted_s + (steps - self.ordinary) * one.step_s)

    def affordable_steps(self, one: RoundForecast) -> int:
        """Return how many steps fit; never fewer than the policy's least, as load may pass."""
        left = self.allowed_s - self.seconds(one, 0)
        fits = whole_steps(left, self.ratio * one.step_s)
        return max(min(fits, self.ordinary - 1), self.least)

    def levels(self, cap: float, most_steps: int) -> Iterator[Level]:
        """Yield the ways in which it can take part: the narrowest width with few steps, then all.

        Args:
            cap: its widest width in this round.
            most_steps: so many numbers of steps are tried, between the fewest and the ordinary.
        """
        forecasts = sorted(self.device.forecasts, key=lambda one: one.width)
        if not forecasts:
            return
        count = self.ordinary - self.least
        stride = max(1, -(-count // most_steps))
        for steps in range(self.least, self.ordinary, stride):
            yield Level(forecasts[0], self.seconds(forecasts[0], steps), steps)
        for place, one in enumerate(forecasts):
            if one.width <= cap or not place:
                yield Level(one, self.seconds(one, self.ordinary), self.ordinary)


def repaced(
    device: Device, settings: Settings, deadline_s: float | None = None
) -> WidthChoice | None:
    """Return the width and steps that a device's pace and a deadline ask for; None where they stay.

    To become wider, or to take more steps, it needs time to spare (`width_policy.hysteresis`); what
    it trains now it keeps until it takes by as much longer than the policy allows. A device that
    takes part is never left out for its pace alone: then nothing would tell that it has become
    faster again.

    Args:
        device: as the rounds so far have shown it.
        settings: of the campaign.
        deadline_s: of the next round, where one was chosen for it. It was chosen so that widths
            just fit, so becoming wider takes no time to spare then.
    """
    if not device.width or not device.forecasts or (device.pace == 1.0 and deadline_s is None):
        return None
    policy = settings.width_policy
    ratio = device.pace if deadline_s is None else reserved(device, policy.time_share)
    paced = Paced(device, settings, ratio, allowed_s(settings, deadline_s))
    spare = paced.allowed_s * (1.0 if deadline_s is not None else 1.0 - policy.hysteresis)
    latest = settings.rounds.deadline_s if deadline_s is None else deadline_s
    kept = min(paced.allowed_s * (1.0 + policy.hysteresis), latest)
    why = "the widest that was measured"
    for one in sorted(device.forecasts, key=lambda one: -one.width):
        seconds = paced.seconds(one, paced.ordinary)
        now = one.width == device.width and not device.steps
        narrower = one.width < device.width
        if seconds <= (kept if now else paced.allowed_s if narrower else spare):
            return _changed(paced, one, 0, why)
        why = f"{one.width:g} takes {seconds:.1f} s of the {paced.allowed_s:.1f} s allowed"
    narrowest = min(device.forecasts, key=lambda one: one.width)
    return _changed(paced, narrowest, paced.affordable_steps(narrowest), why)


def _changed(paced: Paced, one: RoundForecast, steps: int, why: str) -> WidthChoice | None:
    device, policy = paced.device, paced.settings.width_policy
    same_width = one.width == device.width
    near = bool(steps) and abs(steps - device.steps) <= policy.hysteresis * device.steps
    if same_width and (steps == device.steps or near):
        return None
    some = f" with {steps} of {paced.ordinary} steps" if steps else ""
    slower = ""
    if paced.ratio != device.pace:
        room = paced.ratio / policy.time_share
        slower = f"; there must be room for rounds {room:.2f} times as long as predicted"
    elif paced.ratio != 1.0:
        slower = f"; its rounds take {paced.ratio:.2f} times what was predicted"
    return WidthChoice(
        one.width,
        Participation.TAKES_PART,
        f"width {one.width:g}{some}: {why}{slower}",
        paced.seconds(one, steps or paced.ordinary),
        0,
        device.forecasts,
        steps,
    )
