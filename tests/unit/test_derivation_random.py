"""Networks drawn at random: the sub-model of a width is the network built at that width."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slimmable.evaluation import load_network
from slimmable.from_module import slimmable_from_module
from slimmable.model import ModelInput
from slimmable.slicing import slice_state
from slimmable.task import regression
from tests.fakes.native import assert_equal_outputs, randomise, run, samples
from tests.fakes.random_network import IMAGE_CHANNELS, PIXELS, RandomNetwork, full_shapes, plans

pytestmark = pytest.mark.torch


@settings(max_examples=15)
@given(plan=plans(), width=st.floats(0.05, 1.0, exclude_min=True))
def test_a_network_drawn_at_random_is_sliced_exactly(plan, width):
    user = randomise(RandomNetwork(plan, full_shapes(plan).__getitem__)).eval()
    image = ModelInput((IMAGE_CHANNELS, PIXELS, PIXELS))
    model = slimmable_from_module("random", user, (image,), regression())
    found = user.state_dict()
    state = {name: found[name].numpy() for name in model.spec.tensors}
    for each in (0.25, width, 1.0):
        cut = slice_state(state, model.spec, each)
        native = RandomNetwork(plan, lambda name, w=each: model.spec.shape(name, w))
        loaded = {name: torch.tensor(array) for name, array in cut.items()}
        absent, unknown = native.load_state_dict(loaded, strict=False)
        assert not unknown
        assert all(name.endswith("num_batches_tracked") for name in absent)
        inputs = samples(model, 3)
        expected = run(native.eval(), inputs)
        assert_equal_outputs(run(load_network(model, each, cut), inputs), expected)
    assert np.isfinite(expected[0]).all()
