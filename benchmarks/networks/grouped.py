"""Channels in groups: grouped convolution, group norm, channel shuffle, channel halves."""

# mypy: disable-error-code="no-any-return"

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from benchmarks.networks import Shapes


class GroupNormNet(nn.Module):
    """1-D convolutions, one of them grouped, with a fixed number of channels a group."""

    def __init__(
        self,
        into: int = 3,
        channels: tuple[int, int] = (32, 64),
        per_group: int = 8,
        classes: int = 6,
    ) -> None:
        super().__init__()
        groups = [count // per_group for count in channels]
        self.conv1 = nn.Conv1d(into, channels[0], 5, padding=2)
        self.norm1 = nn.GroupNorm(groups[0], channels[0])
        self.conv2 = nn.Conv1d(channels[0], channels[0], 3, padding=1, groups=groups[0])
        self.norm2 = nn.GroupNorm(groups[0], channels[0])
        self.conv3 = nn.Conv1d(channels[0], channels[1], 3, stride=2, padding=1)
        self.norm3 = nn.GroupNorm(groups[1], channels[1])
        self.head = nn.Linear(channels[1], classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, classes) of signals (batch, C, T)."""
        x = functional.relu(self.norm1(self.conv1(x)))
        x = x + functional.relu(self.norm2(self.conv2(x)))
        x = functional.relu(self.norm3(self.conv3(x)))
        return self.head(x.mean(-1))


def native_group_norm_net(shapes: Shapes, per_group: int = 8) -> GroupNormNet:
    """Build the network with the lengths that are kept."""
    out, into = shapes("conv1.weight")[:2]
    channels = (out, shapes("conv3.weight")[0])
    return GroupNormNet(into, channels, per_group, shapes("head.weight")[0])


class ResNeXtBlock(nn.Module):
    """1x1, grouped 3x3 with a fixed width per group, 1x1, added (Xie et al., CVPR 2017)."""

    def __init__(self, channels: int, inner: int, per_group: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.grouped = nn.Conv2d(inner, inner, 3, padding=1, groups=inner // per_group, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.expand = nn.Conv2d(inner, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the block's output."""
        y = functional.relu(self.bn1(self.reduce(x)))
        y = functional.relu(self.bn2(self.grouped(y)))
        return functional.relu(x + self.bn3(self.expand(y)))


class ResNeXt(nn.Module):
    """A stem, two blocks and a classifier."""

    def __init__(
        self,
        channels: int = 32,
        inner: tuple[int, int] = (16, 32),
        per_group: int = 4,
        classes: int = 10,
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.blocks = nn.Sequential(*(ResNeXtBlock(channels, i, per_group) for i in inner))
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, classes) of images (batch, 3, H, W)."""
        return self.fc(self.blocks(self.stem(x)).mean((2, 3)))


def native_resnext(shapes: Shapes, per_group: int = 4) -> ResNeXt:
    """Build the network with the lengths that are kept."""
    inner = (shapes("blocks.0.reduce.weight")[0], shapes("blocks.1.reduce.weight")[0])
    return ResNeXt(shapes("stem.weight")[0], inner, per_group, shapes("fc.weight")[0])


def channel_shuffle(x: torch.Tensor, groups: int) -> torch.Tensor:
    """Return (batch, C, H, W) with the channels of the groups interleaved."""
    batch, channels, height, width = x.size()
    x = x.view(batch, groups, channels // groups, height, width)
    x = torch.transpose(x, 1, 2).contiguous()
    return x.view(batch, -1, height, width)


def _filters(into: int, out: int, stride: int) -> list[nn.Module]:
    return [
        nn.Conv2d(into, into, 3, stride, 1, groups=into, bias=False),
        nn.BatchNorm2d(into),
        nn.Conv2d(into, out, 1, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(),
    ]


class ShuffleUnit(nn.Module):
    """Half of the channels pass, half are filtered, then all mix (Ma et al., ECCV 2018)."""

    def __init__(self, into: int, half: int, inner: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        if stride > 1:
            self.branch1 = nn.Sequential(*_filters(into, half, stride))
        self.branch2 = nn.Sequential(
            nn.Conv2d(into if stride > 1 else half, inner, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            *_filters(inner, half, stride),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the unit's output."""
        if self.stride == 1:
            x1, x2 = x.chunk(2, dim=1)
            out = torch.cat((x1, self.branch2(x2)), dim=1)
        else:
            out = torch.cat((self.branch1(x), self.branch2(x)), dim=1)
        return channel_shuffle(out, 2)


class ShuffleNet(nn.Module):
    """A stem, one unit that halves the image, two that do not."""

    def __init__(
        self,
        stem: int = 16,
        half: int = 32,
        inner: Sequence[int] = (32, 32, 32),
        last: int = 64,
        classes: int = 10,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, stem, 3, padding=1), nn.ReLU())
        self.stage = nn.Sequential(
            ShuffleUnit(stem, half, inner[0], 2),
            ShuffleUnit(2 * half, half, inner[1], 1),
            ShuffleUnit(2 * half, half, inner[2], 1),
        )
        self.conv5 = nn.Conv2d(2 * half, last, 1, bias=False)
        self.fc = nn.Linear(last, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, classes) of images (batch, 3, H, W)."""
        x = self.conv5(self.stage(self.stem(x)))
        return self.fc(x.mean([2, 3]))


def native_shufflenet(shapes: Shapes) -> ShuffleNet:
    """Build the network with the lengths that are kept."""
    return ShuffleNet(
        shapes("stem.0.weight")[0],
        shapes("stage.0.branch1.2.weight")[0],
        [shapes(f"stage.{unit}.branch2.0.weight")[0] for unit in range(3)],
        shapes("conv5.weight")[0],
        shapes("fc.weight")[0],
    )


class SplitShuffleNet(nn.Module):
    """A shuffle straight behind a plain convolution, halves taken with split."""

    def __init__(self, half: int = 16, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 2 * half, 3, padding=1)
        self.left = nn.Conv2d(half, half, 3, padding=1)
        self.right = nn.Conv2d(half, half, 1)
        self.fc = nn.Linear(2 * half, classes)
        self.cut = half

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, classes) of images (batch, 3, H, W)."""
        left, right = torch.split(functional.relu(self.stem(x)), self.cut, dim=1)
        x = torch.cat([self.left(left), right * torch.tanh(self.right(right))], dim=1)
        x = channel_shuffle(x, 2)
        return self.fc(x.mean([2, 3]))


def native_split_shuffle(shapes: Shapes) -> SplitShuffleNet:
    """Build the network with the lengths that are kept."""
    return SplitShuffleNet(shapes("left.weight")[0], shapes("fc.weight")[0])
