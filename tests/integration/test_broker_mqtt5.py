"""What MQTT 5 adds where the broker speaks it: a no said aloud, a limit announced, expiry."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from broker.errors import LinkError, SizeError
from broker.link import PACKET_LIMIT
from broker.mosquitto import MosquittoBroker
from tests.fakes.brokers import (
    CAM_1,
    CAM_2,
    FLEET,
    OPERATOR,
    PASSWORDS,
    ROOT,
    SERVER,
    Party,
    RealUnderTest,
    mosquitto,
    party_at,
)

pytestmark = [pytest.mark.mqtt, pytest.mark.mosquitto]
UP_1 = f"{ROOT}d/{CAM_1}/up"


class SmallBroker(MosquittoBroker):
    """A broker whose owner set a limit below ours."""

    def _prepare(self, port: int) -> list[str]:
        command = super()._prepare(port)
        config = self._folder / "mosquitto.conf"
        text = config.read_text()
        assert f"max_packet_size {PACKET_LIMIT}" in text
        config.write_text(text.replace(f"max_packet_size {PACKET_LIMIT}", "max_packet_size 20000"))
        return command


@pytest.fixture
async def party(tmp_path) -> AsyncIterator[Party]:
    mosquitto(tmp_path)  # skips where it is not installed
    broker = SmallBroker(tmp_path, fleet=FLEET, passwords=PASSWORDS, operators=[OPERATOR])
    with broker:
        async with party_at(RealUnderTest("mosquitto MQTT 5", broker)) as party:
            yield party


async def test_a_refused_publish_is_an_error_at_its_sender(party):
    device = await party.join(CAM_2)
    with pytest.raises(LinkError, match=f"refused {UP_1}/forged from {CAM_2}: Not authorized"):
        await device.link.publish(f"{UP_1}/forged", b"x")
    assert device.link.sent_bytes["control"] == 0


async def test_a_block_over_the_limit_that_the_broker_announced_is_not_sent(party):
    device = await party.join(CAM_1)
    with pytest.raises(SizeError, match="raise the broker's limit or send smaller blocks"):
        await device.link.publish(f"{UP_1}/b/0", bytes(65536), bulk=True)
    await device.link.publish(f"{UP_1}/b/0", bytes(16384), bulk=True)
    assert device.disconnects == []


async def test_an_expired_message_is_forgotten_by_the_broker(party):
    server = await party.join(SERVER)
    await server.link.publish(f"{ROOT}srv/short", b"old", retain=True, expiry_s=1)
    await server.link.publish(f"{ROOT}srv/long", b"kept", retain=True, expiry_s=1000)

    async def seen() -> set[bytes]:
        device = await party.join(CAM_1, f"{ROOT}srv/#")
        await device.message(f"{ROOT}srv/long")
        await device.link.stop()
        return {message.payload for message in device.messages}

    async with asyncio.timeout(10):
        while await seen() != {b"kept"}:  # noqa: ASYNC110 - the broker's own clock decides
            await asyncio.sleep(0.2)


async def test_a_reader_of_another_protocol_version_gets_the_same_message(party):
    new = await party.join(SERVER)
    old = await party.watch(RealUnderTest("mosquitto", party.broker.runner).link(CAM_1))
    await old.link.subscribe([f"{ROOT}d/{CAM_1}/down/x"])
    await new.link.publish(f"{ROOT}d/{CAM_1}/down/x", b"same", expiry_s=60)
    assert (await old.message(f"{ROOT}d/{CAM_1}/down/x")).payload == b"same"
