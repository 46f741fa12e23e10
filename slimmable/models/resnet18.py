"""ResNet-18 (He et al., CVPR 2016) for images, small ones by default."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from slimmable.model import SlimmableModel
from slimmable.models.spec_builder import SpecBuilder
from slimmable.spec import Term
from slimmable.task import classification

BLOCKS = 2  # per stage
STEMS = {"small": (3, 1), "imagenet": (7, 2)}  # kernel and stride


class Block(nn.Module):
    """Two convolutions and what came in, added."""

    def __init__(self, into: int, out: int, stride: int) -> None:
        """Build the block; where it changes the shape, the shortcut is a convolution too."""
        super().__init__()
        self.conv1 = nn.Conv2d(into, out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.downsample = nn.Sequential()
        # Told from the stride: at some width two stages may have equally many channels.
        if stride > 1:
            self.downsample.append(nn.Conv2d(into, out, 1, stride, bias=False))
            self.downsample.append(nn.BatchNorm2d(out))

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Return the block's output."""
        inner = torch.relu(self.bn1(self.conv1(x_BCHW)))
        return torch.relu(self.bn2(self.conv2(inner)) + self.downsample(x_BCHW))


class ResNet18(nn.Module):
    """A stem, four stages of two blocks, the mean over pixels and a classifier."""

    def __init__(
        self, channels: Sequence[int], image_channels: int, classes: int, stem: str
    ) -> None:
        """Build the network with the given number of channels per stage."""
        super().__init__()
        kernel, stride = STEMS[stem]
        self.conv1 = nn.Conv2d(
            image_channels, channels[0], kernel, stride, padding=kernel // 2, bias=False
        )
        self.bn1 = nn.BatchNorm2d(channels[0])
        self.maxpool = nn.MaxPool2d(3, 2, padding=1) if stem == "imagenet" else nn.Identity()
        self.layer1 = _stage(channels[0], channels[0], 1)
        self.layer2 = _stage(channels[0], channels[1], 2)
        self.layer3 = _stage(channels[1], channels[2], 2)
        self.layer4 = _stage(channels[2], channels[3], 2)
        self.fc = nn.Linear(channels[3], classes)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Return logits of shape (batch, classes) for images of shape (batch, C, H, W)."""
        x_BCHW = self.maxpool(torch.relu(self.bn1(self.conv1(x_BCHW))))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x_BCHW = stage(x_BCHW)
        return self.fc(x_BCHW.mean(dim=(2, 3)))  # type: ignore[no-any-return]


def resnet18(
    *,
    classes: Sequence[str],
    image_channels: int = 3,
    image_size: int = 32,
    stem: str = "small",
    channels: Sequence[int] = (64, 128, 256, 512),
    granule: int = 16,
) -> SlimmableModel:
    """Return the slimmable ResNet-18; its tensors are named as in torchvision.

    All blocks of a stage add to the same channels, which therefore are one axis; the channels
    between the two convolutions of a block are an axis of their own.

    Args:
        classes: class names.
        image_channels: 1 for grey, 3 for colour.
        image_size: pixels of a side.
        stem: "small" (3x3, for images of about 32 pixels), or "imagenet" (7x7, stride 2, pooling).
        channels: of the four stages at full width.
        granule: channel rounding, see `slimmable.width.Axis`.

    Raises:
        ValueError: there is no such stem, or not four stages.
    """
    if stem not in STEMS or len(channels) != 4:
        raise ValueError(f"stem {stem!r}, channels {list(channels)}: use {sorted(STEMS)} and four")
    spec = SpecBuilder()
    stages = [spec.scaling(size, granule) for size in channels]
    kernel = STEMS[stem][0]
    spec.conv("conv1", stages[0], spec.fixed(image_channels), (kernel, kernel), bias=False)
    spec.batch_norm("bn1", stages[0])
    for number, (before, stage) in enumerate(pairwise([stages[0], *stages]), start=1):
        for block in range(BLOCKS):
            inner = spec.scaling(channels[number - 1], granule)
            into = before if block == 0 else stage
            _declare_block(spec, f"layer{number}.{block}", (into, inner, stage))
    spec.linear("fc", spec.fixed(len(classes)), stages[-1])
    finished = spec.spec()

    def build(width: float) -> nn.Module:
        kept = [finished.axes[axis.axis].keep(width) for axis in stages]
        return ResNet18(kept, image_channels, len(classes), stem)

    input_shape = (image_channels, image_size, image_size)
    return SlimmableModel("resnet18", finished, classification(classes), input_shape, build)


def _stage(into: int, out: int, stride: int) -> nn.Sequential:
    return nn.Sequential(Block(into, out, stride), Block(out, out, 1))


def _declare_block(spec: SpecBuilder, name: str, axes: tuple[Term, Term, Term]) -> None:
    into, inner, out = axes
    spec.conv(f"{name}.conv1", inner, into, (3, 3), bias=False)
    spec.batch_norm(f"{name}.bn1", inner)
    spec.conv(f"{name}.conv2", out, inner, (3, 3), bias=False)
    spec.batch_norm(f"{name}.bn2", out)
    if into != out:
        spec.conv(f"{name}.downsample.0", out, into, (1, 1), bias=False)
        spec.batch_norm(f"{name}.downsample.1", out)
