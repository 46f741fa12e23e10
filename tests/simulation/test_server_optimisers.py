"""Campaigns in which the server remembers earlier rounds."""

import msgspec
import pytest

from coordinator.duties import needed_blobs
from coordinator.settings import Aggregation, ServerOptimiser
from journal.events import RoundScored
from slimfleet.simulation.campaign import SimulatedDevice, simulate
from tests.simulation.test_golden_campaign import SETTINGS, samples

pytestmark = pytest.mark.torch


@pytest.mark.parametrize(
    "server",
    [
        ServerOptimiser(name="fedavgm", rate=0.5, momentum=0.5),
        ServerOptimiser(name="fedadam", rate=0.03),
        ServerOptimiser(name="fedyogi", rate=0.03),
    ],
    ids=lambda server: server.name,
)
def test_the_network_learns_and_whoever_repeats_its_last_change_earns_nothing(tmp_path, server):
    devices = [SimulatedDevice(name, samples(200, at)) for at, name in enumerate("abc")]
    devices.append(SimulatedDevice("rider", samples(60, 9), rider="replayed-delta"))
    devices.append(SimulatedDevice("zero", samples(60, 8), rider="zero"))
    settings = msgspec.structs.replace(SETTINGS, aggregation=Aggregation(server=server))
    found = simulate(settings, devices, samples(1000, 99), tmp_path / "run")
    scored = [record.event for record in found.records if isinstance(record.event, RoundScored)]
    assert scored[-1].curve[-1].score > found.state.untrained + 0.3
    assert len({event.optimiser for event in scored}) == len(scored)
    assert found.state.optimiser == scored[-1].optimiser
    assert found.state.optimiser in needed_blobs(found.state)
    for rider in ("rider", "zero"):
        assert not found.state.devices[rider].reward.width
    for event in scored:
        [zero] = [one.score for one in event.contributions if one.device == "zero"]
        assert zero == 0
