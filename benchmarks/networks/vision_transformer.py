"""A vision transformer with fused queries, keys and values (Dosovitskiy et al., ICLR 2021)."""

# mypy: disable-error-code="no-any-return"

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from benchmarks.networks import Shapes

ATTENTIONS = ("fused", "softmax", "einsum")


class Attention(nn.Module):
    """Self-attention; the product of queries and keys is written in one of three ways."""

    def __init__(self, dim: int, heads: int, head_dim: int, kind: str) -> None:
        super().__init__()
        self.heads = heads
        self.head_dim = head_dim
        self.kind = kind
        self.scale = head_dim**-0.5
        self.qkv = nn.Linear(dim, 3 * heads * head_dim)
        self.proj = nn.Linear(heads * head_dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (batch, tokens, dim) for the same."""
        batch, tokens, _ = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        if self.kind == "fused":
            out = functional.scaled_dot_product_attention(q, k, v)
        elif self.kind == "softmax":
            attention = (q @ k.transpose(-2, -1) * self.scale).softmax(dim=-1)
            out = attention @ v
        else:
            attention = torch.einsum("bhqd,bhkd->bhqk", q, k) * self.scale
            out = torch.einsum("bhqk,bhkd->bhqd", functional.softmax(attention, -1), v)
        return self.proj(out.transpose(1, 2).reshape(batch, tokens, -1))


class Block(nn.Module):
    """Attention and two linear layers, each behind a layer norm."""

    def __init__(self, dim: int, heads: int, head_dim: int, hidden: int, kind: str) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = Attention(dim, heads, head_dim, kind)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (batch, tokens, dim) for the same."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    """Patches, a class token, learned positions, blocks; the class token is classified."""

    def __init__(
        self,
        dim: int = 32,
        heads: Sequence[int] = (4, 4),
        hidden: Sequence[int] = (64, 64),
        head_dim: int = 8,
        image: tuple[int, int, int] = (3, 16, 16),
        patch: int = 4,
        classes: int = 10,
        kind: str = "fused",
    ) -> None:
        super().__init__()
        patches = (image[1] // patch) * (image[2] // patch)
        self.patch_embed = nn.Conv2d(image[0], dim, patch, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + patches, dim) * 0.02)
        self.blocks = nn.ModuleList(
            Block(dim, count, head_dim, width, kind)
            for count, width in zip(heads, hidden, strict=True)
        )
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, classes) of images (batch, C, H, W)."""
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        cls = self.cls_token.expand(x.shape[0], -1, -1)
        x = torch.cat((cls, x), dim=1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


def native_vision_transformer(
    shapes: Shapes,
    blocks: int = 2,
    head_dim: int = 8,
    size: tuple[int, int] = (16, 16),
    kind: str = "fused",
) -> VisionTransformer:
    """Build the network with the lengths that are kept."""
    dim, image_channels, patch, _ = shapes("patch_embed.weight")
    return VisionTransformer(
        dim,
        [shapes(f"blocks.{b}.attn.proj.weight")[1] // head_dim for b in range(blocks)],
        [shapes(f"blocks.{b}.mlp.0.weight")[0] for b in range(blocks)],
        head_dim,
        (image_channels, *size),
        patch,
        shapes("head.weight")[0],
        kind,
    )
