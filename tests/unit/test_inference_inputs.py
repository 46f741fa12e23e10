import contextlib
import gc
import logging
import os
import re
import subprocess
import sys
import time
import weakref
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import edge_agent
from edge_agent import (
    ClosedError,
    InputError,
    ModelFileError,
    NoModelError,
    Predictor,
)
from edge_agent.runtime import load_model
from edge_agent.slots import ModelSlots
from edge_agent.stored_model import STATE_FILE
from slimmable.onnx_header import HeaderError, read_header
from slimmable.samples import Samples
from tests.fakes.multi_onnx import WORDS, expected, export_to, two_inputs, with_facts
from tests.fakes.toy_onnx import FEATURES, always, linear, manifest_of

ROOT = Path(__file__).parents[2]
ONES = np.ones((5, FEATURES), dtype=np.float32)
STANDING = {"slimfleet.optimised": "extended", "slimfleet.load": "as-it-stands"}


def deploy(folder, pair, counter):
    onnx, manifest = pair
    slots = ModelSlots(folder)
    slots.install(manifest, onnx, counter)
    slots.activate(manifest.digest, counter)
    slots.confirm()


def feed_of(samples, seed=0):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, WORDS, (samples, 3))
    return {
        "input": tokens,
        "input_1": rng.standard_normal((samples, 4)).astype(np.float32),
    }


@pytest.fixture
def two(tmp_path):
    return Predictor(export_to(tmp_path, "two", *two_inputs()))


# --- several inputs and outputs -------------------------------------------------------------------


def test_a_model_of_two_inputs_and_two_outputs_answers_by_name(two):
    feed = feed_of(4)
    y, z = expected(feed["input"], feed["input_1"])
    assert np.allclose(two.outputs(feed), y)
    found = two.all_outputs(feed)
    assert list(found) == ["output", "output_1"]
    assert np.allclose(found["output"], y)
    assert np.allclose(found["output_1"], z)
    assert two.predict(feed).label.tolist() == y.argmax(axis=1).tolist()
    p50, p95 = two.measure_latency(feed, calls=3)
    assert 0 < p50 <= p95


@given(samples=st.integers(1, 20), batch=st.integers(1, 7), seed=st.integers(0, 3))
def test_the_batch_size_changes_no_answer(tmp_path_factory, samples, batch, seed):
    onnx, manifest = two_inputs()
    loaded = load_model(onnx, manifest, batch=batch)
    feed = feed_of(samples, seed)
    y, z = expected(feed["input"], feed["input_1"])
    found = loaded.all_outputs(loaded.feed(feed))
    assert np.allclose(found["output"], y)
    assert np.allclose(found["output_1"], z)


@pytest.mark.parametrize(
    ("change", "advice"),
    [
        (lambda f: f["input"], "several inputs; give a dict of 'input': int64 of shape"),
        (lambda f: {"input": f["input"]}, r"inputs \['input'\] do not fit; give a dict"),
        (lambda f: {**f, "mask": f["input"]}, r"\['input', 'input_1', 'mask'\] do not fit"),
        (lambda f: {**f, "input": f["input"].astype(np.float32)}, r"'input' is float32.*int64"),
        (lambda f: {**f, "input_1": f["input_1"][:1]}, "differ in their number of samples"),
        (lambda f: {**f, "input_1": f["input_1"] * np.float32(np.nan)}, "'input_1' sample 0 holds"),
        (lambda f: {**f, "input_1": [1.0]}, "'input_1' is list"),
        (lambda f: {**f, "input": f["input"][0]}, "'input' of shape .* is one sample"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_by_name(two, change, advice):
    with pytest.raises(InputError, match=advice):
        two.outputs(change(feed_of(2)))


def test_a_model_of_one_input_takes_a_dict_too(tmp_path):
    predictor = Predictor(export_to(tmp_path, "toy", *always(1)))
    assert predictor.predict({"x": ONES}).label.tolist() == [1] * 5
    assert list(predictor.all_outputs(ONES)) == ["y"]


@pytest.mark.parametrize(
    "changes",
    [
        {"other_inputs": ()},
        {"input_dtype": "float32"},
        {"input_dtype": "float16"},
        {"other_outputs": ("output_2",)},
        {"payload": "tflite"},
    ],
)
def test_a_file_of_several_inputs_that_differs_from_its_manifest_is_not_loaded(changes):
    with pytest.raises(ModelFileError, match="export it again|update slimfleet"):
        load_model(*two_inputs(**changes))


def test_samples_of_a_reader_become_the_whole_numbers_that_the_model_takes():
    onnx, manifest = two_inputs()
    loaded = load_model(onnx, manifest)
    assert loaded.converted(np.array([[1.0, 2.0, 6.0]], np.float32)).dtype == np.int64
    with pytest.raises(InputError, match="not whole numbers"):
        loaded.converted(np.array([[0.5, 2.0, 6.0]], np.float32))


# --- an answer says who gave it -------------------------------------------------------------------


def test_an_answer_names_the_model_and_the_classes(tmp_path):
    onnx, manifest = always(2)
    prediction = Predictor(export_to(tmp_path, "toy", onnx, manifest)).predict(ONES[:2])
    assert prediction.model.digest == manifest.digest
    assert (prediction.model.width, prediction.model.round) == (0.5, 1)
    assert prediction.names == ["run", "run"]


def test_a_task_without_classes_has_no_names(tmp_path):
    onnx = linear(np.eye(FEATURES))
    manifest = manifest_of(onnx, classes=(), task="regression")
    prediction = Predictor(export_to(tmp_path, "toy", onnx, manifest)).predict(ONES[:2])
    assert prediction.names == ["", ""]


def test_what_a_program_needs_comes_from_the_package():
    for name in edge_agent.__all__:
        assert getattr(edge_agent, name).__name__ == name
    with pytest.raises(AttributeError):
        _ = edge_agent.Nothing


# --- where the model comes from -------------------------------------------------------------------


def test_a_folder_with_one_exported_file_is_that_model(tmp_path):
    export_to(tmp_path, "toy-w0.50", *always(1))
    assert Predictor(tmp_path).predict(ONES[:1]).label[0] == 1


def test_a_folder_with_several_exported_files_asks_for_one_of_them(tmp_path):
    export_to(tmp_path, "toy-w0.50", *always(1))
    export_to(tmp_path, "toy-w1.00", *always(2))
    with pytest.raises(ModelFileError, match=r"name one: toy-w0.50.onnx, toy-w1.00.onnx"):
        Predictor(tmp_path)
    assert Predictor(tmp_path / "toy-w1.00.onnx").predict(ONES[:1]).label[0] == 2


@pytest.mark.parametrize("absent", ["toy.onnx", "toy.manifest.json"])
def test_an_exported_file_that_is_not_whole_is_refused(tmp_path, absent):
    file = export_to(tmp_path, "toy", *always(1))
    (tmp_path / absent).unlink()
    with pytest.raises(ModelFileError, match="cannot be read"):
        Predictor(file)


def test_a_manifest_that_is_none_is_refused(tmp_path):
    file = export_to(tmp_path, "toy", *always(1))
    (tmp_path / "toy.manifest.json").write_text("{}")
    with pytest.raises(ModelFileError, match="ModelManifest"):
        Predictor(file)


def test_a_file_that_is_exported_again_is_taken_over(tmp_path):
    file = export_to(tmp_path, "toy", *always(1))
    predictor = Predictor(file, auto_reload=True)
    assert predictor.predict(ONES[:1]).label[0] == 1
    export_to(tmp_path, "toy", *always(2, strength=7.0))
    assert predictor.predict(ONES[:1]).label[0] == 2


def test_an_agent_that_begins_after_the_program_is_found(tmp_path):
    predictor = Predictor(tmp_path / "agent", auto_reload=True)
    with pytest.raises(NoModelError):
        predictor.predict(ONES)
    deploy(tmp_path / "agent" / "slots", always(1), 1)
    assert predictor.predict(ONES).label[0] == 1


# --- a file that says how it is to be loaded ------------------------------------------------------


@pytest.fixture
def levels(monkeypatch):
    """The optimisation levels that sessions were opened with."""
    import onnxruntime

    seen, whole = [], onnxruntime.InferenceSession

    def opened(source, options, providers):
        seen.append(options.graph_optimization_level)
        return whole(source, options, providers=providers)

    monkeypatch.setattr(onnxruntime, "InferenceSession", opened)
    return seen


@pytest.mark.parametrize("payload", ["onnx", "onnx-preoptimised"])
@pytest.mark.parametrize("load", ["as-it-stands", "optimising"])
def test_a_preoptimised_file_is_loaded_as_it_says(tmp_path, levels, payload, load):
    from onnxruntime import GraphOptimizationLevel as Level

    facts = {**STANDING, "slimfleet.load": load}
    onnx, digest = with_facts(always(1)[0], facts)
    manifest = manifest_of(onnx, payload=payload)
    predictor = Predictor(export_to(tmp_path, "toy", onnx, manifest))
    assert predictor.digest == digest
    assert predictor.predict(ONES).label[0] == 1
    assert levels == [Level.ORT_DISABLE_ALL if load == "as-it-stands" else Level.ORT_ENABLE_ALL]


def test_a_preoptimised_file_that_does_not_load_asks_for_the_plain_one():
    from onnx import ModelProto

    model = ModelProto.FromString(with_facts(always(1)[0], STANDING)[0])
    model.graph.node[0].domain = "com.microsoft.nchwc"
    onnx = model.SerializeToString()
    with pytest.raises(ModelFileError, match="deploy the file that was not optimised"):
        load_model(onnx, manifest_of(onnx))


def test_a_file_stamped_with_another_width_spec_is_not_loaded():
    onnx, _ = with_facts(always(1)[0], {"slimfleet.spec_hash": "f" * 64})
    with pytest.raises(ModelFileError, match="stamped with the width spec ffffffffffff"):
        load_model(onnx, manifest_of(onnx))


def test_the_head_is_read_from_a_path_as_from_the_bytes(tmp_path):
    onnx, _ = with_facts(linear(np.ones((300, 300))), {"a": "b", "ä": "", "": "x" * 300})
    (tmp_path / "m.onnx").write_bytes(onnx)
    header = read_header(tmp_path / "m.onnx")
    assert header == read_header(onnx)
    assert header.metadata == {"a": "b", "ä": "", "": "x" * 300}


@given(st.binary(max_size=200), st.integers(0, 400))
def test_a_file_cut_off_anywhere_is_refused_by_its_head_or_read(noise, cut):
    with contextlib.suppress(HeaderError):
        assert read_header(with_facts(always(1)[0], STANDING)[0][:cut] + noise).opsets


# --- taking over, and ending ----------------------------------------------------------------------


def test_a_new_model_is_taken_over_at_the_next_call(tmp_path):
    deploy(tmp_path, always(1), 1)
    predictor = Predictor(tmp_path, auto_reload=True)
    for counter in range(2, 8):
        deploy(tmp_path, always(counter % 3), counter)
        assert predictor.predict(ONES).label[0] == counter % 3
    ModelSlots(tmp_path).remove(9)
    with pytest.raises(NoModelError):
        predictor.predict(ONES)


def test_two_deployments_within_one_tick_of_the_clock_are_told_apart(tmp_path):
    state, kept = tmp_path / STATE_FILE, tmp_path / "kept"
    deploy(tmp_path, always(0), 1)
    deploy(tmp_path, always(1), 2)
    just_now = time.time_ns() + 10**10  # however slow this machine is
    os.utime(state, ns=(just_now, just_now))
    predictor = Predictor(tmp_path)
    seen = state.stat()
    os.link(state, kept)
    deploy(tmp_path, always(2), 3)
    # An inode that is used again within one tick looks like this.
    with kept.open("r+b") as file:
        file.write(state.read_bytes())
    kept.replace(state)
    os.utime(state, ns=(just_now, just_now))
    found = state.stat()
    assert (found.st_ino, found.st_size) == (seen.st_ino, seen.st_size)
    assert predictor.reload_if_changed()
    assert predictor.predict(ONES).label[0] == 2


def test_a_new_model_that_cannot_be_run_is_logged_once_and_the_old_one_goes_on(tmp_path, caplog):
    deploy(tmp_path, always(1), 1)
    predictor = Predictor(tmp_path, auto_reload=True)
    deploy(tmp_path, (b"no model", manifest_of(b"no model")), 2)
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            assert predictor.predict(ONES).label[0] == 1
    assert caplog.text.count("the model before goes on") == 1
    deploy(tmp_path, always(2), 3)
    assert predictor.predict(ONES).label[0] == 2


def test_a_first_model_that_cannot_be_run_is_what_every_call_says(tmp_path):
    predictor = Predictor(tmp_path, auto_reload=True)
    deploy(tmp_path, (b"no model", manifest_of(b"no model")), 1)
    for _ in range(2):
        with pytest.raises(ModelFileError, match="cannot load model"):
            predictor.predict(ONES)


def test_a_closed_predictor_gives_the_model_back_and_says_so(tmp_path):
    deploy(tmp_path, always(1), 1)
    with Predictor(tmp_path, auto_reload=True) as predictor:
        assert predictor.predict(ONES).label[0] == 1
        session = weakref.ref(predictor._loaded.session)
    gc.collect()
    assert session() is None
    for call in (lambda: predictor.predict(ONES), predictor.reload_if_changed):
        with pytest.raises(ClosedError, match="make a new one"):
            call()
    deploy(tmp_path, always(2), 2)
    with pytest.raises(ClosedError):
        predictor.predict(ONES)
    predictor.close()


def test_the_old_model_is_freed_once_another_has_taken_over(tmp_path):
    deploy(tmp_path, always(1), 1)
    predictor = Predictor(tmp_path)
    old = weakref.ref(predictor._loaded.session)
    deploy(tmp_path, (b"no model", manifest_of(b"no model")), 2)
    with pytest.raises(ModelFileError):
        predictor.reload_if_changed()
    deploy(tmp_path, always(2), 3)
    assert predictor.reload_if_changed()
    gc.collect()
    assert old() is None


def test_a_model_answers_once_with_each_batch_size_before_it_is_taken_over(tmp_path, monkeypatch):
    import onnxruntime

    seen, run = [], onnxruntime.InferenceSession.run

    def counted(session, names, feed):
        seen.append(len(feed["x"]))
        return run(session, names, feed)

    monkeypatch.setattr(onnxruntime.InferenceSession, "run", counted)
    file = export_to(tmp_path, "toy", *always(1))
    Predictor(file, warm_up=(1, 16))
    assert seen == [1, 16]
    seen.clear()
    Predictor(file, warm_up=()).outputs(ONES)
    assert seen == [5]
    seen.clear()
    Predictor(file, warm_up=(), batch_size=2).outputs(ONES)
    assert seen == [2, 2, 1]


@pytest.mark.parametrize("settings", [{"threads": 0}, {"batch_size": 0}, {"warm_up": (1, 0)}])
def test_settings_below_one_are_refused(tmp_path, settings):
    with pytest.raises(ValueError, match="at least 1"):
        Predictor(tmp_path, **settings)


def test_threads_and_spinning_reach_the_runtime(tmp_path):
    file = export_to(tmp_path, "toy", *always(1))
    for threads, spinning in ((1, False), (2, True)):
        predictor = Predictor(file, threads=threads, spinning=spinning)
        options = predictor._loaded.session.get_session_options()
        assert options.intra_op_num_threads == threads
        assert predictor.predict(ONES).label[0] == 1


def test_measuring_converts_what_a_reader_gave(tmp_path):
    onnx, manifest = two_inputs()
    loaded = load_model(onnx, manifest)
    assert set(loaded.zeros(2)) == {"input", "input_1"}
    predictor = Predictor(export_to(tmp_path, "toy", *always(1)))
    samples = Samples(np.asfortranarray(ONES), np.ones(5, np.int64), np.arange(5))
    assert predictor.measure(samples).score == 1.0


# --- starting fast --------------------------------------------------------------------------------


def test_a_first_answer_imports_only_what_it_needs(tmp_path):
    deploy(tmp_path / "agent", always(1), 1)
    program = (
        "import sys; import numpy as np; import onnxruntime; before = set(sys.modules);"
        "from edge_agent import Predictor;"
        f"p = Predictor({str(tmp_path / 'agent')!r});"
        "assert p.predict(np.ones((1, 4), np.float32)).label[0] == 1;"
        "print(*sorted({n.partition('.')[0] for n in set(sys.modules) - before}))"
    )
    # -S: without the finder of an editable install, which imports pathlib and more itself.
    done = subprocess.run(
        [sys.executable, "-S", "-c", program],
        cwd=ROOT,
        env={"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=True,
    )
    found = set(done.stdout.split())
    slow = {"asyncio", "cryptography", "hashlib", "logging", "paho", "pathlib", "psutil"}
    assert not found & (slow | {"safetensors", "secrets", "shutil", "socket", "dataclasses"})
    assert {"edge_agent", "msgspec"} <= found


def test_the_page_about_inference_works_as_written(tmp_path, monkeypatch, capsys):
    page = (ROOT / "docs" / "inference.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    deploy(tmp_path / "agent" / "slots", always(1), 1)
    monkeypatch.chdir(tmp_path)
    exec(compile("\n".join(blocks), "inference.md", "exec"), {})  # noqa: S102 - our own page
    assert capsys.readouterr().out.startswith("walk 1.00\nwalk 1.00\ntoy 0.5 1 ")


def test_the_manifest_of_an_export_is_the_manifest_of_the_answer(tmp_path):
    onnx, manifest = always(1)
    predictor = Predictor(export_to(tmp_path, "toy", onnx, manifest))
    assert predictor.manifest == predictor.require_model() == manifest
    assert msgspec.json.decode((tmp_path / "toy.manifest.json").read_bytes())["width"] == 0.5
