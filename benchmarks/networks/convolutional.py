"""Plain convolutional networks."""

# mypy: disable-error-code="no-any-return"

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from benchmarks.networks import Shapes


class FlattenCnn(nn.Module):
    """Two convolutions, flattened into two linear layers."""

    def __init__(
        self,
        image: tuple[int, int, int] = (1, 12, 12),
        channels: tuple[int, int] = (16, 32),
        hidden: int = 48,
        classes: int = 10,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(image[0], channels[0], 3, padding=1)
        self.conv2 = nn.Conv2d(channels[0], channels[1], 3, padding=1)
        self.fc1 = nn.Linear(channels[1] * (image[1] // 4) * (image[2] // 4), hidden)
        self.fc2 = nn.Linear(hidden, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, classes) of images (batch, C, H, W)."""
        x = functional.max_pool2d(functional.relu(self.conv1(x)), 2)
        x = functional.max_pool2d(functional.relu(self.conv2(x)), 2)
        x = torch.flatten(x, 1)
        x = functional.dropout(functional.relu(self.fc1(x)), 0.2, self.training)
        return self.fc2(x)


def native_flatten_cnn(shapes: Shapes, size: tuple[int, int] = (12, 12)) -> FlattenCnn:
    """Build the network with the lengths that are kept."""
    return FlattenCnn(
        (shapes("conv1.weight")[1], *size),
        (shapes("conv1.weight")[0], shapes("conv2.weight")[0]),
        shapes("fc1.weight")[0],
        shapes("fc2.weight")[0],
    )


class FourConvolutions(nn.Module):
    """Four convolutions with batch norm, three of them pooled, and a linear classifier."""

    def __init__(
        self,
        image_channels: int = 1,
        channels: Sequence[int] = (16, 32, 64, 64),
        classes: int = 10,
        pixels: int = 28,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        into = image_channels
        for position, out in enumerate(channels):
            layers += [nn.Conv2d(into, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU()]
            if position < 3:
                layers.append(nn.MaxPool2d(2, ceil_mode=True))
                pixels = -(-pixels // 2)
            into = out
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(into * pixels * pixels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, classes) of square images (batch, C, H, W)."""
        x = self.features(x)
        return self.classifier(x.view(x.size(0), -1))


def native_four_convolutions(shapes: Shapes, pixels: int = 28) -> FourConvolutions:
    """Build the network with the lengths that are kept."""
    channels = [shapes(f"features.{layer}.weight")[0] for layer in (0, 4, 8, 12)]
    image_channels = shapes("features.0.weight")[1]
    return FourConvolutions(image_channels, channels, shapes("classifier.weight")[0], pixels)


class Volumes(nn.Module):
    """3-D convolutions over small volumes, instance norm, PReLU per channel, Softplus."""

    def __init__(
        self, into: int = 1, channels: tuple[int, int] = (16, 32), classes: int = 5
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(into, channels[0], 3, padding=1)
        self.norm1 = nn.InstanceNorm3d(channels[0], affine=True)
        self.act1 = nn.PReLU(channels[0])
        self.conv2 = nn.Conv3d(channels[0], channels[1], 3, stride=2, padding=1)
        self.act2 = nn.PReLU()
        self.pool = nn.AdaptiveAvgPool3d((1, 2, 2))
        self.head = nn.Linear(channels[1] * 4, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return positive values (batch, classes) for volumes (batch, C, D, H, W)."""
        x = self.act1(self.norm1(self.conv1(x)))
        x = self.pool(self.act2(self.conv2(x)))
        return functional.softplus(self.head(x.reshape(x.shape[0], -1)))


def native_volumes(shapes: Shapes) -> Volumes:
    """Build the network with the lengths that are kept."""
    out, into = shapes("conv1.weight")[:2]
    return Volumes(into, (out, shapes("conv2.weight")[0]), shapes("head.weight")[0])


class Inception(nn.Module):
    """Parallel branches of different kernels, concatenated; pooling is one of them."""

    def __init__(
        self,
        into: int = 3,
        stem: int = 16,
        branches: tuple[int, int, int, int] = (16, 32, 8, 16),
        reduced: tuple[int, int] = (16, 8),
        classes: int = 10,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(into, stem, 3, padding=1), nn.ReLU())
        self.branch1 = nn.Conv2d(stem, branches[0], 1)
        self.branch3 = nn.Sequential(
            nn.Conv2d(stem, reduced[0], 1),
            nn.ReLU(),
            nn.Conv2d(reduced[0], branches[1], 3, padding=1),
        )
        self.branch5 = nn.Sequential(
            nn.Conv2d(stem, reduced[1], 1),
            nn.ReLU(),
            nn.Conv2d(reduced[1], branches[2], (1, 5), padding=(0, 2)),
            nn.Conv2d(branches[2], branches[2], (5, 1), padding=(2, 0)),
        )
        self.branch_pool = nn.Sequential(
            nn.AvgPool2d(3, 1, padding=1), nn.Conv2d(stem, branches[3], 1)
        )
        self.norm = nn.BatchNorm2d(sum(branches))
        self.fc = nn.Linear(sum(branches), classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, classes) of images (batch, C, H, W)."""
        x = self.stem(x)
        branches = [self.branch1(x), self.branch3(x), self.branch5(x), self.branch_pool(x)]
        x = functional.relu(self.norm(torch.cat(branches, dim=1)))
        return self.fc(x.mean((-2, -1)))


def native_inception(shapes: Shapes) -> Inception:
    """Build the network with the lengths that are kept."""
    stem, into = shapes("stem.0.weight")[:2]
    names = ("branch1", "branch3.2", "branch5.3", "branch_pool.1")
    one, three, five, pool = (shapes(f"{name}.weight")[0] for name in names)
    reduced = (shapes("branch3.0.weight")[0], shapes("branch5.0.weight")[0])
    return Inception(into, stem, (one, three, five, pool), reduced, shapes("fc.weight")[0])
