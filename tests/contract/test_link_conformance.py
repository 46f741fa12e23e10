"""What the protocol asks of a broker and its link, on every broker that we support."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import pytest

from broker.codec import BLOCK_LIMIT, CONTROL_LIMIT
from broker.errors import LinkError, SizeError
from broker.link import Disconnected, Will
from tests.fakes.brokers import (
    CAM_1,
    CAM_2,
    OPERATOR,
    ROOT,
    SERVER,
    BrokerUnderTest,
    Inbox,
    MemoryUnderTest,
    Party,
    RealUnderTest,
    embedded,
    mosquitto,
    party_at,
)

UP_1, UP_2 = f"{ROOT}d/{CAM_1}/up", f"{ROOT}d/{CAM_2}/up"
DOWN_1, DOWN_2 = f"{ROOT}d/{CAM_1}/down", f"{ROOT}d/{CAM_2}/down"
BLOB = f"{ROOT}b/{'ab' * 32}"


@pytest.fixture(
    scope="module",
    params=[
        "memory",
        pytest.param("embedded", marks=pytest.mark.mqtt),
        pytest.param("mosquitto", marks=[pytest.mark.mqtt, pytest.mark.mosquitto]),
        pytest.param("mosquitto MQTT 5", marks=[pytest.mark.mqtt, pytest.mark.mosquitto]),
    ],
)
def running(request, tmp_path_factory) -> Iterator[BrokerUnderTest | None]:
    """Start each broker once for all tests; the one in memory belongs to one event loop."""
    if request.param == "memory":
        yield None
        return
    folder = tmp_path_factory.mktemp("broker")
    runner = embedded(folder) if request.param == "embedded" else mosquitto(folder)
    with runner:
        yield RealUnderTest(request.param, runner)


@pytest.fixture
async def party(running) -> AsyncIterator[Party]:
    async with party_at(running or MemoryUnderTest()) as party:
        yield party


async def refused(inbox: Inbox, topic: str, payload: bytes = b"forged") -> None:
    """Publish what must not be delivered; MQTT 5 says so aloud, the others keep silent."""
    with contextlib.suppress(LinkError):
        await inbox.link.publish(topic, payload, retain=True)


async def test_a_message_reaches_its_subscriber_unchanged(party):
    server = await party.join(SERVER, f"{UP_1}/hello")
    device = await party.join(CAM_1)
    await device.link.publish(f"{UP_1}/hello", b"\x00\xff good day")
    message = await server.message(f"{UP_1}/hello")
    assert message.payload == b"\x00\xff good day"
    assert not message.retained


async def test_a_late_subscriber_gets_the_retained_message_and_sees_that_it_is_old(party):
    server = await party.join(SERVER)
    await server.link.publish(f"{DOWN_1}/late", b"first", retain=True)
    await server.link.publish(f"{DOWN_1}/late", b"second", retain=True)
    device = await party.join(CAM_1, f"{DOWN_1}/late")
    message = await device.message(f"{DOWN_1}/late")
    assert (message.payload, message.retained) == (b"second", True)


async def test_an_empty_payload_clears_what_was_retained(party):
    server = await party.join(SERVER)
    await server.link.publish(f"{DOWN_1}/cleared/x", b"gone", retain=True)
    await server.link.publish(f"{DOWN_1}/cleared/x", b"", retain=True)
    await server.link.publish(f"{DOWN_1}/cleared/y", b"stays", retain=True)
    device = await party.join(CAM_1, f"{DOWN_1}/cleared/#")
    await device.message(f"{DOWN_1}/cleared/y")
    assert device.topics == [f"{DOWN_1}/cleared/y"]


async def test_a_cut_connection_publishes_the_will(party):
    server = await party.join(SERVER, f"{UP_1}/cut")
    device = await party.join(CAM_1, will=Will(f"{UP_1}/cut", b"vanished"))
    await device.link.stop(graceful=False)
    assert (await server.message(f"{UP_1}/cut")).payload == b"vanished"


async def test_a_goodbye_publishes_no_will(party):
    server = await party.join(SERVER, f"{ROOT}d/+/up/bye")
    device = await party.join(CAM_1, will=Will(f"{UP_1}/bye", b"vanished"))
    await device.link.stop()
    other = await party.join(CAM_2)
    await other.link.publish(f"{UP_2}/bye", b"")
    await server.message(f"{UP_2}/bye")
    assert server.topics == [f"{UP_2}/bye"]


async def test_messages_of_one_sender_keep_their_order(party):
    server = await party.join(SERVER, f"{UP_1}/order")
    device = await party.join(CAM_1)
    numbers = [str(number).encode() for number in range(200)]
    await asyncio.gather(*(device.link.publish(f"{UP_1}/order", n) for n in numbers))
    await server.until(lambda inbox: len(inbox.messages) >= len(numbers))
    assert [message.payload for message in server.messages] == numbers


async def test_posted_messages_travel_in_their_order_before_any_is_waited_for(party):
    server = await party.join(SERVER, f"{UP_1}/posted")
    device = await party.join(CAM_1)
    posted = [device.link.post(f"{UP_1}/posted", bytes([number])) for number in range(50)]
    await server.until(lambda inbox: len(inbox.messages) >= len(posted))
    assert [message.payload for message in server.messages] == [bytes([n]) for n in range(50)]
    await asyncio.gather(*posted)


async def test_a_message_over_the_limit_is_refused_before_it_is_sent(party):
    server = await party.join(SERVER, f"{UP_1}/big")
    device = await party.join(CAM_1)
    with pytest.raises(SizeError, match="over the control limit"):
        await device.link.publish(f"{UP_1}/big", bytes(CONTROL_LIMIT + 1))
    with pytest.raises(SizeError, match="over the block limit"):
        await device.link.publish(f"{UP_1}/big", bytes(BLOCK_LIMIT + 1), bulk=True)
    assert device.link.sent_bytes == {"control": 0, "bulk": 0}
    await device.link.publish(f"{UP_1}/big", b"small")
    assert (await server.message(f"{UP_1}/big")).payload == b"small"
    assert device.disconnects == []


async def test_a_topic_filter_cannot_be_published_to(party):
    device = await party.join(CAM_1)
    for topic in (f"{UP_1}/#", f"{UP_1}/+/x", ""):
        with pytest.raises(ValueError, match="not a topic"):
            await device.link.publish(topic, b"x")


async def test_the_largest_block_passes_live_and_retained(party):
    block = bytes(range(256)) * (BLOCK_LIMIT // 256)
    server = await party.join(SERVER)
    early = await party.join(CAM_1, f"{BLOB}/0")
    await server.link.publish(f"{BLOB}/0", block, retain=True, bulk=True)
    late = await party.join(CAM_2, f"{BLOB}/0")
    for device in (early, late):
        assert (await device.message(f"{BLOB}/0")).payload == block
    assert server.link.sent_bytes == {"control": 0, "bulk": BLOCK_LIMIT}


async def test_nobody_can_speak_for_another(party):
    server = await party.join(SERVER, f"{ROOT}#")
    before = len(server.messages)
    device = await party.join(CAM_2)
    operator = await party.join(OPERATOR)
    for sender in (device, operator):
        for topic in (
            f"{UP_1}/forged",
            f"{DOWN_1}/forged",
            f"{DOWN_2}/forged",
            f"{ROOT}srv/forged",
            f"{ROOT}b/{'ef' * 32}/0",
            f"{ROOT}op/somebody/up/forged",
            f"{ROOT}d/{OPERATOR}/up/forged",
        ):
            await refused(sender, topic)
    await refused(device, f"{ROOT}op/{OPERATOR}/up/forged")
    await refused(operator, f"{UP_2}/forged")
    await device.link.publish(f"{UP_2}/honest", b"mine")
    await operator.link.publish(f"{ROOT}op/{OPERATOR}/up/honest", b"mine")
    await server.message(f"{UP_2}/honest")
    await server.message(f"{ROOT}op/{OPERATOR}/up/honest")
    assert not [
        topic for topic in server.topics[before:] if "forged" in topic or "ef" * 32 in topic
    ]


async def test_a_device_hears_nothing_that_is_meant_for_another(party):
    server = await party.join(SERVER)
    await server.link.publish(f"{DOWN_1}/task", b"retained key", retain=True)
    owner = await party.join(CAM_1, f"{DOWN_1}/#")
    await owner.link.publish(f"{UP_1}/update", b"retained weights", retain=True)
    thief = await party.join(CAM_2)
    for filter_ in (f"{DOWN_1}/#", f"{DOWN_1}/task", f"{UP_1}/#", f"{ROOT}d/+/down/task", "#"):
        await thief.link.subscribe([filter_])
    await thief.link.subscribe([f"{DOWN_2}/end"])
    await server.link.publish(f"{DOWN_1}/task", b"live key", retain=True)
    await owner.link.publish(f"{UP_1}/update", b"live weights", retain=True)
    await owner.until(lambda inbox: b"live key" in [m.payload for m in inbox.messages])
    await server.link.publish(f"{DOWN_2}/end", b"")
    await thief.message(f"{DOWN_2}/end")
    assert not [topic for topic in thief.topics if topic.startswith(f"{ROOT}d/{CAM_1}/")]


async def test_an_operator_sees_the_fleet_but_no_block_and_no_key(party):
    secret = [
        f"{DOWN_1}/task",
        f"{DOWN_1}/deployment",
        f"{UP_1}/b/{'cd' * 32}/0",
        f"{ROOT}b/{'cd' * 32}/0",
    ]
    server = await party.join(SERVER)
    device = await party.join(CAM_1)
    for topic in secret:
        await server.link.publish(topic, b"retained", retain=True)
    operator = await party.join(OPERATOR)
    for filter_ in (*secret, f"{ROOT}#", f"{DOWN_1}/#", f"{UP_1}/#", f"{ROOT}b/#"):
        await operator.link.subscribe([filter_])
    await operator.link.subscribe([f"{UP_1}/birth", f"{DOWN_1}/standing", f"{ROOT}srv/#"])
    for topic in secret:
        await server.link.publish(topic, b"live", retain=True)
    await server.link.publish(f"{DOWN_1}/standing", b"in round 3")
    await device.link.publish(f"{UP_1}/birth", b"hello")
    await server.link.publish(f"{ROOT}srv/summary", b"all is well")
    for topic in (f"{DOWN_1}/standing", f"{UP_1}/birth", f"{ROOT}srv/summary"):
        await operator.message(topic)
    assert not set(secret) & set(operator.topics)


async def test_a_will_on_a_foreign_topic_is_not_delivered(party):
    server = await party.join(SERVER, f"{ROOT}d/+/up/will")
    forger = party.broker.link(CAM_2, Will(f"{UP_1}/will", b"forged"))
    inbox = Inbox(forger)  # a broker may also refuse the connection for such a will
    await forger.start()
    await inbox.until(lambda inbox: inbox.events)
    await forger.stop(graceful=False)
    await inbox.end()
    honest = await party.join(CAM_1)
    await honest.link.publish(f"{UP_1}/will", b"honest")
    await server.message(f"{UP_1}/will")
    assert [message.payload for message in server.messages] == [b"honest"]


async def test_a_control_message_overtakes_queued_blocks(party):
    server = await party.join(SERVER, f"{UP_1}/#")
    device = await party.join(CAM_1)
    blocks = [
        asyncio.ensure_future(
            device.link.publish(f"{UP_1}/b/{number}", bytes(64 * 1024), bulk=True)
        )
        for number in range(60)
    ]
    await asyncio.sleep(0)  # every block is queued now
    await device.link.publish(f"{UP_1}/urgent", b"!")
    assert sum(block.done() for block in blocks) < 40
    await asyncio.gather(*blocks)
    await server.message(f"{UP_1}/b/59")
    assert server.topics.index(f"{UP_1}/urgent") < 40


async def test_the_next_connection_of_a_user_takes_the_session_over(party):
    old = await party.join(CAM_1)
    new = await party.join(CAM_1)
    await old.until(lambda inbox: inbox.disconnects, "the end of the old session")
    await old.link.stop()
    server = await party.join(SERVER, f"{UP_1}/new")
    await new.link.publish(f"{UP_1}/new", b"here")
    await server.message(f"{UP_1}/new")


async def test_a_link_subscribes_again_and_sends_what_waited_after_a_broker_crash(party):
    server = await party.join(SERVER, f"{UP_1}/#")
    device = await party.join(CAM_1, f"{DOWN_1}/after")
    await asyncio.to_thread(party.broker.crash)
    await device.until(lambda inbox: inbox.disconnects)
    await server.until(lambda inbox: inbox.disconnects)
    assert isinstance(device.events[-1], Disconnected)
    waiting = asyncio.ensure_future(device.link.publish(f"{UP_1}/waited", b"kept", retain=True))
    await asyncio.to_thread(party.broker.restart)
    await server.connected(2)
    await device.connected(2)
    await waiting
    assert (await server.message(f"{UP_1}/waited")).payload == b"kept"
    await server.link.publish(f"{DOWN_1}/after", b"heard")
    await device.message(f"{DOWN_1}/after")


async def test_what_is_published_before_the_first_connection_is_sent(party):
    server = await party.join(SERVER, f"{UP_1}/early")
    link = party.broker.link(CAM_1)
    early = asyncio.ensure_future(link.publish(f"{UP_1}/early", b"waited"))
    await asyncio.sleep(0)
    await party.watch(link)
    await early
    await server.message(f"{UP_1}/early")


async def test_an_unsubscribed_filter_is_silent(party):
    server = await party.join(SERVER)
    device = await party.join(CAM_1, f"{DOWN_1}/loud", f"{DOWN_1}/quiet")
    await device.link.unsubscribe([f"{DOWN_1}/quiet"])
    await device.link.subscribe([f"{DOWN_1}/end"])  # answered after the broker took the other back
    for channel in ("quiet", "loud", "end"):
        await server.link.publish(f"{DOWN_1}/{channel}", b"")
    for channel in ("loud", "end"):  # in any order: each filter is delivered on its own
        await device.message(f"{DOWN_1}/{channel}")
    assert f"{DOWN_1}/quiet" not in device.topics


async def test_a_goodbye_sends_what_is_queued_first(party):
    server = await party.join(SERVER, f"{UP_1}/last/#")
    device = await party.join(CAM_1)
    last = [asyncio.ensure_future(device.link.publish(f"{UP_1}/last/{n}", b"")) for n in range(30)]
    await asyncio.sleep(0)
    await device.link.stop()
    await asyncio.gather(*last)
    await server.message(f"{UP_1}/last/29")


async def test_a_message_published_in_the_moment_of_the_subscription_arrives(party):
    server = await party.join(SERVER)
    device = await party.join(CAM_1)
    topics = [f"{UP_1}/moment/{number}" for number in range(40)]
    for topic in topics:
        await asyncio.gather(
            device.link.publish(topic, b"now", retain=True), server.link.subscribe([topic])
        )
    await server.until(lambda inbox: set(inbox.topics) == set(topics))


async def test_a_session_holds_hundreds_of_subscriptions(party):
    server = await party.join(SERVER)
    device = await party.join(CAM_1)
    topics = [f"{BLOB}/{number}" for number in range(600)]
    for start in range(0, len(topics), 16):
        await device.link.subscribe(topics[start : start + 16])
    await server.link.publish(topics[-1], b"block", bulk=True)
    await device.message(topics[-1])


async def test_a_stopped_link_says_so_and_ends_its_events(party):
    device = await party.join(CAM_1)
    await device.link.stop()
    await device.end()
    with pytest.raises(LinkError, match="stopped"):
        await device.link.publish(f"{UP_1}/x", b"")
