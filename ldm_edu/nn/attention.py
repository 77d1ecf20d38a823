"""Attention, and the spatial transformer through which text steers the picture."""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ldm_edu.nn.norm import GroupNorm

KeyValue = tuple[Tensor, Tensor]  # each (B, heads, L, head_dim)


SMALL = 2**16  # products of queries and keys up to here, one picture and head; larger ones would fill the memory
ROWS = 512  # queries at a time in `_in_blocks`
BLOCK = 2**22  # products of queries and keys at a time there: 8 MiB stay in a processor's last cache
LARGEST = 100.0  # product there, whose power of 2 is taken as it is: 2**100 summed over any picture's keys is finite
LANES = 16  # columns that a processor multiplies at once


def attend(q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False) -> Tensor:
    """Softmax(q k^T / sqrt(d)) v (Vaswani et al. 2017, equation 1): three of (B, heads, N or L, d) -> (B, heads, N, d).

    PyTorch's fused form everywhere but in bfloat16 on a CPU, where the formula written out is quicker: over a few dozen
    tokens in training 2 to 5 times, since the fused backward pass is slow; in drawing, a block at a time, about twice
    at any length. ``causal``: nothing attends to what comes after it.
    """
    if q.device.type == "cpu" and q.dtype == torch.bfloat16:
        if not torch.is_grad_enabled() and not causal:
            return _in_blocks(q, k, v)
        if torch.is_grad_enabled() and q.shape[-2] * k.shape[-2] <= SMALL:
            return _written_out(q, k, v, causal)
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal)


def _written_out(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    scores = (q * q.shape[-1] ** -0.5) @ rearrange(k, "b h l d -> b h d l")  # (B, heads, N, L)
    if causal:
        future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)  # (N, L)
        scores = scores.masked_fill(future, float("-inf"))
    return scores.float().softmax(dim=-1).to(v.dtype) @ v


def _in_blocks(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """A few heads and up to 512 queries at a time, so that the products of queries and keys are never all in memory.

    Softmax subtracts each row's largest product, so that no power overflows, and divides by the row's sum: four passes
    over the biggest thing there is. Here a column of ones beside the values gives the sum, and the division is left to
    the end, when there are d numbers a row. And the largest product is not looked for in heads where none can be large:
    |q k| is at most |q| |k| (Cauchy and Schwarz).

    Products are rounded to bfloat16 before the power is taken. The output of the shipped emoji U-Net is as near to
    float32's as with the fused form, although the products reach 140 there.
    """
    batch, dim = len(q), q.shape[-1]
    q = rearrange(q * (math.log2(math.e) * dim**-0.5), "b h n d -> (b h) n d").contiguous()
    k = rearrange(k.expand(batch, -1, -1, -1), "b h l d -> (b h) l d").contiguous()
    v = rearrange(v.expand(batch, -1, -1, -1), "b h l d -> (b h) l d")
    largest = q.norm(dim=2).amax(dim=1) * k.norm(dim=2).amax(dim=1)  # (B heads,) no product is larger
    v = F.pad(v, (0, -(dim + 1) % LANES + 1), value=1.0)  # (B heads, L, d + ones)
    rows = max(1, min(ROWS, q.shape[1], BLOCK // v.shape[1]))
    heads = max(1, BLOCK // (rows * v.shape[1]))
    out, room = torch.empty_like(q), q.new_empty(heads * rows, k.shape[1])  # fresh memory is slow: one room for all
    for i in range(0, len(q), heads):
        some = slice(i, i + heads)
        small = bool(largest[some].max() <= LARGEST)
        for j in range(0, q.shape[1], rows):
            queries = q[some, j : j + rows]  # (heads, rows, d)
            products = rearrange(room[: queries[..., 0].numel()], "(h n) l -> h n l", h=len(queries))
            torch.bmm(queries, rearrange(k[some], "h l d -> h d l"), out=products)
            if not small:
                products -= products.amax(dim=-1, keepdim=True)
            sums = products.exp2_() @ v[some]  # (heads, rows, d + ones)
            torch.div(sums[..., :dim], sums[..., dim : dim + 1], out=out[some, j : j + rows])
    return rearrange(out, "(b h) n d -> b h n d", b=batch)


class Attention(nn.Module):
    """Softmax(q k^T / sqrt(d)) v over several heads (Vaswani et al. 2017, equation 1).

    Self-attention when ``context_dim`` is None, else the queries come from ``x`` and keys and values from the context
    (Rombach et al. 2022, section 3.3). Keys and values of a context that stays the same over many steps can be
    computed once (`keys_values`) and passed in. ``causal``: token i attends to tokens 0 to i only, as in a language
    model. ``bias``: the three maps into the heads have one; the map out of the heads always has.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        head_dim: int,
        *,
        context_dim: int | None = None,
        bias: bool = False,
        causal: bool = False,
    ) -> None:
        super().__init__()
        inner = heads * head_dim
        self.heads, self.causal = heads, causal
        self.to_q = nn.Linear(width, inner, bias=bias)
        self.to_k = nn.Linear(context_dim or width, inner, bias=bias)
        self.to_v = nn.Linear(context_dim or width, inner, bias=bias)
        self.to_out = nn.Linear(inner, width)

    def keys_values(self, context: Tensor) -> KeyValue:
        """Keys and values of a context (B, L, D): two of (B, heads, L, head_dim)."""
        k = rearrange(self.to_k(context), "b l (h d) -> b h l d", h=self.heads)
        v = rearrange(self.to_v(context), "b l (h d) -> b h l d", h=self.heads)
        return k, v

    def forward(self, x: Tensor, keys_values: KeyValue | None = None) -> Tensor:
        """(B, N, width) -> (B, N, width); without ``keys_values`` it attends to itself."""
        q = rearrange(self.to_q(x), "b n (h d) -> b h n d", h=self.heads)
        k, v = self.keys_values(x) if keys_values is None else keys_values
        out = attend(q, k.to(q.dtype), v.to(q.dtype), causal=self.causal)  # (B, heads, N, head_dim)
        return self.to_out(rearrange(out, "b h n d -> b n (h d)"))


class FeedForward(nn.Module):
    """GEGLU (Shazeer 2020, equation 6): one half of a linear map, gated by the GELU of the other; then a linear map."""

    def __init__(self, width: int, factor: int = 4) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 2 * factor * width)
        self.out = nn.Linear(factor * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, width) -> (B, N, width)."""
        value, gate = self.proj(x).chunk(2, dim=-1)  # each (B, N, factor * width)
        return self.out(value * F.gelu(gate))


class TransformerLayer(nn.Module):
    """Self-attention, cross-attention, feed-forward, each behind a layer norm and added back.

    Without ``context_dim`` there is no cross-attention: an unconditional model attends only to itself.
    """

    def __init__(self, width: int, heads: int, head_dim: int, context_dim: int | None) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.self_attention: nn.Module = Attention(width, heads, head_dim)
        self.norm2 = nn.LayerNorm(width) if context_dim else None
        self.cross_attention = Attention(width, heads, head_dim, context_dim=context_dim) if context_dim else None
        self.norm3 = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width)

    def forward(self, x: Tensor, context: KeyValue | None) -> Tensor:
        """(B, N, width), and the context's keys and values -> (B, N, width)."""
        x = x + self.self_attention(self.norm1(x))
        if self.cross_attention is not None and self.norm2 is not None:
            x = x + self.cross_attention(self.norm2(x), context)
        return x + self.feed_forward(self.norm3(x))


class SpatialTransformer(nn.Module):
    """A transformer over the pixels of a feature map, around which the map itself is carried (Rombach et al. 2022).

    ``linear_proj``: the maps in and out are linear layers (Stable Diffusion 2 and later), not 1x1 convolutions. The
    two compute the same; the published weights have different shapes.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        head_dim: int,
        depth: int,
        *,
        context_dim: int | None,
        linear_proj: bool,
        groups: int,
    ) -> None:
        super().__init__()
        inner = heads * head_dim
        self.linear_proj = linear_proj
        self.norm = GroupNorm(groups, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, inner) if linear_proj else nn.Conv2d(channels, inner, 1)
        self.layers = nn.ModuleList(TransformerLayer(inner, heads, head_dim, context_dim) for _ in range(depth))
        self.proj_out = nn.Linear(inner, channels) if linear_proj else nn.Conv2d(inner, channels, 1)
        nn.init.zeros_(self.proj_out.weight)  # an untrained transformer changes nothing
        nn.init.zeros_(self.proj_out.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, contexts: list[KeyValue] | None) -> Tensor:
        """(B, C, H, W), and one pair of keys and values a layer -> (B, C, H, W)."""
        height, width = x.shape[-2:]
        h = self.norm(x)
        h = h if self.linear_proj else self.proj_in(h)
        h = rearrange(h, "b c h w -> b (h w) c")
        h = self.proj_in(h) if self.linear_proj else h
        for i, layer in enumerate(self.layers):
            h = layer(h, contexts[i] if contexts else None)
        h = self.proj_out(h) if self.linear_proj else h
        h = rearrange(h, "b (h w) c -> b c h w", h=height, w=width)
        h = h if self.linear_proj else self.proj_out(h)
        return x + h


class PixelAttention(nn.Module):
    """Plain one-head self-attention over the pixels: the autoencoder's, at its lowest resolution."""

    def __init__(self, channels: int, *, groups: int) -> None:
        super().__init__()
        self.norm = GroupNorm(groups, channels, eps=1e-6)
        self.attention: nn.Module = Attention(channels, heads=1, head_dim=channels, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        height, width = x.shape[-2:]
        h = rearrange(self.norm(x), "b c h w -> b (h w) c")
        h = rearrange(self.attention(h), "b (h w) c -> b c h w", h=height, w=width)
        return x + h
