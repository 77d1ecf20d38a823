"""Group normalisation with a backward pass that is quick on a CPU.

PyTorch's backward pass over channels-last maps took 45 % of an autoencoder's training step there, as much as all
convolutions together (`ldm-edu bench train-step` measures the whole).
"""

from typing import Any

import torch
from einops import rearrange
from torch import Tensor


class QuickGroupNorm(torch.autograd.Function):
    """y = a x + b with one a and b for each picture and channel; sums are taken in float32 whatever the type of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        """Normalise, and keep what the backward pass needs: the input, the means and the inverse deviations."""
        y, mean, rstd = torch.native_group_norm(
            x, weight.to(x.dtype), bias.to(x.dtype), x.shape[0], x.shape[1], x.shape[2] * x.shape[3], groups, eps
        )
        ctx.save_for_backward(x, weight, mean, rstd)
        ctx.groups = groups
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        """Two sums over the pixels of each channel, then one affine map of dy and x."""
        x, weight, mean, rstd = ctx.saved_tensors
        g, n = ctx.groups, x.shape[2] * x.shape[3] * x.shape[1] // ctx.groups  # n: values in a group
        rows = rearrange(x, "b c h w -> b (h w) c")
        d_rows = rearrange(dy, "b c h w -> b (h w) c")
        sum_dy = d_rows.sum(dim=1, dtype=torch.float32)  # (B, C)
        sum_dyx = (d_rows * rows).sum(dim=1, dtype=torch.float32)  # (B, C)

        mean_c, rstd_c = (s.float().repeat_interleave(x.shape[1] // g, dim=1) for s in (mean, rstd))  # (B, C)
        d_weight = ((sum_dyx - mean_c * sum_dy) * rstd_c).sum(dim=0)  # (C,)
        d_bias = sum_dy.sum(dim=0)  # (C,)

        # dx = rstd w dy - p x - q, where p and q make it orthogonal to the group's constants and to the group itself
        gain = weight.float() * rstd_c  # (B, C)
        in_group = lambda s: s.unflatten(1, (g, -1)).sum(dim=2)  # noqa: E731  (B, C) -> (B, G)
        total_dy, total_dyx = in_group(sum_dy * weight.float()), in_group(sum_dyx * weight.float())
        p = rstd.float() ** 3 * (total_dyx - mean.float() * total_dy) / n  # (B, G)
        q = rstd.float() * total_dy / n - p * mean.float()  # (B, G)
        p_c, q_c = (s.repeat_interleave(x.shape[1] // g, dim=1) for s in (p, q))  # (B, C)
        gain_, p_, q_ = (s.to(x.dtype)[:, None, :] for s in (gain, p_c, q_c))  # (B, 1, C)
        d_x = torch.addcmul(torch.addcmul(-q_, rows, p_, value=-1), d_rows, gain_)  # (B, H W, C)
        return (
            rearrange(d_x, "b (h w) c -> b c h w", h=x.shape[2]),
            d_weight.to(weight.dtype),
            d_bias.to(weight.dtype),
            None,
            None,
        )
