"""Your own model for a fleet: an autoencoder that learns what a healthy pump looks like.

It squeezes half a minute of four signals through a few numbers and gives the window back. It only
ever sees healthy pumps, so what it gives back badly is not healthy: an anomaly, without a label.

Three things make a network slimmable, and this file shows all three:

1. the network, built with any number of channels (`PumpAutoencoder`);
2. the *width spec*: which dimension of which tensor scales with the width (`declare`);
3. the function that the configuration names (`pump`), which puts both together with the task.

Server and training devices install this file; a device that only infers does not need it.
"""

from collections.abc import Sequence

import torch
from torch import nn

from slimmable.model import SlimmableModel
from slimmable.models.spec_builder import SpecBuilder
from slimmable.spec import AxisTerm, WidthSpec
from slimmable.task import reconstruction

SENSORS = 4
KERNEL = 5
SHRINK = 4  # two convolutions of stride 2


class PumpAutoencoder(nn.Module):
    """Encoder, bottleneck, decoder; every size is an argument, so that it can be built narrow."""

    def __init__(self, first: int, second: int, code: int, length: int) -> None:
        """Build the network.

        Args:
            first: channels after the first convolution, and before the last.
            second: channels of the innermost ones.
            code: numbers that a window is squeezed into.
            length: time steps of a window.
        """
        super().__init__()
        self.second, self.inner = second, length // SHRINK
        half = KERNEL // 2
        self.encode1 = nn.Conv1d(SENSORS, first, KERNEL, stride=2, padding=half, bias=False)
        self.norm1 = nn.BatchNorm1d(first)
        self.encode2 = nn.Conv1d(first, second, KERNEL, stride=2, padding=half, bias=False)
        self.norm2 = nn.BatchNorm1d(second)
        self.squeeze = nn.Linear(second * self.inner, code)
        self.expand = nn.Linear(code, second * self.inner)
        self.decode2 = nn.Conv1d(second, first, KERNEL, padding=half, bias=False)
        self.norm3 = nn.BatchNorm1d(first)
        self.decode1 = nn.Conv1d(first, SENSORS, KERNEL, padding=half)

    def forward(self, x_BCT: torch.Tensor) -> torch.Tensor:
        """Return the window as it comes out of the bottleneck, in the shape that it went in."""
        inner = torch.relu(self.norm1(self.encode1(x_BCT)))
        inner = torch.relu(self.norm2(self.encode2(inner)))
        code_BF = self.squeeze(inner.flatten(1))
        inner = torch.relu(self.expand(code_BF)).reshape(-1, self.second, self.inner)
        inner = nn.functional.interpolate(inner, scale_factor=2.0)
        inner = torch.relu(self.norm3(self.decode2(inner)))
        inner = nn.functional.interpolate(inner, scale_factor=2.0)
        return self.decode1(inner)  # type: ignore[no-any-return]


def declare(
    channels: Sequence[int], code: int, length: int
) -> tuple[WidthSpec, tuple[AxisTerm, AxisTerm, AxisTerm]]:
    """Return the width spec and its three scaling axes.

    An *axis* is one length that several tensors share. At width 0.5 an axis of 16 keeps its first
    8 entries, in every tensor that has it. Here three axes scale; sensors, kernels and time do not,
    because a narrow network reads the same signals.
    """
    spec = SpecBuilder()
    sensors = spec.fixed(SENSORS)
    # The granule 4 keeps channels at multiples of 4, which convolutions on a CPU like.
    first, second = (spec.scaling(size, granule=4) for size in channels)
    squeezed = spec.scaling(code)
    # Flattening lays the time steps of each channel side by side: channels x steps, in this order.
    # Half the channels are the first half of the flattened vector, and the spec has to say so.
    flat = spec.flattened(second, length // SHRINK)

    # The names are those of the network's state dict; out comes before in, as in torch.
    spec.conv("encode1", first, sensors, (KERNEL,), bias=False)
    spec.batch_norm("norm1", first)
    spec.conv("encode2", second, first, (KERNEL,), bias=False)
    spec.batch_norm("norm2", second)
    spec.linear("squeeze", squeezed, flat)
    spec.linear("expand", flat, squeezed)
    spec.conv("decode2", first, second, (KERNEL,), bias=False)
    spec.batch_norm("norm3", first)
    spec.conv("decode1", sensors, first, (KERNEL,), bias=True)
    return spec.spec(), (first, second, squeezed)


def pump(*, length: int = 32, channels: Sequence[int] = (16, 32), code: int = 8) -> SlimmableModel:
    """Return the model; the arguments are what ``[campaign.options]`` may set.

    Args:
        length: time steps of a window.
        channels: of the two convolutions at full width.
        code: numbers that a window is squeezed into at full width. Fewer find finer anomalies and
            forgive less.

    Raises:
        ValueError: the window cannot be halved twice, or there are not two channel counts.
    """
    if length % SHRINK or len(channels) != 2:
        raise ValueError(f"length {length} must be a multiple of {SHRINK}, channels two numbers")
    spec, axes = declare(channels, code, length)

    def build(width: float) -> nn.Module:
        # Ask the axes, do not multiply: they also round, and at least one channel stays.
        first, second, squeezed = (spec.axes[axis.axis].keep(width) for axis in axes)
        return PumpAutoencoder(first, second, squeezed, length)

    # The name is the one that stands in server.toml. Reconstruction needs no labels: its score is
    # the share of the signals' variance that comes back, at most 1.
    return SlimmableModel("plant_model:pump", spec, reconstruction(), (SENSORS, length), build)
