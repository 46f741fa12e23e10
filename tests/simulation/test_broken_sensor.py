"""A device whose sensor went wrong ruins a mean of updates; with a robust rule it does not."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from coordinator.settings import Aggregation
from journal.events import RewardsAllocated, RoundScored
from slimfleet.simulation.campaign import SimulatedDevice, simulate
from tests.simulation.test_golden_campaign import SETTINGS, samples

pytestmark = pytest.mark.torch

HONEST = ("fan", "lathe", "mill", "press")


def played(folder, **aggregation):
    """Return the score at full width after three rounds, and the reward widths."""
    broken = samples(200, 50)
    wild = np.random.default_rng(5).normal(scale=30.0, size=broken.x.shape)
    devices = [SimulatedDevice(name, samples(200, at)) for at, name in enumerate(HONEST)]
    devices.append(SimulatedDevice("broken", replace(broken, x=wild.astype(np.float32))))
    settings = msgspec.structs.replace(SETTINGS, aggregation=Aggregation(**aggregation))
    outcome = simulate(settings, devices, samples(1000, 99), folder)
    events = [record.event for record in outcome.records]
    scored = [event for event in events if isinstance(event, RoundScored)]
    [allocated] = [event for event in events if isinstance(event, RewardsAllocated)]
    return scored[-1].curve[-1].score, {one.device: one.width for one in allocated.rewards}


def test_one_broken_sensor_ruins_the_mean_and_no_robust_rule(tmp_path):
    ruined, _ = played(tmp_path / "mean")
    for rule in ({"rule": "median"}, {"rule": "trimmed-mean"}, {"clip": 1.0}):
        score, widths = played(tmp_path / "-".join(map(str, rule.values())), **rule)
        assert score > ruined + 0.3
        assert widths["broken"] < min(widths[name] for name in HONEST)
