"""A decoder in today's manner: RMS norm, rotary positions, shared keys, gated linear layers."""

# mypy: disable-error-code="no-any-return"

import torch
from torch import nn
from torch.nn import functional

from benchmarks.networks import Shapes


class RmsNorm(nn.Module):
    """Scale by the root of the mean square (Zhang and Sennrich, NeurIPS 2019)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x normalised over its last dimension."""
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Return (batch, heads, T, head_dim) turned by its position (Su et al., 2021)."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class DecoderLayer(nn.Module):
    """Several query heads share a key head (Ainslie et al., EMNLP 2023); SwiGLU behind them."""

    def __init__(
        self, dim: int, key_heads: int, queries_per_key: int, head_dim: int, hidden: int
    ) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.queries_per_key = queries_per_key
        self.norm1 = RmsNorm(dim)
        self.wq = nn.Linear(dim, key_heads * queries_per_key * head_dim, bias=False)
        self.wk = nn.Linear(dim, key_heads * head_dim, bias=False)
        self.wv = nn.Linear(dim, key_heads * head_dim, bias=False)
        self.wo = nn.Linear(key_heads * queries_per_key * head_dim, dim, bias=False)
        self.norm2 = RmsNorm(dim)
        self.w1 = nn.Linear(dim, hidden, bias=False)
        self.w2 = nn.Linear(hidden, dim, bias=False)
        self.w3 = nn.Linear(dim, hidden, bias=False)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """Return (batch, T, dim) for the same."""
        batch, steps, _ = x.shape
        y = self.norm1(x)
        q = self.wq(y).view(batch, steps, -1, self.head_dim).transpose(1, 2)
        k = self.wk(y).view(batch, steps, -1, self.head_dim).transpose(1, 2)
        v = self.wv(y).view(batch, steps, -1, self.head_dim).transpose(1, 2)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        k = k.repeat_interleave(self.queries_per_key, dim=1)
        v = v.repeat_interleave(self.queries_per_key, dim=1)
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.wo(y.transpose(1, 2).reshape(batch, steps, -1))
        y = self.norm2(x)
        return x + self.w2(functional.silu(self.w1(y)) * self.w3(y))


class Llama(nn.Module):
    """Embedding, one decoder layer, RMS norm, output head."""

    def __init__(
        self,
        vocabulary: int = 30,
        dim: int = 32,
        key_heads: int = 4,
        queries_per_key: int = 2,
        head_dim: int = 8,
        hidden: int = 64,
        steps: int = 10,
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, dim)
        self.layer = DecoderLayer(dim, key_heads, queries_per_key, head_dim, hidden)
        self.norm = RmsNorm(dim)
        self.head = nn.Linear(dim, vocabulary, bias=False)
        rates = 1.0 / (10000 ** (torch.arange(0, head_dim, 2) / head_dim))
        angles = torch.outer(torch.arange(steps), rates).repeat(1, 2)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, T, vocabulary) of tokens (batch, T)."""
        x = self.layer(self.embed(tokens), self.cos, self.sin)
        return self.head(self.norm(x))


def native_llama(shapes: Shapes, queries_per_key: int = 2, head_dim: int = 8) -> Llama:
    """Build the network with the lengths that are kept."""
    vocabulary, dim = shapes("embed.weight")
    key_heads = shapes("layer.wk.weight")[0] // head_dim
    hidden = shapes("layer.w1.weight")[0]
    return Llama(vocabulary, dim, key_heads, queries_per_key, head_dim, hidden)
