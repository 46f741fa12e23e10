"""What each event of a round changes in the operator's view of it. Pure."""

from collections.abc import Callable
from statistics import median

from broker.messages import DropReason, Stage
from journal import events as e
from monitor.device_view import Turn, clipped
from monitor.fleet_view import FleetView
from monitor.round_view import AGGREGATED, NOT_DRAWN, REACHED, UPLOADED, RoundView, TaskView

REPEATS = 4
"""A device that fetched more than so often what it needed is not believed."""


def _round_opened(view: FleetView, at: float, event: e.RoundOpened) -> None:
    view.held = ""
    view.opened += 1
    tasks = {
        task.device: TaskView(
            task.device, task.width, task.predicted_s, task.steps or event.training.steps
        )
        for task in event.tasks
    }
    away = {name: why for name, why in event.not_invited.items() if _counts(view, name, event)}
    undrawn = dict.fromkeys(event.not_drawn, NOT_DRAWN)
    view.rounds[event.round] = RoundView(
        number=event.round,
        opened_at=at,
        budget_s=event.budget_s,
        quorum=event.quorum,
        assessment=event.assessment,
        tasks=tasks,
        not_invited={**event.not_invited, **undrawn},
        eligible=frozenset(tasks) | away.keys() | undrawn.keys(),
    )
    for name, why in () if event.assessment else away.items():
        device = view.device(name)
        device.eligible += 1
        device.drops["not invited"] += 1
        device.turns.append(Turn(event.round, "not invited", why))
    view.forget_rounds()
    view.enter(at, "training")


def _counts(view: FleetView, name: str, event: e.RoundOpened) -> bool:
    """Whether a round that a device was not invited to is one of its eligible ones."""
    device = view.device(name)
    kept_away = name in event.excused or device.suspended or device.retired
    return not kept_away and device.can_train and name not in event.not_drawn


def _task(view: FleetView, number: int, name: str) -> TaskView | None:
    found = view.rounds.get(number)
    return found.tasks.get(name) if found else None


def _held(view: FleetView, at: float, event: e.RoundsHeld) -> None:
    view.held = event.reason


def _progressed(view: FleetView, at: float, event: e.TaskProgressed) -> None:
    task = _task(view, event.round, event.device)
    if task is None:
        return
    if event.stage in REACHED:
        task.reach(REACHED[event.stage])
    if event.stage is Stage.STARTED:
        _fetched(view, task, event.downloaded_bytes)
    task.download_s = event.download_s or task.download_s
    task.train_s = event.train_s or task.train_s
    if event.stage in (Stage.DECLINED, Stage.FAILED):
        task.detail = clipped(event.detail)
        text = f"round {event.round} {event.stage}: {event.detail or event.reason or ''}"
        view.device(event.device).note(at, "round", text, trouble=event.stage is Stage.FAILED)


def _fetched(view: FleetView, task: TaskView, size: int) -> None:
    known = view.sizes.get(task.width, 0)
    claimed = min(size, REPEATS * known) if known else size  # the device's own word
    moved = max(0, claimed or known) - task.received
    task.received += moved
    view.received += moved


def _accepted(view: FleetView, at: float, event: e.UpdateAccepted) -> None:
    device = view.device(event.device)
    device.worked(at, f"update of round {event.round}")
    view.sent += event.size
    view.update_s.add(event.round_s)
    task = _task(view, event.round, event.device)
    if task is None:
        return
    task.reach(UPLOADED)
    task.sent, task.round_s = event.size, event.round_s
    task.train_s, task.download_s = event.train_s, event.download_s
    task.loss, task.samples, task.steps = event.loss, event.samples, event.steps
    _fetched(view, task, task.received)
    device.note(at, "round", f"update of round {event.round} at width {event.width:g} accepted")


def _refused(view: FleetView, at: float, event: e.UpdateRefused) -> None:
    text = f"update of round {event.round} refused: {event.reason}; {event.detail}"
    view.device(event.device).note(at, "round", text, trouble=True)
    view.sent += event.size


def _dropped(view: FleetView, at: float, event: e.DeviceDropped) -> None:
    task = _task(view, event.round, event.device)
    if task is not None:
        task.dropped, task.detail = str(event.reason), clipped(event.detail)
    text = f"out of round {event.round}: {event.reason}"
    view.device(event.device).note(at, "round", f"{text}; {event.detail}" if event.detail else text)


def _round_closed(view: FleetView, at: float, event: e.RoundClosed) -> None:
    found = view.rounds.get(event.round)
    if found is None:
        return
    found.closed_at, found.closing, found.late = at, event.reason, event.late
    found.counted = bool(event.aggregated or event.late)
    view.closed, view.closed_at = view.closed + 1, at
    view.round_s.add(at - found.opened_at)
    if found.counted:
        view.counted, view.counted_at, view.missed = view.counted + 1, at, 0
    else:
        view.missed += 1
    for name in event.aggregated if found.counted else ():
        if name in found.tasks:
            found.tasks[name].reach(AGGREGATED)
            found.tasks[name].dropped = ""
    _compare(view, found)
    for task in found.tasks.values():
        if not found.assessment:  # it measures devices one by one, and enters no model
            _turn(view, found, task, owed=task.device in event.owed)
    for step in event.late:
        _late(view, step)
    for why, count in found.drops.items():
        view.drops[why] = view.drops.get(why, 0) + count
    view.enter(at, "scoring" if found.counted else "gathering")


def _compare(view: FleetView, found: RoundView) -> None:
    """Note how long each device took beside the median of its width."""
    of_width: dict[float, list[TaskView]] = {}
    for task in found.tasks.values():
        if task.round_s:
            of_width.setdefault(task.width, []).append(task)
    for tasks in of_width.values():
        middle = median(task.round_s for task in tasks)
        for task in tasks:
            view.device(task.device).ratios.append(task.round_s / middle)


def _turn(view: FleetView, found: RoundView, task: TaskView, *, owed: bool) -> None:
    if task.dropped == DropReason.SURPLUS:  # it was not waited for
        return
    device = view.device(task.device)
    device.eligible += 1
    if task.step == AGGREGATED:
        device.taken += 1
        device.turns.append(Turn(found.number, AGGREGATED))
        return
    outcome = task.dropped or ("owed" if owed else "quorum missed")
    task.dropped = task.dropped or outcome
    device.drops[outcome] += 1
    device.turns.append(Turn(found.number, outcome, task.detail or found.closing))


def _late(view: FleetView, step: e.LateStep) -> None:
    """Count an update of an earlier round: it is in the aggregate after all."""
    task = _task(view, step.round, step.device)
    if task is not None:
        task.late = True
    device = view.device(step.device)
    for place, turn in enumerate(device.turns):
        if turn.round == step.round and turn.outcome != AGGREGATED:
            device.drops[turn.outcome] -= 1
            device.drops += type(device.drops)()  # lets go of what came down to nothing
            device.taken += 1
            device.turns[place] = Turn(turn.round, AGGREGATED, "late, in a later round")


def _scored(view: FleetView, at: float, event: e.RoundScored) -> None:
    view.scores.append((event.round, at, event.curve))
    for one in event.contributions:
        view.device(one.device).contributions.append((event.round, one.score))
    found = view.rounds.get(event.round)
    if found is not None:
        found.scored_at, found.curve, found.better = at, event.curve, event.better
        found.contributions = {one.device: one.score for one in event.contributions}
    view.enter(at, "gathering")


def _alone(view: FleetView, at: float, event: e.AloneMeasured) -> None:
    found = view.rounds.get(event.round)
    if found is not None:
        found.scored_at = at
    view.enter(at, "gathering")


ROUND_HANDLERS: dict[type, Callable[..., None]] = {
    e.RoundOpened: _round_opened,
    e.TaskProgressed: _progressed,
    e.UpdateAccepted: _accepted,
    e.UpdateRefused: _refused,
    e.DeviceDropped: _dropped,
    e.RoundClosed: _round_closed,
    e.RoundScored: _scored,
    e.AloneMeasured: _alone,
    e.RoundsHeld: _held,
}
