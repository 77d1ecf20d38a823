"""Attention, and the spatial transformer through which text steers the picture."""

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ldm_edu.kernels.attention import attend_on_cpu
from ldm_edu.nn.norm import GroupNorm

KeyValue = tuple[Tensor, Tensor]  # each (B, heads, L, head_dim)


def attend(q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False) -> Tensor:
    """Softmax(q k^T / sqrt(d)) v (Vaswani et al. 2017, equation 1): three of (B, heads, N or L, d) -> (B, heads, N, d).

    ``causal``: no query attends to keys after its own place.
    """
    out = attend_on_cpu(q, k, v, causal=causal)  # the same, quicker, where a CPU computes in bfloat16
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal) if out is None else out


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
