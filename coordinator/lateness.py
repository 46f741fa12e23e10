"""What becomes of an update that comes after its round is closed. Pure.

Where the settings use late updates, a device that has not answered when its round closes *owes* its
update: it trains on, is not invited meanwhile, and what it sends counts in the next aggregate. It
counts as the change against the weights that it was trained on, times (1 + s)^-a, where s says how
many times the weights have moved since (Xie et al., "Asynchronous Federated Optimization", 2019,
section 5.2, the polynomial function). Together with rounds that close with their first K updates
this is FedBuff (Nguyen et al., AISTATS 2022, algorithm 1): the weights move by the server's rate
times the mean of K such changes.

A device owes one update at a time. It may be invited again once that has come, so that an aggregate
may hold two updates of one device: a late one and one of the round itself. Both count, once each.
"""

from collections.abc import Iterator

from broker.messages import DropReason, Stage
from coordinator.entitlement import entitled_width
from coordinator.fleet import Campaign, LateUpdate, Owed, Phase, settings_of
from coordinator.presence import PRESENT
from journal import events as e

HOLDS_WEIGHTS = (Stage.STARTED, Stage.UPLOADED)


def staleness_weight(staleness: int, exponent: float) -> float:
    """Return what a change counts for that was trained on weights from ``staleness`` moves ago."""
    return float((1 + staleness) ** -exponent)


def late_s(state: Campaign, deadline_s: float) -> float:
    """Return how long after its deadline a round's updates may still come, in seconds.

    A buffered round closes before its deadline, and that is when its devices are given up. In a
    synchronous one a device may be as many further rounds late as its update would still count in.
    """
    rounds = settings_of(state).rounds
    if not rounds.uses_late or rounds.mode == "buffered":
        return 0.0
    return rounds.staleness_limit * deadline_s


def awaited(state: Campaign) -> set[str]:
    """Return the devices that owe an update and are there to send it."""
    return {name for name in state.owed if state.devices[name].link in PRESENT}


def late_steps(state: Campaign) -> tuple[e.LateStep, ...]:
    """Return how the late updates that have come count in the aggregate of the open round."""
    exponent = settings_of(state).rounds.staleness
    return tuple(
        e.LateStep(
            device=one.update.device,
            round=one.update.round,
            staleness=staleness,
            weight=staleness_weight(staleness, exponent),
        )
        for one in sorted(state.late, key=lambda one: one.key)
        for staleness in [_staleness(state, one)]
    )


def give_up(state: Campaign, now: float) -> list[e.AnyEvent]:
    """Drop the owed updates that cannot count any more, and all where training is over."""
    if not state.owed and not state.late:
        return []
    dropped: list[e.AnyEvent] = []
    if state.stopped:
        for device, number in sorted([*_owed_keys(state), *(one.key for one in state.late)]):
            dropped.append(_dropped(device, number, DropReason.SURPLUS, "training is over"))
        return dropped
    if not _due(state, now):
        return []
    for device, owed in sorted(state.owed.items()):
        if why := _hopeless(state, owed, now):
            here = state.devices[device].link in PRESENT
            reason = DropReason.LATE if here else DropReason.OFFLINE
            dropped.append(_dropped(device, owed.number, reason, why))
    return dropped


def _due(state: Campaign, now: float) -> bool:
    """Return whether any owed update may have to be given up; asked after every message."""
    settings, owed = settings_of(state), state.owed.values()
    if not owed:
        return False
    oldest = min(owed, key=lambda one: one.trained_rounds)
    return (
        settings.rewards.mode == "training-time"
        or now >= min(one.deadline for one in owed)
        or _staleness(state, oldest) > settings.rounds.staleness_limit
    )


def _owed_keys(state: Campaign) -> Iterator[tuple[str, int]]:
    return ((device, owed.number) for device, owed in state.owed.items())


def _dropped(device: str, number: int, reason: DropReason, detail: str) -> e.DeviceDropped:
    return e.DeviceDropped(round=number, device=device, reason=reason, detail=detail)


def _staleness(state: Campaign, late: LateUpdate | Owed) -> int:
    """Return how stale an update is in the next aggregate that it can count in."""
    current = state.round
    moving = bool(state.phase is Phase.SCORING and current and not current.opened.assessment)
    return state.trained_rounds + moving - late.trained_rounds


def _hopeless(state: Campaign, owed: Owed, now: float) -> str:
    """Return why nothing is expected of an owed update any more, or ""."""
    settings, opened, device = settings_of(state), owed.opened, owed.task.task.device
    stage = owed.task.stage
    staleness, limit = _staleness(state, owed), settings.rounds.staleness_limit
    if staleness > limit:
        return (
            f"the weights have moved {staleness} times since, rounds.staleness_limit is {limit},"
            f" last stage: {stage or 'no answer'}"
        )
    patience, deadline = opened.budget_s + opened.late_s, owed.deadline
    if state.started_at > owed.opened_at:
        deadline = max(deadline, state.started_at + settings.presence.grace_s)
    if now >= deadline:
        return f"no update within {patience:.1f} s, last stage: {stage or 'no answer'}"
    width, entitled = owed.task.task.width, entitled_width(state, device, settings)
    # What it holds of an earlier round stays with it; more than that it is not given.
    if width > entitled and stage not in HOLDS_WEIGHTS:
        return f"width {width:g} was not begun, and it is entitled to no more than {entitled:g} now"
    return ""
