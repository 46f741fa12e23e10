"""Buffers, parameters without a layer, and branches on ``self.training``."""

# mypy: disable-error-code="no-any-return"

import math

import torch
from torch import nn
from torch.nn import functional

from benchmarks.networks import Shapes


def sinusoids(steps: int, dim: int) -> torch.Tensor:
    """Return the table (steps, dim) of Vaswani et al. (NeurIPS 2017)."""
    rates = torch.exp(torch.arange(0, dim, 2) * (-math.log(10000.0) / dim))
    angles = torch.arange(steps)[:, None] * rates
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)


class SinusoidNet(nn.Module):
    """Adds a table of positions, which is a buffer, to an embedded signal."""

    table: torch.Tensor

    def __init__(
        self,
        inputs: int = 4,
        table: torch.Tensor | None = None,
        hidden: int = 32,
        classes: int = 5,
        *,
        persistent: bool = True,
    ) -> None:
        super().__init__()
        table = sinusoids(12, 32) if table is None else table
        self.register_buffer("table", table, persistent=persistent)
        self.embed = nn.Linear(inputs, table.shape[1])
        self.norm = nn.LayerNorm(table.shape[1])
        self.fc1 = nn.Linear(table.shape[1], hidden)
        self.fc2 = nn.Linear(hidden, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, classes) of signals (batch, T, F)."""
        x = self.embed(x) + self.table[: x.size(1)]
        x = self.norm(x).mean(1)
        return self.fc2(functional.gelu(self.fc1(x)))


def native_sinusoid_net(shapes: Shapes, *, persistent: bool = True) -> SinusoidNet:
    """Build the network with the lengths that are kept; it keeps the table's first columns."""
    dim, inputs = shapes("embed.weight")
    table = sinusoids(12, 32)[:, :dim].contiguous()
    hidden, classes = shapes("fc1.weight")[0], shapes("fc2.weight")[0]
    return SinusoidNet(inputs, table, hidden, classes, persistent=persistent)


class NormalisedInput(nn.Module):
    """Knows the mean and the spread of its inputs; counts nothing, but has a whole number."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, channels: tuple[int, int] = (16, 32), classes: int = 10) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))
        self.register_buffer("version", torch.tensor(2))
        self.conv1 = nn.Conv2d(3, channels[0], 3, padding=1)
        self.conv2 = nn.Conv2d(channels[0], channels[1], 3, padding=1)
        self.fc = nn.Linear(channels[1], classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, classes) of images (batch, 3, H, W)."""
        x = (x - self.mean) / self.std
        x = functional.relu(self.conv2(functional.relu(self.conv1(x))))
        return self.fc(x.mean((2, 3)))


def native_normalised_input(shapes: Shapes) -> NormalisedInput:
    """Build the network with the lengths that are kept."""
    channels = (shapes("conv1.weight")[0], shapes("conv2.weight")[0])
    return NormalisedInput(channels, shapes("fc.weight")[0])


class ParameterNet(nn.Module):
    """Lists and dictionaries of parameters, a learned activation, `addmm` and `baddbmm`."""

    def __init__(
        self, inputs: int = 8, hidden: tuple[int, int] = (32, 16), outputs: int = 3
    ) -> None:
        super().__init__()
        self.weights = nn.ParameterList(
            [torch.randn(inputs, hidden[0]) * 0.3, torch.randn(hidden[0], hidden[1]) * 0.3]
        )
        self.biases = nn.ParameterDict({"a": torch.zeros(hidden[0]), "b": torch.zeros(hidden[1])})
        self.slope = nn.PReLU(hidden[0])
        self.temperature = nn.Parameter(torch.tensor(1.5))
        self.out = nn.Parameter(torch.randn(outputs, hidden[1]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return values (batch, outputs) of vectors (batch, F)."""
        x = self.slope(torch.addmm(self.biases["a"], x, self.weights[0]))
        x = torch.tanh(x @ self.weights[1] + self.biases["b"]) / self.temperature
        return x @ self.out.T


def native_parameter_net(shapes: Shapes) -> ParameterNet:
    """Build the network with the lengths that are kept."""
    inputs, first = shapes("weights.0")
    outputs, second = shapes("out")
    return ParameterNet(inputs, (first, second), outputs)


class DropPath(nn.Module):
    """Leave the branch out for some samples while training (Huang et al., ECCV 2016)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x, or in training zeros for some samples."""
        if self.rate == 0.0 or not self.training:
            return x
        keep = 1 - self.rate
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)
        mask = x.new_empty(shape).bernoulli_(keep)
        return x * mask.div_(keep)


class StochasticDepth(nn.Module):
    """Residual blocks left out at random, dropout of channels, noise while training."""

    def __init__(
        self,
        channels: int = 32,
        inner: tuple[int, int] = (32, 16),
        classes: int = 10,
        rate: float = 0.2,
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, size, 3, padding=1),
                nn.BatchNorm2d(size),
                nn.ReLU(),
                nn.Dropout2d(0.1),
                nn.Conv2d(size, channels, 3, padding=1),
            )
            for size in inner
        )
        self.drop_path = DropPath(rate)
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, classes) of images (batch, 3, H, W)."""
        x = self.stem(x)
        if self.training:
            x = x + 0.01 * torch.randn_like(x)
        for block in self.blocks:
            x = functional.relu(x + self.drop_path(block(x)))
        return self.fc(functional.dropout(x.mean((2, 3)), 0.3, training=self.training))


def native_stochastic_depth(shapes: Shapes) -> StochasticDepth:
    """Build the network with the lengths that are kept."""
    inner = (shapes("blocks.0.0.weight")[0], shapes("blocks.1.0.weight")[0])
    return StochasticDepth(shapes("stem.weight")[0], inner, shapes("fc.weight")[0])
