"""Temporal convolutional networks: dilated, causal, residual (Bai et al., 2018)."""

# mypy: disable-error-code="no-any-return"

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

from benchmarks.networks import Shapes

KERNEL = 3


class Chomp(nn.Module):
    """Cut what the padding added at the end."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x without its last steps."""
        return x[:, :, : -self.size].contiguous()


class TemporalBlock(nn.Module):
    """Two causal convolutions and a shortcut."""

    def __init__(
        self, into: int, inner: int, out: int, dilation: int, *, project: bool, normed: bool
    ) -> None:
        super().__init__()
        padding = (KERNEL - 1) * dilation
        conv1 = nn.Conv1d(into, inner, KERNEL, padding=padding, dilation=dilation)
        conv2 = nn.Conv1d(inner, out, KERNEL, padding=padding, dilation=dilation)
        self.net = nn.Sequential(
            weight_norm(conv1) if normed else conv1,
            Chomp(padding),
            nn.ReLU(),
            nn.Dropout(0.1),
            weight_norm(conv2) if normed else conv2,
            Chomp(padding),
            nn.ReLU(),
        )
        self.downsample = nn.Conv1d(into, out, 1) if project else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the block's output."""
        shortcut = x if self.downsample is None else self.downsample(x)
        return functional.relu(self.net(x) + shortcut)


class TemporalNet(nn.Module):
    """Blocks of growing dilation; the last step is classified."""

    def __init__(
        self,
        inputs: int = 4,
        channels: Sequence[int] = (16, 16, 32),
        inner: Sequence[int] = (16, 16, 32),
        project: Sequence[bool] = (True, False, True),
        classes: int = 5,
        *,
        normed: bool = False,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList()
        into = inputs
        for level, out in enumerate(channels):
            self.blocks.append(
                TemporalBlock(
                    into, inner[level], out, 2**level, project=project[level], normed=normed
                )
            )
            into = out
        self.head = nn.Linear(into, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, classes) of signals (batch, C, T)."""
        for block in self.blocks:
            x = block(x)
        return self.head(x[:, :, -1])


def native_temporal(shapes: Shapes, *, normed: bool = False) -> TemporalNet:
    """Build the network with the lengths that are kept."""
    leaf = "parametrizations.weight.original1" if normed else "weight"
    first = [shapes(f"blocks.{level}.net.0.{leaf}") for level in range(3)]
    second = [shapes(f"blocks.{level}.net.4.{leaf}") for level in range(3)]
    return TemporalNet(
        first[0][1],
        [shape[0] for shape in second],
        [shape[0] for shape in first],
        classes=shapes("head.weight")[0],
        normed=normed,
    )
