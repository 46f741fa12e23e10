"""Two agents with one id: one of them counts for nothing, and the operator learns of it."""

import asyncio

from broker import messages as m
from broker.topics import DeviceSays, UpTopic
from journal import events as e
from monitor.device_data import Seen, device_rows
from monitor.fleet_view import FleetView
from monitor.folding import fold
from tests.fakes.small_fleet import DeviceSettings, SmallFleet
from tests.fakes.virtual_clock import simulated

PRESS, TWICE = "press", "twice"
ALIVE = UpTopic(TWICE, DeviceSays.ALIVE)
BIRTH = UpTopic(TWICE, DeviceSays.BIRTH)


def refusals(fleet):
    return [event for event in fleet.events(e.MessageRefused) if event.sender == TWICE]


def be_born(fleet, session):
    online = m.Birth(status=m.LinkStatus.ONLINE, agent="1.0", session=session, seq=1)
    fleet.inject(TWICE, BIRTH, online)


async def beat(fleet, sessions, times):
    for number in range(times):
        for session in sessions:
            fleet.inject(TWICE, ALIVE, m.Alive(session=session, seq=number + 2), retain=False)
            await asyncio.sleep(0.2)
        await asyncio.sleep(1.0)


@simulated
async def test_two_sessions_in_turn_are_told_once_and_shown(tmp_path):
    async with SmallFleet(tmp_path, {PRESS: DeviceSettings()}) as fleet:
        await asyncio.sleep(1.0)
        be_born(fleet, 7)
        be_born(fleet, 3)
        await beat(fleet, (7, 3), 20)
        (refused,) = refusals(fleet)
        assert "session 3 goes on beside session 7: two agents use this id" in refused.reason
        view = FleetView()
        for record in fleet.server.journal.records():
            fold(view, record.at, record.event)
    (row,) = [row for row in device_rows(view, Seen(now=view.at)) if row["device"] == TWICE]
    assert "two agents use this id" in row["last_error"]
    assert any("two agents use this id" in one.text for one in view.incidents)
    assert view.devices[TWICE].session == 7


@simulated
async def test_an_agent_that_started_anew_is_no_second_one(tmp_path):
    async with SmallFleet(tmp_path, {PRESS: DeviceSettings()}) as fleet:
        await asyncio.sleep(1.0)
        be_born(fleet, 6)
        await beat(fleet, (6,), 5)
        be_born(fleet, 7)
        fleet.inject(TWICE, ALIVE, m.Alive(session=6, seq=50), retain=False)  # was on its way
        await beat(fleet, (7,), 20)
        assert refusals(fleet) == []
