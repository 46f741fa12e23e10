"""What each round and each task of a campaign took, read from its journal. Pure."""

from collections.abc import Callable, Iterable, Sequence

import msgspec

from broker.messages import Stage
from journal import events as e
from journal.chain import Record

COUNTED = "counted"
OPEN = "open"  # neither counted nor dropped when the journal ended


class RoundResult(msgspec.Struct, frozen=True, kw_only=True):
    """One scored round.

    Attributes:
        score: of the full width, on the server's data.
        updates: that were measured; uploaded_bytes: of those that were accepted.
        evaluations, seconds: coalitions, and CPU seconds of scoring.
        opened_s, closed_s: on the campaign's clock, which is virtual in a simulation and begins at
            0. None in results from before it was noted, as all that follow.
        invited: devices.
        downloaded_bytes: weights that devices fetched.
        uncompressed_bytes: both, had everything travelled in full precision.
        device_s: seconds that devices were at work for it.
    """

    round: int
    score: float
    updates: int
    uploaded_bytes: int
    evaluations: int
    seconds: float
    opened_s: float | None = None
    closed_s: float | None = None
    invited: int | None = None
    downloaded_bytes: int | None = None
    uncompressed_bytes: int | None = None
    device_s: float | None = None


class TaskResult(msgspec.Struct, frozen=True, kw_only=True):
    """One device in one round that it was invited to, a round without a quorum included.

    Attributes:
        outcome: "counted", or the reason for which it was dropped.
        predicted_s: of its round.
        download_s, train_s: as the device measured them; upload_s: the rest, up to the commit of
            its update. None where it did not come so far.
        device_s: seconds that it was at work: up to the commit, or until it was dropped. That it
            may work on until it hears of it is not known.
        downloaded_bytes, uploaded_bytes: as they travelled; of an update that was not accepted it
            is not known how much of it did.
        downloaded_float32, uploaded_float32: the same in full precision.
    """

    round: int
    device: str
    width: float
    steps: int
    outcome: str
    predicted_s: float
    download_s: float | None
    train_s: float | None
    upload_s: float | None
    device_s: float
    downloaded_bytes: int
    uploaded_bytes: int
    downloaded_float32: int
    uploaded_float32: int


class _Task:
    """What the journal says of one task."""

    def __init__(self, task: e.RoundTask, opened: e.RoundOpened, at: float) -> None:
        self.task, self.opened, self.at = task, opened, at
        self.started: e.TaskProgressed | None = None
        self.accepted: e.UpdateAccepted | None = None
        self.outcome, self.ended = OPEN, at

    def result(self, payload_bytes: Callable[[float], int]) -> TaskResult:
        """Return it as a line of a table."""
        started, accepted = self.started, self.accepted
        plain, device_s = payload_bytes(self.task.width), max(0.0, self.ended - self.at)
        upload_s = None
        if accepted:
            upload_s = max(0.0, device_s - accepted.download_s - accepted.train_s)
        return TaskResult(
            round=self.opened.round,
            device=self.task.device,
            width=self.task.width,
            steps=self.task.steps or self.opened.training.steps,
            outcome=self.outcome,
            predicted_s=self.task.predicted_s,
            download_s=started.download_s if started else None,
            train_s=accepted.train_s if accepted else None,
            upload_s=upload_s,
            device_s=device_s,
            downloaded_bytes=started.downloaded_bytes if started else 0,
            uploaded_bytes=accepted.size if accepted else 0,
            downloaded_float32=plain if started else 0,
            uploaded_float32=plain if accepted else 0,
        )


def task_results(
    records: Iterable[Record], payload_bytes: Callable[[float], int]
) -> tuple[TaskResult, ...]:
    """Return every task of a campaign, by round and then in the order of the invitations.

    Args:
        records: its journal.
        payload_bytes: size of the slice of a width in full precision.
    """
    tasks: dict[tuple[int, str], _Task] = {}
    for record in records:
        event = record.event
        if isinstance(event, e.RoundOpened):
            tasks |= {(event.round, t.device): _Task(t, event, record.at) for t in event.tasks}
            continue
        if not isinstance(event, e.TaskProgressed | e.UpdateAccepted | e.DeviceDropped):
            continue
        known = tasks.get((event.round, event.device))
        if known is None:
            continue
        match event:
            case e.TaskProgressed():
                if event.stage is Stage.STARTED:
                    known.started = event
            case e.UpdateAccepted():
                known.accepted, known.outcome, known.ended = event, COUNTED, record.at
            case e.DeviceDropped():
                known.outcome = str(event.reason)
                if known.accepted is None:  # else its work was done when the round was abandoned
                    known.ended = record.at
    return tuple(task.result(payload_bytes) for task in tasks.values())


def round_results(
    records: Sequence[Record], tasks: Iterable[TaskResult]
) -> tuple[RoundResult, ...]:
    """Return the scored rounds of a campaign.

    Args:
        records: its journal.
        tasks: of all rounds, see `task_results`.
    """
    start = records[0].at if records else 0.0
    times: dict[type, dict[int, float]] = {e.RoundOpened: {}, e.RoundClosed: {}}
    for record in records:
        if isinstance(record.event, e.RoundOpened | e.RoundClosed):
            times[type(record.event)][record.event.round] = record.at - start
    of_round: dict[int, list[TaskResult]] = {}
    for task in tasks:
        of_round.setdefault(task.round, []).append(task)
    return tuple(
        _round(
            record.event,
            of_round.get(record.event.round, []),
            times[e.RoundOpened].get(record.event.round),
            times[e.RoundClosed].get(record.event.round),
        )
        for record in records
        if isinstance(record.event, e.RoundScored)
    )


def _round(
    event: e.RoundScored, tasks: Sequence[TaskResult], opened: float | None, closed: float | None
) -> RoundResult:
    return RoundResult(
        round=event.round,
        score=event.curve[-1].score,
        updates=sum(task.outcome == COUNTED for task in tasks),
        uploaded_bytes=sum(task.uploaded_bytes for task in tasks),
        evaluations=event.coalitions,
        seconds=event.seconds,
        opened_s=opened,
        closed_s=closed,
        invited=len(tasks),
        downloaded_bytes=sum(task.downloaded_bytes for task in tasks),
        uncompressed_bytes=sum(t.downloaded_float32 + t.uploaded_float32 for t in tasks),
        device_s=sum(task.device_s for task in tasks),
    )
