import numpy as np
import pytest
import torch
from torch import nn

from slimmable.evaluation import (
    CALIBRATION_BATCH,
    CALIBRATION_BATCHES,
    EVALUATION_BATCH,
    calibrate,
    calibrated_slices,
    calibration_batches,
    initial_state,
    load_network,
    network_outputs,
    outputs,
    state_of,
)
from slimmable.model import ModelError, SlimmableModel, load_model
from slimmable.models.spec_builder import SpecBuilder
from slimmable.samples import SamplesError
from slimmable.slicing import slice_state
from slimmable.task import regression

pytestmark = pytest.mark.torch

MODEL = load_model(
    "cnn1d",
    {
        "sensors": 2,
        "length": 4,
        "classes": ["a", "b"],
        "channels": [4, 6],
        "kernels": [1, 3],
        "granules": [1, 2],
    },
)


def inputs(count=150):
    return np.random.default_rng(1).normal(2.0, 3.0, (count, 2, 4)).astype(np.float32)


def half():
    return slice_state(initial_state(MODEL, 0), MODEL.spec, 0.5)


@pytest.mark.parametrize("count", [2, 64, 65, 150, 1000])
def test_statistics_are_the_plain_mean_over_batches(count):
    x, state = inputs(count), half()
    found = calibrate(MODEL, 0.5, state, x)
    # The first stage is a kernel of length 1: its output is a matrix product.
    convolved = np.einsum("oi,nit->not", state["conv.0.weight"][:, :, 0], x).astype(np.float64)
    batches = [convolved[chosen] for chosen in calibration_batches(count)]
    mean = np.mean([batch.mean(axis=(0, 2)) for batch in batches], axis=0)
    variance = np.mean([batch.var(axis=(0, 2), ddof=1) for batch in batches], axis=0)
    np.testing.assert_allclose(found["norm.0.running_mean"], mean, rtol=1e-4)
    np.testing.assert_allclose(found["norm.0.running_var"], variance, rtol=1e-4)


@pytest.mark.parametrize("count", [2, 3, 64, 65, 70, 512, 5000])
def test_calibration_batches_are_of_nearly_equal_size_and_share_no_sample(count):
    batches = calibration_batches(count)
    sizes = [len(batch) for batch in batches]
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= CALIBRATION_BATCH
    assert sum(sizes) == min(count, CALIBRATION_BATCH * CALIBRATION_BATCHES)
    assert len(set(np.concatenate(batches).tolist())) == sum(sizes)


def test_calibration_ignores_old_statistics_and_repeats_exactly():
    x, state = inputs(), half()
    found = calibrate(MODEL, 0.5, state, x)
    spoilt = {**state, **{name: state[name] + 9 for name in MODEL.spec.statistics}}
    assert set(found) == MODEL.spec.statistics
    for name, array in calibrate(MODEL, 0.5, spoilt, x).items():
        np.testing.assert_array_equal(array, found[name])


def test_each_width_gets_statistics_and_outputs_of_its_own():
    x = inputs()
    slices = calibrated_slices(MODEL, initial_state(MODEL, 0), (0.5, 1.0), x)
    narrow, wide = slices[0.5], slices[1.0]
    later = "norm.1.running_mean"  # it sees the sum over the kept channels of the first stage
    assert not np.allclose(narrow[later], wide[later][: len(narrow[later])])
    assert outputs(MODEL, 0.5, narrow, x).shape == (len(x), 2)
    assert not np.allclose(outputs(MODEL, 0.5, narrow, x), outputs(MODEL, 1.0, wide, x))


def test_a_model_without_statistics_needs_no_calibration():
    mlp = load_model("mlp", {"input_shape": [3], "task": "regression"})
    assert calibrate(mlp, 1.0, initial_state(mlp, 0), np.zeros((1, 3), np.float32)) == {}


def test_one_sample_has_no_variance():
    with pytest.raises(SamplesError, match="at least 2"):
        calibrate(MODEL, 0.5, half(), inputs(1))


def test_outputs_do_not_depend_on_how_they_are_batched():
    x = inputs(EVALUATION_BATCH + 7)
    x.flags.writeable = False  # a memory map is
    network = load_network(MODEL, 0.5, half())
    together = network_outputs(network, x)
    one_by_one = np.concatenate([network_outputs(network, sample[None]) for sample in x])
    np.testing.assert_allclose(together, one_by_one, atol=1e-5)


def test_a_loaded_network_holds_copies_of_the_weights():
    state = half()
    for array in state.values():
        array.flags.writeable = False
    network = load_network(MODEL, 0.5, state)
    assert not network.training
    with torch.no_grad():
        network.get_parameter("conv.0.weight").zero_()
    assert state["conv.0.weight"].any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conv.0.weight": None}, "'conv.0.weight' has shape none in the state"),
        ({"more": np.zeros(3)}, r"'more' has shape \(3,\) in the state, none in the network"),
        ({"head.bias": np.zeros(3)}, r"'head.bias' has shape \(3,\) in the state, \(2,\) in"),
    ],
)
def test_a_state_that_does_not_fit_the_network_is_refused(change, message):
    state = {**half(), **change}
    state = {name: array for name, array in state.items() if array is not None}
    with pytest.raises(ValueError, match=message) as caught:
        load_network(MODEL, 0.5, state)
    assert "\n" not in str(caught.value)


def test_the_seed_decides_the_initial_weights_and_nothing_else():
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    one, again, other = (initial_state(MODEL, seed) for seed in (4, 4, 5))
    assert torch.equal(torch.rand(1), expected)
    np.testing.assert_array_equal(one["conv.0.weight"], again["conv.0.weight"])
    assert (one["conv.0.weight"] != other["conv.0.weight"]).any()


def test_a_network_without_a_tensor_of_the_spec_is_refused():
    with pytest.raises(ModelError, match=r"names 'conv\.0\.weight', its network does not"):
        state_of(nn.Linear(1, 1), MODEL)


def test_statistics_of_something_else_than_a_batch_norm_are_refused():
    class Counter(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("seen", torch.zeros(1))

        def forward(self, x):
            return x

    spec = SpecBuilder()
    spec.tensors["0.seen"] = (spec.fixed(1),)
    spec.statistics.add("0.seen")
    model = SlimmableModel(
        "counter", spec.spec(), regression(), (1,), lambda width: nn.Sequential(Counter())
    )
    with pytest.raises(ModelError, match="'0', a Counter, cannot be calibrated"):
        calibrate(model, 1.0, initial_state(model, 0), np.zeros((4, 1), np.float32))
