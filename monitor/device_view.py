"""One device as an operator sees it: its link, its telemetry and its work, kept apart."""

from collections import Counter, deque
from dataclasses import dataclass, field
from enum import StrEnum
from statistics import median

from broker.messages import InstallState, Participation, Profile, Report, Telemetry
from journal import events as e
from monitor.drift import ConfidenceDrift

RECENT_ROUNDS = 20
RATIO_ROUNDS = 10
TIMELINE = 200
HISTORY = 500
ERRORS = 20
MACHINES = 4
LONGEST_TEXT = 500
"""Characters that are kept of what a device or an operator wrote: many of them are kept."""


class Link(StrEnum):
    """Whether a device is there. Never what it does: that is told by its telemetry and its work."""

    ONLINE = "online"
    LATE = "late"
    STALE = "stale"
    OFFLINE = "offline"
    NEVER_SEEN = "never-seen"
    SUSPENDED = "suspended"
    RETIRED = "retired"


@dataclass(frozen=True)
class Moment:
    """One line of a timeline: when, what kind of thing, and a sentence."""

    at: float
    kind: str
    text: str


def clipped(text: str) -> str:
    """Return a text of others, no longer than what is kept."""
    return (
        text if len(text) <= LONGEST_TEXT else f"{text[: LONGEST_TEXT - 1]}\N{HORIZONTAL ELLIPSIS}"
    )


@dataclass(frozen=True)
class WidthChange:
    """The training width of a device from some moment on, and why."""

    at: float
    width: float
    reason: str


@dataclass(frozen=True)
class Turn:
    """How one eligible round went for a device.

    Attributes:
        outcome: "aggregated", or why not, in short; detail: in a sentence.
    """

    round: int
    outcome: str
    detail: str = ""


@dataclass
class DeviceView:
    """What is known of one device. Times are the server's.

    Attributes:
        labels: the operator's.
        suspended, retired, cap: what an operator did, by whom and why, or ""; cap_width: the widest
            that it may train, 0 = any.
        contradiction: how what it witnessed of the journal denies what the server shows, or "".
        present: its lease as the server last told it; since, cause: of that.
        born_at: when it first appeared.
        telemetry, telemetry_at: the last that came.
        inferences, inferred_at: answers so far, and when the last were told.
        useful_at, useful: when it last did something of use, and what.
        eligible, taken: rounds that count, and those of them whose aggregate holds its update.
        turns: how the last eligible rounds went.
        ratios: of its last rounds, duration over the median of the round's devices of its width.
        drops: reason -> rounds.
        widths: history of the training width.
        contributions: (round, score) of the rounds that measured it.
        rewards: (server time, reward), the last is the one that holds.
        deployed, report: what it shall run, and what it said it runs.
        drift: digest of a model -> how its confidence moved.
        machines: that its profiles were of, each change of it; cloned_at: when an earlier one came
            back, which is what two agents with one id look like.
        errors: its last troubles.
    """

    name: str
    labels: dict[str, str] = field(default_factory=dict)
    session: int = 0
    agent: str = ""
    can_train: bool = False
    emulated: str = ""
    present: e.LinkState = e.LinkState.NEVER_SEEN
    since: float | None = None
    cause: str = ""
    born_at: float | None = None
    telemetry: Telemetry | None = None
    telemetry_at: float | None = None
    inferences: int = 0
    inferred_at: float | None = None
    useful_at: float | None = None
    useful: str = ""
    profile: Profile | None = None
    profiled_at: float | None = None
    participation: Participation = Participation.WAITING
    reason: str = "no profile yet"
    suspended: str = ""
    retired: str = ""
    cap: str = ""
    contradiction: str = ""
    cap_width: float = 0.0
    width: float = 0.0
    predicted_s: float = 0.0
    eligible: int = 0
    taken: int = 0
    turns: deque[Turn] = field(default_factory=lambda: deque(maxlen=RECENT_ROUNDS))
    ratios: deque[float] = field(default_factory=lambda: deque(maxlen=RATIO_ROUNDS))
    drops: Counter[str] = field(default_factory=Counter)
    widths: deque[WidthChange] = field(default_factory=lambda: deque(maxlen=HISTORY))
    contributions: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=HISTORY))
    rewards: deque[tuple[float, e.Reward]] = field(default_factory=lambda: deque(maxlen=HISTORY))
    deployed: e.DeploymentIssued | None = None
    deployed_at: float | None = None
    report: Report | None = None
    reported_at: float | None = None
    drift: dict[str, ConfidenceDrift] = field(default_factory=dict)
    machines: deque[tuple[str, ...]] = field(default_factory=lambda: deque(maxlen=MACHINES))
    cloned_at: float | None = None
    notes: deque[Moment] = field(default_factory=lambda: deque(maxlen=HISTORY))
    errors: deque[Moment] = field(default_factory=lambda: deque(maxlen=ERRORS))
    timeline: deque[Moment] = field(default_factory=lambda: deque(maxlen=TIMELINE))

    def link(self, *, server_online: bool) -> Link:
        """Return whether it is there.

        A server that is away cannot see anybody go: whoever was there when it left is stale.
        """
        if self.retired:
            return Link.RETIRED
        if self.suspended:
            return Link.SUSPENDED
        if self.present in (e.LinkState.ONLINE, e.LinkState.LATE) and not server_online:
            return Link.STALE
        return Link(self.present)

    def takes_part(self, *, server_online: bool) -> tuple[str, str]:
        """Return whether it takes part now, in a word, and why, in a sentence."""
        link = self.link(server_online=server_online)
        if link in (Link.RETIRED, Link.SUSPENDED):
            return str(Participation.SUSPENDED), self.retired or self.suspended
        if link in (Link.OFFLINE, Link.STALE, Link.NEVER_SEEN) and (
            self.participation is not Participation.CANNOT
        ):
            return str(Participation.WAITING), f"{link}: {self.cause}" if self.cause else str(link)
        return str(self.participation), self.reason

    @property
    def participation_ratio(self) -> float | None:
        """Share of its eligible rounds whose aggregate holds its update; None before the first."""
        return self.taken / self.eligible if self.eligible else None

    @property
    def straggler_index(self) -> float | None:
        """Median over its last rounds of its duration over that of devices of the same width."""
        return median(self.ratios) if self.ratios else None

    @property
    def contribution(self) -> float | None:
        """Sum of its measured contributions; decay and shares are the ledger's, see the reward."""
        return sum(score for _, score in self.contributions) if self.contributions else None

    @property
    def reward(self) -> e.Reward | None:
        """What it has earned by the last allocation."""
        return self.rewards[-1][1] if self.rewards else None

    @property
    def confirmed(self) -> bool:
        """Whether it said itself that it runs what it was last sent."""
        report, order = self.report, self.deployed
        return (
            report is not None
            and order is not None
            and report.state is InstallState.CONFIRMED
            and report.counter == order.counter
            and report.running == order.digest
        )

    @property
    def running(self) -> str:
        """Digest of the model that it last said it runs, or ""."""
        return self.report.running if self.report else ""

    @property
    def generation_lag(self) -> int:
        """How many orders the model that it confirmed lies behind the last one."""
        if self.deployed is None or self.confirmed:
            return 0
        return max(1, self.deployed.counter - (self.report.counter if self.report else 0))

    @property
    def seen_at(self) -> float | None:
        """When it was last heard of, as far as the journal and its telemetry tell."""
        alive = self.since if self.present is e.LinkState.ONLINE else None
        moments = (
            alive,
            self.born_at,
            self.telemetry_at,
            self.useful_at,
            self.profiled_at,
            self.reported_at,
        )
        return max((moment for moment in moments if moment is not None), default=None)

    @property
    def drift_index(self) -> float | None:
        """Stability index of the model that it runs."""
        watched = self.drift.get(self.telemetry.running) if self.telemetry else None
        return watched.index if watched else None

    def note(self, at: float, kind: str, text: str, *, trouble: bool = False) -> None:
        """Add a line to the timeline, and to the errors where it is trouble."""
        moment = Moment(at, kind, clipped(text))
        self.timeline.append(moment)
        if trouble:
            self.errors.append(moment)

    def worked(self, at: float, what: str) -> None:
        """Note that it did something of use."""
        self.useful_at, self.useful = at, what
