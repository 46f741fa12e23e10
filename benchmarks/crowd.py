"""A crowd of devices that answer every task at once, in virtual time, around a real coordinator.

Coordinator, link, journal and blob folder are the real ones. A device is only what it says: it
announces itself, and answers a task with the messages that an agent would send and a tiny update.
Nothing is trained and nothing is measured, so what a round costs is the coordinator's own work.
"""

import asyncio
import gc
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from broker import messages as m
from broker.blobs import digest_of, reference, split
from broker.codec import decode_on, encode, is_retained
from broker.memory import MemoryBroker, MemoryConnection, MemoryLink
from broker.topics import (
    DeviceSays,
    DownTopic,
    ServerSays,
    Topic,
    UploadBlock,
    UpTopic,
    parse_topic,
    topic_for,
)
from coordinator.bench import (
    AssessJob,
    AssessResult,
    Bench,
    ExportJob,
    ExportResult,
    RoundResult,
    ScoreJob,
)
from coordinator.jobs import JobRunner
from coordinator.server import Coordinator, Desk, Identity
from coordinator.settings import Settings
from journal.blobs import BlobFolder
from journal.disk import make_folder
from journal.events import Contribution, CurvePoint
from journal.store import Journal
from slimfleet.simulation import virtual_clock
from slimmable.spec import AxisTerm, WidthSpec
from slimmable.state import encode_state
from slimmable.width import Axis

FLEET, SERVER = "crowd", "server"
SPEC = WidthSpec(axes=(Axis(4, scales=True),), tensors={"w": (AxisTerm(0),)})
BLOCK = 65536
STEP_S = 0.001  # between two devices: nobody speaks in the same moment, the worst case
POLL_S = 0.05


@dataclass(frozen=True)
class CrowdRound:
    """What one round took.

    Attributes:
        cpu: seconds of the process, without what broker and devices took of them.
        events: journal events; published: messages that the coordinator published.
        others: CPU seconds of broker and devices.
    """

    cpu: float
    events: int
    published: int
    others: float


class Crowd(MemoryBroker):
    """The broker and all devices. Only the coordinator has a link to it.

    Attributes:
        said: how many messages the coordinator has published on each kind of topic.
    """

    def __init__(self, devices: int, spec: WidthSpec = SPEC, model: str = "none") -> None:
        """So many devices; none is there before `arrive`.

        Args:
            devices: how many.
            spec: of what they train.
            model: its name.
        """
        super().__init__()
        self._profile = _profile(spec, model)
        self._names = {f"device-{number:04d}": number for number in range(devices)}
        self._seq = 0
        self._inside = 0
        self._cpu = 0.0
        self.said: Counter[str] = Counter()
        self._update = encode_state({"w": np.ones(4, np.float32)})
        self._sent: dict[str, m.BlobReference] = {}

    def route(self, user: str, topic: str, payload: bytes, *, retain: bool) -> None:
        """Route; answer where it is a task or a receipt."""
        with self._on_its_own_account():
            super().route(user, topic, payload, retain=retain)
            if user == SERVER:
                self._hear(topic, payload)

    @property
    def others_cpu(self) -> float:
        """CPU seconds so far that are not the coordinator's."""
        return self._cpu

    @contextmanager
    def _on_its_own_account(self) -> Iterator[None]:
        self._inside += 1
        started = time.thread_time()
        try:
            yield
        finally:
            self._inside -= 1
            if not self._inside:
                self._cpu += time.thread_time() - started

    def subscribe(self, session: MemoryConnection, filters: Sequence[str]) -> None:
        """Subscribe, on the broker's account."""
        with self._on_its_own_account():
            super().subscribe(session, filters)

    def unsubscribe(self, session: MemoryConnection, filters: Sequence[str]) -> None:
        """Unsubscribe, on the broker's account."""
        with self._on_its_own_account():
            super().unsubscribe(session, filters)

    def _hear(self, where: str, payload: bytes) -> None:
        topic = parse_topic(FLEET, where)
        kind = str(topic.channel) if hasattr(topic, "channel") else type(topic).__name__
        self.said[kind] += 1
        if not payload:
            return
        match topic:
            case DownTopic(device, ServerSays.TASK):
                task = decode_on(topic, payload)
                assert isinstance(task, m.Task)
                self._begin(device, task)
            case DownTopic(device, ServerSays.RECEIPT):
                self._clear(device)

    def arrive(self) -> None:
        """Let every device announce itself."""
        with self._on_its_own_account():
            for device in self._names:
                birth = m.Birth(status=m.LinkStatus.ONLINE, agent="crowd", can_train=True)
                self._say(device, DeviceSays.BIRTH, birth)
                self._say(device, DeviceSays.PROFILE, self._profile)

    def _begin(self, device: str, task: m.Task) -> None:
        delay = STEP_S * (1 + self._names[device])
        answers = (self._accept, self._start, self._upload, self._end)
        for second, answer in enumerate(answers):
            asyncio.get_running_loop().call_later(
                second + delay, self._answer, answer, device, task
            )

    def _answer(self, answer: Callable[[str, m.Task], None], device: str, task: m.Task) -> None:
        with self._on_its_own_account():
            answer(device, task)

    def _accept(self, device: str, task: m.Task) -> None:
        progress = m.Progress(round=task.round, stage=m.Stage.ACCEPTED)
        self._say(device, DeviceSays.PROGRESS, progress)

    def _start(self, device: str, task: m.Task) -> None:
        progress = m.Progress(round=task.round, stage=m.Stage.STARTED, downloaded_bytes=1)
        self._say(device, DeviceSays.PROGRESS, progress)

    def _upload(self, device: str, task: m.Task) -> None:
        payload = self.payload(device, task)
        blob = self._sent[device] = reference(
            payload,
            BLOCK,
            digest_of(payload),
            False,  # noqa: FBT003 - plain bytes
        )
        for index, block in enumerate(split(payload, blob.block_size)):
            where = topic_for(FLEET, UploadBlock(device, blob.blob, index))
            self.route(device, where, block, retain=True)
        update = m.Update(
            device=device,
            round=task.round,
            width=task.width,
            model=task.model,
            spec_hash=task.spec_hash,
            blob=blob,
            samples=1,
            steps=1,
        )
        self._say(device, DeviceSays.UPDATE, update)

    def payload(self, device: str, task: m.Task) -> bytes:  # noqa: ARG002 - for those who work
        """Return the update of a device, on the devices' account."""
        return self._update

    def _end(self, device: str, task: m.Task) -> None:
        progress = m.Progress(round=task.round, stage=m.Stage.UPLOADED)
        self._say(device, DeviceSays.PROGRESS, progress)

    def _clear(self, device: str) -> None:
        blob = self._sent[device]
        topics: list[Topic] = [
            UploadBlock(device, blob.blob, index) for index in range(blob.blocks)
        ]
        for topic in (*topics, UpTopic(device, DeviceSays.UPDATE)):
            self.route(device, topic_for(FLEET, topic), b"", retain=True)

    def _say(self, device: str, channel: DeviceSays, message: m.Message) -> None:
        self._seq += 1
        stamped = msgspec.structs.replace(message, session=1, seq=self._seq, sent_at=1.0)
        topic: Topic = UpTopic(device, channel)
        self.route(device, topic_for(FLEET, topic), encode(stamped), retain=is_retained(topic))


class NoJobs:
    """The coordinator's jobs without work: every round leaves the weights as they are."""

    async def describe(self, bench: Bench) -> bytes:  # noqa: ARG002 - of the interface
        """Return the spec."""
        return SPEC.to_json()

    async def initialise(self, bench: Bench) -> tuple[str, float, str]:
        """Store some weights."""
        data = encode_state({"w": np.zeros(4, np.float32)})
        return BlobFolder(bench.blobs, owner=False).put(data), 0.0, ""

    async def score(self, bench: Bench, job: ScoreJob) -> RoundResult:
        """Say that everybody is worth nothing."""
        return RoundResult(
            digest=job.base,
            curve=tuple(
                CurvePoint(width=w, score=0.5, low=0.5, high=0.5, offered=True, fitted=0.5)
                for w in sorted({*bench.grid, *bench.ladder})
            ),
            contributions=tuple(
                Contribution(device=one.device, score=0.0, update=one.digest) for one in job.updates
            ),
            method=job.method,
            value_before=0.0,
            value_after=0.0,
            coalitions=0,
            seconds=0.0,
            better=True,
        )

    async def assess(self, bench: Bench, job: AssessJob) -> AssessResult:  # noqa: ARG002
        """Say that nobody was measured alone."""
        return AssessResult((), 0.0)

    async def export(self, bench: Bench, job: ExportJob) -> ExportResult:  # noqa: ARG002
        """Take for ever: only rounds are looked at."""
        await asyncio.Event().wait()
        return ExportResult(())

    def warm(self, bench: Bench) -> None:
        """Nothing to prepare."""

    def close(self) -> None:
        """Nothing to end."""


def crowd_rounds(devices: int, rounds: int, folder: Path) -> list[CrowdRound]:
    """Run rounds with so many devices and return what each took.

    Args:
        devices: how many.
        rounds: how many.
        folder: for journal and blobs.
    """
    with Journal.open(make_folder(folder / "journal")) as journal:
        return virtual_clock.run(_rounds(devices, rounds, folder, journal))


async def _rounds(devices: int, rounds: int, folder: Path, journal: Journal) -> list[CrowdRound]:
    crowd = Crowd(devices)
    settings = empty_settings(devices, rounds)
    coordinator = coordinator_of(crowd, settings, SPEC, NoJobs(), folder, journal)
    return await play(crowd, coordinator, rounds, journal)


async def play(
    crowd: Crowd, coordinator: Coordinator, rounds: int, journal: Journal
) -> list[CrowdRound]:
    """Run so many rounds, in virtual time, and return what each took."""
    body = asyncio.get_running_loop().create_task(coordinator.run())
    await asyncio.sleep(POLL_S)
    crowd.arrive()
    found: list[CrowdRound] = []
    marks: list[tuple[float, int, int, float]] = []
    while len(found) < rounds:
        await asyncio.sleep(POLL_S)
        if body.done():
            body.result()
        opened = coordinator.state.round
        number = opened.number if opened else 0
        if number > len(marks) or coordinator.state.stopped:
            gc.collect()
            others = crowd.others_cpu
            spent = time.process_time() - others
            marks.append((spent, journal.head.count, crowd.said.total(), others))
            if len(marks) > 1:
                found.append(CrowdRound(*(b - a for a, b in zip(*marks[-2:], strict=True))))
    await coordinator.stop()
    await body
    return found


def empty_settings(devices: int, rounds: int) -> Settings:
    """Return a campaign in which all of these devices do nothing."""
    return msgspec.convert(
        {
            "fleet": FLEET,
            "model": "none",
            "widths": (1.0,),
            "rounds": {
                "budget": rounds,
                "minimum": rounds,
                "min_devices": devices,
                "deadline_s": 3600.0,
            },
            "contributions": {"method": "participation"},
            "rewards": {"ladder": (1.0,)},
        },
        Settings,
    ).check()


def coordinator_of(
    crowd: Crowd,
    settings: Settings,
    spec: WidthSpec,
    jobs: JobRunner,
    folder: Path,
    journal: Journal,
) -> Coordinator:
    """Return a coordinator with a link to the crowd.

    Args:
        crowd: the broker and the devices.
        settings: of the campaign.
        spec: of its model.
        jobs: do the slow work.
        folder: for its files; "validation.npz" in it holds what it measures on.
        journal: open.
    """
    blobs = BlobFolder(folder / "blobs")
    bench = Bench(
        model=settings.model,
        options=settings.options,
        validation=folder / "validation.npz",
        reader="npz",
        blobs=blobs.folder,
        templates=folder,
        grid=settings.widths,
        ladder=settings.rewards.ladder,
        seed=0,
    )
    loop = asyncio.get_running_loop()
    desk = Desk(MemoryLink(crowd, SERVER), journal, blobs, jobs, loop.time, folder)
    return Coordinator(settings, spec, bench, Identity(bytes(range(32)), bytes(32)), desk)


def _profile(spec: WidthSpec, model: str) -> m.Profile:
    return m.Profile(
        model=model,
        spec_hash=spec.spec_hash,
        batch_size=32,
        costs=(m.WidthCost(width=1.0, step_s=1e-6, peak_bytes=1),),
        can_train=True,
        memory_budget=1 << 30,
        link_bytes_per_s=1e9,
        samples=100,
    )
