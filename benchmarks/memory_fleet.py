"""A fleet in one event loop that counts every byte: real coordinator, real agents, stand-in work.

The broker is the one in memory, so each payload is seen and nothing is lost. Training and measuring
are stood in for by something quick: how many bytes travel does not depend on what the weights say.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.errors import BenchmarkError
from broker.envelope import Verifier, public_key_of
from broker.link import Received
from broker.memory import MemoryBroker, MemoryLink
from broker.permissions import Permissions, device_permissions, server_permissions
from broker.topics import (
    DeviceSays,
    DownTopic,
    ServerTopic,
    SharedBlock,
    UploadBlock,
    UpTopic,
    parse_topic,
)
from coordinator.aggregation.rules import aggregate
from coordinator.aggregation.updates import DeviceUpdate
from coordinator.bench import Bench, ExportJob, ExportResult, RoundResult, ScoreJob
from coordinator.fleet import Campaign
from coordinator.server import Coordinator, Desk, Identity
from coordinator.settings import Settings
from edge_agent.agent import Agent, AgentIdentity, Equipment, last_will
from edge_agent.installation import ModelInstaller
from edge_agent.outbox import Outbox
from edge_agent.session import AgentSession
from edge_agent.slots import ModelSlots
from edge_agent.trainer_process import TrainRequest
from edge_agent.trainer_protocol import Trained
from journal.blobs import BlobFolder
from journal.disk import make_folder
from journal.events import Contribution, CurvePoint
from journal.store import Journal
from profiler.facts import gather_facts
from profiler.profile import Benchmark, MachineFacts, WidthCost
from slimmable.model import SlimmableModel
from slimmable.spec import WidthSpec
from slimmable.state import ModelState, decode_state, encode_state

SERVER = "server"
SIGNING_KEY = bytes(32)
FLEET_SECRET = bytes(range(32))
POLL_S = 0.01
PLENTY = 1 << 40


class CountingBroker(MemoryBroker):
    """Counts payload bytes, by round and by what they are.

    Attributes:
        round: returns the number of the round that runs; what comes outside of one counts as 0.
        sent: (round, kind) -> bytes that somebody published.
        delivered: (round, kind) -> bytes that the broker handed to devices.
    """

    def __init__(self, fleet: str) -> None:
        """Count for this fleet; nothing is a round until somebody says so."""
        self._fleet = fleet
        super().__init__(self._permissions)
        self.round: Callable[[], int] = lambda: 0
        self.sent: Counter[tuple[int, str]] = Counter()
        self.delivered: Counter[tuple[int, str]] = Counter()
        self.fault = self._count_delivery

    def _permissions(self, user: str) -> Permissions:
        if user == SERVER:
            return server_permissions(self._fleet)
        return device_permissions(self._fleet, user)

    def route(self, user: str, topic: str, payload: bytes, *, retain: bool) -> None:
        """Count, then route."""
        self.sent[self.round(), self.kind(topic)] += len(payload)
        super().route(user, topic, payload, retain=retain)

    def _count_delivery(self, user: str, event: Received) -> tuple[Received, ...]:
        if user != SERVER:
            self.delivered[self.round(), self.kind(event.topic)] += len(event.payload)
        return (event,)

    def kind(self, topic: str) -> str:
        """Return what a topic carries: blocks, or control messages and in which direction."""
        match parse_topic(self._fleet, topic):
            case SharedBlock():
                return "shared"
            case UploadBlock():
                return "uploaded"
            case UpTopic(channel=DeviceSays.PROFILE):
                return "profile"  # at enrolment, and when the link turns out to be another one
            case UpTopic():
                return "control up"
            case DownTopic():
                return "control down"
            case ServerTopic():
                return "broadcast"
        return "operators"


class StandInTrainer:
    """A trainer that changes the weights a little, at once."""

    def __init__(self, spec: WidthSpec, samples: int) -> None:
        """Know the spec, as the device's own model would."""
        self._spec = spec
        self._samples = samples

    async def profile(
        self,
        model: str,
        options: dict[str, Any],  # noqa: ARG002 - of the interface, like the others below
        widths: tuple[float, ...],
        batch_size: int,
        *,
        fresh: bool = False,  # noqa: ARG002
    ) -> Benchmark:
        """Report that every width fits."""
        costs = tuple(WidthCost(width, 1e-6, 1) for width in widths)
        return Benchmark(model, self._spec.spec_hash, batch_size, self._samples, costs)

    async def train(self, request: TrainRequest, timeout_s: float) -> Trained:  # noqa: ARG002
        """Return the weights with a little noise."""
        rng = np.random.default_rng(request.seed)
        state = decode_state(request.state)
        for name in self._spec.parameters:
            noise = rng.normal(0.0, 1e-3, state[name].shape)
            state[name] = (state[name] + noise).astype(np.float32)
        return Trained(
            state=encode_state(state),
            loss=1.0,
            steps=request.training.steps,
            samples=self._samples,
            cpu_s=0.0,
            emulated_s=0.0,
            peak_bytes=1,
        )

    async def close(self) -> None:
        """Nothing to end."""


class StandInJobs:
    """The coordinator's jobs: it really aggregates, but measures nothing."""

    def __init__(self, model: SlimmableModel) -> None:
        """Work on this model."""
        self._spec = model.spec

    async def describe(self, bench: Bench) -> bytes:  # noqa: ARG002
        """Return the spec."""
        return self._spec.to_json()

    async def initialise(self, bench: Bench) -> tuple[str, float, str]:
        """Make weights of the right shapes."""
        rng = np.random.default_rng(bench.seed)
        state: ModelState = {
            name: rng.standard_normal(self._spec.shape(name, 1.0)).astype(np.float32)
            for name in self._spec.tensors
        }
        return BlobFolder(bench.blobs, owner=False).put(encode_state(state)), 0.0, ""

    async def score(self, bench: Bench, job: ScoreJob) -> RoundResult:
        """Aggregate; every device is worth the same."""
        blobs = BlobFolder(bench.blobs, owner=False)
        updates = [
            DeviceUpdate(one.device, one.width, decode_state(blobs.get(one.digest)), one.weight)
            for one in job.updates
        ]
        state = aggregate(decode_state(blobs.get(job.base)), self._spec, updates)
        widths = sorted({*bench.grid, *bench.ladder})
        return RoundResult(
            digest=blobs.put(encode_state(state)),
            curve=tuple(
                CurvePoint(width=w, score=0.5, low=0.5, high=0.5, offered=True, fitted=0.5)
                for w in widths
            ),
            contributions=tuple(
                Contribution(device=one.device, score=0.1, update=one.digest) for one in job.updates
            ),
            method=job.method,
            value_before=0.0,
            value_after=0.1 * len(updates),
            coalitions=0,
            seconds=0.0,
            better=True,
        )

    async def export(self, bench: Bench, job: ExportJob) -> ExportResult:  # noqa: ARG002
        """Take for ever: the fleet is stopped when training is over."""
        await asyncio.Event().wait()
        return ExportResult(())

    def warm(self, bench: Bench) -> None:
        """Nothing to prepare."""

    def close(self) -> None:
        """Nothing to end."""


async def count_bytes(
    settings: Settings, model: SlimmableModel, devices: int, folder: Path, limit_s: float = 60.0
) -> CountingBroker:
    """Train with so many devices and return the broker that has counted.

    Args:
        settings: of the campaign.
        model: the one that the settings name.
        devices: how many; all train the full width.
        folder: for everybody's files.
        limit_s: seconds to wait for the end of training.

    Raises:
        BenchmarkError: training was not over in time, or somebody failed.
    """
    broker = CountingBroker(settings.fleet)
    names = [f"device-{number:03d}" for number in range(devices)]
    with Journal.open(make_folder(folder / "journal")) as journal:
        coordinator = _coordinator(settings, model, broker, journal, folder)
        broker.round = lambda: _round_of(coordinator.state)
        facts = gather_facts()
        agents = [_agent(name, settings.fleet, model.spec, broker, facts, folder) for name in names]
        parties: list[Coordinator | Agent] = [coordinator, *agents]
        bodies = [asyncio.create_task(party.run()) for party in parties]
        deadline = time.monotonic() + limit_s
        while not coordinator.state.stopped:
            failed = [body for body in bodies if body.done()]
            if failed or time.monotonic() > deadline:
                why = failed[0].exception() if failed else f"not done after {limit_s:g} s"
                raise BenchmarkError(f"{devices} devices in memory: {why}")
            await asyncio.sleep(POLL_S)
        for party in parties:
            await party.stop()
        await asyncio.gather(*bodies)
    return broker


def _round_of(state: Campaign) -> int:
    return state.round.number if state.round and not state.stopped else 0


def _coordinator(
    settings: Settings,
    model: SlimmableModel,
    broker: CountingBroker,
    journal: Journal,
    folder: Path,
) -> Coordinator:
    blobs = BlobFolder(folder / "blobs")
    bench = Bench(
        model=settings.model,
        options=settings.options,
        validation=folder,
        reader="npz",
        blobs=blobs.folder,
        templates=folder,
        grid=settings.widths,
        ladder=settings.rewards.ladder,
        seed=settings.seed,
    )
    desk = Desk(MemoryLink(broker, SERVER), journal, blobs, StandInJobs(model), time.time, folder)
    return Coordinator(settings, model.spec, bench, Identity(FLEET_SECRET, SIGNING_KEY), desk)


def _agent(
    name: str,
    fleet: str,
    spec: WidthSpec,
    broker: CountingBroker,
    facts: MachineFacts,
    folder: Path,
) -> Agent:
    home = make_folder(folder / name)
    verifier = Verifier.trusting([public_key_of(SIGNING_KEY)], fleet, name)
    installer = ModelInstaller(ModelSlots(home / "slots"), verifier, {}, "npz")
    session = AgentSession(
        name, verifier, can_train=True, reason="", pending={}, installed=installer.installed()
    )
    equipment = Equipment(
        link=MemoryLink(broker, name, last_will(fleet, name, 1)),
        session=session,
        outbox=Outbox(home / "outbox"),
        installer=installer,
        facts=facts,
        folder=home,
        clock=time.time,
        trainer=StandInTrainer(spec, samples=500),
    )
    identity = AgentIdentity(
        fleet=fleet, device=name, session=1, version="benchmark", memory_budget=PLENTY
    )
    return Agent(identity, equipment)


def per_round(counted: Mapping[tuple[int, str], int], kind: str, rounds: range) -> float:
    """Return the mean bytes of a kind over some rounds."""
    return sum(counted[number, kind] for number in rounds) / len(rounds)
