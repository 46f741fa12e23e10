"""Buffered rounds and late updates with real training and real measurements."""

import msgspec
import numpy as np
import pytest

from coordinator.settings import Contributions, Rounds
from journal.events import RewardsAllocated, RoundClosed, RoundScored
from slimfleet.simulation.campaign import SimulatedDevice, simulate
from slimfleet.simulation.tiers import Tier
from tests.simulation.test_golden_campaign import SETTINGS, samples

pytestmark = pytest.mark.torch

FLEET = [f"device-{n}" for n in range(6)]
RIDERS = {"rider-replay": "replayed-delta", "rider-zero": "zero"}


def played(folder, **rounds):
    known = {"budget": 8, "minimum": 8, "min_devices": 8}
    settings = msgspec.structs.replace(SETTINGS, rounds=Rounds(**(known | rounds)))
    devices = [SimulatedDevice(name, samples(200, at)) for at, name in enumerate(FLEET)]
    devices += [
        SimulatedDevice(name, samples(60, 90 + at), rider=kind)
        for at, (name, kind) in enumerate(RIDERS.items())
    ]
    found = simulate(settings, devices, samples(1000, 99), folder)
    return found, [record.event for record in found.records]


@pytest.mark.parametrize(
    "rounds",
    [
        {"mode": "buffered", "buffer": 4},
        {"cohort": 4, "over_selection": 2.0, "late": "use"},
    ],
    ids=["buffered", "late surplus"],
)
def test_the_network_learns_from_late_updates_and_riders_gain_nothing_by_them(tmp_path, rounds):
    found, events = played(tmp_path / "run", **rounds)
    closed = [event for event in events if isinstance(event, RoundClosed)]
    late = [step for event in closed for step in event.late]
    assert late
    assert {step.staleness for step in late} <= {0, 1, 2, 3}
    scored = [event for event in events if isinstance(event, RoundScored)]
    assert scored[-1].curve[-1].score > found.state.untrained + 0.3
    [allocated] = [event for event in events if isinstance(event, RewardsAllocated)]
    widths = {one.device: one.width for one in allocated.rewards}
    assert {name: widths.get(name, 0.0) for name in RIDERS} == dict.fromkeys(RIDERS, 0.0)
    assert sum(widths.get(name, 0.0) > 0 for name in FLEET) >= 5
    entered = [one for event in scored for one in event.contributions if one.late]
    digests = {one.update for event in scored for one in event.contributions}
    assert all(one.late not in digests for one in entered)


def on_machines(folder, **rounds):
    """Four quick machines and two that take eight times as long."""
    known = {"budget": 12, "minimum": 12, "min_devices": 6, "deadline_s": 30.0}
    settings = msgspec.structs.replace(
        SETTINGS,
        rounds=Rounds(**(known | rounds)),
        contributions=Contributions(coalitions=10),
    )
    quick, old = Tier(name="quick", step_s=0.01), Tier(name="old", step_s=0.08)
    devices = [
        SimulatedDevice(name, samples(200, at), tier=old if at < 2 else quick)
        for at, name in enumerate(FLEET)
    ]
    found = simulate(settings, devices, samples(1000, 99), folder)
    closed = [one for one in found.records if isinstance(one.event, RoundClosed)]
    return found, closed[-1].at - found.records[0].at


def test_buffered_rounds_do_not_wait_for_slow_machines_and_these_take_part_all_the_same(tmp_path):
    waiting, waited_s = on_machines(tmp_path / "synchronous")
    found, seconds = on_machines(tmp_path / "buffered", mode="buffered", buffer=2)
    assert waiting.state.trained_rounds == found.state.trained_rounds == 12
    assert seconds < waited_s / 2
    late = [
        step
        for record in found.records
        if isinstance(record.event, RoundClosed)
        for step in record.event.late
    ]
    assert max(step.staleness for step in late if step.device in FLEET[:2]) >= 4
    for name in FLEET:
        device = found.state.devices[name]
        assert device.rounds_taken >= 1
        assert device.rounds_missed == 0
    given = [found.state.contribution(name) for name in FLEET]
    assert np.mean(given[:2]) < np.mean(given[2:])


def test_where_late_updates_are_used_a_machine_that_is_slower_than_it_says_is_not_lost(tmp_path):
    rounds = {"deadline_s": 4.0, "budget": 8, "minimum": 8, "late": "use", "min_devices": 2}
    settings = msgspec.structs.replace(SETTINGS, rounds=Rounds(**rounds))
    honest, busy = Tier(name="honest", step_s=0.01), Tier(name="busy", step_s=0.5, claims=0.2)
    devices = [
        SimulatedDevice("press", samples(200, 0), tier=honest),
        SimulatedDevice("fan", samples(200, 1), tier=busy),
    ]
    found = simulate(settings, devices, samples(1000, 99), tmp_path / "run")
    fan = found.state.devices["fan"]
    assert fan.rounds_taken >= 2
    assert fan.rounds_missed == 0
    closed = [one.event for one in found.records if isinstance(one.event, RoundClosed)]
    assert [step.device for event in closed for step in event.late][:1] == ["fan"]
    assert "fan" in closed[-1].aggregated, "its width or steps have followed its pace"
