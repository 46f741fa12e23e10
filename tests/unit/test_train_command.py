import csv
import hashlib
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.width_picture import write_width_picture
from slimfleet import cli, result_folder, training_run
from slimfleet.exit_codes import ExitCode
from slimfleet.training_progress import TrainingProgress
from slimmable.central import measure_widths
from slimmable.checkpoint import read_checkpoint
from slimmable.model import load_model
from slimmable.readers import read_samples
from slimmable.samples import Samples, SamplesError, hold_out
from slimmable.slicing import check_state
from slimmable.state import decode_state, encode_state
from slimmable.width_scores import Measurement, WidthScore

pytestmark = pytest.mark.torch

OPTIONS = {
    "sensors": 2,
    "length": 8,
    "classes": ["flat", "steep"],
    "channels": [8, 16],
    "kernels": [3, 3],
    "granules": [2, 4],
}
FILES = {"state.safetensors", "training.json", "curve.csv", "curve.png"}
SCORES = (WidthScore(0.5, 0.75, 0.5), WidthScore(1.0, 0.8, 0.4))


@pytest.fixture(autouse=True)
def quiet_logs(monkeypatch):
    monkeypatch.setattr(cli, "set_up_logs", lambda *_, **__: None)


@pytest.fixture(autouse=True)
def quick_picture(monkeypatch):
    """Leave the drawing, which takes longer than these trainings, to the tests that look at it."""
    monkeypatch.setattr(training_run, "write_width_picture", lambda path, *_: path.write_bytes(b""))


@pytest.fixture
def train(capsys, tmp_path):
    """Run `slimfleet train` on the fixture's data; return exit code, output and complaints."""

    def call(*more, model="cnn1d", options=OPTIONS, samples="data.npz", steps=12):
        arguments = [
            *("train", model, "--data", tmp_path / samples, "--out", tmp_path / "out"),
            *(("--options", json.dumps(options)) if options else ()),
            *(("--steps", steps) if steps else ()),
            *("--batch", 16, "--threads", 1, *more),
        ]
        try:
            code = cli.main([str(argument) for argument in arguments])
        except SystemExit as ended:  # argparse
            code = ended.code
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def recordings(count=20, each=4, shape=(2, 8), seed=0):
    """Return arrays of recordings whose windows are nearly the same."""
    rng = np.random.default_rng(seed)
    recording = np.repeat(np.arange(count), each)
    y = recording % 2
    x = rng.normal(size=(count, *shape))[recording] + y.reshape(-1, *([1] * len(shape)))
    return {"x": x.astype(np.float32), "y": y.astype(np.int64), "recording": recording}


@pytest.fixture(autouse=True)
def files(tmp_path):
    np.savez(tmp_path / "data.npz", **recordings())
    np.savez(tmp_path / "other.npz", **recordings(seed=1))
    return tmp_path


def left_behind(folder):
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


# --- what is written ------------------------------------------------------------------------------


def test_the_results_agree_with_each_other(train, tmp_path, monkeypatch):
    monkeypatch.setattr(training_run, "write_width_picture", write_width_picture)
    code, said, _ = train("--json")
    assert code == ExitCode.DONE
    out = tmp_path / "out"
    assert left_behind(out) == FILES
    report = json.loads((out / "training.json").read_bytes())
    assert json.loads(said) == report
    payload = (out / "state.safetensors").read_bytes()
    assert report["state"] == {
        "file": "state.safetensors",
        "digest": hashlib.sha256(payload).hexdigest(),
        "step": 12,
    }
    rows = list(csv.DictReader(io.StringIO((out / "curve.csv").read_text())))
    last = [row for row in rows if row["step"] == "12"]
    assert [float(row["score"]) for row in last] == pytest.approx(
        [row["score"] for row in report["widths"]], abs=1e-6
    )
    assert (out / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_the_weights_are_those_that_were_measured(train, tmp_path):
    train()
    model = load_model("cnn1d", OPTIONS)
    report = json.loads((tmp_path / "out" / "training.json").read_bytes())
    state = read_checkpoint(tmp_path / "out" / "state.safetensors", model.spec)
    check_state(state, model.spec, 1.0)
    assert report["spec_hash"] == model.spec.spec_hash
    training, validation = hold_out(read_samples(tmp_path / "data.npz", "npz"), 0.2)
    found = measure_widths(model, state, (0.25, 0.5, 0.75, 1.0), training.x, validation)
    assert [row["score"] for row in report["widths"]] == [row.score for row in found]
    assert [row["loss"] for row in report["widths"]] == pytest.approx([row.loss for row in found])
    assert [row["parameters"] for row in report["widths"]] == [
        model.spec.parameter_count(row.width) for row in found
    ]


def test_the_report_says_what_was_done(train, tmp_path):
    more = ("--rule", "sandwich", "--distillation", 0.5, "--random-widths", 1, "--warm-up", 3)
    more += ("--gradient-norm", 2)
    train(*more, "--widths", "0.5,1", "--seed", 7, "--validation", tmp_path / "other.npz")
    report = json.loads((tmp_path / "out" / "training.json").read_bytes())
    assert report["rule"] == {
        "steps": 12,
        "batch_size": 16,
        "learning_rate": 0.05,
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "widths": [0.5, 1.0],
        "rule": "sandwich",
        "random_widths": 1,
        "draw_weights": [],
        "widest_share": 0.0,
        "distillation": 0.5,
        "schedule": "cosine",
        "warm_up": 3,
        "gradient_norm": 2.0,
        "proximal": 0.0,
        "masked_loss": False,
        "scaler": False,
        "private": [],
        "private_steps": 0,
    }
    assert (report["model"], report["options"], report["seed"]) == ("cnn1d", OPTIONS, 7)
    data = report["data"]
    assert data["training"]["samples"] == data["validation"]["samples"] == 80
    assert data["training"]["digest"] != data["validation"]["digest"]
    assert (data["validation"]["share"], data["validation"]["recordings"]) == (None, 20)


def test_the_same_command_gives_the_same_files(train, tmp_path):
    found = []
    for _ in range(2):
        train()
        found.append(
            {name: (tmp_path / "out" / name).read_bytes() for name in FILES - {"training.json"}}
        )
    assert found[0] == found[1]


def test_epochs_are_passes_over_the_training_samples(train, tmp_path):
    train("--epochs", 3, steps=None)
    report = json.loads((tmp_path / "out" / "training.json").read_bytes())
    assert report["data"]["training"]["samples"] == 64
    assert report["rule"]["steps"] == 3 * 64 // 16


def test_training_goes_on_from_weights(train, tmp_path):
    train()
    weights = tmp_path / "first.safetensors"
    (tmp_path / "out" / "state.safetensors").rename(weights)
    assert train("--checkpoint", weights, "--learning-rate", 1e-9)[0] == ExitCode.DONE
    before, after = (
        decode_state(path.read_bytes()) for path in (weights, tmp_path / "out/state.safetensors")
    )
    for name, array in before.items():
        if not name.endswith(("running_mean", "running_var")):
            np.testing.assert_allclose(after[name], array, atol=1e-6)


def test_the_table_and_the_progress_are_for_people(train):
    _, said, shown = train("--measure-every", 5)
    assert [line.split()[0] for line in said.splitlines()[:5]] == [
        "width",
        *["0.25", "0.5", "0.75", "1"],
    ]
    assert "64 samples to train on, 16 of other recordings" in shown
    assert [line.split()[1] for line in shown.splitlines()[1:]] == ["5", "10", "12"]


def test_values_and_reconstructions_are_trained_too(train, tmp_path):
    x = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    np.savez(tmp_path / "values.npz", x=x, y=x[:, 0])
    np.savez(tmp_path / "inputs.npz", x=x)
    for task, name in (("regression", "values.npz"), ("reconstruction", "inputs.npz")):
        options = {"input_shape": [4], "task": task, "hidden": [8]}
        code, said, _ = train(model="mlp", options=options, samples=name)
        assert code == ExitCode.DONE
        assert "explained variance" in said


def test_without_matplotlib_only_the_picture_is_missing(train, tmp_path, monkeypatch, caplog):
    train()
    find = result_folder.importlib.util.find_spec
    monkeypatch.setattr(
        result_folder.importlib.util,
        "find_spec",
        lambda name, *more: None if name == "matplotlib" else find(name, *more),
    )
    assert train()[0] == ExitCode.DONE
    assert left_behind(tmp_path / "out") == FILES - {"curve.png"}
    assert "slimfleet[monitor]" in caplog.text


# --- nothing half-written -------------------------------------------------------------------------


def test_an_interrupted_training_leaves_what_was_there(train, tmp_path, monkeypatch):
    train()
    before = {name: (tmp_path / "out" / name).read_bytes() for name in FILES}

    def interrupt(self, step, loss):
        if step == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(TrainingProgress, "after_step", interrupt)
    code, said, shown = train("--seed", 1)
    assert (code, said) == (cli.INTERRUPTED, "")
    assert "interrupted before the last step; nothing was written" in shown
    assert {name: (tmp_path / "out" / name).read_bytes() for name in FILES} == before


def test_a_report_never_stands_beside_weights_of_another_training(train, tmp_path, monkeypatch):
    train()

    def full(path, data, **_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(result_folder, "write_atomically", full)
    code, _, shown = train("--seed", 1)
    assert code == ExitCode.BAD_CONFIGURATION
    assert "No space left on device" in shown
    assert "training.json" not in left_behind(tmp_path / "out")


# --- bad input ------------------------------------------------------------------------------------


def saved(folder, **arrays):
    np.savez(folder / "wrong.npz", **arrays)
    return "wrong.npz"


def wrong_data():
    good = recordings()
    bad = good["x"].copy()
    bad[3, 0, 0] = np.nan
    return [
        ({**good, "x": good["x"][:, :, :5]}, "samples of shape (2, 5), model 'cnn1d' takes (2, 8)"),
        ({**good, "x": bad}, "inputs hold NaN"),
        ({**good, "y": good["y"] + 1}, "labels run from 1 to 2"),
        ({**good, "y": good["y"].astype(float)}, "labels are float32"),
        ({**good, "recording": good["recording"] * 0}, "1 recordings are too few"),
        ({name: array[:4] for name, array in good.items()}, "1 recordings are too few"),
        ({name: array[:0] for name, array in good.items()}, "no samples"),
    ]


@pytest.mark.parametrize(("arrays", "message"), wrong_data(), ids=[m for _, m in wrong_data()])
def test_data_that_cannot_be_used_is_one_line_and_no_folder(train, tmp_path, arrays, message):
    code, said, shown = train(samples=saved(tmp_path, **arrays))
    assert (code, said) == (ExitCode.BAD_CONFIGURATION, "")
    assert message in shown
    assert len(shown.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_class_that_nobody_has_is_no_mistake(train, tmp_path):
    good = recordings()
    samples = saved(tmp_path, **{**good, "y": good["y"] * 0})
    assert train(samples=samples)[0] == ExitCode.DONE


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (("--widths", "0.25,0.5"), ExitCode.BAD_CONFIGURATION, "end in 1.0"),
        (("--widths", "0.25,2"), ExitCode.USAGE, "outside (0, 1]"),
        (("--rule", "sandwhich"), ExitCode.USAGE, "--rule"),
        (("--distillation", "2"), ExitCode.BAD_CONFIGURATION, "distillation 2.0 must be"),
        (("--learning-rate", "0"), ExitCode.BAD_CONFIGURATION, "learning rate 0.0 must be"),
        (("--warm-up", "12"), ExitCode.BAD_CONFIGURATION, "warm-up of 12 steps must be"),
        (("--draw-weights", "1,2"), ExitCode.BAD_CONFIGURATION, "for each of the widths"),
        (("--draw-weights", "much"), ExitCode.USAGE, "is no list"),
        (("--validation-share", "1"), ExitCode.USAGE, "below 1"),
        (("--epochs", "2"), ExitCode.USAGE, "not allowed with"),
        (("--reader", "xls"), ExitCode.BAD_CONFIGURATION, "no reader 'xls'"),
        (("--validation", "nowhere.npz"), ExitCode.BAD_CONFIGURATION, "cannot read nowhere.npz"),
        (("--learning-rate", "1e30"), ExitCode.FAILURE, "lower the learning rate"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused(train, tmp_path, more, code, message):
    found, said, shown = train(*more)
    assert (found, said) == (code, "")
    assert message in shown
    assert "Traceback" not in shown
    assert not left_behind(tmp_path / "out")


def test_weights_of_another_model_are_refused(train, tmp_path):
    weights = tmp_path / "other.safetensors"
    weights.write_bytes(encode_state({"head.weight": np.zeros((2, 3), np.float32)}))
    code, _, shown = train("--checkpoint", weights)
    assert code != ExitCode.DONE
    assert "other.safetensors" in shown
    assert not left_behind(tmp_path / "out")


def test_a_folder_that_cannot_be_made_is_said_before_training(train, tmp_path, monkeypatch):
    (tmp_path / "out").write_text("a file")
    monkeypatch.setattr(training_run, "run", lambda plan: pytest.fail("trained"))
    code, _, shown = train()
    assert code == ExitCode.BAD_CONFIGURATION
    assert "name a folder" in shown


def test_the_command_line_starts_without_torch():
    import subprocess

    code = (
        "import sys; from slimfleet.cli import main\n"
        "try: main(['train', '--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=False, text=True
    )
    assert found.returncode == 0, found.stderr
    assert "--validation-share" in found.stdout


# --- what is kept back ----------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4)), min_size=1, max_size=30),
    st.sampled_from([0.1, 0.2, 0.25, 0.5]),
)
def test_no_recording_stands_on_both_sides_and_every_class_trains(counts, share):
    label = np.repeat([one for one, _ in counts], [count for _, count in counts])
    recording = np.repeat(np.arange(len(counts)), [count for _, count in counts])
    x = np.arange(len(label), dtype=np.float32)[:, None]
    samples = Samples(x, label.astype(np.int64), recording)
    try:
        training, back = hold_out(samples, share)
    except SamplesError:
        singles = [one for one, _ in counts]
        assert len(counts) * share < 1 or any(singles.count(one) == 1 for one in singles)
        return
    assert not set(training.recording) & set(back.recording)
    assert sorted([*training.x[:, 0], *back.x[:, 0]]) == x[:, 0].tolist()
    assert set(training.y) == set(label)
    assert len(np.unique(back.recording)) <= len(counts) * share + 1e-6


def test_the_share_is_spread_over_the_classes():
    recording = np.arange(100)
    samples = Samples(np.zeros((100, 1), np.float32), recording % 4, recording)
    _, back = hold_out(samples, 0.2)
    assert np.bincount(back.y).tolist() == [5, 5, 5, 5]


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, float("nan")])
def test_a_share_that_leaves_nothing_is_refused(share):
    samples = Samples(np.zeros((4, 1), np.float32), np.zeros(4, np.int64), np.arange(4))
    with pytest.raises(SamplesError, match="above 0 and below 1"):
        hold_out(samples, share)


# --- the picture ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_the_same_figures_give_the_same_picture(tmp_path, kind):
    measured = [Measurement(5, 1.5, SCORES), Measurement(10, 1.0, SCORES)]
    for name in ("one", "two"):
        write_width_picture(tmp_path / f"{name}.{kind}", {"a": SCORES}, "accuracy", measured)
    assert (tmp_path / f"one.{kind}").read_bytes() == (tmp_path / f"two.{kind}").read_bytes()


def test_several_curves_stand_in_one_picture_with_their_names(tmp_path):
    path = tmp_path / "curves.svg"
    write_width_picture(path, {"before": SCORES, "after": SCORES}, "accuracy")
    text = path.read_text()
    assert "before" in text
    assert "after" in text
    assert "Loss over steps" not in text


@pytest.mark.parametrize("name", ["curve.gif", "curve"])
def test_another_kind_of_picture_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="png"):
        write_width_picture(tmp_path / name, {"a": SCORES}, "accuracy")


# --- the progress ---------------------------------------------------------------------------------


def test_on_a_terminal_a_bar_moves(monkeypatch, capsys):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    with TrainingProgress(10, "accuracy") as progress:
        progress.say("begin")
        progress.after_step(10, 0.25)
        progress.after_measurement(Measurement(10, 0.5, SCORES))
    shown = screen.getvalue()
    assert "begin" in shown
    assert "10/10" in shown
    assert "loss 0.250" in shown
    assert "accuracy 0.5: 0.750  1: 0.800" in shown


def test_elsewhere_it_is_plain_lines(capsys):
    with TrainingProgress(1000, "accuracy") as progress:
        progress.after_step(10, 0.25)
        progress.after_measurement(Measurement(10, 0.5, SCORES))
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("step   10 of 1000  loss 0.500  accuracy 0.5: 0.750  1: 0.800  about")
    assert Path(line)  # no escape sequences
    assert line.isprintable()
