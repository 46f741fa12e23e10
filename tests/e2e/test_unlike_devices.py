"""Everything for unlike devices at once, over a real broker."""

import pytest

from journal import events as e
from slimmable.cost import payload_bytes
from slimmable.model import load_model
from slimmable.window import Window, WindowKind
from tests.fakes.real_fleet import (
    OPTIONS,
    RealDevice,
    RealFleet,
    check_everybody_confirmed,
    check_history,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.mqtt,
    pytest.mark.torch,
    pytest.mark.timeout(240),
]
NAMES = ("fan", "lathe", "mill", "press")
ROUNDS = 4


def test_a_fleet_trains_in_cohorts_with_eight_bit_updates_a_trimmed_mean_and_momentum(tmp_path):
    with RealFleet(
        tmp_path / "fleet",
        [RealDevice(name, person) for person, name in enumerate(NAMES, start=1)],
        campaign={
            "rounds": {
                "budget": ROUNDS,
                "minimum": ROUNDS,
                "min_devices": 4,
                "cohort": 3,
                "selection": "rotation",
            },
            "training": {"proximal": 0.01, "masked_loss": True},
            "uploads": {"encoding": "int8"},
            "aggregation": {
                "rule": "trimmed-mean",
                "clip": 2.0,
                "server": {"name": "fedavgm", "momentum": 0.3},
            },
            "width_policy": {"caps": {"fan": 0.5}},
        },
    ) as fleet:
        fleet.start_all()
        fleet.until_finished()

        check_history(fleet)
        check_everybody_confirmed(fleet.state)
        opened = [event for event in fleet.events(e.RoundOpened) if not event.assessment]
        assert {len(event.tasks) for event in opened} == {3}
        drawn = {task.device: task.width for event in opened for task in event.tasks}
        assert set(drawn) == set(NAMES)
        assert drawn["fan"] <= 0.5

        spec = load_model("cnn1d", OPTIONS).spec
        for update in fleet.events(e.UpdateAccepted):
            full = payload_bytes(spec, update.width)
            assert update.size < 0.6 * full, "names and shapes do not shrink, numbers do"
        scored = fleet.events(e.RoundScored)
        assert len({event.optimiser for event in scored}) == ROUNDS
        assert scored[-1].curve[-1].score > fleet.state.untrained


def test_a_fleet_trains_rolling_windows_at_widths_that_are_drawn(tmp_path):
    with RealFleet(
        tmp_path / "fleet",
        [RealDevice(name, person) for person, name in enumerate(NAMES[:2], start=1)],
        campaign={
            "rounds": {"budget": ROUNDS, "minimum": ROUNDS, "min_devices": 2},
            "training": {"window": "rolling", "rule": "own-width", "scaler": True},
            "width_policy": {"dynamic": True, "caps": {"fan": 0.5}},
        },
    ) as fleet:
        fleet.start_all()
        fleet.until_finished()

        check_history(fleet)
        check_everybody_confirmed(fleet.state)
        opened = fleet.events(e.RoundOpened)
        assert [event.window for event in opened] == [
            Window(WindowKind.ROLLING, number) for number in range(ROUNDS)
        ]
        drawn = {
            name: {task.width for event in opened for task in event.tasks if task.device == name}
            for name in NAMES[:2]
        }
        assert max(drawn["fan"]) <= 0.5
        # The same draw as of any replay: devices and rounds differ.
        assert len(set().union(*drawn.values())) > 1
        assert fleet.events(e.RoundScored)[-1].curve[-1].score > fleet.state.untrained
