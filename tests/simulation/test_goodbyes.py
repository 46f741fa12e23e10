"""Who is asked to end says goodbye last, even if it was looking for its broker at that moment."""

import asyncio

import pytest

from broker.messages import LinkStatus
from broker.topics import DeviceSays, ServerTells, ServerTopic, UpTopic
from tests.fakes.small_fleet import SERVER, DeviceSettings, SmallFleet
from tests.fakes.virtual_clock import simulated

PRESS = "press"
BIRTH = UpTopic(PRESS, DeviceSays.BIRTH)
STATE = ServerTopic(ServerTells.STATE)


async def settle():
    await asyncio.sleep(5.0)  # virtual: whatever was still to be said has been said


@pytest.mark.parametrize("away", [False, True])
@simulated
async def test_nothing_follows_a_devices_goodbye(tmp_path, away):
    async with SmallFleet(tmp_path, {PRESS: DeviceSettings()}) as fleet:
        await fleet.until(lambda: (birth := fleet.retained(BIRTH)) and birth.status == "online")
        device = fleet.devices[PRESS]
        if away:
            fleet.broker.cut(PRESS)
        device.alive = False  # it ends by itself, on purpose
        ending = asyncio.ensure_future(device.agent.stop())
        fleet.broker.heal(PRESS)
        await ending
        await settle()
        said = fleet.retained(BIRTH)
        assert (said.status, said.cause) in {
            (LinkStatus.OFFLINE, "shutdown"),
            # Without a connection in time, the broker knows it from the will.
            *([(LinkStatus.OFFLINE, "will")] if away else []),
        }


@pytest.mark.parametrize("away", [False, True])
@simulated
async def test_nothing_follows_the_servers_goodbye(tmp_path, away):
    async with SmallFleet(tmp_path, {PRESS: DeviceSettings()}) as fleet:
        await fleet.until(lambda: (state := fleet.retained(STATE)) and state.status == "online")
        if away:
            fleet.broker.cut(SERVER)
        fleet.server.alive = False
        ending = asyncio.ensure_future(fleet.server.coordinator.stop())
        fleet.broker.heal(SERVER)
        await ending
        await settle()
        assert fleet.retained(STATE).status is LinkStatus.OFFLINE
