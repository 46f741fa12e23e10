"""Campaigns of the width family: windows, rules of local training, drawn widths, the scaler."""

import msgspec
import numpy as np
import pytest

from coordinator.settings import Contributions, Rounds, WidthPolicy
from journal.events import RewardsAllocated, RoundOpened, RoundScored
from slimfleet.simulation.campaign import SimulatedDevice, simulate
from slimmable.evaluation import initial_state
from slimmable.model import load_model
from slimmable.slicing import coverage
from tests.simulation.test_golden_campaign import SETTINGS, samples

pytestmark = pytest.mark.torch

MODEL = load_model(SETTINGS.model, SETTINGS.options)
WINDOWS = ("prefix", "rolling", "random")
RULES = ("own-width", "ordered-dropout", "sandwich", "all-widths")
MIXED = {"press": 1.0, "lathe": 0.5, "fan": 0.25}
NARROW = {"press": 0.5, "lathe": 0.5, "fan": 0.25}


def played(folder, training, *, fleet=MIXED, rounds=6, dynamic=False):
    changed = msgspec.convert(
        msgspec.to_builtins(SETTINGS.training) | training, type(SETTINGS.training)
    )
    settings = msgspec.structs.replace(
        SETTINGS,
        training=changed,
        rounds=Rounds(budget=rounds, minimum=rounds),
        contributions=Contributions(coalitions=8),
        width_policy=WidthPolicy(dynamic=dynamic),
    )
    devices = [
        SimulatedDevice(name, samples(300, at), widest=widest)
        for at, (name, widest) in enumerate(fleet.items())
    ]
    devices.append(SimulatedDevice("zero", samples(60, 90), rider="zero"))
    found = simulate(settings, devices, samples(1000, 99), folder)
    return found, [record.event for record in found.records]


def of(kind, events):
    return [event for event in events if isinstance(event, kind)]


def check_learned(found, events):
    """The full network has learned, and who only sent back what it got has earned nothing."""
    scores = of(RoundScored, events)[-1]
    [full] = [point.score for point in scores.curve if point.width == 1.0]
    assert full > found.state.untrained + 0.25
    [allocated] = of(RewardsAllocated, events)
    widths = {one.device: one.width for one in allocated.rewards}
    assert widths.get("zero", 0.0) == 0
    assert max(widths.values()) > 0


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("window", WINDOWS)
def test_a_mixed_fleet_learns_with_every_window_and_rule(tmp_path, window, rule):
    found, events = played(tmp_path / "run", {"window": window, "rule": rule})
    check_learned(found, events)
    assert {event.window.kind for event in of(RoundOpened, events)} == {window}


@pytest.mark.parametrize("window", WINDOWS)
def test_a_narrow_fleet_trains_the_whole_network_only_where_the_window_moves(tmp_path, window):
    rounds = 9
    found, events = played(
        tmp_path / "run", {"window": window, "rule": "own-width"}, fleet=NARROW, rounds=rounds
    )
    first = initial_state(MODEL, SETTINGS.seed)
    moved = {name: found.final[name] != first[name] for name in MODEL.spec.parameters}
    outside = {}
    for name, array in moved.items():
        beyond = np.ones(array.shape, bool)
        beyond[coverage(MODEL.spec, name, 0.5)] = False
        outside[name] = array[beyond]
    if window == "prefix":
        assert not any(array.any() for array in outside.values())
        return
    trained = np.concatenate([array.ravel() for array in outside.values()])
    assert trained.mean() > 0.6
    held = {name: np.zeros(array.shape, bool) for name, array in moved.items()}
    for event in of(RoundOpened, events):
        for width in {task.width for task in event.tasks}:
            for name, array in held.items():
                array[coverage(MODEL.spec, name, width, event.window)] = True
    assert not any((moved[name] & ~held[name]).any() for name in moved)
    # Nobody trains it, but everybody comes to train a part of it: the full width is offered.
    assert of(RoundScored, events)[-1].curve[-1].width == 1.0
    assert "too few" not in of(RoundScored, events)[-1].curve[-1].why
    check_learned(found, events)


@pytest.mark.parametrize("window", ["rolling", "random"])
def test_a_campaign_with_moving_windows_is_the_same_each_time(tmp_path, window):
    runs = [played(tmp_path / name, {"window": window}, rounds=2)[0] for name in ("one", "two")]
    first, second = (run.final for run in runs)
    assert all((first[name] == second[name]).all() for name in first)


@pytest.mark.parametrize("window", ["rolling", "random"])
def test_whoever_repeats_what_changed_in_its_slice_earns_nothing_though_windows_move(
    tmp_path, window
):
    settings = msgspec.convert(
        msgspec.to_builtins(SETTINGS)
        | {"training": msgspec.to_builtins(SETTINGS.training) | {"window": window}},
        type(SETTINGS),
    )
    devices = [SimulatedDevice(name, samples(200, at)) for at, name in enumerate("abc")]
    devices.append(SimulatedDevice("narrow", samples(60, 9), widest=0.5, rider="replayed-delta"))
    devices.append(SimulatedDevice("wide", samples(60, 8), rider="replayed-delta"))
    found = simulate(settings, devices, samples(1000, 99), tmp_path / "run")
    assert all(found.state.devices[name].reward.width for name in "abc")
    for rider in ("narrow", "wide"):
        assert not found.state.devices[rider].reward.width


@pytest.mark.parametrize("server_rule", ["median", "fedadam"])
def test_robust_rules_and_server_optimisers_work_with_windows(tmp_path, server_rule):
    aggregation = (
        {"rule": "median"}
        if server_rule == "median"
        else {"server": {"name": "fedadam", "rate": 0.03}}
    )
    settings = msgspec.convert(
        msgspec.to_builtins(SETTINGS)
        | {
            "training": msgspec.to_builtins(SETTINGS.training) | {"window": "rolling"},
            "rounds": {"budget": 4, "minimum": 4},
            "aggregation": aggregation,
            "uploads": {"encoding": "int8"},
        },
        type(SETTINGS),
    )
    devices = [
        SimulatedDevice(name, samples(300, at), widest=widest)
        for at, (name, widest) in enumerate({**MIXED, "mill": 0.5}.items())
    ]
    devices.append(SimulatedDevice("zero", samples(60, 90), rider="zero"))
    found = simulate(settings, devices, samples(1000, 99), tmp_path / "run")
    events = [record.event for record in found.records]
    assert of(RoundScored, events)[-1].curve[-1].score > found.state.untrained + 0.1
    for event in of(RoundScored, events):
        [zero] = [one.score for one in event.contributions if one.device == "zero"]
        assert zero == 0


def test_with_drawn_widths_and_the_scaler_a_fleet_learns_and_keeps_the_full_width(tmp_path):
    training = {"rule": "own-width", "scaler": True, "masked_loss": True}
    found, events = played(tmp_path / "run", training, dynamic=True, rounds=8)
    check_learned(found, events)
    drawn = {}
    for event in of(RoundOpened, events):
        assert event.training.scaler
        for task in event.tasks:
            drawn.setdefault(task.device, set()).add(task.width)
    assert len(drawn["press"]) > 1
    assert max(drawn["lathe"]) <= 0.5
    assert drawn["fan"] == {0.25}
    assert {event.curve[-1].width for event in of(RoundScored, events)} == {1.0}
