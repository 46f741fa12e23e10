"""Each counter-test suspects the habit that it is named for; the figures of merit are right."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.detection import auroc, true_positive_rate
from coordinator.contribution.counter_tests import COUNTER_TESTS, Uploads

HONEST = [f"d{n}" for n in range(5)]
SIZE, CLASSES = 400, 10


def honest_round(seed=0):
    """Deltas that share a direction, and a rider that has yet to upload."""
    rng = np.random.default_rng(seed)
    common, past = (rng.standard_normal(SIZE).astype(np.float32) for _ in range(2))
    deltas = {d: common + rng.standard_normal(SIZE).astype(np.float32) for d in HONEST}
    previous = {d: rng.standard_normal(SIZE).astype(np.float32) for d in HONEST}
    rows = {}
    for n, device in enumerate(HONEST):
        rows[device] = rng.standard_normal((CLASSES, 8)).astype(np.float32)
        rows[device][n : n + 7] *= 0.1
    return deltas, past, previous, rows


def suspicions(test, delta, previous=None, rider_rows=None):
    deltas, past, before, rows = honest_round()
    deltas["rider"] = delta(past)
    before["rider"] = deltas["rider"] if previous is None else previous
    rows["rider"] = np.ones((CLASSES, 8), np.float32) if rider_rows is None else rider_rows
    return COUNTER_TESTS[test](Uploads(deltas, dict.fromkeys(deltas, past), before, rows))


def test_a_replay_is_suspected_at_any_scale():
    for scale in (0.01, 1.0, 30.0):
        found = suspicions("replay-correlation", lambda past, scale=scale: scale * past)
        assert found["rider"] > max(found[d] for d in HONEST) + 5


def test_a_device_that_repeats_itself_is_suspected():
    found = suspicions("self-similarity", lambda past: past)
    assert found["rider"] > max(found[d] for d in HONEST) + 5


def test_an_output_layer_that_moves_all_classes_alike_is_suspected():
    found = suspicions("class-pattern-entropy", lambda past: past)
    assert found["rider"] > max(found[d] for d in HONEST)


@pytest.mark.parametrize("scale", [0.0, 1e-3, 50.0])
def test_lengths_unlike_the_others_are_suspected(scale):
    found = suspicions("norm-outlier", lambda past: np.float32(scale) * past)
    assert found["rider"] > max(found[d] for d in HONEST) + 5


@pytest.mark.parametrize("test", COUNTER_TESTS)
def test_unchanged_uploads_have_finite_suspicions(test):
    nothing = np.zeros((CLASSES, 8), np.float32)
    found = suspicions(test, np.zeros_like, np.zeros(SIZE, np.float32), nothing)
    assert np.isfinite(list(found.values())).all()


@pytest.mark.parametrize("test", COUNTER_TESTS)
def test_where_there_is_nothing_to_compare_with_nobody_is_suspected(test):
    delta = np.ones(SIZE, np.float32)
    assert COUNTER_TESTS[test](Uploads({"a": delta, "b": delta})) == {"a": 0.0, "b": 0.0}
    assert COUNTER_TESTS[test](Uploads({})) == {}


def test_a_rider_that_always_stands_out_has_auroc_1_and_is_always_found():
    assert auroc([2, 3], [0, 1]) == 1
    assert auroc([0, 1], [2, 3]) == 0
    assert auroc([1, 1], [1]) == 0.5
    assert true_positive_rate([2, 3], [0, 1]) == 1
    assert true_positive_rate([1, 3], [0, 1]) == 0.5
    assert auroc([], [1]) is None
    assert true_positive_rate([1], []) is None


@given(
    riders=st.lists(st.integers(-5, 5), min_size=1, max_size=8),
    honest=st.lists(st.integers(-5, 5), min_size=1, max_size=40),
)
def test_auroc_turns_with_the_sign_and_the_rate_accuses_no_more_than_allowed(riders, honest):
    turned = auroc([-r for r in riders], [-h for h in honest])
    assert turned == pytest.approx(1 - auroc(riders, honest))
    assert true_positive_rate(honest, honest) <= 0.05
