"""HeteroFL's scaler against networks that divide by hand, over modules and derived graphs."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from slimmable.derivation.scaling import ScalingSettings
from slimmable.evaluation import initial_state
from slimmable.from_module import slimmable_from_module
from slimmable.model import ModelInput
from slimmable.samples import Samples
from slimmable.scaler import Scaler
from slimmable.slicing import slice_state
from slimmable.task import classification, reconstruction
from slimmable.training import train
from slimmable.training_rule import WidthRule
from tests.unit.test_training_rules import CNN, GRID, GROUPS, MLP, RULE, data

pytestmark = pytest.mark.torch

OWN = replace(RULE, rule=WidthRule.OWN_WIDTH, steps=10)
SCALED = replace(OWN, scaler=True)


class Net(nn.Module):
    """Layers of all kinds, with a skip connection and a plain function."""

    def __init__(self, by=None):
        super().__init__()
        self.first = nn.Conv1d(2, 8, 3, padding="same")
        self.second = nn.Conv1d(8, 8, 3, padding=1, bias=False)
        self.up = nn.ConvTranspose1d(8, 8, 2, stride=2)
        self.flat = nn.Linear(8, 8)
        self.out = nn.Linear(8, 3)
        self.by = by

    def scaled(self, x):
        return x if self.by is None else x / self.by

    def forward(self, x):
        x = torch.relu(self.scaled(self.first(x)))
        x = x + torch.tanh(self.scaled(self.second(x)))
        x = self.scaled(self.up(x)).mean(2)
        x = torch.relu(self.scaled(nn.functional.linear(x, self.flat.weight, bias=self.flat.bias)))
        return self.out(x)


def derived():
    return slimmable_from_module(
        "net",
        Net(),
        [ModelInput((2, 6))],
        classification(["a", "b", "c"]),
        settings=ScalingSettings(widths=GRID, granules=(2,)),
    )


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return derived()


def by_hand(spec, width):
    """The same network at a width, dividing where HeteroFL does."""
    network = Net(by=width)
    for name, parameter in network.named_parameters():
        kept = spec.indices(name, width)
        for dim, index in enumerate(kept):
            parameter.data = parameter.data.index_select(dim, torch.from_numpy(index))
    return network


@pytest.mark.parametrize("width", GRID)
def test_a_derived_network_gives_what_one_gives_that_divides_after_each_layer(model, width):
    cut = slice_state(initial_state(model, 3), model.spec, width)
    tensors = {name: torch.from_numpy(array) for name, array in cut.items()}
    x = torch.randn(5, 2, 6, generator=torch.Generator().manual_seed(1))
    expected = torch.func.functional_call(by_hand(model.spec, width), tensors, (x,))
    with Scaler(model.spec, width, tensors):
        found = torch.func.functional_call(model.build(width).train(), tensors, (x,))
    torch.testing.assert_close(found, expected)
    plain = torch.func.functional_call(model.build(width).train(), tensors, (x,))
    assert (width == 1.0) == torch.equal(plain, found)


def test_training_with_the_scaler_is_training_the_network_that_divides(model):
    rng = np.random.default_rng(0)
    samples = Samples(
        rng.normal(size=(32, 2, 6)).astype(np.float32), np.arange(32) % 3, np.arange(32)
    )
    start = slice_state(initial_state(model, 3), model.spec, 0.5)
    rule = replace(SCALED, steps=1, batch_size=32, learning_rate=0.1, momentum=0.0)
    found, loss = train(model, start, 0.5, samples, rule, np.random.default_rng(0))
    network = by_hand(model.spec, 0.5)
    network.load_state_dict({name: torch.from_numpy(array) for name, array in start.items()})
    expected = nn.functional.cross_entropy(
        network(torch.from_numpy(samples.x)), torch.from_numpy(samples.y)
    )
    expected.backward()
    assert loss == pytest.approx(float(expected.detach()), abs=1e-5)
    for name, parameter in network.named_parameters():
        moved = parameter.detach() - 0.1 * parameter.grad
        np.testing.assert_allclose(found[name], moved.numpy(), atol=1e-5)


def trained(model, rule, width):
    start = slice_state(initial_state(model, 0), model.spec, width)
    return train(model, start, width, data(model), rule, np.random.default_rng(0))[0]


@pytest.mark.parametrize("model", [MLP, CNN, GROUPS], ids=["mlp", "bn", "gn"])
def test_at_full_width_nothing_changes(model):
    plain, scaled = trained(model, OWN, 1.0), trained(model, SCALED, 1.0)
    assert all((plain[name] == scaled[name]).all() for name in plain)


@pytest.mark.parametrize("model", [CNN, GROUPS], ids=["bn", "gn"])
def test_where_a_norm_follows_every_layer_nothing_changes_but_epsilon(model):
    plain, scaled = trained(model, OWN, 0.25), trained(model, SCALED, 0.25)
    for name in model.spec.parameters:
        np.testing.assert_allclose(plain[name], scaled[name], atol=5e-3)


def test_without_norms_a_narrow_slice_trains_otherwise():
    plain, scaled = trained(MLP, OWN, 0.5), trained(MLP, SCALED, 0.5)
    assert max(np.abs(plain[name] - scaled[name]).max() for name in plain) > 0.05


def test_each_slice_of_a_step_is_scaled_by_its_own_width():
    rule = replace(SCALED, rule=WidthRule.ALL_WIDTHS, steps=1, batch_size=64, momentum=0.0)
    start = initial_state(MLP, 0)
    together = trained(MLP, rule, 1.0)
    moved = {name: np.zeros_like(start[name]) for name in MLP.spec.parameters}
    for width in GRID:
        cut = slice_state(start, MLP.spec, width)
        alone = trained(MLP, replace(rule, rule=WidthRule.OWN_WIDTH), width)
        for name, total in moved.items():
            part = tuple(slice(0, length) for length in alone[name].shape)
            total[part] += alone[name] - cut[name]
    for name, step in moved.items():
        np.testing.assert_allclose(together[name] - start[name], step / len(GRID), atol=1e-6)


def test_what_the_network_first_computes_something_of_is_left_as_it_is():
    """A layer whose weight is a product: which layer it is cannot be told from the call."""

    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(8, 4))
            self.out = nn.Linear(8, 4)

        def forward(self, x):
            return self.out(torch.relu(nn.functional.linear(x, self.weight * 2.0)))

    torch.manual_seed(0)
    model = slimmable_from_module(
        "masked", Masked(), [ModelInput((4,))], reconstruction(), settings=ScalingSettings(GRID)
    )
    tensors = {
        name: torch.from_numpy(array)
        for name, array in slice_state(initial_state(model, 0), model.spec, 0.5).items()
    }
    network, x = model.build(0.5).train(), torch.ones(2, 4)
    plain = torch.func.functional_call(network, tensors, (x,))
    with Scaler(model.spec, 0.5, tensors):
        assert torch.equal(torch.func.functional_call(network, tensors, (x,)), plain)
