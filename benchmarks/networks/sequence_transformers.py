"""Transformers over sequences, from torch's own layers and from hand-written ones."""

# mypy: disable-error-code="no-any-return"

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from benchmarks.networks import Shapes


class EncoderClassifier(nn.Module):
    """`nn.TransformerEncoder` over a signal, the mean over time, a classifier."""

    def __init__(
        self,
        inputs: int = 6,
        dim: int = 32,
        heads: int = 4,
        hidden: int = 64,
        layers: int = 2,
        classes: int = 5,
        steps: int = 12,
        *,
        norm_first: bool = False,
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(inputs, dim)
        self.positions = nn.Parameter(torch.zeros(steps, dim))
        layer = nn.TransformerEncoderLayer(
            dim,
            heads,
            hidden,
            dropout=0.1,
            activation="gelu" if norm_first else "relu",
            batch_first=True,
            norm_first=norm_first,
        )
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(dim, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, classes) of signals (batch, T, F)."""
        x = self.encoder(self.embed(x) + self.positions)
        return self.head(x.mean(dim=1))


def native_encoder_classifier(
    shapes: Shapes, head_dim: int = 8, layers: int = 2, *, norm_first: bool = False
) -> EncoderClassifier:
    """Build the network with the lengths that are kept.

    The layers of `nn.TransformerEncoder` are equally wide.
    """
    dim, inputs = shapes("embed.weight")
    return EncoderClassifier(
        inputs,
        dim,
        dim // head_dim,
        shapes("encoder.layers.0.linear1.weight")[0],
        layers,
        shapes("head.weight")[0],
        shapes("positions")[0],
        norm_first=norm_first,
    )


class CausalBlock(nn.Module):
    """Attention to the past and two linear layers, each behind a layer norm."""

    def __init__(self, dim: int, heads: int, head_dim: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln1 = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * heads * head_dim, bias=False)
        self.out = nn.Linear(heads * head_dim, dim)
        self.ln2 = nn.LayerNorm(dim)
        self.up = nn.Linear(dim, hidden)
        self.down = nn.Linear(hidden, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (batch, tokens, dim) for the same."""
        batch, tokens, _ = x.size()
        q, k, v = (
            part.view(batch, tokens, self.heads, -1).transpose(1, 2)
            for part in self.qkv(self.ln1(x)).chunk(3, dim=-1)
        )
        attended = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).contiguous().view(batch, tokens, -1))
        return x + self.down(functional.gelu(self.up(self.ln2(x)), approximate="tanh"))


class CausalTransformer(nn.Module):
    """Next-token prediction; the output head is the embedding (Press and Wolf, EACL 2017)."""

    def __init__(
        self,
        vocabulary: int = 40,
        steps: int = 12,
        dim: int = 32,
        heads: Sequence[int] = (4, 4),
        hidden: Sequence[int] = (64, 64),
        head_dim: int = 8,
    ) -> None:
        super().__init__()
        self.token = nn.Embedding(vocabulary, dim)
        self.position = nn.Embedding(steps, dim)
        self.drop = nn.Dropout(0.1)
        self.blocks = nn.ModuleList(
            CausalBlock(dim, count, head_dim, width)
            for count, width in zip(heads, hidden, strict=True)
        )
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, vocabulary, bias=False)
        self.head.weight = self.token.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, T, vocabulary) of tokens (batch, T)."""
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.drop(self.token(tokens) + self.position(places))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def native_causal(shapes: Shapes, blocks: int = 2, head_dim: int = 8) -> CausalTransformer:
    """Build the network with the lengths that are kept."""
    vocabulary, dim = shapes("token.weight")
    return CausalTransformer(
        vocabulary,
        shapes("position.weight")[0],
        dim,
        [shapes(f"blocks.{b}.out.weight")[1] // head_dim for b in range(blocks)],
        [shapes(f"blocks.{b}.up.weight")[0] for b in range(blocks)],
        head_dim,
    )


class CrossAttention(nn.Module):
    """Learned queries read a sequence with `nn.MultiheadAttention`, padding masked."""

    def __init__(
        self,
        inputs: int = 6,
        dim: int = 32,
        heads: int = 4,
        queries: int = 3,
        classes: int = 5,
        *,
        weights: bool = True,
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(inputs, dim)
        self.queries = nn.Parameter(torch.randn(1, queries, dim))
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(queries * dim, classes)
        self.weights = weights

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, classes) of signals (batch, T, F)."""
        memory = torch.relu(self.embed(x))
        queries = self.queries.expand(x.size(0), -1, -1)
        read, _ = self.attention(queries, memory, memory, need_weights=self.weights)
        return self.head(self.norm(queries + read).flatten(1))


def native_cross_attention(
    shapes: Shapes, head_dim: int = 8, *, weights: bool = True
) -> CrossAttention:
    """Build the network with the lengths that are kept."""
    dim, inputs = shapes("embed.weight")
    queries, classes = shapes("queries")[1], shapes("head.weight")[0]
    return CrossAttention(inputs, dim, dim // head_dim, queries, classes, weights=weights)
