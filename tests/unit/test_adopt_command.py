import csv
import hashlib
import importlib.util
import io
import json

import numpy as np
import pytest

from monitor.width_picture import write_width_picture
from slimfleet import adoption_run, cli, result_folder
from slimfleet.commands.adopt import cpu_seconds, report_lines
from slimfleet.exit_codes import ExitCode
from slimmable.central import measure_widths
from slimmable.checkpoint import read_checkpoint
from slimmable.evaluation import initial_state
from slimmable.model import load_model
from slimmable.readers import read_samples
from slimmable.samples import hold_out
from slimmable.state import encode_state

pytestmark = pytest.mark.torch

OPTIONS = {
    "sensors": 2,
    "length": 8,
    "classes": ["flat", "steep"],
    "channels": [8, 16],
    "kernels": [3, 3],
    "granules": [2, 4],
}
FILES = {"adopted.safetensors", "adopted.json", "curve.csv", "curve.png"}


@pytest.fixture(autouse=True)
def quiet_logs(monkeypatch):
    monkeypatch.setattr(cli, "set_up_logs", lambda *_, **__: None)


@pytest.fixture(autouse=True)
def quick_picture(monkeypatch):
    """Leave the drawing, which takes longer than this work, to the test that looks at it."""
    monkeypatch.setattr(adoption_run, "write_width_picture", lambda path, *_: path.write_bytes(b""))


@pytest.fixture(autouse=True)
def files(tmp_path):
    rng = np.random.default_rng(0)
    recording = np.repeat(np.arange(20), 4)
    y = recording % 2
    x = rng.normal(size=(20, 2, 8))[recording] + y.reshape(-1, 1, 1)
    np.savez(tmp_path / "data.npz", x=x.astype(np.float32), y=y, recording=recording)
    state = initial_state(load_model("cnn1d", OPTIONS), seed=0)
    (tmp_path / "dense.safetensors").write_bytes(encode_state(state))
    return tmp_path


@pytest.fixture
def adopt(capsys, tmp_path):
    """Run `slimfleet adopt` on the fixture's files; return exit code, output and complaints."""

    def call(*more, budget=("--steps", 12), checkpoint="dense.safetensors", options=OPTIONS):
        arguments = [
            *("adopt", "cnn1d", "--options", json.dumps(options)),
            *("--checkpoint", tmp_path / checkpoint, "--data", tmp_path / "data.npz"),
            *("--out", tmp_path / "out", "--batch", 16, "--threads", 1, *budget, *more),
        ]
        try:
            code = cli.main([str(argument) for argument in arguments])
        except SystemExit as ended:  # argparse
            code = ended.code
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def left_behind(folder):
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def test_the_results_agree_with_each_other(adopt, tmp_path, monkeypatch):
    monkeypatch.setattr(adoption_run, "write_width_picture", write_width_picture)
    code, said, _ = adopt("--json")
    assert code == ExitCode.DONE
    out = tmp_path / "out"
    assert left_behind(out) == FILES
    report = json.loads((out / "adopted.json").read_bytes())
    assert json.loads(said) == report
    payload = (out / "adopted.safetensors").read_bytes()
    assert report["state"]["digest"] == hashlib.sha256(payload).hexdigest()
    rows = list(csv.DictReader(io.StringIO((out / "curve.csv").read_text())))
    assert list(rows[0]) == ["width", "parameters", "as_is", "ordered", "distilled"]
    for row, reported in zip(rows, report["widths"], strict=True):
        assert float(row["width"]) == reported["width"]
        assert int(row["parameters"]) == reported["parameters"]
        assert float(row["as_is"]) == pytest.approx(reported["scores"]["as is"], abs=1e-6)
        assert float(row["distilled"]) == pytest.approx(reported["scores"]["distilled"], abs=1e-6)
    assert (out / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_the_weights_are_those_that_were_measured(adopt, tmp_path):
    adopt()
    model = load_model("cnn1d", OPTIONS)
    report = json.loads((tmp_path / "out" / "adopted.json").read_bytes())
    assert report["spec_hash"] == model.spec.spec_hash
    state = read_checkpoint(tmp_path / "out" / "adopted.safetensors", model.spec)
    training, validation = hold_out(read_samples(tmp_path / "data.npz", "npz"), 0.2)
    found = measure_widths(model, state, (0.25, 0.5, 0.75, 1.0), training.x, validation)
    assert [row["scores"]["distilled"] for row in report["widths"]] == [row.score for row in found]


def test_the_report_says_what_was_done(adopt, tmp_path):
    adopt("--importance", "taylor", "--distillation", 0.25, "--rule", "sandwich", "--seed", 3)
    report = json.loads((tmp_path / "out" / "adopted.json").read_bytes())
    assert report["rule"] == {
        "widths": [0.25, 0.5, 0.75, 1.0],
        "budget": {"steps": 12},
        "criterion": "taylor",
        "distillation": 0.25,
        "width_rule": "sandwich",
        "batch_size": 16,
        "learning_rate": 0.02,
        "momentum": 0.9,
        "weight_decay": 1e-4,
    }
    assert (report["model"], report["options"], report["seed"]) == ("cnn1d", OPTIONS, 3)
    assert (report["steps"], report["not_ordered"]) == (12, [])
    assert report["ordering_difference"] <= 1e-5
    assert report["data"]["checkpoint"] == str(tmp_path / "dense.safetensors")


def test_a_budget_of_time_is_kept(adopt, tmp_path):
    adopt(budget=("--budget", "0.2s"))
    report = json.loads((tmp_path / "out" / "adopted.json").read_bytes())
    assert report["rule"]["budget"] == {"seconds": 0.2}
    assert report["steps"] >= 1
    assert report["cpu_seconds"] >= 0.2


def test_the_table_and_the_progress_are_for_people(adopt):
    code, said, shown = adopt()
    assert code == ExitCode.DONE
    lines = said.splitlines()
    assert lines[0].split() == ["width", "parameters", "as", "is", "ordered", "distilled"]
    assert [line.split()[0] for line in lines[1:5]] == ["0.25", "0.5", "0.75", "1"]
    assert lines[6].startswith("accuracy of the full width: 0.")
    starts = [line.partition(":")[0] for line in shown.splitlines()]
    assert starts[:3] == ["cnn1d", "as is", "ordered"]
    assert starts[-1] == "distilled"
    assert "distilling: 50 % of the budget, step 6, loss" in shown


def test_what_the_full_width_lost_and_what_could_not_be_ordered_is_told():
    scores = {"as is": 0.25, "ordered": 0.5, "distilled": 0.75}
    report = {
        "widths": [{"width": 1.0, "parameters": 7, "scores": scores}],
        "dense_score": 0.8,
        "score": "accuracy",
        "steps": 5,
        "cpu_seconds": 2.0,
        "not_ordered": ["4 entries of first.weight dimension 0"],
    }
    lines = report_lines(report)
    assert "0.8000 as it was given, 0.7500 now (-0.0500)" in lines[-3]
    assert "a lower --learning-rate or a longer --budget keeps more" in lines[-2]
    assert lines[-1].endswith("it would change the network: 4 entries of first.weight dimension 0")


def test_the_same_command_gives_the_same_files(adopt, tmp_path):
    found = []
    for _ in range(2):
        adopt()
        found.append(
            {name: (tmp_path / "out" / name).read_bytes() for name in FILES - {"adopted.json"}}
        )
    assert found[0] == found[1]


@pytest.mark.parametrize("content", [b"", b"no weights", b"\x80\x04\x95garbage", None])
def test_a_checkpoint_that_is_none_is_one_line_and_leaves_nothing(adopt, tmp_path, content):
    if content is not None:
        (tmp_path / "bad").write_bytes(content)
    code, said, complaint = adopt(checkpoint="bad")
    assert code not in {ExitCode.DONE, ExitCode.USAGE}
    assert said == ""
    assert complaint.startswith("slimfleet: checkpoint ")
    assert complaint.count("\n") == 1
    assert not left_behind(tmp_path / "out")


def test_a_checkpoint_of_another_model_is_told_apart(adopt, tmp_path):
    code, _, complaint = adopt(options={**OPTIONS, "channels": [8, 32]})
    assert code != ExitCode.DONE
    assert "is of another model: tensor 'conv.1.weight' has shape (16, 8, 3)" in complaint
    assert not left_behind(tmp_path / "out")


@pytest.mark.parametrize(
    ("more", "match"),
    [
        (("--widths", "0.25,0.5"), "must be ascending, distinct, above 0 and end in 1.0"),
        (("--learning-rate", "-1"), "learning rate"),
        (("--distillation", "2"), "distillation"),
    ],
)
def test_numbers_that_train_nothing_are_refused(adopt, more, match):
    code, _, complaint = adopt(*more)
    assert code == ExitCode.BAD_CONFIGURATION
    assert match in complaint


def test_an_interruption_leaves_nothing(adopt, tmp_path, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(adoption_run, "adopt", stopped)
    code, _, complaint = adopt()
    assert code == cli.INTERRUPTED
    assert "nothing was written" in complaint
    assert not left_behind(tmp_path / "out")


def test_without_the_drawing_package_the_picture_alone_is_left_out(
    adopt, tmp_path, monkeypatch, caplog
):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        result_folder.importlib.util,
        "find_spec",
        lambda name: None if name == "matplotlib" else found(name),
    )
    assert adopt()[0] == ExitCode.DONE
    assert left_behind(tmp_path / "out") == FILES - {"curve.png"}
    assert "no curve.png" in caplog.text


@pytest.mark.parametrize(
    ("text", "seconds"), [("60s", 60), ("2m", 120), ("1.5h", 5400), ("45", 45), ("0.5", 0.5)]
)
def test_times_are_read(text, seconds):
    assert cpu_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "fast", "-1s", "0", "nan", "infs", "10d"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(Exception, match="is no time above 0"):
        cpu_seconds(text)
