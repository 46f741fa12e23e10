"""What each event of an open round changes: who is in, what came, who is missing, how it ended.

As in `coordinator.evolution`, nothing here decides. Pure.
"""

from collections import Counter
from typing import Any

from broker.messages import DropReason, Stage, Verdict
from coordinator.changes import devices_with, moved_bytes, replace, with_device
from coordinator.fleet import (
    Campaign,
    Device,
    LateUpdate,
    Owed,
    Phase,
    ReceiptRecord,
    Round,
    TaskState,
)
from coordinator.pace import after_late, followed, remembered
from journal import events as e


def _round_opened(state: Campaign, event: e.RoundOpened, at: float) -> Campaign:
    tasks = {task.device: TaskState(task) for task in event.tasks}
    waiting = Counter(task.width for task in event.tasks)
    invited = {name: replace(state.devices[name], last_drawn=event.round) for name in tasks}
    return replace(
        state,
        devices={**state.devices, **invited},
        round=Round(event.round, at, event, tasks, waiting),
        held=None,
        phase=Phase.TRAINING,
        since=at,
        ledger=state.ledger.with_devices(sorted(tasks)),
    )


def _held(state: Campaign, event: e.RoundsHeld, at: float) -> Campaign:
    return replace(state, held=event)


def _progressed(state: Campaign, event: e.TaskProgressed, at: float) -> Campaign:
    owed, moved = _owed(state, event.device, event.round), {}
    if event.downloaded_bytes:
        moved = moved_bytes(state, event.device, event.downloaded_bytes, at)
    if moved:
        state = with_device(state, event.device, **moved)
    if owed is None:
        return replace(state, round=_round(state, event.device, stage=event.stage))
    further = replace(owed, task=replace(owed.task, stage=event.stage))
    return replace(state, owed={**state.owed, event.device: further})


def _accepted(state: Campaign, event: e.UpdateAccepted, at: float) -> Campaign:
    known, owed = state.devices[event.device], _owed(state, event.device, event.round)
    receipt = ReceiptRecord(event.round, event.blob, Verdict.ACCEPTED)
    current = state.round
    task = owed.task if owed else current.tasks.get(event.device) if current else None
    devices = devices_with(
        state,
        event.device,
        receipt=receipt,
        accepted={**known.accepted, event.round: event.blob},
        observed_s=(*known.observed_s, event.round_s),
        **_pace(task, known, event.round_s),
        **moved_bytes(state, event.device, event.size, at),
        late_in_a_row=0,
        late_at_least=0,
        local=event.evaluations or known.local,
    )
    if owed:
        late = (*state.late, LateUpdate(owed.opened, owed.trained_rounds, event))
        return replace(state, devices=devices, owed=_others(state, event.device), late=late)
    current = _round(state, event.device, update=event, stage=Stage.UPLOADED)
    return replace(state, devices=devices, round=current)


def _refused(state: Campaign, event: e.UpdateRefused, at: float) -> Campaign:
    receipt = ReceiptRecord(event.round, event.blob, Verdict.REFUSED, event.reason, event.detail)
    moved = moved_bytes(state, event.device, event.size, at)
    return with_device(state, event.device, receipt=receipt, **moved)


def _dropped(state: Campaign, event: e.DeviceDropped, at: float) -> Campaign:
    owed, current = _owed(state, event.device, event.round), state.round
    others = tuple(one for one in state.late if one.key != (event.device, event.round))
    if len(others) < len(state.late):  # it had come, and counts nowhere
        return replace(state, late=others)
    if owed:
        state = replace(state, owed=_others(state, event.device))
    else:
        state = replace(state, round=_round(state, event.device, dropped=event.reason))
    if event.reason is DropReason.SURPLUS:  # it missed nothing: it was not waited for
        return state
    known = state.devices[event.device]
    pace: dict[str, Any] = {}
    late, least = known.late_in_a_row, known.late_at_least
    if event.reason is DropReason.LATE and (owed or current):
        task, observed_s = None, 0.0
        if owed:
            task, observed_s = owed.task, at - owed.opened_at
        elif current:
            task, observed_s = current.tasks.get(event.device), current.opened.budget_s
        late += 1
        least += _has_least_to_do(state, known, task)
        pace = _pace(task, known, observed_s, late)
    return with_device(
        state,
        event.device,
        **pace,
        late_in_a_row=late,
        late_at_least=least,
        rounds_missed=known.rounds_missed + 1,
        last_drop=f"round {event.round}: {event.reason}"
        + (f" ({event.detail})" if event.detail else ""),
    )


def _round_closed(state: Campaign, event: e.RoundClosed, at: float) -> Campaign:
    current = state.round
    assert current is not None
    steps = {(step.device, step.round): step for step in event.late}
    late = tuple(
        replace(one, step=steps[one.key])
        for one in sorted(state.late, key=lambda one: one.key)
        if one.key in steps
    )
    # What is only assessed enters no model: it is no round taken.
    fresh = () if current.opened.assessment else event.aggregated
    taken = dict(state.devices)
    for device, width in [
        *((one.update.device, one.update.width) for one in late),
        *((device, current.tasks[device].task.width) for device in fresh),
    ]:
        known = taken[device]
        taken[device] = replace(known, rounds_taken=known.rounds_taken + 1, trained_width=width)
    missed = not (event.aggregated or event.late)
    owed = {
        device: Owed(current.opened, current.opened_at, state.trained_rounds, current.tasks[device])
        for device in event.owed
    }
    return replace(
        state,
        devices=taken,
        round=replace(current, closed=event, late=late),
        late=tuple(one for one in state.late if one.key not in steps),
        owed={**state.owed, **owed},
        phase=Phase.GATHERING if missed else Phase.SCORING,
        since=at,
        failures=state.failures + 1 if missed else 0,
    )


def _round(state: Campaign, device: str, **changes: Any) -> Round | None:
    """Return the round of a campaign with changes to the task of one device, if it has any."""
    current = state.round
    if current is None or device not in current.tasks:
        return current
    known = current.tasks[device]
    task = replace(known, **changes)
    waiting = current.waiting
    if task.answered and not known.answered:
        waiting = {**waiting, task.task.width: waiting[task.task.width] - 1}
    arrived = current.arrived + bool(task.update and not known.update)
    tasks = {**current.tasks, device: task}
    return replace(current, tasks=tasks, waiting=waiting, arrived=arrived)


def _owed(state: Campaign, device: str, number: int) -> Owed | None:
    owed = state.owed.get(device)
    return owed if owed and owed.number == number else None


def _others(state: Campaign, device: str) -> dict[str, Owed]:
    """Return what is owed once a device owes nothing any more."""
    return {name: one for name, one in state.owed.items() if name != device}


def _pace(
    task: TaskState | None, device: Device, observed_s: float, late_in_a_row: int = 0
) -> dict[str, Any]:
    """Return what changes of a device's pace after a round that took it so long, or longer."""
    if task is None:
        return {}
    predicted_s, late = task.task.predicted_s / device.pace, late_in_a_row > 0
    ratios = remembered(device.ratios, predicted_s, observed_s, late=late)
    if late:
        pace = after_late(device.pace, predicted_s, observed_s, late_in_a_row)
        return {"pace": pace, "ratios": ratios}
    return {"pace": followed(device.pace, predicted_s, observed_s), "ratios": ratios}


def _has_least_to_do(state: Campaign, device: Device, task: TaskState | None) -> bool:
    """Return whether a device's task is as small as any can be."""
    if task is None or state.settings is None:
        return False
    narrowest = min((one.width for one in device.forecasts), default=task.task.width)
    least = state.settings.width_policy.least_steps
    return task.task.width <= narrowest and 0 < task.task.steps <= least


ROUND_HANDLERS: dict[type, Any] = {
    e.RoundOpened: _round_opened,
    e.RoundsHeld: _held,
    e.TaskProgressed: _progressed,
    e.UpdateAccepted: _accepted,
    e.UpdateRefused: _refused,
    e.DeviceDropped: _dropped,
    e.RoundClosed: _round_closed,
}
