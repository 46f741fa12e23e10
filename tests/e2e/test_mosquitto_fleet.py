"""The same campaign on mosquitto, set up with the files that we ship: with passwords, with TLS."""

import asyncio
import random
from contextlib import ExitStack

import pytest

from broker.link import Connected, Received
from broker.mqtt import Credentials, MqttLink
from broker.topics import DownTopic, ServerSays, ServerTells, ServerTopic, topic_for
from tests.fakes.real_fleet import (
    FLEET,
    RealDevice,
    RealFleet,
    check_everybody_confirmed,
    check_history,
    json_of,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.mqtt,
    pytest.mark.mosquitto,
    pytest.mark.torch,
    pytest.mark.timeout(240),
]
ONE_ROUND = {"rounds": {"budget": 1, "minimum": 1}}
PRESS, LATHE, MILL = "press", "lathe", "mill"


@pytest.fixture(scope="module")
def fleets(tmp_path_factory):
    """Two fleets side by side: most of their time they would wait for torch."""
    folder = tmp_path_factory.mktemp("mosquitto")
    with ExitStack() as stack:
        passwords = stack.enter_context(
            RealFleet(
                folder / "passwords",
                [RealDevice(PRESS, person=1), RealDevice(LATHE, person=2)],
                campaign=ONE_ROUND,
                broker="mosquitto",
            )
        )
        tls = stack.enter_context(
            RealFleet(
                folder / "tls",
                [RealDevice(MILL, person=3, config={"broker": {"protocol": "5"}})],
                campaign=ONE_ROUND,
                broker="mosquitto-tls",
            )
        )
        for fleet in (passwords, tls):
            fleet.start_all()
        yield passwords, tls


@pytest.mark.parametrize(("which", "scheme"), [(0, "mqtt://"), (1, "mqtts://")])
def test_a_campaign_runs_on_mosquitto_with_the_files_that_we_ship(fleets, which, scheme):
    fleet = fleets[which]
    fleet.until_finished()
    check_history(fleet)
    check_everybody_confirmed(fleet.state)
    assert fleet.state.weights_round == 1
    assert set(fleet.state.round.closed.aggregated) == set(fleet.devices)
    assert str(fleet.broker.address).startswith(scheme)
    assert any(device.deployed for device in fleet.state.devices.values())


def test_an_operator_asks_over_tls_who_is_there(fleets):
    tls = fleets[1]
    tls.until_finished()
    tls.access("operator")
    answer = tls.run(
        *("status", "--config", str(tls.config(MILL)), "--json", "--timeout", "30"),
        *("--password-file", str(tls.folder / "operator" / "password")),
    )
    assert answer.returncode == 0, answer.stderr
    (device,) = json_of(answer.stdout)["devices"]
    assert device["device"] == MILL


def test_over_tls_a_client_without_the_authority_does_not_talk(fleets):
    tls = fleets[1]
    complaint = asyncio.run(first_complaint(tls, Credentials(MILL, "x")))
    assert "certificate" in complaint


def test_the_shipped_access_list_keeps_devices_apart(fleets):
    """A device listens to everything, and gets what is its own."""
    fleet = fleets[0]
    fleet.until_finished()
    heard = asyncio.run(listen_as(fleet, LATHE))
    own = topic_for(FLEET, DownTopic(LATHE, ServerSays.STANDING))
    assert own in heard
    assert topic_for(FLEET, ServerTopic(ServerTells.STATE)) in heard
    assert not [topic for topic in heard if f"/d/{PRESS}/" in topic]


async def listen_as(fleet, device):
    """Return the topics that a device's user is sent when it asks for everything."""
    credentials = Credentials(device, fleet.passwords[device])
    # mosquitto takes the user name as client id: the device itself is disconnected meanwhile.
    link = MqttLink(fleet.broker.address, device, credentials, None, random.Random(1))
    own = topic_for(FLEET, DownTopic(device, ServerSays.STANDING))
    await link.subscribe(["#"])
    await link.start()
    topics = []
    try:
        async with asyncio.timeout(20):
            async for event in link.events():
                if isinstance(event, Connected):
                    # Answered after everything that is retained was sent because of the first.
                    await link.subscribe([own])
                if isinstance(event, Received):
                    topics.append(event.topic)
                if topics.count(own) == 2:
                    return topics
    finally:
        await link.stop()


async def first_complaint(fleet, credentials):
    link = MqttLink(fleet.broker.address, credentials.username, credentials, None, random.Random(1))
    await link.start()
    try:
        async with asyncio.timeout(20):
            async for event in link.events():
                assert not isinstance(event, Connected)
                return event.reason
    finally:
        await link.stop()
