"""Campaigns of slow devices over a broker: late updates, buffered rounds, and crashes amid them."""

import asyncio

import pytest

from broker.messages import DropReason, Verdict
from coordinator.evolution import evolve
from coordinator.fleet import Campaign
from journal import events as e
from tests.fakes.small_fleet import SERVER, DeviceSettings, Kill, SmallFleet, toy_settings
from tests.fakes.virtual_clock import run, simulated
from tests.simulation.test_faults import cut_after

PRESS, LATHE, MILL, FAN = "press", "lathe", "mill", "fan"
SPEEDS = {PRESS: 0.3, LATHE: 0.5, MILL: 0.9, FAN: 2.2}


def slow(seconds):
    return DeviceSettings(trainer={"train_s": seconds})


def devices(**seconds):
    return {name: slow(took) for name, took in seconds.items()}


def late_settings(**rounds):
    known = {"budget": 4, "minimum": 4, "min_devices": 2, "quorum": 1, "late": "use"}
    return toy_settings(rounds=known | rounds)


def buffered_settings(**rounds):
    known = {"mode": "buffered", "buffer": 2, "quorum": 2, "budget": 8, "minimum": 8}
    return toy_settings(rounds=known | {"min_devices": 4} | rounds)


def late_steps(fleet):
    return [step for closed in fleet.events(e.RoundClosed) for step in closed.late]


def replayed(fleet):
    state = Campaign()
    for record in fleet.server.journal.records():
        state = evolve(state, record.event, record.at)
    return state


async def ends_well(fleet):
    """Run a campaign to its end, and check that nothing is left over and nothing counted twice."""
    await fleet.until(fleet.finished)
    await fleet.until(lambda: not any(d.outbox.pending() for d in fleet.devices.values()))
    await fleet.until(lambda: not fleet.retained_blocks())
    accepted = [(one.round, one.device) for one in fleet.events(e.UpdateAccepted)]
    assert len(accepted) == len(set(accepted))
    counted = [(step.round, step.device) for step in late_steps(fleet)]
    for closed in fleet.events(e.RoundClosed):
        counted += [(closed.round, device) for device in closed.aggregated]
    assert len(counted) == len(set(counted)), "an update counted twice"
    assert set(counted) <= set(accepted)
    dropped = {(one.round, one.device) for one in fleet.events(e.DeviceDropped)}
    assert set(accepted) - set(counted) <= dropped, "an accepted update is lost without a word"
    state = replayed(fleet)
    assert state == fleet.state
    assert not state.owed
    assert not state.late


@simulated
async def test_a_device_that_is_too_slow_for_the_deadline_still_takes_part(tmp_path):
    settings = late_settings(deadline_s=2.0)
    async with SmallFleet(tmp_path, devices(press=0.3, lathe=2.5), settings=settings) as fleet:
        await ends_well(fleet)
        steps = late_steps(fleet)
        assert steps
        assert {step.device for step in steps} == {LATHE}
        assert {step.staleness for step in steps} <= {0, 1}
        assert fleet.state.devices[LATHE].rounds_taken == len(steps)
        assert fleet.state.devices[LATHE].rounds_missed == 0
        assert LATHE in fleet.confirmed()


@simulated
async def test_by_default_the_same_device_gives_nothing(tmp_path):
    settings = late_settings(deadline_s=2.0, late="drop")
    async with SmallFleet(tmp_path, devices(press=0.3, lathe=2.5), settings=settings) as fleet:
        await fleet.until(fleet.finished)
        assert fleet.state.devices[LATHE].rounds_taken == 0
        assert {one.reason for one in fleet.events(e.DeviceDropped)} == {DropReason.LATE}


@simulated
async def test_an_update_that_was_cut_off_in_its_round_counts_in_the_next(tmp_path):
    settings = late_settings(budget=3)
    fleet_of_two = devices(press=0.3, lathe=0.3)
    async with SmallFleet(tmp_path, fleet_of_two, settings=settings) as fleet:
        vanished = cut_after(fleet, LATHE, 3)
        await fleet.until(vanished.is_set)
        await fleet.until(fleet.training(2))
        (closed,) = fleet.events(e.RoundClosed)
        assert (closed.aggregated, closed.owed) == ((PRESS,), (LATHE,))
        fleet.broker.heal(LATHE)
        await fleet.until(lambda: fleet.receipt(LATHE) is not None)
        receipt = fleet.receipt(LATHE)
        assert (receipt.round, receipt.verdict) == (1, Verdict.ACCEPTED)
        await ends_well(fleet)
        (step,) = [step for step in late_steps(fleet) if step.round == 1]
        assert step.device == LATHE
        assert fleet.state.devices[LATHE].rounds_missed == 0


@simulated
async def test_in_buffered_rounds_everybody_takes_part_at_its_own_pace(tmp_path):
    async with SmallFleet(tmp_path, devices(**SPEEDS), settings=buffered_settings()) as fleet:
        await ends_well(fleet)
        closed = fleet.events(e.RoundClosed)
        assert all(len(one.aggregated) + len(one.late) >= 2 for one in closed)
        taken = [fleet.state.devices[name].rounds_taken for name in (PRESS, LATHE, MILL, FAN)]
        assert taken == sorted(taken, reverse=True)
        assert taken[-1] >= 1
        assert {d.rounds_missed for d in fleet.state.devices.values()} == {0}
        assert max(step.staleness for step in late_steps(fleet)) >= 2
        invited = [task.device for one in fleet.events(e.RoundOpened) for task in one.tasks]
        assert invited.count(FAN) < invited.count(PRESS), "the busy are left alone"


@simulated
async def test_who_is_late_on_purpose_earns_no_more_than_its_equals(tmp_path):
    lazy = {**devices(press=0.3, lathe=0.3, mill=0.3), FAN: slow(2.0)}
    async with SmallFleet(tmp_path, lazy, settings=buffered_settings()) as fleet:
        await ends_well(fleet)
        account = {name: fleet.state.contribution(name) for name in lazy}
        others = [account[name] for name in (PRESS, LATHE, MILL)]
        # A step that comes late may even lead beyond what it was meant to reach.
        assert account[FAN] < min(others)
        widths = {one.device: one.width for one in fleet.state.allocation.rewards}
        assert widths[FAN] <= min(widths.values())


@pytest.mark.parametrize("place", ["Train", "KeepUpdate", "SendUpdate", "SettleUpdate"])
def test_a_slow_device_that_dies_at_its_late_work_does_it_again(place, tmp_path):
    async def play():
        kill = Kill(FAN, f"before {place}")
        more = {"budget": 16, "minimum": 16, "staleness_limit": 30}
        settings = buffered_settings(deadline_s=20.0, **more)
        async with SmallFleet(tmp_path, devices(**SPEEDS), settings=settings, kill=kill) as fleet:
            await ends_well(fleet)
            assert kill.fired
            assert fleet.state.devices[FAN].rounds_taken >= 1

    run(play())


@pytest.mark.parametrize(
    ("place", "nth"),
    [("journal-before-commit", n) for n in (24, 33, 42)]
    + [("journal-after-commit", n) for n in (27, 36, 45)],
)
def test_a_server_that_dies_among_late_updates_loses_and_doubles_none(place, nth, tmp_path):
    async def play():
        kill = Kill(SERVER, place, nth)
        async with SmallFleet(
            tmp_path, devices(**SPEEDS), settings=buffered_settings(deadline_s=20.0), kill=kill
        ) as fleet:
            await ends_well(fleet)
            assert kill.fired
            assert late_steps(fleet)

    run(play())


@simulated
async def test_a_device_that_flaps_stalls_nobody(tmp_path):
    settings = late_settings(budget=3, deadline_s=3.0, min_devices=3)
    fleet_of_three = devices(press=0.3, lathe=0.3, mill=0.3)
    async with SmallFleet(tmp_path, fleet_of_three, settings=settings) as fleet:

        async def flap():
            while True:
                fleet.broker.cut(MILL)
                await asyncio.sleep(0.7)
                fleet.broker.heal(MILL)
                await asyncio.sleep(0.4)

        flapping = asyncio.get_running_loop().create_task(flap())
        await fleet.until(fleet.finished)
        flapping.cancel()
        fleet.broker.heal(MILL)
        await fleet.until(lambda: not fleet.devices[MILL].outbox.pending())
        assert all(PRESS in one.aggregated for one in fleet.events(e.RoundClosed))
        assert replayed(fleet) == fleet.state
