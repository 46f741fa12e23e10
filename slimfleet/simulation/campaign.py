"""One campaign of a simulated fleet: real coordinator, real agents, real training, virtual time.

::

    devices = [SimulatedDevice("press", samples), SimulatedDevice("lathe", others, widest=0.5)]
    outcome = simulate(settings, devices, validation, folder)

Coordinator and agents are those of a real fleet, wired to a broker in memory and to a clock that
jumps. So a round here is a round there: same messages, same journal, same decisions. Trainings and
measurements are computed for real; in virtual time measurements take a moment, and trainings and
transfers what the device's tier says (`slimfleet.simulation.tiers`). A campaign depends on its
settings, its data and its seed alone: what differs between two runs are the CPU seconds that the
journal notes with each score, and on a GPU the rounding.
"""

import asyncio
import contextlib
import dataclasses
import hashlib
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from broker.codec import encode
from broker.envelope import Verifier, public_key_of
from broker.link import Link, Will
from broker.memory import MemoryBroker, MemoryLink
from broker.messages import LinkStatus, ServerState
from broker.permissions import Permissions, device_permissions, server_permissions
from broker.topics import ServerTells, ServerTopic, check_name, topic_for
from coordinator.bench import Bench
from coordinator.fleet import Campaign, Phase
from coordinator.server import Coordinator, Desk, Identity
from coordinator.settings import DAY_S, Settings
from coordinator.settings_checks import check_pool
from edge_agent.agent import Agent, AgentIdentity, Equipment, last_will
from edge_agent.installation import ModelInstaller
from edge_agent.outbox import Outbox
from edge_agent.probe import ProbeResult
from edge_agent.session import AgentSession
from edge_agent.slots import ModelSlots
from journal.blobs import BlobFolder
from journal.chain import Record, verify
from journal.disk import make_folder
from journal.platform import unflushed
from journal.store import Journal
from profiler.profile import MachineFacts
from slimfleet.simulation.devices import SimulatedDevice, SimulatedTrainer
from slimfleet.simulation.errors import SimulationError
from slimfleet.simulation.jobs import InProcessJobs
from slimfleet.simulation.tiers import PLENTY, Tier
from slimfleet.simulation.virtual_clock import run
from slimfleet.simulation.workers import Workers, open_workers
from slimmable.model import load_model
from slimmable.samples import Samples
from slimmable.spec import WidthSpec
from slimmable.state import Array, ModelState, decode_state

__all__ = ["Outcome", "SimulatedDevice", "Tier", "simulate"]

SERVER = "server"
SOFTWARE = "slimfleet simulation"
EPOCH = 1_800_000_000.0  # what the clock shows at the start
LOOK_S = 0.02
SIGNING_KEY = bytes(range(32))  # nobody outside this process could take part
FLEET_SECRET = bytes(reversed(range(32)))
FACTS = MachineFacts(1, (), PLENTY, PLENTY, "simulated", "simulated", "", {})
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Outcome:
    """What a campaign came to.

    Attributes:
        state: of the campaign at its end.
        records: the whole journal, its chain verified.
        final: the full-width weights of the last scored round.
    """

    state: Campaign
    records: tuple[Record, ...]
    final: ModelState


def simulate(
    settings: Settings,
    devices: Sequence[SimulatedDevice],
    validation: Samples | None,
    folder: Path,
    *,
    pool: Array | None = None,
    workers: int = 0,
    export: bool = False,
    progress: Progress = lambda _done, _budget: None,
) -> Outcome:
    """Play one campaign from its start until rewards are allocated.

    The first round waits for all devices, whatever rounds.min_devices says. Trainings and
    measurements are computed on the torch device of this process (`slimmable.torch_device`).

    Args:
        settings: of the campaign.
        devices: who takes part.
        validation: the server's samples; None where the devices evaluate.
        folder: journal, blobs and data go below it; it must hold no other campaign.
        pool: (N, ...) the server's inputs without labels, where the aggregate is distilled or
            devices score public inputs.
        workers: training processes; 0 = train in this process. So many threads of this one measure
            while nobody trains. They change the time, nothing else.
        export: go on until every device runs the ONNX file that it earned.
        progress: called with the number of scored rounds and the most there can be; at the end
            with all of them, also where training stopped early.

    Raises:
        SimulationError: the campaign cannot be played; the message says what to change.
        SettingsError: the settings contradict themselves.
        ModelError, SamplesError: the model or the data cannot be used.
    """
    _check(settings, devices, validation, folder)
    check_pool(settings, pool=pool is not None)
    settings = msgspec.structs.replace(
        settings, rounds=msgspec.structs.replace(settings.rounds, min_devices=len(devices))
    ).check()
    with unflushed(), open_workers(workers) as trainers:
        fleet = _Fleet(settings, devices, make_folder(folder), export=export, threads=workers)
        return run(fleet.play(fleet.bench(validation, pool), trainers, progress))


def _check(
    settings: Settings,
    devices: Sequence[SimulatedDevice],
    validation: Samples | None,
    folder: Path,
) -> None:
    names = [device.name for device in devices]
    for device in devices:
        try:
            check_name(device.name, "device")
        except ValueError as error:
            raise SimulationError(str(error)) from error
        if not settings.widths[0] <= device.widest <= 1:
            raise SimulationError(
                f"device {device.name!r}: widest width {device.widest:g} must be from"
                f" {settings.widths[0]:g} to 1, the range of the training grid"
            )
        _ = device.kind
        if device.rider and settings.exchange != "weights":
            raise SimulationError(
                f"device {device.name!r}: riders forge weights, and none travel with exchange ="
                f" {settings.exchange!r}; leave riders out"
            )
        if device.own_model and settings.exchange == "weights":
            raise SimulationError(
                f"device {device.name!r} has a network of its own, and weights are exchanged: set"
                ' exchange to "prototypes", "class-scores" or "public-scores"'
            )
        if device.tier:
            device.tier.check()
    if len(set(names)) < len(names):
        raise SimulationError(f"two devices have one name among {sorted(names)}; rename one")
    if len(devices) < settings.rounds.quorum:
        raise SimulationError(
            f"{len(devices)} devices and rounds.quorum = {settings.rounds.quorum}: no round could"
            " count; lower the quorum or simulate more devices"
        )
    if validation is None and settings.contributions.evaluator == "server":
        raise SimulationError(
            "no validation data: the server has nothing to measure with; supply some, or set"
            " contributions.evaluator = 'devices'"
        )
    if (folder / SERVER / "journal").exists():
        raise SimulationError(f"{folder} holds a campaign already; name another folder")


class _Fleet:
    """Everybody who takes part, in one folder and one event loop."""

    def __init__(
        self,
        settings: Settings,
        devices: Sequence[SimulatedDevice],
        folder: Path,
        *,
        export: bool,
        threads: int,
    ) -> None:
        self._settings, self._devices, self._folder = settings, devices, folder
        self._export, self._threads = export, threads
        self._permissions = {
            SERVER: server_permissions(settings.fleet),
            **{one.name: device_permissions(settings.fleet, one.name) for one in devices},
        }
        self._broker = MemoryBroker(self._permissions_of)
        self._links: list[Link] = []
        self._verify_key = public_key_of(SIGNING_KEY)

    def _permissions_of(self, user: str) -> Permissions:
        return self._permissions[user]

    def bench(self, validation: Samples | None, pool: Array | None) -> Bench:
        """Write the server's data and say where everything is."""
        server = make_folder(self._folder / SERVER)
        settings = self._settings
        return Bench(
            model=settings.model,
            options=settings.options,
            validation=(
                _written(server, "validation", dataclasses.asdict(validation))
                if validation is not None
                else None
            ),
            reader="npz",
            blobs=server / "blobs",
            templates=server / "templates",
            grid=settings.widths,
            ladder=settings.rewards.ladder,
            seed=settings.seed,
            fleet=settings.fleet,
            distillation=settings.aggregation.distillation,
            pool=None if pool is None else _written(server, "pool", {"x": pool}),
            exchange=settings.exchange,
            public_samples=settings.knowledge.samples,
        )

    async def play(self, bench: Bench, pool: Workers, progress: Progress) -> Outcome:
        """Start everybody, wait for the end, and end everybody."""
        jobs = InProcessJobs(export=self._export, threads=self._threads)
        spec = WidthSpec.from_json(await jobs.describe(bench))
        with Journal.open(self._folder / SERVER / "journal") as journal:
            blobs = BlobFolder(bench.blobs)
            desk = Desk(
                self._link(SERVER, self._server_will()),
                journal,
                blobs,
                jobs,
                _clock,
                self._folder / SERVER,
            )
            identity = Identity(FLEET_SECRET, SIGNING_KEY)
            coordinator = Coordinator(self._settings, spec, bench, identity, desk, SOFTWARE)
            agents = self._agents(spec, pool)
            async with self._running([coordinator.run, *(agent.run for agent in agents)]) as tasks:
                await self._until_over(coordinator, journal, tasks, progress)
            records = tuple(journal.records())
            verify(records, journal.head)
            state = coordinator.state
            return Outcome(state, records, decode_state(blobs.get(state.weights)))

    def _link(self, user: str, will: Will) -> Link:
        link = MemoryLink(self._broker, user, will)
        self._links.append(link)
        return link

    def _server_will(self) -> Will:
        topic = topic_for(self._settings.fleet, ServerTopic(ServerTells.STATE))
        return Will(topic, encode(ServerState(status=LinkStatus.OFFLINE)))

    def _agents(self, spec: WidthSpec, pool: Workers) -> list[Agent]:
        data = make_folder(self._folder / "data")
        labels = [device.samples.y for device in self._devices]
        classes = max(1 + int(y.max()) if y.dtype.kind in "iu" else 1 for y in labels)
        return [
            self._agent(
                device,
                SimulatedTrainer(
                    device, data, _spec_of(device, spec), classes, self._settings.seed, pool
                ),
            )
            for device in self._devices
        ]

    def _agent(self, device: SimulatedDevice, trainer: SimulatedTrainer) -> Agent:
        name = device.name
        fleet, folder = self._settings.fleet, make_folder(self._folder / "devices" / name)
        verifier = Verifier.trusting([self._verify_key], fleet, name)
        installer = ModelInstaller(
            ModelSlots(folder / "slots"), verifier, {}, "npz", attempt=_trust
        )
        identity = AgentIdentity(
            fleet=fleet,
            device=name,
            session=1,
            version=SOFTWARE,
            emulated="simulated",  # so that no real transfer is timed
            link_bytes_per_s=device.link_bytes_per_s,
            memory_budget=device.memory_budget,
            own_model=device.own_model,
        )
        equipment = Equipment(
            link=self._link(name, last_will(fleet, name, 1)),
            session=AgentSession(name, verifier, can_train=True, installed=installer.installed()),
            outbox=Outbox(folder / "outbox"),
            installer=installer,
            facts=FACTS,
            folder=folder,
            clock=_clock,
            trainer=trainer,
            telemetry_s=1e9,
        )
        return Agent(identity, equipment)

    @contextlib.asynccontextmanager
    async def _running(
        self, bodies: Sequence[Callable[[], Coroutine[None, None, None]]]
    ) -> AsyncIterator[list[asyncio.Task[None]]]:
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(body()) for body in bodies]
        try:
            yield tasks
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for link in self._links:
                await link.stop(graceful=False)

    async def _until_over(
        self,
        coordinator: Coordinator,
        journal: Journal,
        tasks: Sequence[asyncio.Task[None]],
        progress: Progress,
    ) -> None:
        rounds = self._settings.rounds
        patience = 10 * max(rounds.deadline_s, rounds.gather_s, rounds.retry_s, 60.0)
        policy = self._settings.width_policy
        if policy.hours or policy.traffic or policy.traffic_per_day:
            patience += DAY_S  # what these hold back comes again within a day
        now, told = asyncio.get_running_loop().time, -1
        count, since = journal.head.count, now()
        while not self._over(coordinator.state):
            for task in tasks:
                if task.done():
                    task.result()
                    raise SimulationError("a device or the server ended by itself; see the log")
            if coordinator.state.weights_round != told:
                told = coordinator.state.weights_round
                # An assessment and a round that nobody finished have numbers too.
                progress(min(told, rounds.budget), rounds.budget)
            if journal.head.count != count:
                count, since = journal.head.count, now()
            elif now() - since > patience:
                raise SimulationError(f"the campaign stands still: {_trouble(coordinator.state)}")
            await asyncio.sleep(LOOK_S)
        if coordinator.state.scored is None:
            raise SimulationError(f"no round was scored: {_trouble(coordinator.state)}")
        progress(rounds.budget, rounds.budget)

    def _over(self, state: Campaign) -> bool:
        if self._export:
            return state.phase is Phase.FINISHED
        after = (Phase.EXPORTING, Phase.DELIVERING, Phase.FINISHED)
        return bool(state.stopped) and state.phase in after


def _written(folder: Path, name: str, arrays: Mapping[str, Any]) -> Path:
    """Write arrays to a file named by their content: whoever reads it remembers it by its name."""
    found = hashlib.sha256()
    for array in arrays.values():
        found.update(array.tobytes())
    path = folder / f"{name}-{found.hexdigest()[:16]}.npz"
    np.savez(path, **arrays)
    return path


def _spec_of(device: SimulatedDevice, spec: WidthSpec) -> WidthSpec:
    """Return the spec of the network that a device trains."""
    own = device.own_model
    return load_model(own.model, own.options).spec if own else spec


async def _trust(_model: Path, _manifest: Path) -> ProbeResult:
    """Start no child process: this very machine has just compared the file with the network."""
    return ProbeResult(ok=True, latency_s=0.0, detail="")


def _clock() -> float:
    return EPOCH + asyncio.get_running_loop().time()


def _trouble(state: Campaign) -> str:
    """Return in one line what keeps a campaign from going on."""
    lines = [state.stopped] if state.stopped else [f"it is {state.phase}"]
    lines += [f"{d.device}: {d.last_drop}" for d in state.devices.values() if d.last_drop][:3]
    lines += [f"{d.device}: {d.reason}" for d in state.devices.values() if not d.width][:3]
    return "; ".join(lines)
