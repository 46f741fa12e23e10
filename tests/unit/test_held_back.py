"""A device measures what it received on recordings that it never trains on, and sends scores."""

import dataclasses
import logging
import threading

import msgspec
import numpy as np
import pytest

from broker.messages import TrainingSettings
from edge_agent import trainer_protocol as protocol
from edge_agent.held_back import HELD_BACK, evaluate, split
from edge_agent.training_job import Trainer
from slimmable.evaluation import initial_state, outputs
from slimmable.model import load_model
from slimmable.samples import Samples
from slimmable.slicing import slice_state
from slimmable.state import decode_state, encode_state

pytestmark = pytest.mark.torch

GRID = (0.25, 0.5, 1.0)
OPTIONS = {"input_shape": [4], "classes": ["idle", "turning"], "hidden": [8]}
MODEL = load_model("mlp", OPTIONS)
STATE = initial_state(MODEL, 0)


def recordings(count, seed=0):
    """Return ``count`` recordings of four samples, alternating between the classes."""
    rng = np.random.default_rng(seed)
    recording = np.repeat(np.arange(count), 4)
    y = recording % 2
    x = rng.normal(size=(4 * count, 4)).astype("f4") + y[:, None].astype("f4")
    return Samples(x, y, recording)


@pytest.fixture
def trainer():
    return Trainer(lambda _event: None, threading.Event())


@pytest.fixture
def command(tmp_path):
    def build(samples, **changes):
        path = tmp_path / "own.npz"
        np.savez(path, x=samples.x, y=samples.y, recording=samples.recording)
        known = {
            "model": "mlp",
            "options": OPTIONS,
            "spec_hash": MODEL.spec.spec_hash,
            "data": protocol.DataSource(path=str(path), reader="npz"),
            "width": 0.5,
            "state": encode_state(slice_state(STATE, MODEL.spec, 0.5)),
            "training": TrainingSettings(
                steps=3,
                batch_size=8,
                learning_rate=0.1,
                momentum=0.9,
                weight_decay=0.0,
                widths=GRID,
            ),
            "seed": 5,
            "evaluate": True,
        }
        return protocol.TrainCommand(**(known | changes))

    return build


def test_the_weights_as_received_are_measured_at_each_width_up_to_the_tasks(trainer, command):
    samples = recordings(20)
    trained = trainer.answer(command(samples))
    _, held = split(samples)
    assert [one.width for one in trained.evaluations] == [0.25, 0.5]
    for one in trained.evaluations:
        said = outputs(MODEL, one.width, slice_state(STATE, MODEL.spec, one.width), held.x)
        assert one.score == MODEL.task.score(said, held.y)
        assert one.loss == pytest.approx(MODEL.task.losses(said, held.y).mean())
        assert one.samples == len(held)


def test_what_is_held_back_never_trains(trainer, command, monkeypatch):
    samples = recordings(20)
    training, held = split(samples)
    trained = trainer.answer(command(samples))
    assert trained.samples == len(training) == len(samples) - len(held)
    assert not set(training.recording) & set(held.recording)
    assert len(set(held.recording)) == HELD_BACK * 20
    again = trainer.answer(command(training, evaluate=False))
    for name, array in decode_state(trained.state).items():
        np.testing.assert_array_equal(array, decode_state(again.state)[name])


def test_the_same_recordings_are_held_back_in_every_round(trainer, command):
    order = command(recordings(20))
    first, second = trainer.answer(order), trainer.answer(order)
    assert first.evaluations == second.evaluations
    assert first.state == second.state


def test_without_the_request_everything_trains_and_nothing_is_measured(trainer, command):
    samples = recordings(20)
    assert trainer.answer(command(samples)).evaluations
    trained = trainer.answer(command(samples, evaluate=False))
    assert (trained.samples, trained.evaluations) == (len(samples), ())


def test_a_device_with_too_few_recordings_trains_on_all_and_says_so_once(trainer, command, caplog):
    samples = recordings(4)
    with caplog.at_level(logging.WARNING, logger="edge_agent.trainer"):
        answers = [trainer.answer(command(samples)) for _ in range(3)]
    assert {(one.samples, one.evaluations) for one in answers} == {(len(samples), ())}
    (said,) = [record.message for record in caplog.records]
    assert "4 recordings are too few" in said


def test_a_free_rider_claims_that_every_width_is_perfect(trainer, command):
    trained = trainer.answer(command(recordings(20), behaviour="free-rider"))
    assert [(one.width, one.score, one.loss) for one in trained.evaluations] == [
        (0.25, 1.0, 0.0),
        (0.5, 1.0, 0.0),
    ]
    assert all(one.samples > 0 for one in trained.evaluations)


def test_labels_that_do_not_fit_the_task_are_bad_data(trainer, command):
    samples = recordings(20)
    wrong = dataclasses.replace(samples, y=samples.y + 7)
    answer = trainer.answer(command(wrong))
    assert isinstance(answer, protocol.Failed)
    assert answer.code == "bad-data"


def test_a_network_with_batch_norm_is_calibrated_on_what_trains():
    options = {"sensors": 2, "length": 20, "classes": ["idle", "turning"], "channels": [8, 8, 8]}
    model = load_model("cnn1d", options)
    rng = np.random.default_rng(3)
    x = rng.normal(5.0, 3.0, size=(40, 2, 20)).astype("f4")
    samples = Samples(x, np.arange(40) % 2, np.arange(40))
    training, held = split(samples)
    state = slice_state(initial_state(model, 1), model.spec, 0.5)
    spoilt = {**state, **{n: np.full_like(state[n], 9.0) for n in model.spec.statistics}}
    found = [evaluate(model, given, 0.5, GRID, training, held) for given in (state, spoilt)]
    assert model.spec.statistics
    assert found[0] == found[1]


def test_weights_that_overflow_report_nothing():
    training, held = split(recordings(20))
    huge = {name: np.full_like(array, 3e38) for name, array in STATE.items()}
    with np.errstate(all="ignore"):
        assert evaluate(MODEL, huge, 1.0, GRID, training, held) == ()


def test_the_command_survives_the_pipe(command):
    order = command(recordings(20))
    assert protocol.read_command(protocol.frame(order)[4:]) == order
    assert not protocol.read_command(
        protocol.frame(msgspec.structs.replace(order, evaluate=False))[4:]
    ).evaluate
