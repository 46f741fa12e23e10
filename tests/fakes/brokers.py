"""The three brokers behind one face, so that one suite runs on all of them."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Protocol

import pytest

from broker.backoff import Backoff
from broker.embedded import EmbeddedBroker
from broker.errors import BrokerConfigError
from broker.link import Connected, Disconnected, Link, LinkEvent, Received, Will
from broker.memory import MemoryBroker, MemoryLink
from broker.mosquitto import MosquittoBroker, find_program
from broker.mqtt import Credentials, MqttLink
from broker.permissions import (
    Permissions,
    device_permissions,
    operator_permissions,
    server_permissions,
)
from broker.topics import root

FLEET = "plant"
ROOT = root(FLEET)
SERVER, CAM_1, CAM_2, OPERATOR = "server", "cam-01", "cam-02", "op-anna"
PASSWORDS = {user: f"secret of {user}" for user in (SERVER, CAM_1, CAM_2, OPERATOR)}
WAIT_S = 10.0


def permissions_of(user: str) -> Permissions:
    if user == SERVER:
        return server_permissions(FLEET)
    if user == OPERATOR:
        return operator_permissions(FLEET, user)
    return device_permissions(FLEET, user)


class BrokerUnderTest(Protocol):
    """A running broker with the four users."""

    name: str

    def link(self, user: str, will: Will | None = None) -> Link: ...

    def crash(self) -> None: ...

    def restart(self) -> None: ...


class MemoryUnderTest:
    name = "memory"

    def __init__(self) -> None:
        self.broker = MemoryBroker(permissions_of)

    def link(self, user: str, will: Will | None = None) -> Link:
        return MemoryLink(self.broker, user, will)

    def crash(self) -> None:
        self.broker.crash()

    def restart(self) -> None:
        self.broker.restart()


class RealUnderTest:
    def __init__(self, name: str, runner: EmbeddedBroker | MosquittoBroker) -> None:
        self.name = name
        self.runner = runner

    def link(self, user: str, will: Will | None = None, *, password: str | None = None) -> MqttLink:
        rng = random.Random(7)
        return MqttLink(
            self.runner.address,
            user,
            Credentials(user, password or PASSWORDS[user]),
            will,
            rng,
            protocol="5" if self.name.endswith("5") else "3.1.1",
            backoff=Backoff(rng, base_s=0.05, cap_s=0.2),
        )

    def crash(self) -> None:
        self.runner.kill()

    def restart(self) -> None:
        self.runner.start()


def embedded(folder: Path) -> EmbeddedBroker:
    return EmbeddedBroker(
        folder, users={user: (PASSWORDS[user], permissions_of(user)) for user in PASSWORDS}
    )


def mosquitto(folder: Path) -> MosquittoBroker:
    try:
        find_program("mosquitto")
    except BrokerConfigError as error:
        pytest.skip(f"NOT TESTED on mosquitto: {error}")
    return MosquittoBroker(folder, fleet=FLEET, passwords=PASSWORDS, operators=[OPERATOR])


class Inbox:
    """Everything a link reported, and ways to wait for it."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.events: list[LinkEvent] = []
        self._news = asyncio.Event()
        self._reader = asyncio.ensure_future(self._read())

    async def _read(self) -> None:
        async for event in self.link.events():
            self.events.append(event)
            self._news.set()

    @property
    def messages(self) -> list[Received]:
        return [event for event in self.events if isinstance(event, Received)]

    @property
    def topics(self) -> list[str]:
        return [message.topic for message in self.messages]

    @property
    def disconnects(self) -> list[Disconnected]:
        return [event for event in self.events if isinstance(event, Disconnected)]

    async def until(self, condition: Callable[["Inbox"], object], what: str = "") -> None:
        async def wait() -> None:
            while not condition(self):
                self._news.clear()
                await self._news.wait()

        try:
            await asyncio.wait_for(wait(), WAIT_S)
        except TimeoutError:
            pytest.fail(f"{what or 'condition'} did not come; events: {self.events[-20:]}")

    async def connected(self, times: int = 1) -> "Inbox":
        def often_enough(inbox: "Inbox") -> bool:
            return sum(isinstance(event, Connected) for event in inbox.events) >= times

        await self.until(often_enough, f"connection {times}")
        return self

    async def message(self, topic: str) -> Received:
        await self.until(lambda inbox: topic in inbox.topics, topic)
        return next(message for message in self.messages if message.topic == topic)

    async def end(self) -> None:
        await asyncio.wait_for(self._reader, WAIT_S)


class Party:
    """Opens links for a test and closes them after it."""

    def __init__(self, broker: BrokerUnderTest) -> None:
        self.broker = broker
        self._inboxes: list[Inbox] = []

    async def join(self, user: str, *filters: str, will: Will | None = None) -> Inbox:
        return await self.watch(self.broker.link(user, will), *filters)

    async def watch(self, link: Link, *filters: str) -> Inbox:
        inbox = Inbox(link)
        self._inboxes.append(inbox)
        await link.start()
        await inbox.connected()
        await link.subscribe(filters)
        return inbox

    async def close(self) -> None:
        for inbox in self._inboxes:
            await inbox.link.stop()
            await inbox.end()


@contextlib.asynccontextmanager
async def party_at(broker: BrokerUnderTest) -> AsyncIterator[Party]:
    party = Party(broker)
    try:
        yield party
    finally:
        await party.close()
