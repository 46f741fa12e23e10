"""Networks of users: what is derived from them, what is said of them, what stays as it was."""

import copy

import pytest
import torch
from torch import nn

from slimmable.derivation.errors import DerivationError
from slimmable.derivation.operator_table import operator_table
from slimmable.derivation.rules import RULES
from slimmable.derivation.scaling import ScalingSettings
from slimmable.derivation.tracing import trace_both
from slimmable.evaluation import calibrate, check_network, initial_state
from slimmable.from_module import derivation_of, slimmable_from_module
from slimmable.model import ModelInput
from slimmable.slicing import slice_state
from slimmable.spec import WidthSpec
from slimmable.task import regression

pytestmark = pytest.mark.torch

FEATURES = 8
INPUT = (ModelInput((FEATURES,)),)


class Hidden(nn.Module):
    """A linear layer, something between, a linear layer."""

    def __init__(self, between=lambda _, x: x, **layers):
        super().__init__()
        self.first = nn.Linear(FEATURES, 32)
        self.last = nn.Linear(32, 4)
        self.between = between
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.last(self.between(self, self.first(x)))


def derived(module, inputs=INPUT, **settings):
    return slimmable_from_module(
        "net", module, inputs, regression(), settings=ScalingSettings(**settings)
    )


def report(model):
    derivation = derivation_of(model)
    assert derivation is not None
    return {(entry.tensor, entry.dim): entry for entry in derivation.report}


def test_the_network_has_the_shapes_of_the_spec_and_the_names_of_the_users_network():
    user = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.Flatten(), nn.Linear(64, 5))
    model = derived(user, (ModelInput((3, 4, 4)),))
    for width in (0.25, 0.5, 0.3, 1.0):
        network = model.build(width)
        check_network(network, model, width)
        assert set(network.state_dict()) == set(user.state_dict())
    assert isinstance(model.build(0.5).get_submodule("1"), nn.BatchNorm2d)


def test_statistics_of_a_width_are_calibrated_as_those_of_any_model():
    user = nn.Sequential(nn.Linear(FEATURES, 16), nn.BatchNorm1d(16), nn.Linear(16, 3))
    model = derived(lambda: copy.deepcopy(user))
    cut = slice_state(initial_state(model, 0), model.spec, 0.5)
    x = torch.randn(64, FEATURES, generator=torch.Generator().manual_seed(1)).numpy()
    found = calibrate(model, 0.5, cut, x)
    hidden = x @ cut["0.weight"].T + cut["0.bias"]
    assert found["1.running_mean"] == pytest.approx(hidden.mean(0), abs=1e-5)


def test_a_function_that_makes_the_network_gives_fresh_weights_under_the_callers_seed():
    model = derived(Hidden)
    states = [initial_state(model, seed)["first.weight"] for seed in (1, 1, 2)]
    assert (states[0] == states[1]).all()
    assert (states[0] != states[2]).any()


def test_a_network_that_is_given_keeps_its_weights_under_any_seed():
    user = Hidden()
    state = initial_state(derived(user), 5)
    assert (state["first.weight"] == user.first.weight.detach().numpy()).all()


def test_the_users_network_and_the_chance_of_the_caller_stay_as_they_were():
    user = Hidden(lambda self, x: self.norm(x), norm=nn.BatchNorm1d(32))
    user.norm.eval()
    before = {name: tensor.clone() for name, tensor in user.state_dict().items()}
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    derived(user)
    assert torch.equal(torch.rand(3), expected)
    assert user.training
    assert not user.norm.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in user.state_dict().items())


def test_dropout_drops_in_training_only():
    network = derived(Hidden(lambda self, x: self.drop(x), drop=nn.Dropout(0.5))).build(1.0)
    x = torch.ones(2, FEATURES)
    network.train()
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))
    assert network.graph_code.count("dropout.default") == 1


def test_copies_and_functional_calls_use_the_weights_that_they_are_given():
    network = derived(Hidden()).build(0.5)
    copied = copy.deepcopy(network)
    with torch.no_grad():
        copied.first.weight.zero_()
    x = torch.randn(3, FEATURES)
    assert not torch.equal(network(x), copied(x))
    given = {name: torch.zeros_like(tensor) for name, tensor in network.named_parameters()}
    assert not torch.func.functional_call(network, given, (x,)).any()


def test_a_tied_weight_has_one_name_in_the_spec_and_an_alias():
    user = Hidden(lambda self, x: self.again(x @ self.first.weight), again=nn.Linear(FEATURES, 32))
    user.again.weight = user.first.weight
    model = derived(user)
    assert model.spec.aliases == {"again.weight": "first.weight"}
    assert "again.weight" not in model.spec.tensors
    assert WidthSpec.from_json(model.spec.to_json()).aliases == model.spec.aliases


def test_buffers_and_frozen_parameters_are_constants():
    user = Hidden(lambda self, x: self.scale(x + self.offset), scale=nn.Linear(32, 32))
    user.register_buffer("offset", torch.arange(32.0))
    user.register_buffer("unsaved", torch.ones(32), persistent=False)
    user.register_buffer("steps", torch.zeros(1, dtype=torch.int64))
    user.scale.requires_grad_(False)
    model = derived(user)
    assert model.spec.constants == {"offset", "scale.weight", "scale.bias"}
    assert set(model.spec.parameters).isdisjoint(model.spec.constants)
    network = model.build(0.5)
    assert set(network.state_dict()) == set(model.spec.tensors)
    assert network.offset.tolist() == list(range(16))
    assert {name for name, _ in network.named_parameters()} == set(model.spec.parameters)
    assert WidthSpec.from_json(model.spec.to_json()).constants == model.spec.constants


def test_an_unknown_operator_freezes_what_it_touches_and_its_line_is_named():
    def between(_, x):
        return torch.fft.fft(x).real

    model = derived(Hidden(between))
    entry = report(model)["first.weight", 0]
    assert not entry.scales
    assert entry.reason == "aten.fft_fft: unknown operator"
    assert entry.place.startswith("test_derivation_network.py:")
    line = "first.weight dimension 0: aten.fft_fft: unknown operator (test_derivation_network.py)"
    assert line in model.spec.frozen


class Attends(nn.Module):
    """Attention whose scale is computed when the network is made."""

    def __init__(self, heads, size):
        super().__init__()
        self.heads, self.size, self.scale = heads, size, size**-0.5
        self.into = nn.Linear(FEATURES, 3 * heads * size)
        self.out = nn.Linear(heads * size, 4)

    def forward(self, x):
        rows = self.into(x).unflatten(-1, (3, self.heads, self.size)).permute(2, 0, 3, 1, 4)
        query, key, value = rows.unbind(0)
        scores = (query @ key.transpose(-2, -1)) * self.scale
        return self.out((scores.softmax(-1) @ value).transpose(1, 2).flatten(2))


def test_a_head_whose_size_stands_in_the_code_keeps_it_whatever_is_asked():
    for heads, factor in ((2, "outer"), (4, "inner")):
        model = derived(Attends(heads, 32), (ModelInput((5, FEATURES)),), factor=factor)
        found = report(model)
        assert found["out.weight", 1].form == f"<{heads}>*32"
    assert "the number 0.176777 in the code may be" in found["out.weight", 1].reason


def test_a_width_whose_root_stands_in_the_code_is_remarked():
    entry = report(derived(Hidden(lambda _, x: x * 32**0.5)))["first.weight", 0]
    assert entry.scales
    assert "the number 5.65685 in the code may be computed from its size" in entry.reason


def test_a_forward_that_takes_any_number_of_inputs_is_traced_with_those_given():
    class Variadic(Hidden):
        def forward(self, *inputs):
            return super().forward(inputs[0] + inputs[1])

    model = derived(Variadic(), (*INPUT, *INPUT))
    assert model.spec.shape("first.weight", 0.5) == (16, FEATURES)


def test_a_mean_by_hand_is_remarked_though_its_dimension_is_summed_away():
    by_hand = Hidden(lambda _, x: x - x.sum(-1, keepdim=True) / x.shape[-1])
    assert "the number 32 in the code may be" in report(derived(by_hand))["first.weight", 0].reason


def test_inputs_kernels_and_outputs_have_their_reason_and_are_no_news():
    model = derived(nn.Conv2d(3, 4, 3), (ModelInput((3, 5, 5)),))
    found = report(model)
    reasons = [found["weight", dim].reason for dim in range(3)]
    assert reasons == ["output of the network", "input of the network", "kernel"]
    assert model.spec.frozen == ()


def test_a_dropped_dimension_is_the_same_one_at_every_width():
    def between(_, x):
        return x.unsqueeze(1).squeeze()

    network = derived(Hidden(between)).build(0.25)
    assert network(torch.ones(1, FEATURES)).shape == (1, 4)  # where the user's gives (4,)


def test_blocks_without_gradients_stay_without():
    def between(_, x):
        with torch.no_grad():
            gate = torch.sigmoid(x)
        return x * gate

    user = Hidden(between)
    network = derived(user).build(1.0).train()
    x = torch.randn(3, FEATURES)
    for each in (user, network):
        each(x).sum().backward()
    assert torch.equal(network.first.weight.grad, user.first.weight.grad)
    assert torch.is_grad_enabled()


def test_an_average_that_the_network_keeps_itself_is_a_constant():
    def between(self, x):
        if self.training:
            self.mean.mul_(0.9).add_(0.1 * x.detach().mean(0))
        return x - self.mean

    user = Hidden(between)
    user.register_buffer("mean", torch.zeros(32))
    model = derived(user)
    assert model.spec.constants == {"mean"}
    network = model.build(0.5)
    network.train()(torch.ones(4, FEATURES))
    assert network.mean.any()


def test_a_norm_that_is_kept_in_evaluation_mode_stays_there():
    class Kept(Hidden):
        def train(self, mode=True):
            super().train(mode)
            self.norm.eval()
            return self

    user = Kept(lambda self, x: self.norm(x), norm=nn.BatchNorm1d(32))
    network = derived(user).build(1.0).train()
    network(torch.randn(16, FEATURES))
    assert not network.norm.running_mean.any()


class Sequences(nn.Module):
    """A recurrent layer; what it says about each time step."""

    def __init__(self, layer, **settings):
        super().__init__()
        self.layer = layer(FEATURES, 16, 2, batch_first=True, **settings)

    def forward(self, x):
        return self.layer(x)[0]


def test_new_tensors_are_made_where_the_input_is():
    user = Sequences(nn.GRU)
    network = derived(user, (ModelInput((5, FEATURES)),)).build(0.5)
    assert "input_0.device" in network.graph_code
    assert "cpu" not in network.graph_code


@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU, nn.RNN])
def test_long_sequences_are_traced_without_running_them(layer):
    module = Sequences(layer, bidirectional=True)
    evaluation, _ = trace_both(module, (ModelInput((4000, FEATURES)),))
    (output,) = evaluation.results
    assert tuple(output.meta["val"].shape[1:]) == (4000, 32)
    assert module(torch.ones(2, 3, FEATURES)).shape == (2, 3, 32)  # torch is as it was


class Decides(Hidden):
    def forward(self, x):
        x = self.first(x)
        if x.sum() > 0:
            x = x + 1
        return self.last(x)


def test_a_decision_by_values_is_refused_with_its_line():
    with pytest.raises(DerivationError, match=r"values of its input at .*\.py:\d+ \(if x.sum"):
        derived(Decides())


def test_a_function_that_is_mapped_over_the_batch_is_refused():
    with pytest.raises(DerivationError, match="a function of its own .vmap"):
        derived(Hidden(lambda _, x: torch.vmap(torch.relu)(x)))


def test_a_batch_size_in_the_code_is_refused_with_its_line():
    def between(_, x):
        return x.view(2, 32)

    with pytest.raises(DerivationError, match=r"one batch size only at .*py:\d+ .*x\.view\(2, 32"):
        derived(Hidden(between))


def test_a_selection_by_values_is_refused():
    with pytest.raises(DerivationError, match="values of the input decide about a shape"):
        derived(Hidden(lambda _, x: x[x.sum(1) > 0]))


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.ReLU(), "no parameter"),
        (nn.Linear(FEATURES, 3).requires_grad_(False), "no parameter that is trained"),
        (nn.LazyLinear(3), "has no shape yet"),
        (nn.Linear(FEATURES, 3).half(), "'weight' is float16.*call .float()"),
        (nn.DataParallel(nn.Linear(FEATURES, 3)), "wrapped in DataParallel"),
        (Hidden(lambda _, x: x.mean(0, keepdim=True)), r"\(1, 4\), whose first dimension is not"),
        (nn.Linear(FEATURES + 1, 3), r"fails on inputs of shape \(N, 8\): mat1"),
        (Hidden(lambda _, x: x + torch.rand(32)), "depend on chance"),
    ],
)
def test_what_cannot_be_derived_is_said(module, message):
    with pytest.raises(DerivationError, match=message):
        derived(module)


class Returns(nn.Module):
    def __init__(self, what):
        super().__init__()
        self.layer = nn.Linear(FEATURES, 3)
        self.what = what

    def forward(self, x):
        return self.what(self.layer(x), self.training)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (lambda y, _: {"logits": y}, "returns dict: return a tensor, or a tuple"),
        (lambda y, _: (y, (y,)), "nested tuple"),
        (lambda y, training: (y, y) if training else y, r"\(batch, 3\) and \(batch, 3\) in train"),
    ],
)
def test_outputs_that_no_task_understands_are_refused(what, message):
    with pytest.raises(DerivationError, match=message):
        derived(Returns(what))


def test_several_outputs_come_as_they_are():
    network = derived(Returns(lambda y, _: [y, y * 2])).build(1.0)
    first, second = network(torch.ones(1, FEATURES))
    assert torch.equal(2 * first, second)


def test_statistics_under_other_names_are_refused_with_the_line():
    def between(self, x):
        return nn.functional.batch_norm(x, self.mean, self.variance, training=self.training)

    user = Hidden(between)
    user.register_buffer("mean", torch.zeros(32))
    user.register_buffer("variance", torch.ones(32))
    with pytest.raises(DerivationError, match=r"\.py:\d+ keeps its statistics as 'mean'"):
        derived(user)


def test_a_function_that_makes_something_else_is_refused():
    with pytest.raises(DerivationError, match="made a list: return a torch.nn.Module"):
        derived(list)


def test_no_input_is_refused():
    with pytest.raises(DerivationError, match="at least one input"):
        derived(Hidden(), ())


def test_the_spec_does_not_depend_on_weights():
    assert derived(Hidden()).spec.spec_hash == derived(Hidden()).spec.spec_hash


def test_the_table_names_every_operator_once():
    text = "\n".join(operator_table())
    for name in RULES:
        assert text.count(f"`{name}`") >= 1, name
    assert "/" not in text.replace("in / groups", "")
