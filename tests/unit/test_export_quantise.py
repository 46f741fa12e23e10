"""int8 files: what they compute, what they keep of the file they come from, what is refused."""

import logging
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from exporter.errors import ExportError, ParityError, QuantisationError
from exporter.export import export_width
from exporter.file_facts import facts_of
from exporter.preoptimised import load_level, preoptimise
from exporter.quantise import quantise_dynamic, quantise_static
from exporter.templates import TemplateCache
from profiler.facts import gather_facts
from slimmable.model import ModelInput
from tests.fakes.unscaled import random_state, unscaled

pytestmark = pytest.mark.torch

IMAGES = ModelInput((3, 8, 8))
STEPS = ModelInput((6, 8))
LARGEST = 0.03  # of the spread of the outputs: int8 has 256 values


class Pictures(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3)
        self.fc = nn.Linear(16, 5)

    def forward(self, x_BCHW):
        return self.fc(torch.relu(self.conv(x_BCHW)).mean(dim=(2, 3)))


class Sequences(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(8, 16, batch_first=True)
        self.mix = nn.Linear(16, 16)

    def forward(self, x_BTF):
        return self.mix(torch.tanh(self.rnn(x_BTF)[0]))


class NothingToMultiply(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(8))

    def forward(self, x_BTF):
        return torch.sin(x_BTF) + self.gain


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    cache = TemplateCache(tmp_path_factory.mktemp("templates"))

    def call(network, one):
        model = unscaled(network, (one,))
        return export_width(model, 1.0, random_state(model), cache, round=3).onnx

    return call


@pytest.fixture(scope="module")
def pictures(export):
    return export(Pictures(), IMAGES)


@pytest.fixture(scope="module")
def sequences(export):
    return export(Sequences(), STEPS)


def samples(one, count=48, seed=0):
    return np.random.default_rng(seed).standard_normal((count, *one.shape)).astype(np.float32)


def run(file, x):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = load_level(file)
    return onnxruntime.InferenceSession(file, options).run(None, {"input": x})[0]


def operators(file):
    return {node.op_type for node in onnx.load_from_string(file).graph.node}


def relative_error(expected, found):
    return float(np.sqrt(np.mean((expected - found) ** 2)) / np.std(expected))


@pytest.fixture(scope="module")
def variants(pictures, sequences):
    """Return every form of every file, by name."""
    made = {}
    for name, file, one in (("pictures", pictures, IMAGES), ("sequences", sequences, STEPS)):
        forms = {
            "float32": file,
            "static": quantise_static(file, [samples(one)]),
            "static-s8": quantise_static(file, [samples(one)], activation="s8", per_channel=False),
            "full-range": quantise_static(file, {"input": samples(one)}, reduce_range=False),
            "dynamic": quantise_dynamic(file),
        }
        made |= {(name, form): bytes_ for form, bytes_ in forms.items()}
        made |= {(name, f"{form}-pre"): preoptimise(bytes_) for form, bytes_ in forms.items()}
    return made


def test_every_form_computes_nearly_what_float32_computes(variants):
    """Weights of 8 bits do so only where the processor adds up without saturating."""
    flags = gather_facts().cpu_flags
    saturates = "avx2" in flags and not {"avx_vnni", "avx512_vnni"} & {*flags}
    for (name, form), file in variants.items():
        if saturates and form.startswith("full-range"):
            continue
        x = samples(IMAGES if name == "pictures" else STEPS, 7, seed=4)
        error = relative_error(run(variants[name, "float32"], x), run(file, x))
        assert error < (1e-5 if form.startswith("float32") else LARGEST), (name, form)


def test_every_form_loads_in_onnx_runtime_1_17(variants):
    for key, file in variants.items():
        read = onnx.load_from_string(file)
        versions = {entry.domain: entry.version for entry in read.opset_import}
        assert read.ir_version <= 9, key
        assert versions[""] <= 19, key
        assert set(versions) <= {"", "com.microsoft"}, key
        # 1.17 has no integer convolution with signed weights.
        assert "ConvInteger" not in operators(file), key


def test_every_form_keeps_what_the_file_says_about_itself(variants):
    encodings = {"float32": "onnx-f32", "dynamic": "onnx-int8-dynamic"}
    added = {"slimfleet.encoding", "slimfleet.optimised", "slimfleet.load"}
    for (name, form), file in variants.items():
        read, before = (onnx.load_from_string(one) for one in (file, variants[name, "float32"]))
        facts, kept = facts_of(read), facts_of(before)

        assert {key: facts[key] for key in kept if key not in added} == {
            key: text for key, text in kept.items() if key not in added
        }
        assert kept["slimfleet.round"] == "3"
        encoding = encodings.get(form.removesuffix("-pre"), "onnx-int8-static")
        assert facts["slimfleet.encoding"] == encoding
        assert ("slimfleet.optimised" in facts) == form.endswith("-pre")
        assert {entry.key for entry in read.metadata_props} == set(facts)
        assert (read.producer_name, read.graph.name) == ("slimfleet", "unscaled")


def test_weights_become_a_quarter_and_convolutions_stay_float_in_dynamic_files(variants):
    static, dynamic = variants["pictures", "static"], variants["pictures", "dynamic"]
    assert {"QuantizeLinear", "DequantizeLinear"} <= operators(static)
    assert "Conv" in operators(dynamic)
    assert "MatMulInteger" in operators(dynamic)
    assert "DynamicQuantizeLSTM" in operators(variants["sequences", "dynamic"])
    assert len(variants["sequences", "dynamic"]) < 0.6 * len(variants["sequences", "float32"])


def test_per_channel_scales_are_a_vector(variants):
    def largest_scale(file):
        graph = onnx.load_from_string(file).graph
        return max(t.dims[0] for t in graph.initializer if t.name.endswith("_scale") and t.dims)

    assert largest_scale(variants["pictures", "static"]) == 16


def test_equal_files_and_samples_give_equal_bytes(pictures, variants):
    assert quantise_static(pictures, [samples(IMAGES)]) == variants["pictures", "static"]
    assert quantise_dynamic(pictures) == variants["pictures", "dynamic"]
    assert preoptimise(pictures) == variants["pictures", "float32-pre"]


def test_nothing_is_left_behind_and_nothing_is_said(pictures, capfd, caplog):
    before = set(Path(tempfile.gettempdir()).iterdir())
    handlers = list(logging.getLogger().handlers)
    with caplog.at_level(logging.DEBUG):
        quantise_static(pictures, [samples(IMAGES)])
        quantise_dynamic(pictures)
        preoptimise(pictures)
    left = {path for path in Path(tempfile.gettempdir()).iterdir() if path not in before}

    assert not [path for path in left if "slimfleet-" in path.name or "quant" in path.name]
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
    assert logging.getLogger().handlers == handlers


def test_a_network_without_anything_to_quantise_is_refused(export):
    file = export(NothingToMultiply(), STEPS)
    with pytest.raises(QuantisationError, match=r"none of the operators .*Sin.* int8"):
        quantise_dynamic(file)


@pytest.mark.parametrize(
    ("calibration", "complaint"),
    [
        ([], "0 inputs, the file has 1"),
        ({"image": samples(IMAGES)}, r"each of the inputs \['input'\]"),
        ([samples(IMAGES)[:0]], "at least one"),
        ([np.full((4, 3, 8, 8), np.nan, dtype=np.float32)], "NaN"),
        ([samples(STEPS)], "cannot quantise"),
    ],
)
def test_calibration_samples_that_do_not_fit_are_refused(calibration, complaint, pictures):
    with pytest.raises(QuantisationError, match=complaint):
        quantise_static(pictures, calibration)


def test_an_unknown_activation_type_is_refused(pictures):
    with pytest.raises(QuantisationError, match=r"'u4'.*'s8', 'u8'"):
        quantise_static(pictures, [samples(IMAGES)], activation="u4")


@pytest.mark.parametrize("damage", [b"", b"\xff" * 64])
def test_bytes_that_are_no_onnx_file_are_refused(damage):
    with pytest.raises(ExportError):
        quantise_dynamic(damage)
    with pytest.raises(ParityError):
        preoptimise(damage)


def test_a_preoptimised_file_of_images_is_to_be_laid_out_by_the_device(variants):
    everything = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    nothing = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL

    assert load_level(variants["pictures", "float32"]) == everything
    assert load_level(variants["pictures", "float32-pre"]) == everything
    assert load_level(variants["sequences", "float32-pre"]) == nothing


def test_preoptimised_files_hold_no_nodes_of_one_processor(variants):
    for (_, form), file in variants.items():
        if form.endswith("-pre"):
            domains = {node.domain for node in onnx.load_from_string(file).graph.node}
            assert domains <= {"", "com.microsoft"}
