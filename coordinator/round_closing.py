"""When the open round closes, and what becomes of everybody's update. Pure."""

from dataclasses import dataclass

from broker.messages import DropReason
from coordinator.fleet import Campaign, settings_of
from coordinator.lateness import awaited, late_steps
from coordinator.presence import PRESENT
from journal import events as e


@dataclass(frozen=True)
class _Closing:
    """How the open round stands.

    Attributes:
        over: its deadline has passed.
        arrived: devices whose updates have come in time.
        late: updates of earlier rounds that count with them.
        complete: whether these are enough.
        hopeless: whether the quorum cannot be reached any more.
    """

    over: bool
    arrived: tuple[str, ...]
    late: tuple[e.LateStep, ...]
    complete: bool
    hopeless: bool

    @property
    def devices(self) -> int:
        """How many devices the updates are from."""
        return len({*self.arrived, *(step.device for step in self.late)})


def close_round(state: Campaign, now: float) -> list[e.AnyEvent]:
    """Close the open round when everybody has answered, at its deadline, or without a chance.

    Who still trains for an earlier round, and is there, is waited for as well.
    """
    current = state.round
    assert current is not None
    deadline = current.deadline
    if state.started_at > current.opened_at:
        # What was said while the server was away is retained at the broker: it is read first.
        deadline = max(deadline, state.started_at + settings_of(state).presence.grace_s)
    over, waiting = now >= deadline, sum(current.waiting.values())
    complete = 0 < current.opened.enough <= current.arrived + len(state.late)
    coming = awaited(state) if state.owed else set()
    hopeless = _at_most(state, waiting, coming) < current.opened.quorum
    if (waiting or coming) and not (over or complete or hopeless):
        return []
    arrived = tuple(sorted(name for name, task in current.tasks.items() if task.update))
    closing = _Closing(over, arrived, late_steps(state), complete, hopeless)
    return _closed(state, closing, now)


def _at_most(state: Campaign, waiting: int, coming: set[str]) -> int:
    """Return from how many devices the open round may still get updates, those that came included.

    Who is away may come back before the deadline.
    """
    current = state.round
    assert current is not None
    if not state.late:
        return current.arrived + waiting + len(coming)
    may = {name for name, task in current.tasks.items() if task.update or not task.answered}
    return len(may | coming | {late.update.device for late in state.late})


def _closed(state: Campaign, closing: _Closing, now: float) -> list[e.AnyEvent]:
    """Return what becomes of everybody's update, and the end of the round."""
    current, settings = state.round, settings_of(state)
    assert current is not None
    opened, arrived = current.opened, closing.arrived
    enough = closing.devices >= opened.quorum
    events: list[e.AnyEvent] = []
    late = closing.late if enough else ()
    if settings.aggregation.rule != "mean":
        # The rule compares voices, and a device has one.
        superseded = [step for step in late if step.device in arrived]
        late = tuple(step for step in late if step.device not in arrived)
        events += [
            e.DeviceDropped(
                round=step.round,
                device=step.device,
                reason=DropReason.SURPLUS,
                detail=f"its newer update counts: aggregation.rule is {settings.aggregation.rule}",
            )
            for step in superseded
        ]
    missing = tuple(sorted(name for name, task in current.tasks.items() if not task.answered))
    owed = missing if settings.rounds.uses_late and not opened.assessment else ()
    events += [_unanswered(state, name, closing) for name in missing if name not in owed]
    if not enough:
        events += [
            e.DeviceDropped(
                round=current.number,
                device=name,
                reason=DropReason.ROUND_ABANDONED,
                detail=f"{closing.devices} updates, quorum is {opened.quorum}",
            )
            for name in arrived
        ]
    events.append(
        e.RoundClosed(
            round=current.number,
            aggregated=arrived if enough else (),
            reason=_why(state, closing, now - current.opened_at),
            late=late,
            owed=owed,
        )
    )
    return events


def _unanswered(state: Campaign, name: str, closing: _Closing) -> e.DeviceDropped:
    """Return why the work of a device that has not answered does not count."""
    current = state.round
    assert current is not None
    stage = current.tasks[name].stage or "no answer"
    if not closing.over and closing.complete:
        reason = DropReason.SURPLUS
        detail = f"{current.arrived} other updates were enough, last stage: {stage}"
    elif not closing.over:
        reason = DropReason.ROUND_ABANDONED
        detail = f"the others were too few for the quorum of {current.opened.quorum}"
    else:
        here = state.devices[name].link in PRESENT
        reason = DropReason.LATE if here else DropReason.OFFLINE
        detail = f"no update within {current.opened.budget_s:.1f} s, last stage: {stage}"
    return e.DeviceDropped(round=current.number, device=name, reason=reason, detail=detail)


def _why(state: Campaign, closing: _Closing, seconds: float) -> str:
    """Return in one sentence how a round went."""
    current = state.round
    assert current is not None
    reason = f"{len(closing.arrived)} of {len(current.tasks)} updates in {seconds:.1f} s"
    if closing.late:
        reason += f" and {len(closing.late)} of earlier rounds"
    if closing.devices >= current.opened.quorum:
        return reason
    reason += f", quorum is {current.opened.quorum}: not aggregated"
    if not closing.over and any(current.waiting.values()):
        reason += ", as too few others could still answer"
    return reason
