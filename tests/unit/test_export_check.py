"""Verifying an exported file anywhere."""

import contextlib
import dataclasses
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from broker.manifest import InputTensor
from exporter.export_data import Labelled
from exporter.file_check import Verdict, check_file, passed
from exporter.file_subject import CheckError, Subject, open_subject
from slimfleet.commands.export import check_lines
from slimmable.onnx_header import HeaderError, read_header
from tests.fakes.toy_onnx import FEATURES, always, linear, manifest_of

ROOT = Path(__file__).parents[2]
NOTES = {"slimfleet.model": "toy", "slimfleet.width": "0.5", "slimfleet.round": "1"}


def noted(file, **changes):
    """Return the file with the notes of the exporter."""
    model = onnx.ModelProto.FromString(file)
    for key, value in {**NOTES, **{f"slimfleet.{k}": v for k, v in changes.items()}}.items():
        model.metadata_props.add(key=key, value=value)
    return model.SerializeToString()


def subject(file, **changes):
    return Subject(Path("toy.onnx"), file, manifest_of(file, **changes), "toy.manifest.json")


def write(folder, file, name="toy", **changes):
    (folder / f"{name}.onnx").write_bytes(file)
    manifest = msgspec.json.encode(manifest_of(file, **changes))
    (folder / f"{name}.manifest.json").write_bytes(manifest)
    return folder / f"{name}.onnx"


def verdicts(checks):
    return {check.name: check.verdict for check in checks}


def failures(checks):
    return {check.name: check.detail for check in checks if check.verdict is Verdict.FAILED}


@pytest.fixture
def file():
    return noted(always(1)[0])


def positive(labels):
    """Return samples in which `always(k)` sees class k, with the right answers."""
    x = np.ones((len(labels), FEATURES), np.float32)
    return Labelled((x,), np.asarray(labels), np.arange(len(labels)), "own.npz")


def test_a_sound_file_passes_every_check(tmp_path, file):
    checks = check_file(open_subject(write(tmp_path, file, score=0.75)), positive([1, 1, 1, 0]))
    assert passed(checks)
    assert verdicts(checks) == dict.fromkeys(
        ("digest", "size", "format", "metadata", "load", "inputs", "runs", "score"), Verdict.OK
    )
    assert checks[-1].detail == ("0.750 on own.npz, 4 samples; manifest 0.750 on validation")


@given(st.integers(0), st.integers(1, 255))
def test_any_altered_byte_is_noticed_and_nothing_altered_is_run(place, change):
    file = noted(always(1)[0])
    altered = bytearray(file)
    altered[place % len(file)] ^= change
    whole = dataclasses.replace(subject(file), onnx=bytes(altered))
    checks = check_file(whole)
    assert not passed(checks)
    assert whole.manifest.digest[:12] in failures(checks)["digest"]
    assert "altered" in failures(checks)["digest"]
    assert "runs" not in verdicts(checks)


@given(st.integers(0))
def test_any_cut_is_noticed(length):
    file = always(1)[0]
    cut = dataclasses.replace(subject(file), onnx=file[: length % len(file)])
    assert {"digest", "size"} <= failures(check_file(cut)).keys()


@pytest.mark.parametrize(
    ("changes", "name", "said"),
    [
        ({"digest": "0" * 64}, "digest", "000000000000"),
        ({"size": 7}, "size", "manifest 7"),
        ({"opset": 18}, "format", "opset 17, manifest 18"),
        ({"ir_version": 10}, "format", "IR 8, manifest 10"),
        ({"model": "other"}, "metadata", "model toy, manifest other"),
        ({"width": 0.25}, "metadata", "width 0.5, manifest 0.25"),
        ({"round": 2}, "metadata", "round 1, manifest 2"),
        ({"input_shape": (9,)}, "inputs", "manifest [('x', 'tensor(float)', [9])]"),
        ({"input_dtype": "int64"}, "inputs", "tensor(int64)"),
        ({"input_name": "z"}, "inputs", "'z'"),
        ({"output_name": "z"}, "inputs", "it gives ['y']"),
        (
            {"other_inputs": (InputTensor(name="b", shape=(2,), dtype="float32"),)},
            "inputs",
            "('b', 'tensor(float)', [2])",
        ),
    ],
)
def test_a_manifest_of_another_file_is_noticed(file, changes, name, said):
    checks = check_file(subject(file, **changes))
    assert list(failures(checks)) == [name]
    assert said in failures(checks)[name]


def test_a_file_without_a_manifest_is_checked_as_far_as_it_goes(tmp_path, file):
    (tmp_path / "lone.onnx").write_bytes(file)
    checks = check_file(open_subject(tmp_path / "lone.onnx"))
    assert passed(checks)
    assert verdicts(checks)["digest"] is Verdict.SKIPPED
    assert "no lone.manifest.json beside it" in checks[0].detail
    assert verdicts(checks)["runs"] is Verdict.OK


def test_a_file_in_a_devices_slot_has_its_manifest_beside_it(tmp_path, file):
    (tmp_path / "model.onnx").write_bytes(file)
    (tmp_path / "manifest.msgpack").write_bytes(msgspec.msgpack.encode(manifest_of(file)))
    found = open_subject(tmp_path / "model.onnx")
    assert found.manifest_name == "manifest.msgpack"
    assert passed(check_file(found))


@pytest.mark.parametrize("content", [b"", b"a text", b"PK\x03\x04", b"\x80\x04pickle", b"\x08"])
def test_what_is_no_onnx_file_is_said_to_be_none(content):
    checks = check_file(Subject(Path("x"), content, None, "x.manifest.json"))
    assert "no ONNX file" in failures(checks)["format"]
    assert checks[-1].name == "format"


def test_a_graph_that_the_runtime_refuses_fails(file):
    model = onnx.ModelProto.FromString(file)
    model.graph.node[0].op_type = "NoSuchOperator"
    checks = check_file(subject(model.SerializeToString()))
    assert "does not load" in failures(checks)["load"]
    assert checks[-1].name == "load"


def test_a_baked_in_batch_is_noticed():
    checks = check_file(subject(linear(np.zeros((FEATURES, 3)), batch=2)))
    assert "x has a fixed batch" in failures(checks)["inputs"]


def graph(*nodes, weights=()):
    """Return the ONNX file of nodes from x to y."""
    made = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", FEATURES])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(w), name) for name, w in weights],
    )
    opset = helper.make_opsetid("", 17)
    return helper.make_model(made, opset_imports=[opset], ir_version=8).SerializeToString()


def test_outputs_that_are_not_finite_fail():
    file = graph(helper.make_node("Log", ["x"], ["y"]))
    assert "NaN or infinity" in failures(check_file(subject(file)))["runs"]


def test_outputs_that_depend_on_the_other_samples_fail():
    # The mean over the batch: of one sample it is the sample.
    mean = helper.make_node("ReduceMean", ["x"], ["m"], axes=[0], keepdims=1)
    file = graph(mean, helper.make_node("Sub", ["x", "m"], ["y"]))
    assert "changes what it says" in failures(check_file(subject(file)))["runs"]
    # int8 that takes its ranges from the batch at hand may do so.
    assert passed(check_file(subject(file, encoding="onnx-int8-dynamic")))


def test_outputs_that_are_fewer_than_the_samples_fail():
    file = graph(helper.make_node("ReduceMean", ["x"], ["y"], axes=[0], keepdims=1))
    assert "a batch of 3 gives shape (1, 4)" in failures(check_file(subject(file)))["runs"]


def test_a_score_lower_than_chance_explains_fails():
    file, _ = always(1)
    good, bad = positive([1] * 90 + [0] * 10), positive([1] * 50 + [0] * 50)
    assert passed(check_file(subject(file), good))
    checks = check_file(subject(file), bad)
    assert "0.500 on own.npz" in failures(checks)["score"]
    assert "lower than by chance" in failures(checks)["score"]
    # Better is no fault.
    assert passed(check_file(subject(file), positive([1] * 100)))


def test_a_manifest_without_a_score_is_no_fault():
    file, _ = always(1)
    checks = check_file(subject(file, score=0.0, score_data="not measured"), positive([0, 1]))
    assert passed(checks)
    assert checks[-1].detail == "0.500 on own.npz, 2 samples; the manifest has none"


def test_unreadable_files_are_named(tmp_path, file):
    with pytest.raises(CheckError, match=r"gone\.onnx cannot be read"):
        open_subject(tmp_path / "gone.onnx")
    path = write(tmp_path, file)
    for content in (b"{", b"[]", b"\xff"):
        (tmp_path / "toy.manifest.json").write_bytes(content)
        with pytest.raises(CheckError, match=r"toy\.manifest\.json is no manifest"):
            open_subject(path)


def test_the_table_of_checks_fits_a_terminal(file):
    checks = check_file(dataclasses.replace(subject(file), onnx=file + noted(b"", scale="")))
    lines = check_lines(checks)
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("digest    FAILED  the file has ")
    assert all(line.startswith((*(check.name for check in checks), "   ")) for line in lines)


def test_checking_needs_neither_torch_nor_onnx(tmp_path, file):
    path = write(tmp_path, file)
    np.savez(tmp_path / "own.npz", x=np.ones((4, FEATURES)), y=np.ones(4, int))
    code = (
        "import sys; from slimfleet.cli import main; code = main(sys.argv[1:]);"
        "sys.exit(','.join({'torch', 'onnx', 'onnxscript'} & set(sys.modules)) or code)"
    )
    arguments = ["export", "--check", str(path), "--data", str(tmp_path / "own.npz")]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(f"{path} is sound\n")


# --- the head of a file ---------------------------------------------------------------------------


def test_the_head_is_read_as_onnx_reads_it():
    model = onnx.ModelProto.FromString(noted(linear(np.zeros((4, 3))), classes='["größer"]'))
    model.opset_import.add(domain="com.microsoft", version=1)
    model.producer_name, model.model_version = "slimfleet", 1 << 60
    header = read_header(model.SerializeToString())
    assert header.ir_version == model.ir_version
    assert header.opsets == {one.domain: one.version for one in model.opset_import}
    assert header.producer == "slimfleet"
    assert header.metadata == {one.key: one.value for one in model.metadata_props}
    assert header.metadata["slimfleet.classes"] == '["größer"]'


@given(st.dictionaries(st.text(max_size=20), st.text(max_size=200), max_size=5))
def test_any_notes_come_back(notes):
    model = onnx.ModelProto.FromString(always(0)[0])
    for key, value in notes.items():
        model.metadata_props.add(key=key, value=value)
    assert read_header(model.SerializeToString()).metadata == notes


@given(st.binary(max_size=60))
def test_no_bytes_do_anything_but_parse_or_be_refused(content):
    with contextlib.suppress(HeaderError):
        assert read_header(content).ir_version
