"""A whole fleet in one event loop: real coordinator, real agents, real store, virtual time.

::

    async with SmallFleet(tmp_path, devices={"press": DeviceSettings()}) as fleet:
        await fleet.until(fleet.finished)
"""

import asyncio
import contextlib
from collections import Counter
from functools import lru_cache
from unittest import mock

import msgspec
import numpy as np

import edge_agent.installation
import journal.crashpoints
import journal.platform
import journal.store
from broker.codec import decode_on, encode
from broker.memory import MemoryBroker, MemoryLink
from broker.permissions import device_permissions, operator_permissions, server_permissions
from broker.topics import (
    DeviceSays,
    DownTopic,
    ServerSays,
    ServerTells,
    ServerTopic,
    SharedBlock,
    UploadBlock,
    UpTopic,
    parse_topic,
    topic_for,
)
from coordinator.fleet import Phase, confirmed
from coordinator.settings import Settings
from edge_agent.probe import ProbeResult
from journal.chain import verify
from tests.fakes.processes import (
    SERVER,
    DeviceProcess,
    DeviceSettings,
    Kill,
    ServerProcess,
    stand_in_for_os,
    task_factory,
)
from tests.fakes.toy_onnx import FEATURES
from tests.fakes.toy_training import GRID, LADDER, MODEL, ToyJobs

FLEET = "plant"
OPERATOR = "operator-anna"
EPOCH = 1_800_000_000.0
RESTART_S = 0.3
SOUND = ProbeResult(ok=True, latency_s=0.001, detail="answered")


def toy_settings(**changes):
    """Return settings of a quick campaign; ``rounds={"budget": 2}`` changes one section."""
    sections = {
        "rounds": {
            "budget": 3,
            "minimum": 3,
            "deadline_s": 4.0,
            "quorum": 1,
            "min_devices": 1,
            "gather_s": 10.0,
            "retry_s": 0.5,
        },
        "presence": {"heartbeat_s": 1.0, "grace_s": 1.0},
        "releases": {"delivery_s": 30.0},
        "rewards": {"ladder": LADDER},
        "training": {"steps": 4},
    }
    plain = {"fleet": FLEET, "model": MODEL, "widths": GRID, "block_size": 1024}
    for name, value in changes.items():
        if isinstance(value, dict) and name in sections:
            sections[name] |= value
        else:
            plain[name] = value
    return msgspec.convert(plain | sections, Settings).check()


class RecordingBroker(MemoryBroker):
    """Remembers who published what where, and shows each publish to ``spy``."""

    def __init__(self):
        super().__init__(permissions_of)
        self.log = []
        self.spy = lambda user, topic, payload: None

    def route(self, user, topic, payload, *, retain):
        self.log.append((user, topic, payload))
        super().route(user, topic, payload, retain=retain)
        self.spy(user, topic, payload)

    def blocks(self, user, *, shared=False):
        """Return block topic -> how often this user published it (clearing not counted)."""
        kind = SharedBlock if shared else UploadBlock
        return Counter(
            topic
            for who, topic, payload in self.log
            if who == user and payload and isinstance(parse_topic(FLEET, topic), kind)
        )


@lru_cache
def permissions_of(user):
    if user == SERVER:
        return server_permissions(FLEET)
    if user.startswith("operator-"):
        return operator_permissions(FLEET, user)
    return device_permissions(FLEET, user)


def _set_up_unflushed(connection, set_up=journal.store._set_up):
    set_up(connection)
    connection.execute("PRAGMA synchronous = OFF")


class SmallFleet:
    """One server and some devices on a broker in memory.

    Args:
        folder: everybody's files go below it.
        devices: name -> what it is like.
        settings: of the campaign; by default every device is waited for.
        jobs: the server's worker.
        kill: whom to kill where; the process starts again soon after.
        start: whether all processes start at once.
        audit: when checkpoints are signed.
    """

    def __init__(
        self, folder, devices, *, settings=None, jobs=None, kill=None, start=True, audit=None
    ):
        self.audit = audit
        trainers = sum(device.trains for device in devices.values())
        self.folder = folder
        self.settings = settings or toy_settings(rounds={"min_devices": trainers})
        self.kill = kill
        self.broker = RecordingBroker()
        self.samples = folder / "own.npz"
        self.server = ServerProcess(self, self.settings, jobs or ToyJobs())
        self.devices = {name: DeviceProcess(self, name, one) for name, one in devices.items()}
        self._start = start
        self._stack = contextlib.ExitStack()
        self._helpers = []
        self.clients = []

    @property
    def processes(self):
        return [self.server, *self.devices.values()]

    @property
    def state(self):
        return self.server.state

    def clock(self):
        return EPOCH + asyncio.get_running_loop().time()

    async def __aenter__(self):
        loop = asyncio.get_running_loop()
        loop.set_task_factory(task_factory)
        self._stack.enter_context(
            mock.patch.object(edge_agent.installation, "probe", mock.AsyncMock(return_value=SOUND))
        )
        self._stack.enter_context(mock.patch.object(journal.crashpoints, "os", stand_in_for_os()))
        # A killed process leaves what it wrote, flushed or not: here a flush only takes time.
        self._stack.enter_context(mock.patch.object(journal.platform, "flush", return_value=None))
        self._stack.enter_context(mock.patch.object(journal.store, "_set_up", _set_up_unflushed))
        rng = np.random.default_rng(0)
        np.savez(
            self.samples,
            x=rng.standard_normal((6, FEATURES)).astype(np.float32),
            y=np.arange(6) % 3,
            recording=np.arange(6),
        )
        self._helpers = [loop.create_task(self._supervise(process)) for process in self.processes]
        if self._start:
            for process in self.processes:
                await process.start()
        return self

    async def __aexit__(self, *_):
        for helper in self._helpers:
            helper.cancel()
        await asyncio.gather(*self._helpers, return_exceptions=True)
        for process in self.processes:
            await process.bury()
        for client in self.clients:
            await client.stop()
        self._stack.close()

    async def _supervise(self, process):
        while True:
            await process.died.wait()
            await process.bury()
            await asyncio.sleep(RESTART_S)
            await process.start()

    # --- waiting ---------------------------------------------------------------------------------

    async def until(self, condition, within_s=120.0):
        """Wait for a condition, in virtual time; fail if a process ends by itself meanwhile."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + within_s
        while not condition():
            for process in self.processes:
                process.check()
            assert loop.time() < deadline, f"not within {within_s} s: {self.describe()}"
            await asyncio.sleep(0.02)

    def finished(self):
        """Tell whether the campaign is over, and the broker has been told."""
        return bool(self.server.alive and self._phase() is Phase.FINISHED and self._told())

    def _phase(self):
        return self.server.coordinator.state.phase if self.server.coordinator else None

    def _told(self):
        summary = self.retained(ServerTopic(ServerTells.SUMMARY))
        return summary is not None and summary.phase == Phase.FINISHED

    def training(self, number):
        """Return a condition: this round (or a later one) is open."""

        def reached():
            current = self.server.coordinator and self.state.round
            return bool(current and current.number >= number)

        return reached

    def describe(self):
        if not self.server.coordinator:
            return "no server"
        state = self.state
        lines = [f"phase {state.phase}, round {state.round and state.round.number}"]
        lines += [
            f"{d.device}: {d.link}, width {d.width}, {d.last_drop}, report {d.report}"
            for d in state.devices.values()
        ]
        return "; ".join(lines)

    # --- what stands where -----------------------------------------------------------------------

    def retained(self, topic):
        """Return the retained message of a topic, or None."""
        payload = self.broker.retained.get(topic_for(FLEET, topic))
        return decode_on(topic, payload) if payload else None

    def standing(self, device):
        return self.retained(DownTopic(device, ServerSays.STANDING))

    def receipt(self, device):
        return self.retained(DownTopic(device, ServerSays.RECEIPT))

    def report(self, device):
        return self.retained(UpTopic(device, DeviceSays.REPORT))

    def retained_blocks(self):
        """Return the topics on which blocks are retained."""
        return [topic for topic in self.broker.retained if "/b/" in topic]

    def events(self, *kinds):
        """Return the recorded events of these types, from the disk; the chain is checked."""
        records = list(self.server.journal.records())
        verify(records)
        return [r.event for r in records if not kinds or isinstance(r.event, kinds)]

    def confirmed(self):
        """Return device -> digest that it confirmed."""
        return {
            name: device.report.running
            for name, device in self.state.devices.items()
            if confirmed(device) and device.deployed.digest
        }

    # --- others ----------------------------------------------------------------------------------

    def inject(self, user, topic, message, *, retain=True):
        """Let the broker take a publish of a user, or whatever got hold of its name."""
        where = topic if isinstance(topic, str) else topic_for(FLEET, topic)
        data = message if isinstance(message, bytes) else encode(message)
        self.broker.route(user, where, data, retain=retain)

    async def client(self, user):
        """Return a connected client without any program behind it."""
        client = Client(self.broker, user)
        self.clients.append(client)
        await client.start()
        return client


class Client:
    """Someone with a name and a link."""

    def __init__(self, broker, user):
        self.link = MemoryLink(broker, user)
        self.heard = {}
        self._reader = None

    async def start(self):
        await self.link.start()
        self._reader = asyncio.get_running_loop().create_task(self._read())

    async def stop(self):
        await self.link.stop()
        await self._reader

    async def _read(self):
        async for event in self.link.events():
            if hasattr(event, "payload"):
                self.heard[event.topic] = event.payload

    async def say(self, topic, message, *, retain=True):
        """Publish a message, or raw bytes, on a topic (of the protocol, or any text)."""
        where = topic if isinstance(topic, str) else topic_for(FLEET, topic)
        data = message if isinstance(message, bytes) else encode(message)
        await self.link.publish(where, data, retain=retain)

    def message(self, topic):
        """Return the last message heard on a topic of the protocol."""
        where = topic_for(FLEET, topic)
        return decode_on(topic, self.heard[where]) if self.heard.get(where) else None


__all__ = [
    "EPOCH",
    "FLEET",
    "OPERATOR",
    "SERVER",
    "Client",
    "DeviceSettings",
    "Kill",
    "SmallFleet",
    "toy_settings",
]
