"""``slimfleet export`` as its users call it: what it writes, says and refuses."""

import csv
import json
import logging
import pickle  # noqa: TID251 - to see that it is never opened
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime
import pytest

from broker.manifest import ModelManifest
from exporter.command import templates_folder
from exporter.run_export import file_stem
from slimfleet import cli
from slimfleet.exit_codes import ExitCode
from slimmable.evaluation import initial_state
from slimmable.models.cnn1d import cnn1d
from slimmable.state import encode_state
from tests.fakes.finished_run import FinishedRun
from tests.fakes.full_disk import full_disk
from tests.fakes.toy_models import toy

pytestmark = pytest.mark.torch

ROOT = Path(__file__).parents[2]
TOY = "tests.fakes.toy_models:toy"
CLASSES = {"classes": ["rest", "walk", "run"]}
CNN = {
    "sensors": 2,
    "length": 16,
    "classes": ["calm", "broken"],
    "channels": [8, 8],
    "kernels": [3, 3],
    "granules": [1, 1],
}
PLANT = '''
"""Networks as a user writes them."""

import torch
from torch import nn


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(10, 16)
        self.numbers = nn.Sequential(nn.Linear(3, 16), nn.BatchNorm1d(16))
        self.out = nn.Linear(16, 2)

    def forward(self, x, tokens):
        return self.out(torch.relu(self.numbers(x) + self.words(tokens).mean(1)))


class Undecided(nn.Module):
    def __init__(self):
        super().__init__()
        self.only = nn.Linear(4, 4)

    def forward(self, x):
        if x.sum() > 0:  # the data decides
            return self.only(x)
        return x
'''


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Keep templates for the tests of this file, in what takes the place of the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def quiet_logs(monkeypatch):
    monkeypatch.setattr(cli, "set_up_logs", lambda *_, **__: None)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def export(capsys, out):
    """Run `slimfleet export`; return its exit code, output and complaints."""

    def call(*arguments, to=True):
        arguments = ["export", *map(str, arguments), *(("--out", str(out)) if to else ())]
        try:
            code = cli.main(arguments)
        except SystemExit as ended:  # argparse
            code = ended.code
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "state.safetensors"
    path.write_bytes(encode_state(initial_state(toy(), 0)))
    return path


@pytest.fixture
def samples(tmp_path):
    """Write labelled samples for a toy with classes: 40 recordings of 5."""
    rng = np.random.default_rng(0)
    path = tmp_path / "test.npz"
    x, y = rng.standard_normal((200, 4)).astype(np.float32), rng.integers(0, 3, 200)
    np.savez(path, x=x, y=y, recording=np.repeat(np.arange(40), 5))
    return path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def index(folder):
    return json.loads((folder / "index.json").read_bytes())


def manifest(folder, name):
    return msgspec.json.decode((folder / name).read_bytes(), type=ModelManifest)


def one_line(complaint, *parts):
    """Check that a complaint is one line with all the parts."""
    assert complaint.startswith("slimfleet: ")
    assert complaint.count("\n") == 1
    for part in parts:
        assert part in complaint


# --- what is written ----------------------------------------------------------------------------


def test_an_export_writes_files_manifests_index_table_and_picture(export, out, checkpoint):
    code, said, err = export("--model", TOY, "--checkpoint", checkpoint, "--widths", "0.5,1")
    assert (code, err) == (ExitCode.DONE, "")
    assert names(out) == [
        "export.csv",
        "front.png",
        "index.json",
        "toy-w0.50.manifest.json",
        "toy-w0.50.onnx",
        "toy-w1.00.manifest.json",
        "toy-w1.00.onnx",
    ]
    lines = said.splitlines()
    assert lines[0] == "toy; weights: state.safetensors"
    assert lines[1].startswith("latency: one sample on THIS machine (")
    assert "one thread" in said
    assert "not measured" in said
    assert said.endswith(f"written to {out}\n")
    assert max(map(len, lines[:-1])) <= 80
    assert (out / "front.png").read_bytes().startswith(b"\x89PNG")
    document = index(out)
    assert (document["model"], document["round"], document["fleet"]) == ("toy", 0, "")
    for row in document["widths"]:
        said_by = manifest(out, row["manifest"])
        assert (said_by.digest, said_by.size) == (row["digest"], row["size"])
        assert said_by.score_data == "not measured"
        assert row["forms"][0]["latency_median_s"] > 0
    with (out / "export.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["width"], r["form"], r["chosen"]) for r in rows] == [
        ("0.5", "fp32", "1"),
        ("1.0", "fp32", "1"),
    ]
    for name in ("toy-w0.50.onnx", "toy-w1.00.onnx"):
        code, said, _ = export("--check", out / name, to=False)
        assert (code, said.splitlines()[-1]) == (ExitCode.DONE, f"{out / name} is sound")


def test_the_machine_readable_form_is_the_index(export, out, checkpoint):
    code, said, _ = export("--model", TOY, "--checkpoint", checkpoint, "--widths", "0.5", "--json")
    assert code == ExitCode.DONE
    assert json.loads(said) == index(out)


def test_weights_that_nobody_gave_are_warned_of(export, out, caplog):
    code, said, _ = export("--model", TOY, "--widths", "0.5")
    assert code == ExitCode.DONE
    assert "untrained, or as its function returned it" in caplog.text
    assert "weights: untrained, or as the function returned them" in said
    own = initial_state(toy(), 0)
    x = np.ones((2, 4), np.float32)
    session = onnxruntime.InferenceSession(out / "toy-w0.50.onnx")
    hidden = np.maximum(
        (x - np.linspace(-1, 1, 4)) @ own["first.weight"][:8].T + own["first.bias"][:8], 0
    )
    expected = hidden @ own["second.weight"][:, :8].T + own["second.bias"] + 0.5
    np.testing.assert_allclose(session.run(None, {"input": x})[0], expected, atol=1e-5)


def test_int8_is_written_beside_float32_with_its_own_manifest(export, out, checkpoint, samples):
    code, said, err = export(
        *("--model", TOY, "--options", json.dumps(CLASSES), "--checkpoint", checkpoint),
        *("--widths", "1", "--int8", "static", "--data", samples, "--preoptimised"),
    )
    assert (code, err) == (ExitCode.DONE, "")
    assert {name for name in names(out) if name.endswith(".onnx")} == {
        "toy-w1.00.onnx",
        "toy-w1.00-int8.onnx",
        "toy-w1.00-int8.preoptimised.onnx",
    }
    (row,) = index(out)["widths"]
    assert (row["chosen"], row["file"]) == ("int8-static", "toy-w1.00-int8.onnx")
    assert "asked for" in row["reason"]
    full, quantised = row["forms"]
    assert [full["form"], quantised["form"]] == ["fp32", "int8-static"]
    assert full["preoptimised"] is None
    for form in (full["written"], quantised["written"], quantised["preoptimised"]):
        said_by = manifest(out, form["manifest"])
        assert (said_by.digest, said_by.size) == (form["digest"], form["size"])
        # Half of the recordings calibrated, the other half measured.
        assert said_by.score_data == "test.npz, 100 samples"
        assert sum(said_by.reference.classes) == 100
        code, said, _ = export("--check", out / form["name"], "--data", samples, to=False)
        assert code == ExitCode.DONE, said
    assert manifest(out, full["written"]["manifest"]).encoding == "onnx-f32"
    assert manifest(out, quantised["written"]["manifest"]).encoding == "onnx-int8-static"
    assert full["score"] == pytest.approx(manifest(out, full["written"]["manifest"]).score)


def test_auto_without_samples_keeps_float32_and_says_what_is_missing(export, out, checkpoint):
    code, said, _ = export(
        "--model", TOY, "--checkpoint", checkpoint, "--widths", "0.5", "--int8", "auto"
    )
    assert code == ExitCode.DONE
    assert [r["chosen"] for r in index(out)["widths"]] == ["fp32"]
    assert "give --calibration or --data" in " ".join(said.split())


def test_static_int8_without_samples_is_refused(export, out, checkpoint):
    code, _, err = export(
        "--model", TOY, "--checkpoint", checkpoint, "--widths", "0.5", "--int8", "static"
    )
    assert code == ExitCode.FAILURE
    one_line(err, "int8-static was asked for", "give --calibration or --data")
    assert not out.exists()


def test_statistics_and_scores_come_from_different_recordings(export, out, tmp_path):
    rng = np.random.default_rng(0)
    state = tmp_path / "cnn.safetensors"
    state.write_bytes(encode_state(initial_state(cnn1d(**CNN), 0)))
    x, y = rng.standard_normal((60, 2, 16)).astype(np.float32), rng.integers(0, 2, 60)
    np.savez(tmp_path / "t.npz", x=x, y=y, recording=np.repeat(np.arange(12), 5))
    common = ("--model", "cnn1d", "--options", json.dumps(CNN), "--checkpoint", state)
    data = ("--data", tmp_path / "t.npz")
    assert export(*common, "--widths", "0.5", *data)[0] == ExitCode.DONE
    (row,) = index(out)["widths"]
    assert row["statistics"] == "calibrated"
    assert manifest(out, row["manifest"]).score_data == "t.npz, 30 samples"
    # With samples of their own to calibrate on, all labelled ones measure.
    calibration = ("--calibration", tmp_path / "t.npz")
    assert export(*common, "--widths", "0.5", *data, *calibration)[0] == ExitCode.DONE
    assert manifest(out, row["manifest"]).score_data == "t.npz, 60 samples"
    np.savez(tmp_path / "t.npz", x=x, y=y, recording=np.zeros(60, int))
    code, _, err = export(*common, "--widths", "0.5", *data)
    assert code == ExitCode.BAD_CONFIGURATION
    one_line(err, "one recording cannot be split")


def test_samples_to_calibrate_on_also_say_what_outputs_are_usual(export, out, checkpoint, tmp_path):
    x = np.random.default_rng(0).standard_normal((50, 4)).astype(np.float32)
    np.savez(tmp_path / "own.npz", x=x)
    code, _, _ = export(
        *("--model", TOY, "--options", json.dumps(CLASSES), "--checkpoint", checkpoint),
        *("--widths", "0.5", "--calibration", tmp_path / "own.npz", "--scale", "g / 0.9"),
    )
    assert code == ExitCode.DONE
    found = manifest(out, "toy-w0.50.manifest.json")
    said = onnxruntime.InferenceSession(out / "toy-w0.50.onnx").run(None, {"input": x})[0]
    np.testing.assert_array_equal(
        found.reference.classes, np.bincount(said.argmax(axis=1), minlength=3)
    )
    assert (found.scale, found.score_data) == ("g / 0.9", "not measured")


def test_two_widths_that_round_to_one_network_are_pointed_out(export, checkpoint, caplog):
    code, _, _ = export("--model", TOY, "--checkpoint", checkpoint, "--widths", "0.5,0.501")
    assert code == ExitCode.DONE
    assert "width 0.501 is the same network as 0.5" in caplog.text


# --- a run ----------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path):
    """Return a run of a toy with three finished rounds, its server still writing."""
    model = toy(**CLASSES)
    run = FinishedRun(tmp_path / "data", model=TOY, options=CLASSES, spec_hash=model.spec.spec_hash)
    run.initialise(initial_state(model, 0))
    for number in (1, 2, 3):
        run.finish_round(number, initial_state(model, number))
    yield run
    run.journal.close()


def test_a_run_says_by_itself_what_to_export(export, out, run):
    code, said, _ = export("--run", run.folder)
    assert code == ExitCode.DONE
    document = index(out)
    assert (document["fleet"], document["round"], document["classes"]) == (
        "plant",
        3,
        ["rest", "walk", "run"],
    )
    assert [row["width"] for row in document["widths"]] == [0.5, 1.0]
    assert [row["forms"][0]["score"] for row in document["widths"]] == [0.3, 0.6]
    found = manifest(out, "toy-w0.50.manifest.json")
    assert (found.round, found.score) == (3, 0.3)
    assert found.score_data == "the server's validation recordings, cross-fitted"
    assert "toy of fleet plant, round 3" in said


def test_an_earlier_round_and_a_width_of_the_rewards_can_be_chosen(export, out, run):
    code, _, _ = export("--run", run.folder, "--round", "1", "--widths", "0.25")
    assert code == ExitCode.DONE
    assert manifest(out, "toy-w0.25.manifest.json").round == 1
    assert manifest(out, "toy-w0.25.manifest.json").score == 0.05


@pytest.mark.parametrize(
    ("more", "code", "parts"),
    [
        (("--round", "7"), ExitCode.FAILURE, ("no finished round 7", "rounds 0 to 3")),
        (
            ("--widths", "0.3"),
            ExitCode.BAD_CONFIGURATION,
            ("width 0.3 is not offered", "[0.25, 0.5, 1.0]"),
        ),
        (
            ("--model", TOY, "--options", '{"hidden": 32}'),
            ExitCode.FAILURE,
            ("width spec", "install the version"),
        ),
    ],
)
def test_what_a_run_does_not_hold_is_refused(export, out, run, more, code, parts):
    found, _, err = export("--run", run.folder, *more)
    assert found == code
    one_line(err, *parts)
    assert not out.exists()


def test_a_score_of_the_server_is_not_given_to_statistics_that_it_did_not_measure(
    export, out, tmp_path, caplog
):
    model = cnn1d(**CNN)
    run = FinishedRun(tmp_path / "data", model="cnn1d", options=CNN, spec_hash=model.spec.spec_hash)
    run.finish_round(1, initial_state(model, 1))
    run.journal.close()
    assert export("--run", run.folder)[0] == ExitCode.DONE
    narrow, full = index(out)["widths"]
    assert (narrow["statistics"], full["statistics"]) == ("sliced", "stored")
    assert (narrow["forms"][0]["score"], full["forms"][0]["score"]) == (None, 0.2)
    assert "give calibration samples" in caplog.text


# --- a device's budget --------------------------------------------------------------------------


def test_what_is_over_the_budget_is_not_written_and_the_widest_left_is_recommended(
    export, out, checkpoint
):
    common = ("--model", TOY, "--checkpoint", checkpoint, "--widths", "0.25,0.5,1")
    assert export(*common)[0] == ExitCode.DONE
    sizes = [row["size"] for row in index(out)["widths"]]
    shutil.rmtree(out)
    limit = (sizes[1] + sizes[2]) // 2
    code, said, _ = export(*common, "--device-budget", f"size<={limit}B")
    assert code == ExitCode.DONE
    assert [name for name in names(out) if name.endswith(".onnx")] == [
        "toy-w0.25.onnx",
        "toy-w0.50.onnx",
    ]
    rows = index(out)["widths"]
    assert [row["recommended"] for row in rows] == [False, True, False]
    assert [row["chosen"] for row in rows] == ["fp32", "fp32", ""]
    assert rows[2]["file"] is None
    assert "over budget" in rows[2]["reason"]
    (line,) = [line for line in said.splitlines() if "recommended" in line]
    assert line.split()[0] == "0.5"
    assert "over budget" in said


def test_a_budget_that_nothing_keeps_writes_nothing_and_names_the_closest(export, out, checkpoint):
    code, said, err = export(
        *("--model", TOY, "--checkpoint", checkpoint, "--widths", "0.25,1"),
        *("--device-budget", "size<=10B,latency<=5s"),
    )
    assert (code, said) == (ExitCode.NO_ACCEPTABLE_MODEL, "")
    one_line(err, "no width keeps", "the closest is width 0.25 as fp32 with")
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--device-budget", "fast"), "'fast' is no limit"),
        (("--device-budget", "latency<=20"), "a number without unit"),
        (("--widths", "0.5,1.5"), "outside (0, 1]"),
        (("--widths", "0"), "outside (0, 1]"),
        (("--widths", "wide"), "no list of width multipliers"),
        (("--options", "["), "not JSON"),
        (("--int8", "int4"), "invalid choice"),
        (("--max-loss", "-1"), "no loss of at least 0"),
        (("--max-loss", "nan"), "no loss of at least 0"),
        (("--threads", "0"), "no number above 0"),
        (("--checkpoint", "a", "--run", "b"), "not allowed with argument"),
    ],
)
def test_a_malformed_argument_is_a_usage_error(export, out, arguments, said):
    code, _, err = export("--model", TOY, *arguments)
    assert code == ExitCode.USAGE
    assert said in err
    assert not out.exists()


# --- where it writes ----------------------------------------------------------------------------


def test_a_second_export_of_the_same_widths_takes_the_place_of_the_first(export, out, checkpoint):
    common = ("--model", TOY, "--checkpoint", checkpoint, "--widths", "0.5")
    assert export(*common)[0] == ExitCode.DONE
    first = (out / "toy-w0.50.onnx").read_bytes()
    checkpoint.write_bytes(encode_state(initial_state(toy(), 1)))
    assert export(*common)[0] == ExitCode.DONE
    assert (out / "toy-w0.50.onnx").read_bytes() != first
    assert names(out) == [
        "export.csv",
        "front.png",
        "index.json",
        "toy-w0.50.manifest.json",
        "toy-w0.50.onnx",
    ]


def test_forms_of_the_export_before_do_not_stay_beside_the_new_weights(
    export, out, checkpoint, samples
):
    common = ("--model", TOY, "--options", json.dumps(CLASSES), "--checkpoint", checkpoint)
    int8 = ("--int8", "static", "--data", samples)
    assert export(*common, "--widths", "1", *int8, "--preoptimised")[0] == ExitCode.DONE
    assert "toy-w1.00-int8.onnx" in names(out)
    assert export(*common, "--widths", "1")[0] == ExitCode.DONE
    assert not [name for name in names(out) if "int8" in name or "preoptimised" in name]
    # A file that somebody has changed since is somebody's.
    assert export(*common, "--widths", "1", *int8)[0] == ExitCode.DONE
    (out / "toy-w1.00-int8.onnx").write_bytes(b"mine")
    assert export(*common, "--widths", "1")[0] == ExitCode.DONE
    assert (out / "toy-w1.00-int8.onnx").read_bytes() == b"mine"


def test_a_folder_with_other_files_is_refused_unless_forced_and_they_stay(export, out, checkpoint):
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    common = ("--model", TOY, "--checkpoint", checkpoint, "--widths", "0.5")
    code, _, err = export(*common)
    assert code == ExitCode.FAILURE
    one_line(err, "thesis.txt", "--force")
    assert names(out) == ["thesis.txt"]
    assert export(*common, "--force")[0] == ExitCode.DONE
    assert (out / "thesis.txt").read_text() == "years of work"
    assert "toy-w0.50.onnx" in names(out)
    # Other widths beside them, too: none of an earlier export is taken away.
    common = (*common[:-1], "1")
    assert export(*common)[0] == ExitCode.FAILURE
    assert export(*common, "--force")[0] == ExitCode.DONE
    assert {"toy-w0.50.onnx", "toy-w1.00.onnx", "thesis.txt"} <= set(names(out))


def test_a_file_where_the_folder_should_be_is_refused(export, out, checkpoint):
    out.write_text("not a folder")
    code, _, err = export("--model", TOY, "--checkpoint", checkpoint, "--force")
    assert code == ExitCode.FAILURE
    one_line(err, "is a file; name a folder")


@pytest.mark.parametrize("after", [0, 5000])
def test_a_disk_that_fills_leaves_the_export_before_as_it_was(export, out, checkpoint, after):
    common = ("--model", TOY, "--checkpoint", checkpoint, "--widths", "0.5,1")
    with full_disk(after=after):
        code, _, err = export(*common)
    assert code == ExitCode.FAILURE
    one_line(err, "no room")
    assert not out.exists()
    assert export(*common)[0] == ExitCode.DONE
    before = {name: (out / name).read_bytes() for name in names(out)}
    checkpoint.write_bytes(encode_state(initial_state(toy(), 1)))
    with full_disk(after=after):
        assert export(*common)[0] == ExitCode.FAILURE
    assert {name: (out / name).read_bytes() for name in names(out)} == before


def test_templates_are_kept_in_the_users_cache_or_where_told(
    export, checkpoint, tmp_path, monkeypatch
):
    common = ("--model", TOY, "--checkpoint", checkpoint, "--widths", "0.5")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert templates_folder() == tmp_path / "cache" / "slimfleet" / "templates"
    assert export(*common)[0] == ExitCode.DONE
    assert list(templates_folder().glob("toy-w*.template"))
    assert export(*common, "--templates", tmp_path / "mine")[0] == ExitCode.DONE
    assert list((tmp_path / "mine").glob("toy-w*.template"))
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert templates_folder().is_relative_to(tmp_path)


# --- bad input ------------------------------------------------------------------------------------


class Trap:
    """Runs code where it is unpickled."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('unpickled')",))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"a text",
        pickle.dumps({"first.weight": Trap()}),
        b"PK\x03\x04" + bytes(64),
        (40).to_bytes(8, "little") + b'{"first.weight":',
    ],
)
def test_a_checkpoint_that_is_none_is_refused_and_never_unpickled(export, out, checkpoint, content):
    checkpoint.write_bytes(content)
    code, _, err = export("--model", TOY, "--checkpoint", checkpoint)
    assert code == ExitCode.BAD_CONFIGURATION
    one_line(err, "state.safetensors")
    assert not out.exists()


def test_a_checkpoint_that_is_not_there_is_named(export, out, tmp_path):
    code, _, err = export("--model", TOY, "--checkpoint", tmp_path / "gone")
    assert code == ExitCode.BAD_CONFIGURATION
    one_line(err, "gone cannot be read")
    assert not out.exists()


def test_a_checkpoint_of_another_model_is_named_with_its_tensor(export, out, checkpoint):
    code, _, err = export("--model", TOY, "--options", '{"out": 5}', "--checkpoint", checkpoint)
    assert code == ExitCode.BAD_CONFIGURATION
    one_line(err, "of another model", "second.", "(5,")
    assert not out.exists()


def test_weights_that_break_one_width_keep_all_from_being_written(export, out, checkpoint):
    state = initial_state(toy(), 0)
    state["first.weight"][-1] = 3e38  # outside the narrow slice, inside the full width
    state["second.weight"][:, -1] = 3e38
    checkpoint.write_bytes(encode_state(state))
    code, _, err = export("--model", TOY, "--checkpoint", checkpoint, "--widths", "0.25,1")
    assert code == ExitCode.NO_ACCEPTABLE_MODEL
    one_line(err, "NaN or infinity")
    assert not out.exists()


@pytest.fixture
def plant(tmp_path, monkeypatch):
    (tmp_path / "plant_networks.py").write_text(PLANT)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path / "plant_networks.py"
    sys.modules.pop("plant_networks", None)


def test_a_network_that_the_data_steers_is_refused_with_its_line(export, out, plant):
    code, _, err = export("--model", "plant_networks:Undecided", "--input", "1,4")
    assert code == ExitCode.BAD_CONFIGURATION
    line = PLANT.splitlines().index("        if x.sum() > 0:  # the data decides") + 1
    one_line(err, f"plant_networks.py:{line}")
    assert not out.exists()


def test_a_network_of_several_inputs_is_exported_calibrated_and_checked(export, out, plant):
    rng = np.random.default_rng(0)
    data = plant.with_name("own.npz")
    x, tokens = rng.standard_normal((80, 3)), rng.integers(0, 10, (80, 5))
    np.savez(data, x=x, x_1=tokens, y=rng.integers(0, 2, 80))
    code, _, err = export(
        *("--model", "plant_networks:TwoInputs", "--input", "1,3;1,5:int64", "--classes", "a,b"),
        *("--widths", "0.5,1", "--granules", "8,4", "--data", data, "--int8", "dynamic"),
    )
    assert code == ExitCode.DONE, err
    for row in index(out)["widths"]:
        assert row["statistics"] == "calibrated"
        found = manifest(out, row["manifest"])
        assert found.other_inputs[0].name == "input_1"
        code, said, _ = export("--check", out / row["file"], "--data", data, to=False)
        assert code == ExitCode.DONE, said
    np.savez(data, x=x, y=np.zeros(80, int))
    code, _, err = export("--check", out / row["file"], "--data", data, to=False)
    assert code == ExitCode.BAD_CONFIGURATION
    one_line(err, "no array 'x_1'; the model takes x, x_1")


@pytest.mark.parametrize(
    ("arrays", "complaint"),
    [
        ({"inputs": np.zeros((8, 4))}, "no array 'x'"),
        ({"x": np.zeros((8, 5))}, "shape (8, 5)"),
        ({"x": np.zeros((1, 4))}, "at least two"),
        ({"x": np.full((8, 4), np.nan)}, "NaN"),
        ({"x": np.array(["a", "b"])}, "no .npz of numbers"),
        (None, "no .npz of numbers"),
    ],
)
def test_calibration_samples_that_do_not_fit_are_refused(
    export, out, checkpoint, tmp_path, arrays, complaint
):
    path = tmp_path / "samples.npz"
    if arrays is None:
        path.write_bytes(b"PK\x03\x04broken")
    else:
        np.savez(path, **arrays)
    code, _, err = export("--model", TOY, "--checkpoint", checkpoint, "--calibration", path)
    assert code == ExitCode.BAD_CONFIGURATION
    one_line(err, "samples.npz", complaint)
    assert not out.exists()


def test_labels_that_the_model_lacks_are_refused(export, out, checkpoint, tmp_path):
    np.savez(tmp_path / "t.npz", x=np.zeros((4, 4)), y=np.array([0, 1, 2, 3]))
    code, _, err = export(
        *("--model", TOY, "--options", json.dumps(CLASSES), "--checkpoint", checkpoint),
        *("--data", tmp_path / "t.npz"),
    )
    assert code == ExitCode.BAD_CONFIGURATION
    one_line(err, "labels run from 0 to 3")
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--out", "o"), "--model is missing"),
        (("--model", TOY), "--out is missing"),
        (("--model", TOY, "--out", "o", "--round", "2"), "--round is of a run"),
        (("--model", "nothing", "--out", "o"), "no model 'nothing'"),
        (("--model", "torch.nn:ReLU", "--out", "o"), "give the shape of its input"),
    ],
)
def test_an_incomplete_command_says_what_is_missing(export, arguments, said):
    code, _, err = export(*arguments, to=False)
    assert code == ExitCode.BAD_CONFIGURATION
    one_line(err, said)


def test_a_damaged_template_is_made_anew_with_a_line(export, checkpoint, tmp_path, caplog):
    common = ("--model", TOY, "--checkpoint", checkpoint, "--widths", "0.5")
    cache = ("--templates", tmp_path / "templates")
    assert export(*common, *cache)[0] == ExitCode.DONE
    (template,) = (tmp_path / "templates").glob("*.template")
    sound = template.read_bytes()
    template.write_bytes(sound[:-3] + b"\x00\x00\x00")
    with caplog.at_level(logging.WARNING):
        assert export(*common, *cache)[0] == ExitCode.DONE
    (line,) = [record.getMessage() for record in caplog.records if "template" in record.name]
    assert template.name in line
    assert template.read_bytes() == sound


def test_an_altered_file_is_refused_and_both_digests_named(export, out, checkpoint):
    assert export("--model", TOY, "--checkpoint", checkpoint, "--widths", "0.5")[0] == 0
    path = out / "toy-w0.50.onnx"
    altered = bytearray(path.read_bytes())
    altered[-40] ^= 1
    path.write_bytes(altered)
    code, said, _ = export("--check", path, "--json", to=False)
    assert code == ExitCode.FAILURE
    document = json.loads(said)
    assert not document["passed"]
    (digest,) = [check for check in document["checks"] if check["name"] == "digest"]
    assert manifest(out, "toy-w0.50.manifest.json").digest[:12] in digest["detail"]
    code, said, _ = export("--check", path, to=False)
    assert said.endswith("is NOT sound: do not run it\n")


def test_measuring_a_file_needs_its_manifest(export, out, checkpoint, samples):
    assert export("--model", TOY, "--checkpoint", checkpoint, "--widths", "0.5")[0] == 0
    (out / "toy-w0.50.manifest.json").unlink()
    code, _, err = export("--check", out / "toy-w0.50.onnx", "--data", samples, to=False)
    assert code == ExitCode.FAILURE
    one_line(err, "no toy-w0.50.manifest.json beside it")
    assert export("--check", out / "toy-w0.50.onnx", to=False)[0] == ExitCode.DONE


# --- parts ----------------------------------------------------------------------------------------


def test_the_help_and_the_manifest_need_neither_torch_nor_onnx():
    code = (
        "import sys, exporter.command, exporter.errors, exporter.manifest;"
        "sys.exit(','.join({'torch', 'onnx', 'onnxruntime'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_file_names_tell_widths_apart_and_stay_in_their_folder():
    assert file_stem("cnn1d", 0.5) == "cnn1d-w0.50"
    assert file_stem("cnn1d", 0.0625) == "cnn1d-w0.0625"
    assert file_stem("cnn1d", 1 / 3) != file_stem("cnn1d", 0.33)
    assert "/" not in file_stem("../../etc/passwd", 1.0)
