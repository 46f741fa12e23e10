"""Processes of a simulated fleet: real coordinator and agents, which can be killed at any step.

A kill is as rude as SIGKILL: the folder is copied as it is at that moment, the network is cut, and
the next life begins on the copy. Whatever the interpreter still runs on the way out (finally
blocks, rollbacks) happens to the old folder and on a dead link.
"""

import asyncio
import contextlib
import shutil
from collections import Counter
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import journal.crashpoints
from broker.codec import encode
from broker.envelope import Verifier, public_key_of
from broker.link import Will
from broker.memory import MemoryLink
from broker.messages import LinkStatus, Progress, ServerState
from broker.topics import ServerTells, ServerTopic, topic_for
from coordinator.bench import Bench
from coordinator.server import Coordinator, Desk, Identity
from edge_agent.actions import Say
from edge_agent.agent import Agent, AgentIdentity, Equipment, last_will
from edge_agent.installation import ModelInstaller
from edge_agent.outbox import Outbox
from edge_agent.session import AgentSession
from edge_agent.slots import ModelSlots
from edge_agent.witness_file import read_witness
from journal.blobs import BlobFolder
from journal.disk import make_folder
from journal.store import Journal
from profiler.profile import Condition, MachineFacts
from slimfleet.agent_process import next_session
from tests.fakes.toy_training import SPEC, ToyTrainer

SERVER = "server"
SIGNING_KEY = bytes(range(32))
FLEET_SECRET = bytes(reversed(range(32)))
FACTS = MachineFacts(2, (), 1 << 30, 1 << 29, "x86_64", "Linux", "3.11", {"onnxruntime": "1"})
PROCESS: ContextVar["Process | None"] = ContextVar("PROCESS", default=None)


class Killed(BaseException):
    """Ends whatever the killed process was doing."""


@dataclass
class Kill:
    """Kill a user's process at the n-th pass of a place: a crash point, or a step of the agent."""

    user: str
    place: str
    nth: int = 1
    fired: bool = False


@dataclass
class DeviceSettings:
    """What a simulated device is like.

    Attributes:
        trains: has a trainer at all.
        trainer: keyword arguments of `ToyTrainer`.
        behaviour, noise: see `edge_agent.agent.AgentIdentity`.
        tamper: changes the `Update` message before it is kept.
        kept: updates that the outbox holds.
        condition: reads the state that the machine is in.
    """

    trains: bool = True
    trainer: dict[str, Any] = field(default_factory=dict)
    behaviour: str = "honest"
    noise: float = 0.0
    tamper: Any = None
    kept: int = 4
    condition: Any = Condition


class Process:
    """Something with a folder and a link, that can be killed and started again."""

    def __init__(self, fleet, user):
        self.fleet = fleet
        self.user = user
        self.life = 0
        self.alive = False
        self.died = asyncio.Event()
        self.tasks = set()
        self.passed = Counter()
        self.link = None
        self.body_task = None

    @property
    def folder(self):
        return self.fleet.folder / self.user / f"life-{self.life}"

    async def start(self):
        """Begin a life on what the last one left on the disk."""
        make_folder(self.folder)
        self.fleet.broker.heal(self.user)
        self.died.clear()
        self.alive = True
        self.body_task = asyncio.get_running_loop().create_task(self._live())
        self.tasks.add(self.body_task)

    async def _live(self):
        PROCESS.set(self)
        await self.body()

    async def body(self):
        raise NotImplementedError

    def check(self):
        """Fail if the process ended by itself."""
        if self.alive and self.body_task.done():
            self.alive = False
            error = None if self.body_task.cancelled() else self.body_task.exception()
            raise AssertionError(f"{self.user} ended by itself: {error!r}") from error

    def passes(self, place):
        """Note a step; the process may end here."""
        self.passed[place] += 1
        kill = self.fleet.kill
        here = Kill(self.user, place, self.passed[place])
        if self.alive and kill == here:  # not one that has fired
            self.die()

    def die(self):
        """End here, as by SIGKILL."""
        if not self.alive:
            return
        kill = self.fleet.kill
        if kill:
            kill.fired = True
        self._cut()
        self.died.set()
        raise Killed(self.user)

    def _cut(self):
        self.alive = False
        before = self.folder
        self.life += 1
        shutil.copytree(before, self.folder)
        self.fleet.broker.cut(self.user)

    async def kill(self):
        """End the process from outside, as by SIGKILL."""
        self._cut()
        await self.bury()

    async def bury(self):
        """Clear away what the dead process left in the event loop."""
        self.alive = False
        if self.link:
            await self.link.stop(graceful=False)
        tasks = list(self.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.tasks.clear()
        self.close()

    def close(self):
        pass


class ServerProcess(Process):
    """The real coordinator."""

    def __init__(self, fleet, settings, jobs):
        super().__init__(fleet, SERVER)
        self.settings = settings
        self._jobs = jobs
        self.coordinator = None
        self.journal = None

    @property
    def state(self):
        return self.coordinator.state

    async def body(self):
        settings, folder = self.settings, self.folder
        self.journal = Journal.open(folder / "journal")
        blobs = BlobFolder(folder / "blobs")
        bench = Bench(
            model=settings.model,
            options={},
            validation=folder,
            reader="npz",
            blobs=blobs.folder,
            templates=folder,
            grid=settings.widths,
            ladder=settings.rewards.ladder,
            seed=settings.seed,
        )
        topic = topic_for(settings.fleet, ServerTopic(ServerTells.STATE))
        will = Will(topic, encode(ServerState(status=LinkStatus.OFFLINE)))
        self.link = MemoryLink(self.fleet.broker, SERVER, will)
        self.coordinator = Coordinator(
            settings,
            SPEC,
            bench,
            Identity(FLEET_SECRET, SIGNING_KEY),
            Desk(self.link, self.journal, blobs, self._jobs, self.fleet.clock, folder),
            software="simulation",
            audit=self.fleet.audit,
        )
        await self.coordinator.run()

    def close(self):
        if self.journal:
            self.journal.close()


class DeviceProcess(Process):
    """The real agent."""

    def __init__(self, fleet, device, settings):
        super().__init__(fleet, device)
        self.settings = settings
        self.agent = None
        self.session = None
        self.outbox = None
        self.installer = None
        self.trainer = None

    def verifier(self):
        public = public_key_of(SIGNING_KEY)
        return Verifier.trusting([public], self.fleet.settings.fleet, self.user)

    async def body(self):
        wanted, folder, fleet = self.settings, self.folder, self.fleet.settings.fleet
        self.outbox = Outbox(folder / "outbox", kept=wanted.kept)
        self.installer = ModelInstaller(
            ModelSlots(folder / "slots"), self.verifier(), {"own": self.fleet.samples}, "npz"
        )
        number = next_session(folder / "session.json")
        self.trainer = ToyTrainer(self.user, **wanted.trainer) if wanted.trains else None
        self.session = AgentSession(
            self.user,
            self.verifier(),
            can_train=wanted.trains,
            reason="" if wanted.trains else "this device only infers",
            pending={update.round: update for update in self.outbox.pending()},
            installed=self.installer.installed(),
            witness=read_witness(folder, self.user, self.verifier()),
        )
        self.link = MemoryLink(self.fleet.broker, self.user, last_will(fleet, self.user, number))
        identity = AgentIdentity(
            fleet=fleet,
            device=self.user,
            session=number,
            version="simulation",
            emulated="toy",
            memory_budget=1 << 30,
            behaviour=wanted.behaviour,
            noise=wanted.noise,
        )
        equipment = Equipment(
            link=self.link,
            session=self.session,
            outbox=self.outbox,
            installer=self.installer,
            facts=FACTS,
            folder=folder,
            clock=self.fleet.clock,
            trainer=self.trainer,
            telemetry_s=0.5,
            condition=self.settings.condition,
        )
        self.agent = _WatchedAgent(self, identity, equipment)
        await self.agent.run()


class _WatchedAgent(Agent):
    """Tells its process before and after each action."""

    def __init__(self, process, identity, equipment):
        super().__init__(identity, equipment)
        self._process = process

    @contextlib.asynccontextmanager
    async def _around(self, action):
        self._process.passes(f"before {action}")
        yield
        self._process.passes(f"after {action}")

    async def _carry_out(self, action):
        name = type(action).__name__
        if isinstance(action, Say):
            said = action.message
            detail = f" {said.stage}" if isinstance(said, Progress) else ""
            name = f"Say {type(said).__name__}{detail}"
        async with self._around(name):
            await super()._carry_out(action)

    async def _fetch_weights(self, action):
        async with self._around("FetchWeights"):
            await super()._fetch_weights(action)

    async def _train(self, action):
        async with self._around("Train"):
            await super()._train(action)

    async def _keep(self, action):
        tamper = self._process.settings.tamper
        if tamper is None:
            return await super()._keep(action)
        made = []
        put, self._gear.outbox.put = self._gear.outbox.put, lambda *pair: made.append(pair)
        try:
            await super()._keep(action)
        finally:
            self._gear.outbox.put = put
        update, data = made[0]
        update = tamper(update)
        put(update, data)
        return update


def stand_in_for_os():
    """Return what `journal.crashpoints` gets instead of `os`: ends simulated processes only."""

    def environ_get(_name):
        process = PROCESS.get()
        kill = process.fleet.kill if process else None
        armed = kill and process.alive and not kill.fired and kill.user == process.user
        return f"{kill.place}:{kill.nth}" if armed else None

    def end(_status):
        PROCESS.get().die()

    journal.crashpoints._passes.clear()
    return SimpleNamespace(environ=SimpleNamespace(get=environ_get), _exit=end)


def task_factory(loop, coroutine, context=None):
    """Let each task belong to the process that started it."""
    task = asyncio.Task(coroutine, loop=loop, context=context)
    if process := PROCESS.get():
        process.tasks.add(task)
        task.add_done_callback(process.tasks.discard)
    return task
