"""Aggregation against a naive reference, coordinate by coordinate."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.messages import DropReason
from coordinator.aggregation.rules import aggregate, steps_of
from coordinator.aggregation.steps import combine
from coordinator.aggregation.updates import LARGEST_WEIGHT, DeviceUpdate, inspect_update
from slimmable.slicing import coverage, slice_state
from slimmable.spec import AxisTerm, ConcatTerm, ProductTerm, WidthSpec
from slimmable.width import Axis

INPUTS, HIDDEN, PIXELS, CLASSES = range(4)
# A convolution, a flattened linear layer, a skip connection and running statistics.
SPEC = WidthSpec(
    axes=(Axis(3, scales=False), Axis(8, scales=True), Axis(2, False), Axis(4, False)),
    tensors={
        "first.weight": (AxisTerm(HIDDEN), AxisTerm(INPUTS)),
        "first.mean": (AxisTerm(HIDDEN),),
        "flat.weight": (AxisTerm(CLASSES), ProductTerm((AxisTerm(HIDDEN), AxisTerm(PIXELS)))),
        "skip.weight": (AxisTerm(CLASSES), ConcatTerm((AxisTerm(HIDDEN), AxisTerm(HIDDEN)))),
        "head.bias": (AxisTerm(CLASSES),),
    },
    statistics=frozenset({"first.mean"}),
)
WIDTHS = (0.25, 0.5, 0.75, 1.0)
ANY_WIDTH = st.sampled_from(WIDTHS)


def random_state(rng, width=1.0):
    return {
        name: rng.standard_normal(SPEC.shape(name, width)).astype(np.float32)
        for name in SPEC.tensors
    }


@st.composite
def rounds(draw, widths=ANY_WIDTH):
    """A base and the updates of one round."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    base = random_state(rng)
    chosen = draw(st.lists(widths, min_size=1, max_size=6))
    weights = [draw(st.floats(0.1, 100)) for _ in chosen]
    updates = [
        DeviceUpdate(f"device-{n}", width, random_state(rng, width), weight)
        for n, (width, weight) in enumerate(zip(chosen, weights, strict=True))
    ]
    return base, updates


def naive(base, updates):
    """Average one coordinate at a time."""
    state = {name: np.array(array, np.float64) for name, array in base.items()}
    for name in SPEC.parameters:
        for place in np.ndindex(base[name].shape):
            total, moved = 0.0, 0.0
            for update in updates:
                indices = SPEC.indices(name, update.width)
                inside = [np.flatnonzero(i == at) for i, at in zip(indices, place, strict=True)]
                if all(len(found) for found in inside):
                    local = update.state[name][tuple(int(found[0]) for found in inside)]
                    total += update.weight
                    moved += update.weight * (float(local) - float(base[name][place]))
            if total:
                state[name][place] += moved / total
    return state


@given(rounds())
def test_the_average_of_every_coordinate_is_the_naive_one(given_round):
    base, updates = given_round
    found = aggregate(base, SPEC, updates)
    for name, expected in naive(base, updates).items():
        np.testing.assert_allclose(found[name], expected, atol=2e-5)


@given(rounds(st.sampled_from(WIDTHS[:3])))
def test_what_no_device_holds_does_not_move_at_all(given_round):
    base, updates = given_round
    found = aggregate(base, SPEC, updates)
    widest = max(update.width for update in updates)
    for name in SPEC.parameters:
        untouched = np.ones(base[name].shape, bool)
        untouched[coverage(SPEC, name, widest)] = False
        assert (found[name][untouched] == base[name][untouched]).all()


@given(rounds(), st.randoms(use_true_random=False))
def test_the_order_of_updates_does_not_change_a_single_bit(given_round, random):
    base, updates = given_round
    shuffled = list(updates)
    random.shuffle(shuffled)
    first, second = aggregate(base, SPEC, updates), aggregate(base, SPEC, shuffled)
    assert all((first[name] == second[name]).all() for name in SPEC.tensors)


@given(st.integers(0, 2**32 - 1), st.lists(st.sampled_from(WIDTHS), min_size=1, max_size=5))
def test_devices_that_change_nothing_give_the_base_back(seed, widths):
    base = random_state(np.random.default_rng(seed))
    updates = [
        DeviceUpdate(f"d{n}", width, slice_state(base, SPEC, width), n + 0.5)
        for n, width in enumerate(widths)
    ]
    found = aggregate(base, SPEC, updates)
    assert all((found[name] == base[name]).all() for name in SPEC.tensors)
    for step in steps_of(base, SPEC, updates):
        assert all(not array.any() for array in step.change.values())


@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_devices_that_agree_give_what_they_agree_on(seed, count):
    rng = np.random.default_rng(seed)
    base, trained = random_state(rng), random_state(rng)
    found = aggregate(base, SPEC, [DeviceUpdate(f"d{n}", 1.0, trained) for n in range(count)])
    for name in SPEC.parameters:
        np.testing.assert_allclose(found[name], trained[name], atol=1e-5)


@given(rounds(st.just(1.0)))
def test_at_full_width_it_is_fedavg(given_round):
    base, updates = given_round
    found = aggregate(base, SPEC, updates)
    for name in SPEC.parameters:
        expected = np.average(
            [update.state[name].astype(np.float64) for update in updates],
            axis=0,
            weights=[update.weight for update in updates],
        )
        np.testing.assert_allclose(found[name], expected, atol=2e-5)


@given(rounds())
def test_the_steps_of_all_devices_make_the_aggregate(given_round):
    base, updates = given_round
    steps = steps_of(base, SPEC, updates)
    everybody = combine(base, SPEC, steps)
    whole = aggregate(base, SPEC, updates)
    for name in SPEC.parameters:
        np.testing.assert_allclose(everybody[name], whole[name], atol=1e-5)
        summed = np.array(base[name], np.float64)
        for step in steps:
            summed[coverage(SPEC, name, step.width)] += step.change[name]
        np.testing.assert_allclose(whole[name], summed, atol=1e-5)


@given(rounds())
def test_nobodys_steps_are_the_base_and_inputs_stay_as_they_were(given_round):
    base, updates = given_round
    before = {name: array.copy() for name, array in base.items()}
    held = [{n: a.copy() for n, a in update.state.items()} for update in updates]
    alone = combine(base, SPEC, [])
    aggregate(base, SPEC, updates)
    assert all((base[name] == before[name]).all() for name in base)
    assert all((alone[name] == before[name]).all() for name in base)
    for update, state in zip(updates, held, strict=True):
        assert all((update.state[name] == state[name]).all() for name in state)


@given(rounds())
def test_running_statistics_of_devices_are_never_averaged(given_round):
    base, updates = given_round
    assert (aggregate(base, SPEC, updates)["first.mean"] == base["first.mean"]).all()


def test_weights_of_a_step_are_those_of_all_devices_even_when_one_stands_alone():
    base = {name: np.zeros(SPEC.shape(name, 1.0), np.float32) for name in SPEC.tensors}
    ones = {name: np.ones_like(array) for name, array in base.items()}
    steps = steps_of(base, SPEC, [DeviceUpdate("a", 1.0, ones), DeviceUpdate("b", 1.0, ones)])
    alone = combine(base, SPEC, steps[:1])
    assert (alone["head.bias"] == 0.5).all()


def test_an_average_needs_updates_with_weights():
    base = random_state(np.random.default_rng(0))
    with pytest.raises(ValueError, match="at least one update"):
        aggregate(base, SPEC, [])
    with pytest.raises(ValueError, match="weight above 0"):
        aggregate(base, SPEC, [DeviceUpdate("a", 1.0, base, 0.0)])


@pytest.mark.parametrize("width", WIDTHS)
def test_an_honest_update_passes_inspection(width):
    assert inspect_update(SPEC, width, random_state(np.random.default_rng(1), width)) is None


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda s: s["head.bias"].__setitem__(0, np.nan), DropReason.NOT_FINITE),
        (lambda s: s["head.bias"].__setitem__(0, -np.inf), DropReason.NOT_FINITE),
        (lambda s: s["head.bias"].__setitem__(0, 3e38), DropReason.NOT_FINITE),
        (lambda s: s["head.bias"].__setitem__(0, -2 * LARGEST_WEIGHT), DropReason.NOT_FINITE),
        (lambda s: s.update({"head.bias": s["head.bias"][:2]}), DropReason.WRONG_SHAPE),
        (lambda s: s.update({"head.bias": s["head.bias"].astype(float)}), DropReason.WRONG_SHAPE),
        (lambda s: s.update({"head.bias": s["head.bias"].astype("i4")}), DropReason.WRONG_SHAPE),
        (lambda s: s.pop("head.bias"), DropReason.WRONG_SHAPE),
        (lambda s: s.update({"extra": s["head.bias"]}), DropReason.WRONG_SHAPE),
        (lambda s: s.update(slice_state(s, SPEC, 0.5)), DropReason.WRONG_SHAPE),
    ],
)
def test_an_update_that_cannot_be_averaged_is_refused_with_its_tensor(spoil, reason):
    state = random_state(np.random.default_rng(2))
    spoil(state)
    found = inspect_update(SPEC, 1.0, state)
    assert found is not None
    assert found[0] is reason
    assert "tensor '" in found[1]


@given(st.floats(-LARGEST_WEIGHT, LARGEST_WEIGHT, width=32), st.integers(1, 4))
def test_whatever_passes_inspection_gives_a_finite_aggregate(value, count):
    base = random_state(np.random.default_rng(3))
    wild = {n: np.full_like(a, value * (-1) ** n.count("i")) for n, a in base.items()}
    assert inspect_update(SPEC, 1.0, wild) is None
    found = aggregate(base, SPEC, [DeviceUpdate(f"d{n}", 1.0, wild) for n in range(count)])
    assert all(np.isfinite(found[name]).all() for name in SPEC.parameters)


def test_nothing_of_statistics_that_are_thrown_away_matters():
    state = random_state(np.random.default_rng(4))
    state["first.mean"][:] = np.nan
    assert inspect_update(SPEC, 1.0, state) is None
