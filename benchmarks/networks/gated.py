"""Gates: gated linear units, features that steer others."""

# mypy: disable-error-code="no-any-return"

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from benchmarks.networks import Shapes


class GatedConvolutions(nn.Module):
    """Convolutions with twice the channels, the second half of which gates the first."""

    def __init__(
        self, into: int = 4, channels: Sequence[int] = (16, 32), hidden: int = 32, outputs: int = 3
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(into, 2 * channels[0], 3, padding=1)
        self.conv2 = nn.Conv1d(channels[0], 2 * channels[1], 3, padding=1)
        self.gate = nn.Linear(channels[1], 2 * hidden)
        self.head = nn.Linear(hidden, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return values (batch, outputs) of signals (batch, C, T)."""
        x = functional.glu(self.conv1(x), dim=1)
        value, gate = self.conv2(x).chunk(2, dim=1)
        x = torch.tanh(value) * torch.sigmoid(gate)
        value, gate = self.gate(x.mean(2)).chunk(2, dim=-1)
        return self.head(functional.silu(gate) * value)


def native_gated(shapes: Shapes) -> GatedConvolutions:
    """Build the network with the lengths that are kept."""
    channels = (shapes("conv2.weight")[1], shapes("gate.weight")[1])
    outputs, hidden = shapes("head.weight")
    return GatedConvolutions(shapes("conv1.weight")[1], channels, hidden, outputs)


class ConditionedNet(nn.Module):
    """A vector scales and shifts the channels of an image (Perez et al., AAAI 2018)."""

    def __init__(
        self,
        image_channels: int = 3,
        conditions: int = 5,
        channels: int = 32,
        hidden: int = 16,
        classes: int = 4,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(image_channels, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.condition = nn.Sequential(
            nn.Linear(conditions, hidden), nn.ReLU(), nn.Linear(hidden, 2 * channels)
        )
        self.fc = nn.Linear(channels, classes)

    def forward(self, image: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, classes) of images (batch, C, H, W) and conditions (batch, F)."""
        scale, shift = self.condition(condition)[:, :, None, None].chunk(2, 1)
        x = functional.leaky_relu(self.norm(self.conv(image)) * (1 + scale) + shift, 0.1)
        return self.fc(x.flatten(2).mean(-1))


def native_conditioned(shapes: Shapes) -> ConditionedNet:
    """Build the network with the lengths that are kept."""
    channels, image_channels = shapes("conv.weight")[:2]
    hidden, conditions = shapes("condition.0.weight")
    return ConditionedNet(image_channels, conditions, channels, hidden, shapes("fc.weight")[0])
