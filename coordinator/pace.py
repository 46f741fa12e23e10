"""What a device's rounds have shown of its pace, and the width that follows from it. Pure.

A profile predicts; rounds tell. A machine may be busier than when it was measured, hotter, or its
profile may lie. The average of observed over predicted durations corrects every further prediction.
"""

from dataclasses import dataclass

from broker.messages import Participation
from coordinator.fleet import Device
from coordinator.local_training import ordinary_steps
from coordinator.settings import Settings
from coordinator.width_policy import WidthChoice, allowed_s
from journal.events import RoundForecast
from profiler.prediction import follow_ratio, whole_steps

# One odd round must not throw a device out, nor a prediction of next to nothing.
LEAST, MOST = 0.25, 4.0


def followed(ratio: float, predicted_s: float, observed_s: float) -> float:
    """Return the pace after a round.

    Args:
        ratio: so far, of observed over predicted durations; 1 at first.
        predicted_s: without the correction.
        observed_s: how long it took; of a late device, at least so long.
    """
    return min(MOST, max(LEAST, follow_ratio(ratio, predicted_s, observed_s)))


@dataclass(frozen=True)
class _Paced:
    """Forecasts of one device, corrected by its pace.

    Attributes:
        allowed_s: that a round may take it.
    """

    device: Device
    settings: Settings
    allowed_s: float

    @property
    def ordinary(self) -> int:
        """Gradient steps of an ordinary round."""
        return ordinary_steps(self.settings, self.device.profile)

    def seconds(self, one: RoundForecast, steps: int) -> float:
        """Return the corrected seconds of a round with so many steps."""
        return self.device.pace * (one.predicted_s + (steps - self.ordinary) * one.step_s)

    def affordable_steps(self, one: RoundForecast) -> int:
        """Return how many steps fit; never fewer than the policy's least, as load may pass."""
        left = self.allowed_s - self.seconds(one, 0)
        fits = whole_steps(left, self.device.pace * one.step_s)
        least = self.settings.width_policy.least_steps
        return max(min(fits, self.ordinary - 1), min(least, self.ordinary))


def repaced(device: Device, settings: Settings) -> WidthChoice | None:
    """Return the width and steps that a device's pace asks for; None where they stay.

    To become wider, or to take more steps, it needs time to spare (`width_policy.hysteresis`); what
    it trains now it keeps until it takes by as much longer than the policy allows. A device that
    takes part is never left out for its pace alone: then nothing would tell that it has become
    faster again.
    """
    if not device.width or not device.forecasts or device.pace == 1.0:
        return None
    policy = settings.width_policy
    paced = _Paced(device, settings, allowed_s(settings))
    spare = paced.allowed_s * (1.0 - policy.hysteresis)
    kept = min(paced.allowed_s * (1.0 + policy.hysteresis), settings.rounds.deadline_s)
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


def _changed(paced: _Paced, one: RoundForecast, steps: int, why: str) -> WidthChoice | None:
    device, policy = paced.device, paced.settings.width_policy
    same_width = one.width == device.width
    near = bool(steps) and abs(steps - device.steps) <= policy.hysteresis * device.steps
    if same_width and (steps == device.steps or near):
        return None
    some = f" with {steps} of {paced.ordinary} steps" if steps else ""
    return WidthChoice(
        one.width,
        Participation.TAKES_PART,
        f"width {one.width:g}{some}: {why}; its rounds take {device.pace:.2f} times what was"
        " predicted",
        paced.seconds(one, steps or paced.ordinary),
        0,
        device.forecasts,
        steps,
    )
