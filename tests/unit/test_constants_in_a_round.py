"""A tensor that is never trained travels with the others and comes back as it was."""

import numpy as np
import pytest
import torch
from torch import nn

from coordinator.aggregation.rules import aggregate
from coordinator.aggregation.updates import DeviceUpdate, inspect_update
from slimmable.evaluation import initial_state, load_network
from slimmable.from_module import slimmable_from_module
from slimmable.model import ModelInput
from slimmable.samples import Samples
from slimmable.slicing import slice_state
from slimmable.state import decode_state, encode_state
from slimmable.task import regression
from slimmable.training import train
from slimmable.training_rule import TrainingRule

pytestmark = pytest.mark.torch


class Shifted(nn.Module):
    """Two layers; a fixed shift and a running mean between them."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 16)
        self.last = nn.Linear(16, 2)
        self.register_buffer("shift", torch.randn(16))
        self.register_buffer("mean", torch.zeros(16))

    def forward(self, x):
        x = self.first(x) + self.shift
        if self.training:
            self.mean.mul_(0.9).add_(0.1 * x.detach().mean(0))
        return self.last(torch.relu(x))


def test_constants_survive_a_round_unchanged():
    model = slimmable_from_module("shifted", Shifted, (ModelInput((6,)),), regression())
    assert model.spec.constants == {"shift", "mean"}
    base = initial_state(model, 3)
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(40, count)).astype(np.float32) for count in (6, 2))
    samples = Samples(x, y, np.zeros(40, np.int64))
    rule = TrainingRule(4, 8, 0.05, 0.9, 0.0, (0.5, 1.0))
    updates = []
    for device, width in (("a", 0.5), ("b", 1.0)):
        cut = slice_state(base, model.spec, width)
        given = decode_state(encode_state(cut))
        state, _ = train(model, given, width, samples, rule, np.random.default_rng(1))
        assert inspect_update(model.spec, width, state) is None
        for name in model.spec.constants:
            assert (state[name] == cut[name]).all()
        assert (state["first.weight"] != cut["first.weight"]).any()
        updates.append(DeviceUpdate(device, width, state))
    after = aggregate(base, model.spec, updates)
    for name in model.spec.constants:
        assert (after[name] == base[name]).all()
    assert (after["first.weight"] != base["first.weight"]).any()


def test_constants_are_those_of_the_state_not_of_the_network():
    model = slimmable_from_module("shifted", Shifted, (ModelInput((6,)),), regression())
    state = initial_state(model, 3)
    network = load_network(model, 0.5, slice_state(state, model.spec, 0.5))
    assert network.get_buffer("shift").numpy() == pytest.approx(state["shift"][:8])
    assert network.get_buffer("shift").tolist() != model.build(0.5).get_buffer("shift").tolist()
