"""Measuring on a network so small that a whole round of it takes a blink."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from coordinator import scoring
from coordinator.aggregation.rules import aggregate, steps_of
from coordinator.aggregation.steps import Step, combine
from coordinator.aggregation.updates import DeviceUpdate
from coordinator.assessment import assess
from coordinator.bench import AssessJob, Bench, ScoreJob, UpdateFile
from coordinator.bench_loading import load_validation
from coordinator.contribution.evidence import EvidenceError
from coordinator.contribution.methods import METHODS
from coordinator.contribution.shapley import EXACT_LIMIT, exact_shapley
from coordinator.curve import TrainedWidths, score_curve
from coordinator.evaluator import RoundEvaluator
from coordinator.measuring import (
    Validation,
    fold_statistics,
    in_threads,
    measured_outputs,
    outputs_of_slice,
    outputs_per_width,
    sample_values,
    side_by_side,
)
from coordinator.scoring import score_round
from coordinator.update_file import read_update
from coordinator.work import initialise
from journal.blobs import BlobFolder
from slimmable.evaluation import calibrate, initial_state, outputs
from slimmable.model import load_model
from slimmable.samples import Samples, SamplesError
from slimmable.slicing import slice_state
from slimmable.state import decode_state, encode_state
from slimmable.training import TrainingRule, train
from slimmable.update_codec import encode_update
from tests.fakes.toy_models import toy

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
    found = measured_outputs(MODEL, BASE, {0.5: statistics}, VALIDATION)[0.5]
    cut = slice_state(BASE, MODEL.spec, 0.5)
    half = len(VALIDATION.folds[0].measurement)
    for fold, part in zip(VALIDATION.folds, (found[:half], found[half:]), strict=True):
        state = {**cut, **calibrate(MODEL, 0.5, cut, fold.calibration)}
        assert (outputs(MODEL, 0.5, state, fold.measurement.x) == part).all()


def test_a_refilled_network_says_what_a_fresh_one_says():
    networks = {1.0: tuple(MODEL.build(1.0).eval() for _ in VALIDATION.folds)}
    for seed in (1, 2, 1):
        state = initial_state(MODEL, seed)
        statistics = {1.0: fold_statistics(MODEL, 1.0, state, VALIDATION)}
        fresh = measured_outputs(MODEL, state, statistics, VALIDATION)
        again = measured_outputs(MODEL, state, statistics, VALIDATION, networks)
        assert (fresh[1.0] == again[1.0]).all()


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_however_many_threads_measure_every_bit_is_the_same(threads, updates):
    def everything():
        steps = steps_of(BASE, MODEL.spec, updates)
        evaluator = RoundEvaluator(MODEL, BASE, steps, GRID, VALIDATION)
        coalitions = [frozenset[str](), frozenset(["noisy"]), frozenset(s.device for s in steps)]
        return {
            **outputs_per_width(MODEL, BASE, GRID, VALIDATION),
            "slice": outputs_of_slice(MODEL, 0.5, slice_state(BASE, MODEL.spec, 0.5), VALIDATION),
            **{len(members): evaluator.value(members) for members in coalitions},
        }

    alone = everything()
    with in_threads(threads):
        beside = everything()
    assert list(alone) == list(beside)
    assert all(alone[key].tobytes() == beside[key].tobytes() for key in alone)


def test_pieces_of_work_share_the_threads_of_the_block_and_an_error_comes_back():
    def number():
        return threading.get_ident(), torch.get_num_threads()

    assert side_by_side([number, number])[0][0] == threading.get_ident()
    with in_threads(2):
        found = side_by_side([number] * 8)
        with pytest.raises(ZeroDivisionError):
            side_by_side([number, lambda: 1 / 0])
    assert threading.get_ident() not in {thread for thread, _ in found}
    assert {own for _, own in found} == {1}
    assert side_by_side([number])[0][0] == threading.get_ident()


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


# --- the game near w_t, and each device by itself ------------------------------------------------

MLP = load_model(
    "mlp", {"input_shape": [2, 4], "classes": ["rest", "shake", "never"], "hidden": [8, 8]}
)
REGRESSION = toy(into=8, hidden=8, out=2)


def drawn(model, seed, scale=0.3):
    rng = np.random.default_rng(seed)
    return {
        name: (scale * rng.standard_normal(model.spec.shape(name, 1.0))).astype(np.float32)
        for name in model.spec.tensors
    }


def step_of(model, device, width, change, times=1.0):
    cut = slice_state(change, model.spec, width)
    return Step(
        device, width, {name: np.float32(times) * cut[name] for name in model.spec.parameters}
    )


def data_of(model):
    samples = motion(0)
    if model is not REGRESSION:
        return Validation.of(samples)
    x = samples.x.reshape(len(samples), -1)
    return Validation.of(Samples(x, x[:, :2].copy(), samples.recording))


def state_at(model):
    """Return weights at which no derivative is 0 by chance."""
    if model.task.kind == "regression":
        return {name: array + 0.1 for name, array in drawn(model, 7).items()}
    return initial_state(model, 3)


MODELS = pytest.mark.parametrize("model", [MODEL, MLP, REGRESSION], ids=["norm", "mlp", "linear"])
SMALL = 1e-3


@MODELS
def test_slopes_are_what_a_small_part_of_a_step_changes(model):
    base, change = state_at(model), drawn(model, 5)
    steps = [
        step_of(model, name, width, change, times)
        for width in GRID
        for name, times in (
            (f"whole-{width}", 1.0),
            (f"forth-{width}", SMALL),
            (f"back-{width}", -SMALL),
        )
    ]
    evaluator = RoundEvaluator(model, base, steps, GRID, data_of(model))
    slopes = evaluator.slopes()
    for width in GRID:
        forth, back = (evaluator.value(frozenset([f"{way}-{width}"])) for way in ("forth", "back"))
        expected = (forth - back) / (2 * SMALL)
        scale = np.abs(expected).max()
        assert scale > 0.01
        np.testing.assert_allclose(slopes[f"whole-{width}"], expected, atol=5e-3 * scale)
        part = SMALL * slopes[f"whole-{width}"]
        np.testing.assert_allclose(slopes[f"forth-{width}"], part, rtol=1e-4, atol=1e-9)


@MODELS
def test_bends_are_what_all_steps_together_change_in_the_slopes(model):
    base = state_at(model)
    steps = [step_of(model, "a", 1.0, drawn(model, 5, 0.1))]
    steps.append(step_of(model, "b", 0.5, drawn(model, 6, 0.1)))
    nothing = {name: np.zeros_like(array) for name, array in base.items()}
    together = combine(nothing, model.spec, steps)
    data = data_of(model)

    def slopes_at(part):
        moved = combine(base, model.spec, [step_of(model, "all", 1.0, together, part)])
        # Everybody arrives at the same model, so that the batch norms are the same.
        balance = step_of(model, "balance", 1.0, together, -part)
        return RoundEvaluator(model, moved, [*steps, balance], GRID, data).slopes()

    forth, back = slopes_at(SMALL), slopes_at(-SMALL)
    bends = RoundEvaluator(model, base, steps, GRID, data).bends()
    for device in ("a", "b"):
        expected = (forth[device] - back[device]) / (2 * SMALL)
        scale = np.abs(expected).max()
        assert scale > 1e-4
        np.testing.assert_allclose(bends[device], expected, atol=0.02 * scale)


def test_a_device_by_itself_is_its_own_model_without_its_weight():
    base, data = initial_state(MLP, 3), data_of(MLP)
    updates = [
        DeviceUpdate(
            device,
            width,
            {
                name: array + change
                for (name, array), change in zip(
                    slice_state(base, MLP.spec, width).items(),
                    slice_state(drawn(MLP, seed), MLP.spec, width).values(),
                    strict=True,
                )
            },
            weight,
        )
        for seed, (device, width, weight) in enumerate(
            [("a", 1.0, 1.0), ("b", 0.5, 5.0), ("c", 1.0, 2.0)]
        )
    ]
    updates.append(DeviceUpdate("rider", 1.0, base, 3.0))
    weights = {update.device: update.weight for update in updates}
    evaluator = RoundEvaluator(MLP, base, steps_of(base, MLP.spec, updates), GRID, data, weights)
    for update in updates[:3]:
        own = steps_of(base, MLP.spec, [update])
        expected = RoundEvaluator(MLP, base, own, GRID, data).value(frozenset([update.device]))
        np.testing.assert_allclose(evaluator.alone(update.device), expected, rtol=1e-4)
    assert (evaluator.alone("rider") == evaluator.value(frozenset())).all()


def test_a_class_that_the_validation_data_lacks_says_nothing():
    assert set(data_of(MLP).samples.y) == {0, 1}, "the third class is never seen"
    steps = [step_of(MLP, "a", 1.0, drawn(MLP, 5))]
    evaluator = RoundEvaluator(MLP, initial_state(MLP, 3), steps, GRID, data_of(MLP))
    for found in (evaluator.value(frozenset()), evaluator.slopes()["a"], evaluator.bends()["a"]):
        assert np.isfinite(found).all()
        assert found.shape == (8,)


def test_two_recordings_give_two_blocks():
    data = Validation.of(motion(0, recordings=2))
    steps = [step_of(MLP, "a", 1.0, drawn(MLP, 5))]
    evaluator = RoundEvaluator(MLP, initial_state(MLP, 3), steps, GRID, data)
    assert evaluator.slopes()["a"].shape == evaluator.value(frozenset()).shape == (2,)


class Attending(nn.Module):
    """Attends over four moments and then says which class it is."""

    def __init__(self, into, hidden, out):
        super().__init__()
        self.first = nn.Linear(into, hidden)
        self.second = nn.Linear(hidden, out)

    def forward(self, x):
        moments = self.first(x).unflatten(1, (4, -1))[:, None]
        seen = nn.functional.scaled_dot_product_attention(moments, moments, moments)
        return self.second(seen.flatten(1))


class Fused(Attending):
    """Insists on a kernel that has no second derivative."""

    def forward(self, x):
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return super().forward(x)


def bends_of(network):
    model = toy(into=8, hidden=8, out=2, network=network)
    steps = [step_of(model, "a", 1.0, drawn(model, 5))]
    return RoundEvaluator(model, state_at(model), steps, (1.0,), data_of(REGRESSION)).bends()["a"]


def test_second_derivatives_go_through_attention():
    assert np.abs(bends_of(Attending)).min() > 0


def test_a_network_without_second_derivatives_is_told_what_to_use():
    with pytest.raises(EvidenceError, match="no second derivative.*'first-order-loss'"):
        bends_of(Fused)


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


def flat(scores):
    return {width: np.full(60, score) for width, score in scores.items()}


def offered(points):
    return {point.width: point.why for point in points}


def test_a_width_that_too_few_devices_trained_leaves_the_ladder():
    scores = flat({0.25: 0.5, 0.5: 0.6, 1.0: 0.9})
    trained = TrainedWidths((1.0, 0.5, 0.5), narrowest=0.25, needed=2)
    points = score_curve(scores, RECORDINGS, np.random.default_rng(1), trained)
    assert offered(points) == {
        0.25: "",
        0.5: "",
        1.0: "trained by 1 devices, at least 2 are needed",
    }
    assert [point.offered for point in points] == [True, True, False]


def test_a_width_no_better_than_the_untrained_model_is_not_offered():
    scores = flat({0.25: 0.3, 0.5: 0.4, 1.0: 0.9})
    untrained = flat({0.25: 0.4, 0.5: 0.4, 1.0: 0.4})
    points = score_curve(scores, RECORDINGS, np.random.default_rng(1), None, untrained)
    assert [point.offered for point in points] == [False, False, True]
    assert points[0].why == "scores no better than the untrained model"


def test_below_the_training_grid_a_width_must_be_significantly_better_than_untrained():
    noise = np.repeat(np.where(np.arange(12) % 2, 0.4, -0.4), 5)
    scores = {0.125: 0.45 + noise, 0.25: 0.45 + noise, 1.0: np.full(60, 0.9)}
    untrained = flat(dict.fromkeys(scores, 0.4))
    trained = TrainedWidths((1.0,), narrowest=0.25)
    points = score_curve(scores, RECORDINGS, np.random.default_rng(1), trained, untrained)
    assert [point.offered for point in points] == [False, True, True]
    assert points[0].why.startswith("narrower than what is trained")
    clear = {**scores, 0.125: np.full(60, 0.6)}
    points = score_curve(clear, RECORDINGS, np.random.default_rng(1), trained, untrained)
    assert points[0].offered


def test_a_dominated_width_names_the_one_that_beats_it():
    points = curve_of({0.25: 0.5, 0.5: 0.8, 0.75: 0.4, 1.0: 0.9})
    assert offered(points) == {0.25: "", 0.5: "", 0.75: WORSE.format("0.25"), 1.0: ""}


WORSE = "significantly worse than width {}"


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
    base, _, _ = initialise(bench)
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
    whole = aggregate(BASE, MODEL.spec, updates)
    for name in MODEL.spec.parameters:
        np.testing.assert_array_equal(state[name], whole[name])


@pytest.mark.parametrize("method", METHODS)
def test_every_method_scores_a_round(bench, updates, method):
    result = score_round(bench, job_for(bench, updates, method, coalitions=16))
    scores = {one.device: one.score for one in result.contributions}
    assert np.isfinite(list(scores.values())).all()
    if method not in {"data-size", "participation"}:
        assert scores["rider"] == 0.0
        assert min(scores[f"honest-{number}"] for number in range(2)) > 0
    if METHODS[method].needs_validation:
        assert all(len(one.blocks) == 8 for one in result.contributions)


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


def test_widths_that_no_device_trained_are_not_offered(bench, updates):
    narrow = [one for one in updates if one.width < 1]
    job = job_for(bench, narrow)
    points = score_round(bench, job).curve
    assert next(p for p in points if p.width == 1.0).why.startswith("trained by 0 devices")
    again = score_round(bench, replace(job, absent_widths=(1.0,)))
    assert not next(p for p in again.curve if p.width == 1.0).why.startswith("trained by")


def test_contributions_are_judged_at_the_widths_that_somebody_trained(bench, updates):
    narrow = [one for one in updates if one.width < 1]
    found = score_round(bench, job_for(bench, narrow)).value_before
    steps = steps_of(BASE, MODEL.spec, narrow)
    at, both = (
        RoundEvaluator(MODEL, BASE, steps, widths, VALIDATION).value(frozenset()).mean()
        for widths in ((0.5,), GRID)
    )
    assert found == pytest.approx(at)
    assert found != pytest.approx(both)


# --- what could be foreseen ---------------------------------------------------------------------


def test_who_sends_back_the_last_change_is_credited_next_to_nothing(bench, updates):
    first = job_for(bench, [one for one in updates if one.device.startswith("honest")])
    blobs = BlobFolder(bench.blobs, owner=False)
    second_base = score_round(bench, first).digest
    now, before = (decode_state(blobs.get(name)) for name in (second_base, first.base))
    replayed = {
        name: array + (array - before[name]) if name in MODEL.spec.parameters else array
        for name, array in now.items()
    }
    trained, _ = train(MODEL, now, 1.0, motion(10), RULE, np.random.default_rng(5))
    job = replace(
        job_for(
            bench,
            [
                DeviceUpdate("honest", 1.0, trained),
                DeviceUpdate("replay", 1.0, replayed),
                DeviceUpdate("rider", 1.0, now),
            ],
        ),
        round=2,
        base=second_base,
        best=second_base,
    )
    paid = {one.device: one for one in score_round(bench, job).contributions}
    known = replace(job, known=(first.base,))
    result = score_round(bench, known)
    credited = {one.device: one for one in result.contributions}
    assert credited["replay"].known > 0.99
    assert abs(credited["replay"].score) < 0.01 * abs(paid["replay"].score)
    assert (credited["rider"].score, credited["rider"].known) == (0.0, 0.0)
    assert 0 <= credited["honest"].known < 0.9
    assert sum(one.score for one in result.contributions) == pytest.approx(
        result.value_after - result.value_before
    )
    assert result.digest == score_round(bench, job).digest, "the aggregate is as it was"


# --- assessment ---------------------------------------------------------------------------------


def assess_job(bench, updates):
    job = job_for(bench, updates)
    return AssessJob(1, job.base, job.updates)


def test_each_update_is_measured_by_itself_at_its_own_width(bench, updates):
    files = job_for(bench, updates).updates
    found = {one.device: one for one in assess(bench, assess_job(bench, updates)).scores}
    assert set(found) == {update.device for update in updates}
    for update, file in zip(updates, files, strict=True):
        one = found[update.device]
        assert (one.width, one.update) == (update.width, file.digest)
        assert one.low <= one.score <= one.high
    full = next(update for update in updates if update.device == "honest-0")
    said = outputs_per_width(MODEL, full.state, (1.0,), VALIDATION)[1.0]
    expected = MODEL.task.sample_scores(said, VALIDATION.samples.y).mean()
    assert found["honest-0"].score == pytest.approx(expected)
    for one in found.values():
        assert len(one.blocks) > 1
        assert np.mean(one.blocks) == pytest.approx(one.score)
    assert found["honest-0"].score > found["rider"].score


def test_a_model_without_a_finite_score_is_left_out(bench, updates, monkeypatch):
    scored = iter([np.full(len(VALIDATION.samples), np.nan), np.ones(len(VALIDATION.samples))])
    job = assess_job(bench, updates[:2])
    monkeypatch.setattr(type(MODEL.task), "sample_scores", lambda *_: next(scored))
    assert [one.device for one in assess(bench, job).scores] == ["honest-1"]


def test_an_assessment_without_data_is_refused(bench):
    with pytest.raises(ValueError, match="alone_rounds = 0"):
        assess(replace(bench, validation=None), AssessJob(1, "", ()))


def test_values_that_are_remembered_are_those_that_would_be_measured_again(bench, updates):
    digest = score_round(bench, job_for(bench, updates)).digest
    remembered = scoring._values[bench.blobs, digest]
    scoring._values.clear()
    measured = scoring._values_of(bench, digest, load_validation(bench))
    np.testing.assert_array_equal(remembered, measured)


def test_the_initial_weights_are_measured_once_and_like_all_others(bench, monkeypatch):
    digest, score, _ = initialise(bench)
    remembered = scoring._values_of(bench, digest, load_validation(bench))
    state = initial_state(MODEL, bench.seed)
    said = outputs_per_width(MODEL, state, bench.grid, VALIDATION)
    measured = sample_values(MODEL, said, bench.grid, VALIDATION.samples)
    np.testing.assert_array_equal(remembered, measured)
    assert score == pytest.approx(MODEL.task.score(said[1.0], VALIDATION.samples.y))
    monkeypatch.setattr("coordinator.untrained.outputs_per_width", None)
    assert initialise(bench) == (digest, score, "")


# --- updates in fewer bits ----------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["float16", "int8", "top-k"])
def test_an_update_in_fewer_bits_is_read_as_what_it_says(bench, updates, encoding):
    base = decode_state(BlobFolder(bench.blobs).get(job_for(bench, updates).base))
    one = updates[0]
    received = slice_state(base, MODEL.spec, one.width)
    rng = np.random.default_rng(0)
    payload = encode_update(one.state, received, MODEL.spec.parameters, encoding, rng, keep=1.0)
    file = UpdateFile(one.device, one.width, BlobFolder(bench.blobs).put(payload.payload), 1.0)
    found = read_update(BlobFolder(bench.blobs), MODEL.spec, base, file).state
    for name in MODEL.spec.tensors:
        span = np.abs(one.state[name] - received[name]).max() if name in received else 0.0
        np.testing.assert_allclose(found[name], one.state[name], atol=span / 100 + 1e-6)


def test_an_assessment_reads_an_update_in_fewer_bits_too(bench, updates):
    job = assess_job(bench, updates[:1])
    base = decode_state(BlobFolder(bench.blobs).get(job.base))
    one = updates[0]
    received = slice_state(base, MODEL.spec, one.width)
    rng = np.random.default_rng(0)
    said = encode_update(one.state, received, MODEL.spec.parameters, "float16", rng).payload
    file = replace(job.updates[0], digest=BlobFolder(bench.blobs).put(said))
    [plain] = assess(bench, job).scores
    [short] = assess(bench, replace(job, updates=(file,))).scores
    assert short.score == pytest.approx(plain.score, abs=0.02)
