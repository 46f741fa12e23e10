"""A small 2-D convolutional network for images."""

from collections.abc import Sequence

import torch
from torch import nn

from slimmable.model import SlimmableModel
from slimmable.models.normalisation import Normalisation
from slimmable.models.spec_builder import SpecBuilder
from slimmable.task import classification

KERNEL = 3
POOLED = 2  # the first stages halve the image, the others look at it as it then is


class Cnn2d(nn.Module):
    """Convolution, norm, ReLU and pooling per stage; the mean over pixels; a classifier."""

    def __init__(
        self, channels: Sequence[int], image_channels: int, classes: int, norm: Normalisation
    ) -> None:
        """Build the network with the given number of channels per stage."""
        super().__init__()
        into = [image_channels, *channels[:-1]]
        self.conv = nn.ModuleList(
            nn.Conv2d(i, o, KERNEL, padding=KERNEL // 2, bias=False)
            for i, o in zip(into, channels, strict=True)
        )
        self.norm = nn.ModuleList(norm.layer_2d(o) for o in channels)
        self.head = nn.Linear(channels[-1], classes)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Return logits of shape (batch, classes) for images of shape (batch, C, H, W)."""
        for stage, (conv, norm) in enumerate(zip(self.conv, self.norm, strict=True)):
            x_BCHW = torch.relu(norm(conv(x_BCHW)))
            if stage < POOLED:
                x_BCHW = nn.functional.max_pool2d(x_BCHW, 2)
        return self.head(x_BCHW.mean(dim=(2, 3)))  # type: ignore[no-any-return]


def cnn2d(
    *,
    classes: Sequence[str],
    image_channels: int = 1,
    height: int = 28,
    image_width: int | None = None,
    channels: Sequence[int] = (16, 32, 64, 64),
    granules: Sequence[int] = (4, 4, 8, 8),
    norm: str = "batch",
    channels_per_group: int = 4,
) -> SlimmableModel:
    """Return the slimmable 2-D CNN.

    Args:
        classes: class names.
        image_channels: 1 for grey, 3 for colour.
        height: pixels, at least 4.
        image_width: pixels, at least 4; without it images are square.
        channels: output channels per stage at full width.
        granules: channel rounding per stage, see `slimmable.width.Axis`.
        norm: "batch", or "group", which needs no statistics and learns more slowly.
        channels_per_group: of group norm, the same at every width.

    Raises:
        ValueError: the image is too small, or there is not one granule per stage, or groups do
            not fit.
    """
    input_shape = (image_channels, height, image_width or height)
    if min(input_shape[1:]) < 2**POOLED:
        raise ValueError(f"images of {input_shape[1:]} pixels; at least 4 by 4 are needed")
    normalisation = Normalisation.of(norm, channels_per_group)
    spec = SpecBuilder()
    axes = [normalisation.channels(spec, c, g) for c, g in zip(channels, granules, strict=True)]
    into = [spec.fixed(image_channels), *axes[:-1]]
    for stage, (out, inner) in enumerate(zip(axes, into, strict=True)):
        spec.conv(f"conv.{stage}", out, inner, (KERNEL, KERNEL), bias=False)
        normalisation.declare(spec, f"norm.{stage}", out)
    spec.linear("head", spec.fixed(len(classes)), axes[-1])
    finished = spec.spec()

    def build(width: float) -> nn.Module:
        kept = [finished.shape(f"conv.{stage}.weight", width)[0] for stage in range(len(axes))]
        return Cnn2d(kept, image_channels, len(classes), normalisation)

    return SlimmableModel("cnn2d", finished, classification(classes), input_shape, build)
