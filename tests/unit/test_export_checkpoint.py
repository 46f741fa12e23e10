"""The command that exports a checkpoint: files, manifests, index, and what it refuses."""

import argparse
import hashlib
import json
import logging
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime
import pytest

from broker.messages import ModelManifest
from exporter.command import add_arguments, read_checkpoint, run
from exporter.errors import CheckpointError, ParityError
from exporter.run_export import file_stem
from slimmable.evaluation import initial_state
from slimmable.models.cnn1d import cnn1d
from slimmable.spec import SpecError
from slimmable.state import encode_state
from slimmable.width import WidthError
from tests.fakes.toy_models import toy

pytestmark = pytest.mark.torch

CNN_OPTIONS = {
    "sensors": 2,
    "length": 16,
    "classes": ["calm", "broken"],
    "channels": [8, 8],
    "kernels": [3, 3],
    "granules": [1, 1],
}
ROOT = Path(__file__).parents[2]
TOY = "tests.fakes.toy_models:toy"


@pytest.fixture(scope="module")
def templates(tmp_path_factory):
    return tmp_path_factory.mktemp("templates")


@pytest.fixture
def export(tmp_path, templates):
    """Run the command with some arguments in their written form."""

    def call(state, *more, model=TOY, options=None, widths="0.5,0.25"):
        (tmp_path / "state.safetensors").write_bytes(
            state if isinstance(state, bytes) else encode_state(state)
        )
        parser = argparse.ArgumentParser()
        add_arguments(parser)
        arguments = ["--model", model, "--options", json.dumps(options or {})]
        arguments += ["--checkpoint", str(tmp_path / "state.safetensors"), "--widths", widths]
        arguments += ["--out", str(tmp_path / "out"), "--templates", str(templates), *more]
        return run(parser.parse_args(arguments))

    return call


def test_each_width_gets_a_file_and_a_manifest_and_the_index_lists_them(export, tmp_path):
    model = cnn1d(**CNN_OPTIONS)
    x = np.random.default_rng(0).standard_normal((64, 2, 16)).astype(np.float32)
    np.savez(tmp_path / "samples.npz", x=x)
    state = {**initial_state(model, 0), "norm.0.num_batches_tracked": np.array(3)}
    rows = export(
        state,
        "--calibration",
        str(tmp_path / "samples.npz"),
        "--scale",
        "g / 0.9",
        model="cnn1d",
        options=CNN_OPTIONS,
    )

    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == [
        "cnn1d-w0.25.manifest.json",
        "cnn1d-w0.25.onnx",
        "cnn1d-w0.50.manifest.json",
        "cnn1d-w0.50.onnx",
        "index.json",
    ]
    index = json.loads((out / "index.json").read_bytes())
    assert [row["width"] for row in index["widths"]] == [0.25, 0.5] == [row.width for row in rows]
    for row in rows:
        manifest = msgspec.json.decode((out / row.manifest).read_bytes(), type=ModelManifest)
        file = (out / row.file).read_bytes()
        said = onnxruntime.InferenceSession(file).run(None, {manifest.input_name: x})[0]

        assert manifest.digest == row.digest == hashlib.sha256(file).hexdigest()
        assert row.statistics == "calibrated"
        assert (manifest.scale, manifest.score_data) == ("g / 0.9", "not measured")
        np.testing.assert_array_equal(
            manifest.reference.classes, np.bincount(said.argmax(axis=1), minlength=2)
        )


def test_statistics_sliced_from_the_full_width_are_warned_of(export, caplog):
    state = initial_state(cnn1d(**CNN_OPTIONS), 0)
    with caplog.at_level(logging.WARNING, logger="exporter.run_export"):
        rows = export(state, model="cnn1d", options=CNN_OPTIONS, widths="0.5")

    assert rows[0].statistics == "sliced"
    assert "calibration" in caplog.text


def test_a_model_without_statistics_needs_no_calibration(export, caplog):
    (row,) = export(initial_state(toy(), 0), widths="0.25")
    assert row.statistics == "none"
    assert not [record for record in caplog.records if record.name.startswith("exporter")]


def test_a_checkpoint_of_another_model_writes_nothing(export, tmp_path):
    with pytest.raises(SpecError, match=r"'second\.weight' has shape \(3, 16\)"):
        export(initial_state(toy(), 0), options={"out": 5})
    assert not (tmp_path / "out").exists()


def test_one_width_that_fails_keeps_all_from_being_written(export, tmp_path):
    state = initial_state(toy(), 0)
    state["first.bias"][-1] = np.inf  # outside the narrow slice, inside the full width
    with pytest.raises(ParityError):
        export(state, widths="0.25,1.0")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("widths", ["0.5,1.5", "0", "-0.25"])
def test_a_width_outside_the_range_is_refused(export, widths):
    with pytest.raises(WidthError, match="outside"):
        export(initial_state(toy(), 0), f"--widths={widths}")


@pytest.mark.parametrize(
    "arguments", [["--widths", "wide"], ["--options", "{"], ["--options", "[1]"]]
)
def test_a_malformed_argument_is_a_usage_error(export, arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        export(initial_state(toy(), 0), *arguments)
    assert stop.value.code == 2
    assert arguments[0] in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"\x80\x04\x95 a pickle", b"PK\x03\x04" + bytes(64)])
def test_a_checkpoint_that_is_no_safetensors_file_is_never_opened_as_anything_else(
    content, tmp_path
):
    path = tmp_path / "weights.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"weights\.pt is not a safetensors file"):
        read_checkpoint(path)


def test_a_checkpoint_that_is_not_there_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere\.safetensors cannot be read"):
        read_checkpoint(tmp_path / "nowhere.safetensors")


@pytest.mark.parametrize(
    ("arrays", "complaint"),
    [
        ({"inputs": np.zeros((8, 4))}, "no array `x`"),
        ({"x": np.zeros((8, 5))}, r"shape \(8, 5\)"),
        ({"x": np.zeros((1, 4))}, "at least two"),
        ({"x": np.full((8, 4), np.nan)}, "NaN"),
        ({"x": np.array(["a", "b"])}, "no .npz of numbers"),
    ],
)
def test_calibration_samples_that_do_not_fit_are_refused(arrays, complaint, export, tmp_path):
    np.savez(tmp_path / "samples.npz", **arrays)
    with pytest.raises(CheckpointError, match=complaint):
        export(initial_state(toy(), 0), "--calibration", str(tmp_path / "samples.npz"))


def test_a_calibration_file_that_is_no_archive_is_refused(export, tmp_path):
    for content in (b"", b"text", b"PK\x03\x04broken"):
        (tmp_path / "samples.npz").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"samples\.npz"):
            export(initial_state(toy(), 0), "--calibration", str(tmp_path / "samples.npz"))


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
