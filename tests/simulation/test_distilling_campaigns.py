"""Campaigns whose server teaches each aggregate what the devices' networks say."""

import msgspec
import numpy as np
import pytest

from coordinator.settings import Aggregation, Contributions, Distillation
from coordinator.settings_checks import SettingsError
from journal.events import RoundScored
from slimfleet.simulation.campaign import SimulatedDevice, simulate
from tests.simulation.test_golden_campaign import SETTINGS, samples

pytestmark = pytest.mark.torch


def settings(**changes):
    how = Distillation(**{"steps": 40, "batch_size": 32, "learning_rate": 0.003, **changes})
    return msgspec.structs.replace(SETTINGS, aggregation=Aggregation(distillation=how))


def fleet():
    """Return three devices, one of them narrow, and two riders."""
    honest = [
        SimulatedDevice(name, samples(200, at), widest=1.0 if at else 0.5)
        for at, name in enumerate("abc")
    ]
    rider = SimulatedDevice("rider", samples(60, 9), rider="replayed-delta")
    return [*honest, rider, SimulatedDevice("zero", samples(60, 8), rider="zero")]


def rounds_of(outcome):
    return [one.event for one in outcome.records if isinstance(one.event, RoundScored)]


@pytest.mark.parametrize("rule", ["feddf", "fed-et"])
def test_the_network_learns_and_riders_earn_nothing(tmp_path, rule):
    given = settings(rule=rule, set_aside=0.3)
    found = simulate(given, fleet(), samples(1500, 99), tmp_path / "run", pool=samples(600, 50).x)
    scored = rounds_of(found)
    assert scored[-1].curve[-1].score > found.state.untrained + 0.3
    assert {event.distilled.rule for event in scored} == {rule}
    assert any(event.distilled.steps for event in scored)
    for rider in ("rider", "zero"):
        assert not found.state.devices[rider].reward.width
    for event in scored:
        assert event.distilled.teachers == 5
        [zero] = [one.score for one in event.contributions if one.device == "zero"]
        assert zero == 0


def test_without_a_pool_validation_recordings_are_set_aside_and_a_replay_is_the_same(tmp_path):
    given = settings(rule="feddf", set_aside=0.4)
    first, second = (
        simulate(given, fleet(), samples(1000, 99), tmp_path / name) for name in ("one", "two")
    )
    assert [event.digest for event in rounds_of(first)] == [e.digest for e in rounds_of(second)]
    assert all(event.distilled.teachers for event in rounds_of(first))
    assert all((first.final[name] == second.final[name]).all() for name in first.final)


def test_a_server_without_validation_data_distils_on_its_pool(tmp_path):
    given = msgspec.structs.replace(
        settings(rule="feddf"), contributions=Contributions(evaluator="devices")
    )
    with pytest.raises(SettingsError, match="name a pool"):
        simulate(given, fleet(), None, tmp_path / "refused")
    found = simulate(given, fleet(), None, tmp_path / "run", pool=samples(600, 50).x)
    for event in rounds_of(found):
        assert event.distilled.steps == 40
        assert event.distilled.loss_after is None
    assert all(np.isfinite(array).all() for array in found.final.values())
