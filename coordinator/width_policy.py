"""Which width a device trains: the widest that fits the deadline and the memory. Pure."""

from collections.abc import Callable
from dataclasses import dataclass

from broker import messages as m
from broker.messages import Participation, Profile
from coordinator.local_training import ordinary_steps
from coordinator.settings import Settings
from journal.events import RoundForecast
from profiler.prediction import predict_round, training_cost
from profiler.profile import WidthCost
from slimmable.update_codec import encoded_share

MIB = 1024 * 1024


@dataclass(frozen=True)
class WidthChoice:
    """The decision for one device, with its reason in one sentence.

    Attributes:
        width: training width, 0 where the device cannot train.
        predicted_s: predicted round time; predicted_bytes: predicted peak memory.
        forecasts: for this width and the narrower ones of the grid, ascending.
    """

    width: float
    participation: Participation
    reason: str
    predicted_s: float = 0.0
    predicted_bytes: int = 0
    forecasts: tuple[RoundForecast, ...] = ()


def choose_width(
    profile: Profile, settings: Settings, spec_hash: str, payload_bytes: Callable[[float], int]
) -> WidthChoice:
    """Return the widest training width within the deadline and the memory budget.

    Args:
        profile: what the device measured; its numbers are checked, not trusted.
        settings: deadline, shares and training grid.
        spec_hash: of the model that is trained.
        payload_bytes: size on the wire of the weights of a width.
    """
    refusal = _refuse(profile, settings, spec_hash)
    if refusal:
        return WidthChoice(0.0, Participation.CANNOT, refusal)
    allowed_s = settings.rounds.deadline_s * settings.width_policy.time_share
    allowed_bytes = profile.memory_budget * settings.width_policy.memory_share
    why_not_wider = ""
    rule = settings.training_rule()
    measured = [_measured(cost) for cost in profile.costs if cost.width in settings.widths]
    costs = {cost.width: training_cost(measured, cost.width, rule) for cost in measured}
    forecasts = {
        cost.width: _forecast(cost, settings, profile, payload_bytes(cost.width))
        for cost in costs.values()
        if cost
    }
    for width, cost in sorted(costs.items(), reverse=True):
        if cost is None:
            why_not_wider = f"{width:g} draws a narrower width that was not measured"
            continue
        seconds = forecasts[width].predicted_s
        if cost.peak_bytes > allowed_bytes:
            why_not_wider = (
                f"{cost.width:g} would need {cost.peak_bytes / MIB:.0f} of the"
                f" {allowed_bytes / MIB:.0f} MiB allowed"
            )
        elif seconds > allowed_s:
            why_not_wider = (
                f"{cost.width:g} would take {seconds:.1f} s of the {allowed_s:.1f} s allowed"
            )
        else:
            because = why_not_wider or _missing_wider(profile, settings, cost.width)
            return WidthChoice(
                cost.width,
                Participation.TAKES_PART,
                f"width {cost.width:g}: {because}",
                seconds,
                cost.peak_bytes,
                tuple(forecasts[held] for held in sorted(forecasts) if held <= width),
            )
    return WidthChoice(
        0.0,
        Participation.CANNOT,
        f"no width fits: {why_not_wider or 'no offered width was measured'};"
        " the device stays visible and can still infer",
    )


def _forecast(cost: WidthCost, settings: Settings, profile: Profile, size: int) -> RoundForecast:
    steps, rate = ordinary_steps(settings, profile), profile.link_bytes_per_s
    uploads = settings.uploads
    sent = int(size * encoded_share(uploads.encoding, uploads.keep))
    seconds = predict_round(cost, steps, size, sent, rate)
    return RoundForecast(width=cost.width, predicted_s=seconds, step_s=cost.step_s)


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
