"""Attention in bfloat16 on a CPU, quicker than PyTorch's fused form there. The plain form is `ldm_edu.nn.attention`.

Over a few dozen tokens in training the formula written out is 2 to 5 times as quick, since the fused backward pass is
slow; in drawing, a block of queries at a time takes about half the time at any length.
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

SMALL = 2**16  # products of queries and keys up to here, one picture and head; larger ones would fill the memory
ROWS = 512  # queries at a time in `_in_blocks`
BLOCK = 2**22  # products of queries and keys at a time there: 8 MiB stay in a processor's last cache
LARGEST = 100.0  # product there, whose power of 2 is taken as it is: 2**100 summed over any picture's keys is finite
LANES = 16  # columns that a processor multiplies at once


def attend_on_cpu(q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> Tensor | None:
    """Softmax(q k^T / sqrt(d)) v in bfloat16 on a CPU; None where PyTorch's own form is as quick."""
    if q.device.type != "cpu" or q.dtype != torch.bfloat16:
        return None
    if not torch.is_grad_enabled() and not causal:
        return _in_blocks(q, k, v)
    if torch.is_grad_enabled() and q.shape[-2] * k.shape[-2] <= SMALL:
        return _written_out(q, k, v, causal)
    return None


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
