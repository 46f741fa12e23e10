"""Who of those that could train can take part now, and how long the round shall be. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from coordinator.deadline import chosen_deadline
from coordinator.entitlement import training_width
from coordinator.fleet import Campaign, Device, settings_of
from coordinator.pace import Paced, repaced
from coordinator.round_limits import Limit, round_limit
from coordinator.settings import Settings
from coordinator.width_policy import allowed_s
from journal import events as e


@dataclass(frozen=True)
class RoundPlan:
    """How the next round would be.

    Attributes:
        invited: devices that can take part now.
        limits: what holds each device back that could train.
        deadline_s: from its opening; why: in one sentence, where it was chosen.
        changes: widths that have to change for that deadline before it opens.
    """

    invited: list[Device]
    limits: Mapping[str, Limit]
    deadline_s: float
    why: str = ""
    changes: tuple[e.WidthChosen, ...] = ()

    @property
    def resting(self) -> dict[str, str]:
        """Device -> why it rests."""
        return {name: limit.reason for name, limit in self.limits.items() if not limit.width}


def plan_round(state: Campaign, able: list[Device], now: float) -> RoundPlan:
    """Return how the next round would be.

    Args:
        state: of the campaign.
        able: devices that could be invited, whatever holds them back for the moment.
        now: server time.
    """
    settings = settings_of(state)
    longest_s = settings.rounds.deadline_s
    limits = {device.device: round_limit(state, device, now) for device in able}
    invited = [device for device in able if limits[device.device].width]
    if settings.rounds.deadline == "fixed" or not invited:
        return RoundPlan(invited, limits, longest_s)
    widest = max(settings.widths)
    caps = [
        (one, min(limits[one.device].width, training_width(state, as_if, settings)[0]))
        for one in invited
        for as_if in [replace(one, width=widest)]
    ]
    deadline_s, why = chosen_deadline(state, caps)
    for device in invited:
        if late := _too_slow(device, settings, deadline_s):
            limits[device.device] = Limit(0.0, late)
    invited = [device for device in invited if limits[device.device].width]
    choices = [(one.device, repaced(one, settings, deadline_s)) for one in invited]
    changes = tuple(choice.event(name) for name, choice in choices if choice)
    return RoundPlan(invited, limits, deadline_s, why, changes)


def _too_slow(device: Device, settings: Settings, deadline_s: float) -> str:
    """Return why a device cannot be in time, or "".

    Its pace is left aside where it is slower than predicted: that may pass, and nothing would tell.
    """
    ready = Paced(device, settings, min(1.0, device.pace), 0.0)
    allowed = allowed_s(settings, deadline_s)
    shortest = min((level.seconds for level in ready.levels(0.0, 1)), default=0.0)
    if shortest <= allowed:
        return ""
    return (
        f"its shortest round takes {shortest:.1f} s of the {allowed:.1f} s allowed, by the deadline"
        f" of {deadline_s:.3g} s that was chosen for this round"
    )


def hold(state: Campaign, plan: RoundPlan) -> list[e.AnyEvent]:
    """Say that no round opens for the moment, once for each reason."""
    quorum = settings_of(state).rounds.quorum
    held = e.RoundsHeld(
        reason=f"no round opens: {len(plan.invited)} of the {quorum} devices of the quorum can take"
        " part now",
        resting=plan.resting,
    )
    return [] if state.held == held else [held]
