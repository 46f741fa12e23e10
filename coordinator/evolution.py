"""What each event changes: `evolve(state, event, at) -> state`.

Nothing here decides. A replay of the journal through `evolve` gives the state of the moment the
server stopped, and `coordinator.rounds` goes on from there.
"""

import math
from collections import Counter
from typing import Any, TypeVar

import msgspec

from broker.messages import (
    FLEET_ACTIONS,
    DropReason,
    InstallState,
    OperatorAction,
    Stage,
    Verdict,
)
from coordinator.contribution.ledger import Ledger
from coordinator.fleet import (
    Campaign,
    Device,
    LateUpdate,
    Owed,
    Phase,
    ReceiptRecord,
    Round,
    TaskState,
    lacks_resources,
    reports_of,
)
from coordinator.pace import after_late, after_profile, followed, remembered, spread_of
from coordinator.settings import Settings
from coordinator.traffic import allowed_per_day, with_traffic
from journal import events as e

T = TypeVar("T")


def replace(known: T, **changes: Any) -> T:
    """Do as `dataclasses.replace` does, for a dataclass without slots or checks of its own.

    A campaign has some forty fields and every message of every device changes one or two: setting
    all of them anew, one by one, would be the larger part of the coordinator's work.

    Raises:
        TypeError: there is no such field.
    """
    fields = vars(known)
    if not changes.keys() <= fields.keys():
        raise TypeError(f"{type(known).__name__} lacks a field among {sorted(changes)}")
    other = object.__new__(type(known))
    vars(other).update(fields, **changes)
    return other


def evolve(state: Campaign, event: e.AnyEvent, at: float) -> Campaign:
    """Return the state after ``event``, which happened at server time ``at``."""
    evolved: Campaign = _HANDLERS[type(event)](state, event, at)
    return evolved


def _device(state: Campaign, device: str, **changes: Any) -> Campaign:
    return replace(state, devices=_devices(state, device, **changes))


def _devices(state: Campaign, device: str, **changes: Any) -> dict[str, Device]:
    """Return the devices of a campaign with changes to one of them."""
    known = state.devices.get(device) or Device(device)
    return {**state.devices, device: replace(known, **changes)}


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


def _campaign_started(state: Campaign, event: e.CampaignStarted, at: float) -> Campaign:
    settings = msgspec.convert(event.settings, Settings)
    return replace(
        state,
        settings=settings,
        spec_hash=event.spec_hash,
        phase=Phase.INITIALISING,
        since=at,
        ledger=Ledger(settings.contributions.decay),
        inference_bytes={one.width: one.inference_bytes for one in event.memory},
    )


def _server_started(state: Campaign, event: e.ServerStarted, at: float) -> Campaign:
    """Go on from a restart; where the clock is behind what it was, waiting begins anew."""
    current = state.round
    if current and current.opened_at > at:
        current = replace(current, opened_at=at)
    owed = {
        device: replace(one, opened_at=min(one.opened_at, at)) for device, one in state.owed.items()
    }
    since = min(state.since, at)
    return replace(state, epoch=event.epoch, started_at=at, since=since, round=current, owed=owed)


def _initialised(state: Campaign, event: e.ModelInitialised, at: float) -> Campaign:
    return replace(
        state,
        weights=event.digest,
        best=event.digest,
        public=event.public,
        untrained=event.score,
        phase=Phase.GATHERING,
        since=at,
        work_failures=0,
    )


def _born(state: Campaign, event: e.DeviceBorn, at: float) -> Campaign:
    known = state.devices.get(event.device, Device(event.device))
    changes: dict[str, Any] = {
        "session": event.session,
        "agent": event.agent,
        "can_train": event.can_train,
        "emulated": event.emulated,
    }
    if not event.can_train and known.profile is None:
        changes |= {"reason": "has not reported a profile yet"}
    return _device(state, event.device, **changes)


def _presence(state: Campaign, event: e.PresenceChanged, at: float) -> Campaign:
    return _device(state, event.device, link=event.state)


def _profiled(state: Campaign, event: e.DeviceProfiled, at: float) -> Campaign:
    return _device(
        state,
        event.device,
        profile=event.profile,
        profiled_at=at,
        can_train=event.profile.can_train,
        failed_width=0.0,  # measured anew: it may have room now
    )


def _width_chosen(state: Campaign, event: e.WidthChosen, at: float) -> Campaign:
    if event.width and state.round is None and not any(d.width for d in state.devices.values()):
        state = replace(state, since=at)  # the others get their time from the first one on
    known = state.devices.get(event.device)
    pace: float = 1.0
    ratios: tuple[float, ...] = ()
    if known and known.forecasts == event.forecasts:
        pace, ratios = known.pace, known.ratios
    elif known:  # what a new profile predicts is not what the pace was measured against
        pace, ratios = after_profile(known, event.forecasts), spread_of(known.ratios)
    return _device(
        state,
        event.device,
        pace=pace,
        ratios=ratios,
        width=event.width,
        participation=event.participation,
        reason=event.reason,
        predicted_s=event.predicted_s,
        forecasts=event.forecasts,
        steps=event.steps,
    )


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


def _moved(state: Campaign, device: str, size: int, at: float) -> dict[str, Any]:
    """Return what changes of a device that moved bytes; nothing where they are not limited."""
    known, settings = state.devices.get(device), state.settings
    if known is None or settings is None or not allowed_per_day(settings.width_policy, device):
        return {}
    return {"traffic": with_traffic(known.traffic, size, at)}


def _progressed(state: Campaign, event: e.TaskProgressed, at: float) -> Campaign:
    owed, moved = _owed(state, event.device, event.round), {}
    if event.downloaded_bytes:
        moved = _moved(state, event.device, event.downloaded_bytes, at)
    if moved:
        state = _device(state, event.device, **moved)
    if owed is None:
        return replace(state, round=_round(state, event.device, stage=event.stage))
    further = replace(owed, task=replace(owed.task, stage=event.stage))
    return replace(state, owed={**state.owed, event.device: further})


def _owed(state: Campaign, device: str, number: int) -> Owed | None:
    owed = state.owed.get(device)
    return owed if owed and owed.number == number else None


def _others(state: Campaign, device: str) -> dict[str, Owed]:
    """Return what is owed once a device owes nothing any more."""
    return {name: one for name, one in state.owed.items() if name != device}


def _accepted(state: Campaign, event: e.UpdateAccepted, at: float) -> Campaign:
    known, owed = state.devices[event.device], _owed(state, event.device, event.round)
    receipt = ReceiptRecord(event.round, event.blob, Verdict.ACCEPTED)
    current = state.round
    task = owed.task if owed else current.tasks.get(event.device) if current else None
    devices = _devices(
        state,
        event.device,
        receipt=receipt,
        accepted={**known.accepted, event.round: event.blob},
        observed_s=(*known.observed_s, event.round_s),
        **_pace(task, known, event.round_s),
        **_moved(state, event.device, event.size, at),
        late_in_a_row=0,
        late_at_least=0,
        local=event.evaluations or known.local,
    )
    if owed:
        late = (*state.late, LateUpdate(owed.opened, owed.trained_rounds, event))
        return replace(state, devices=devices, owed=_others(state, event.device), late=late)
    current = _round(state, event.device, update=event, stage=Stage.UPLOADED)
    return replace(state, devices=devices, round=current)


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


def _refused(state: Campaign, event: e.UpdateRefused, at: float) -> Campaign:
    receipt = ReceiptRecord(event.round, event.blob, Verdict.REFUSED, event.reason, event.detail)
    moved = _moved(state, event.device, event.size, at)
    return _device(state, event.device, receipt=receipt, **moved)


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
    return _device(
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


def _scored(state: Campaign, event: e.RoundScored, at: float) -> Campaign:
    current, settings = state.round, state.settings
    assert current is not None
    assert settings is not None
    blameless = (*current.opened.not_drawn, *current.opened.excused)
    return replace(
        state,
        round=replace(current, scored=True),
        between_s=max(0.0, at - state.since),
        weights=event.digest,
        optimiser=event.optimiser,
        **_variates(state, event),
        earlier=(state.weights, *state.earlier)[: _looks_back(state, settings)],
        weights_round=event.round,
        trained_rounds=state.trained_rounds + 1,
        **_measured(state, current, event),
        progress=(*state.progress, *_progress(state, event)),
        without_gain=0 if event.better else state.without_gain + 1,
        scored=event,
        ledger=state.ledger.entered(event.round, event.contributions, blameless),
        phase=Phase.GATHERING,
        since=at,
        work_failures=0,
    )


def _variates(state: Campaign, event: e.RoundScored) -> dict[str, Any]:
    """Return what changes about control variates."""
    if event.variates is None:
        return {}
    own = {**state.own_variates, **event.variates.devices}
    return {"variates": event.variates.fleet, "own_variates": own}


def _looks_back(state: Campaign, settings: Settings) -> int:
    """Return how many weights before the newest ones are known in the next round.

    Whoever sends a late update may repeat what the model has done since the weights that it had.
    """
    novelty = settings.contributions.novelty
    trained = [one.trained_rounds for one in state.owed.values()]
    trained += [one.trained_rounds for one in state.late]
    moves = state.trained_rounds + 1 - min(trained) if trained else 0
    return novelty + moves if novelty else 0


def _progress(state: Campaign, event: e.RoundScored) -> list[tuple[float, float]]:
    """Return how far the network has come with a round; nothing where it was not measured."""
    before = state.progress[-1][0] if state.progress else 0.0
    made = math.fsum(one.score for one in event.contributions)
    found = (before + made, event.curve[-1].score if event.curve else math.nan)
    return [found] if all(map(math.isfinite, found)) else []


def _measured(state: Campaign, current: Round, event: e.RoundScored) -> dict[str, Any]:
    """Return what changes about the weights that were measured."""
    assert state.settings is not None
    if state.settings.contributions.evaluator == "server":
        best = event.digest if event.better else state.best
        return {"measured": event.digest, "measured_round": event.round, "best": best}
    reports, base = reports_of(current), current.opened.base
    if not reports:
        return {}  # what was measured before is still the newest
    best = base if event.better else state.best
    others = {best, state.released_weights}
    kept = {name: found for name, found in state.reports.items() if name in others}
    changes: dict[str, Any] = {
        "measured": base,
        "measured_round": state.weights_round,
        "best": best,
        "reports": {**kept, base: reports},
    }
    if state.weights_round == 0:
        changes |= {"untrained": event.curve[-1].score, "untrained_reports": reports}
    return changes


def _alone_measured(state: Campaign, event: e.AloneMeasured, at: float) -> Campaign:
    current = state.round
    assert current is not None
    return replace(
        state,
        round=replace(current, scored=True),
        assessed=True,
        alone={**state.alone, **{score.device: score for score in event.scores}},
        phase=Phase.GATHERING,
        since=at,
        work_failures=0,
    )


def _entitlements(state: Campaign, event: e.EntitlementsRevised, at: float) -> Campaign:
    return replace(state, entitled={**state.entitled, **event.widths}, revision=event)


def _stopped(state: Campaign, event: e.TrainingStopped, at: float) -> Campaign:
    return replace(state, stopped=event.reason, phase=Phase.ALLOCATING, since=at)


def _release_due(state: Campaign, event: e.ReleaseDue, at: float) -> Campaign:
    return replace(state, phase=Phase.ALLOCATING, since=at)


def _allocated(state: Campaign, event: e.RewardsAllocated, at: float) -> Campaign:
    for reward in event.rewards:
        state = _device(state, reward.device, reward=reward)
    for device in [device for device in state.devices.values() if device.steps_down]:
        state = _device(state, device.device, steps_down=False)
    return replace(state, allocation=event, phase=Phase.EXPORTING, since=at)


def _released(state: Campaign, event: e.ReleaseBuilt, at: float) -> Campaign:
    digest = event.release.manifest.digest
    return replace(
        state,
        releases={**state.releases, digest: (event.release, event.blob)},
        release_version=max(state.release_version, event.release.version),
        released_weights=state.measured,
        withheld="",
        work_failures=0,
    )


def _withheld(state: Campaign, event: e.ReleaseWithheld, at: float) -> Campaign:
    return replace(_after_export(state, at), withheld=event.reason, work_failures=0)


def _deployed(state: Campaign, event: e.DeploymentIssued, at: float) -> Campaign:
    state = _device(state, event.device, counter=event.counter, deployed=event)
    return _after_export(state, at)


def _after_export(state: Campaign, at: float) -> Campaign:
    """Go on training, or wait for confirmations where training is over."""
    phase = Phase.DELIVERING if state.stopped else Phase.GATHERING
    return replace(state, phase=phase, since=at, release_round=state.trained_rounds)


def _reported(state: Campaign, event: e.InstallReported, at: float) -> Campaign:
    known = state.devices.get(event.device)
    if (
        event.state is InstallState.REFUSED
        and known
        and known.deployed
        and event.report.counter != known.deployed.counter
    ):
        return state  # some other document was refused; what runs has not changed
    state = _device(state, event.device, report=event.report, **_fetched(state, event, at))
    if known and known.deployed and lacks_resources(event.report, known.deployed):
        width = known.deployed.width
        narrowest = min(width, known.failed_width or width)
        state = _device(state, event.device, failed_width=narrowest, steps_down=True)
    return state


def _fetched(state: Campaign, event: e.InstallReported, at: float) -> dict[str, Any]:
    """Return what changes of a device that first says what became of a release."""
    known = state.devices.get(event.device)
    deployed = known.deployed if known else None
    if known is None or deployed is None or deployed.digest not in state.releases:
        return {}
    before, report = known.report, event.report
    told = before is not None and before.counter == deployed.counter
    if report.counter != deployed.counter or told or event.state is InstallState.DOWNLOADING:
        return {}
    return _moved(state, event.device, state.releases[deployed.digest][1].size, at)


def _operator(state: Campaign, event: e.OperatorActed, at: float) -> Campaign:
    state = replace(
        state,
        commands={**state.commands, (event.operator, event.command_id): event},
        last_commands={**state.last_commands, event.operator: event},
    )
    if not event.done:
        return state
    by = f"by {event.operator}: {event.reason or 'no reason given'}"
    if event.action in FLEET_ACTIONS:
        paused = event.action is OperatorAction.PAUSE_ROUNDS
        return replace(state, paused=f"paused {by}" if paused else "")
    suspended = ""
    if event.action == "suspend":
        suspended = f"suspended {by}"
    return _device(state, event.device, suspended=suspended)


def _blob_shared(state: Campaign, event: e.BlobShared, at: float) -> Campaign:
    return state


def _message_refused(state: Campaign, event: e.MessageRefused, at: float) -> Campaign:
    return state


def _work_failed(state: Campaign, event: e.WorkFailed, at: float) -> Campaign:
    return replace(state, work_failures=state.work_failures + 1)


def _finished(state: Campaign, event: e.CampaignFinished, at: float) -> Campaign:
    return replace(state, phase=Phase.FINISHED, since=at)


_HANDLERS: dict[type, Any] = {
    e.CampaignStarted: _campaign_started,
    e.ServerStarted: _server_started,
    e.ModelInitialised: _initialised,
    e.DeviceBorn: _born,
    e.PresenceChanged: _presence,
    e.DeviceProfiled: _profiled,
    e.WidthChosen: _width_chosen,
    e.RoundOpened: _round_opened,
    e.RoundsHeld: _held,
    e.TaskProgressed: _progressed,
    e.UpdateAccepted: _accepted,
    e.UpdateRefused: _refused,
    e.DeviceDropped: _dropped,
    e.RoundClosed: _round_closed,
    e.RoundScored: _scored,
    e.AloneMeasured: _alone_measured,
    e.EntitlementsRevised: _entitlements,
    e.TrainingStopped: _stopped,
    e.ReleaseDue: _release_due,
    e.RewardsAllocated: _allocated,
    e.ReleaseBuilt: _released,
    e.ReleaseWithheld: _withheld,
    e.DeploymentIssued: _deployed,
    e.InstallReported: _reported,
    e.OperatorActed: _operator,
    e.MessageRefused: _message_refused,
    e.BlobShared: _blob_shared,
    e.WorkFailed: _work_failed,
    e.CampaignFinished: _finished,
}
