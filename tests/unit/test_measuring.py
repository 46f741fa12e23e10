"""Measuring on a network so small that a whole round of it takes a blink."""

import numpy as np
import pytest

from coordinator.aggregation import DeviceUpdate, combine, steps_of
from coordinator.bench import Bench, ScoreJob, UpdateFile
from coordinator.contribution.shapley import EXACT_LIMIT, exact_shapley
from coordinator.curve import score_curve
from coordinator.measuring import (
    RoundEvaluator,
    Validation,
    fold_statistics,
    measured_outputs,
    outputs_per_width,
    sample_values,
)
from coordinator.work import initialise, score_round
from journal.blobs import BlobFolder
from slimmable.evaluation import calibrate, initial_state, outputs
from slimmable.model import load_model
from slimmable.samples import Samples, SamplesError
from slimmable.slicing import slice_state
from slimmable.state import decode_state, encode_state
from slimmable.training import TrainingRule, train

pytestmark = pytest.mark.torch

OPTIONS = {
    "sensors": 2,
    "length": 4,
    "classes": ["rest", "shake"],
    "channels": [4, 6],
    "kernels": [1, 3],
    "granules": [1, 1],
}
MODEL = load_model("cnn1d", OPTIONS)
GRID = (0.5, 1.0)


def motion(seed, recordings=8, each=6):
    """Return two kinds of motion, told apart by how strong they are, in short recordings."""
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(recordings) % 2, each).astype(np.int64)
    x = rng.standard_normal((len(y), 2, 4)) * np.where(y, 2.0, 0.4)[:, None, None]
    return Samples(x.astype(np.float32), y, np.repeat(np.arange(recordings), each))


VALIDATION = Validation.of(motion(0))
BASE = initial_state(MODEL, 1)
RULE = TrainingRule(
    steps=30, batch_size=16, learning_rate=0.05, momentum=0.9, weight_decay=0.0, widths=GRID
)


@pytest.fixture(scope="module")
def updates():
    """Three honest devices, one narrow, and one that sends back what it was given, plus noise."""
    made = []
    for number, width in enumerate((1.0, 1.0, 0.5)):
        trained, _ = train(
            MODEL,
            slice_state(BASE, MODEL.spec, width),
            width,
            motion(number + 10),
            RULE,
            np.random.default_rng(number),
        )
        made.append(DeviceUpdate(f"honest-{number}", width, trained))
    rng = np.random.default_rng(9)
    noisy = {n: a + (1e-3 * rng.standard_normal(a.shape)).astype("f4") for n, a in BASE.items()}
    return [*made, DeviceUpdate("noisy", 1.0, noisy), DeviceUpdate("rider", 1.0, BASE)]


@pytest.fixture(scope="module")
def game(updates):
    steps = steps_of(BASE, MODEL.spec, updates)
    return steps, RoundEvaluator(MODEL, BASE, steps, GRID, VALIDATION).value


# --- cross-fitting ------------------------------------------------------------------------------


def test_no_recording_calibrates_itself():
    samples = motion(3)
    samples.x[:, 0, 0] = samples.recording  # every input says where it comes from
    found = Validation.of(samples)
    for fold in found.folds:
        calibrates = set(fold.calibration[:, 0, 0].astype(int))
        measures = set(fold.measurement.recording.tolist())
        assert calibrates.isdisjoint(measures)
        assert calibrates | measures == set(range(8))


def test_every_recording_measures_exactly_once_and_both_halves_hold_every_class():
    first, second = VALIDATION.folds
    measured = np.concatenate([first.measurement.recording, second.measurement.recording])
    assert (measured == VALIDATION.samples.recording).all()
    assert sorted(measured.tolist()) == sorted(motion(0).recording.tolist())
    assert set(first.measurement.y) == set(second.measurement.y) == {0, 1}
    assert (first.calibration == second.measurement.x).all()


def test_outputs_come_in_the_order_of_the_samples():
    statistics = fold_statistics(MODEL, 0.5, BASE, VALIDATION)
    found = measured_outputs(MODEL, 0.5, BASE, statistics, VALIDATION)
    cut = slice_state(BASE, MODEL.spec, 0.5)
    half = len(VALIDATION.folds[0].measurement)
    for fold, part in zip(VALIDATION.folds, (found[:half], found[half:]), strict=True):
        state = {**cut, **calibrate(MODEL, 0.5, cut, fold.calibration)}
        assert (outputs(MODEL, 0.5, state, fold.measurement.x) == part).all()


def test_a_refilled_network_says_what_a_fresh_one_says():
    network = MODEL.build(1.0).eval()
    for seed in (1, 2, 1):
        state = initial_state(MODEL, seed)
        statistics = fold_statistics(MODEL, 1.0, state, VALIDATION)
        fresh = measured_outputs(MODEL, 1.0, state, statistics, VALIDATION)
        again = measured_outputs(MODEL, 1.0, state, statistics, VALIDATION, network)
        assert (fresh == again).all()


def test_one_recording_is_not_enough():
    with pytest.raises(SamplesError, match="one recording"):
        Validation.of(motion(0, recordings=1))


# --- the value of a coalition -------------------------------------------------------------------


def test_a_device_whose_step_is_zero_changes_no_value_at_all(game):
    _, value = game
    for others in ([], ["honest-0"], ["honest-1", "honest-2"], ["honest-0", "noisy"]):
        assert (value(frozenset([*others, "rider"])) == value(frozenset(others))).all()


def test_the_value_does_not_depend_on_what_was_asked_before(game):
    _, value = game
    everybody = frozenset(["honest-0", "honest-1", "honest-2", "noisy", "rider"])
    first = value(everybody)
    value(frozenset())
    assert (value(everybody) == first).all()


def test_everybody_together_is_the_aggregate_measured_over_the_grid(game):
    steps, value = game
    state = combine(BASE, MODEL.spec, steps)
    said = outputs_per_width(MODEL, state, GRID, VALIDATION)
    y = VALIDATION.samples.y
    expected = -np.mean([MODEL.task.balanced_loss(said[width], y) for width in GRID])
    assert value(frozenset(step.device for step in steps)).mean() == pytest.approx(expected)


def test_honest_devices_are_worth_something_and_riders_next_to_nothing(game):
    steps, value = game
    result = exact_shapley([step.device for step in steps], value)
    honest = [result.scores[f"honest-{number}"] for number in range(3)]
    assert min(honest) > 0
    assert result.scores["rider"] == 0.0
    assert abs(result.scores["noisy"]) < 0.05 * np.mean(honest)
    assert sum(result.scores.values()) == pytest.approx(result.after - result.before)


def test_the_value_of_each_sample_is_minus_its_loss_over_the_grid():
    said = outputs_per_width(MODEL, BASE, GRID, VALIDATION)
    found = sample_values(MODEL, said, GRID, VALIDATION.samples)
    assert found.shape == (len(VALIDATION.samples),)
    losses = [MODEL.task.losses(said[width], VALIDATION.samples.y) for width in GRID]
    assert found == pytest.approx(-(losses[0] + losses[1]) / 2)


# --- the curve ----------------------------------------------------------------------------------

RECORDINGS = np.repeat(np.arange(12), 5)


def curve_of(scores, seed=0):
    rng = np.random.default_rng(seed)
    return score_curve(
        {width: np.clip(mean + 0.05 * rng.normal(size=60), 0, 1) for width, mean in scores.items()},
        RECORDINGS,
        np.random.default_rng(1),
    )


def test_a_width_that_is_significantly_worse_than_a_narrower_one_is_not_offered():
    points = curve_of({0.25: 0.5, 0.5: 0.8, 0.75: 0.4, 1.0: 0.9})
    assert [point.width for point in points] == [0.25, 0.5, 0.75, 1.0]
    assert [point.offered for point in points] == [True, True, False, True]
    assert all(point.low <= point.score <= point.high for point in points)


def test_a_small_dip_is_noise_and_is_smoothed():
    points = curve_of({0.25: 0.5, 0.5: 0.805, 0.75: 0.8, 1.0: 0.9})
    assert all(point.offered for point in points)
    fitted = [point.fitted for point in points]
    assert fitted == sorted(fitted)


def test_the_narrowest_width_is_always_offered():
    assert curve_of({0.25: 0.0, 1.0: 0.0})[0].offered
    assert curve_of({0.25: 1.0, 1.0: 0.0})[0].offered


# --- the whole round ----------------------------------------------------------------------------


@pytest.fixture
def bench(tmp_path):
    samples = motion(0)
    np.savez(tmp_path / "validation.npz", x=samples.x, y=samples.y, recording=samples.recording)
    BlobFolder(tmp_path / "blobs")
    return Bench(
        model="cnn1d",
        options=OPTIONS,
        validation=tmp_path / "validation.npz",
        reader="npz",
        blobs=tmp_path / "blobs",
        templates=tmp_path / "templates",
        grid=GRID,
        ladder=(0.25, 0.5, 1.0),
        seed=1,
    )


def job_for(bench, states, method="permutation-shapley", coalitions=8):
    blobs = BlobFolder(bench.blobs, owner=False)
    base, _ = initialise(bench)
    files = tuple(
        UpdateFile(update.device, update.width, blobs.put(encode_state(update.state)), 1.0)
        for update in states
    )
    return ScoreJob(
        round=1, base=base, best=base, updates=files, method=method, coalitions=coalitions
    )


def test_a_round_is_aggregated_measured_and_scored(bench, updates):
    job = job_for(bench, updates)
    result = score_round(bench, job)
    assert [point.width for point in result.curve] == [0.25, 0.5, 1.0]
    assert [one.device for one in result.contributions] == [u.device for u in updates]
    assert [one.update for one in result.contributions] == [u.digest for u in job.updates]
    assert result.method == "permutation-shapley"
    assert result.coalitions <= 8
    assert result.better
    assert sum(one.score for one in result.contributions) == pytest.approx(
        result.value_after - result.value_before
    )
    state = decode_state(BlobFolder(bench.blobs, owner=False).get(result.digest))
    whole = combine(BASE, MODEL.spec, steps_of(BASE, MODEL.spec, updates))
    for name in MODEL.spec.parameters:
        np.testing.assert_array_equal(state[name], whole[name])


def test_the_same_round_gives_the_same_result(bench, updates):
    first, second = (score_round(bench, job_for(bench, updates)) for _ in range(2))
    assert (first.digest, first.contributions, first.curve) == (
        second.digest,
        second.contributions,
        second.curve,
    )


def test_nothing_learned_is_no_improvement(bench):
    unchanged = [DeviceUpdate(f"rider-{n}", 1.0, BASE) for n in range(2)]
    result = score_round(bench, job_for(bench, unchanged))
    assert not result.better
    assert [one.score for one in result.contributions] == [0.0, 0.0]


def test_more_devices_than_the_exact_value_allows_are_estimated(bench):
    crowd = [DeviceUpdate(f"d{n:02d}", 0.5, slice_state(BASE, MODEL.spec, 0.5)) for n in range(17)]
    assert len(crowd) == EXACT_LIMIT + 1
    result = score_round(bench, job_for(bench, crowd, "exact-shapley"))
    assert result.method == "permutation-shapley"


def test_an_aggregate_that_is_not_finite_is_an_error_and_no_model(bench):
    broken = {**BASE, "head.bias": np.array([np.inf, 0.0], "f4")}
    with pytest.raises(ValueError, match="aggregate of round 1 is not finite in 'head.bias'"):
        score_round(bench, job_for(bench, [DeviceUpdate("d", 1.0, broken)]))
