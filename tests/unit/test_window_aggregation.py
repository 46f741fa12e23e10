"""Aggregation over windows that differ, against a naive walk over every coordinate."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.aggregation.rules import aggregate, steps_of
from coordinator.aggregation.server_optimiser import move
from coordinator.aggregation.steps import Step, combine
from coordinator.aggregation.updates import DeviceUpdate
from coordinator.contribution.flat_steps import FlatSteps, class_rows
from coordinator.contribution.novelty import novel_steps
from coordinator.settings import Aggregation, ServerOptimiser
from slimmable.slicing import coverage, slice_state
from slimmable.task import Task
from slimmable.window import Window, WindowKind
from tests.unit.test_aggregation import ANY_WIDTH, SPEC, WIDTHS, random_state, rounds
from tests.unit.test_novelty import SPEC as WIDE

WINDOWS = st.builds(Window, st.sampled_from(list(WindowKind)), st.integers(0, 50))
RULES = (
    Aggregation(),
    Aggregation(rule="median"),
    Aggregation(rule="trimmed-mean", trim=0.3),
    Aggregation(clip=1.5),
)
ANY_RULE = pytest.mark.parametrize("how", RULES, ids=["mean", "median", "trimmed", "clipped"])


@st.composite
def moving_rounds(draw, widths=ANY_WIDTH):
    """A base and updates of one round, most often of one window, or of several."""
    base, updates = draw(rounds(widths))
    windows = draw(st.one_of(WINDOWS.map(lambda one: [one]), st.lists(WINDOWS, min_size=2)))
    return base, [
        replace(update, window=windows[n % len(windows)]) for n, update in enumerate(updates)
    ]


def changes_at(base, updates, name, place):
    """Every (change, weight) of one coordinate, found by looking for its place in each slice."""
    for update in updates:
        indices = SPEC.indices(name, update.width, update.window)
        own = [
            index.tolist().index(at)
            for index, at in zip(indices, place, strict=True)
            if at in index
        ]
        if len(own) == len(place):
            yield float(update.state[name][tuple(own)]) - float(base[name][place]), update.weight


@given(moving_rounds())
def test_the_mean_of_every_coordinate_is_that_of_those_who_held_it(given_round):
    base, updates = given_round
    found = aggregate(base, SPEC, updates)
    for name in SPEC.parameters:
        for place in np.ndindex(base[name].shape):
            there = list(changes_at(base, updates, name, place))
            total = sum(weight for _, weight in there)
            moved = sum(change * weight for change, weight in there) / total if there else 0.0
            assert found[name][place] == pytest.approx(base[name][place] + moved, abs=2e-5)


@given(moving_rounds())
def test_the_median_of_every_coordinate_is_that_of_those_who_held_it(given_round):
    base, updates = given_round
    updates = [replace(update, weight=1.0) for update in updates]
    found = aggregate(base, SPEC, updates, RULES[1])
    for name in SPEC.parameters:
        for place in np.ndindex(base[name].shape):
            there = [change for change, _ in changes_at(base, updates, name, place)]
            moved = float(np.median(there)) if there else 0.0
            assert found[name][place] == pytest.approx(base[name][place] + moved, abs=2e-5)


@ANY_RULE
@given(given_round=moving_rounds(st.sampled_from(WIDTHS[:3])))
def test_what_no_window_holds_does_not_move_at_all(how, given_round):
    base, updates = given_round
    found = aggregate(base, SPEC, updates, how)
    for name in SPEC.parameters:
        untouched = np.ones(base[name].shape, bool)
        for update in updates:
            untouched[coverage(SPEC, name, *update.place)] = False
        assert (found[name][untouched] == base[name][untouched]).all()


@ANY_RULE
@given(given_round=moving_rounds(), random=st.randoms(use_true_random=False))
def test_the_order_of_updates_does_not_change_a_single_bit(how, given_round, random):
    base, updates = given_round
    shuffled = list(updates)
    random.shuffle(shuffled)
    first, second = (aggregate(base, SPEC, one, how) for one in (updates, shuffled))
    assert all((first[name] == second[name]).all() for name in SPEC.tensors)


@ANY_RULE
@given(given_round=moving_rounds())
def test_devices_that_send_back_what_they_were_given_change_nothing(how, given_round):
    base, updates = given_round
    idle = [replace(one, state=slice_state(base, SPEC, *one.place)) for one in updates]
    found = aggregate(base, SPEC, idle, how)
    assert all((found[name] == base[name]).all() for name in SPEC.tensors)


@ANY_RULE
@given(seed=st.integers(0, 2**32 - 1), window=WINDOWS, width=ANY_WIDTH, count=st.integers(1, 5))
def test_devices_that_agree_are_followed_where_their_window_lies(how, seed, window, width, count):
    rng = np.random.default_rng(seed)
    base, wanted = random_state(rng), random_state(rng)
    agreed = slice_state(wanted, SPEC, width, window)
    updates = [DeviceUpdate(f"d{n}", width, agreed, 1.0, window) for n in range(count)]
    found = slice_state(aggregate(base, SPEC, updates, how), SPEC, width, window)
    for name in SPEC.parameters:
        np.testing.assert_allclose(found[name], agreed[name], atol=1e-5)


@given(moving_rounds(st.sampled_from(WIDTHS[:3])))
def test_a_server_optimiser_scales_steps_where_their_windows_lie(given_round):
    base, updates = given_round
    steps = steps_of(base, SPEC, updates)
    optimiser = ServerOptimiser(name="fedadam", rate=0.5, momentum=0.0, adaptivity=0.1)
    plain = combine({n: np.zeros_like(base[n]) for n in base}, SPEC, steps)
    places = {step.place for step in steps}
    moved = move(optimiser, base, SPEC, plain, places, {})
    scaled = [replace(step, change=moved.scaled(SPEC, step.place, step.change)) for step in steps]
    found = combine(moved.base, SPEC, scaled)
    for name in SPEC.parameters:
        second = 0.99 * 0.1**2 + 0.01 * plain[name].astype(np.float64) ** 2
        expected = base[name] + 0.5 * plain[name] / (np.sqrt(second) + 0.1)
        np.testing.assert_allclose(found[name], expected, atol=1e-4)


@given(moving_rounds())
def test_flat_steps_stand_where_their_windows_lie(given_round):
    base, updates = given_round
    nothing = {name: np.zeros_like(base[name]) for name in base}
    steps = steps_of(base, SPEC, updates)
    flat = FlatSteps(SPEC, steps)
    rows = class_rows(SPEC, Task("classification", tuple("abcd")), steps)
    for step in steps:
        alone = combine(nothing, SPEC, [step])
        expected = np.concatenate([alone[name].ravel() for name in SPEC.parameters])
        assert (flat[step.device] == expected).all()
        assert rows is not None
        assert (rows[step.device] == alone["skip.weight"]).all()


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    places=st.lists(st.tuples(st.sampled_from((0.25, 0.5, 1.0)), WINDOWS), min_size=1, max_size=4),
    device=st.integers(0, 3),
)
def test_a_replay_of_the_models_last_change_is_foreseen_in_any_window(seed, places, device):
    rng = np.random.default_rng(seed)
    known = {
        name: rng.standard_normal(WIDE.shape(name, 1.0)).astype(np.float32) for name in WIDE.tensors
    }
    held = {name: np.zeros(WIDE.shape(name, 1.0), np.float32) for name in WIDE.parameters}
    for place in places:
        for name in WIDE.parameters:
            held[name][coverage(WIDE, name, *place)] += 1
    # A coordinate is weighted by how many hold it, so each step is the change over that number.
    steps = []
    for n, (width, window) in enumerate(places):
        cut = slice_state(known, WIDE, width, window)
        weighted = {
            name: cut[name] / held[name][coverage(WIDE, name, width, window)]
            for name in WIDE.parameters
        }
        steps.append(Step(f"d{n}", width, weighted, window))
    honest = device % len(steps)
    fresh = {
        name: rng.standard_normal(array.shape).astype(np.float32)
        for name, array in steps[honest].change.items()
    }
    steps[honest] = replace(steps[honest], change=fresh)
    split = novel_steps(WIDE, steps, [known])
    for n, (step, novel, foreseen) in enumerate(
        zip(steps, split.steps, split.foreseen, strict=True)
    ):
        assert novel.place == foreseen.place == step.place
        for name, array in step.change.items():
            np.testing.assert_allclose(novel.change[name] + foreseen.change[name], array, atol=1e-5)
        if n != honest:
            assert not any(array.any() for array in novel.change.values())
        else:
            assert split.shares[step.device] < 0.5
