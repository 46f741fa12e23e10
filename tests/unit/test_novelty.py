"""What the server could foresee of a step is set apart, and nothing else is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.aggregation.steps import Step
from coordinator.contribution.novelty import novel_steps
from slimmable.model import load_model
from slimmable.slicing import coverage, slice_state

MODEL = load_model("mlp", {"input_shape": [24], "classes": ["a", "b", "c"], "hidden": [32, 16]})
SPEC = MODEL.spec
WIDTHS = (0.25, 0.5, 1.0)


def full_change(rng, scale=1.0):
    return {
        name: (scale * rng.standard_normal(SPEC.shape(name, 1.0))).astype(np.float32)
        for name in SPEC.tensors
    }


def step_of(device, width, change, weight=1.0):
    cut = slice_state(change, SPEC, width)
    return Step(device, width, {name: weight * cut[name] for name in SPEC.parameters})


def length(step):
    return float(np.sqrt(sum(np.square(a, dtype=np.float64).sum() for a in step.change.values())))


def weighted_replay(device, width, change, others):
    """A replayed change, weighted as it is where devices of other widths hold only a part."""
    cut = slice_state(change, SPEC, width)
    weighted = {}
    for name in SPEC.parameters:
        holders = np.zeros(SPEC.shape(name, 1.0), np.float32)
        for other in (width, *others):
            holders[coverage(SPEC, name, other)] += 1
        weighted[name] = cut[name] / holders[coverage(SPEC, name, width)]
    return Step(device, width, weighted)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    widths=st.lists(st.sampled_from(WIDTHS), min_size=1, max_size=4),
    count=st.integers(0, 3),
)
def test_the_two_parts_of_a_step_add_up_to_it_and_keep_order_and_width(seed, widths, count):
    rng = np.random.default_rng(seed)
    known = [full_change(rng) for _ in range(count)]
    steps = [step_of(f"d{n}", width, full_change(rng)) for n, width in enumerate(widths)]
    split = novel_steps(SPEC, steps, known)
    assert [s.device for s in split.steps] == [s.device for s in steps]
    for given_step, novel, foreseen in zip(steps, split.steps, split.foreseen, strict=True):
        assert novel.width == foreseen.width == given_step.width
        for name, array in given_step.change.items():
            assert novel.change[name].dtype == array.dtype
            np.testing.assert_allclose(
                novel.change[name] + foreseen.change[name], array, rtol=1e-5, atol=1e-6
            )
        assert 0 <= split.shares[given_step.device] <= 1
        if not count:
            assert split.shares[given_step.device] == 0


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), width=st.sampled_from(WIDTHS))
def test_a_zero_step_stays_exactly_zero(seed, width):
    rng = np.random.default_rng(seed)
    zero = step_of("zero", width, {n: np.zeros_like(a) for n, a in full_change(rng).items()})
    honest = step_of("honest", 1.0, full_change(rng))
    split = novel_steps(SPEC, [zero, honest], [full_change(rng), full_change(rng)])
    for part in (split.steps[0], split.foreseen[0]):
        assert all(not array.any() for array in part.change.values())
    assert split.shares["zero"] == 0


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    width=st.sampled_from(WIDTHS),
    others=st.lists(st.sampled_from(WIDTHS), max_size=3),
    factor=st.sampled_from([-3.0, 1e-3, 0.5, 1.0, 40.0]),
)
def test_a_scaled_replay_leaves_next_to_nothing_whatever_widths_the_others_train(
    seed, width, others, factor
):
    rng = np.random.default_rng(seed)
    known = [full_change(rng, 0.01) for _ in range(2)]
    replayed = {name: np.float32(factor) * array for name, array in known[1].items()}
    rider = weighted_replay("rider", width, replayed, others)
    honest = [step_of(f"d{n}", other, full_change(rng)) for n, other in enumerate(others)]
    split = novel_steps(SPEC, [rider, *honest], known)
    assert length(split.steps[0]) == 0
    assert split.shares["rider"] == 1


def test_a_replay_that_went_through_float32_weights_leaves_nothing_either():
    rng = np.random.default_rng(2)
    weights, known = full_change(rng, 0.1), full_change(rng, 1e-3)
    uploaded = {name: weights[name] + known[name] for name in known}
    replayed = {name: uploaded[name] - weights[name] for name in known}
    earlier = {name: (weights[name] - (weights[name] - known[name])) for name in known}
    split = novel_steps(SPEC, [step_of("rider", 1.0, replayed)], [earlier])
    assert length(split.steps[0]) == 0


def test_scaling_the_large_tensors_differently_leaves_nothing_either():
    rng = np.random.default_rng(1)
    known = full_change(rng)
    factors = {name: np.float32(1) for name in known}
    factors["hidden.0.weight"] = np.float32(5)
    factors["hidden.1.weight"] = np.float32(-2)
    rider = step_of("rider", 1.0, {name: factors[name] * known[name] for name in known})
    assert novel_steps(SPEC, [rider], [known]).shares["rider"] == pytest.approx(1)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), width=st.sampled_from(WIDTHS))
def test_a_step_that_is_orthogonal_to_the_past_is_left_as_it_is(seed, width):
    rng = np.random.default_rng(seed)
    known = [full_change(rng) for _ in range(2)]
    step = step_of("honest", width, full_change(rng))
    rest = novel_steps(SPEC, [step], known).steps[0]
    split = novel_steps(SPEC, [rest], known)
    assert split.shares["honest"] < 1e-9
    for name, array in rest.change.items():
        np.testing.assert_allclose(split.steps[0].change[name], array, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([1e-12, 1e-3, 7.0, 1e6]))
def test_the_scale_of_the_past_does_not_matter(seed, scale):
    rng = np.random.default_rng(seed)
    known = [full_change(rng), full_change(rng)]
    scaled = [{n: np.float32(scale) * a for n, a in known[0].items()}, known[1]]
    step = step_of("honest", 0.5, full_change(rng))
    plain, other = (novel_steps(SPEC, [step], k).steps[0] for k in (known, scaled))
    for name in plain.change:
        np.testing.assert_allclose(plain.change[name], other.change[name], atol=1e-5)


def test_zero_and_repeated_changes_of_the_past_are_harmless():
    rng = np.random.default_rng(3)
    known = full_change(rng)
    zero = {name: np.zeros_like(array) for name, array in known.items()}
    step = step_of("honest", 1.0, full_change(rng))
    nothing = novel_steps(SPEC, [step], [zero, zero])
    assert nothing.shares == {"honest": 0.0}
    once = novel_steps(SPEC, [step], [known])
    twice = novel_steps(SPEC, [step], [known, known])
    assert twice.shares["honest"] == pytest.approx(once.shares["honest"], rel=0.2)
    assert once.shares["honest"] < 0.05
