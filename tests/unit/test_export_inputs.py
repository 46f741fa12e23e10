"""Networks with several inputs and outputs, tokens, tied weights, constants and odd names."""

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from broker.messages import InputTensor, ModelManifest
from exporter.errors import ParityError, TemplateError
from exporter.export import export_width
from exporter.manifest import manifest_for
from exporter.parity import check_parity
from exporter.templates import TemplateCache
from slimmable.model import ModelInput
from slimmable.task import Reference
from tests.fakes.unscaled import FLOATS, TOKENS, random_state, torch_says, unscaled

pytestmark = pytest.mark.torch

CLOSE = 1e-5


class Wired(nn.Module):
    """Any parts, joined by a function."""

    def __init__(self, function, **parts) -> None:
        super().__init__()
        for name, part in parts.items():
            if isinstance(part, nn.Parameter | nn.Module):
                setattr(self, name, part)
            else:
                self.register_buffer(name, part, persistent=part.is_floating_point())
        self.function = function

    def forward(self, *inputs):
        return self.function(self, *inputs)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return TemplateCache(tmp_path_factory.mktemp("templates"))


@pytest.fixture
def export(cache):
    """Export a model; return the file and its weights."""

    def call(model, seed=0):
        state = random_state(model, seed)
        return export_width(model, 1.0, state, cache), state

    return call


def samples(model, batch, seed=7):
    rng = np.random.default_rng(seed)
    return [
        rng.integers(0, 2, (batch, *one.shape))
        if one.dtype == "int64"
        else rng.standard_normal((batch, *one.shape)).astype(np.float32)
        for one in model.inputs
    ]


def assert_same_as_torch(file, model, state):
    session = onnxruntime.InferenceSession(file.onnx)
    for batch in (1, 2, 5):
        arrays = samples(model, batch)
        found = session.run(list(file.outputs), dict(zip(file.inputs, arrays, strict=True)))
        for one, its in zip(torch_says(model, state, *arrays), found, strict=True):
            np.testing.assert_allclose(its, one, atol=CLOSE)


def two_inputs():
    def forward(self, x_BF, tokens_BT):
        return self.mix(x_BF) + self.words(tokens_BT).mean(dim=1)

    network = Wired(forward, mix=nn.Linear(4, 3), words=nn.Embedding(9, 3))
    return unscaled(network, (FLOATS, TOKENS))


def two_heads():
    def forward(self, x_BF):
        hidden_BH = torch.relu(self.trunk(x_BF))
        return self.left(hidden_BH), (self.right(hidden_BH), hidden_BH.sum(dim=1))

    parts = {"trunk": nn.Linear(4, 6), "left": nn.Linear(6, 3), "right": nn.Linear(6, 2)}
    return unscaled(Wired(forward, **parts), classes=("a", "b", "c"))


def tied():
    def forward(self, tokens_BT):
        return self.head(torch.tanh(self.words(tokens_BT)))

    network = Wired(forward, words=nn.Embedding(9, 6), head=nn.Linear(6, 9, bias=False))
    network.head.weight = network.words.weight
    return unscaled(network, (TOKENS,), aliases={"head.weight": "words.weight"})


def test_a_network_of_two_inputs_takes_both_at_any_batch_size(export):
    model = two_inputs()
    file, state = export(model)

    assert (file.inputs, file.outputs) == (("input", "input_1"), ("output",))
    assert_same_as_torch(file, model, state)


def test_all_outputs_of_a_network_are_in_the_file_in_their_order(export):
    model = two_heads()
    file, state = export(model)

    assert file.outputs == ("output", "output_1", "output_2")
    assert_same_as_torch(file, model, state)


def test_the_manifest_names_all_inputs_and_outputs(export):
    model = two_inputs()
    file, _ = export(model)
    manifest = manifest_for(
        file, model, round=0, score=0.0, score_data="", reference=Reference((), ())
    )

    assert (manifest.input_name, manifest.input_dtype) == ("input", "float32")
    assert manifest.other_inputs == (InputTensor(name="input_1", shape=(5,), dtype="int64"),)
    assert manifest.other_outputs == ()
    assert msgspec.json.decode(msgspec.json.encode(manifest), type=ModelManifest) == manifest

    heads, model = export(two_heads())[0], two_heads()
    manifest = manifest_for(
        heads, model, round=0, score=0.0, score_data="", reference=Reference((), ())
    )
    assert manifest.other_outputs == ("output_1", "output_2")


def test_tokens_alone_are_an_input_and_tied_weights_are_in_the_file_once(export):
    model = tied()
    file, state = export(model)
    graph = onnx.load_from_string(file.onnx).graph

    assert_same_as_torch(file, model, state)
    readers = [node for node in graph.node if "words.weight" in node.input]
    assert sum(tensor.name == "words.weight" for tensor in graph.initializer) == 1
    assert "head.weight" not in {tensor.name for tensor in graph.initializer}
    assert readers


def test_a_difference_in_the_second_output_alone_is_noticed(export):
    model = two_heads()
    file, state = export(model)
    network = model.build(1.0).eval()
    network.load_state_dict({key: torch.tensor(a) for key, a in state.items()})
    with torch.no_grad():
        network.right.bias += 0.01

    with pytest.raises(ParityError, match="output 1"):
        check_parity(file.onnx, network, model)


def test_constants_of_the_network_stay_and_are_no_part_of_the_state(export):
    def forward(self, tokens_BT):
        return self.words(tokens_BT[:, self.order]) * self.scale + torch.arange(3.0)

    parts = {"order": torch.tensor([4, 0, 2]), "words": nn.Embedding(9, 3)}
    network = Wired(forward, **parts, scale=torch.tensor([0.5, 2.0, -1.0]))
    model = unscaled(network, (TOKENS,))
    file, state = export(model)

    assert set(model.spec.tensors) == {"words.weight", "scale"}
    assert_same_as_torch(file, model, state)


def test_networks_that_differ_in_a_constant_alone_have_their_own_templates(cache):
    def forward(self, x_BF):
        return self.fc(x_BF)[:, self.order]

    models = [
        unscaled(Wired(forward, fc=nn.Linear(4, 3), order=torch.tensor(order)))
        for order in ([0, 1, 2], [2, 1, 0])
    ]
    assert models[0].spec.spec_hash == models[1].spec.spec_hash
    paths = {cache.path(model, 1.0, model.build(1.0)) for model in models}
    assert len(paths) == 2


def test_a_buffer_may_be_called_as_an_operation_is(export):
    def forward(self, x_BF):
        return self.fc(x_BF - self.mean).mean(dim=1, keepdim=True)

    model = unscaled(Wired(forward, fc=nn.Linear(4, 3), mean=torch.zeros(1, 4)))
    file, state = export(model)
    assert_same_as_torch(file, model, state)


def test_scalar_parameters_are_injected(export):
    def forward(self, x_BF):
        return x_BF * self.gain

    model = unscaled(Wired(forward, gain=nn.Parameter(torch.tensor(2.0))))
    file, state = export(model)
    assert model.spec.shape("gain", 1.0) == ()
    assert_same_as_torch(file, model, state)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_networks_are_exported(kind, export):
    def forward(self, x_BTF):
        return self.rnn(x_BTF)[0][:, -1]

    rnn = kind(3, 6, batch_first=True, bidirectional=kind is nn.GRU)
    model = unscaled(Wired(forward, rnn=rnn), (ModelInput((5, 3)),))
    file, state = export(model)
    assert_same_as_torch(file, model, state)


def test_a_tensor_returned_twice_is_refused(cache):
    def forward(self, x_BF):
        y = self.fc(x_BF)
        return y, y

    model = unscaled(Wired(forward, fc=nn.Linear(4, 3)))
    with pytest.raises(TemplateError, match="twice"):
        export_width(model, 1.0, random_state(model), cache)


def test_a_parameter_with_the_name_of_an_input_is_refused(cache):
    model = unscaled(Wired(lambda self, x: x * self.input, input=nn.Parameter(torch.ones(4))))
    with pytest.raises(TemplateError, match=r"\['input'\].*other names"):
        export_width(model, 1.0, random_state(model), cache)


def test_an_operator_that_the_exporter_does_only_in_part_is_found_out_when_traced(cache):
    def forward(self, x_BTF):
        return self.rnn(x_BTF)[0]

    projected = nn.LSTM(3, 6, proj_size=2, batch_first=True)  # torch's exporter drops weight_hr
    model = unscaled(Wired(forward, rnn=projected), (ModelInput((5, 3)),))
    with pytest.raises(TemplateError, match=r"rnn\.weight_hr_l0.*does not"):
        export_width(model, 1.0, random_state(model), cache)
    assert not cache.path(model, 1.0, model.build(1.0)).exists()


def test_an_operator_without_an_onnx_form_is_named(cache):
    pool = nn.AdaptiveAvgPool3d((1, 2, 2))
    model = unscaled(Wired(lambda self, x: self.pool(x), pool=pool), (ModelInput((2, 4, 4, 4)),))
    with pytest.raises(TemplateError, match=r"adaptive_avg_pool3d\S* has no ONNX form"):
        export_width(model, 1.0, {}, cache)


def test_a_network_that_takes_more_than_it_declares_is_refused(cache):
    def forward(self, x_BF, y_BF):
        return self.fc(x_BF + y_BF)

    model = unscaled(Wired(forward, fc=nn.Linear(4, 3)))
    with pytest.raises(TemplateError, match="cannot be traced"):
        export_width(model, 1.0, random_state(model), cache)
