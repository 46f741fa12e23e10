import itertools
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.codec import CONTROL_LIMIT, encode
from edge_agent.inference import Predictor
from edge_agent.runtime import InputError, ModelFileError, NoModelError, load_model
from edge_agent.slots import ModelSlots
from edge_agent.telemetry import TelemetryWindow, percentiles
from slimmable.samples import Samples
from slimmable.task import classification
from tests.fakes.toy_onnx import CLASSES, FEATURES, always, linear, manifest_of

ROOT = Path(__file__).parents[2]
ONES = np.ones((5, FEATURES), dtype=np.float32)


def deploy(slots, pair, counter):
    onnx, manifest = pair
    slots.install(manifest, onnx, counter)
    slots.activate(manifest.digest, counter)
    slots.confirm()
    return manifest.digest


def one_file(folder, onnx, manifest):
    (folder / "toy.onnx").write_bytes(onnx)
    (folder / "manifest.msgpack").write_bytes(msgspec.msgpack.encode(manifest))
    return folder / "toy.onnx"


@pytest.fixture
def slots(tmp_path):
    return ModelSlots(tmp_path / "agent")


# --- answering ------------------------------------------------------------------------------------


def test_the_current_model_answers_in_the_words_of_its_task(slots):
    digest = deploy(slots, always(2), 1)
    predictor = Predictor(slots.folder)
    decoded = predictor.predict(ONES)
    assert predictor.digest == digest
    assert predictor.manifest.classes == CLASSES
    assert decoded.label.tolist() == [2] * 5
    assert decoded.value.shape == (5, 3)
    assert decoded.value.sum(axis=1) == pytest.approx(1.0)
    assert (decoded.confidence > 0.99).all()


def test_a_single_file_with_its_manifest_answers_too(tmp_path):
    predictor = Predictor(str(one_file(tmp_path, *always(1))))
    assert predictor.predict(ONES[:1]).label.tolist() == [1]


def test_long_inputs_are_answered_in_order(slots):
    deploy(slots, (linear(np.eye(4)[:, :3]), manifest_of(linear(np.eye(4)[:, :3]))), 1)
    x = np.random.default_rng(1).standard_normal((1001, FEATURES)).astype(np.float32)
    assert np.array_equal(Predictor(slots.folder).outputs(x), x[:, :3])


def test_regression_and_reconstruction_are_decoded_by_their_task(tmp_path):
    weights = np.eye(FEATURES)
    onnx = linear(weights)
    changes = {"classes": (), "task": "reconstruction"}
    predictor = Predictor(one_file(tmp_path, onnx, manifest_of(onnx, **changes)))
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    decoded = predictor.predict(x)
    assert decoded.value.tolist() == [0.0, 0.0]
    assert decoded.confidence.tolist() == [1.0, 1.0]
    changes["task"] = "regression"
    predictor = Predictor(one_file(tmp_path, onnx, manifest_of(onnx, **changes)))
    assert np.array_equal(predictor.predict(x).value, x)


@pytest.mark.parametrize(
    ("x", "advice"),
    [
        ([[1.0] * 4], "list, the model takes float32 of shape"),
        (ONES.astype(np.float64), "astype"),
        (ONES[0], r"add the batch dimension with x\[None\]"),
        (ONES[:, :3], r"shape \(5, 3\)"),
        (ONES[:0], "N >= 1"),
        (np.float32(1.0) * np.ones(()), "float64|shape"),
        (
            ONES * np.array([[1, 1, 1, 1], [1, 1, np.nan, 1]] + [[1] * 4] * 3, np.float32),
            "sample 1",
        ),
    ],
)
def test_an_input_that_the_model_does_not_take_is_refused_with_advice(slots, x, advice):
    deploy(slots, always(0), 1)
    with pytest.raises(InputError, match=advice):
        Predictor(slots.folder).predict(x)


def test_a_device_without_a_model_says_so_until_it_gets_one(tmp_path):
    predictor = Predictor(tmp_path / "agent")
    assert predictor.digest == ""
    assert predictor.manifest is None
    with pytest.raises(NoModelError, match="slimfleet status"):
        predictor.predict(ONES)
    deploy(ModelSlots(tmp_path / "agent"), always(1), 1)
    assert predictor.reload_if_changed()
    assert predictor.predict(ONES).label[0] == 1


def test_evaluating_gives_the_score_of_the_task(slots):
    deploy(slots, always(1), 1)
    samples = Samples(ONES[:4], np.array([1, 1, 1, 0]), np.arange(4))
    predictor = Predictor(slots.folder)
    assert predictor.evaluate(samples) == 0.75
    measured = predictor.measure(samples)
    assert (measured.score, measured.samples) == (0.75, 4)
    assert measured.mean_confidence > 0.99


def test_latency_is_measured_on_the_given_number_of_calls(slots):
    deploy(slots, always(1), 1)
    ticks = itertools.count()
    predictor = Predictor(slots.folder, clock=lambda: float(next(ticks)))
    assert predictor.measure_latency(ONES[:1], calls=7) == (1.0, 1.0)
    # Two readings a timed call, one an untimed one.
    assert next(ticks) == 2 * 7 + 3


# --- taking over a new model ----------------------------------------------------------------------


def test_nothing_is_reloaded_while_nothing_has_changed(slots):
    deploy(slots, always(1), 1)
    predictor = Predictor(slots.folder)
    assert not predictor.reload_if_changed()
    slots.install(*reversed(always(2)), 2)
    assert not predictor.reload_if_changed()


def test_a_new_model_is_taken_over_and_a_removed_one_given_up(slots):
    deploy(slots, always(1), 1)
    predictor = Predictor(slots.folder)
    second = deploy(slots, always(2), 2)
    assert predictor.predict(ONES).label[0] == 1
    assert predictor.reload_if_changed()
    assert (predictor.digest, predictor.predict(ONES).label[0]) == (second, 2)
    slots.remove(3)
    assert predictor.reload_if_changed()
    with pytest.raises(NoModelError):
        predictor.predict(ONES)


def test_no_call_is_dropped_while_models_change_under_load(slots):
    deploy(slots, always(0), 1)
    predictor = Predictor(slots.folder)
    stop, answers, errors = threading.Event(), [], []

    def ask():
        while not stop.is_set():
            try:
                decoded = predictor.predict(ONES)
                answers.append({*decoded.label.tolist()})
            except Exception as error:  # noqa: BLE001 - of whatever kind
                errors.append(error)
                return

    askers = [threading.Thread(target=ask) for _ in range(3)]
    for asker in askers:
        asker.start()
    for counter in range(2, 22):
        deploy(slots, always(counter % 3), counter)
        assert predictor.reload_if_changed()
    stop.set()
    for asker in askers:
        asker.join()
    assert errors == []
    assert all(len(labels) == 1 for labels in answers)


def test_a_model_that_cannot_be_run_leaves_the_old_one_answering(slots):
    deploy(slots, always(1), 1)
    predictor = Predictor(slots.folder)
    deploy(slots, (b"no model", manifest_of(b"no model")), 2)
    with pytest.raises(ModelFileError, match="update onnxruntime"):
        predictor.reload_if_changed()
    assert predictor.predict(ONES).label[0] == 1
    assert not predictor.reload_if_changed()


@pytest.mark.parametrize(
    ("onnx", "changes"),
    [
        (linear(np.ones((4, 3))), {"input_name": "other"}),
        (linear(np.ones((4, 3))), {"output_name": "other"}),
        (linear(np.ones((4, 3))), {"input_shape": (5,)}),
        (linear(np.ones((4, 3))), {"input_shape": (4, 1)}),
        (linear(np.ones((4, 3)), batch=1), {}),
        (linear(np.ones((4, 3))), {"task": "divination"}),
    ],
)
def test_a_model_that_differs_from_its_manifest_is_not_loaded(onnx, changes):
    with pytest.raises(ModelFileError):
        load_model(onnx, manifest_of(onnx, **changes))


def test_a_file_that_changed_on_the_disk_is_not_loaded(tmp_path):
    onnx, manifest = always(1)
    path = one_file(tmp_path, onnx, manifest)
    path.write_bytes(linear(np.zeros((4, 3))))
    with pytest.raises(ModelFileError, match="cannot be read"):
        Predictor(path)
    (tmp_path / "manifest.msgpack").unlink()
    with pytest.raises(ModelFileError, match="cannot be read"):
        Predictor(path)


def test_importing_the_agent_loads_neither_onnxruntime_nor_torch():
    program = (
        "import sys; from edge_agent import Predictor; import edge_agent.probe, edge_agent.outbox;"
        "print({'onnxruntime', 'torch', 'onnx'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


# --- telemetry ------------------------------------------------------------------------------------


def test_telemetry_counts_what_was_predicted_per_model(slots):
    first = deploy(slots, always(1), 1)
    ticks = itertools.count()
    window = TelemetryWindow()
    predictor = Predictor(slots.folder, window=window, clock=lambda: float(next(ticks)))
    predictor.predict(ONES)
    predictor.predict(ONES[:1])
    predictor.evaluate(Samples(ONES, np.ones(5, dtype=np.int64), np.arange(5)))
    second = deploy(slots, always(2), 2)
    predictor.reload_if_changed()
    predictor.predict(ONES[:2])

    old, new = window.drain(memory_bytes=9, outbox=1)

    assert (old.running, old.inferences, old.classes) == (first, 6, (0, 6, 0))
    assert old.confidence == (0,) * 9 + (6,)
    assert (old.latency_p50_s, old.latency_p95_s) == (1.0, 1.0)
    assert (old.memory_bytes, old.outbox) == (9, 1)
    assert (new.running, new.inferences, new.classes) == (second, 2, (0, 0, 2))
    assert window.drain() == []


def test_telemetry_of_many_classes_is_a_control_message():
    task = classification([str(n) for n in range(1000)])
    window = TelemetryWindow()
    outputs = np.random.default_rng(0).standard_normal((10_000, 1000))
    window.record("d" * 64, task, task.decode(outputs), 0.01)
    (message,) = window.drain()
    assert sum(message.classes) == sum(message.confidence) == 10_000
    assert len(encode(message)) < CONTROL_LIMIT


@given(st.lists(st.floats(0, 1e3), min_size=1))
def test_percentiles_are_durations_that_occurred(seconds):
    p50, p95 = percentiles(seconds)
    assert p50 in seconds
    assert p95 in seconds
    assert sum(one <= p50 for one in seconds) >= len(seconds) / 2
    assert sum(one <= p95 for one in seconds) >= 0.95 * len(seconds) - 1
    assert p50 <= p95


def test_no_calls_have_no_latency():
    assert percentiles([]) == (0.0, 0.0)
