import csv
import json
import subprocess
import sys
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from edge_agent import Predictor
from edge_agent.slots import ModelSlots
from slimfleet import cli
from slimfleet.exit_codes import ExitCode
from slimfleet.inference_run import Data, answer
from tests.fakes.full_disk import full_disk
from tests.fakes.multi_onnx import expected, export_to, two_inputs
from tests.fakes.toy_onnx import FEATURES, always, linear, manifest_of

ROOT = Path(__file__).parents[2]
# Three classes told apart by the first three values.
TELLING = linear(np.eye(FEATURES, 3))


@pytest.fixture(autouse=True)
def quiet_logs(monkeypatch):
    monkeypatch.setattr(cli, "set_up_logs", lambda *_, **__: None)


@pytest.fixture
def command(capsys):
    """Run ``slimfleet infer``; return its exit code, output and complaints."""

    def call(*arguments):
        try:
            code = cli.main(["infer", *(str(argument) for argument in arguments)])
        except SystemExit as ended:  # argparse
            code = ended.code
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


@pytest.fixture
def model(tmp_path):
    return export_to(tmp_path / "models", "toy-w0.50", TELLING, manifest_of(TELLING))


@pytest.fixture
def data(tmp_path):
    return save(tmp_path / "data.npz", **samples())


def samples():
    x = np.tile(5 * np.eye(4, dtype=np.float32)[[0, 1, 2, 1]], (10, 1))
    return {"x": x, "y": np.tile([0, 1, 2, 0], 10)}


def save(path, **arrays):
    np.savez(path, **arrays)
    return path


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# --- answers --------------------------------------------------------------------------------------


def test_the_table_counts_classes_and_says_how_right_and_how_fast(command, model, data):
    code, out, err = command("--model", model, "--input", data)
    assert (code, err) == (0, "")
    lines = {line.partition("  ")[0].strip(): line for line in out.splitlines() if line}
    assert "toy, width 0.5, round 1" in lines["model"]
    assert lines["samples"].endswith("40")
    assert lines["score"].endswith("0.7500")
    assert "0.98" in lines["mean confidence"]
    assert "ms median" in lines["latency"]
    assert "32 samples" in lines["latency"]
    assert [line.split() for line in out.splitlines()[-3:]] == [
        ["rest", "10", "25.0%"],
        ["walk", "20", "50.0%"],
        ["run", "10", "25.0%"],
    ]


def test_an_agents_folder_means_the_model_that_it_runs(command, tmp_path, data):
    slots = ModelSlots(tmp_path / "agent" / "slots")
    onnx, manifest = always(2)
    slots.install(manifest, onnx, 1)
    slots.activate(manifest.digest, 1)
    code, out, _ = command("--model", tmp_path / "agent", "--input", data, "--json")
    found = json.loads(out)
    assert code == 0
    assert found["digest"] == manifest.digest
    assert found["classes"] == {"rest": 0, "walk": 0, "run": 40}
    assert found["score"] == 0.25


def test_answers_are_written_as_csv(command, model, data, tmp_path):
    code, out, _ = command("--model", model, "--input", data, "--out", tmp_path / "a.csv")
    assert code == 0
    assert "written to" in out
    rows = rows_of(tmp_path / "a.csv")
    assert [row["class"] for row in rows] == ["rest", "walk", "run", "walk"] * 10
    assert [int(row["label"]) for row in rows] == [0, 1, 2, 1] * 10
    assert [int(row["index"]) for row in rows] == list(range(40))
    assert float(rows[0]["confidence"]) == pytest.approx(np.exp(5) / (np.exp(5) + 2), abs=1e-5)


def test_answers_are_written_as_npz(command, model, data, tmp_path):
    assert command("--model", model, "--input", data, "--out", tmp_path / "a.npz")[0] == 0
    with np.load(tmp_path / "a.npz", allow_pickle=False) as found:
        assert found["label"].tolist() == [0, 1, 2, 1] * 10
        assert found["probability"].shape == (40, 3)
        assert found["classes"].tolist() == ["rest", "walk", "run"]
        assert str(found["digest"]) == manifest_of(TELLING).digest
        assert np.allclose(found["confidence"], found["probability"].max(axis=1))


@pytest.mark.parametrize("batch", [1, 3, 40, 1000])
def test_the_batch_changes_no_answer(command, model, data, batch):
    code, out, _ = command("--model", model, "--input", data, "--batch", batch, "--json")
    found = json.loads(out)
    assert code == 0
    assert found["classes"] == {"rest": 10, "walk": 20, "run": 10}
    assert found["batch"] == min(batch, 40)


def test_latency_is_of_full_calls_and_throughput_of_all(model):
    ticks = count()
    x = np.ones((5, FEATURES), np.float32)
    found = answer(Predictor(model), Data({"x": x}, None, 5), 2, lambda: float(next(ticks)))
    assert (found.latency_p50_s, found.latency_p95_s) == (1.0, 1.0)
    assert found.samples_per_s == pytest.approx(5 / 3)


@pytest.mark.parametrize("arguments", [("--unlabelled",), ()])
def test_samples_without_targets_have_no_score(command, model, tmp_path, arguments):
    given = samples()
    path = save(tmp_path / "x.npz", **(given if arguments else {"x": given["x"]}))
    code, out, _ = command("--model", model, "--input", path, *arguments)
    assert code == 0
    assert "no targets" in out


def test_a_csv_file_with_and_without_targets(command, model, tmp_path):
    (tmp_path / "l.csv").write_text("a,b,c,d,label\n5,0,0,0,0\n0,5,0,0,2\n")
    (tmp_path / "u.csv").write_text("a,b,c,d\n5,0,0,0\n0,5,0,0\n")
    found = json.loads(command("--model", model, "--input", tmp_path / "l.csv", "--json")[1])
    assert found["score"] == 0.5
    code, out, _ = command(
        "--model", model, "--input", tmp_path / "u.csv", "--unlabelled", "--json"
    )
    assert code == 0
    assert json.loads(out)["score"] is None
    assert json.loads(out)["classes"] == {"rest": 1, "walk": 1, "run": 0}


def test_a_folder_of_images_is_read_by_itself(command, tmp_path):
    image = pytest.importorskip("PIL.Image")
    for name, level in (("a", 0), ("b", 255)):
        (tmp_path / "images" / name).mkdir(parents=True)
        image.new("L", (2, 1), level).save(tmp_path / "images" / name / "1.png")
    onnx = flat_images()
    manifest = manifest_of(onnx, input_shape=(1, 1, 2), classes=("dark", "light"))
    model = export_to(tmp_path / "models", "image", onnx, manifest)
    code, out, _ = command("--model", model, "--input", tmp_path / "images", "--json")
    assert code == 0
    assert json.loads(out)["samples"] == 2


def flat_images():
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("Flatten", ["x"], ["y"])],
        "flat",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1, 1, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])],
    )
    opset = helper.make_opsetid("", 17)
    return helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString()


@pytest.mark.parametrize(
    ("task", "columns"),
    [
        ("regression", ["index", "value_0", "value_1", "value_2", "value_3"]),
        ("reconstruction", ["index", "error", "confidence"]),
    ],
)
def test_tasks_without_classes_write_what_they_have(command, tmp_path, task, columns):
    onnx = linear(2 * np.eye(FEATURES))
    model = export_to(tmp_path, "toy", onnx, manifest_of(onnx, task=task, classes=()))
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    path = save(tmp_path / "x.npz", x=x, y=2 * x)
    code, out, _ = command("--model", model, "--input", path, "--out", tmp_path / "a.csv")
    assert code == 0
    rows = rows_of(tmp_path / "a.csv")
    assert list(rows[0]) == columns
    if task == "regression":
        assert "not known" in out
        assert "1.0000" in out
        assert [float(rows[2][name]) for name in columns[1:]] == (2 * x[2]).tolist()
    assert command("--model", model, "--input", path, "--out", tmp_path / "a.npz")[0] == 0


# --- several inputs, whole numbers ----------------------------------------------------------------


@pytest.fixture
def two(tmp_path):
    return export_to(tmp_path / "models", "two", *two_inputs())


@pytest.mark.parametrize("first", ["input", "x"])
def test_several_inputs_come_from_arrays_of_their_names(command, two, tmp_path, first):
    tokens, values = np.array([[0, 1, 2], [6, 6, 6]]), np.ones((2, 4))
    y = expected(tokens, values)[0].argmax(axis=1)
    path = save(tmp_path / "two.npz", **{first: tokens, "input_1": values, "y": y})
    code, out, err = command("--model", two, "--input", path, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["score"] == 1.0


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x": np.zeros((2, 3), int)}, "takes an array 'input_1' too"),
        ({"x": np.zeros((2, 3)), "input_1": np.zeros((2, 4))}, "'x' is float64, the model takes"),
        ({"x": np.zeros((2, 3), int), "input_1": np.zeros((1, 4))}, "equally many"),
        ({"x": np.array([["a"]]), "input_1": np.zeros((1, 4))}, "numbers are needed"),
        ({"x": np.zeros((2, 5), int), "input_1": np.zeros((2, 4))}, "has shape"),
    ],
)
def test_arrays_that_do_not_fit_several_inputs_are_refused(command, two, tmp_path, arrays, said):
    code, out, err = command("--model", two, "--input", save(tmp_path / "two.npz", **arrays))
    assert (code, out) == (ExitCode.BAD_CONFIGURATION, "")
    assert said in err
    assert err.count("\n") == 1


def test_several_inputs_are_not_in_a_csv_file(command, two, tmp_path):
    (tmp_path / "x.csv").write_text("a,b,c,label\n1,2,3,0\n")
    code, _, err = command("--model", two, "--input", tmp_path / "x.csv")
    assert code == ExitCode.BAD_CONFIGURATION
    assert ".npz" in err


# --- what cannot be done --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x": np.zeros((5, 3), np.float32)}, "has shape (5, 3), the model takes float32 of shape"),
        ({"x": np.full((5, 4), np.nan)}, "NaN"),
        ({"x": np.zeros((2, 4)), "y": np.array([0, 3])}, "the model's 3 classes are 0 to 2"),
        ({"z": np.zeros((2, 4))}, "no array 'x'"),
    ],
)
def test_samples_that_the_model_does_not_take_are_refused(command, model, tmp_path, arrays, said):
    path = save(tmp_path / "x.npz", **arrays)
    out_file = tmp_path / "a.csv"
    code, out, err = command("--model", model, "--input", path, "--out", out_file)
    assert (code, out) == (ExitCode.BAD_CONFIGURATION, "")
    assert said in err
    assert err.count("\n") == 1
    assert not out_file.exists()


def test_an_altered_model_is_not_run(command, model, data, tmp_path):
    content = bytearray(model.read_bytes())
    content[-20] ^= 1
    model.write_bytes(content)
    code, out, err = command("--model", model, "--input", data, "--out", tmp_path / "a.csv")
    assert (code, out) == (ExitCode.NO_ACCEPTABLE_MODEL, "")
    assert "instead of" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "a.csv").exists()


@pytest.mark.parametrize(
    ("place", "code"),
    [("agent", ExitCode.NO_ACCEPTABLE_MODEL), ("nowhere", ExitCode.BAD_CONFIGURATION)],
)
def test_no_model_is_said_at_once(command, tmp_path, data, place, code):
    ModelSlots(tmp_path / "agent" / "slots")
    found, out, err = command("--model", tmp_path / place, "--input", data)
    assert (found, out) == (code, "")
    assert place in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("out_file", ["a.txt", "nowhere/a.csv"])
def test_where_answers_cannot_go_is_said_before_the_work(command, model, tmp_path, out_file):
    code, _, err = command("--model", model, "--input", "absent", "--out", tmp_path / out_file)
    assert code == ExitCode.BAD_CONFIGURATION
    assert "--out" in err


def test_a_full_disk_leaves_the_answers_that_were_there(command, model, data, tmp_path):
    (tmp_path / "a.csv").write_text("before")
    with full_disk(after=100):
        code, _, err = command("--model", model, "--input", data, "--out", tmp_path / "a.csv")
    assert code == ExitCode.FAILURE
    assert "make room" in err
    assert (tmp_path / "a.csv").read_text() == "before"
    assert not list(tmp_path.glob(".a.csv*"))


@pytest.mark.parametrize("arguments", [("--batch", "0"), ("--threads", "x")])
def test_wrong_numbers_are_a_wrong_usage(command, model, data, arguments):
    assert command("--model", model, "--input", data, *arguments)[0] == ExitCode.USAGE


def test_help_has_an_example(command):
    assert "example:\n  slimfleet infer" in command("--help")[1]


def test_inference_needs_neither_torch_nor_onnx_nor_a_network(model, data):
    program = (
        "import sys; from slimfleet.cli import main;"
        f"assert main(['infer', '--model', {str(model)!r}, '--input', {str(data)!r}]) == 0;"
        "print({'torch', 'onnx', 'cryptography', 'paho'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "set()"
