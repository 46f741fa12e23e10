"""The state of a campaign, rebuilt from events alone: `evolve(state, event, at) -> state`.

Nothing here decides. A replay of the journal through `evolve` gives the state of the moment the
server stopped, and `coordinator.rounds` goes on from there.
"""

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

import msgspec

from broker.messages import (
    BlobReference,
    DropReason,
    InstallState,
    Participation,
    Profile,
    Release,
    Report,
    Stage,
    Verdict,
)
from coordinator.contribution.ledger import Ledger
from coordinator.presence import Lease
from coordinator.reported_curve import Reports
from coordinator.settings import Settings
from journal import events as e
from journal.events import LinkState

T = TypeVar("T")

POST_TRAINING_NOTICE = (
    "rewards.mode = post-training: while training, each device holds the weights of its training"
    " width, whatever width it earns in the end"
)


TRAINING_TIME_NOTICE = (
    "rewards.mode = training-time: in no round a device holds more than the weights of the width"
    " that it is entitled to by then; what it held in an earlier round stays with it"
)

# `Report.code` where the device was short of memory or time. It goes on trying by itself.
RESOURCE_CODES = frozenset({"try-again:killed", "try-again:timeout"})


class Phase(StrEnum):
    """What the coordinator is doing."""

    EMPTY = "empty"
    INITIALISING = "initialising"
    GATHERING = "gathering"
    TRAINING = "training"
    SCORING = "scoring"
    ALLOCATING = "allocating"
    EXPORTING = "exporting"
    DELIVERING = "delivering"
    FINISHED = "finished"


@dataclass(frozen=True)
class ReceiptRecord:
    """The last update of a device that was judged."""

    round: int
    blob: str
    verdict: Verdict
    reason: DropReason | None = None
    detail: str = ""


@dataclass(frozen=True)
class Device:
    """What is known about one device.

    Attributes:
        forecasts: how long a round takes it at each training width up to its own.
        trained_width: of the last update that was aggregated.
        accepted: round -> blob of the update that was accepted.
        failed_width: narrowest width that it had no room or time to install; 0 = none failed.
        steps_down: whether that was since rewards were last allocated.
    """

    device: str
    session: int = 0
    link: LinkState = LinkState.NEVER_SEEN
    agent: str = ""
    emulated: str = ""
    can_train: bool = False
    profile: Profile | None = None
    participation: Participation = Participation.WAITING
    reason: str = "no profile yet"
    suspended: str = ""
    width: float = 0.0
    predicted_s: float = 0.0
    forecasts: tuple[e.RoundForecast, ...] = ()
    trained_width: float = 0.0
    observed_s: tuple[float, ...] = ()
    rounds_taken: int = 0
    rounds_missed: int = 0
    last_drop: str = ""
    receipt: ReceiptRecord | None = None
    accepted: dict[int, str] = field(default_factory=dict)
    reward: e.Reward | None = None
    counter: int = 0
    deployed: e.DeploymentIssued | None = None
    report: Report | None = None
    failed_width: float = 0.0
    steps_down: bool = False


@dataclass(frozen=True)
class TaskState:
    """One device's task in the open round."""

    task: e.RoundTask
    stage: Stage | None = None
    dropped: DropReason | None = None
    update: e.UpdateAccepted | None = None

    @property
    def answered(self) -> bool:
        """Whether nothing more is expected of this device in this round."""
        return self.dropped is not None or self.update is not None


@dataclass(frozen=True)
class Round:
    """The current round, open or closed.

    Attributes:
        waiting: width -> how many devices that train it have not answered; counted with every
            event, because asking all tasks after each message would cost their square.
    """

    number: int
    opened_at: float
    opened: e.RoundOpened
    tasks: dict[str, TaskState]
    waiting: dict[float, int]
    closed: e.RoundClosed | None = None
    scored: bool = False

    @property
    def deadline(self) -> float:
        """Server time after which updates are late."""
        return self.opened_at + self.opened.budget_s


@dataclass(frozen=True)
class Campaign:
    """Everything that the coordinator knows.

    Attributes:
        started_at: when the server last started.
        trained_rounds: how many were aggregated; the budget counts these.
        release_round: ``trained_rounds`` at the last release.
        inference_bytes: reward width -> least memory that running it takes.
        assessed: whether the assessment round is over.
        alone: what each device's own model scored, where it was measured.
        entitled: widest training width of each device, where training-time rewards hold it down;
            revision: the last event that said so.
        earlier: digests of the weights before ``weights``, the latest first, as many as
            contributions.novelty looks back on.
        measured: digest of the newest weights with a measured score, which are those that are
            released; measured_round: whose they are.
        reports: where devices measure: digest of the weights measured last, of the best and of
            those released -> what devices reported on them; untrained_reports: on the initial ones.
    """

    settings: Settings | None = None
    spec_hash: str = ""
    epoch: int = 0
    started_at: float = 0.0
    phase: Phase = Phase.EMPTY
    since: float = 0.0
    weights: str = ""
    weights_round: int = 0
    trained_rounds: int = 0
    untrained: float = 0.0
    devices: dict[str, Device] = field(default_factory=dict)
    round: Round | None = None
    failures: int = 0
    without_gain: int = 0
    best: str = ""
    scored: e.RoundScored | None = None
    stopped: str = ""
    allocation: e.RewardsAllocated | None = None
    releases: dict[str, tuple[Release, BlobReference]] = field(default_factory=dict)
    release_version: int = 0
    released_weights: str = ""
    release_round: int = 0
    withheld: str = ""
    work_failures: int = 0
    ledger: Ledger = field(default_factory=Ledger)
    inference_bytes: dict[float, int] = field(default_factory=dict)
    assessed: bool = False
    alone: dict[str, e.AloneScore] = field(default_factory=dict)
    entitled: dict[str, float] = field(default_factory=dict)
    revision: e.EntitlementsRevised | None = None
    earlier: tuple[str, ...] = ()
    measured: str = ""
    measured_round: int = 0
    reports: dict[str, Reports] = field(default_factory=dict)
    untrained_reports: Reports = field(default_factory=dict)
    commands: dict[tuple[str, str], e.OperatorActed] = field(default_factory=dict)
    last_commands: dict[str, e.OperatorActed] = field(default_factory=dict)

    def contribution(self, device: str) -> float | None:
        """Return what a device's updates were worth so far; None if it was never invited."""
        total = self.ledger.totals.get(device)
        return total.score if total else None

    def leases(self) -> dict[str, Lease]:
        """Return what the journal knows about presence."""
        return {d.device: Lease(d.session, state=d.link) for d in self.devices.values()}


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
    known = state.devices.get(device, Device(device))
    return replace(state, devices={**state.devices, device: replace(known, **changes)})


def _task(state: Campaign, device: str, **changes: Any) -> Campaign:
    current = state.round
    if current is None or device not in current.tasks:
        return state
    known = current.tasks[device]
    task = replace(known, **changes)
    waiting = current.waiting
    if task.answered and not known.answered:
        waiting = {**waiting, task.task.width: waiting[task.task.width] - 1}
    tasks = {**current.tasks, device: task}
    return replace(state, round=replace(current, tasks=tasks, waiting=waiting))


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
    return replace(state, epoch=event.epoch, started_at=at)


def _initialised(state: Campaign, event: e.ModelInitialised, at: float) -> Campaign:
    return replace(
        state,
        weights=event.digest,
        best=event.digest,
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
        can_train=event.profile.can_train,
        failed_width=0.0,  # measured anew: it may have room now
    )


def _width_chosen(state: Campaign, event: e.WidthChosen, at: float) -> Campaign:
    if event.width and state.round is None and not any(d.width for d in state.devices.values()):
        state = replace(state, since=at)  # the others get their time from the first one on
    return _device(
        state,
        event.device,
        width=event.width,
        participation=event.participation,
        reason=event.reason,
        predicted_s=event.predicted_s,
        forecasts=event.forecasts,
    )


def _round_opened(state: Campaign, event: e.RoundOpened, at: float) -> Campaign:
    tasks = {task.device: TaskState(task) for task in event.tasks}
    waiting = Counter(task.width for task in event.tasks)
    return replace(
        state,
        round=Round(event.round, at, event, tasks, waiting),
        phase=Phase.TRAINING,
        since=at,
        ledger=state.ledger.with_devices(sorted(tasks)),
    )


def _progressed(state: Campaign, event: e.TaskProgressed, at: float) -> Campaign:
    return _task(state, event.device, stage=event.stage)


def _accepted(state: Campaign, event: e.UpdateAccepted, at: float) -> Campaign:
    known = state.devices[event.device]
    receipt = ReceiptRecord(event.round, event.blob, Verdict.ACCEPTED)
    state = _device(
        state,
        event.device,
        receipt=receipt,
        accepted={**known.accepted, event.round: event.blob},
        observed_s=(*known.observed_s, event.round_s),
    )
    return _task(state, event.device, update=event, stage=Stage.UPLOADED)


def _refused(state: Campaign, event: e.UpdateRefused, at: float) -> Campaign:
    receipt = ReceiptRecord(event.round, event.blob, Verdict.REFUSED, event.reason, event.detail)
    return _device(state, event.device, receipt=receipt)


def _dropped(state: Campaign, event: e.DeviceDropped, at: float) -> Campaign:
    known = state.devices[event.device]
    state = _device(
        state,
        event.device,
        rounds_missed=known.rounds_missed + 1,
        last_drop=f"round {event.round}: {event.reason}"
        + (f" ({event.detail})" if event.detail else ""),
    )
    return _task(state, event.device, dropped=event.reason)


def _round_closed(state: Campaign, event: e.RoundClosed, at: float) -> Campaign:
    current = state.round
    assert current is not None
    # What is only assessed enters no model: it is no round taken.
    for device in () if current.opened.assessment else event.aggregated:
        state = _device(
            state,
            device,
            rounds_taken=state.devices[device].rounds_taken + 1,
            trained_width=current.tasks[device].task.width,
        )
    missed = not event.aggregated
    return replace(
        state,
        round=replace(current, closed=event),
        phase=Phase.GATHERING if missed else Phase.SCORING,
        since=at,
        failures=state.failures + 1 if missed else 0,
    )


def _scored(state: Campaign, event: e.RoundScored, at: float) -> Campaign:
    current, settings = state.round, state.settings
    assert current is not None
    assert settings is not None
    return replace(
        state,
        round=replace(current, scored=True),
        weights=event.digest,
        earlier=(state.weights, *state.earlier)[: settings.contributions.novelty],
        weights_round=event.round,
        trained_rounds=state.trained_rounds + 1,
        **_measured(state, current, event),
        without_gain=0 if event.better else state.without_gain + 1,
        scored=event,
        ledger=state.ledger.entered(event.round, event.contributions),
        phase=Phase.GATHERING,
        since=at,
        work_failures=0,
    )


def reports_of(current: Round) -> Reports:
    """Return what devices reported, with their updates, on the weights that a round began with."""
    updates = {device: task.update for device, task in current.tasks.items() if task.update}
    return {device: one.evaluations for device, one in updates.items() if one.evaluations}


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
    state = _device(state, event.device, report=event.report)
    if known and known.deployed and lacks_resources(event.report, known.deployed):
        width = known.deployed.width
        narrowest = min(width, known.failed_width or width)
        state = _device(state, event.device, failed_width=narrowest, steps_down=True)
    return state


def lacks_resources(report: Report, deployed: e.DeploymentIssued) -> bool:
    """Return whether a device had no memory or no time for what it was sent."""
    return (
        report.counter == deployed.counter
        and bool(deployed.digest)
        and report.state in (InstallState.REFUSED, InstallState.FAILED)
        and report.code in RESOURCE_CODES
    )


def _operator(state: Campaign, event: e.OperatorActed, at: float) -> Campaign:
    state = replace(
        state,
        commands={**state.commands, (event.operator, event.command_id): event},
        last_commands={**state.last_commands, event.operator: event},
    )
    if not event.done:
        return state
    suspended = ""
    if event.action == "suspend":
        suspended = f"suspended by {event.operator}: {event.reason or 'no reason given'}"
    return _device(state, event.device, suspended=suspended)


def _blob_shared(state: Campaign, event: e.BlobShared, at: float) -> Campaign:
    return state


def _message_refused(state: Campaign, event: e.MessageRefused, at: float) -> Campaign:
    return state


def _work_failed(state: Campaign, event: e.WorkFailed, at: float) -> Campaign:
    return replace(state, work_failures=state.work_failures + 1)


def _finished(state: Campaign, event: e.CampaignFinished, at: float) -> Campaign:
    return replace(state, phase=Phase.FINISHED, since=at)


def confirmed(device: Device) -> bool:
    """Return whether the device confirmed the deployment in force."""
    report, deployed = device.report, device.deployed
    return bool(
        report
        and deployed
        and report.counter == deployed.counter
        and report.state is InstallState.CONFIRMED
        and report.running == deployed.digest
    )


def answered_deployment(device: Device) -> bool:
    """Return whether the device confirmed, refused or failed the deployment in force."""
    report, deployed = device.report, device.deployed
    if not report or not deployed or report.counter != deployed.counter:
        return False
    return confirmed(device) or report.state in (InstallState.REFUSED, InstallState.FAILED)


_HANDLERS: dict[type, Any] = {
    e.CampaignStarted: _campaign_started,
    e.ServerStarted: _server_started,
    e.ModelInitialised: _initialised,
    e.DeviceBorn: _born,
    e.PresenceChanged: _presence,
    e.DeviceProfiled: _profiled,
    e.WidthChosen: _width_chosen,
    e.RoundOpened: _round_opened,
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
