"""One round as an operator sees it: who was asked, how far each came, and why somebody did not."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from broker.messages import DropReason, Stage
from journal import events as e
from monitor.device_view import Turn

# In the order in which a device passes them.
ELIGIBLE, INVITED, ACCEPTED, STARTED, UPLOADED, AGGREGATED = STEPS = (
    "eligible",
    "invited",
    "accepted",
    "started",
    "uploaded",
    "aggregated",
)
NOT_DRAWN = "not drawn"
# What a device said of itself -> the step of the funnel that it has reached then.
REACHED = {Stage.ACCEPTED: ACCEPTED, Stage.STARTED: STARTED, Stage.UPLOADED: UPLOADED}


@dataclass
class TaskView:
    """One device's task in a round.

    Attributes:
        step: of `STEPS`, how far it came.
        dropped: why it got no further, from the closed list, or "".
        detail: the same in a sentence.
        round_s: from the opening to the accepted update; 0 = none came.
        late: whether the update counts in a later round.
        sent, received: bytes up and down, as far as they are known.
    """

    device: str
    width: float
    predicted_s: float
    steps: int
    step: str = INVITED
    dropped: str = ""
    detail: str = ""
    round_s: float = 0.0
    train_s: float = 0.0
    download_s: float = 0.0
    loss: float | None = None
    samples: int = 0
    late: bool = False
    sent: int = 0
    received: int = 0

    def reach(self, step: str) -> None:
        """Note that it came at least so far."""
        if STEPS.index(step) > STEPS.index(self.step):
            self.step = step


@dataclass
class RoundView:
    """One round.

    Attributes:
        number: of the round.
        opened_at, closed_at, scored_at: server times; None = not yet.
        tasks: device -> its task.
        not_invited: device -> why it was not asked.
        eligible: who could have been asked: see `monitor.fleet_view`.
        closing: why it closed, in one sentence.
        counted: whether its updates were aggregated; None while it is open.
        curve: score over width, where it was measured.
    """

    number: int
    opened_at: float
    budget_s: float
    quorum: int
    assessment: bool
    tasks: dict[str, TaskView]
    not_invited: Mapping[str, str]
    eligible: frozenset[str]
    closed_at: float | None = None
    scored_at: float | None = None
    closing: str = ""
    counted: bool | None = None
    late: tuple[e.LateStep, ...] = ()
    curve: tuple[e.CurvePoint, ...] = ()
    contributions: dict[str, float] = field(default_factory=dict)
    better: bool | None = None

    @property
    def funnel(self) -> dict[str, int]:
        """Step -> how many devices came at least so far; it never rises from step to step."""
        places = Counter(STEPS.index(task.step) for task in self.tasks.values())
        found, ahead = {}, 0
        for place in range(len(STEPS) - 1, 0, -1):
            ahead += places[place]
            found[STEPS[place]] = ahead
        return {ELIGIBLE: len(self.eligible | self.tasks.keys()), **dict(reversed(found.items()))}

    @property
    def drops(self) -> dict[str, int]:
        """Reason -> how many eligible devices did not get into the aggregate for it."""
        reasons = Counter(task.dropped for task in self.tasks.values() if task.dropped)
        reasons.update(
            _kind(why) for device, why in self.not_invited.items() if device in self.eligible
        )
        return dict(reasons.most_common())

    @property
    def turns(self) -> dict[str, Turn]:
        """How the round went for each device that it counts for; empty while it is open.

        The sums over all rounds are what `DeviceView.eligible` and `taken` say.
        """
        if self.assessment or self.closed_at is None:
            return {}
        found = {
            name: Turn(self.number, "not invited", why)
            for name, why in self.not_invited.items()
            if name in self.eligible and why != NOT_DRAWN
        }
        for task in self.tasks.values():
            if task.step == AGGREGATED or task.late:
                found[task.device] = Turn(self.number, AGGREGATED)
            elif task.dropped != DropReason.SURPLUS:
                found[task.device] = Turn(self.number, task.dropped, task.detail or self.closing)
        return found

    @property
    def durations(self) -> list[float]:
        """Seconds of each update that was accepted, ascending."""
        return sorted(task.round_s for task in self.tasks.values() if task.round_s)

    @property
    def sent(self) -> int:
        """Bytes that the devices sent."""
        return sum(task.sent for task in self.tasks.values())

    @property
    def received(self) -> int:
        """Bytes that the devices fetched."""
        return sum(task.received for task in self.tasks.values())

    @property
    def score(self) -> float | None:
        """Score of the widest width that was measured."""
        return self.curve[-1].score if self.curve else None


def _kind(why: str) -> str:
    """Return the short form of a sentence: reasons are counted, and numbers in them differ."""
    return why.partition(":")[0][:60]
