"""Clipping, trimmed mean and median over slices of different widths, against their definitions."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.aggregation import trimmed_mean as trimming
from coordinator.aggregation.readers import readers_of, shortened, whole
from coordinator.aggregation.rules import aggregate, steps_of
from coordinator.aggregation.steps import add
from coordinator.aggregation.trimmed_mean import kept, trimmed_mean
from coordinator.aggregation.updates import DeviceUpdate
from coordinator.settings import Aggregation, Settings
from coordinator.settings_checks import SettingsError
from slimmable.slicing import coverage, slice_state
from slimmable.spec import AxisTerm, WidthSpec
from slimmable.width import Axis
from tests.unit.test_aggregation import SPEC, WIDTHS, random_state, rounds

MEDIAN = Aggregation(rule="median")
ROBUST = (
    MEDIAN,
    Aggregation(rule="trimmed-mean"),
    Aggregation(rule="trimmed-mean", trim=0.4, clip=1.0),
    Aggregation(clip=1.5),
)


def held(update, name, place):
    """The update's value at a place of the full tensor, None where it does not hold it."""
    indices = SPEC.indices(name, update.width)
    own = [np.flatnonzero(index == at) for index, at in zip(indices, place, strict=True)]
    if not all(len(found) for found in own):
        return None
    return float(update.state[name][tuple(int(found[0]) for found in own)])


def naive(base, updates, trim):
    """Sort, leave out the extremes and average, one coordinate at a time."""
    state = {name: np.array(array, np.float64) for name, array in base.items()}
    for name in SPEC.parameters:
        for place in np.ndindex(base[name].shape):
            there = [(held(one, name, place), one.weight) for one in updates]
            values = sorted((v - float(base[name][place]), w) for v, w in there if v is not None)
            out = min(math.ceil(trim * len(values)), max(0, len(values) - 1) // 2)
            middle = values[out : len(values) - out]
            if middle:
                weight = sum(w for _, w in middle)
                state[name][place] += sum(v * w for v, w in middle) / weight
    return state


@given(rounds(), st.sampled_from([0.0, 0.1, 0.2, 0.34, 0.5]))
def test_every_coordinate_is_the_naive_trimmed_mean(given_round, trim):
    base, updates = given_round
    changes = readers_of(SPEC, updates)
    found = add(base, trimmed_mean(base, SPEC, changes, trim)[0])
    for name, expected in naive(base, updates, trim).items():
        np.testing.assert_allclose(found[name], expected, atol=2e-5)


@given(rounds())
def test_nothing_left_out_is_the_mean(given_round):
    base, updates = given_round
    mean = aggregate(base, SPEC, updates)
    found = aggregate(base, SPEC, updates, Aggregation(rule="trimmed-mean", trim=0.0))
    for name in SPEC.tensors:
        np.testing.assert_allclose(found[name], mean[name], atol=1e-6)


@given(rounds(), st.sampled_from([1, 7, 40]))
def test_comparing_in_chunks_changes_not_a_bit(given_round, chunk):
    base, updates = given_round
    whole = aggregate(base, SPEC, updates, MEDIAN)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(trimming, "CHUNK", chunk)
        parts = aggregate(base, SPEC, updates, MEDIAN)
    assert all((whole[name] == parts[name]).all() for name in SPEC.tensors)


@pytest.mark.parametrize("how", ROBUST)
@given(given_round=rounds(), random=st.randoms(use_true_random=False))
def test_the_order_of_updates_does_not_change_a_single_bit(how, given_round, random):
    base, updates = given_round
    shuffled = list(updates)
    random.shuffle(shuffled)
    first, second = (aggregate(base, SPEC, one, how) for one in (updates, shuffled))
    assert all((first[name] == second[name]).all() for name in SPEC.tensors)


@pytest.mark.parametrize("how", ROBUST)
@given(given_round=rounds(st.sampled_from(WIDTHS[:3])))
def test_what_no_device_holds_does_not_move(how, given_round):
    base, updates = given_round
    found = aggregate(base, SPEC, updates, how)
    widest = max(update.width for update in updates)
    for name in SPEC.parameters:
        untouched = np.ones(base[name].shape, bool)
        untouched[coverage(SPEC, name, widest)] = False
        assert (found[name][untouched] == base[name][untouched]).all()


@pytest.mark.parametrize("how", ROBUST)
@given(
    seed=st.integers(0, 2**32 - 1),
    widths=st.lists(st.sampled_from(WIDTHS), min_size=1, max_size=5),
)
def test_devices_that_change_nothing_give_the_base_back(how, seed, widths):
    base = random_state(np.random.default_rng(seed))
    updates = [
        DeviceUpdate(f"d{n}", width, slice_state(base, SPEC, width))
        for n, width in enumerate(widths)
    ]
    found = aggregate(base, SPEC, updates, how)
    assert all((found[name] == base[name]).all() for name in SPEC.tensors)


@pytest.mark.parametrize("how", ROBUST)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 6))
def test_devices_that_agree_give_what_they_agree_on(how, seed, count):
    rng = np.random.default_rng(seed)
    base, agreed = random_state(rng), random_state(rng)
    updates = [DeviceUpdate(f"d{n}", 1.0, agreed) for n in range(count)]
    found = aggregate(base, SPEC, updates, how)
    for name in SPEC.parameters:
        np.testing.assert_allclose(found[name], agreed[name], atol=1e-5)


@pytest.mark.parametrize("how", ROBUST[:2])
@given(seed=st.integers(0, 2**32 - 1), size=st.sampled_from([1e3, -1e6]))
def test_one_liar_of_four_leaves_every_parameter_between_honest_ones(how, seed, size):
    rng = np.random.default_rng(seed)
    base = random_state(rng)
    honest = [DeviceUpdate(f"d{n}", 1.0, random_state(rng)) for n in range(3)]
    lie = {name: np.float32(size) * array for name, array in random_state(rng).items()}
    found = aggregate(base, SPEC, [*honest, DeviceUpdate("liar", 1.0, lie)], how)
    for name in SPEC.parameters:
        said = np.stack([one.state[name] for one in honest])
        assert (found[name] >= said.min(axis=0) - 1e-4).all()
        assert (found[name] <= said.max(axis=0) + 1e-4).all()


def lengths(base, changes):
    found = [whole(base, SPEC, one).change for one in changes]
    return [
        math.sqrt(
            sum(float((array**2).sum()) for array in one.values())
            / sum(array.size for array in one.values())
        )
        for one in found
    ]


@given(rounds(), st.floats(1.0, 3.0))
def test_no_clipped_change_is_longer_than_the_limit_and_the_others_are_as_they_were(
    given_round, limit
):
    base, updates = given_round
    changes = readers_of(SPEC, updates)
    before, after = (
        lengths(base, some) for some in (changes, shortened(base, SPEC, changes, limit))
    )
    longest = limit * float(np.median([length for length in before if length > 0]))
    for was, now in zip(before, after, strict=True):
        assert now == pytest.approx(min(was, longest), rel=1e-4)


VECTOR = WidthSpec(axes=(Axis(2, scales=False),), tensors={"w": (AxisTerm(0),)})
NOTHING = {"w": np.zeros(2, np.float32)}


def vectors(*values):
    updates = [
        DeviceUpdate(f"d{n}", 1.0, {"w": np.float32(value)}) for n, value in enumerate(values)
    ]
    return readers_of(VECTOR, updates)


def clipped_vectors(limit, *values):
    return [
        whole(NOTHING, VECTOR, one).change["w"]
        for one in shortened(NOTHING, VECTOR, vectors(*values), limit)
    ]


def test_a_clipped_change_keeps_its_direction():
    found = clipped_vectors(2.0, [3.0, -4.0], [0.5, 0.5], [0.5, 0.5])[0]
    assert found / found[0] == pytest.approx([1.0, -4.0 / 3.0])
    assert np.sqrt((found**2).mean()) == pytest.approx(1.0)


def test_idle_devices_do_not_make_the_work_of_the_others_look_too_long():
    found = clipped_vectors(2.0, [0, 0], [0, 0], [1.0, 2.0])
    assert [one.tolist() for one in found] == [[0, 0], [0, 0], [1, 2]]
    assert all(not one.any() for one in clipped_vectors(2.0, [0, 0], [0, 0]))


def test_of_two_on_a_coordinate_both_are_kept_and_of_one_that_one():
    nan = np.nan
    stack = np.float32([[9, 9, 9, nan], [1, 1, nan, nan], [5, nan, nan, nan]])
    expected = [[False, True, True, False], [False, True, False, False], [True] + [False] * 3]
    assert kept(stack, 0.5).tolist() == expected


def test_what_is_left_out_earns_no_step():
    rng = np.random.default_rng(0)
    base = random_state(rng)
    honest = [DeviceUpdate(f"d{n}", 1.0, random_state(rng)) for n in range(4)]
    lie = {name: array + np.float32(100) for name, array in base.items()}
    liar = steps_of(base, SPEC, [*honest, DeviceUpdate("liar", 1.0, lie)], MEDIAN)[-1]
    assert liar.device == "liar"
    assert not any(array.any() for array in liar.change.values())


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"trim": 0.5}, 'aggregation.trim = 0.5 leaves nobody: it must be below 0.5; rule = "med'),
        ({"trim": -0.1}, "aggregation.trim"),
        ({"clip": 0.5}, "aggregation.clip = 0.5 would shorten what is usual"),
        ({"clip": math.nan}, "aggregation.clip"),
    ],
)
def test_settings_that_make_no_sense_are_refused(how, said):
    with pytest.raises(SettingsError, match=said):
        Settings(fleet="plant", model="mlp", aggregation=Aggregation(**how)).check()
