"""Where it is computed. A stand-in as strict as a GPU shows that nothing is left on the CPU."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from coordinator.aggregation.rules import steps_of
from coordinator.aggregation.updates import DeviceUpdate
from coordinator.evaluator import RoundEvaluator
from coordinator.measuring import Validation
from slimmable.evaluation import calibrate, initial_state, outputs
from slimmable.from_module import slimmable_from_module
from slimmable.model import ModelError, ModelInput, load_model
from slimmable.model_check import check_model
from slimmable.samples import Samples
from slimmable.slicing import slice_state
from slimmable.task import TaskKind, classification, regression
from slimmable.torch_device import (
    TorchDeviceError,
    computing_on,
    find_torch_device,
    on_torch_device,
    torch_device,
)
from slimmable.training import TrainingRule, train
from tests.fakes.stand_in_gpu import STAND_IN, WrongDeviceError, stand_in_gpu
from tests.fakes.toy_models import toy
from tests.unit.test_simulation import play, settings

pytestmark = pytest.mark.torch

GRID = (0.5, 1.0)
RULE = TrainingRule(
    steps=4, batch_size=8, learning_rate=0.1, momentum=0.9, weight_decay=0.01, widths=GRID
)
CLASSES = ("low", "high")


class Assorted(nn.Module):
    """One of each: what is trained, statistics, constants, what is made anew, what is drawn.

    The last layer is cut in pieces: every eighth of its columns belongs to one channel.
    """

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.2)
        self.last = nn.Linear(8 * 9, 2)
        self.register_buffer("shift", torch.randn(8, 1, 1))
        self.register_buffer("centre", torch.randn(5, 5), persistent=False)

    def forward(self, x):
        x = self.norm(self.first(x - self.centre)) + self.shift
        x = torch.relu(x * torch.arange(3, dtype=torch.float32, device=x.device))
        return self.last(self.drop(x.permute(0, 2, 3, 1).flatten(1)))


def assorted(task):
    return slimmable_from_module("assorted", Assorted, (ModelInput((1, 5, 5)),), task)


MODELS = {
    "mlp": load_model("mlp", {"input_shape": [6], "classes": CLASSES, "hidden": [8]}),
    "classes": assorted(classification(CLASSES)),
    "values": assorted(regression()),
}


@pytest.fixture
def gpus(monkeypatch):
    """Let torch find so many GPUs."""

    def found(number):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: number > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: number)

    return found


def samples(model):
    rng = np.random.default_rng(7)
    x = rng.standard_normal((30, *model.input_shape)).astype(np.float32)
    y = np.arange(30) % 2
    if model.task.kind is TaskKind.REGRESSION:
        y = rng.standard_normal((30, 2)).astype(np.float32)
    return Samples(x, y, np.arange(30))


def trained(model, rule=RULE, width=1.0):
    """Train and measure one width; return all that comes back from torch."""
    data, rng = samples(model), np.random.default_rng(1)
    state = slice_state(initial_state(model, 0), model.spec, width)
    state, loss = train(model, state, width, data, rule, rng)
    state |= calibrate(model, width, state, data.x)
    return {**state, "loss": np.array(loss), "said": outputs(model, width, state, data.x)}


def measured(model):
    """Play the game of a round by values and by both derivatives."""
    base = initial_state(model, 0)
    updates = [
        DeviceUpdate(name, width, trained(model, width=width))
        for name, width in (("a", 0.5), ("b", 1.0))
    ]
    game = RoundEvaluator(
        model, base, steps_of(base, model.spec, updates), GRID, Validation.of(samples(model))
    )
    values = {"all": game.value(frozenset("ab")), "alone": game.alone("a")}
    return {**values, **game.slopes(), **{f"bend {d}": b for d, b in game.bends().items()}}


def assert_same(ones, others):
    assert ones.keys() == others.keys()
    for name, one in ones.items():
        np.testing.assert_array_equal(one, others[name], err_msg=name)


def test_a_name_becomes_the_torch_device_that_is_there(gpus):
    gpus(2)
    assert find_torch_device("cpu") == torch.device("cpu")
    assert find_torch_device("cuda") == find_torch_device("auto") == torch.device("cuda")
    assert find_torch_device("cuda:1") == torch.device("cuda:1")
    gpus(0)
    assert find_torch_device("auto") == torch.device("cpu")


@pytest.mark.parametrize("name", ["", "gpu", "CUDA", "cuda:", "cuda:x", "cuda:01", "mps", "meta"])
def test_any_other_name_is_refused(gpus, name):
    gpus(2)
    with pytest.raises(TorchDeviceError, match="no such torch device; use 'cpu', 'cuda'"):
        find_torch_device(name)


@pytest.mark.parametrize(("number", "name"), [(0, "cuda"), (0, "cuda:0"), (1, "cuda:1")])
def test_a_gpu_that_torch_does_not_find_is_refused(gpus, number, name):
    gpus(number)
    why = f"'{name}': torch .* finds {number} GPUs here.*use 'cpu' or 'auto'"
    with pytest.raises(TorchDeviceError, match=why):
        find_torch_device(name)


def test_a_choice_ends_with_its_block(gpus):
    gpus(1)
    with computing_on("cuda"):
        assert torch_device() == torch.device("cuda")
        assert torch.backends.cudnn.conv.fp32_precision != "tf32"
        with pytest.raises(TorchDeviceError), computing_on("cuda:7"):
            pass
        assert torch_device() == torch.device("cuda")
    assert torch_device() == torch.device("cpu")


def test_the_stand_in_is_as_strict_as_a_gpu(monkeypatch):
    """Else the tests below could not fail."""
    x = np.eye(2, dtype=np.float32)
    with stand_in_gpu(monkeypatch):
        there = on_torch_device(x)
        with pytest.raises(WrongDeviceError, match="add takes tensors of both devices"):
            there + torch.ones(2)
        with pytest.raises(WrongDeviceError, match="mm ran on the CPU"):
            torch.mm(torch.ones(2, 2), torch.ones(2, 2))
        with pytest.raises(RuntimeError, match="numpy"):
            there.numpy()
        assert (there + torch.tensor(1.0)).cpu().tolist() == (x + 1).tolist()


def test_a_network_that_makes_tensors_elsewhere_is_refused_at_the_start(monkeypatch):
    network = toy()  # adds a tensor that its forward makes on the CPU
    check_model(network, GRID)
    with (
        stand_in_gpu(monkeypatch),
        pytest.raises(ModelError, match="at width 0.5 fails .* takes tensors of both devices"),
    ):
        check_model(network, GRID)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    "changes",
    [{}, {"rule": "sandwich", "distillation": 0.5}, {"distillation": 0.5, "gradient_norm": 1.0}],
    ids=["ordered-dropout", "sandwich", "distillation"],
)
def test_a_training_is_computed_on_the_torch_device_and_nowhere_else(monkeypatch, name, changes):
    model, rule = MODELS[name], replace(RULE, **changes)
    here = trained(model, rule)
    with stand_in_gpu(monkeypatch) as computed:
        there = trained(model, rule)
    assert {"mm", "addmm"} < computed
    assert ("native_batch_norm" in computed) == bool(model.spec.statistics)
    assert_same(there, here)


@pytest.mark.parametrize("name", MODELS)
def test_a_round_is_measured_on_the_torch_device_and_nowhere_else(monkeypatch, name):
    here = measured(MODELS[name])
    with stand_in_gpu(monkeypatch) as computed:
        there = measured(MODELS[name])
    assert "addmm" in computed
    assert_same(there, here)


@pytest.mark.parametrize(
    "contributions",
    [
        {"coalitions": 4, "alone_rounds": 2},
        {"evaluator": "devices", "method": "cosine-to-aggregate"},
    ],
    ids=["server", "devices"],
)
def test_a_campaign_is_computed_on_the_torch_device_and_nowhere_else(
    monkeypatch, tmp_path, contributions
):
    chosen = settings(contributions=contributions)
    here = play(tmp_path / "here", chosen=chosen)
    with stand_in_gpu(monkeypatch) as computed:
        there = play(tmp_path / "there", chosen=chosen)
    assert {"addmm", "mm"} < computed
    assert list(map(timeless, there.records)) == list(map(timeless, here.records))
    assert_same(there.final, here.final)


def test_a_gpu_keeps_what_every_coalition_is_measured_on(monkeypatch):
    (fold, _) = Validation.of(samples(MODELS["mlp"])).folds
    with stand_in_gpu(monkeypatch):
        assert fold.inputs.device.type == STAND_IN.type
        assert fold.inputs is fold.inputs


def timeless(record):
    timed = {"seconds": 0.0} if hasattr(record.event, "seconds") else {}
    return msgspec.structs.replace(record.event, **timed)
