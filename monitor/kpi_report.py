"""What a fleet did between two moments: participation, convergence, cost, rewards. Plain values.

A round belongs to the period in which it was opened. Definitions are those of `monitor.fleet_view`;
state (links, widths, models) is that of the period's end, as the server knew it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from journal.events import CurvePoint
from monitor.round_data import quantile
from monitor.round_view import RoundView


@dataclass(frozen=True)
class Period:
    """A span of server time, seconds since the epoch; ``until`` is not in it."""

    since: float
    until: float

    def holds(self, at: float) -> bool:
        """Return whether a moment lies in it."""
        return self.since <= at < self.until


@dataclass(frozen=True)
class DeviceKpi:
    """One device in the period.

    Attributes:
        link: at the end; width: trained last; entitled, deployed, running: widths, 0 = none.
        eligible, taken: rounds that count for it, and those whose aggregate holds its update.
        missed: reason -> rounds, the most frequent first.
        train_s, download_s: seconds that it trained and fetched; sent, received: bytes.
        contribution: sum of what was measured in the period, None where nothing was.
        alarms: what is wrong with it, a few words each.
    """

    device: str
    site: str
    link: str
    eligible: int
    taken: int
    missed: Mapping[str, int]
    straggler: float | None
    train_s: float
    download_s: float
    sent: int
    received: int
    samples: int
    width: float
    entitled: float
    entitled_before: float
    deployed: float
    running: float
    release: str
    confirmed: bool
    contribution: float | None
    alarms: tuple[str, ...]

    @property
    def participation(self) -> float | None:
        """Share of its eligible rounds, None where it had none."""
        return self.taken / self.eligible if self.eligible else None


@dataclass(frozen=True)
class SiteKpi:
    """All devices of one site together; site "" are those without one."""

    site: str
    devices: int
    eligible: int
    taken: int
    train_s: float
    sent: int
    received: int

    @property
    def participation(self) -> float | None:
        """Share of the eligible rounds of its devices."""
        return self.taken / self.eligible if self.eligible else None


@dataclass(frozen=True)
class ScorePoint:
    """The widest width's score after a round, with its 95 % interval."""

    round: int
    at: float
    score: float
    low: float
    high: float


@dataclass(frozen=True)
class RewardKpi:
    """What a device has earned by the end; ``before`` is its width when the period began."""

    device: str
    site: str
    contribution: float
    share: float
    low: float
    high: float
    before: float
    width: float
    reason: str


@dataclass(frozen=True)
class ActionKpi:
    """What an operator did, or was refused."""

    at: float
    operator: str
    action: str
    device: str
    reason: str
    done: bool
    detail: str


@dataclass(frozen=True)
class Incident:
    """What went wrong; device "" where none is to blame."""

    at: float
    kind: str
    device: str
    text: str


@dataclass(frozen=True)
class KpiReport:
    """Everything that the page and the tables show.

    Attributes:
        made_at: when the report was made; last_event_at: of the journal as far as it was read.
        damage: of the journal, in one sentence, or "".
        funnel: step -> how often a device came so far, over the rounds that train the model.
        drops: reason -> how often an eligible device missed an aggregate.
        rounds: of the period, ascending; scores: of the period, ascending.
        score_before, curve_before: as they were when the period began.
        curve: score over width at the end, empty where nothing was measured in the period.
        changes: (server time, sentence) of rewards that were allocated.
        cut: what is known of more than is listed, in a sentence, or "".
        ahead: what is dated later than the report, in a sentence, or "".
    """

    fleet: str
    model: str
    software: str
    phase: str
    period: Period
    made_at: float
    last_event_at: float
    damage: str
    devices: tuple[DeviceKpi, ...]
    sites: tuple[SiteKpi, ...]
    rounds: tuple[RoundView, ...]
    links: Mapping[str, int]
    funnel: Mapping[str, int]
    drops: Mapping[str, int]
    scores: tuple[ScorePoint, ...]
    score_before: ScorePoint | None
    curve: tuple[CurvePoint, ...]
    curve_before: tuple[CurvePoint, ...]
    rewards: tuple[RewardKpi, ...]
    changes: tuple[tuple[float, str], ...]
    incidents: tuple[Incident, ...]
    actions: tuple[ActionKpi, ...]
    notes: tuple[Incident, ...]
    cut: str = ""
    ahead: str = ""

    @property
    def empty(self) -> bool:
        """Whether nothing happened in the period that this report tells of."""
        return (
            not (self.rounds or self.scores or self.changes or self.incidents or self.actions)
            and not self.notes
        )

    @property
    def eligible(self) -> int:
        """Rounds of all devices that count."""
        return sum(one.eligible for one in self.devices)

    @property
    def taken(self) -> int:
        """Those of them whose aggregate holds the device's update."""
        return sum(one.taken for one in self.devices)

    @property
    def participation(self) -> float | None:
        """Share of the eligible rounds of all devices, None where there were none."""
        return self.taken / self.eligible if self.eligible else None

    @property
    def counted(self) -> int:
        """Rounds that were aggregated."""
        return sum(bool(one.counted) for one in self.rounds)

    @property
    def sent(self) -> int:
        """Bytes that the devices sent, in the rounds of the period."""
        return sum(one.sent for one in self.devices)

    @property
    def received(self) -> int:
        """Bytes that the devices fetched."""
        return sum(one.received for one in self.devices)

    @property
    def train_s(self) -> float:
        """Seconds that the devices trained, added up."""
        return sum(one.train_s for one in self.devices)

    @property
    def download_s(self) -> float:
        """Seconds that the devices fetched weights, added up."""
        return sum(one.download_s for one in self.devices)

    @property
    def durations(self) -> list[float]:
        """Seconds from opening to closing of each closed round, ascending."""
        return sorted(
            one.closed_at - one.opened_at for one in self.rounds if one.closed_at is not None
        )

    def duration(self, share: float) -> float | None:
        """Return a quantile of the rounds' durations."""
        return quantile(self.durations, share)

    @property
    def attention(self) -> tuple[DeviceKpi, ...]:
        """Devices with something wrong, the lowest participation first."""
        return tuple(one for one in by_need(self.devices) if one.alarms)


def by_need(devices: Iterable[DeviceKpi]) -> list[DeviceKpi]:
    """Return devices from the lowest participation on; those without eligible rounds last."""
    return sorted(
        devices,
        key=lambda one: (1.0 if one.participation is None else one.participation, one.device),
    )
