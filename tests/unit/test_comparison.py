"""The paired bootstrap over recordings."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.comparison import MANY, bootstrap, difference


def rng(seed=0):
    return np.random.default_rng(seed)


@given(st.integers(0, 1000), st.integers(2, 12), st.integers(1, 20))
def test_the_interval_holds_the_mean_and_lies_within_the_recordings(seed, recordings, each):
    scores = rng(seed).normal(size=recordings * each)
    recording = np.repeat(np.arange(recordings), each)
    found = bootstrap(scores, recording, rng(seed))
    means = scores.reshape(recordings, each).mean(axis=1)
    assert found.low <= found.mean <= found.high
    assert means.min() - 1e-9 <= found.low
    assert found.high <= means.max() + 1e-9
    np.testing.assert_allclose(found.mean, scores.mean())


def test_one_recording_says_nothing_about_others():
    found = bootstrap(np.array([0.0, 1.0]), np.array([7, 7]), rng())
    assert (found.low, found.mean, found.high) == (0.5, 0.5, 0.5)


def test_windows_of_one_recording_do_not_make_the_interval_narrower():
    few = bootstrap(np.array([0.0, 1.0, 0.0, 1.0]), np.arange(4), rng())
    many = bootstrap(np.repeat([0.0, 1.0, 0.0, 1.0], 50), np.repeat(np.arange(4), 50), rng())
    assert many == few


def test_a_gain_on_every_recording_is_significant_though_recordings_differ_widely():
    recording = np.repeat(np.arange(8), 10)
    hard = np.repeat(np.linspace(0.1, 0.9, 8), 10)
    found = difference(hard + 0.02, hard, recording, rng())
    assert found.low > 0.01
    assert bootstrap(hard, recording, rng()).high - bootstrap(hard, recording, rng()).low > 0.2


def test_a_model_is_not_better_than_itself():
    scores = rng(3).random(40)
    found = difference(scores, scores, np.repeat(np.arange(4), 10), rng())
    assert (found.mean, found.low, found.high) == (0.0, 0.0, 0.0)


@given(st.integers(0, 1000))
def test_who_is_better_does_not_depend_on_who_is_asked_first(seed):
    first, second = rng(seed).random(30), rng(seed + 1).random(30)
    recording = np.repeat(np.arange(6), 5)
    one = difference(first, second, recording, rng(seed))
    other = difference(second, first, recording, rng(seed))
    np.testing.assert_allclose(
        (one.mean, one.low, one.high), (-other.mean, -other.high, -other.low)
    )


def test_recordings_of_unequal_length_count_by_their_samples():
    scores = np.concatenate([np.ones(9), np.zeros(1)])
    recording = np.array([*[4] * 9, 900])
    assert bootstrap(scores, recording, rng()).mean == 0.9


def test_noise_is_rarely_called_an_improvement():
    called = 0
    for seed in range(60):
        noise = rng(seed).normal(size=120)
        called += difference(noise, np.zeros(120), np.repeat(np.arange(12), 10), rng(seed)).low > 0
    assert called <= 8  # 2.5 % expected; few recordings make the bootstrap a little eager


@given(st.integers(0, 1000), st.sampled_from([3, 700, MANY - 1]), st.booleans())
@settings(max_examples=12, deadline=None)
def test_draws_in_parts_are_the_draws_all_at_once(seed, recordings, equal):
    lengths = np.full(recordings, 2) if equal else rng(seed).integers(1, 4, recordings)
    recording = np.repeat(np.arange(recordings), lengths)
    scores = rng(seed).normal(size=len(recording))
    found, again = bootstrap(scores, recording, rng(seed)), rng(seed)
    drawn = again.integers(recordings, size=(1000, recordings))
    sums = np.bincount(recording, weights=scores)
    means = sums[drawn].sum(axis=1) / lengths[drawn].sum(axis=1)
    np.testing.assert_allclose((found.low, found.high), np.quantile(means, (0.025, 0.975)))


@pytest.mark.parametrize("right", [0.02, 0.5, 0.9, 1.0])
def test_many_recordings_that_are_right_or_wrong_have_the_interval_of_a_binomial(right):
    scores = (np.arange(10_000) < 10_000 * right).astype(float)
    found = bootstrap(scores, rng().permutation(10_000), rng(1))
    error = np.sqrt(right * (1 - right) / 10_000)
    assert found.mean == right
    # A quantile of a thousand draws is itself known to a few per cent of the error.
    np.testing.assert_allclose(found.low, right - 1.96 * error, atol=0.25 * error)
    np.testing.assert_allclose(found.high, right + 1.96 * error, atol=0.25 * error)


def test_of_many_recordings_who_is_better_does_not_depend_on_who_is_asked_first():
    first, second = (rng(seed).integers(0, 2, 10_000).astype(float) for seed in (1, 2))
    one = difference(first, second, np.arange(10_000), rng())
    other = difference(second, first, np.arange(10_000), rng())
    mirrored = (-other.mean, -other.high, -other.low)
    np.testing.assert_allclose((one.mean, one.low, one.high), mirrored)


def test_many_recordings_drawn_by_kind_and_one_by_one_agree():
    scores = rng(4).choice([-1.0, 0.0, 1.0], 2 * MANY, p=[0.2, 0.5, 0.3])
    by_kind = bootstrap(scores, np.arange(2 * MANY), rng(1))
    one_by_one = bootstrap(scores + 1e-12 * rng(5).random(2 * MANY), np.arange(2 * MANY), rng(1))
    width = one_by_one.high - one_by_one.low
    np.testing.assert_allclose(by_kind.low, one_by_one.low, atol=0.06 * width)
    np.testing.assert_allclose(by_kind.high, one_by_one.high, atol=0.06 * width)
