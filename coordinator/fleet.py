"""The state of a campaign, rebuilt from events alone: `evolve(state, event, at) -> state`.

Nothing here decides. A replay of the journal through `evolve` gives the state of the moment the
server stopped, and `coordinator.rounds` goes on from there.
"""

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

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
from coordinator.settings import Settings
from journal import events as e
from journal.events import LinkState

POST_TRAINING_NOTICE = (
    "rewards.mode = post-training: while training, each device holds the weights of its training"
    " width, whatever width it earns in the end"
)


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
        accepted: round -> blob of the update that was accepted.
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
    """The current round, open or closed."""

    number: int
    opened_at: float
    opened: e.RoundOpened
    tasks: dict[str, TaskState]
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
        alone: what each device's own model scored, where it was measured.
        entitled: widest training width of each device, where training-time rewards hold it down.
        earlier: digests of the weights before ``weights``, the latest first, as many as
            contributions.novelty looks back on.
    """

    settings: Settings | None = None
    spec_hash: str = ""
    epoch: int = 0
    started_at: float = 0.0
    phase: Phase = Phase.EMPTY
    since: float = 0.0
    weights: str = ""
    weights_round: int = 0
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
    alone: dict[str, e.AloneScore] = field(default_factory=dict)
    entitled: dict[str, float] = field(default_factory=dict)
    earlier: tuple[str, ...] = ()
    commands: dict[tuple[str, str], e.OperatorActed] = field(default_factory=dict)
    last_commands: dict[str, e.OperatorActed] = field(default_factory=dict)

    def contribution(self, device: str) -> float | None:
        """Return what a device's updates were worth so far; None if it was never invited."""
        total = self.ledger.totals.get(device)
        return total.score if total else None

    def leases(self) -> dict[str, Lease]:
        """Return what the journal knows about presence."""
        return {d.device: Lease(d.session, state=d.link) for d in self.devices.values()}


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
    task = replace(current.tasks[device], **changes)
    return replace(state, round=replace(current, tasks={**current.tasks, device: task}))


def _campaign_started(state: Campaign, event: e.CampaignStarted, at: float) -> Campaign:
    settings = msgspec.convert(event.settings, Settings)
    return replace(
        state,
        settings=settings,
        spec_hash=event.spec_hash,
        phase=Phase.INITIALISING,
        since=at,
        ledger=Ledger(settings.contributions.decay),
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
    return _device(state, event.device, profile=event.profile, can_train=event.profile.can_train)


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
    )


def _round_opened(state: Campaign, event: e.RoundOpened, at: float) -> Campaign:
    tasks = {task.device: TaskState(task) for task in event.tasks}
    return replace(
        state,
        round=Round(event.round, at, event, tasks),
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
    for device in event.aggregated:
        known = state.devices[device]
        state = _device(state, device, rounds_taken=known.rounds_taken + 1)
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
        best=event.digest if event.better else state.best,
        without_gain=0 if event.better else state.without_gain + 1,
        scored=event,
        ledger=state.ledger.entered(event.round, event.contributions),
        phase=Phase.GATHERING,
        since=at,
        work_failures=0,
    )


def _alone_measured(state: Campaign, event: e.AloneMeasured, at: float) -> Campaign:
    current = state.round
    assert current is not None
    return replace(
        state,
        round=replace(current, scored=True),
        alone={**state.alone, **{score.device: score for score in event.scores}},
        phase=Phase.GATHERING,
        since=at,
        work_failures=0,
    )


def _entitlements(state: Campaign, event: e.EntitlementsRevised, at: float) -> Campaign:
    return replace(state, entitled={**state.entitled, **event.widths})


def _stopped(state: Campaign, event: e.TrainingStopped, at: float) -> Campaign:
    return replace(state, stopped=event.reason, phase=Phase.ALLOCATING, since=at)


def _release_due(state: Campaign, event: e.ReleaseDue, at: float) -> Campaign:
    return replace(state, phase=Phase.ALLOCATING, since=at)


def _allocated(state: Campaign, event: e.RewardsAllocated, at: float) -> Campaign:
    for reward in event.rewards:
        state = _device(state, reward.device, reward=reward)
    return replace(state, allocation=event, phase=Phase.EXPORTING, since=at)


def _released(state: Campaign, event: e.ReleaseBuilt, at: float) -> Campaign:
    digest = event.release.manifest.digest
    return replace(
        state,
        releases={**state.releases, digest: (event.release, event.blob)},
        release_version=max(state.release_version, event.release.version),
        released_weights=state.weights,
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
    return replace(state, phase=phase, since=at, release_round=state.weights_round)


def _reported(state: Campaign, event: e.InstallReported, at: float) -> Campaign:
    known = state.devices.get(event.device)
    if (
        event.state is InstallState.REFUSED
        and known
        and known.deployed
        and event.report.counter != known.deployed.counter
    ):
        return state  # some other document was refused; what runs has not changed
    return _device(state, event.device, report=event.report)


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
