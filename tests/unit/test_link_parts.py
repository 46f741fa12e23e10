"""The parts of a link: addresses, back-off, the outgoing queue, the broker in memory."""

import asyncio
import random
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.address import BrokerAddress, Credentials
from broker.backoff import Backoff
from broker.errors import BrokerConfigError
from broker.link import Received, Will
from broker.memory import MemoryBroker, MemoryLink
from broker.mosquitto import ServerTls, mosquitto_acl, mosquitto_config
from broker.outgoing import Outgoing
from tests.fakes.brokers import Inbox

# --- addresses ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("mqtt://localhost", BrokerAddress("localhost", 1883)),
        ("mqtts://broker.plant", BrokerAddress("broker.plant", 8883, tls=True)),
        ("mqtt://10.0.0.1:1884/", BrokerAddress("10.0.0.1", 1884)),
        ("mqtts://[::1]:9000", BrokerAddress("::1", 9000, tls=True)),
    ],
)
def test_a_broker_url_names_host_port_and_tls(url, expected):
    assert BrokerAddress.parse(url) == expected
    assert BrokerAddress.parse(str(expected)) == expected


@pytest.mark.parametrize(
    "url",
    ["", "localhost:1883", "http://x", "mqtt://", "mqtt://x:99999", "mqtt://x:0", "mqtt://x/topic"],
)
def test_another_url_is_refused_with_an_example(url):
    with pytest.raises(BrokerConfigError, match="mqtt://host:1883"):
        BrokerAddress.parse(url)


def test_a_password_is_never_shown():
    with pytest.raises(BrokerConfigError) as refused:
        BrokerAddress.parse("mqtt://anna:hunter2@host")
    assert "hunter2" not in str(refused.value)
    assert "hunter2" not in repr(Credentials("anna", "hunter2"))


# --- back-off -------------------------------------------------------------------------------------


@given(st.integers(0, 2**32), st.integers(1, 60))
def test_delays_are_drawn_below_a_ceiling_that_doubles_up_to_the_cap(seed, failures):
    backoff = Backoff(random.Random(seed))
    for failure in range(failures):
        assert 0 <= backoff.after(0.0) <= min(60.0, 2.0**failure)


def test_a_broker_that_is_away_for_weeks_is_still_asked_once_a_minute():
    backoff = Backoff(random.Random(1))
    delays = [backoff.after(0.0) for _ in range(2000)]
    assert 25 < sum(delays[10:]) / len(delays[10:]) < 35


def test_a_short_connection_does_not_reset_the_delay_but_a_stable_one_does():
    class Highest(random.Random):
        def uniform(self, _low: float, high: float) -> float:
            return high

    backoff = Backoff(Highest())
    assert [backoff.after(0.5) for _ in range(4)] == [1, 2, 4, 8]
    assert backoff.after(31.0) == 1
    assert backoff.after(0.0) == 2


def test_a_refusal_that_only_a_person_can_mend_is_retried_slowly():
    backoff = Backoff(random.Random(1))
    assert all(backoff.after(0.0, refused=True) >= 30 for _ in range(20))


# --- outgoing queue -------------------------------------------------------------------------------


def test_control_goes_ahead_of_bulk_and_bulk_is_bounded_in_flight():
    queue: Outgoing[str] = Outgoing(control_window=2, bulk_window=1)
    for item in ("block 1", "block 2"):
        queue.put(item, bulk=True)
    for item in ("task 1", "task 2", "task 3"):
        queue.put(item, bulk=False)
    assert [queue.take() for _ in range(4)] == ["task 1", "task 2", "block 1", None]
    queue.acknowledge("block 1")
    assert [queue.take(), queue.take()] == ["block 2", None]
    queue.acknowledge("task 2")
    assert queue.take() == "task 3"
    assert len(queue) == 3


def test_what_was_in_flight_goes_first_again_in_its_order():
    queue: Outgoing[int] = Outgoing(control_window=3)
    for item in range(5):
        queue.put(item, bulk=False)
    taken = [queue.take() for _ in range(3)]
    queue.acknowledge(1)
    queue.requeue()
    assert taken == [0, 1, 2]
    assert queue.clear() == [0, 2, 3, 4]
    assert len(queue) == 0


@given(st.lists(st.sampled_from(["put", "put bulk", "take", "acknowledge", "lose"])))
def test_nothing_is_lost_and_each_kind_keeps_its_order(steps):
    queue: Outgoing[tuple[bool, int]] = Outgoing(control_window=2, bulk_window=2)
    unacknowledged: dict[bool, list[tuple[bool, int]]] = {False: [], True: []}
    in_flight: deque[tuple[bool, int]] = deque()
    for number, step in enumerate(steps):
        if step.startswith("put"):
            item = (step == "put bulk", number)
            queue.put(item, bulk=item[0])
            unacknowledged[item[0]].append(item)
        elif step == "take" and (taken := queue.take()) is not None:
            in_flight.append(taken)
        elif step == "acknowledge" and in_flight:
            done = in_flight.popleft()
            queue.acknowledge(done)
            unacknowledged[done[0]].remove(done)
        elif step == "lose":
            queue.requeue()
            in_flight.clear()
        assert len(queue) == sum(map(len, unacknowledged.values()))
    assert queue.clear() == [*unacknowledged[False], *unacknowledged[True]]


# --- the broker in memory -------------------------------------------------------------------------


async def joined(broker: MemoryBroker, user: str, *filters: str, will: Will | None = None) -> Inbox:
    inbox = Inbox(MemoryLink(broker, user, will))
    await inbox.link.start()
    await inbox.connected()
    await inbox.link.subscribe(filters)
    return inbox


async def test_a_lost_acknowledgement_makes_the_message_arrive_twice():
    broker = MemoryBroker()
    reader = await joined(broker, "reader", "x")
    writer = await joined(broker, "writer")
    broker.lose_acknowledgements("writer")
    await writer.link.publish("x", b"once?")
    assert [message.payload for message in reader.messages] == [b"once?", b"once?"]
    assert writer.link.sent_bytes["control"] == 5


async def test_a_cut_user_leaves_a_will_and_goes_on_where_it_was_after_healing():
    broker = MemoryBroker()
    reader = await joined(broker, "reader", "#")
    writer = await joined(broker, "writer", "back", will=Will("will", b"gone"))
    broker.cut("writer")
    pending = asyncio.ensure_future(writer.link.publish("x", b"kept"))
    await writer.until(lambda inbox: inbox.disconnects)
    assert "cut" in writer.disconnects[0].reason
    assert not pending.done()
    broker.heal("writer")
    await pending
    await reader.link.publish("back", b"")
    await writer.message("back")
    assert reader.topics == ["will", "x", "back"]


async def test_a_fault_can_drop_repeat_and_reorder_deliveries():
    broker = MemoryBroker()
    reader = await joined(broker, "reader", "#")
    writer = await joined(broker, "writer")
    held: list[Received] = []

    def fault(user: str, event: Received) -> list[Received]:
        match event.topic:
            case "dropped":
                return []
            case "repeated":
                return [event, event]
            case "held":
                held.append(event)
                return []
        return [event, *held]

    broker.fault = fault
    for topic in ("dropped", "repeated", "held", "plain"):
        await writer.link.publish(topic, b"")
    assert reader.topics == ["repeated", "repeated", "plain", "held"]


async def test_a_cancelled_publish_that_was_not_sent_yet_is_taken_back():
    broker = MemoryBroker()
    writer = await joined(broker, "writer")
    broker.cut("writer")
    unwanted = asyncio.ensure_future(writer.link.publish("unwanted", b"", retain=True))
    wanted = asyncio.ensure_future(writer.link.publish("wanted", b"1", retain=True))
    await asyncio.sleep(0)
    unwanted.cancel()
    await asyncio.gather(unwanted, return_exceptions=True)
    broker.heal("writer")
    await wanted
    assert broker.retained == {"wanted": b"1"}
    assert broker.published == 1


async def test_a_second_look_finds_what_the_first_one_missed_and_only_where_it_is_still_wanted():
    class Looking(MemoryLink):
        def __init__(self, broker: MemoryBroker) -> None:
            super().__init__(broker, "reader")
            self._second_look_s = 0.05

    broker = MemoryBroker()
    writer = await joined(broker, "writer")
    for topic in ("wanted", "unwanted"):
        await writer.link.publish(topic, b"", retain=True)
        await writer.link.publish(topic, b"kept", retain=True)
    reader = Inbox(Looking(broker))
    missed: list[Received] = []

    def lose_the_first(user: str, event: Received) -> list[Received]:
        if user == "reader" and len(missed) < 2:
            missed.append(event)
            return []
        return [event]

    broker.fault = lose_the_first
    await reader.link.start()
    await reader.connected()
    await reader.link.subscribe(["wanted", "unwanted"])
    await reader.link.unsubscribe(["unwanted"])
    await reader.message("wanted")
    assert [event.topic for event in missed] == ["wanted", "unwanted"]
    assert reader.topics == ["wanted"]


# --- mosquitto's files ----------------------------------------------------------------------------


def test_no_value_of_the_mosquitto_configuration_has_a_comment_behind_it(tmp_path):
    tls = ServerTls(tmp_path / "crt", tmp_path / "key", tmp_path / "ca", tmp_path / "crl", True)
    for text in (
        mosquitto_config(acl_file=tmp_path / "acl", password_file=tmp_path / "passwords"),
        mosquitto_config(acl_file=tmp_path / "acl", tls=tls),
        mosquitto_acl("plant", ["anna", "bert"]),
    ):
        for line in text.splitlines():
            assert line.startswith("#") or " #" not in line
            assert "None" not in line


def test_passwords_without_tls_stay_on_loopback_unless_somebody_says_otherwise(tmp_path):
    plain = {"acl_file": tmp_path / "acl", "password_file": tmp_path / "passwords"}
    assert "listener 1883 127.0.0.1\n" in mosquitto_config(**plain)
    assert "listener 1883 10.0.0.1\n" in mosquitto_config(**plain, bind="10.0.0.1")


def test_a_broker_that_anybody_could_use_is_refused(tmp_path):
    with pytest.raises(BrokerConfigError, match="password file"):
        mosquitto_config(acl_file=tmp_path / "acl")
    without_authority = ServerTls(tmp_path / "crt", tmp_path / "key", client_certificates=True)
    with pytest.raises(BrokerConfigError, match="ca_file"):
        mosquitto_config(acl_file=tmp_path / "acl", tls=without_authority)


def test_the_server_cannot_be_an_operator_too():
    with pytest.raises(BrokerConfigError, match="name of its own"):
        mosquitto_acl("plant", ["server"])
