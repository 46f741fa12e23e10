"""The network of the image experiments: 105,866 parameters, no normalisation."""

from collections.abc import Sequence

import torch
from torch import nn

from slimmable.model import SlimmableModel
from slimmable.models.spec_builder import SpecBuilder
from slimmable.task import classification

SIDE = 28
CHANNELS = (16, 32)
HIDDEN = 64
POOLED_PIXELS = (SIDE // 4) ** 2


class Cnn(nn.Module):
    """Two convolutions, each followed by pooling, and two linear layers."""

    def __init__(self, channels: Sequence[int], hidden: int, classes: int) -> None:
        """Build the network.

        Args:
            channels: of the two convolutions.
            hidden: features between the linear layers.
            classes: how many.
        """
        super().__init__()
        self.first = nn.Conv2d(1, channels[0], 3, padding=1)
        self.second = nn.Conv2d(channels[0], channels[1], 3, padding=1)
        self.hidden = nn.Linear(channels[1] * POOLED_PIXELS, hidden)
        self.head = nn.Linear(hidden, classes)

    def forward(self, x_B1HW: torch.Tensor) -> torch.Tensor:
        """Return logits of shape (batch, classes) for grey images of shape (batch, 1, 28, 28)."""
        # Pooling before ReLU gives the same numbers with a quarter of the work.
        x_BCHW = torch.relu(nn.functional.max_pool2d(self.first(_channels_last(x_B1HW)), 2))
        x_BCHW = torch.relu(nn.functional.max_pool2d(self.second(x_BCHW), 2))
        return self.head(torch.relu(self.hidden(x_BCHW.flatten(1))))  # type: ignore[no-any-return]


def cnn(*, classes: Sequence[str]) -> SlimmableModel:
    """Return the slimmable network; the channels of both convolutions and the features scale."""
    spec = SpecBuilder()
    first, second = (spec.scaling(channels) for channels in CHANNELS)
    hidden = spec.scaling(HIDDEN)
    spec.conv("first", first, spec.fixed(1), (3, 3), bias=True)
    spec.conv("second", second, first, (3, 3), bias=True)
    spec.linear("hidden", hidden, spec.flattened(second, POOLED_PIXELS))
    spec.linear("head", spec.fixed(len(classes)), hidden)
    finished = spec.spec()

    def build(width: float) -> nn.Module:
        kept = [finished.shape(f"{name}.weight", width)[0] for name in ("first", "second")]
        return Cnn(kept, finished.shape("hidden.weight", width)[0], len(classes))

    return SlimmableModel(
        "benchmarks.fairness.network:cnn", finished, classification(classes), (1, SIDE, SIDE), build
    )


def _channels_last(x_B1HW: torch.Tensor) -> torch.Tensor:
    """Return the same images with the strides of channels-last.

    With one channel both layouts have the same bytes and only the strides tell which one is meant;
    convolutions follow them, and train almost twice as fast on a CPU.
    """
    if torch.compiler.is_compiling():  # also while it is exported: there layouts mean nothing
        return x_B1HW
    batch, _, height, width = x_B1HW.shape
    return x_B1HW.contiguous().as_strided((batch, 1, height, width), (height * width, 1, width, 1))
