"""Attention inside shifted windows, with a table of relative positions (Liu et al., ICCV 2021)."""

# mypy: disable-error-code="no-any-return"

import torch
from torch import nn

from benchmarks.networks import Shapes

WINDOW = 4


def partition(x: torch.Tensor) -> torch.Tensor:
    """Cut (batch, H, W, C) into windows: (batch x windows, pixels of a window, C)."""
    batch, height, width, channels = x.shape
    x = x.view(batch, height // WINDOW, WINDOW, width // WINDOW, WINDOW, channels)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, WINDOW * WINDOW, channels)


def join(windows: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Lay windows out again as (batch, H, W, C)."""
    channels = windows.shape[-1]
    x = windows.view(-1, height // WINDOW, width // WINDOW, WINDOW, WINDOW, channels)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, height, width, channels)


class WindowAttention(nn.Module):
    """Self-attention among the pixels of a window; a learned bias per relative position."""

    index: torch.Tensor

    def __init__(self, dim: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = head_dim**-0.5
        self.bias_table = nn.Parameter(torch.zeros((2 * WINDOW - 1) ** 2, heads))
        places = torch.cartesian_prod(torch.arange(WINDOW), torch.arange(WINDOW))
        apart = places[:, None] - places[None] + WINDOW - 1
        self.register_buffer("index", apart[..., 0] * (2 * WINDOW - 1) + apart[..., 1])
        self.qkv = nn.Linear(dim, 3 * heads * head_dim)
        self.proj = nn.Linear(heads * head_dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (windows, pixels, dim) for the same."""
        windows, pixels, _ = x.shape
        qkv = self.qkv(x).reshape(windows, pixels, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0] * self.scale, qkv[1], qkv[2]
        bias = self.bias_table[self.index.view(-1)].view(pixels, pixels, -1).permute(2, 0, 1)
        attention = torch.softmax(q @ k.transpose(-2, -1) + bias.unsqueeze(0), dim=-1)
        return self.proj((attention @ v).transpose(1, 2).flatten(2))


class ShiftedWindows(nn.Module):
    """Patches, one block of shifted windows, patches merged two by two, a classifier."""

    def __init__(
        self, dim: int = 32, heads: int = 4, merged: int = 64, head_dim: int = 8, classes: int = 10
    ) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, dim, 2, 2)
        self.norm1 = nn.LayerNorm(dim)
        self.attention = WindowAttention(dim, heads, head_dim)
        self.norm2 = nn.LayerNorm(4 * dim)
        self.reduce = nn.Linear(4 * dim, merged, bias=False)
        self.head = nn.Linear(merged, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, classes) of images (batch, 3, 16, 16)."""
        x = self.embed(x).permute(0, 2, 3, 1)
        _, height, width, _ = x.shape
        windows = partition(torch.roll(self.norm1(x), (-2, -2), dims=(1, 2)))
        y = join(self.attention(windows), height, width)
        x = x + torch.roll(y, (2, 2), dims=(1, 2))
        corners = [x[:, row::2, column::2, :] for column in (0, 1) for row in (0, 1)]
        x = self.reduce(self.norm2(torch.cat(corners, -1)))
        return self.head(x.mean((1, 2)))


def native_shifted_windows(shapes: Shapes, head_dim: int = 8) -> ShiftedWindows:
    """Build the network with the lengths that are kept."""
    dim, heads = shapes("embed.weight")[0], shapes("attention.bias_table")[1]
    return ShiftedWindows(
        dim, heads, shapes("reduce.weight")[0], head_dim, shapes("head.weight")[0]
    )
