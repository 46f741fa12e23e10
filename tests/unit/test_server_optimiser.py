"""The server's optimisers against their definitions, over slices of different widths."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.aggregation.readers import readers_of
from coordinator.aggregation.rules import aggregate, put_together, steps_of
from coordinator.aggregation.server_optimiser import FIRST, SECOND, move
from coordinator.aggregation.steps import combine
from coordinator.aggregation.updates import DeviceUpdate
from coordinator.settings import Aggregation, ServerOptimiser, Settings
from coordinator.settings_checks import SettingsError
from slimmable.slicing import coverage, slice_state
from tests.unit.test_aggregation import SPEC, WIDTHS, random_state, rounds

NAMES = ("fedavg", "fedavgm", "fedadam", "fedyogi")
any_optimiser = st.builds(
    ServerOptimiser,
    name=st.sampled_from(NAMES),
    rate=st.sampled_from([0.01, 0.5, 1.0]),
    momentum=st.sampled_from([0.0, 0.5, 0.9]),
    second_momentum=st.sampled_from([0.5, 0.99]),
    adaptivity=st.sampled_from([1e-3, 0.1]),
)


def moved(optimiser, base, updates, memory):
    """Move the model by a round of updates; returns the new state and what is remembered."""
    change, found = change_and_move(optimiser, base, updates, memory)
    return found.state(change), found.memory


def change_and_move(optimiser, base, updates, memory):
    change = put_together(base, SPEC, readers_of(SPEC, updates)).change
    places = {update.place for update in updates}
    return change, move(optimiser, base, SPEC, change, places, memory)


def change_of(base, updates):
    plain = aggregate(base, SPEC, updates)
    return {name: plain[name].astype(np.float64) - base[name] for name in SPEC.parameters}


def naive(optimiser, changes):
    """Play rounds in which everything is held; returns the move of each round."""
    first = {name: np.zeros(SPEC.shape(name, 1.0)) for name in SPEC.parameters}
    second = {name: np.full(SPEC.shape(name, 1.0), optimiser.adaptivity**2) for name in first}
    for change in changes:
        out = {}
        for name, delta in change.items():
            beta, squares = optimiser.momentum, delta**2
            if optimiser.name == "fedavg":
                out[name] = optimiser.rate * delta
                continue
            if optimiser.name == "fedavgm":
                first[name] = beta * first[name] + delta
                out[name] = optimiser.rate * first[name]
                continue
            first[name] = beta * first[name] + (1 - beta) * delta
            fresh = 1 - optimiser.second_momentum
            if optimiser.name == "fedadam":
                second[name] = optimiser.second_momentum * second[name] + fresh * squares
            else:
                second[name] -= fresh * squares * np.sign(second[name] - squares)
            out[name] = (
                optimiser.rate * first[name] / (np.sqrt(second[name]) + optimiser.adaptivity)
            )
        yield out


@given(any_optimiser, st.integers(0, 2**32 - 1), st.integers(1, 3))
def test_every_round_moves_as_the_paper_says(optimiser, seed, count):
    rng = np.random.default_rng(seed)
    state, memory, changes, found = random_state(rng), {}, [], []
    for _ in range(count):
        updates = [DeviceUpdate(f"d{n}", 1.0, random_state(rng)) for n in range(2)]
        changes.append(change_of(state, updates))
        after, memory = moved(optimiser, state, updates, memory)
        found.append({name: after[name] - state[name] for name in SPEC.parameters})
        state = after
    for ours, theirs in zip(found, naive(optimiser, changes), strict=True):
        for name in SPEC.parameters:
            np.testing.assert_allclose(ours[name], theirs[name], rtol=2e-3, atol=2e-4)


@given(rounds())
def test_plain_averaging_remembers_nothing_and_changes_not_a_bit(given_round):
    base, updates = given_round
    after, memory = moved(ServerOptimiser(), base, updates, {})
    plain = aggregate(base, SPEC, updates)
    assert memory == {}
    assert all((after[name] == plain[name]).all() for name in SPEC.tensors)


@given(any_optimiser, rounds(st.sampled_from(WIDTHS[:3])), st.integers(0, 2**32 - 1))
def test_what_no_device_holds_neither_moves_nor_is_forgotten(optimiser, given_round, seed):
    base, updates = given_round
    whole = [DeviceUpdate("before", 1.0, random_state(np.random.default_rng(seed)))]
    state, memory = moved(optimiser, base, whole, {})
    after, later = moved(optimiser, state, updates, memory)
    widest = max(update.width for update in updates)
    for name in SPEC.parameters:
        outside = np.ones(base[name].shape, bool)
        outside[coverage(SPEC, name, widest)] = False
        assert (after[name][outside] == state[name][outside]).all()
        for key in (FIRST + name, SECOND + name):
            if key in memory:
                assert (later[key][outside] == memory[key][outside]).all()


@given(any_optimiser, rounds())
def test_the_step_of_a_device_that_changes_nothing_stays_zero(optimiser, given_round):
    base, updates = given_round
    idle = DeviceUpdate("idle", 0.5, slice_state(base, SPEC, 0.5))
    [step] = [one for one in steps_of(base, SPEC, [*updates, idle]) if one.device == "idle"]
    _, found = change_and_move(optimiser, base, [*updates, idle], {})
    scaled = found.scaled(SPEC, step.place, step.change)
    assert not any(array.any() for array in scaled.values())


@given(any_optimiser, rounds())
def test_the_scaled_steps_of_all_devices_make_the_move(optimiser, given_round):
    base, updates = given_round
    change, found = change_and_move(optimiser, base, updates, {})
    steps = [
        replace(step, change=found.scaled(SPEC, step.place, step.change))
        for step in steps_of(base, SPEC, updates)
    ]
    whole, summed = found.state(change), combine(found.base, SPEC, steps)
    for name in SPEC.tensors:
        np.testing.assert_allclose(summed[name], whole[name], rtol=1e-5, atol=1e-5)


def test_momentum_goes_on_where_devices_stand_still():
    base = random_state(np.random.default_rng(0))
    optimiser = ServerOptimiser(name="fedavgm", momentum=0.5)
    up = {name: array + np.float32(1) for name, array in base.items()}
    first, memory = moved(optimiser, base, [DeviceUpdate("a", 1.0, up)], {})
    second, _ = moved(optimiser, first, [DeviceUpdate("a", 1.0, first)], memory)
    for name in SPEC.parameters:
        np.testing.assert_allclose(second[name] - first[name], 0.5, atol=1e-5)


@pytest.mark.parametrize(
    "numbers",
    [
        {"rate": 0.0},
        {"rate": math.nan},
        {"momentum": 1.0},
        {"second_momentum": -0.1},
        {"adaptivity": 0.0},
    ],
)
def test_numbers_that_make_no_sense_are_refused(numbers):
    server = ServerOptimiser(name="fedadam", **numbers)
    [name] = numbers
    with pytest.raises(SettingsError, match=f"aggregation.server.{name}"):
        Settings(fleet="plant", model="mlp", aggregation=Aggregation(server=server)).check()
