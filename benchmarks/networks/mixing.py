"""Networks that mix tokens and channels: MLP-Mixer, ConvNeXt."""

# mypy: disable-error-code="no-any-return"

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from benchmarks.networks import Shapes


class MixerBlock(nn.Module):
    """Linear layers across tokens, then across channels (Tolstikhin et al., NeurIPS 2021)."""

    def __init__(self, dim: int, tokens: int, token_hidden: int, channel_hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.token_mlp = nn.Sequential(
            nn.Linear(tokens, token_hidden), nn.GELU(), nn.Linear(token_hidden, tokens)
        )
        self.norm2 = nn.LayerNorm(dim)
        self.channel_mlp = nn.Sequential(
            nn.Linear(dim, channel_hidden), nn.GELU(), nn.Linear(channel_hidden, dim)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (batch, tokens, dim) for the same."""
        x = x + self.token_mlp(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channel_mlp(self.norm2(x))


class Mixer(nn.Module):
    """Patches, blocks, the mean over tokens, a classifier."""

    def __init__(
        self,
        dim: int = 32,
        hidden: Sequence[tuple[int, int]] = ((32, 64), (32, 64)),
        image: tuple[int, int, int] = (3, 16, 16),
        patch: int = 4,
        classes: int = 10,
    ) -> None:
        super().__init__()
        tokens = (image[1] // patch) * (image[2] // patch)
        self.stem = nn.Conv2d(image[0], dim, patch, patch)
        self.blocks = nn.Sequential(*(MixerBlock(dim, tokens, *lengths) for lengths in hidden))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, classes) of images (batch, C, H, W)."""
        x = self.stem(x).flatten(2).transpose(1, 2)
        return self.head(self.norm(self.blocks(x)).mean(dim=1))


def native_mixer(shapes: Shapes, size: tuple[int, int] = (16, 16)) -> Mixer:
    """Build the network with the lengths that are kept."""
    dim, image_channels, patch, _ = shapes("stem.weight")
    hidden = [
        (
            shapes(f"blocks.{block}.token_mlp.0.weight")[0],
            shapes(f"blocks.{block}.channel_mlp.0.weight")[0],
        )
        for block in range(2)
    ]
    return Mixer(dim, hidden, (image_channels, *size), patch, shapes("head.weight")[0])


class ChannelNorm(nn.Module):
    """Layer norm over the channels of (batch, C, H, W), written out."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x normalised over its channels."""
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).pow(2).mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt(variance + 1e-6)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class ConvNextBlock(nn.Module):
    """Depthwise 7x7, layer norm, two linear layers, a learned scale (Liu et al., CVPR 2022)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pwconv1 = nn.Linear(dim, hidden)
        self.pwconv2 = nn.Linear(hidden, dim)
        self.gamma = nn.Parameter(1e-6 * torch.ones(dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the block's output."""
        shortcut = x
        x = self.dwconv(x).permute(0, 2, 3, 1)
        x = self.pwconv2(functional.gelu(self.pwconv1(self.norm(x))))
        return shortcut + (self.gamma * x).permute(0, 3, 1, 2)


class ConvNext(nn.Module):
    """Two stages with a strided convolution between them."""

    def __init__(
        self,
        dims: tuple[int, int] = (16, 32),
        hidden: tuple[int, int] = (64, 128),
        classes: int = 10,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, dims[0], 4, 4), ChannelNorm(dims[0]))
        self.stage1 = ConvNextBlock(dims[0], hidden[0])
        self.down = nn.Sequential(ChannelNorm(dims[0]), nn.Conv2d(dims[0], dims[1], 2, 2))
        self.stage2 = ConvNextBlock(dims[1], hidden[1])
        self.norm = nn.LayerNorm(dims[1])
        self.head = nn.Linear(dims[1], classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, classes) of images (batch, 3, H, W)."""
        x = self.stage2(self.down(self.stage1(self.stem(x))))
        return self.head(self.norm(x.mean([-2, -1])))


def native_convnext(shapes: Shapes) -> ConvNext:
    """Build the network with the lengths that are kept."""
    return ConvNext(
        (shapes("stem.0.weight")[0], shapes("down.1.weight")[0]),
        (shapes("stage1.pwconv1.weight")[0], shapes("stage2.pwconv1.weight")[0]),
        shapes("head.weight")[0],
    )
