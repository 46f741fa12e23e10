"""Operator by operator: the derived network of a width is the user's code run on sliced weights."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional

from slimmable.derivation.rules import RULES
from slimmable.derivation.scaling import ScalingSettings
from slimmable.evaluation import load_network, state_of
from slimmable.from_module import derivation_of, slimmable_from_module
from slimmable.model import ModelInput
from slimmable.slicing import slice_state
from slimmable.task import regression

pytestmark = pytest.mark.torch

CHANNELS = 16
PIXELS = 4
BOTH = ("outer", "inner")
CASES: dict[str, Callable[[], tuple[nn.Module, bool]]] = {}


class Between(nn.Module):
    """A convolution, the operator, a convolution over the channels that are left."""

    def __init__(self, operator, left=CHANNELS, **layers):
        super().__init__()
        self.first = nn.Conv2d(3, CHANNELS, 1)
        self.last = nn.Linear(left, 3)
        self.operator = operator
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        x = self.operator(self, self.first(x))
        return self.last(x.flatten(2).mean(2) if x.dim() > 2 else x)


def case(operator, left=CHANNELS, scales=True, factors=("outer",), **layers):
    """Add a case; the code reads all sizes from its tensors, so it is its own native network."""
    for factor in factors:
        name = f"{len(CASES):03d}-{factor}"
        CASES[name] = lambda: (Between(operator, left, **layers), scales)


case(lambda _, x: torch.stack([x, x * 2], 1).sum(1))
case(lambda _, x: torch.stack([x, x * 2], 1).flatten(1, 2), left=32, factors=BOTH)
case(lambda _, x: torch.cat([x, x.relu(), -x], 1), left=48)
case(lambda _, x: torch.hstack([x, x]), left=32)
case(lambda _, x: functional.glu(x, 1), left=8)
case(lambda _, x: torch.cat(x.chunk(4, 1)[::-1], 1))
case(lambda _, x: sum(x.tensor_split(2, 1)), left=8)
case(lambda _, x: functional.pixel_shuffle(x, 2), left=4, factors=BOTH)
case(lambda _, x: functional.pixel_unshuffle(x, 2), left=64, factors=BOTH)
case(lambda _, x: functional.interpolate(x, scale_factor=2, mode="bilinear"))
case(lambda _, x: functional.pad(x, (1, 1, 0, 2)))
case(lambda _, x: functional.pad(x, (1, 1, 0, 2), mode="reflect"))
case(lambda _, x: functional.pad(x, (0, 0, 0, 0, 0, 4)), left=20, scales=False)
case(lambda _, x: functional.max_pool2d(x, 3, stride=1, return_indices=True)[0])
case(lambda _, x: functional.adaptive_avg_pool2d(x, 2))
case(lambda _, x: functional.lp_pool2d(x, 2, 2))
case(lambda _, x: x.flip(3))
case(lambda _, x: x.flip(1), scales=False)
case(lambda _, x: x.roll(1, dims=2))
case(lambda _, x: x.roll(1), scales=False)
case(lambda _, x: torch.tril(x))
case(lambda _, x: x.sort(1)[0])
case(lambda _, x: x.topk(3, 2)[0])
case(lambda _, x: x.topk(16, 1)[0], scales=False)
case(lambda _, x: x.cumsum(1))
case(lambda _, x: x.softmax(1) * x.argmax(1, keepdim=True))
case(lambda _, x: functional.normalize(x, dim=1))
case(lambda _, x: x / x.norm(dim=1, keepdim=True))
case(lambda _, x: x - x.logsumexp((1, 2), keepdim=True))
case(lambda _, x: (x - x.mean(1, keepdim=True)) / x.var(1, keepdim=True).add(1).sqrt())
case(lambda _, x: torch.maximum(x, x.amax(1, keepdim=True) / 2).clamp(-1, 1))
case(lambda _, x: x.max(x.mean(1, keepdim=True)))
case(lambda _, x: torch.where(x > 0, x, x.new_zeros(x.shape)))
case(lambda _, x: x.masked_fill(x < 0, 0.5))
case(lambda _, x: x + torch.ones(x.shape[1], 1, 1))
case(lambda _, x: x + torch.arange(x.shape[1]).view(-1, 1, 1), scales=False)
case(lambda _, x: x * torch.zeros_like(x).add_(2).sigmoid_())
case(lambda _, x: x[:, :, 1:, ::2])
case(lambda _, x: x[:, :, :, 0])
case(lambda _, x: x[:, 2:10], left=8, scales=False)
case(lambda _, x: x.narrow(1, 0, x.shape[1]))
case(lambda _, x: x.index_select(2, torch.tensor([2, 0])))
case(lambda _, x: x.index_select(1, torch.tensor([2, 0])), left=2, scales=False)
case(lambda _, x: x[:, :, torch.tensor([[0, 1], [1, 2]])].flatten(2))
case(lambda _, x: x[:, torch.tensor([0, 3])], left=2, scales=False)
case(lambda _, x: x.gather(3, x.argsort(3)))
case(lambda _, x: x.unbind(2)[0] + x.select(2, 1))
case(lambda _, x: x.movedim(1, 3).movedim(3, 1))
case(lambda _, x: x.swapaxes(1, 2).swapdims(1, 2))
case(lambda _, x: x.permute(0, 2, 3, 1).flatten(1, 2).mT)
case(lambda _, x: x.repeat(1, 2, 1, 1), left=32, factors=BOTH)
case(lambda _, x: x.tile(2, 1, 1), left=32)
case(lambda _, x: x.repeat_interleave(3, 1), left=48, factors=BOTH)
case(
    lambda _, x: x.unflatten(1, (4, x.shape[1] // 4)).transpose(1, 2).flatten(1, 2),
    factors=("inner",),
)
case(
    lambda _, x: x.unflatten(1, (x.shape[1] // 4, 4)).transpose(1, 2).flatten(1, 2),
    factors=("outer",),
)
case(lambda _, x: x.mean((2, 3)).unsqueeze(1).expand(-1, 5, -1).mean(1))
case(lambda _, x: x * x.mean((2, 3), keepdim=True).expand_as(x))
case(lambda _, x: x + x.flatten(2).view_as(x))
case(lambda _, x: torch.broadcast_to(x[:, :, :1, :1], x.shape))
case(lambda _, x: torch.einsum("bchw,bdhw->bcd", x, x).softmax(1))
case(
    lambda self, x: torch.einsum("b...d,de->b...e", x.movedim(1, 3), self.mix).movedim(3, 1),
    mix=nn.Parameter(torch.randn(CHANNELS, CHANNELS)),
)
case(
    lambda self, x: torch.einsum("bchw,c", x, self.mix),
    left=PIXELS,
    mix=nn.Parameter(torch.randn(CHANNELS)),
)
case(
    lambda self, x: torch.addmm(self.shift, x.mean((2, 3)), self.mix),
    left=8,
    mix=nn.Parameter(torch.randn(CHANNELS, 8)),
    shift=nn.Parameter(torch.randn(8)),
)
case(
    lambda _, x: torch.baddbmm(
        x.flatten(2), x.flatten(2), torch.ones(1, 16, 16).expand(x.shape[0], -1, -1)
    )
)
case(lambda self, x: x.mean((2, 3)) @ self.mix, left=8, mix=nn.Parameter(torch.randn(CHANNELS, 8)))
case(
    lambda self, x: (x.movedim(1, 3) @ self.mix).unsqueeze(1),
    left=1,
    mix=nn.Parameter(torch.randn(CHANNELS)),
)
case(
    lambda self, x: self.mix(x.mean((2, 3)), x.amax((2, 3))),
    left=6,
    mix=nn.Bilinear(CHANNELS, CHANNELS, 6),
)
case(lambda self, x: self.slope(x), slope=nn.PReLU(CHANNELS))
case(lambda self, x: self.slope(x), slope=nn.PReLU())
case(lambda self, x: self.norm(x), norm=nn.InstanceNorm2d(CHANNELS, affine=True))
case(
    lambda self, x: self.norm(x),
    norm=nn.InstanceNorm2d(CHANNELS, affine=True, track_running_stats=True),
)
case(
    lambda self, x: functional.rms_norm(x.movedim(1, 3), x.shape[1:2], self.scale).movedim(3, 1),
    scale=nn.Parameter(torch.randn(CHANNELS)),
)
case(
    lambda self, x: functional.layer_norm(x, x.shape[1:], self.scale),
    scale=nn.Parameter(torch.randn(CHANNELS, PIXELS, PIXELS)),
)
case(
    lambda self, x: self.conv(x),
    left=8,
    conv=nn.utils.parametrizations.weight_norm(nn.Conv2d(CHANNELS, 8, 1)),
)
case(lambda self, x: self.cell(x.mean((2, 3))), left=8, cell=nn.GRUCell(CHANNELS, 8))
case(lambda self, x: self.cell(x.mean((2, 3)))[1], left=8, cell=nn.LSTMCell(CHANNELS, 8))
case(lambda self, x: self.cell(x.mean((2, 3))), left=8, cell=nn.RNNCell(CHANNELS, 8))
case(
    lambda self, x: x + self.table((x[:, 0, 0] > 0).long()).mean(1)[:, :, None, None],
    table=nn.Embedding(2, CHANNELS),
    scales=False,
)
case(
    lambda self, x: x.mean((2, 3)) + self.table((x.mean(1)[:, 0] > 0).long()),
    table=nn.EmbeddingBag(2, CHANNELS),
)
case(
    lambda _, x: (
        functional.scaled_dot_product_attention(
            x.flatten(2).mT.unsqueeze(1),
            x.flatten(2).mT.unsqueeze(1),
            x.flatten(2).mT.unsqueeze(1),
            attn_mask=torch.ones(16, 16).tril().bool(),
        )
        .squeeze(1)
        .mT
    )
)
case(lambda _, x: functional.channel_shuffle(x, 4), factors=("inner",))


def native(user, model, width, state):
    """Return the user's network with the sliced tensors in it."""
    network = copy.deepcopy(user)
    for name, array in slice_state(state, model.spec, width).items():
        path, _, leaf = name.rpartition(".")
        owner = network.get_submodule(path)
        if leaf in owner._parameters:
            owner._parameters[leaf] = nn.Parameter(torch.tensor(array))
        else:
            owner._buffers[leaf] = torch.tensor(array)
    for part in network.modules():
        if isinstance(part, nn.RNNCellBase):
            part.hidden_size = part.weight_hh.shape[1]
            part.input_size = part.weight_ih.shape[1]
        if isinstance(part, nn.InstanceNorm2d):
            part.num_features = part.weight.shape[0]
    return network.eval()


@pytest.mark.parametrize("name", sorted(CASES))
def test_the_derived_network_computes_what_the_code_computes_on_sliced_weights(name):
    torch.manual_seed(0)
    user, scales = CASES[name]()
    with torch.no_grad():
        for tensor in (*user.parameters(), *user.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) + 0.5)
    image = ModelInput((3, PIXELS, PIXELS))
    model = slimmable_from_module(
        "case",
        user,
        (image,),
        regression(),
        settings=ScalingSettings(factor=name.partition("-")[2]),
    )
    state = state_of(user, model)
    assert (model.spec.shape("first.weight", 0.5)[0] < CHANNELS) is scales
    derivation = derivation_of(model)
    assert derivation is not None
    assert not [entry for entry in derivation.report if "unknown" in entry.reason]
    for width in (0.25, 0.5, 1.0):
        network = load_network(model, width, slice_state(state, model.spec, width))
        x = torch.randn(3, *image.shape, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            expected, found = native(user, model, width, state)(x), network(x)
        assert torch.allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_every_rule_is_for_an_operator_of_torch():
    unknown = [name for name in RULES if not hasattr(torch.ops.aten, name)]
    # Without their underscore these have no overload of their own.
    assert [name for name in unknown if not hasattr(torch.ops.aten, f"{name}_")] == []
