"""The state of a campaign: what is known of the fleet, its devices and its round, as values."""

from dataclasses import dataclass, field
from enum import StrEnum

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
    WidthEvaluation,
)
from coordinator.contribution.ledger import Ledger
from coordinator.presence import Lease
from coordinator.reported_curve import Reports
from coordinator.settings import Settings
from coordinator.traffic import Traffic
from journal import events as e
from journal.events import LinkState

POST_TRAINING_NOTICE = (
    "rewards.mode = post-training: while training, each device holds the weights of its training"
    " width, whatever width it earns in the end"
)


TRAINING_TIME_NOTICE = (
    "rewards.mode = training-time: in no round a device holds more than the weights of the width"
    " that it is entitled to by then; what it held in an earlier round stays with it"
)

OWN_NETWORKS = (
    "devices keep networks of their own, of which the server holds no whole one: nothing is"
    " released; what each of them scores stands in its standing"
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
        forecasts: how long a round takes it at each training width that it has the memory for.
        pace: average of observed over predicted durations of its rounds.
        steps: of a round, where it is too slow for the ordinary ones; 0 = those.
        trained_width: of the last update that was aggregated.
        ratios: the same of its last rounds, see `coordinator.pace`.
        late_in_a_row: rounds since it was last in time in which it was late; late_at_least: those
            of them in which it had as little to do as there is.
        traffic: bytes that it moved, where they are limited; see `coordinator.traffic`.
        profiled_at: when its last profile came.
        last_drawn: number of the last round that it was invited to.
        accepted: round -> blob of the update that was accepted.
        local: what the network that it keeps scored, by its last report.
        failed_width: narrowest width that it had no room or time to install; 0 = none failed.
        steps_down: whether that was since rewards were last allocated.
        suspended, retired: by whom and why, or "".
        cap: widest width that an operator's command lets it train, 0 = any; cap_reason: the
            sentence that says so.
        request: the last request to measure itself anew, or ""; requested: it is not followed yet.
        ran: digests of the releases that it confirmed, the latest last; those after the one that it
            was rolled back to are left out.
        rolled_from: digests of the releases that it was rolled back from, the first one first; with
            a new release, or when it is rolled forward, there are none any more.
        contradiction: of two checkpoints of the journal, as it reports, until it is accepted there.
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
    steps: int = 0
    pace: float = 1.0
    ratios: tuple[float, ...] = ()
    late_in_a_row: int = 0
    late_at_least: int = 0
    traffic: Traffic = ()
    profiled_at: float = 0.0
    trained_width: float = 0.0
    observed_s: tuple[float, ...] = ()
    last_drawn: int = 0
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
    local: tuple[WidthEvaluation, ...] = ()
    retired: str = ""
    cap: float = 0.0
    cap_reason: str = ""
    request: str = ""
    requested: bool = False
    ran: tuple[str, ...] = ()
    rolled_from: tuple[str, ...] = ()
    contradiction: e.ContradictionReported | None = None


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
class Owed:
    """A task of a closed round whose update has not come, and may still count in a later one.

    Attributes:
        trained_rounds: how many rounds the weights of the task hold.
    """

    opened: e.RoundOpened
    opened_at: float
    trained_rounds: int
    task: TaskState

    @property
    def number(self) -> int:
        """Number of the round."""
        return self.opened.round

    @property
    def deadline(self) -> float:
        """Server time after which nothing is expected any more."""
        return self.opened_at + self.opened.budget_s + self.opened.late_s


@dataclass(frozen=True)
class LateUpdate:
    """An update that came after its round, and waits for the next aggregate.

    Attributes:
        opened: of its round.
        trained_rounds: how many rounds the weights hold that it was trained on.
        step: how it counts, once it does.
    """

    opened: e.RoundOpened
    trained_rounds: int
    update: e.UpdateAccepted
    step: e.LateStep | None = None

    @property
    def key(self) -> tuple[str, int]:
        """Device and round, which name it."""
        return self.update.device, self.update.round


@dataclass(frozen=True)
class Round:
    """The current round, open or closed.

    Attributes:
        waiting: width -> how many devices that train it have not answered; counted with every
            event, because asking all tasks after each message would cost their square.
        arrived: how many updates were accepted.
        late: updates of earlier rounds that are aggregated with it, once it is closed.
    """

    number: int
    opened_at: float
    opened: e.RoundOpened
    tasks: dict[str, TaskState]
    waiting: dict[float, int]
    arrived: int = 0
    late: tuple[LateUpdate, ...] = ()
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
        progress: of each scored round that measured, the sum of all contributions so far, and the
            score at full width; see `coordinator.learning_curve`.
        release_round: ``trained_rounds`` at the last release.
        inference_bytes: reward width -> least memory that running it takes.
        assessed: whether the assessment round is over.
        alone: what each device's own model scored, where it was measured.
        entitled: widest training width of each device, where training-time rewards hold it down;
            revision: the last event that said so.
        paused: why no further round opens, or "".
        held: devices enough could train, and too few of them now; None = they are enough.
        between_s: seconds from the end of the last aggregated round until it was measured.
        optimiser: digest of what the server's optimiser remembers, or "".
        variates: digest of what the fleet's control variates are worked out from, or "";
            own_variates: device -> digest of its own.
        earlier: digests of the weights before ``weights``, the latest first, as many as
            contributions.novelty looks back on, from the oldest weights that a late update may
            have been trained on.
        owed: device -> its task of a closed round whose update may still come.
        late: updates that came after their round, for the next aggregate.
        public: digest of the inputs that all devices score, or "".
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
    progress: tuple[tuple[float, float], ...] = ()
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
    owed: dict[str, Owed] = field(default_factory=dict)
    late: tuple[LateUpdate, ...] = ()
    optimiser: str = ""
    variates: str = ""
    own_variates: dict[str, str] = field(default_factory=dict)
    public: str = ""
    measured: str = ""
    measured_round: int = 0
    reports: dict[str, Reports] = field(default_factory=dict)
    untrained_reports: Reports = field(default_factory=dict)
    paused: str = ""
    held: e.RoundsHeld | None = None
    between_s: float = 0.0
    commands: dict[tuple[str, str], e.OperatorActed] = field(default_factory=dict)
    last_commands: dict[str, e.OperatorActed] = field(default_factory=dict)

    def contribution(self, device: str) -> float | None:
        """Return what a device counts with so far; None if it was never invited."""
        return self.ledger.account(device).score if device in self.ledger.totals else None

    def local_score(self, device: str) -> float | None:
        """Return what a device's own network scored at its widest, as it reported last."""
        local = self.devices[device].local if device in self.devices else ()
        return max(local, key=lambda one: one.width).score if local else None

    def leases(self) -> dict[str, Lease]:
        """Return what the journal knows about presence."""
        return {d.device: Lease(d.session, state=d.link) for d in self.devices.values()}


def remaining(state: Campaign) -> list[Device]:
    """Return the devices that are not retired."""
    return [device for device in state.devices.values() if not device.retired]


def open_task(state: Campaign, device: str, number: int) -> TaskState | None:
    """Return a device's task of a round whose update may still count, answered or not."""
    owed, current = state.owed.get(device), state.round
    if owed and owed.number == number:
        return owed.task
    if current and current.number == number and current.closed is None:
        return current.tasks.get(device)
    return None


def reports_of(current: Round) -> Reports:
    """Return what devices reported, with their updates, on the weights that a round began with."""
    updates = {device: task.update for device, task in current.tasks.items() if task.update}
    return {device: one.evaluations for device, one in updates.items() if one.evaluations}


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


def lacks_resources(report: Report, deployed: e.DeploymentIssued) -> bool:
    """Return whether a device had no memory or no time for what it was sent."""
    return (
        report.counter == deployed.counter
        and bool(deployed.digest)
        and report.state in (InstallState.REFUSED, InstallState.FAILED)
        and report.code in RESOURCE_CODES
    )


def settings_of(state: Campaign) -> Settings:
    """Return the settings of a campaign that has started.

    Raises:
        ValueError: it has not.
    """
    if state.settings is None:
        raise ValueError("the campaign has not started: decide on inputs.Started first")
    return state.settings
