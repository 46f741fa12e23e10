"""One width becomes one ONNX file that computes what torch computes."""

import json
import logging
from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest

from broker.messages import ModelManifest
from exporter.errors import ParityError
from exporter.export import export_width
from exporter.manifest import manifest_for
from exporter.templates import TemplateCache
from slimmable.evaluation import calibrated_slices, initial_state, outputs
from slimmable.models.cnn1d import cnn1d
from slimmable.slicing import slice_state
from slimmable.spec import SpecError
from slimmable.task import Reference
from tests.fakes.toy_models import ToyNetwork, toy

pytestmark = pytest.mark.torch

WIDTHS = (0.0625, 0.5, 1.0)
CLASSES = ("lift", "läuft", "stop")
EXACT = 1e-5


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return TemplateCache(tmp_path_factory.mktemp("templates"))


@pytest.fixture(scope="module")
def model():
    return cnn1d(sensors=6, length=40, classes=CLASSES)


@pytest.fixture(scope="module")
def slices(model):
    """Return, per width, random weights with calibrated statistics."""
    rng = np.random.default_rng(2)
    full = {
        name: (array + 0.2 * rng.standard_normal(array.shape)).astype(np.float32)
        for name, array in initial_state(model, 0).items()
    }
    x = rng.standard_normal((256, 6, 40)).astype(np.float32) * 2 + 1
    return calibrated_slices(model, full, WIDTHS, x)


@pytest.fixture(scope="module")
def exported(model, slices, cache):
    return {
        width: export_width(
            model,
            width,
            slices[width],
            cache,
            round=7,
            scale="g / 0.9",
            run="plant",
            weights="ab12",
        )
        for width in WIDTHS
    }


def run(file, x):
    return onnxruntime.InferenceSession(file.onnx).run([file.output_name], {file.input_name: x})[0]


@pytest.mark.parametrize("width", WIDTHS)
def test_every_width_computes_what_torch_computes_at_any_batch_size(width, model, slices, exported):
    assert exported[width].parity <= EXACT
    for batch in (1, 3, 64):
        x = np.random.default_rng(batch).standard_normal((batch, 6, 40)).astype(np.float32)
        expected = outputs(model, width, slices[width], x)
        found = run(exported[width], x)

        assert np.abs(found - expected).max() <= EXACT
        np.testing.assert_array_equal(found.argmax(axis=1), expected.argmax(axis=1))


def test_batch_norms_are_folded_into_their_convolutions(exported):
    graph = onnx.load_from_string(exported[0.5].onnx).graph
    operators = Counter(node.op_type for node in graph.node)

    assert operators["Conv"] == 3
    assert not {"BatchNormalization", "Shape", "Expand", "CastLike"} & set(operators)
    assert sum(operators.values()) <= 10


def test_the_file_loads_in_old_runtimes(exported):
    read = onnx.load_from_string(exported[1.0].onnx)
    onnx.checker.check_model(read, full_check=True)

    # ONNX Runtime 1.17 refuses IR version 10, which belongs to opset 21.
    assert (read.ir_version, [entry.version for entry in read.opset_import]) == (8, [18])
    assert [entry.domain for entry in read.opset_import] == [""]
    assert (exported[1.0].ir_version, exported[1.0].opset) == (8, 18)


def test_the_file_says_what_it_is_and_nothing_about_the_machine_that_made_it(model, exported):
    read = onnx.load_from_string(exported[0.5].onnx)
    facts = {entry.key: entry.value for entry in read.metadata_props}

    assert facts == {
        "slimfleet.model": "cnn1d",
        "slimfleet.width": "0.5",
        "slimfleet.spec_hash": model.spec.spec_hash,
        "slimfleet.round": "7",
        "slimfleet.task": "classification",
        "slimfleet.classes": json.dumps(CLASSES, ensure_ascii=False),
        "slimfleet.scale": "g / 0.9",
        "slimfleet.run": "plant",
        "slimfleet.weights": "ab12",
        "slimfleet.encoding": "onnx-f32",
    }
    assert b".py" not in exported[0.5].onnx


def test_the_manifest_describes_the_file_that_a_device_opens(model, exported):
    manifest = manifest_for(
        exported[0.5],
        model,
        round=7,
        score=0.75,
        score_data="person 9",
        reference=Reference((1, 2, 3), (0,) * 9 + (6,)),
    )
    session = onnxruntime.InferenceSession(exported[0.5].onnx)

    assert isinstance(manifest, ModelManifest)
    assert [entry.name for entry in session.get_inputs()] == [manifest.input_name]
    assert session.get_inputs()[0].shape == ["batch", *manifest.input_shape]
    assert [entry.name for entry in session.get_outputs()] == [manifest.output_name]
    assert (manifest.width, manifest.round, manifest.scale) == (0.5, 7, "g / 0.9")
    assert (manifest.digest, manifest.size) == (exported[0.5].digest, len(exported[0.5].onnx))
    assert (manifest.classes, manifest.reference.classes) == (CLASSES, (1, 2, 3))


def test_a_manifest_of_another_round_than_its_file_is_refused(model, exported):
    with pytest.raises(ValueError, match="round 7"):
        manifest_for(
            exported[0.5], model, round=8, score=0.0, score_data="", reference=Reference((), ())
        )


def test_equal_weights_give_equal_bytes_whether_the_template_is_new_or_kept(
    model, slices, exported, tmp_path
):
    for cache in (TemplateCache(tmp_path), TemplateCache(tmp_path)):
        again = export_width(
            model, 0.5, slices[0.5], cache, round=7, scale="g / 0.9", run="plant", weights="ab12"
        )
        assert again.onnx == exported[0.5].onnx


def test_a_state_of_another_width_is_refused(model, slices, cache):
    with pytest.raises(SpecError, match=r"width 0\.5 needs"):
        export_width(model, 0.5, slices[1.0], cache)


def test_a_state_that_lacks_a_tensor_is_refused(model, slices, cache):
    lacking = {name: a for name, a in slices[0.5].items() if name != "norm.1.running_var"}
    with pytest.raises(SpecError, match=r"norm\.1\.running_var"):
        export_width(model, 0.5, lacking, cache)


def test_weights_with_nan_are_not_released(model, slices, cache):
    broken = {**slices[0.5], "head.bias": np.full(3, np.nan, dtype=np.float32)}
    with pytest.raises(ParityError, match="NaN"):
        export_width(model, 0.5, broken, cache)


@pytest.mark.parametrize(("kind", "out"), [("regression", 3), ("reconstruction", 4)])
def test_models_without_classes_and_without_statistics_are_exported(kind, out, cache):
    toy_model = toy(kind=kind, out=out)
    state = slice_state(initial_state(toy_model, 1), toy_model.spec, 0.25)
    file = export_width(toy_model, 0.25, state, cache)
    x = np.random.default_rng(5).standard_normal((9, 4)).astype(np.float32)

    np.testing.assert_allclose(run(file, x), outputs(toy_model, 0.25, state, x), atol=EXACT)
    manifest = manifest_for(
        file, toy_model, round=0, score=0.1, score_data="none", reference=Reference((9,), (9,))
    )
    assert (manifest.task, manifest.classes) == (kind, ())


def test_a_template_of_older_code_is_found_out_and_traced_anew(monkeypatch, tmp_path, caplog):
    toy_model = toy()
    state = initial_state(toy_model, 3)
    cache = TemplateCache(tmp_path)
    before = export_width(toy_model, 1.0, state, cache)
    monkeypatch.setattr(ToyNetwork, "gain", 2.0)

    with caplog.at_level(logging.WARNING, logger="exporter.export"):
        after = export_width(toy_model, 1.0, state, cache)

    assert "out of date" in caplog.text
    assert after.onnx != before.onnx
    x = np.ones((1, 4), dtype=np.float32)
    np.testing.assert_allclose(run(after, x) - 0.5, 2 * (run(before, x) - 0.5), atol=EXACT)
