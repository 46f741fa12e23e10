"""Scores of public samples: digested, told, checked, put together, and fetched once (FedMD)."""

import threading
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from broker.messages import DropReason, TrainingSettings
from broker.topics import DownTopic, ServerSays
from coordinator import inputs as i
from coordinator import work
from coordinator.aggregation.knowledge import consensus, inspect_knowledge
from coordinator.bench import Bench, ScoreJob, UpdateFile
from coordinator.duties import SharedPublic, needed_blobs, shared
from coordinator.publications import device_publications
from coordinator.scoring import score_round
from coordinator.settings import Contributions, Knowledge, Settings, SettingsError
from coordinator.settings_checks import check_pool
from edge_agent import trainer_protocol as protocol
from edge_agent.public_inputs import PublicInputs
from edge_agent.training_job import Trainer
from journal.blobs import BlobFolder
from slimmable.evaluation import initial_state, outputs
from slimmable.knowledge import COUNT, INPUTS, LARGEST, MEAN, nothing_known, sample_scores
from slimmable.model import load_model
from slimmable.public_consensus import digest_consensus
from slimmable.samples import Samples, SamplesError
from slimmable.state import decode_state, digest, encode_state
from slimmable.training import train
from slimmable.training_rule import TrainingRule
from tests.fakes.office import Office, profile, share_of
from tests.fakes.office import digest as office_digest
from tests.fakes.office import settings as office_settings

pytestmark = pytest.mark.torch

CLASSES = ["idle", "turning", "jammed"]
OPTIONS = {"input_shape": [4], "classes": CLASSES, "hidden": [8]}
DEEPER = OPTIONS | {"hidden": [6, 5]}
MODEL, OTHER = load_model("mlp", OPTIONS), load_model("mlp", DEEPER)
RNG = np.random.default_rng(0)
PUBLIC = RNG.normal(size=(10, 4)).astype("f4")
TOLD = sample_scores(RNG.normal(size=(10, 3)))
ONE_STEP = TrainingRule(1, 64, 0.1, 0.0, 0.0, (1.0,))


# --- the digest ----------------------------------------------------------------------------------


def test_one_step_of_the_digest_against_the_gradient_written_out():
    state, weight, rate = initial_state(MODEL, 1), 0.7, 0.1
    found = digest_consensus(MODEL, state, PUBLIC, TOLD, ONE_STEP, weight, np.random.default_rng(3))
    first, second = state["layer.0.weight"], state["layer.1.weight"]
    before = PUBLIC @ first.T + state["layer.0.bias"]
    hidden = np.maximum(before, 0)
    said = hidden @ second.T + state["layer.1.bias"]
    pull = weight * np.sign(said - TOLD[MEAN]) / said.size  # of the mean absolute difference
    back = (pull @ second) * (before > 0)
    gradient = {
        "layer.1.weight": pull.T @ hidden,
        "layer.1.bias": pull.sum(axis=0),
        "layer.0.weight": back.T @ PUBLIC,
        "layer.0.bias": back.sum(axis=0),
    }
    for name, slope in gradient.items():
        np.testing.assert_allclose(found[name], state[name] - rate * slope, atol=1e-6)


def test_samples_that_nobody_told_anything_about_are_left_out():
    state = initial_state(MODEL, 1)
    some = {name: array.copy() for name, array in TOLD.items()}
    some[MEAN][::2] = 0
    some[COUNT][::2] = 0
    rest = {name: array[1::2] for name, array in TOLD.items()}
    rule = TrainingRule(4, 2, 0.1, 0.9, 0.0, (1.0,))
    one, other = (
        digest_consensus(MODEL, state, x, told, rule, 1.0, np.random.default_rng(3))
        for x, told in ((PUBLIC, some), (PUBLIC[1::2], rest))
    )
    assert encode_state(one) == encode_state(other)
    assert encode_state(one) != encode_state(state)
    nobody = digest_consensus(
        MODEL, state, PUBLIC, nothing_known(10, 3), rule, 1.0, np.random.default_rng(3)
    )
    assert encode_state(nobody) == encode_state(state)


def test_a_row_that_is_far_off_pulls_no_harder_than_any_other():
    state = initial_state(MODEL, 1)
    lie = {**TOLD, MEAN: TOLD[MEAN].copy()}
    lie[MEAN][0] = LARGEST * np.sign(lie[MEAN][0] - outputs(MODEL, 1.0, state, PUBLIC)[0])
    honest, misled = (
        digest_consensus(MODEL, state, PUBLIC, told, ONE_STEP, 1.0, np.random.default_rng(3))
        for told in (TOLD, lie)
    )
    for name, array in honest.items():
        np.testing.assert_allclose(misled[name], array, atol=1e-7)


def test_networks_of_two_architectures_come_to_say_the_same_of_public_samples():
    rule = TrainingRule(60, 8, 0.1, 0.9, 0.0, (1.0,), masked_loss=True)
    for model in (MODEL, OTHER):
        state = initial_state(model, 0)
        far = np.abs(outputs(model, 1.0, state, PUBLIC) - TOLD[MEAN]).mean()
        done = []
        after = digest_consensus(
            model, state, PUBLIC, TOLD, rule, 1.0, np.random.default_rng(3), done.append
        )
        assert np.abs(outputs(model, 1.0, after, PUBLIC) - TOLD[MEAN]).mean() < 0.7 * far
        assert done == list(range(1, 61))


# --- the consensus, and what is no part of it ----------------------------------------------------


def test_the_consensus_is_the_mean_of_who_scored_a_sample_by_hand():
    before = {MEAN: np.full((3, 2), 9, "f4"), COUNT: np.array([2, 2, 2])}
    told = {"a": sample_scores(np.array([[1, 2], [3, 4], [5, 6]]))}
    told["b"] = sample_scores(np.array([[3, 0], [0, 0], [0, 0]]))
    told["b"][COUNT][1:] = 0
    for one in told.values():
        one[MEAN][2], one[COUNT][2] = 0, 0
    found = consensus(before, told)
    np.testing.assert_array_equal(found[MEAN], [[2, 1], [3, 4], [9, 9]])
    np.testing.assert_array_equal(found[COUNT], [2, 1, 2])


def bad(**changes):
    return encode_state(TOLD | changes)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"rubbish", DropReason.BAD_BYTES),
        (encode_state(sample_scores(np.ones((9, 3)))), DropReason.WRONG_SHAPE),
        (encode_state(sample_scores(np.ones((10, 4)))), DropReason.WRONG_SHAPE),
        (encode_state(sample_scores(np.ones((3, 10)))), DropReason.WRONG_SHAPE),
        (encode_state({INPUTS: PUBLIC}), DropReason.WRONG_SHAPE),
        (bad(x=PUBLIC), DropReason.WRONG_SHAPE),
        (bad(count=np.ones(3, np.int64)), DropReason.WRONG_SHAPE),
        (bad(count=np.full(10, -1)), DropReason.WRONG_SHAPE),
        (bad(mean=TOLD[MEAN].astype("f8")), DropReason.WRONG_SHAPE),
        (bad(mean=np.full((10, 3), np.nan, "f4")), DropReason.NOT_FINITE),
        (bad(mean=np.full((10, 3), -np.inf, "f4")), DropReason.NOT_FINITE),
        (bad(mean=np.full((10, 3), 2 * LARGEST, "f4")), DropReason.NOT_FINITE),
    ],
)
def test_scores_that_are_not_of_the_rounds_form_are_refused(payload, reason):
    like = nothing_known(10, 3)
    assert inspect_knowledge(encode_state(TOLD), like) is None
    found = inspect_knowledge(payload, like)
    assert found is not None
    assert found[0] is reason, found


# --- a training command --------------------------------------------------------------------------


@pytest.fixture
def trainer():
    return Trainer(lambda _event: None, threading.Event())


def own_samples():
    y = np.repeat(np.arange(20), 4) % 3
    x = np.random.default_rng(7).normal(size=(80, 4)).astype("f4") + np.eye(3, 4, dtype="f4")[y]
    return Samples(x, y, np.repeat(np.arange(20), 4))


@pytest.fixture
def command(tmp_path):
    data, path, public = own_samples(), tmp_path / "own.npz", tmp_path / "public.safetensors"
    np.savez(path, x=data.x, y=data.y, recording=data.recording)
    public.write_bytes(encode_state({INPUTS: PUBLIC}))
    training = TrainingSettings(
        steps=5, batch_size=8, learning_rate=0.1, momentum=0.9, weight_decay=0.0, widths=(1.0,)
    )

    def build(**changes):
        known = {
            "model": "mlp",
            "options": DEEPER,
            "spec_hash": "",
            "data": protocol.DataSource(path=str(path), reader="npz"),
            "width": 1.0,
            "state": encode_state(TOLD),
            "training": training,
            "seed": 5,
            "start_seed": 3,
            "kept": str(tmp_path / "kept"),
            "payload": "public-scores",
            "knowledge_weight": 1.0,
            "public": str(public),
            "digest_steps": 7,
        }
        return protocol.TrainCommand(**(known | changes))

    return build


def kept(tmp_path):
    return decode_state((tmp_path / "kept" / f"{OTHER.spec.spec_hash}.safetensors").read_bytes())


def test_a_device_digests_then_revisits_and_tells_its_scores(trainer, command, tmp_path):
    done = trainer.answer(command())
    assert isinstance(done, protocol.Trained), done
    assert done.steps == 12
    data, start = own_samples(), initial_state(OTHER, 3)
    digested = digest_consensus(
        OTHER,
        start,
        PUBLIC,
        TOLD,
        TrainingRule(7, 8, 0.1, 0.9, 0.0, (1.0,)),
        1.0,
        np.random.default_rng((5, 0xD16)),
    )
    rule = TrainingRule(5, 8, 0.1, 0.9, 0.0, (1.0,))
    expected, loss = train(OTHER, digested, 1.0, data, rule, np.random.default_rng(5))
    assert encode_state(kept(tmp_path)) == encode_state(expected)
    assert done.loss == pytest.approx(loss)
    told = decode_state(done.state)
    np.testing.assert_allclose(told[MEAN], outputs(OTHER, 1.0, expected, PUBLIC), rtol=1e-5)
    np.testing.assert_array_equal(told[COUNT], np.ones(10))
    assert inspect_knowledge(done.state, TOLD) is None


@pytest.mark.parametrize(
    "changes",
    [{"state": encode_state(nothing_known(10, 3))}, {"knowledge_weight": 0.0}],
)
def test_without_a_consensus_or_a_weight_it_is_training_alone(trainer, command, tmp_path, changes):
    done = trainer.answer(command(**changes))
    assert done.steps == 5
    rule = TrainingRule(5, 8, 0.1, 0.9, 0.0, (1.0,))
    start = initial_state(OTHER, 3)
    alone, _ = train(OTHER, start, 1.0, own_samples(), rule, np.random.default_rng(5))
    assert encode_state(kept(tmp_path)) == encode_state(alone)


def test_a_free_rider_tells_the_consensus_again(trainer, command, tmp_path):
    assert trainer.answer(command(behaviour="free-rider")).state == encode_state(TOLD)
    noisy = trainer.answer(command(behaviour="free-rider", noise=0.1)).state
    assert inspect_knowledge(noisy, TOLD) is None
    assert not (tmp_path / "kept").exists()


FOUR = {"classes": ["a", "b", "c", "d"]}


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"options": DEEPER | FOUR}, "wrong-spec", "tells 4 classes apart, the fleet 3"),
        ({"options": DEEPER | {"input_shape": [5]}}, "wrong-spec", "of shape \\[5\\], the public"),
        ({"public": ""}, "wrong-spec", "names no public inputs"),
        ({"public": "/nowhere/at/all"}, "bad-bytes", "cannot be read"),
        ({"state": encode_state(nothing_known(9, 3))}, "wrong-spec", "knows 9 public samples"),
        ({"state": bad(mean=np.full((10, 3), np.nan, "f4"))}, "wrong-spec", "NaN"),
        ({"state": encode_state({INPUTS: PUBLIC})}, "wrong-spec", "no knowledge that this"),
    ],
)
def test_what_a_device_cannot_work_on_it_says(trainer, command, tmp_path, changes, code, said):
    failed = trainer.answer(command(**changes))
    assert isinstance(failed, protocol.Failed)
    assert failed.code == code
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(failed.detail)
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"rubbish", "not a safetensors"),
        (encode_state({"y": PUBLIC}), "cannot be read"),
        (encode_state({INPUTS: np.full((10, 4), np.nan, "f4")}), "NaN"),
        (encode_state({INPUTS: PUBLIC.astype("f8")}), "no float32"),
    ],
)
def test_public_inputs_that_are_none_are_refused(trainer, command, tmp_path, content, said):
    (tmp_path / "public.safetensors").write_bytes(content)
    failed = trainer.answer(command())
    assert failed.code == "bad-bytes"
    assert said in failed.detail


# --- the device's file ---------------------------------------------------------------------------


def test_public_inputs_are_kept_under_their_digest_and_found_only_if_they_are_right(tmp_path):
    store, one, other = PublicInputs(tmp_path / "public"), b"one", b"other"
    assert store.find(digest(one)) is None
    path = store.keep(one)
    assert store.find(digest(one)) == path
    assert store.find(digest(other)) is None
    path.write_bytes(b"garbled")
    assert store.find(digest(one)) is None
    store.keep(other)  # of the next campaign
    assert [found.name for found in path.parent.iterdir()] == [f"{digest(other)}.safetensors"]


# --- the server ----------------------------------------------------------------------------------


@pytest.fixture
def bench(tmp_path):
    BlobFolder(tmp_path / "blobs")
    np.savez(tmp_path / "pool.npz", x=PUBLIC)

    def build(**changes):
        known = {
            "model": "mlp",
            "options": OPTIONS,
            "validation": None,
            "reader": "npz",
            "blobs": tmp_path / "blobs",
            "templates": tmp_path / "templates",
            "grid": (1.0,),
            "ladder": (1.0,),
            "seed": 0,
            "exchange": "public-scores",
            "pool": tmp_path / "pool.npz",
        }
        return Bench(**(known | changes))

    return build


@pytest.mark.parametrize("wanted", [0, 6])
def test_the_first_of_the_pool_are_public_and_a_round_pools_their_scores(bench, wanted):
    here, rows = bench(public_samples=wanted), wanted or 10
    work.describe(here)
    start, score, public = work.initialise(here)
    blobs = BlobFolder(here.blobs, owner=False)
    np.testing.assert_array_equal(decode_state(blobs.get(public))[INPUTS], PUBLIC[:rows])
    assert encode_state(decode_state(blobs.get(start))) == encode_state(nothing_known(rows, 3))
    assert score == 0.0
    told = {"a": sample_scores(np.ones((rows, 3))), "b": sample_scores(3 * np.ones((rows, 3)))}
    updates = tuple(
        UpdateFile(name, 1.0, blobs.put(encode_state(one)), weight=1.0)
        for name, one in told.items()
    )
    found = score_round(here, ScoreJob(1, start, start, updates, "cosine-to-aggregate", 4))
    assert (decode_state(blobs.get(found.digest))[MEAN] == 2.0).all()


def test_a_pool_that_does_not_fit_is_refused_before_any_round(bench, tmp_path, monkeypatch):
    with pytest.raises(SamplesError, match=r"samples = 11, and the pool holds 10"):
        work.describe(bench(public_samples=11))
    with pytest.raises(SamplesError, match="name a pool"):
        work.describe(bench(pool=None))
    with pytest.raises(SamplesError, match=r"shape \[4\]: \[5\] is needed"):
        work.describe(bench(options=OPTIONS | {"input_shape": [5]}))
    monkeypatch.setattr("coordinator.knowledge_round.LARGEST_BLOB", 4 * 4 * 9)
    work.describe(bench(public_samples=9))
    with pytest.raises(SamplesError, match="lower knowledge.samples"):
        work.describe(bench())


SHARING = {
    "exchange": "public-scores",
    "widths": (1.0,),
    "contributions": Contributions(evaluator="devices"),
}


def test_settings_say_what_public_scores_need():
    sound = Settings(fleet="plant", model="mlp", **SHARING).check()
    check_pool(sound, pool=True)
    with pytest.raises(SettingsError, match="name a pool"):
        check_pool(sound, pool=False)
    with pytest.raises(SettingsError, match="a pool is not used"):
        check_pool(msgspec.structs.replace(sound, exchange="class-scores"), pool=True)
    for knowledge, said in (
        (Knowledge(digest_steps=0), "knowledge.digest_steps = 0"),
        (Knowledge(samples=-1), "knowledge.samples = -1"),
    ):
        with pytest.raises(SettingsError, match=said):
            msgspec.structs.replace(sound, knowledge=knowledge).check()
    with pytest.raises(SettingsError, match="concerns weights"):
        msgspec.structs.replace(sound, weighting="samples").check()


A, B = "device-a", "device-b"
INPUTS_DIGEST = office_digest("public inputs")


@pytest.fixture
def desk():
    desk = Office(office_settings(**SHARING, rounds={"min_devices": 2, "quorum": 2}))
    desk.start()
    desk.say(i.Initialised(office_digest("round 0"), 0.0, INPUTS_DIGEST))
    for name in (A, B):
        desk.join(name)
    return desk


def task_of(desk, wanted):
    shares = {one: share_of(one) for one in wanted}
    return device_publications(desk.state, A, shares, lambda *_: None)[
        DownTopic(A, ServerSays.TASK)
    ]


def test_public_inputs_are_shared_until_training_ends_and_a_task_waits_for_them(desk):
    public = SharedPublic(INPUTS_DIGEST)
    wanted = shared(desk.state)
    assert public in wanted
    assert INPUTS_DIGEST in needed_blobs(desk.state)
    assert task_of(desk, wanted - {public}) is None
    task = task_of(desk, wanted)
    assert (task.payload, task.digest_steps) == ("public-scores", 16)
    assert (task.public, task.public_key) == (share_of(public).reference, share_of(public).key)
    assert task.public.encrypted
    for name in (A, B):
        desk.fetched(name, payload="public-scores")
    assert public in shared(desk.state)  # between rounds too: it is published once
    assert public not in shared(replace(desk.state, stopped="the budget is spent"))
    assert desk.replayed() == desk.state


def test_the_digest_counts_in_the_predicted_time_of_a_round(desk):
    other = Office(office_settings(**(SHARING | {"exchange": "class-scores"})))
    other.begin(A)
    (cost,) = [one for one in profile().costs if one.width == 1.0]
    more = desk.device(A).predicted_s - other.device(A).predicted_s
    assert more == pytest.approx(16 * cost.step_s, rel=0.5)
    assert more > 0
