"""Residual networks: ResNet-18 and a densely connected one."""

# mypy: disable-error-code="no-any-return"

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from benchmarks.networks import Shapes


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al., CVPR 2016)."""

    def __init__(self, into: int, inner: int, out: int, stride: int, *, project: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(into, inner, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(inner, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.downsample = None
        if project:
            self.downsample = nn.Sequential(
                nn.Conv2d(into, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the block's output."""
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class ResNet18(nn.Module):
    """Four stages of two blocks; "small" stem for 32 pixels, else the one for 224."""

    def __init__(
        self,
        stages: Sequence[int] = (64, 128, 256, 512),
        inner: Sequence[int] | None = None,
        classes: int = 10,
        *,
        small: bool = True,
    ) -> None:
        super().__init__()
        inner = [stages[block // 2] for block in range(8)] if inner is None else inner
        if small:
            self.conv1 = nn.Conv2d(3, stages[0], 3, 1, 1, bias=False)
            self.maxpool: nn.Module = nn.Identity()
        else:
            self.conv1 = nn.Conv2d(3, stages[0], 7, 2, 3, bias=False)
            self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.bn1 = nn.BatchNorm2d(stages[0])
        self.relu = nn.ReLU(inplace=True)
        into = stages[0]
        for number, out in enumerate(stages):
            stride = 1 if number == 0 else 2
            first = BasicBlock(into, inner[2 * number], out, stride, project=number > 0)
            second = BasicBlock(out, inner[2 * number + 1], out, 1, project=False)
            self.add_module(f"layer{number + 1}", nn.Sequential(first, second))
            into = out
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(into, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, classes) of images (batch, 3, H, W)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for number in range(1, 5):
            x = self.get_submodule(f"layer{number}")(x)
        x = torch.flatten(self.avgpool(x), 1)
        return self.fc(x)


def native_resnet18(shapes: Shapes, *, small: bool = True) -> ResNet18:
    """Build the network with the lengths that are kept."""
    blocks = [f"layer{stage}.{block}" for stage in range(1, 5) for block in range(2)]
    return ResNet18(
        [shapes(f"layer{stage}.0.conv2.weight")[0] for stage in range(1, 5)],
        [shapes(f"{block}.conv1.weight")[0] for block in blocks],
        shapes("fc.weight")[0],
        small=small,
    )


class DenseLayer(nn.Module):
    """Norm, 1x1, norm, 3x3; its output is appended to its input (Huang et al., CVPR 2017)."""

    def __init__(self, into: int, bottleneck: int, growth: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(into)
        self.conv1 = nn.Conv2d(into, bottleneck, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(bottleneck)
        self.conv2 = nn.Conv2d(bottleneck, growth, 3, padding=1, bias=False)

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        """Return the new channels."""
        x = torch.cat(features, 1)
        x = self.conv1(functional.relu(self.norm1(x)))
        return self.conv2(functional.relu(self.norm2(x)))


class DenseNet(nn.Module):
    """Two dense blocks with a transition between them."""

    def __init__(
        self,
        stem: int = 16,
        layers: Sequence[Sequence[tuple[int, int]]] = (
            ((32, 16), (32, 16), (32, 16)),
            ((32, 16), (32, 16)),
        ),
        transition: int = 32,
        classes: int = 10,
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, stem, 3, padding=1, bias=False)
        self.blocks = nn.ModuleList()
        into, totals = stem, []
        for block in layers:
            self.blocks.append(nn.ModuleList())
            for bottleneck, growth in block:
                self.blocks[-1].append(DenseLayer(into, bottleneck, growth))  # type: ignore[operator]
                into += growth
            totals.append(into)
            into = transition
        self.transition = nn.Sequential(
            nn.BatchNorm2d(totals[0]),
            nn.ReLU(),
            nn.Conv2d(totals[0], transition, 1, bias=False),
            nn.AvgPool2d(2),
        )
        self.norm = nn.BatchNorm2d(totals[1])
        self.fc = nn.Linear(totals[1], classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, classes) of images (batch, 3, H, W)."""
        x = self.stem(x)
        for position, block in enumerate(self.blocks):
            features = [x]
            for layer in block.children():
                features.append(layer(features))
            x = torch.cat(features, 1)
            if position == 0:
                x = self.transition(x)
        return self.fc(functional.relu(self.norm(x)).mean((2, 3)))


def native_densenet(shapes: Shapes) -> DenseNet:
    """Build the network with the lengths that are kept."""
    layers = [
        [
            (
                shapes(f"blocks.{block}.{layer}.conv1.weight")[0],
                shapes(f"blocks.{block}.{layer}.conv2.weight")[0],
            )
            for layer in range(count)
        ]
        for block, count in enumerate((3, 2))
    ]
    return DenseNet(
        shapes("stem.weight")[0],
        layers,
        shapes("transition.2.weight")[0],
        shapes("fc.weight")[0],
    )
