"""What the server teaches the aggregate of a round, inside the job that scores it."""

import logging
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from coordinator.aggregation.readers import WholeChanges, readers_of
from coordinator.aggregation.rules import MEAN, admitted, aggregate
from coordinator.aggregation.updates import DeviceUpdate
from coordinator.bench import Bench, ScoreJob, UpdateFile
from coordinator.bench_loading import load_server_data, load_validation
from coordinator.distilling import distil, teachers_say
from coordinator.measuring import outputs_per_width
from coordinator.scoring import score_round
from coordinator.settings import Aggregation, Contributions, Distillation, Settings
from coordinator.settings_checks import SettingsError, check_pool
from coordinator.work import describe, initialise
from journal.blobs import BlobFolder
from slimmable.evaluation import calibrate, initial_state, outputs
from slimmable.model import ModelError, load_model
from slimmable.samples import Samples, SamplesError
from slimmable.slicing import slice_state
from slimmable.state import decode_state, encode_state
from slimmable.training import TrainingRule, train
from slimmable.window import Window, WindowKind

pytestmark = pytest.mark.torch

GRID = (0.5, 1.0)
CLASSES = ("idle", "turning", "jammed")
OPTIONS = {"input_shape": [4], "classes": CLASSES, "hidden": [16, 8]}
MODEL = load_model("mlp", OPTIONS)
BASE = initial_state(MODEL, 1)
TAUGHT = Distillation(rule="feddf", steps=40, batch_size=16, learning_rate=0.01)
RULE = TrainingRule(
    steps=40, batch_size=16, learning_rate=0.1, momentum=0.9, weight_decay=0.0, widths=GRID
)


def clouds(seed, count=90, labels=(0, 1, 2)):
    """Return a cloud for each class; the samples are recordings of their own."""
    rng = np.random.default_rng((7, seed))
    y = np.asarray(labels)[np.arange(count) % len(labels)]
    x = 1.5 * np.eye(3, 4)[y] + 0.5 * rng.standard_normal((count, 4))
    return Samples(x.astype(np.float32), y.astype(np.int64), np.arange(count))


@pytest.fixture(scope="module")
def updates():
    """Three devices, each of which lacks a class, and one of them is narrow."""
    found = []
    for number, width in enumerate((1.0, 1.0, 0.5)):
        labels = [label for label in range(3) if label != number]
        cut = slice_state(BASE, MODEL.spec, width)
        rng = np.random.default_rng(number)
        trained, _ = train(MODEL, cut, width, clouds(number, labels=labels), RULE, rng)
        found.append(DeviceUpdate(f"device-{number}", width, trained))
    return found


@pytest.fixture
def bench(tmp_path):
    return make_bench(tmp_path)


def make_bench(folder, distillation=TAUGHT, pool=None, **changes):
    folder = folder / distillation.rule  # a folder of blobs belongs to one campaign
    folder.mkdir(exist_ok=True)
    samples = clouds(99, 120)
    np.savez(folder / "validation.npz", x=samples.x, y=samples.y, recording=samples.recording)
    if pool is not None:
        np.savez(folder / "pool.npz", x=pool)
    BlobFolder(folder / "blobs")
    found = Bench(
        model="mlp",
        options=OPTIONS,
        validation=folder / "validation.npz",
        reader="npz",
        blobs=folder / "blobs",
        templates=folder / "templates",
        grid=GRID,
        ladder=GRID,
        seed=1,
        distillation=distillation,
        pool=None if pool is None else folder / "pool.npz",
    )
    return replace(found, **changes)


def job_of(bench, updates):
    blobs = BlobFolder(bench.blobs, owner=False)
    base, _, _ = initialise(bench)
    files = tuple(
        UpdateFile(one.device, one.width, blobs.put(encode_state(one.state)), 1.0)
        for one in updates
    )
    return ScoreJob(
        round=1, base=base, best=base, updates=files, method="permutation-shapley", coalitions=8
    )


def scored(bench, updates):
    found = score_round(bench, job_of(bench, updates))
    return found, decode_state(BlobFolder(bench.blobs, owner=False).get(found.digest))


def aggregate_of(updates):
    return aggregate(BASE, MODEL.spec, updates)


def admitted_changes(base, spec, updates, how=MEAN):
    return list(WholeChanges(base, spec, admitted(base, spec, readers_of(spec, updates), how)))


def taught(bench, updates, state=None, number=1):
    changes = admitted_changes(BASE, MODEL.spec, updates)
    return distil(bench, number, MODEL, BASE, changes, state or aggregate_of(updates))


def same(one, other):
    return all((one[name] == other[name]).all() for name in MODEL.spec.parameters)


# --- the recordings -------------------------------------------------------------------------------


def test_no_recording_measures_what_it_taught_or_judged(tmp_path):
    data = load_server_data(make_bench(tmp_path))
    parts = [data.validation.samples.x, data.pool, data.judges.x]
    assert [len(part) for part in parts] == [96, 12, 12]
    assert len(np.unique(np.concatenate(parts), axis=0)) == 120


def test_with_a_pool_of_the_operator_all_that_is_set_aside_judges(tmp_path):
    pool = clouds(5, 30).x
    data = load_server_data(make_bench(tmp_path, pool=pool))
    assert (data.pool == pool).all()
    assert (len(data.validation.samples), len(data.judges)) == (96, 24)
    nothing = msgspec.structs.replace(TAUGHT, set_aside=0.0)
    data = load_server_data(make_bench(tmp_path, nothing, pool=pool))
    assert (len(data.validation.samples), data.judges) == (120, None)


def test_without_distillation_every_recording_measures(tmp_path):
    plain = make_bench(tmp_path, Distillation())
    assert len(load_validation(plain).samples) == 120
    assert load_server_data(plain).pool is None


def test_too_few_recordings_name_the_setting(tmp_path):
    bench = make_bench(tmp_path, msgspec.structs.replace(TAUGHT, set_aside=0.001))
    with pytest.raises(SamplesError, match="aggregation.distillation.set_aside"):
        describe(bench)


@pytest.mark.parametrize(
    "pool", [np.zeros((9, 5), np.float32), np.zeros((1, 4), np.float32)], ids=["shape", "count"]
)
def test_a_pool_that_the_network_cannot_take_is_refused_at_the_start(tmp_path, pool):
    with pytest.raises(SamplesError, match=r"at least 2 of shape \[4\] are needed"):
        describe(make_bench(tmp_path, pool=pool))


def test_fed_et_is_refused_for_a_network_without_classes(tmp_path):
    options = {"input_shape": [4], "task": "reconstruction", "hidden": [8]}
    fed_et = msgspec.structs.replace(TAUGHT, rule="fed-et")
    x = clouds(0, 40).x
    np.savez(tmp_path / "values.npz", x=x)
    bench = make_bench(tmp_path, fed_et, options=options, validation=tmp_path / "values.npz")
    with pytest.raises(ModelError, match='rule = "fed-et" compares classes: set it to "feddf"'):
        describe(bench)
    describe(replace(bench, distillation=TAUGHT))


@pytest.mark.parametrize(
    ("rule", "evaluator", "set_aside", "pool", "message"),
    [
        ("none", "server", 0.2, True, "a pool is not used"),
        ("feddf", "devices", 0.2, False, "name a pool of unlabelled ones"),
        ("fed-et", "server", 0.0, False, "let aggregation.distillation.set_aside be above 0"),
    ],
)
def test_settings_without_anything_to_teach_with_are_refused(
    rule, evaluator, set_aside, pool, message
):
    settings = Settings(
        fleet="plant",
        model="mlp",
        aggregation=Aggregation(distillation=Distillation(rule=rule, set_aside=set_aside)),
        contributions=Contributions(evaluator=evaluator),
    ).check()
    with pytest.raises(SettingsError, match=message):
        check_pool(settings, pool=pool)
    check_pool(settings, pool=not pool)


@pytest.mark.parametrize(
    "numbers",
    [
        {"steps": 0},
        {"batch_size": 0},
        {"learning_rate": 0.0},
        {"temperature": 0.0},
        {"diversity": -1.0},
        {"set_aside": 1.0},
    ],
)
def test_numbers_that_make_no_sense_are_refused(numbers):
    how = Aggregation(distillation=Distillation(rule="feddf", **numbers))
    [name] = numbers
    with pytest.raises(SettingsError, match=f"aggregation.distillation.{name}"):
        Settings(fleet="plant", model="mlp", aggregation=how).check()


# --- teachers -------------------------------------------------------------------------------------


def test_a_teacher_is_the_network_that_the_device_sent_at_its_own_width(updates):
    x = clouds(5).x
    changes = admitted_changes(BASE, MODEL.spec, updates)
    said = dict(teachers_say(MODEL, BASE, changes, x))
    assert set(said) == {"device-0", "device-1", "device-2"}
    for one in updates:
        own = {**one.state, **calibrate(MODEL, one.width, one.state, x)}
        expected = outputs(MODEL, one.width, own, x)
        np.testing.assert_allclose(said[one.device], expected, rtol=1e-3, atol=1e-4)


def test_a_teacher_that_trained_another_window_holds_what_it_trained():
    x, window = clouds(5).x, Window(WindowKind.ROLLING, 3)
    cut = slice_state(BASE, MODEL.spec, 0.5, window)
    own = {name: array + np.float32(0.1) for name, array in cut.items()}
    update = DeviceUpdate("rolled", 0.5, own, window=window)
    [(_, said)] = teachers_say(MODEL, BASE, admitted_changes(BASE, MODEL.spec, [update]), x)
    expected = outputs(MODEL, 0.5, {**own, **calibrate(MODEL, 0.5, own, x)}, x)
    np.testing.assert_allclose(said, expected, rtol=1e-3, atol=1e-4)


def test_one_network_is_evaluated_at_a_time(updates):
    changes = iter(admitted_changes(BASE, MODEL.spec, updates))
    said = teachers_say(MODEL, BASE, changes, clouds(5).x)
    next(said)
    assert len(list(changes)) == 2


def test_the_order_of_the_updates_does_not_matter(bench, updates):
    state = aggregate_of(updates)
    first, _ = taught(bench, updates, state)
    second, _ = taught(bench, updates[::-1], state)
    assert same(first, second)


def test_the_draws_depend_on_campaign_and_round_alone(bench, updates):
    first, again = (taught(bench, updates)[0] for _ in range(2))
    assert same(first, again)
    assert not same(first, taught(bench, updates, number=2)[0])
    assert not same(first, taught(replace(bench, seed=2), updates)[0])


def test_who_says_nan_is_not_heard_and_the_journal_names_it(bench, updates, caplog):
    wild = {name: array.copy() for name, array in BASE.items()}
    for name in MODEL.spec.parameters:
        wild[name][...] = 1e30
    state = aggregate_of(updates)
    honest, plain = taught(bench, updates, state)
    with caplog.at_level(logging.WARNING):
        found, told = taught(bench, [*updates, DeviceUpdate("wild", 1.0, wild)], state)
    assert told.left_out == ("wild",)
    assert told.teachers == plain.teachers == 3
    assert same(found, honest)
    assert "wild says NaN or infinity" in caplog.text


def test_where_nobody_can_be_heard_the_aggregate_stays_as_it_is(bench):
    wild = {name: np.full_like(array, 1e30) for name, array in BASE.items()}
    found, told = taught(bench, [DeviceUpdate("wild", 1.0, wild)], BASE)
    assert found is BASE
    assert (told.teachers, told.steps, told.trouble) == (0, 0, "no network could be heard")


@pytest.mark.parametrize("rule", ["feddf", "fed-et"])
def test_a_liar_whom_the_judges_find_worse_moves_nothing(tmp_path, updates, rule):
    """Its outputs are finite, loud, and always the same class."""
    bench = make_bench(tmp_path, msgspec.structs.replace(TAUGHT, rule=rule))
    loud = {name: array.copy() for name, array in BASE.items()}
    bias = max(name for name in MODEL.spec.parameters if loud[name].shape == (3,))
    loud[bias] += np.array([1e4, 0, 0], np.float32)
    state = aggregate_of(updates)
    found, told = taught(bench, [*updates, DeviceUpdate("liar", 1.0, loud)], state)
    assert (told.teachers, told.steps) == (4, 0)
    assert told.loss_after == told.loss_before
    assert same(found, state)


# --- the round ------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["feddf", "fed-et"])
def test_a_round_is_better_for_what_it_was_taught_and_measured_after_it(tmp_path, updates, rule):
    how = msgspec.structs.replace(TAUGHT, rule=rule)
    bench = make_bench(tmp_path, how, pool=clouds(5, 300).x)
    result, state = scored(bench, updates)
    told = result.distilled
    assert (told.rule, told.teachers, told.left_out, told.trouble) == (rule, 3, (), "")
    assert 0 < told.steps <= 40
    assert told.loss_after < told.loss_before
    validation = load_validation(bench)
    said = outputs_per_width(MODEL, state, GRID, validation)
    for point in result.curve:
        assert point.score == MODEL.task.score(said[point.width], validation.samples.y)


def test_without_the_setting_nothing_is_taught(tmp_path, updates):
    result, state = scored(make_bench(tmp_path, Distillation()), updates)
    assert result.distilled is None
    assert same(state, aggregate_of(updates))


def test_what_is_taught_is_nobodys_contribution(tmp_path, updates):
    """The game of a round is played without it, so that nothing is worth exactly nothing."""
    idle = DeviceUpdate("idle", 1.0, BASE)
    pool = clouds(5, 60).x
    none = msgspec.structs.replace(TAUGHT, set_aside=0.0)
    result, state = scored(make_bench(tmp_path, none, pool=pool), [*updates, idle])
    plain, aggregate = scored(make_bench(tmp_path, Distillation()), [*updates, idle])
    assert result.distilled.steps == 40
    assert not same(state, aggregate)
    assert result.contributions == plain.contributions
    assert (result.value_before, result.value_after) == (plain.value_before, plain.value_after)
    [score] = [one.score for one in result.contributions if one.device == "idle"]
    assert score == 0


def test_a_change_that_is_shortened_teaches_shortened(bench, updates):
    far = {name: BASE[name] + 50 * (a - BASE[name]) for name, a in updates[0].state.items()}
    sent = [*updates, DeviceUpdate("far", 1.0, far)]
    plain, clip = (
        score_round(bench, replace(job_of(bench, sent), aggregation=Aggregation(clip=limit)))
        for limit in (0.0, 1.0)
    )
    changes = admitted_changes(BASE, MODEL.spec, sent, Aggregation(clip=1.0))
    state = aggregate(BASE, MODEL.spec, sent, Aggregation(clip=1.0))
    _, told = distil(bench, 1, MODEL, BASE, changes, state)
    assert clip.distilled == told
    assert plain.distilled != told


def test_values_are_distilled_too(tmp_path):
    options = {"input_shape": [4], "task": "reconstruction", "hidden": [8]}
    x = clouds(0, 80).x
    np.savez(tmp_path / "values.npz", x=x)
    bench = make_bench(
        tmp_path,
        TAUGHT,
        pool=clouds(5, 60).x,
        options=options,
        validation=tmp_path / "values.npz",
    )
    model = load_model("mlp", options)
    base = initial_state(model, 1)
    data = Samples(x, x, np.arange(80))
    found = []
    for number in range(2):
        trained, _ = train(model, base, 1.0, data, RULE, np.random.default_rng(number))
        found.append(DeviceUpdate(f"device-{number}", 1.0, trained))
    result = score_round(bench, job_of(bench, found))
    assert result.distilled.teachers == 2
    assert result.distilled.loss_after <= result.distilled.loss_before
