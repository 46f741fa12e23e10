"""What each kind of free-rider uploads follows from what its device knows, and nothing else."""

import numpy as np
import pytest

from slimfleet.simulation.riders import (
    ADVANCED_DEVIATION,
    FIRST_DEVIATION,
    LIE,
    RANDOM_LENGTH,
    RIDERS,
    STRETCH,
    TINY,
    Received,
    Seen,
    claimed_loss,
    length,
)
from slimmable.model import load_model
from slimmable.samples import Samples
from slimmable.slicing import check_state, slice_state

SPEC = load_model("mlp", {"input_shape": [24], "classes": ["a", "b", "c"], "hidden": [32, 16]}).spec
FORGERS = [name for name, rider in RIDERS.items() if rider.forge is not None]
REPLAYERS = [name for name in FORGERS if name.endswith("-delta")]


def states(count, seed=0):
    """Full states, each a shorter step away from the one before."""
    rng = np.random.default_rng(seed)
    found = [{n: rng.standard_normal(SPEC.shape(n, 1.0)).astype(np.float32) for n in SPEC.tensors}]
    for step in range(1, count):
        found.append(
            {
                n: a + (0.1 / step * rng.standard_normal(a.shape)).astype(np.float32)
                for n, a in found[-1].items()
            }
        )
    return found


def seen(weights, widths=None, seed=7):
    widths = widths or [1.0] * len(weights)
    received = tuple(
        Received(width, slice_state(state, SPEC, width))
        for width, state in zip(widths, weights, strict=True)
    )
    return Seen(SPEC, len(received), received, np.random.default_rng(seed))


def upload(name, looked):
    return RIDERS[name].forge(looked)


def delta(name, looked):
    made = upload(name, looked)
    return {n: made[n] - looked.received[-1].state[n] for n in SPEC.parameters}


def samples(count=40):
    rng = np.random.default_rng(1)
    return Samples(
        rng.standard_normal((count, 24)).astype(np.float32),
        np.arange(count) % 3,
        np.arange(count),
    )


@pytest.mark.parametrize("name", FORGERS)
@pytest.mark.parametrize("widths", [[1.0], [0.5], [0.5, 1.0], [1.0, 0.5], [0.25, 1.0, 0.5, 0.75]])
def test_every_forgery_has_the_shapes_of_its_width_and_finite_values(name, widths):
    looked = seen(states(len(widths)), widths)
    made = upload(name, looked)
    check_state(made, SPEC, widths[-1])
    assert all(array.dtype == np.float32 and np.isfinite(array).all() for array in made.values())


@pytest.mark.parametrize("name", FORGERS)
def test_the_same_knowledge_gives_the_same_forgery_and_what_was_received_is_not_changed(name):
    weights = states(3)
    looked = seen(weights)
    made = upload(name, looked)
    again = upload(name, seen(states(3)))
    for n in SPEC.tensors:
        np.testing.assert_array_equal(made[n], again[n])
        np.testing.assert_array_equal(looked.received[-1].state[n], weights[-1][n])


@pytest.mark.parametrize("name", ["zero", "plain-fraboni"])
def test_unchanged_uploads_are_unchanged(name):
    assert length(delta(name, seen(states(3)))) == 0


@pytest.mark.parametrize("name", [*REPLAYERS, "tuned-random", "disguised-fraboni"])
def test_where_nothing_can_be_replayed_a_little_noise_is_sent(name):
    forged = delta(name, seen(states(1)))
    spread = np.concatenate([a.ravel() for a in forged.values()]).std()
    assert spread == pytest.approx(FIRST_DEVIATION, rel=0.1)


def test_a_replayed_delta_is_the_last_change_of_the_model():
    weights = states(3)
    forged = delta("replayed-delta", seen(weights))
    for n in SPEC.parameters:
        np.testing.assert_allclose(forged[n], weights[2][n] - weights[1][n], atol=1e-6)


def test_an_older_delta_is_the_change_before():
    weights = states(3)
    forged = delta("older-delta", seen(weights))
    for n in SPEC.parameters:
        np.testing.assert_allclose(forged[n], weights[1][n] - weights[0][n], atol=1e-6)


def test_an_advanced_delta_is_the_last_change_with_noise():
    weights = states(3)
    forged = delta("advanced-delta", seen(weights))
    noise = [forged[n] - (weights[2][n] - weights[1][n]) for n in SPEC.parameters]
    spread = np.concatenate([array.ravel() for array in noise]).std()
    assert spread == pytest.approx(ADVANCED_DEVIATION, rel=0.1)


def test_a_scaled_delta_keeps_the_direction_at_a_length_that_shrinks_like_the_last_ones():
    looked = seen(states(4))
    last, before = looked.change(), looked.change(2)
    forged = delta("scaled-delta", looked)
    wanted = STRETCH * length(last) * length(last) / length(before)
    assert length(forged) == pytest.approx(wanted, rel=1e-3)
    product = sum(float((forged[n] * last[n]).sum()) for n in SPEC.parameters)
    assert product == pytest.approx(length(forged) * length(last), rel=1e-3)


def test_a_masked_delta_repeats_whole_channels_twice_and_leaves_the_others():
    looked = seen(states(3))
    last, forged = looked.change(), delta("masked-delta", looked)
    rows = forged["layer.0.weight"] / last["layer.0.weight"]
    kept = np.abs(rows).max(axis=1) > 1
    assert 0 < kept.sum() < len(kept)
    np.testing.assert_allclose(rows[kept], 2, atol=1e-2)
    np.testing.assert_allclose(rows[~kept], 0, atol=1e-2)


def test_random_uploads_have_the_length_they_were_given():
    looked = seen(states(3))
    assert length(delta("random", looked)) == pytest.approx(RANDOM_LENGTH, rel=0.05)
    wanted = STRETCH * length(looked.change())
    assert length(delta("tuned-random", looked)) == pytest.approx(wanted, rel=0.05)


def test_the_disguise_has_the_size_of_the_first_change_and_shrinks_with_the_rounds():
    weights = states(4)
    first = np.concatenate([(weights[1][n] - weights[0][n]).ravel() for n in SPEC.parameters])
    spreads = []
    for rounds in (2, 4):
        forged = delta("disguised-fraboni", seen(weights[:rounds]))
        spreads.append(np.concatenate([a.ravel() for a in forged.values()]).std())
    wanted = np.abs(first).mean() / np.array([2, 4])
    np.testing.assert_allclose(spreads, wanted, rtol=0.1)


def test_a_change_between_tasks_of_different_widths_covers_what_both_held():
    weights = states(2)
    change = seen(weights, [0.25, 1.0]).change()
    inside = np.ix_(*SPEC.indices("layer.1.weight", 0.25))
    moved = weights[1]["layer.1.weight"] - weights[0]["layer.1.weight"]
    np.testing.assert_array_equal(change["layer.1.weight"][inside], moved[inside])
    outside = np.ones_like(moved, dtype=bool)
    outside[inside] = False
    assert not change["layer.1.weight"][outside].any()


@pytest.mark.parametrize("name", REPLAYERS)
def test_weights_that_came_twice_are_no_change_to_replay(name):
    weights = states(3)
    again = seen([weights[0], weights[0], weights[1], weights[2], weights[2]])
    once = seen(weights)
    for n in SPEC.parameters:
        np.testing.assert_array_equal(upload(name, again)[n], upload(name, once)[n])


def test_statistics_go_back_as_they_came():
    model = load_model("cnn2d", {"classes": ["a", "b"], "channels": [8, 8], "granules": [4, 4]})
    rng = np.random.default_rng(0)
    weights = [
        {n: rng.random(model.spec.shape(n, 1.0), np.float32) for n in model.spec.tensors}
        for _ in range(3)
    ]
    received = tuple(Received(1.0, state) for state in weights)
    for name in FORGERS:
        made = RIDERS[name].forge(Seen(model.spec, 3, received, np.random.default_rng(0)))
        for statistic in model.spec.statistics:
            np.testing.assert_array_equal(made[statistic], weights[-1][statistic])


def test_data_side_riders_train_on_what_they_spoiled():
    own, rng = samples(), np.random.default_rng(0)
    noisy = RIDERS["label-noise"].samples(own, 3, rng)
    assert len(noisy) == len(own)
    assert set(noisy.y) <= {0, 1, 2}
    assert (noisy.y != own.y).mean() > 0.4
    assert len(RIDERS["tiny-data"].samples(own, 3, rng)) == TINY
    many = RIDERS["duplicated-data"].samples(own, 3, rng)
    assert len(many) == len(own)
    assert len(np.unique(many.x, axis=0)) == TINY
    assert RIDERS["zero"].samples(own, 3, rng) is own


def test_lies_are_told_about_samples_scores_and_loss():
    assert RIDERS["size-lie"].claim(50) == 50 * LIE
    assert RIDERS["label-noise"].claim(50) == 50
    assert RIDERS["zero"].claim(0) == 0
    assert RIDERS["plain-fraboni"].claim(0) > 0
    scores = {0.25: 0.6, 0.5: 0.7, 1.0: 0.8}
    assert RIDERS["lying-evaluator"].report(scores) == {0.25: 1.0, 0.5: 0.0, 1.0: 0.0}
    assert RIDERS["size-lie"].report(scores) == scores
    assert claimed_loss(1) > claimed_loss(9) > 0
