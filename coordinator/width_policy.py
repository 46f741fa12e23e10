"""Which width a device trains: the widest that fits the deadline and the memory. Pure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from broker import messages as m
from broker.messages import Participation, Profile
from coordinator.local_training import ordinary_steps
from coordinator.settings import Settings
from coordinator.upload_encoding import EncodingChoice, choose_encoding
from journal.events import RoundForecast, WidthChosen
from profiler.prediction import predict_round, steps_within, training_cost
from profiler.profile import WidthCost

MIB = 1024 * 1024


@dataclass(frozen=True)
class WidthChoice:
    """The decision for one device, with its reason in one sentence.

    Attributes:
        width: training width, 0 where the device cannot train.
        predicted_s: predicted round time; predicted_bytes: predicted peak memory.
        forecasts: for every width of the grid that its memory and the operator allow, ascending.
        steps: of a round, where it can take only so many; 0 = the ordinary ones.
    """

    width: float
    participation: Participation
    reason: str
    predicted_s: float = 0.0
    predicted_bytes: int = 0
    forecasts: tuple[RoundForecast, ...] = ()
    steps: int = 0

    def event(self, device: str, *, commanded: bool = False) -> WidthChosen:
        """Return the event that says so of a device; its other fields are these."""
        return WidthChosen(device=device, commanded=commanded, **vars(self))


def allowed_s(settings: Settings, deadline_s: float | None = None) -> float:
    """Return the seconds that a round may take a device by prediction.

    Args:
        settings: of the campaign.
        deadline_s: of the round; without it, the longest.
    """
    longest = settings.rounds.deadline_s if deadline_s is None else deadline_s
    return longest * settings.width_policy.time_share


def said_by_settings(cap: float) -> str:
    """Return the sentence that a cap of the settings holds a device down."""
    return f"the operator lets it train {cap:g} at most"


def choose_width(
    profile: Profile,
    settings: Settings,
    spec_hash: str,
    payload_bytes: Callable[[float], int],
    *,
    held: float = 0.0,
    cap: float = 1.0,
    capped: str = "",
) -> WidthChoice:
    """Return the widest training width within the deadline and the memory budget.

    A device that is too slow for the narrowest one takes as many fewer steps as it must.

    Args:
        profile: what the device measured; its numbers are checked, not trusted.
        settings: deadline, shares and training grid.
        spec_hash: of the model that is trained.
        payload_bytes: size on the wire of the weights of a width.
        held: the width that it trains now, 0 = none: a wider one must fit with room to spare, or
            small differences between two profiles would move it to and fro.
        cap: the widest that an operator lets it train.
        capped: the sentence that says so; "" where it is the settings' word.
    """
    refusal = _refuse(profile, settings, spec_hash)
    if refusal:
        return WidthChoice(0.0, Participation.CANNOT, refusal)
    rule = settings.training_rule()
    measured = [_measured(cost) for cost in profile.costs if cost.width in settings.widths]
    costs = {cost.width: training_cost(measured, cost.width, rule) for cost in measured}
    fits = {
        width: _Fit(cost, payload_bytes(width), settings, profile)
        for width, cost in costs.items()
        if cost
    }
    why_not_wider = ""
    for width in sorted(costs, reverse=True):
        if width not in fits:
            why_not_wider = f"{width:g} draws a narrower width that was not measured"
            continue
        beyond = (capped or said_by_settings(cap)) if width > cap else ""
        obstacle = beyond or fits[width].obstacle(held)
        if not obstacle:
            because = why_not_wider or _missing_wider(profile, settings, width)
            return _choice(fits, width, cap, f"width {width:g}: {because}")
        why_not_wider = obstacle
    steps = fits[min(fits)].affordable_steps() if fits else 0
    if steps and min(fits) <= cap:
        width, asked = min(fits), ordinary_steps(settings, profile)
        reason = f"width {width:g} with {steps} of {asked} steps: {why_not_wider}"
        return _choice(fits, width, cap, reason, steps)
    return WidthChoice(
        0.0,
        Participation.CANNOT,
        f"no width fits: {why_not_wider or 'no offered width was measured'};"
        " the device stays visible and can still infer",
    )


@dataclass(frozen=True)
class _Fit:
    """Whether one width fits one device.

    Attributes:
        cost: of an average training step at that width.
        size: bytes of the weights in full precision.
    """

    cost: WidthCost
    size: int
    settings: Settings
    profile: Profile

    @property
    def encoding(self) -> EncodingChoice:
        """How its updates travel.

        Where the deadline is chosen, the round that an upload is measured by is the device's own
        without the upload: the deadline follows from it.
        """
        round_s, link = allowed_s(self.settings), self.profile.link_bytes_per_s
        if self.settings.rounds.deadline == "chosen":
            steps = ordinary_steps(self.settings, self.profile)
            round_s = predict_round(self.cost, steps, self.received, 0, link)
        return choose_encoding(self.settings.uploads, self.size, link, round_s)

    @property
    def received(self) -> int:
        """Bytes that a device fetches for a round."""
        # A correction is as large as the weights, and travels in full precision.
        return self.size if self.settings.training.control == "none" else 2 * self.size

    @property
    def transfers(self) -> tuple[int, int, float]:
        """Bytes down, bytes up and the link's bytes per second."""
        return self.received, self.encoding.sent, self.profile.link_bytes_per_s

    @property
    def forecast(self) -> RoundForecast:
        """What a round at this width takes."""
        encoding, adaptive = self.encoding, self.settings.uploads.encoding == "adaptive"
        return RoundForecast(
            width=self.cost.width,
            predicted_s=self.predicted_s,
            step_s=self.cost.step_s,
            size=self.size,
            sent=encoding.sent,
            received=0 if self.received == self.size else self.received,
            upload=str(encoding.encoding) if adaptive else "",
            upload_reason=encoding.reason,
        )

    @property
    def predicted_s(self) -> float:
        """Seconds of a round with its ordinary steps."""
        return self.seconds(ordinary_steps(self.settings, self.profile))

    def seconds(self, steps: int) -> float:
        """Return the seconds of a round with so many steps."""
        return predict_round(self.cost, steps + self.settings.digest_steps, *self.transfers)

    def lacks_memory(self) -> str:
        """Return how much memory is missing, or ""."""
        allowed = self.profile.memory_budget * self.settings.width_policy.memory_share
        if self.cost.peak_bytes <= allowed:
            return ""
        need = f"{self.cost.peak_bytes / MIB:.0f} of the {allowed / MIB:.0f} MiB allowed"
        return f"{self.cost.width:g} would need {need}"

    def obstacle(self, held: float) -> str:
        """Return what speaks against the width, or ""."""
        seconds, allowed = self.predicted_s, allowed_s(self.settings)
        if lack := self.lacks_memory():
            return lack
        if seconds > allowed:
            return f"{self.cost.width:g} would take {seconds:.1f} s of the {allowed:.1f} s allowed"
        spare = allowed * (1.0 - self.settings.width_policy.hysteresis)
        if 0 < held < self.cost.width and seconds > spare:
            return (
                f"{self.cost.width:g} would take {seconds:.1f} s, and to become wider it must take"
                f" no more than {spare:.1f} s"
            )
        return ""

    def affordable_steps(self) -> int:
        """Return how many steps fit the deadline; 0 where they are too few, or memory is."""
        steps = steps_within(self.cost, allowed_s(self.settings), *self.transfers)
        steps -= self.settings.digest_steps
        fits = not self.lacks_memory() and steps >= self.settings.width_policy.least_steps
        return min(steps, ordinary_steps(self.settings, self.profile)) if fits else 0


def _choice(
    fits: Mapping[float, _Fit], width: float, cap: float, reason: str, steps: int | None = None
) -> WidthChoice:
    chosen = fits[width]
    return WidthChoice(
        width,
        Participation.TAKES_PART,
        reason,
        chosen.predicted_s if steps is None else chosen.seconds(steps),
        chosen.cost.peak_bytes,
        tuple(
            fit.forecast
            for inner, fit in sorted(fits.items())
            if not fit.lacks_memory() and inner <= cap
        ),
        steps or 0,
    )


def _measured(cost: m.WidthCost) -> WidthCost:
    return WidthCost(
        width=cost.width,
        step_s=cost.step_s,
        peak_bytes=cost.peak_bytes,
        timed_steps=cost.timed_steps,
    )


def _missing_wider(profile: Profile, settings: Settings, width: float) -> str:
    if width == max(settings.widths):
        return "the full width fits the deadline and the memory"
    return "; ".join(profile.failures) or "wider widths were not measured"


def _refuse(profile: Profile, settings: Settings, spec_hash: str) -> str:
    if not profile.can_train:
        return f"cannot train: {profile.reason or 'the device says so'}"
    if profile.spec_hash != spec_hash or profile.model != settings.model:
        return (
            f"profile is for model {profile.model!r} with spec {profile.spec_hash[:8]},"
            f" the fleet trains {settings.model!r} with {spec_hash[:8]}: update the device"
        )
    for cost in profile.costs:
        if not (0 < cost.step_s < float("inf")) or cost.peak_bytes < 0:
            return f"profile is absurd at width {cost.width:g}: step {cost.step_s} s"
    if not profile.link_bytes_per_s >= 0 or profile.memory_budget <= 0:
        return "profile is absurd: no memory budget or a negative link rate"
    return ""
