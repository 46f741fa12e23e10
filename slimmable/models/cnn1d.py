"""A 1-D convolutional network for windows of sensor channels."""

from collections.abc import Sequence

import torch
from torch import nn

from slimmable.model import SlimmableModel
from slimmable.models.normalisation import Normalisation
from slimmable.models.spec_builder import SpecBuilder
from slimmable.task import classification


class Cnn1d(nn.Module):
    """Convolution, norm, ReLU and pooling per stage; the mean over time; a classifier."""

    def __init__(
        self,
        channels: Sequence[int],
        kernels: Sequence[int],
        sensors: int,
        classes: int,
        norm: Normalisation,
    ) -> None:
        """Build the network with the given number of channels per stage."""
        super().__init__()
        into = [sensors, *channels[:-1]]
        self.conv = nn.ModuleList(
            nn.Conv1d(i, o, k, padding=k // 2, bias=False)
            for i, o, k in zip(into, channels, kernels, strict=True)
        )
        self.norm = nn.ModuleList(norm.layer_1d(o) for o in channels)
        self.head = nn.Linear(channels[-1], classes)

    def forward(self, x_BCT: torch.Tensor) -> torch.Tensor:
        """Return logits of shape (batch, classes) for windows of shape (batch, sensors, time)."""
        for stage, (conv, norm) in enumerate(zip(self.conv, self.norm, strict=True)):
            x_BCT = torch.relu(norm(conv(x_BCT)))
            if stage < len(self.conv) - 1:
                x_BCT = nn.functional.max_pool1d(x_BCT, 2)
        return self.head(x_BCT.mean(dim=2))  # type: ignore[no-any-return]


def cnn1d(
    *,
    sensors: int,
    length: int,
    classes: Sequence[str],
    channels: Sequence[int] = (32, 64, 64),
    kernels: Sequence[int] = (5, 5, 3),
    granules: Sequence[int] = (2, 4, 4),
    norm: str = "batch",
    channels_per_group: int = 4,
) -> SlimmableModel:
    """Return the slimmable 1-D CNN.

    Args:
        sensors: input channels.
        length: time steps of a window.
        classes: class names.
        channels: output channels per stage at full width.
        kernels: kernel length per stage (odd).
        granules: channel rounding per stage, see `slimmable.width.Axis`.
        norm: "batch", or "group", which needs no statistics and learns more slowly.
        channels_per_group: of group norm, the same at every width.

    Raises:
        ValueError: a window too short for the pooling, an even kernel, lists of unequal length, or
            groups that do not fit.
    """
    if length < 2 ** (len(channels) - 1) or not all(kernel % 2 for kernel in kernels):
        raise ValueError(
            f"windows of {length} steps, kernels {list(kernels)}: kernels must be odd, windows at"
            f" least {2 ** (len(channels) - 1)} steps for {len(channels)} stages"
        )
    normalisation = Normalisation.of(norm, channels_per_group)
    spec = SpecBuilder()
    axes = [normalisation.channels(spec, c, g) for c, g in zip(channels, granules, strict=True)]
    into = [spec.fixed(sensors), *axes[:-1]]
    for stage, (out, inner, kernel) in enumerate(zip(axes, into, kernels, strict=True)):
        spec.conv(f"conv.{stage}", out, inner, (kernel,), bias=False)
        normalisation.declare(spec, f"norm.{stage}", out)
    spec.linear("head", spec.fixed(len(classes)), axes[-1])
    finished = spec.spec()

    def build(width: float) -> nn.Module:
        kept = [finished.shape(f"conv.{stage}.weight", width)[0] for stage in range(len(axes))]
        return Cnn1d(kept, kernels, sensors, len(classes), normalisation)

    return SlimmableModel("cnn1d", finished, classification(classes), (sensors, length), build)
