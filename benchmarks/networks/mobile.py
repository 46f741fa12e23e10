"""Networks for small devices: inverted residuals with depthwise convolutions."""

# mypy: disable-error-code="no-any-return"

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from benchmarks.networks import Shapes


@dataclass(frozen=True)
class Stage:
    """One inverted residual: expanded channels (None = no expansion), output, stride, residual."""

    hidden: int | None
    out: int
    stride: int
    residual: bool


def mobilenet_stages(
    rows: Sequence[tuple[int, int, int, int]] = (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ),
    into: int = 32,
) -> list[Stage]:
    """Spell out the table of MobileNetV2: expansion, channels, repeats, stride."""
    stages = []
    for expansion, out, repeats, stride in rows:
        for repeat in range(repeats):
            stages.append(
                Stage(
                    into * expansion if expansion > 1 else None,
                    out,
                    stride if repeat == 0 else 1,
                    repeat > 0,
                )
            )
            into = out
    return stages


class InvertedResidual(nn.Module):
    """Expand, filter each channel on its own, project (Sandler et al., CVPR 2018)."""

    def __init__(self, into: int, stage: Stage) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        hidden = into
        if stage.hidden is not None:
            hidden = stage.hidden
            layers += [nn.Conv2d(into, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6()]
        layers += [
            nn.Conv2d(hidden, hidden, 3, stage.stride, 1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(inplace=True),
            nn.Conv2d(hidden, stage.out, 1, bias=False),
            nn.BatchNorm2d(stage.out),
        ]
        self.conv = nn.Sequential(*layers)
        self.residual = stage.residual

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the block's output."""
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(nn.Module):
    """Stem, inverted residuals, a wide 1x1 convolution and a classifier."""

    def __init__(
        self, stem: int, stages: Sequence[Stage], last: int, classes: int = 10, stride: int = 2
    ) -> None:
        super().__init__()
        layers = [
            nn.Sequential(
                nn.Conv2d(3, stem, 3, stride, 1, bias=False), nn.BatchNorm2d(stem), nn.ReLU6()
            )
        ]
        into = stem
        for stage in stages:
            layers.append(InvertedResidual(into, stage))  # type: ignore[arg-type]
            into = stage.out
        layers.append(
            nn.Sequential(nn.Conv2d(into, last, 1, bias=False), nn.BatchNorm2d(last), nn.ReLU6())
        )
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(last, classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, classes) of images (batch, 3, H, W)."""
        x = self.features(x)
        x = nn.functional.adaptive_avg_pool2d(x, (1, 1)).reshape(x.shape[0], -1)
        return self.classifier(x)


def native_mobilenet(shapes: Shapes, full: Sequence[Stage], stride: int = 2) -> MobileNetV2:
    """Build the network with the lengths that are kept; ``full`` has those of full width."""
    stages = []
    for number, stage in enumerate(full, start=1):
        conv = f"features.{number}.conv"
        expanded = stage.hidden is not None
        stages.append(
            Stage(
                shapes(f"{conv}.0.weight")[0] if expanded else None,
                shapes(f"{conv}.{6 if expanded else 3}.weight")[0],
                stage.stride,
                stage.residual,
            )
        )
    return MobileNetV2(
        shapes("features.0.0.weight")[0],
        stages,
        shapes(f"features.{len(full) + 1}.0.weight")[0],
        shapes("classifier.1.weight")[0],
        stride,
    )


class SqueezeExcite(nn.Module):
    """Weigh channels by what their means say (Hu et al., CVPR 2018)."""

    def __init__(self, channels: int, squeezed: int, *, swish: bool = False) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.act: nn.Module = nn.SiLU() if swish else nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the weighted channels."""
        scale = x.mean((2, 3), keepdim=True)
        return x * torch.sigmoid(self.fc2(self.act(self.fc1(scale))))


class LinearGate(nn.Module):
    """Squeeze and excite with linear layers and views, as in the paper's own code."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(
            nn.Linear(channels, squeezed, bias=False),
            nn.ReLU(inplace=True),
            nn.Linear(squeezed, channels, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the weighted channels."""
        batch, channels, _, _ = x.size()
        gate = self.fc(self.pool(x).view(batch, channels)).view(batch, channels, 1, 1)
        return x * gate.expand_as(x)


class SqueezeExciteNet(nn.Module):
    """Two convolutions, each gated in one of the two ways."""

    def __init__(
        self,
        channels: tuple[int, int] = (16, 32),
        squeezed: tuple[int, int] = (8, 8),
        classes: int = 10,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, channels[0], 3, padding=1)
        self.gate1 = LinearGate(channels[0], squeezed[0])
        self.conv2 = nn.Conv2d(channels[0], channels[1], 3, padding=1)
        self.gate2 = SqueezeExcite(channels[1], squeezed[1])
        self.fc = nn.Linear(channels[1], classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, classes) of images (batch, 3, H, W)."""
        x = self.gate1(torch.relu(self.conv1(x)))
        x = self.gate2(torch.relu(self.conv2(x)))
        return self.fc(x.amax(dim=(2, 3)))


def native_squeeze_excite(shapes: Shapes) -> SqueezeExciteNet:
    """Build the network with the lengths that are kept."""
    return SqueezeExciteNet(
        (shapes("conv1.weight")[0], shapes("conv2.weight")[0]),
        (shapes("gate1.fc.0.weight")[0], shapes("gate2.fc1.weight")[0]),
        shapes("fc.weight")[0],
    )


class MbConv(nn.Module):
    """Inverted residual with swish and squeeze-and-excite (Tan and Le, ICML 2019)."""

    def __init__(self, into: int, hidden: int, squeezed: int, out: int, *, residual: bool) -> None:
        super().__init__()
        self.expand = nn.Conv2d(into, hidden, 1, bias=False)
        self.bn0 = nn.BatchNorm2d(hidden, eps=1e-3, momentum=0.01)
        self.depthwise = nn.Conv2d(hidden, hidden, 5, padding=2, groups=hidden, bias=False)
        self.bn1 = nn.BatchNorm2d(hidden, eps=1e-3, momentum=0.01)
        self.se = SqueezeExcite(hidden, squeezed, swish=True)
        self.project = nn.Conv2d(hidden, out, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out, eps=1e-3, momentum=0.01)
        self.residual = residual

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the block's output."""
        y = nn.functional.silu(self.bn0(self.expand(x)))
        y = nn.functional.silu(self.bn1(self.depthwise(y)))
        y = self.bn2(self.project(self.se(y)))
        return x + y if self.residual else y


class EfficientNet(nn.Module):
    """A stem and three blocks."""

    def __init__(
        self,
        stem: int = 16,
        blocks: Sequence[tuple[int, int, int]] = ((32, 8, 24), (48, 8, 24), (48, 8, 32)),
        residual: Sequence[bool] = (False, True, False),
        classes: int = 10,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, stem, 3, 2, 1), nn.BatchNorm2d(stem), nn.SiLU())
        self.blocks = nn.ModuleList()
        into = stem
        for (hidden, squeezed, out), adds in zip(blocks, residual, strict=True):
            self.blocks.append(MbConv(into, hidden, squeezed, out, residual=adds))
            into = out
        self.head = nn.Linear(into, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, classes) of images (batch, 3, H, W)."""
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(dim=[2, 3]))


def native_efficientnet(shapes: Shapes) -> EfficientNet:
    """Build the network with the lengths that are kept."""
    blocks = [
        (
            shapes(f"blocks.{number}.expand.weight")[0],
            shapes(f"blocks.{number}.se.fc1.weight")[0],
            shapes(f"blocks.{number}.project.weight")[0],
        )
        for number in range(3)
    ]
    return EfficientNet(shapes("stem.0.weight")[0], blocks, classes=shapes("head.weight")[0])
