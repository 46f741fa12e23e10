"""Campaigns in which only a part of the fleet is drawn for a round."""

import msgspec
import pytest

from coordinator.settings import Rounds
from journal.events import RewardsAllocated, RoundClosed, RoundOpened, RoundScored
from slimfleet.simulation.campaign import SimulatedDevice, simulate
from tests.simulation.test_golden_campaign import SETTINGS, samples

pytestmark = pytest.mark.torch

FLEET = [f"device-{n}" for n in range(6)]


def played(folder, **rounds):
    known = {"budget": 6, "minimum": 6, "min_devices": 7, "cohort": 3}
    settings = msgspec.structs.replace(SETTINGS, rounds=Rounds(**(known | rounds)))
    devices = [SimulatedDevice(name, samples(200, at)) for at, name in enumerate(FLEET)]
    devices.append(SimulatedDevice("zero", samples(60, 90), rider="zero"))
    found = simulate(settings, devices, samples(1000, 99), folder)
    return found, [record.event for record in found.records]


@pytest.mark.parametrize("selection", ["rotation", "random", "usefulness"])
def test_a_part_of_the_fleet_trains_each_round_and_a_rider_gains_nothing_by_its_rests(
    tmp_path, selection
):
    found, events = played(tmp_path / "run", selection=selection)
    opened = [event for event in events if isinstance(event, RoundOpened)]
    assert {len(event.tasks) for event in opened} == {3}
    scored = [event for event in events if isinstance(event, RoundScored)]
    assert scored[-1].curve[-1].score > found.state.untrained + 0.3
    [allocated] = [event for event in events if isinstance(event, RewardsAllocated)]
    widths = {one.device: one.width for one in allocated.rewards}
    assert widths.get("zero", 0.0) == 0
    if selection == "rotation":
        assert all(widths[name] > 0 for name in FLEET)


def test_with_more_drawn_than_needed_each_round_has_exactly_its_cohort(tmp_path):
    _, events = played(tmp_path / "run", over_selection=2.0)
    closed = [event for event in events if isinstance(event, RoundClosed)]
    assert {len(event.aggregated) for event in closed} == {3}
