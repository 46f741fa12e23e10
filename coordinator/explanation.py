"""Why a device got its width, from its campaign's events, and what would have changed it. Pure.

`explain` gathers; how it is worded for people is up to the command.
"""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, replace

import msgspec

from broker.messages import InstallState
from coordinator.allocation import claimed
from coordinator.capacity import deployed_width
from coordinator.claims import average
from coordinator.contribution.ledger import Entry, statement
from coordinator.counterfactual import Case, next_wider, still_enough
from coordinator.evolution import evolve
from coordinator.fleet import Campaign, Device
from coordinator.settings import Settings
from journal import events as e

NAMES = 5  # devices offered where one is not known


class UnknownDeviceError(ValueError):
    """The campaign knows no such device. Choose one of those that the message offers."""


@dataclass(frozen=True)
class RoundTaken:
    """One round as one device saw it.

    Attributes:
        width: of its task, 0 where it was not invited.
        counted: whether its update counted; missed: why not. Neither while the round is open.
        entry: in the ledger, None where the round was not scored with it.
        late: where its update came late, the round whose aggregate it counted in. The entry is that
            of the late update, unless the device had one of that round itself, which has both.
        known: share of its update that the server could foresee, which earns nothing.
        assessment: whether it trained alone, to be measured by itself.
        decided: what was decided for this round alone, in one sentence, or "".
    """

    round: int
    width: float = 0.0
    counted: bool = False
    missed: str = ""
    entry: Entry | None = None
    known: float = 0.0
    assessment: bool = False
    decided: str = ""
    late: int = 0


@dataclass(frozen=True)
class WhatIf:
    """What another contribution of this device would have earned, the others staying as they are.

    Attributes:
        share: the contribution as a multiple of the average.
        width: that it earns.
    """

    contribution: float
    share: float
    width: float


@dataclass(frozen=True)
class Capacity:
    """What the device was sent of what it had earned, and what it says it runs.

    Attributes:
        deployed: width of the deployment in force; reason: of that width.
        running: width that it reports; state: how far it came, "" before its first report.
        without: what holds it back -> the width that it would get without that.
    """

    deployed: float
    reason: str
    running: float
    state: InstallState | str
    detail: str
    without: dict[str, float]


@dataclass(frozen=True)
class Explanation:
    """Everything that decided about one device.

    Attributes:
        basis: "rewards" of the last allocation, "entitlement" of the last revision while training
            goes on, or "so far": what the rule would give now.
        round: whose weights and ledger it was decided on.
        participation: why it trains the width that it trains, or none.
        method: how contributions were measured, in the last round or in the assessment.
        decay: what a score counts for, one round later.
        excused: part of all progress, 0 to 1, that was made in rounds it was not drawn for; times:
            so often counts what it gave in its own.
        devices: how many have an account; average: mean of their contributions.
        reward: None where it has no account, or where nothing could be rewarded.
        rule, note: of the allocation.
        cutoff: share below which there is no release; proof: share below which there is none
            where the contribution is not significantly above 0.
        untrained: score of the initial model.
        ladder: what the widths scored.
        alone: measurement of its own model.
        wider: the smallest contribution that would have earned more.
        enough: the smallest contribution that would have earned as much.
        same: whether the rule as it is installed here gives what the journal says.
    """

    device: str
    fleet: str
    mode: str
    basis: str
    round: int
    participation: str
    rounds: tuple[RoundTaken, ...]
    method: str
    decay: float
    devices: int
    average: float
    reward: e.Reward | None
    rule: str
    note: str
    cutoff: float
    proof: float
    untrained: float
    ladder: tuple[e.CurvePoint, ...]
    alone: e.AloneScore | None
    capacity: Capacity
    excused: float = 0.0
    times: float = 1.0
    wider: WhatIf | None = None
    enough: WhatIf | None = None
    same: bool = True


@dataclass(frozen=True)
class _Decision:
    """The last allocation.

    Attributes:
        state: of the campaign when it was made.
    """

    basis: str
    state: Campaign
    round: int = 0
    rule: str = ""
    note: str = ""
    rewards: tuple[e.Reward, ...] = ()


def explain(history: Iterable[tuple[float, e.AnyEvent]], device: str) -> Explanation:
    """Return why ``device`` got its width.

    Args:
        history: every event of the campaign with its time, the oldest first.
        device: whose width.

    Raises:
        UnknownDeviceError: the campaign has no such device.
    """
    state, decision = Campaign(), None
    events = []
    for at, event in history:
        if isinstance(event, e.RewardsAllocated | e.EntitlementsRevised):
            basis = "rewards" if isinstance(event, e.RewardsAllocated) else "entitlement"
            decision = _Decision(basis, state, event.round, event.rule, event.note, event.rewards)
        state = evolve(state, event, at)
        events.append(event)
    known = state.devices.get(device)
    if known is None or state.settings is None:
        raise UnknownDeviceError(_unknown(device, state))
    return _explained(state, decision or _so_far(state), known, events)


def _unknown(device: str, state: Campaign) -> str:
    names = sorted(state.devices)
    near = difflib.get_close_matches(device, names, n=3) or names[:NAMES]
    fleet = f"fleet {state.settings.fleet}" if state.settings else "this journal"
    if not near:
        return f"{fleet} has no device {device!r}: no device has been heard from yet"
    more = " ..." if len(names) > len(near) == NAMES else ""
    return f"{fleet} has no device {device!r}; use one such as {', '.join(near)}{more}"


def _so_far(state: Campaign) -> _Decision:
    """Return what would be decided now."""
    case = _case(state, releasing=True)
    if case is None:
        return _Decision("so far", state, state.weights_round)
    found = case.allocation()
    return _Decision("so far", state, state.weights_round, found.rule, found.note, found.rewards)


def _case(state: Campaign, *, releasing: bool) -> Case | None:
    found = claimed(state, releasing=releasing)
    if found is None or state.settings is None:
        return None
    claims, ladder, _ = found
    return Case(claims, ladder, state.settings.rewards, state.untrained, state.progress)


def _explained(
    state: Campaign, decision: _Decision, device: Device, events: list[e.AnyEvent]
) -> Explanation:
    settings, then, name = state.settings, decision.state, device.device
    assert settings is not None
    reward = next((one for one in decision.rewards if one.device == name), None)
    case = _case(then, releasing=decision.basis != "entitlement")
    accounts = {claim.device: claim.contribution for claim in case.claims} if case else {}
    explanation = Explanation(
        device=name,
        fleet=settings.fleet,
        mode=settings.rewards.mode,
        basis=decision.basis,
        round=decision.round,
        participation=device.retired or device.suspended or device.reason,
        rounds=_rounds(events, name, settings.contributions.decay),
        method=_method(then, settings),
        decay=settings.contributions.decay if settings.rewards.basis == "ledger" else 1.0,
        devices=len(then.ledger.totals),
        average=average(accounts),
        reward=reward,
        rule=decision.rule,
        note=decision.note,
        cutoff=settings.rewards.cutoff,
        proof=settings.rewards.proof,
        untrained=then.untrained,
        ladder=tuple(case.curve) if case else (),
        alone=then.alone.get(name),
        capacity=_capacity(state, device),
    )
    if settings.rewards.basis == "ledger" and name in then.ledger.totals:
        own, counts = then.ledger.totals[name].score, then.ledger.account(name).score
        explanation = replace(
            explanation, excused=then.ledger.excused(name), times=counts / own if own else 1.0
        )
    if reward is None or case is None:
        return explanation
    again = case.reward(name)
    if again.width != reward.width:
        return replace(explanation, same=False)
    return replace(
        explanation,
        wider=_what_if(next_wider(case, name)),
        enough=_what_if(still_enough(case, name)),
    )


def _method(state: Campaign, settings: Settings) -> str:
    if settings.rewards.basis == "assessment":
        return "the score of its own model above the untrained one"
    return state.scored.method if state.scored else settings.contributions.method


def _what_if(reward: e.Reward | None) -> WhatIf | None:
    return WhatIf(reward.contribution, reward.share, reward.width) if reward else None


def _rounds(events: list[e.AnyEvent], device: str, decay: float) -> tuple[RoundTaken, ...]:
    """Return every round that was opened, in order."""
    scored = [event for event in events if isinstance(event, e.RoundScored)]
    entries = {entry.round: entry for entry in statement(device, scored, decay)}
    rounds: dict[int, RoundTaken] = {}
    for event in events:
        match event:
            case e.RoundOpened():
                rounds[event.round] = _opened(event, device)
            case e.DeviceDropped(device=name) if name == device:
                why = f"{event.reason}: {event.detail}" if event.detail else str(event.reason)
                rounds[event.round] = replace(rounds[event.round], missed=why)
            case e.RoundClosed():
                counted = device in event.aggregated
                rounds[event.round] = replace(rounds[event.round], counted=counted)
                for step in event.late:
                    if step.device == device:
                        rounds[step.round] = replace(
                            rounds[step.round], counted=True, late=event.round
                        )
            case e.RoundScored():
                known = [one.known for one in event.contributions if one.device == device]
                late = [one.round for one in rounds.values() if one.late == event.round]
                own = rounds[event.round].counted or not late
                row = rounds[event.round if own else late[0]]
                rounds[row.round] = replace(row, entry=entries.get(event.round), known=sum(known))
    return tuple(rounds.values())


def _opened(event: e.RoundOpened, device: str) -> RoundTaken:
    for task in event.tasks:
        if task.device == device:
            return RoundTaken(
                event.round, task.width, assessment=event.assessment, decided=task.reason
            )
    why = event.not_invited.get(device, "not known then")
    return RoundTaken(event.round, missed=f"not invited: {why}", assessment=event.assessment)


def _capacity(state: Campaign, device: Device) -> Capacity:
    deployed, report = device.deployed, device.report
    return Capacity(
        deployed=deployed.width if deployed else 0.0,
        reason=deployed.reason if deployed else "",
        running=report.width if report else 0.0,
        state=report.state if report else "",
        detail=report.detail if report else "",
        without=_without(state, device),
    )


def _without(state: Campaign, device: Device) -> dict[str, float]:
    """Return for each thing that holds a device back what it would get without that alone."""
    settings = state.settings
    assert settings is not None
    now, _ = deployed_width(state, device, settings)
    caps = {name: cap for name, cap in settings.rewards.caps.items() if name != device.device}
    free = msgspec.structs.replace(
        settings, rewards=msgspec.structs.replace(settings.rewards, caps=caps)
    )
    tries = {
        "the operator's cap": (device, free),
        "the limit of its memory": (replace(device, profile=None), settings),
        "the failed installation": (replace(device, failed_width=0.0), settings),
        "all of these limits": (replace(device, profile=None, failed_width=0.0), free),
    }
    found = {
        name: deployed_width(state, changed, chosen)[0] for name, (changed, chosen) in tries.items()
    }
    wider = {name: width for name, width in found.items() if width > now}
    if len(wider) > 1:  # one limit alone explains it, or none does
        wider.pop("all of these limits")
    return wider
