"""Late updates, and networks that share no weight, over a real broker with real processes."""

import pytest

from journal import events as e
from slimfleet import watch
from tests.fakes.real_fleet import (
    OPTIONS,
    SERVER,
    RealDevice,
    RealFleet,
    check_everybody_confirmed,
    write_portion,
    write_watch_data,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.mqtt,
    pytest.mark.torch,
    pytest.mark.timeout(240),
]


def test_whoever_misses_a_buffered_round_counts_in_a_later_one(tmp_path):
    names = ("fan", "lathe", "mill")
    with RealFleet(
        tmp_path / "fleet",
        [RealDevice(name, person) for person, name in enumerate(names, start=1)],
        campaign={
            "rounds": {
                "budget": 6,
                "minimum": 6,
                "min_devices": 3,
                "mode": "buffered",
                "buffer": 2,
            },
        },
    ) as fleet:
        fleet.start_all()
        fleet.until_finished()

        check_everybody_confirmed(fleet.state)
        closed = fleet.events(e.RoundClosed)
        assert all(len(event.aggregated) + len(event.late) >= 2 for event in closed)
        assert any(event.owed for event in closed)
        steps = [step for event in closed for step in event.late]
        assert steps, closed
        assert all(0 < step.weight < 1 and step.staleness >= 1 for step in steps)
        # What was late is in the aggregate once, and so is what was in time.
        counted = [(name, event.round) for event in closed for name in event.aggregated]
        counted += [(step.device, step.round) for step in steps]
        assert len(counted) == len(set(counted))
        assert all(fleet.state.devices[name].rounds_taken for name in names)
        assert fleet.events(e.RoundScored)[-1].curve[-1].score > fleet.state.untrained


def with_a_pool(fleet):
    """Give the server recordings that every device may see, besides the devices' own."""
    write_watch_data(fleet)
    write_portion(fleet.folder / SERVER / "pool.npz", watch.VALIDATION_PERSON)


def test_devices_with_networks_of_their_own_learn_from_what_the_others_say_of_public_inputs(
    tmp_path,
):
    unlike = {"train": {"data": "own.npz", "model": "mlp", "options": other_network()}}
    with RealFleet(
        tmp_path / "fleet",
        [RealDevice("fan", 1), RealDevice("mill", 2, config=unlike)],
        campaign={
            "rounds": {"budget": 2, "minimum": 2, "quorum": 2},
            "widths": [1.0],
            "rewards": {"ladder": [1.0]},
            "contributions": {"evaluator": "devices"},
            "exchange": "public-scores",
            "knowledge": {"weight": 0.5, "digest_steps": 4, "samples": 32},
        },
        server={"pool": "pool.npz", "validation": ""},
        prepare=with_a_pool,
    ) as fleet:
        fleet.start_all()
        fleet.until_finished()

        updates = fleet.events(e.UpdateAccepted)
        assert {(one.round, one.device) for one in updates} == {
            (number, name) for number in (1, 2) for name in ("fan", "mill")
        }
        assert {one.purpose for one in fleet.events(e.BlobShared)} >= {"public"}
        # What travels are rows of scores, the same whatever the network: no weight of either does.
        assert len({one.size for one in updates}) == 1
        assert max(one.size for one in updates) < 10_000
        assert all(device.local for device in fleet.state.devices.values())
        assert not fleet.events(e.ReleaseBuilt)


def other_network():
    """Return the options of a network that shares no tensor with the fleet's."""
    return {
        "input_shape": [OPTIONS["sensors"], OPTIONS["length"]],
        "classes": OPTIONS["classes"],
        "hidden": [12],
    }
