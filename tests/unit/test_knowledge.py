"""What devices with unlike networks tell each other: made, checked, put together, learnt from."""

import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from broker.messages import DropReason, TrainingSettings, WidthEvaluation
from broker.topics import DownTopic, ServerSays
from coordinator import inputs as i
from coordinator import work
from coordinator.admission import admit
from coordinator.aggregation.knowledge import consensus, inspect_knowledge
from coordinator.bench import Bench, RoundResult, ScoreJob, UpdateFile
from coordinator.fleet import OWN_NETWORKS, Phase
from coordinator.publications import device_publications
from coordinator.scoring import score_round
from coordinator.settings import (
    Aggregation,
    Contributions,
    Rounds,
    Settings,
    SettingsError,
    Training,
    Uploads,
)
from edge_agent import trainer_protocol as protocol
from edge_agent.training_job import Trainer
from journal.blobs import BlobFolder
from slimmable.evaluation import initial_state, load_network
from slimmable.guidance import FeatureTap, Guidance, row_size, what_it_says
from slimmable.knowledge import COUNT, LARGEST, MEAN, class_means, nothing_known
from slimmable.model import ModelError, load_model
from slimmable.samples import Samples
from slimmable.state import decode_state, encode_state
from slimmable.training import train
from slimmable.training_rule import TrainingRule
from tests.fakes.office import Office
from tests.fakes.office import settings as office_settings
from tests.fakes.toy_models import toy

pytestmark = pytest.mark.torch

CLASSES = ["idle", "turning", "jammed"]
OPTIONS = {"input_shape": [4], "classes": CLASSES, "hidden": [8]}
MODEL = load_model("mlp", OPTIONS)
DEEPER = {"input_shape": [4], "classes": CLASSES, "hidden": [6, 8]}


def knowledge(mean, count):
    return {MEAN: np.array(mean, np.float32), COUNT: np.array(count, np.int64)}


# --- class means ---------------------------------------------------------------------------------


def test_the_mean_of_each_class_by_hand():
    values = np.array([[1.0, 2.0], [3.0, 4.0], [10.0, 0.0]], np.float32)
    found = class_means(values, np.array([0, 0, 2]), 3)
    np.testing.assert_array_equal(found[MEAN], [[2.0, 3.0], [0.0, 0.0], [10.0, 0.0]])
    np.testing.assert_array_equal(found[COUNT], [2, 0, 1])


# --- consensus -----------------------------------------------------------------------------------


def test_the_consensus_by_hand():
    before = knowledge([[9, 9], [9, 9], [7, 7], [0, 0]], [5, 5, 1, 0])
    told = {
        "b": knowledge([[1, 2], [4, 4], [0, 0], [0, 0]], [100, 1, 0, 0]),
        "a": knowledge([[3, 6], [0, 0], [0, 0], [0, 0]], [1, 0, 0, 0]),
    }
    found = consensus(before, told)
    # Unweighted though one device claims a hundred samples; what nobody told is as it was.
    np.testing.assert_array_equal(found[MEAN], [[2, 4], [4, 4], [7, 7], [0, 0]])
    np.testing.assert_array_equal(found[COUNT], [2, 1, 1, 0])


def told_by_chance(seed, devices):
    rng = np.random.default_rng(seed)
    told = {}
    for number in range(devices):
        count = rng.integers(0, 3, 4)
        mean = rng.normal(size=(4, 3)).astype(np.float32) * (count > 0)[:, None]
        told[f"device-{number}"] = {MEAN: mean, COUNT: count}
    return told


def naive(before, told):
    mean, count = before[MEAN].copy(), before[COUNT].copy()
    for row in range(len(mean)):
        rows = [one[MEAN][row] for one in told.values() if one[COUNT][row] > 0]
        if rows:
            mean[row], count[row] = np.mean(rows, axis=0, dtype=np.float64), len(rows)
    return {MEAN: mean, COUNT: count}


@given(seed=st.integers(0, 10_000), devices=st.integers(1, 6), turn=st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_the_laws_of_the_consensus(seed, devices, turn):
    told, before = told_by_chance(seed, devices), nothing_known(4, 3)
    found = consensus(before, told)
    expected = naive(before, told)
    np.testing.assert_allclose(found[MEAN], expected[MEAN], rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(found[COUNT], expected[COUNT])
    names = list(told)
    turned = {name: told[name] for name in names[turn % devices :] + names[: turn % devices]}
    other = consensus(before, turned)  # the order does not matter
    assert encode_state(other) == encode_state(found)
    nobody = ~np.any([one[COUNT] > 0 for one in told.values()], axis=0)
    assert not found[MEAN][nobody].any()  # a class that nobody has has no prototype
    assert not found[COUNT][nobody].any()
    one = told[names[0]]
    same = consensus(before, dict.fromkeys(names, one))  # identical devices give what each told
    np.testing.assert_array_equal(same[MEAN], one[MEAN])
    assert inspect_knowledge(encode_state(found), before) is None


def test_a_round_of_nobody_changes_nothing():
    before = knowledge([[1, 2]], [3])
    found = consensus(before, {})
    assert encode_state(found) == encode_state(before)


# --- hostile updates -----------------------------------------------------------------------------

LIKE = nothing_known(3, 8)
SOUND = knowledge(np.ones((3, 8)), [1, 2, 3])


def bad(**changes):
    return encode_state(SOUND | changes)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"rubbish", DropReason.BAD_BYTES),
        (b"", DropReason.BAD_BYTES),
        (encode_state({}), DropReason.WRONG_SHAPE),
        (encode_state({MEAN: SOUND[MEAN]}), DropReason.WRONG_SHAPE),
        (bad(extra=np.zeros(3, np.float32)), DropReason.WRONG_SHAPE),
        (bad(mean=np.ones((3, 9), np.float32)), DropReason.WRONG_SHAPE),
        (bad(mean=np.ones((4, 8), np.float32)), DropReason.WRONG_SHAPE),
        (bad(mean=np.ones((3, 8), np.float64)), DropReason.WRONG_SHAPE),
        (bad(count=np.ones(3, np.float32)), DropReason.WRONG_SHAPE),
        (bad(count=np.array([1, -2, 3])), DropReason.WRONG_SHAPE),
        (bad(count=np.array([1, 0, 3])), DropReason.WRONG_SHAPE),
        (bad(mean=np.full((3, 8), np.nan, np.float32)), DropReason.NOT_FINITE),
        (bad(mean=np.full((3, 8), np.inf, np.float32)), DropReason.NOT_FINITE),
        (bad(mean=np.full((3, 8), 1.1 * LARGEST, np.float32)), DropReason.NOT_FINITE),
        (encode_state(initial_state(MODEL, 0)), DropReason.WRONG_SHAPE),
    ],
)
def test_what_is_no_knowledge_of_the_rounds_form_is_refused(payload, reason):
    assert inspect_knowledge(encode_state(SOUND), LIKE) is None
    found = inspect_knowledge(payload, LIKE)
    assert found is not None
    assert found[0] is reason, found


# --- features and the loss -----------------------------------------------------------------------


def test_features_are_what_goes_into_the_last_linear_layer():
    state = initial_state(MODEL, 3)
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    hidden = np.maximum(x @ state["layer.0.weight"].T + state["layer.0.bias"], 0)
    np.testing.assert_allclose(what_it_says(MODEL, state, x, "prototypes"), hidden, rtol=1e-5)
    scores = hidden @ state["layer.1.weight"].T + state["layer.1.bias"]
    found = what_it_says(MODEL, state, x, "class-scores")
    np.testing.assert_allclose(found, scores, rtol=1e-4, atol=1e-6)
    assert (row_size(MODEL, "prototypes"), row_size(MODEL, "class-scores")) == (8, 3)


def test_networks_that_tell_nothing_of_this_kind_are_refused():
    with pytest.raises(ModelError, match="must be a classifier"):
        row_size(toy(), "class-scores")

    class NoLayer(nn.Module):
        def forward(self, x):
            return x

    tap = FeatureTap()
    tap.watch(NoLayer())
    with pytest.raises(ModelError, match="no linear layer"):
        tap.features()


@pytest.mark.parametrize("exchange", ["prototypes", "class-scores"])
def test_the_loss_by_hand(exchange):
    network = load_network(MODEL, 1.0, initial_state(MODEL, 1))
    size = row_size(MODEL, exchange)
    rng = np.random.default_rng(2)
    known = knowledge(rng.normal(size=(3, size)), [4, 0, 1])
    known[MEAN][1] = 0
    guide = Guidance(exchange, known, 0.5)
    guide.watch(network)
    x = rng.normal(size=(6, 4)).astype(np.float32)
    labels = np.array([0, 1, 2, 0, 1, 2])
    outputs = network(torch.tensor(x))
    found = float(guide.loss(outputs, torch.tensor(labels)).detach())
    said = what_it_says(MODEL, initial_state(MODEL, 1), x, exchange)
    distances = [
        0.0 if known[COUNT][label] == 0 else float(((one - known[MEAN][label]) ** 2).sum())
        for one, label in zip(said, labels, strict=True)
    ]
    assert found == pytest.approx(0.5 * sum(distances) / (6 * size), rel=1e-5)


def samples(seed=0):
    rng = np.random.default_rng(seed)
    recording = np.repeat(np.arange(20), 4)
    y = recording % 3
    x = rng.normal(size=(80, 4)).astype("f4") + np.eye(3, 4, dtype="f4")[y]
    return Samples(x, y, recording)


RULE = TrainingRule(20, 8, 0.1, 0.9, 0.0, (1.0,))


def test_features_move_towards_the_prototypes_and_knowing_nothing_changes_nothing():
    data, start = samples(), initial_state(MODEL, 0)

    def trained(known, weight):
        guide = Guidance("prototypes", known, weight)
        rng = np.random.default_rng(1)
        return train(MODEL, start, 1.0, data, RULE, rng, guide=guide)[0]

    plain = train(MODEL, start, 1.0, data, RULE, np.random.default_rng(1))[0]
    known = knowledge(3 * np.eye(3, 8), [1, 1, 1])
    for state in (trained(nothing_known(3, 8), 1.0), trained(known, 0.0)):
        for name, array in state.items():
            np.testing.assert_array_equal(array, plain[name])

    def distance(state):
        said = what_it_says(MODEL, state, data.x, "prototypes")
        return float(((said - known[MEAN][data.y]) ** 2).mean())

    assert distance(trained(known, 1.0)) < 0.7 * distance(plain)


# --- a training command --------------------------------------------------------------------------


@pytest.fixture
def trainer():
    return Trainer(lambda _event: None, threading.Event())


@pytest.fixture
def command(tmp_path):
    data, path = samples(), tmp_path / "own.npz"
    np.savez(path, x=data.x, y=data.y, recording=data.recording)

    def build(**changes):
        known = {
            "model": "mlp",
            "options": DEEPER,
            "spec_hash": "",
            "data": protocol.DataSource(path=str(path), reader="npz"),
            "width": 1.0,
            "state": encode_state(nothing_known(3, 8)),
            "training": TrainingSettings(
                steps=5,
                batch_size=8,
                learning_rate=0.1,
                momentum=0.9,
                weight_decay=0.0,
                widths=(1.0,),
            ),
            "seed": 5,
            "start_seed": 3,
            "kept": str(tmp_path / "kept"),
            "payload": "prototypes",
            "knowledge_weight": 1.0,
            "evaluate": True,
        }
        return protocol.TrainCommand(**(known | changes))

    return build


def kept_state(tmp_path):
    spec = load_model("mlp", DEEPER).spec
    return decode_state((tmp_path / "kept" / f"{spec.spec_hash}.safetensors").read_bytes())


def test_a_network_of_another_architecture_tells_knowledge_of_the_rounds_form(
    trainer, command, tmp_path
):
    done = trainer.answer(command())
    assert isinstance(done, protocol.Trained), done
    assert inspect_knowledge(done.state, nothing_known(3, 8)) is None
    told = decode_state(done.state)
    assert told[COUNT].sum() == done.samples == 64
    deeper = load_model("mlp", DEEPER)
    assert set(kept_state(tmp_path)) == set(deeper.spec.tensors)
    (measured,) = done.evaluations
    assert (measured.width, measured.samples) == (1.0, 16)


def test_the_next_round_goes_on_with_the_kept_network(trainer, command, tmp_path):
    trainer.answer(command())
    first = kept_state(tmp_path)
    done = trainer.answer(command(seed=6))
    assert any((kept_state(tmp_path)[name] != first[name]).any() for name in first)
    again = Trainer(lambda _event: None, threading.Event())  # the process died in between
    other = again.answer(command(seed=7))
    assert other.evaluations != done.evaluations


def test_a_free_rider_tells_what_it_was_told(trainer, command, tmp_path):
    known = knowledge(np.ones((3, 8)), [1, 0, 2])
    known[MEAN][1] = 0
    done = trainer.answer(command(state=encode_state(known), behaviour="free-rider"))
    assert done.state == encode_state(known)
    noisy = trainer.answer(command(state=encode_state(known), behaviour="free-rider", noise=0.1))
    assert inspect_knowledge(noisy.state, known) is None
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"options": DEEPER | {"hidden": [8, 6]}}, "6 features before its last layer"),
        ({"options": DEEPER | {"classes": ["a", "b"]}}, "tells 2 classes apart, the fleet 3"),
        ({"payload": "invented-later"}, "this version does not know"),
        ({"kept": ""}, "needs a folder"),
        ({"state": encode_state({"strange": np.zeros(2)})}, "no knowledge that this version"),
        ({"state": encode_state(nothing_known(3, 8) | {COUNT: np.zeros(4, np.int64)})}, "cannot"),
    ],
)
def test_a_network_that_cannot_take_part_says_why(trainer, command, changes, said):
    failed = trainer.answer(command(**changes))
    assert isinstance(failed, protocol.Failed)
    assert failed.code == "wrong-spec"
    assert said in failed.detail


# --- the server's jobs ---------------------------------------------------------------------------


@pytest.fixture
def bench(tmp_path):
    BlobFolder(tmp_path / "blobs")
    return Bench(
        model="mlp",
        options=OPTIONS,
        validation=None,
        reader="npz",
        blobs=tmp_path / "blobs",
        templates=tmp_path / "templates",
        grid=(1.0,),
        ladder=(1.0,),
        seed=0,
        exchange="prototypes",
    )


def test_the_first_round_starts_from_knowing_nothing_and_a_round_pools_what_was_told(bench):
    work.describe(bench)
    digest, score, _ = work.initialise(bench)
    blobs = BlobFolder(bench.blobs, owner=False)
    assert encode_state(decode_state(blobs.get(digest))) == encode_state(nothing_known(3, 8))
    assert score == 0.0
    told = {"a": SOUND, "b": knowledge(3 * np.ones((3, 8)), [1, 1, 1])}
    updates = tuple(
        UpdateFile(name, 1.0, blobs.put(encode_state(one)), weight=1.0)
        for name, one in told.items()
    )
    found = score_round(bench, ScoreJob(1, digest, digest, updates, "cosine-to-aggregate", 4))
    assert (found.method, found.curve, found.contributions) == ("none", (), ())
    assert (decode_state(blobs.get(found.digest))[MEAN] == 2.0).all()


KNOWING = {
    "exchange": "prototypes",
    "widths": (1.0,),
    "contributions": Contributions(evaluator="devices"),
}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"widths": (0.5, 1.0)}, r"set widths = \[1.0\]"),
        ({"contributions": Contributions()}, 'evaluator = "devices"'),
        ({"training": Training(private=("layer.1.*",))}, "training.private concerns weights"),
        ({"uploads": Uploads(encoding="int8")}, "uploads.encoding concerns weights"),
        ({"aggregation": Aggregation(rule="median")}, "aggregation concerns weights"),
        ({"weighting": "samples"}, "weighting = "),
        ({"rounds": Rounds(cohort=2, selection="usefulness")}, "usefulness"),
        ({"rounds": Rounds(release_every=3)}, "no whole network"),
        ({"rounds": Rounds(late="use")}, "concerns weights"),
    ],
)
def test_settings_that_concern_weights_are_refused_where_none_travel(changes, said):
    assert Settings(fleet="plant", model="mlp", **KNOWING).check().keeps_own
    with pytest.raises(SettingsError, match=said):
        Settings(fleet="plant", model="mlp", **(KNOWING | changes)).check()


A, B = "device-a", "device-b"


def told_office():
    """A campaign of decisions alone, whose first round asks for prototypes."""
    return Office(
        office_settings(
            exchange="prototypes",
            widths=(1.0,),
            contributions=Contributions(evaluator="devices"),
            rounds={"min_devices": 2, "quorum": 2},
        )
    ).begin(A, B)


@pytest.mark.parametrize(
    ("payload", "encoding", "fits"),
    [
        ("prototypes", "safetensors-f32", True),
        ("state-dict", "safetensors-f32", False),
        ("change", "safetensors-int8", False),
        ("class-scores", "safetensors-f32", False),
        ("prototypes", "safetensors-int8", False),
    ],
)
def test_an_update_must_hold_what_the_task_asked_for(payload, encoding, fits):
    desk = told_office()
    refusal = admit(desk.state, A, desk.update_of(A, payload=payload, encoding=encoding), 10**6)
    assert (refusal is None) == fits
    if refusal:
        assert refusal[0] is DropReason.BAD_BYTES
        assert "unknown payload" in refusal[1]


def test_an_exchange_campaign_ends_without_rewards_and_its_devices_are_told_their_scores():
    desk = told_office()
    known = {"payload": "prototypes"}
    for number in range(1, 20):
        if desk.state.stopped:
            break
        for name in (A, B):
            score = 0.5 + 0.01 * number
            told = WidthEvaluation(width=1.0, score=score, loss=1.0 - score, samples=8)
            desk.fetched(name, evaluations=(told,), **known)
        desk.say(
            i.Scored(
                desk.state.round.number,
                RoundResult(f"{number:064d}", (), (), "none", 0.0, 0.0, 0, 0.1, better=False),
            )
        )
    assert desk.state.phase is Phase.FINISHED
    assert desk.state.withheld == OWN_NETWORKS
    assert [one.width for one in desk.state.scored.curve] == [1.0]
    standing = device_publications(desk.state, A, {}, lambda *_: None)[
        DownTopic(A, ServerSays.STANDING)
    ]
    assert standing.local_score == pytest.approx(0.5 + 0.01 * desk.state.round.number)
    assert standing.method == "none"
    assert desk.replayed() == desk.state
