"""The page's connection to a real broker: it knows who is there, asks, and outlives the broker."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from broker.codec import decode, encode
from broker.errors import LinkError
from broker.messages import Command, CommandResult, LinkStatus, OperatorAction, ServerState
from broker.mqtt import Credentials
from broker.topics import CommandTopic, ResultTopic, ServerTells, ServerTopic, topic_for
from slimfleet.command_desk import CommandDesk
from slimfleet.operator_link import Access
from tests.fakes.brokers import (
    FLEET,
    OPERATOR,
    PASSWORDS,
    SERVER,
    RealUnderTest,
    embedded,
    party_at,
)

pytestmark = [pytest.mark.mqtt, pytest.mark.slow]
COMMANDS = topic_for(FLEET, CommandTopic(OPERATOR))
STATE = topic_for(FLEET, ServerTopic(ServerTells.STATE))
RESULTS = topic_for(FLEET, ResultTopic(OPERATOR))


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    with embedded(tmp_path_factory.mktemp("broker")) as broker:
        yield broker


@pytest.fixture
async def party(runner):
    async with party_at(RealUnderTest("embedded", runner)) as found:
        yield found


class WatchedDesk(CommandDesk):
    """Tells the test whenever it learns something."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.news = asyncio.Event()

    def _heard(self, topic, payload):
        super()._heard(topic, payload)
        self.news.set()

    def _connected(self):
        super()._connected()
        self.news.set()

    def _lost(self, reason):
        super()._lost(reason)
        self.news.set()

    async def until(self, condition):
        async with asyncio.timeout(30):
            while not condition():
                self.news.clear()
                await self.news.wait()


@asynccontextmanager
async def desk_at(runner, password=PASSWORDS[OPERATOR], answer_s=20.0):
    access = Access(FLEET, OPERATOR, runner.address, Credentials(OPERATOR, password), "3.1.1")
    desk = WatchedDesk(access, answer_s)
    running = asyncio.ensure_future(desk.run())
    try:
        yield desk
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def command(number, device="cam-01"):
    return Command(
        command_id=f"c{number}", action=OperatorAction.SUSPEND, device=device, reason="x"
    )


async def served(server, status):
    await server.link.publish(STATE, encode(ServerState(status=status)), retain=True)


async def answer(server, count, **changes):
    """Answer the next commands as a server does: retained, the last one stays."""
    for number in range(count):
        await server.until(lambda inbox, n=number: inbox.topics.count(COMMANDS) > n)
        given = [one for one in server.messages if one.topic == COMMANDS][number]
        asked = decode(given.payload, Command)
        result = CommandResult(command_id=asked.command_id, done=True, detail=asked.device)
        await server.link.publish(RESULTS, encode(result), retain=True)


async def test_it_knows_whether_the_server_is_there_and_brings_answers(runner, party):
    server = await party.join(SERVER, COMMANDS)
    await served(server, LinkStatus.ONLINE)
    async with desk_at(runner) as desk:
        assert "not connected" in desk.obstacle
        with pytest.raises(LinkError, match="not connected"):
            await desk.ask(command(0))
        await desk.until(lambda: desk.server_online is True)
        assert desk.obstacle == ""
        answering = asyncio.ensure_future(answer(server, 3))
        results = await asyncio.gather(*(desk.ask(command(n, f"cam-{n}")) for n in range(3)))
        assert [result.detail for result in results] == ["cam-0", "cam-1", "cam-2"]
        await answering
        await served(server, LinkStatus.OFFLINE)
        await desk.until(lambda: desk.server_online is False)


async def test_an_answer_to_somebody_else_is_none_and_silence_ends_the_wait(runner, party):
    server = await party.join(SERVER)
    async with desk_at(runner, answer_s=0.5) as desk:
        await desk.until(lambda: not desk.obstacle)
        other = CommandResult(command_id="of-another-tool", done=True)
        await server.link.publish(RESULTS, encode(other), retain=True)
        await server.link.publish(RESULTS, b"no message at all", retain=True)
        assert await desk.ask(command(1)) is None


async def test_whoever_is_not_let_in_is_told_why(runner):
    async with desk_at(runner, password="wrong") as desk:
        await desk.until(lambda: "no connection to the broker" in desk.obstacle)
        assert desk.server_online is None
        with pytest.raises(LinkError, match="no connection to the broker"):
            await desk.ask(command(1))


async def test_it_comes_back_with_the_broker(tmp_path):
    with embedded(tmp_path) as broker:
        async with desk_at(broker) as desk:
            await desk.until(lambda: not desk.obstacle)
            await asyncio.to_thread(broker.kill)
            await desk.until(lambda: desk.obstacle)
            assert desk.server_online is None
            await asyncio.to_thread(broker.start)
            await desk.until(lambda: not desk.obstacle)
