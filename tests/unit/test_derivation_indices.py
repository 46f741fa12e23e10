"""Which entries a width keeps: leaving the others out is the same as setting them to zero.

Two networks loaded with the same wrong slice agree, so comparing a sub-model with one built
natively cannot find wrong indices: the first quarter of four gates instead of a quarter of each,
say. Here the full network is judge. With zeros wherever the width leaves something out, units that
are left out put out zero, and the kept ones must compute what the sub-model computes. Norms over
the channels would count the zeros, so they are taken out.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from benchmarks.networks import llama, mixing
from benchmarks.networks.catalogue import CATALOGUE, LISTED
from slimmable.evaluation import load_network
from slimmable.from_module import slimmable_from_module
from slimmable.model import SlimmableModel
from slimmable.slicing import slice_state
from slimmable.state import ModelState
from slimmable.task import regression
from tests.fakes.native import assert_equal_outputs, randomise, run, samples

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning"),
]

NAMES = [
    pytest.param(name, marks=[] if name in LISTED else pytest.mark.slow)
    for name in sorted(CATALOGUE)
    # Its weights are divided by their own length, which would be zero.
    if name != "tcn_weight_norm"
]


@contextmanager
def no_norm_over_channels() -> Iterator[None]:
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(functional, "layer_norm", lambda x, *_, **__: x))
        for norm in (llama.RmsNorm, mixing.ChannelNorm):
            stack.enter_context(mock.patch.object(norm, "forward", lambda _, x: x))
        before = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        stack.callback(torch.backends.mha.set_fastpath_enabled, before)
        yield


@cache
def without_norms(name: str) -> tuple[nn.Module, SlimmableModel]:
    with no_norm_over_channels(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = randomise(CATALOGUE[name].build()).eval()
        return network, slimmable_from_module(name, network, CATALOGUE[name].inputs, regression())


def zeroed(state: ModelState, model: SlimmableModel, width: float) -> dict[str, torch.Tensor]:
    left = {}
    for name, values in state.items():
        kept = np.ix_(*model.spec.indices(name, width))
        left[name] = np.zeros_like(values)
        left[name][kept] = values[kept]
    return {name: torch.from_numpy(values) for name, values in left.items()}


@pytest.mark.parametrize("name", NAMES)
def test_leaving_out_is_the_same_as_setting_to_zero(name):
    network, model = without_norms(name)
    found = network.state_dict()
    full = {tensor: found[tensor].numpy().copy() for tensor in model.spec.tensors}
    inputs = samples(model, 3)
    try:
        for width in (0.25, 0.6):
            ours = load_network(model, width, slice_state(full, model.spec, width))
            network.load_state_dict(zeroed(full, model, width), strict=False)
            with no_norm_over_channels():
                expected = run(network, inputs)
            assert_equal_outputs(run(ours, inputs), expected, tolerance=1e-5)
    finally:
        restored = {tensor: torch.from_numpy(values) for tensor, values in full.items()}
        network.load_state_dict(restored, strict=False)
