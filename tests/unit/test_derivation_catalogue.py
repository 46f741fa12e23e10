"""Each network of the catalogue: the sub-model of a width is the network built at that width."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.networks.catalogue import CATALOGUE, FULL_SIZE, LISTED
from exporter.export import export_width
from exporter.templates import TemplateCache
from slimmable.evaluation import load_network
from slimmable.from_module import slimmable_from_module
from slimmable.slicing import slice_state
from slimmable.spec import WidthSpec
from slimmable.task import regression
from tests.fakes.native import (
    assert_equal_outputs,
    cut_state,
    derived,
    full_state,
    native_network,
    randomise,
    run,
    samples,
    user_network,
)

pytestmark = [
    pytest.mark.torch,
    # torch itself says that projections take its slower way.
    pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning"),
]

WIDTHS = (0.25, 0.5, 0.75, 1.0)
BATCHES = (1, 5)
any_width = st.floats(0.05, 1.0, exclude_min=True)
# `make check` tries the listed ones, `make test` all.
every_network = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in LISTED else pytest.mark.slow)
        for name in sorted(CATALOGUE)
    ],
)


@every_network
@pytest.mark.parametrize("width", WIDTHS)
def test_the_sub_model_computes_what_the_network_built_at_that_width_computes(name, width):
    model, state = derived(name), cut_state(name, width)
    native = native_network(CATALOGUE[name], model, width, state)
    ours = load_network(model, width, state)
    for batch in BATCHES:
        inputs = samples(model, batch, seed=batch)
        assert_equal_outputs(run(ours, inputs), run(native, inputs))


@every_network
def test_at_full_width_it_is_the_users_network(name):
    model = derived(name)
    ours = load_network(model, 1.0, full_state(name))
    for batch in BATCHES:
        inputs = samples(model, batch, seed=batch)
        assert_equal_outputs(run(ours, inputs), run(user_network(name), inputs))


@every_network
@settings(max_examples=4)
@given(width=any_width)
def test_any_width_gives_the_network_built_at_that_width(name, width):
    model, state = derived(name), cut_state(name, width)
    native = native_network(CATALOGUE[name], model, width, state)
    inputs = samples(model, 2)
    assert_equal_outputs(run(load_network(model, width, state), inputs), run(native, inputs))


@every_network
@settings(max_examples=20)
@given(narrow=any_width, wide=any_width)
def test_what_a_width_keeps_lies_inside_what_a_wider_one_keeps(name, narrow, wide):
    spec = derived(name).spec
    narrow, wide = sorted((narrow, wide))
    for tensor in spec.tensors:
        pairs = zip(spec.indices(tensor, narrow), spec.indices(tensor, wide), strict=True)
        for inner, outer in pairs:
            assert np.isin(inner, outer).all()
            assert (np.diff(inner) > 0).all()


@every_network
def test_in_training_gradients_and_statistics_are_those_of_the_network_built_so(name):
    model, width = derived(name), 0.5
    state = cut_state(name, width)
    inputs = samples(model, 6)
    gradients, statistics = [], []
    for network in (
        load_network(model, width, state),
        native_network(CATALOGUE[name], model, width, state),
    ):
        network.train()
        torch.manual_seed(1)
        _loss(network(*inputs)).backward()
        gradients.append({n: p.grad.numpy() for n, p in network.named_parameters()})
        found = network.state_dict()
        statistics.append({n: found[n].numpy() for n in model.spec.statistics})
    for ours, theirs in (gradients, statistics):
        assert set(ours) == set(theirs)
        for tensor, expected in theirs.items():
            scale = max(1.0, float(np.abs(expected).max()))
            assert np.abs(ours[tensor] - expected).max() <= 1e-5 * scale, tensor


@every_network
def test_training_a_slice_moves_nothing_outside_of_it(name):
    model, width = derived(name), 0.25
    spec = model.spec
    full = {n: torch.tensor(full_state(name)[n], requires_grad=True) for n in spec.parameters}
    sliced = {n: _slice(tensor, spec.indices(n, width)) for n, tensor in full.items()}
    network = load_network(model, width, cut_state(name, width)).train()
    _loss(torch.func.functional_call(network, sliced, samples(model, 6))).backward()
    for tensor, values in full.items():
        outside = np.ones(values.shape, dtype=bool)
        outside[np.ix_(*spec.indices(tensor, width))] = False
        assert values.grad is not None, tensor
        gradient = values.grad.numpy()
        assert np.isfinite(gradient).all(), tensor
        assert not gradient[outside].any(), tensor


@every_network
def test_the_spec_survives_json(name):
    spec = derived(name).spec
    again = WidthSpec.from_json(spec.to_json())
    assert again.spec_hash == spec.spec_hash
    assert again.to_json() == spec.to_json()
    for tensor in spec.tensors:
        assert again.shape(tensor, 0.5) == spec.shape(tensor, 0.5)


@every_network
def test_every_tensor_has_its_role(name):
    spec, network = derived(name).spec, user_network(name)
    assert set(spec.parameters) == {n for n, _ in network.named_parameters()}
    saved = {n for n, t in network.state_dict().items() if t.is_floating_point()}
    assert set(spec.tensors) | set(spec.aliases) == saved
    assert spec.statistics == {n for n in saved if ".running_" in n}
    assert spec.aliases == ({"head.weight": "token.weight"} if name == "causal_transformer" else {})


@every_network
def test_no_operator_is_unknown_and_half_width_halves_every_layer(name):
    spec = derived(name).spec
    assert not [line for line in spec.frozen if "unknown" in line.lower()]
    # A quarter where all lengths scale; inputs, outputs and channels per group do not.
    assert spec.parameter_count(0.5) <= 0.42 * spec.parameter_count(1.0)


def test_deriving_twice_gives_the_same_hash_also_in_another_process():
    program = (
        "from benchmarks.networks.catalogue import CATALOGUE; from slimmable.task import"
        " regression; from slimmable.from_module import slimmable_from_module as derive\n"
        "for name in ('vit', 'unet'):\n"
        "    entry = CATALOGUE[name]\n"
        "    model = derive(name, entry.build(), entry.inputs, regression())\n"
        "    print(model.spec.spec_hash)"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.split() == [derived(name).spec.spec_hash for name in ("vit", "unet")]


@pytest.mark.parametrize("name", ["four_convolutions", "stochastic_depth"])
def test_deriving_leaves_the_users_network_as_it_was(name):
    network = randomise(CATALOGUE[name].build(), seed=3).train()
    before = {n: t.clone() for n, t in network.state_dict().items()}
    slimmable_from_module(name, network, CATALOGUE[name].inputs, regression())
    assert network.training
    assert all(p.requires_grad and p.grad is None for p in network.parameters())
    for tensor, values in network.state_dict().items():
        assert torch.equal(values, before[tensor]), tensor


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2", "four_convolutions", "vit"])
def test_networks_in_their_published_sizes_are_exact_too(name):
    entry = FULL_SIZE[name]
    network = randomise(entry.build()).eval()
    model = slimmable_from_module(name, network, entry.inputs, regression())
    found = network.state_dict()
    state = {tensor: found[tensor].numpy() for tensor in model.spec.tensors}
    for width in WIDTHS:
        cut = slice_state(state, model.spec, width)
        native = native_network(entry, model, width, cut)
        inputs = samples(model, 2)
        assert_equal_outputs(run(load_network(model, width, cut), inputs), run(native, inputs))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["flatten_cnn", "group_norm", "shufflenet", "vit", "lstm"])
def test_a_derived_network_is_exported_and_checked(name, tmp_path):
    model = derived(name)
    cache = TemplateCache(tmp_path)
    for width in (0.25, 1.0):
        exported = export_width(model, width, cut_state(name, width), cache)
        assert exported.parity <= 1e-5


def _loss(outputs):
    each = outputs if isinstance(outputs, tuple | list) else (outputs,)
    return sum(torch.tanh(output).pow(2).mean() for output in each)


def _slice(tensor, indices):
    for dim, index in enumerate(indices):
        tensor = tensor.index_select(dim, torch.from_numpy(index))
    return tensor
