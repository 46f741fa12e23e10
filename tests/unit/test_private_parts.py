"""What a device keeps to itself: named by patterns, kept on its disk, never sent."""

import os
import subprocess
import sys
import threading

import msgspec
import numpy as np
import pytest
import torch

from broker.messages import DropReason, TrainingSettings
from coordinator.aggregation.updates import inspect_payload
from coordinator.bench import UpdateFile
from coordinator.settings import Contributions, Rewards, Rounds, Settings, SettingsError, Training
from coordinator.update_file import read_update
from edge_agent import trainer_protocol as protocol
from edge_agent.kept_tensors import KeptTensors
from edge_agent.training_job import Trainer
from journal.blobs import BlobFolder
from journal.crashpoints import CRASH_AT, CRASHPOINTS, KILLED
from slimmable.evaluation import initial_state
from slimmable.model import load_model
from slimmable.private_parts import (
    check_patterns,
    overlaid,
    part_of,
    private_names,
    shared_spec,
)
from slimmable.samples import Samples
from slimmable.slicing import check_state, slice_state
from slimmable.spec import SpecError
from slimmable.state import decode_state, encode_state
from slimmable.training import train
from slimmable.training_rule import TrainingRule

pytestmark = pytest.mark.torch

GRID = (0.5, 1.0)
OPTIONS = {"input_shape": [4], "classes": ["idle", "turning"], "hidden": [8]}
MODEL = load_model("mlp", OPTIONS)
SPEC = MODEL.spec
STATE = initial_state(MODEL, 0)
HEAD = ("layer.1.*",)
HEAD_NAMES = {"layer.1.weight", "layer.1.bias"}
BODY_NAMES = set(SPEC.tensors) - HEAD_NAMES


def recordings(count=20, seed=0):
    rng = np.random.default_rng(seed)
    recording = np.repeat(np.arange(count), 4)
    y = recording % 2
    x = rng.normal(size=(4 * count, 4)).astype("f4") + y[:, None].astype("f4")
    return Samples(x, y, recording)


SAMPLES = recordings()


# --- patterns ------------------------------------------------------------------------------------


def test_a_pattern_names_tensors_as_a_shell_names_files():
    assert private_names(SPEC, HEAD) == HEAD_NAMES
    assert private_names(SPEC, ("*.bias",)) == {n for n in SPEC.tensors if n.endswith(".bias")}
    assert private_names(SPEC, ()) == frozenset()


def test_what_travels_is_the_rest_at_every_width():
    travels = shared_spec(SPEC, HEAD)
    assert set(travels.tensors) == BODY_NAMES
    for name in BODY_NAMES:
        assert [travels.shape(name, w) for w in GRID] == [SPEC.shape(name, w) for w in GRID]
    assert shared_spec(SPEC, ()) is SPEC


@pytest.mark.parametrize(
    ("patterns", "said"),
    [(("head.*",), "matches no tensor"), (("*",), "nothing would be shared")],
)
def test_a_pattern_that_keeps_nothing_or_everything_is_refused(patterns, said):
    with pytest.raises(SpecError, match=said):
        check_patterns(SPEC, patterns)


def test_a_narrower_width_takes_the_place_of_its_corner():
    wide, narrow = (part_of(slice_state(STATE, SPEC, w), HEAD_NAMES) for w in (1.0, 0.5))
    trained = {name: array + 1 for name, array in narrow.items()}
    found = overlaid(wide, 1.0, trained, 0.5, SPEC)
    kept = narrow["layer.1.weight"].shape[1]
    np.testing.assert_array_equal(found["layer.1.weight"][:, :kept], trained["layer.1.weight"])
    np.testing.assert_array_equal(
        found["layer.1.weight"][:, kept:], wide["layer.1.weight"][:, kept:]
    )
    np.testing.assert_array_equal(found["layer.1.bias"], trained["layer.1.bias"])
    with pytest.raises(SpecError):
        overlaid(wide, 0.5, narrow, 0.5, SPEC)


# --- training ------------------------------------------------------------------------------------


def rule(steps, **changes):
    return TrainingRule(steps, 8, 0.1, 0.0, 0.0, (1.0,), **changes)


def moved(steps, **changes):
    state, _ = train(MODEL, STATE, 1.0, SAMPLES, rule(steps, **changes), np.random.default_rng(1))
    return {name for name in STATE if (state[name] != STATE[name]).any()}, state


def test_what_is_private_moves_first_and_alone_then_the_rest():
    """FedRep by hand: steps that move only the head, then steps that move only the body."""
    names, found = moved(5, private=HEAD, private_steps=3)
    assert names == set(STATE)
    after_head = _reference(3, HEAD_NAMES, STATE)
    expected = _reference(2, BODY_NAMES, after_head, skip=3)
    for name in STATE:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-6)
    for name in BODY_NAMES:
        np.testing.assert_array_equal(after_head[name], STATE[name])


def _reference(steps, names, state, skip=0):
    """Plain gradient descent on some of the tensors, on the batches that `train` would draw."""
    rng = np.random.default_rng(1)
    leaves = {n: torch.tensor(a).requires_grad_() for n, a in state.items()}
    network, batches = MODEL.build(1.0).train(), _batches(len(SAMPLES), 8, rng)
    rng.integers(2**63)  # the seed of dropout
    for number in range(skip + steps):
        chosen = next(batches)
        rng.integers(1)  # the draw of a width
        if number < skip:
            continue
        said = torch.func.functional_call(network, leaves, (torch.tensor(SAMPLES.x[chosen]),))
        loss = torch.nn.functional.cross_entropy(said, torch.tensor(SAMPLES.y[chosen]))
        gradients = torch.autograd.grad(loss, [leaves[n] for n in sorted(names)])
        for name, gradient in zip(sorted(names), gradients, strict=True):
            leaves[name] = (leaves[name] - 0.1 * gradient).detach().requires_grad_()
    return {n: leaf.detach().numpy() for n, leaf in leaves.items()}


def _batches(count, size, rng):
    while True:
        order = rng.permutation(count)
        for start in range(0, count - size + 1, size):
            yield order[start : start + size]


def test_without_private_steps_all_moves_together():
    assert moved(2, private=HEAD)[0] == set(STATE)


@pytest.mark.parametrize("changes", [{"private_steps": 1}, {"private": HEAD, "private_steps": 3}])
def test_private_steps_need_something_private_and_leave_steps_for_the_rest(changes):
    with pytest.raises(ValueError, match="private steps must be"):
        rule(3, **changes)


# --- kept on the disk ----------------------------------------------------------------------------


def head(width, value):
    return {name: np.full(SPEC.shape(name, width), value, np.float32) for name in HEAD_NAMES}


def test_what_is_kept_comes_back_and_the_rest_starts_as_it_is_given(tmp_path):
    kept = KeptTensors(tmp_path / "kept", SPEC)
    assert kept.at(0.5, head(0.5, 1.0)).keys() == HEAD_NAMES
    kept.keep(0.5, head(0.5, 7.0))
    again = KeptTensors(tmp_path / "kept", SPEC)
    assert (again.at(0.5, head(0.5, 1.0))["layer.1.weight"] == 7.0).all()
    wide = again.at(1.0, head(1.0, 1.0))["layer.1.weight"]
    inner = SPEC.shape("layer.1.weight", 0.5)[1]
    assert (wide[:, :inner] == 7.0).all()
    assert (wide[:, inner:] == 1.0).all()


def test_training_narrower_for_a_while_loses_nothing_of_what_is_wider(tmp_path):
    kept = KeptTensors(tmp_path, SPEC)
    kept.keep(1.0, head(1.0, 5.0))
    kept.keep(0.5, head(0.5, 6.0))
    wide = kept.at(1.0, head(1.0, 0.0))["layer.1.weight"]
    inner = SPEC.shape("layer.1.weight", 0.5)[1]
    assert (wide[:, :inner] == 6.0).all()
    assert (wide[:, inner:] == 5.0).all()
    assert (kept.at(0.5, head(0.5, 0.0))["layer.1.weight"] == 6.0).all()


@pytest.mark.parametrize("damage", ["cut", "nan", "foreign", "empty"])
def test_a_damaged_file_is_set_aside_and_the_device_starts_anew(tmp_path, damage, caplog):
    kept = KeptTensors(tmp_path, SPEC)
    kept.keep(1.0, head(1.0, 5.0))
    match damage:
        case "cut":
            kept.path.write_bytes(kept.path.read_bytes()[:-9])
        case "nan":
            kept.keep(1.0, head(1.0, np.nan))
        case "foreign":
            kept.path.write_bytes(encode_state({"strange": np.zeros(3, np.float32)}))
        case "empty":
            kept.path.write_bytes(b"")
    assert (kept.at(1.0, head(1.0, 1.0))["layer.1.weight"] == 1.0).all()
    assert "starts anew" in caplog.text
    assert not kept.path.exists()
    assert kept.path.with_suffix(".damaged").exists()


KEEPS = """
import sys
from pathlib import Path
import numpy as np
from edge_agent.kept_tensors import KeptTensors
from slimmable.spec import WidthSpec
spec = WidthSpec.from_json(Path(sys.argv[2]).read_bytes())
names = ("layer.1.weight", "layer.1.bias")
KeptTensors(Path(sys.argv[1]), spec).keep(
    1.0, {name: np.full(spec.shape(name, 1.0), 2.0, np.float32) for name in names}
)
"""


@pytest.mark.parametrize("point", sorted(n for n in CRASHPOINTS if n.startswith("file-")))
def test_a_device_killed_while_keeping_has_the_old_part_or_the_new_one(tmp_path, point):
    kept = KeptTensors(tmp_path / "kept", SPEC)
    kept.keep(1.0, head(1.0, 1.0))
    (tmp_path / "spec.json").write_bytes(SPEC.to_json())
    ended = subprocess.run(
        [sys.executable, "-c", KEEPS, str(tmp_path / "kept"), str(tmp_path / "spec.json")],
        env={**os.environ, CRASH_AT: point},
        check=False,
    )
    assert ended.returncode == KILLED
    found = kept.at(1.0, head(1.0, 0.0))
    values = {float(value) for array in found.values() for value in array.ravel()}
    assert values in ({1.0}, {2.0})
    kept.keep(1.0, head(1.0, 3.0))  # and what the killed process left is cleared away
    assert list((tmp_path / "kept").iterdir()) == [kept.path]


# --- a training command --------------------------------------------------------------------------


@pytest.fixture
def trainer():
    return Trainer(lambda _event: None, threading.Event())


@pytest.fixture
def command(tmp_path):
    path = tmp_path / "own.npz"
    np.savez(path, x=SAMPLES.x, y=SAMPLES.y, recording=SAMPLES.recording)

    def build(*, width=1.0, private=HEAD, private_steps=0, **changes):
        travels = shared_spec(SPEC, private)
        cut = slice_state(part_of(STATE, travels.tensors), travels, width)
        known = {
            "model": "mlp",
            "options": OPTIONS,
            "spec_hash": SPEC.spec_hash,
            "data": protocol.DataSource(path=str(path), reader="npz"),
            "width": width,
            "state": encode_state(cut),
            "training": TrainingSettings(
                steps=4,
                batch_size=8,
                learning_rate=0.1,
                momentum=0.9,
                weight_decay=0.0,
                widths=GRID,
                private=private,
                private_steps=private_steps,
            ),
            "seed": 5,
            "start_seed": 3,
            "kept": str(tmp_path / "kept"),
        }
        return protocol.TrainCommand(**(known | changes))

    return build


def test_an_update_holds_nothing_private_and_the_device_keeps_what_it_trained(
    trainer, command, tmp_path
):
    given = command()
    trained = trainer.answer(given)
    assert isinstance(trained, protocol.Trained), trained
    sent = decode_state(trained.state)
    assert set(sent) == BODY_NAMES
    assert any((sent[name] != decode_state(given.state)[name]).any() for name in BODY_NAMES)
    kept = decode_state((tmp_path / "kept" / f"{SPEC.spec_hash}.safetensors").read_bytes())
    assert set(kept) == HEAD_NAMES
    fresh = initial_state(MODEL, 3)
    assert (kept["layer.1.weight"] != fresh["layer.1.weight"]).any()


def test_the_next_round_goes_on_from_the_devices_own_part(trainer, command, tmp_path):
    trainer.answer(command())
    kept = KeptTensors(tmp_path / "kept", SPEC)
    own = kept.at(1.0, head(1.0, 0.0))
    trainer.answer(command(seed=6))
    body = decode_state(command().state)
    whole, _ = train(
        MODEL,
        {**body, **own},
        1.0,
        SAMPLES,
        TrainingRule(4, 8, 0.1, 0.9, 0.0, GRID, private=HEAD),
        np.random.default_rng(6),
    )
    found = kept.at(1.0, head(1.0, 0.0))
    for name in HEAD_NAMES:
        np.testing.assert_array_equal(found[name], whole[name])


def test_either_side_can_be_kept(trainer, command):
    trained = trainer.answer(command(private=()))
    assert set(decode_state(trained.state)) == set(SPEC.tensors)
    body = tuple(sorted(BODY_NAMES))
    assert set(decode_state(trainer.answer(command(private=body)).state)) == HEAD_NAMES


@pytest.mark.parametrize("upload", ["float16", "bfloat16", "int8", "top-k"])
def test_a_change_in_fewer_bits_says_nothing_of_what_is_private(trainer, command, upload, tmp_path):
    trained = trainer.answer(command(upload=upload, upload_keep=0.5))
    travels = shared_spec(SPEC, HEAD)
    assert inspect_payload(travels, 1.0, trained.state) is None
    blobs = BlobFolder(tmp_path / "blobs")
    file = UpdateFile("fan", 1.0, blobs.put(trained.state), weight=1.0)
    update = read_update(blobs, SPEC, STATE, file, HEAD)
    assert set(update.state) == set(SPEC.tensors)
    for name in HEAD_NAMES:
        np.testing.assert_array_equal(update.state[name], STATE[name])
    assert any((update.state[name] != STATE[name]).any() for name in BODY_NAMES)


def test_what_the_device_never_sends_goes_back_as_it_came_whatever_the_server_says(
    trainer, command, tmp_path
):
    given = command(private=(), never_send=("layer.1.bias",))
    for _ in range(2):
        sent = decode_state(trainer.answer(given).state)
        assert set(sent) == set(SPEC.tensors)
        np.testing.assert_array_equal(
            sent["layer.1.bias"], decode_state(given.state)["layer.1.bias"]
        )
        assert (sent["layer.1.weight"] != STATE["layer.1.weight"]).any()
    kept = decode_state((tmp_path / "kept" / f"{SPEC.spec_hash}.safetensors").read_bytes())
    assert set(kept) == {"layer.1.bias"}
    assert (kept["layer.1.bias"] != STATE["layer.1.bias"]).any()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"never_send": ("layr.*",)}, "matches no tensor"),
        ({"never_send": ("*",)}, "nothing would be shared"),
        ({"kept": ""}, "need a folder"),
        ({"state": encode_state(STATE)}, "is not in the width spec"),
    ],
)
def test_a_task_that_cannot_keep_its_word_is_not_begun(trainer, command, changes, said):
    failed = trainer.answer(command(**changes))
    assert isinstance(failed, protocol.Failed)
    assert failed.code == "wrong-spec"
    assert said in failed.detail


def test_an_agent_that_does_not_know_private_parts_finds_tensors_missing(command):
    with pytest.raises(SpecError, match=r"'layer.1.* is missing"):
        check_state(decode_state(command().state), SPEC, 1.0)


def test_a_full_disk_fails_the_training_and_keeps_the_old_part(
    trainer, command, tmp_path, monkeypatch
):
    trainer.answer(command())
    path = tmp_path / "kept" / f"{SPEC.spec_hash}.safetensors"
    before = path.read_bytes()

    def full(*_args, **_more):
        raise OSError(28, "no room")

    monkeypatch.setattr("edge_agent.kept_tensors.write_atomically", full)
    failed = trainer.answer(command(seed=9))
    assert isinstance(failed, protocol.Failed)
    assert "no room" in failed.detail
    assert path.read_bytes() == before


# --- the server ----------------------------------------------------------------------------------


def test_an_update_that_brings_a_private_part_all_the_same_is_refused():
    travels = shared_spec(SPEC, HEAD)
    reason, said = inspect_payload(travels, 1.0, encode_state(STATE))
    assert reason is DropReason.WRONG_SHAPE
    assert "is not in the width spec" in said
    change = {f"float16/{name}": np.zeros(SPEC.shape(name, 1.0), np.float16) for name in STATE}
    reason, said = inspect_payload(travels, 1.0, encode_state(change))
    assert reason is DropReason.BAD_BYTES


OWN = {
    "training": Training(private=HEAD, private_steps=2),
    "contributions": Contributions(evaluator="devices"),
}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"contributions": Contributions()}, 'set contributions.evaluator = "devices"'),
        ({"rewards": Rewards(mode="training-time")}, "no whole network"),
        ({"rewards": Rewards(inference_only_width=0.25)}, "no whole network"),
        ({"rounds": Rounds(release_every=2)}, "no whole network"),
        ({"contributions": Contributions(evaluator="devices", method="class-rows")}, "last layer"),
        ({"training": Training(private_steps=2)}, "where nothing is private"),
        ({"training": Training(private=HEAD, private_steps=-1)}, "must not be below 0"),
    ],
)
def test_settings_that_need_a_whole_network_on_the_server_are_refused(changes, said):
    assert Settings(fleet="plant", model="mlp", **OWN).check().keeps_own
    with pytest.raises(SettingsError, match=said):
        Settings(fleet="plant", model="mlp", **(OWN | changes)).check()


def test_a_device_with_fewer_steps_takes_the_same_share_of_them_for_what_is_private():
    from coordinator.publications import _training
    from journal.events import RoundOpened, RoundTask

    ordinary = msgspec.structs.replace(
        Settings(fleet="plant", model="mlp", **OWN).training_settings(), steps=16, private_steps=4
    )
    opened = RoundOpened(
        round=1, base="", tasks=(), not_invited={}, budget_s=1.0, quorum=1, training=ordinary
    )
    shares = {}
    for steps in (0, 8, 2, 1):
        task = RoundTask(device="fan", width=1.0, predicted_s=0.0, seed=0, steps=steps)
        found = _training(opened, task)
        shares[steps] = (found.steps, found.private_steps)
    assert shares == {0: (16, 4), 8: (8, 2), 2: (2, 0), 1: (1, 0)}
