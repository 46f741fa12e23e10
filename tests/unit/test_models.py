import sys
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from slimmable import model as model_module
from slimmable.evaluation import check_network, initial_state, load_network
from slimmable.model import ModelError, SlimmableModel, build_by_slicing, load_model
from slimmable.model_check import check_model
from slimmable.models.spec_builder import SpecBuilder
from slimmable.slicing import slice_state
from slimmable.spec import WidthSpec
from slimmable.task import classification, reconstruction, regression

pytestmark = pytest.mark.torch

ABC = ("a", "b", "c")
TINY: dict[str, tuple[str, dict[str, Any]]] = {
    "mlp classification": ("mlp", {"input_shape": [2, 3], "classes": ABC, "hidden": [8, 6]}),
    "mlp regression": ("mlp", {"input_shape": [5], "task": "regression", "outputs": 2}),
    "mlp reconstruction": ("mlp", {"input_shape": [2, 3], "task": "reconstruction"}),
    "cnn1d": (
        "cnn1d",
        {"sensors": 2, "length": 8, "classes": ABC, "channels": [6, 8, 4], "granules": [2, 4, 1]},
    ),
    "cnn2d": (
        "cnn2d",
        {"classes": ABC, "height": 6, "channels": [4, 6, 8, 8], "granules": [2, 2, 4, 4]},
    ),
    "resnet18": (
        "resnet18",
        {"classes": ABC, "image_size": 8, "channels": [4, 8, 8, 16], "granule": 2},
    ),
    "resnet18 imagenet": (
        "resnet18",
        {
            "classes": ABC,
            "image_size": 32,
            "image_channels": 1,
            "stem": "imagenet",
            "channels": [4, 4, 6, 8],
            "granule": 2,
        },
    ),
}
MODELS = {title: load_model(name, options) for title, (name, options) in TINY.items()}
models = st.sampled_from(sorted(MODELS)).map(MODELS.__getitem__)
widths = st.floats(0.02, 1.0)


@settings(max_examples=60)
@given(models, widths)
def test_the_native_network_of_a_width_has_the_shapes_of_the_spec(model, width):
    check_network(model.build(width), model, width)


@pytest.mark.parametrize("title", sorted(MODELS))
def test_a_built_in_model_keeps_its_promises_at_every_width(title):
    check_model(MODELS[title], [1 / 16, 0.25, 0.5, 0.75, 1.0])


@pytest.mark.parametrize("title", sorted(MODELS))
def test_every_parameter_is_covered_and_every_statistic_is_apart(title):
    model = MODELS[title]
    network = model.build(1.0)
    assert set(model.spec.parameters) == {name for name, _ in network.named_parameters()}
    assert model.spec.statistics == {
        name for name, _ in network.named_buffers() if not name.endswith("num_batches_tracked")
    }
    assert model.spec.parameter_count(0.5) < 0.6 * model.spec.parameter_count(1.0)


@pytest.mark.parametrize("title", ["cnn1d", "cnn2d", "resnet18", "mlp classification"])
def test_a_network_fed_with_slices_says_what_the_sliced_network_says(title):
    model, width = MODELS[title], 0.5
    state = initial_state(model, seed=1)
    rng = np.random.default_rng(0)  # fresh batch norms hide errors: all ones and zeros
    state = {
        name: (rng.uniform(0.5, 1.5, array.shape)).astype(np.float32)
        for name, array in state.items()
    }
    cut = slice_state(state, model.spec, width)
    native = load_network(model, width, cut)
    x = torch.randn(3, *model.input_shape, generator=torch.Generator().manual_seed(0))
    fed = model.build(width).eval()
    with torch.no_grad():
        expected = native(x)
        tensors = {name: torch.from_numpy(array) for name, array in cut.items()}
        said = torch.func.functional_call(fed, tensors, (x,))
    torch.testing.assert_close(said, expected)
    assert not torch.equal(load_network(model, 1.0, state)(x), expected)


@pytest.mark.parametrize("title", ["cnn1d", "resnet18", "mlp reconstruction"])
def test_gradients_of_a_slice_stay_inside_the_slice(title):
    model, width = MODELS[title], 0.5
    full = {
        name: torch.tensor(array, requires_grad=True)
        for name, array in initial_state(model, seed=0).items()
        if name in model.spec.parameters
    }
    cut = {}
    for name, tensor in full.items():
        inner = tensor
        for dim, kept in enumerate(model.spec.indices(name, width)):
            inner = inner.index_select(dim, torch.from_numpy(kept))
        cut[name] = inner
    x = torch.randn(4, *model.input_shape, generator=torch.Generator().manual_seed(0))
    torch.func.functional_call(model.build(width).train(), cut, (x,)).square().sum().backward()
    for name, tensor in full.items():
        outside = torch.ones(tensor.shape, dtype=torch.bool)
        if tensor.ndim:
            kept = np.ix_(*model.spec.indices(name, width))
            outside[kept] = False
        assert (tensor.grad[outside] == 0).all(), name
    assert any((tensor.grad != 0).any() for tensor in full.values())


def test_blocks_of_a_stage_share_their_channels_and_nothing_else():
    model = MODELS["resnet18"]
    outer = {model.spec.dims(f"layer2.{block}.conv2.weight")[0] for block in (0, 1)}
    inner = {model.spec.dims(f"layer2.{block}.conv1.weight")[0] for block in (0, 1)}
    assert len(outer) == 1
    assert len(inner) == 2
    assert not outer & inner
    assert model.spec.dims("layer2.0.downsample.0.weight")[0] in outer


def test_options_are_plain_data_and_wrong_ones_are_refused():
    mlp = load_model("mlp", {"input_shape": [4], "task": "regression"})
    assert mlp.task == regression()
    assert mlp.input_shape == (4,)
    assert MODELS["mlp reconstruction"].task == reconstruction()
    assert MODELS["cnn2d"].task == classification(ABC)
    for name, options in [
        ("mlp", {"input_shape": [4], "task": "guessing"}),
        ("mlp", {"input_shape": [4], "classes": ["a"]}),
        ("mlp", {"input_shape": [4], "task": "regression", "hidden": []}),
        ("mlp", {"input_shape": [4], "colour": "red"}),
        ("cnn1d", {"sensors": 1, "length": 2, "classes": ABC}),
        ("cnn1d", {"sensors": 1, "length": 50, "classes": ABC, "kernels": [4, 3, 3]}),
        ("cnn1d", {"sensors": 1, "length": 50, "classes": ABC, "granules": [4]}),
        ("cnn2d", {"classes": ABC, "height": 3}),
        ("resnet18", {"classes": ABC, "stem": "large"}),
        ("resnet18", {"classes": ABC, "channels": [8]}),
    ]:
        with pytest.raises(ModelError, match=f"model '{name}' refused its options") as caught:
            load_model(name, options)
        assert "\n" not in str(caught.value)


# A user's own model: a plain network, its spec, and a function that returns both.


def users_network():
    return nn.Sequential(
        nn.Conv1d(2, 4, 3, padding=1),
        nn.BatchNorm1d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4 * 5, 3),
    )


def users_model(*, granule=1):
    spec = SpecBuilder()
    channels = spec.scaling(4, granule)
    spec.conv("0", channels, spec.fixed(2), (3,), bias=True)
    spec.batch_norm("1", channels)
    spec.linear("4", spec.fixed(3), spec.flattened(channels, 5))
    finished = spec.spec()
    build = build_by_slicing(users_network(), finished)
    return SlimmableModel("users", finished, classification(ABC), (2, 5), build)


@pytest.fixture
def users_module():
    """Install a module with the user's model, as a package of the user's would."""
    module = ModuleType("plant_models")
    module.pump = users_model
    module.number = 3
    module.broken = lambda: "no model"
    with mock.patch.dict(sys.modules, {"plant_models": module}):
        yield module


def test_a_plain_network_is_built_at_any_width_by_slicing():
    model = users_model()
    check_model(model, [0.25, 0.5, 0.75, 1.0])
    assert model.spec.shape("4.weight", 0.5) == (3, 10)
    state = initial_state(model, seed=0)
    half, whole = model.build(0.5).eval(), model.build(1.0).eval()
    for name, array in slice_state(state, model.spec, 0.5).items():
        np.testing.assert_array_equal(half.state_dict()[name].numpy(), array)
    # The half network is the whole one with the other channels silent.
    with torch.no_grad():
        whole.get_parameter("4.weight")[:, 10:] = 0
        x = torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(half(x), whole(x))


def test_building_by_slicing_leaves_the_users_network_as_it_was():
    network = users_network()
    spec = users_model().spec
    with torch.no_grad():
        build_by_slicing(network, spec)(1.0).get_parameter("0.weight").zero_()
    assert network.get_parameter("0.weight").abs().sum() > 0
    assert network.get_parameter("0.weight").shape == (4, 2, 3)


def test_a_users_model_is_loaded_by_the_name_of_its_function(users_module):
    model = load_model("plant_models:pump", {"granule": 2})
    assert model.spec.shape("0.weight", 0.25) == (2, 2, 3)


def test_a_users_model_is_loaded_from_an_entry_point(users_module):
    entry = mock.Mock(load=lambda: users_model)
    entry.name = "pump"
    with mock.patch.object(model_module, "entry_points", return_value=[entry]):
        assert load_model("pump").name == "users"


def test_an_entry_point_cannot_take_the_name_of_a_built_in_model():
    entry = mock.Mock(load=lambda: users_model)
    entry.name = "mlp"
    with mock.patch.object(model_module, "entry_points", return_value=[entry]):
        assert load_model("mlp", {"input_shape": [2], "classes": ABC}).name == "mlp"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lstm", "use one of"),
        ("plant_models:fan", "has no attribute 'fan'"),
        ("no_such_package:pump", "No module named 'no_such_package'"),
        ("plant_models:", "cannot be loaded"),
        (":pump", "cannot be loaded"),
        ("plant_models:number", "a function is needed"),
        ("plant_models:broken", "not a SlimmableModel"),
    ],
)
def test_a_model_that_is_not_there_is_explained_in_one_line(users_module, name, message):
    with pytest.raises(ModelError, match=message) as caught:
        load_model(name)
    assert "\n" not in str(caught.value)


def test_without_torch_a_model_says_what_to_install():
    with (
        mock.patch.dict(sys.modules, {"torch": None, "slimmable.models.mlp": None}),
        mock.patch.object(
            model_module.importlib,
            "import_module",
            side_effect=ModuleNotFoundError("No module named 'torch'", name="torch"),
        ),
        pytest.raises(ModelError, match=r"install slimfleet\[train\]"),
    ):
        load_model("mlp", {})


def with_spec(change):
    model = users_model()
    tensors = dict(model.spec.tensors)
    change(tensors)
    spec = WidthSpec(model.spec.axes, tensors, model.spec.statistics & set(tensors))
    return SlimmableModel("users", spec, model.task, model.input_shape, model.build)


def test_a_spec_that_forgets_a_tensor_is_found_out():
    model = with_spec(lambda tensors: tensors.pop("0.bias"))
    with pytest.raises(ModelError, match=r"'0.bias' has shape \(4,\) in the network, none in the"):
        check_model(model, [1.0])


def test_a_spec_that_scales_what_the_network_keeps_is_found_out():
    def keep(tensors):
        tensors["4.weight"] = tensors["4.weight"][::-1]

    with pytest.raises(ModelError, match="'4.weight'"):
        check_model(with_spec(keep), [1.0, 0.5])


def test_a_network_that_breaks_at_a_width_is_found_out():
    model = users_model()
    fixed = nn.Sequential(*list(users_network())[:3], nn.Unflatten(1, (4, 1)), nn.Flatten())
    fixed.append(nn.Linear(20, 3))
    spec = WidthSpec(
        model.spec.axes,
        {name.replace("4.", "5."): dims for name, dims in model.spec.tensors.items()},
        model.spec.statistics,
    )
    broken = SlimmableModel(
        "users", spec, model.task, model.input_shape, build_by_slicing(fixed, spec)
    )
    check_model(broken, [1.0])
    with pytest.raises(ModelError, match="at width 0.5 fails on inputs of shape") as caught:
        check_model(broken, [1.0, 0.5])
    assert "\n" not in str(caught.value)


def test_outputs_that_do_not_fit_the_task_are_found_out():
    model = users_model()
    for task in (classification([*ABC, "d"]), reconstruction()):
        wrong = SlimmableModel("users", model.spec, task, model.input_shape, model.build)
        with pytest.raises(ModelError, match="returns shape"):
            check_model(wrong, [1.0])


def test_tied_parameters_are_refused():
    def build(width):
        network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        network[1].weight = network[0].weight
        return network

    spec = SpecBuilder()
    four = spec.fixed(4)
    spec.linear("0", four, four)
    spec.linear("1", four, four)
    model = SlimmableModel("tied", spec.spec(), regression(), (4,), build)
    with pytest.raises(ModelError, match="'1.weight' shares its values"):
        check_model(model, [1.0])
    with pytest.raises(ModelError, match="'1.weight' shares its values"):
        build_by_slicing(build(1.0), spec.spec())


def test_slicing_needs_the_tensors_that_the_spec_names():
    spec = SpecBuilder()
    spec.linear("head", spec.fixed(3), spec.scaling(20))
    with pytest.raises(ModelError, match=r"no tensor 'head\.bias'"):
        build_by_slicing(users_network(), spec.spec())
