"""Several inputs, several outputs, one set of weights used more than once."""

# mypy: disable-error-code="no-any-return"

import torch
from torch import nn
from torch.nn import functional

from benchmarks.networks import Shapes


class TwoInputs(nn.Module):
    """An image and a vector of measurements, joined before the classifier."""

    def __init__(
        self,
        image_channels: int = 3,
        measurements: int = 7,
        channels: int = 32,
        hidden: int = 16,
        joined: int = 32,
        classes: int = 6,
    ) -> None:
        super().__init__()
        self.image = nn.Sequential(
            nn.Conv2d(image_channels, channels, 3, padding=1),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.vector = nn.Sequential(nn.Linear(measurements, hidden), nn.Tanh())
        self.head = nn.Sequential(
            nn.Linear(channels + hidden, joined), nn.ReLU(), nn.Linear(joined, classes)
        )

    def forward(self, image: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, classes) of images (batch, C, H, W) and vectors (batch, F)."""
        return self.head(torch.hstack([self.image(image), self.vector(vector)]))


def native_two_inputs(shapes: Shapes) -> TwoInputs:
    """Build the network with the lengths that are kept."""
    channels, image_channels = shapes("image.0.weight")[:2]
    hidden, measurements = shapes("vector.0.weight")
    classes, joined = shapes("head.2.weight")
    return TwoInputs(image_channels, measurements, channels, hidden, joined, classes)


class TwoHeads(nn.Module):
    """One body; a head for the class, another for a box."""

    def __init__(
        self, channels: tuple[int, int] = (16, 32), hidden: int = 32, classes: int = 6
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, channels[0], 3, 2, 1)
        self.conv2 = nn.Conv2d(channels[0], channels[1], 3, 2, 1)
        self.classify = nn.Linear(channels[1], classes)
        self.box = nn.Sequential(nn.Linear(channels[1], hidden), nn.ReLU(), nn.Linear(hidden, 4))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits (batch, classes) and boxes (batch, 4) of images (batch, 3, H, W)."""
        x = functional.hardswish(self.conv2(functional.relu(self.conv1(x))))
        x = functional.adaptive_max_pool2d(x, 1).squeeze(-1).squeeze(-1)
        return self.classify(x), self.box(x).sigmoid()


def native_two_heads(shapes: Shapes) -> TwoHeads:
    """Build the network with the lengths that are kept."""
    channels = (shapes("conv1.weight")[0], shapes("conv2.weight")[0])
    return TwoHeads(channels, shapes("box.0.weight")[0], shapes("classify.weight")[0])


class Siamese(nn.Module):
    """The same encoder reads two signals; their difference is judged."""

    def __init__(self, inputs: int = 8, hidden: int = 32, code: int = 16, judged: int = 16) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(inputs, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, code)
        )
        self.compare = nn.Bilinear(code, code, judged)
        self.judge = nn.Linear(judged + code, 2)

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, 2) of two vectors (batch, F)."""
        a, b = self.encoder(left), self.encoder(right)
        return self.judge(torch.cat([torch.abs(a - b), self.compare(a, b)], dim=-1))


def native_siamese(shapes: Shapes) -> Siamese:
    """Build the network with the lengths that are kept."""
    hidden, inputs = shapes("encoder.0.weight")
    return Siamese(inputs, hidden, shapes("encoder.3.weight")[0], shapes("compare.weight")[0])


class PointSet(nn.Module):
    """Points are read one by one, their maximum and their sum are classified."""

    def __init__(self, hidden: tuple[int, int] = (32, 64), classes: int = 5) -> None:
        super().__init__()
        self.read = nn.Sequential(
            nn.Conv1d(3, hidden[0], 1),
            nn.BatchNorm1d(hidden[0]),
            nn.LeakyReLU(),
            nn.Conv1d(hidden[0], hidden[1], 1),
        )
        self.fc = nn.Linear(2 * hidden[1], classes)

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, classes) of points (batch, N, 3)."""
        x = self.read(points.mT)
        return self.fc(torch.cat([torch.max(x, dim=2)[0], x.sum(dim=2) * 0.1], dim=1))


def native_point_set(shapes: Shapes) -> PointSet:
    """Build the network with the lengths that are kept."""
    hidden = (shapes("read.0.weight")[0], shapes("read.3.weight")[0])
    return PointSet(hidden, shapes("fc.weight")[0])
