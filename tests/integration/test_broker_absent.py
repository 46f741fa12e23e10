"""A broker that is not there, says no, or breaks: clear reasons, patience, no busy loop."""

import asyncio
import contextlib
import random
from collections.abc import Iterator

import pytest

from broker.backoff import Backoff
from broker.child import free_port
from broker.errors import BrokerConfigError, LinkError
from broker.mosquitto import MosquittoBroker
from broker.mqtt import BrokerAddress, Credentials, MqttLink
from tests.fakes.brokers import (
    CAM_1,
    FLEET,
    PASSWORDS,
    ROOT,
    SERVER,
    Inbox,
    RealUnderTest,
    embedded,
    party_at,
)

pytestmark = pytest.mark.mqtt


class Sleeper:
    """Records the delays that a link asks for, and lets no real time pass."""

    def __init__(self, enough: int) -> None:
        self.delays: list[float] = []
        self._enough = enough
        self.reached = asyncio.Event()

    async def __call__(self, delay: float) -> None:
        self.delays.append(delay)
        if len(self.delays) >= self._enough:
            self.reached.set()
            await asyncio.Event().wait()


def link_to(port: int, sleep: Sleeper, seed: int = 3) -> MqttLink:
    address = BrokerAddress("127.0.0.1", port)
    credentials = Credentials(CAM_1, "x")
    return MqttLink(address, CAM_1, credentials, None, random.Random(seed), sleep=sleep)


@pytest.fixture(scope="module")
def running(tmp_path_factory) -> Iterator[RealUnderTest]:
    with embedded(tmp_path_factory.mktemp("broker")) as runner:
        yield RealUnderTest("embedded", runner)


async def attempts(link: MqttLink, sleep: Sleeper) -> Inbox:
    inbox = Inbox(link)
    await link.start()
    await asyncio.wait_for(sleep.reached.wait(), 20)
    await link.stop()
    await inbox.end()
    return inbox


async def test_a_broker_that_is_not_there_is_reported_and_asked_again_with_jitter():
    sleep = Sleeper(8)
    inbox = await attempts(link_to(free_port(), sleep), sleep)
    assert len(inbox.disconnects) == 8
    assert all("is it running?" in event.reason for event in inbox.disconnects)
    expected = Backoff(random.Random(3))
    assert sleep.delays == [expected.after(0.0) for _ in range(8)]
    other = Sleeper(8)
    await attempts(link_to(free_port(), other, seed=4), other)
    assert other.delays != sleep.delays


async def test_an_unknown_host_is_named():
    sleep = Sleeper(1)
    address = BrokerAddress("no-such-host.invalid", 1883)
    link = MqttLink(address, CAM_1, Credentials(), None, random.Random(1), sleep=sleep)
    inbox = await attempts(link, sleep)
    assert "no-such-host.invalid" in inbox.disconnects[0].reason


async def test_a_broker_that_accepts_and_closes_is_not_asked_at_full_speed():
    connections = 0

    async def accept_and_close(reader, writer):
        nonlocal connections
        connections += 1
        await reader.read(1024)
        writer.write(b"\x20\x02\x00\x00")  # CONNACK: accepted
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(accept_and_close, "127.0.0.1", 0)
    sleep = Sleeper(6)
    await attempts(link_to(server.sockets[0].getsockname()[1], sleep), sleep)
    server.close()
    assert connections == 6
    expected = Backoff(random.Random(3))
    assert sleep.delays == [expected.after(0.0) for _ in range(6)]


async def test_something_that_never_answers_is_given_up(monkeypatch):
    monkeypatch.setattr("broker.reconnecting.ANSWER_TIMEOUT_S", 0.1)
    released = asyncio.Event()

    async def say_nothing(reader, writer):
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()
        released.set()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    sleep = Sleeper(1)
    inbox = await attempts(link_to(server.sockets[0].getsockname()[1], sleep), sleep)
    await asyncio.wait_for(released.wait(), 10)
    server.close()
    assert "did not answer" in inbox.disconnects[0].reason


async def test_garbage_from_the_broker_ends_the_connection_and_not_the_link():
    async def talk_nonsense(reader, writer):
        await reader.read(1024)
        writer.write(b"\x20\x02\x00\x00" + b"\x30\x05\x00\x03\xff\xfe\xfdX" + b"\xff" * 64)
        await writer.drain()
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()

    server = await asyncio.start_server(talk_nonsense, "127.0.0.1", 0)
    sleep = Sleeper(3)
    inbox = await attempts(link_to(server.sockets[0].getsockname()[1], sleep), sleep)
    server.close()
    assert len(inbox.disconnects) == 3
    assert inbox.messages == []


async def test_a_wrong_password_is_said_clearly_and_tried_again_slowly(running):
    sleep = Sleeper(2)
    link = link_to(running.runner.address.port, sleep)
    inbox = await attempts(link, sleep)
    assert f"refused {CAM_1}" in inbox.disconnects[0].reason
    assert "check the user name, the password" in inbox.disconnects[0].reason
    assert min(sleep.delays) >= 30


async def test_stopping_a_link_that_never_connected_fails_what_waits():
    sleep = Sleeper(1)
    link = link_to(free_port(), sleep)
    pending = asyncio.ensure_future(link.publish(f"{ROOT}d/{CAM_1}/up/x", b""))
    await attempts(link, sleep)
    with pytest.raises(LinkError, match="before the broker acknowledged"):
        await pending


async def test_a_link_starts_once(running):
    async with party_at(running) as party:
        device = await party.join(CAM_1)
        with pytest.raises(LinkError, match="starts once"):
            await device.link.start()


async def test_a_link_outlives_many_broker_crashes_and_loses_nothing(tmp_path):
    with embedded(tmp_path) as runner:
        broker = RealUnderTest("embedded", runner)
        async with party_at(broker) as party:
            server = await party.join(SERVER, f"{ROOT}d/{CAM_1}/up/n/#")
            device = await party.join(CAM_1)
            sent = [
                asyncio.ensure_future(
                    device.link.publish(
                        f"{ROOT}d/{CAM_1}/up/n/{n}", bytes(32768), bulk=True, retain=True
                    )
                )
                for n in range(120)
            ]
            for crash in range(3):
                await server.until(lambda inbox, n=crash: len(inbox.messages) > 10 * (n + 1))
                await asyncio.to_thread(broker.crash)
                await asyncio.to_thread(broker.restart)
                await device.connected(crash + 2)
            await asyncio.gather(*sent)
            late = await party.join(SERVER, f"{ROOT}d/{CAM_1}/up/n/#")
            await late.until(lambda inbox: len(set(inbox.topics)) == 120)


def test_a_missing_mosquitto_is_an_error_that_says_how_to_install_it(monkeypatch, tmp_path):
    monkeypatch.setattr("broker.mosquitto.shutil.which", lambda *_args, **_kwargs: None)
    with pytest.raises(BrokerConfigError, match="apt install mosquitto"):
        MosquittoBroker(tmp_path, fleet=FLEET, passwords=PASSWORDS).start()
