"""The residual block that U-Net and autoencoder share."""

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ldm_edu.nn.norm import GroupNorm


class ResBlock(nn.Module):
    """Norm, SiLU, convolve, twice; the time step enters between the two as one shift a channel.

    (Ho et al. 2020, appendix B; without the time step it is the autoencoder's block.) A 1x1 convolution carries the
    input past the block where the number of channels changes.

    Parameters
    ----------
    channels_in, channels_out : number of channels before and after.
    groups, eps : of the group norms.
    time_width : width of the time embedding; None: the block does not know the time.
    """

    def __init__(
        self, channels_in: int, channels_out: int, *, groups: int, eps: float, time_width: int | None = None
    ) -> None:
        super().__init__()
        self.norm1 = GroupNorm(groups, channels_in, eps)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.time_proj = nn.Linear(time_width, channels_out) if time_width else None
        self.norm2 = GroupNorm(groups, channels_out, eps)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)  # the block starts as its skip: signals pass a deep, untrained network
        nn.init.zeros_(self.conv2.bias)  # type: ignore[arg-type]
        self.skip = nn.Conv2d(channels_in, channels_out, 1) if channels_in != channels_out else nn.Identity()

    def shift(self, embedding: Tensor) -> Tensor:
        """What the time embedding (B, time_width) adds to each channel: (B, channels_out)."""
        assert self.time_proj is not None, "this block was built without a time embedding"
        return self.time_proj(F.silu(embedding))

    def forward(self, x: Tensor, shift: Tensor | None = None) -> Tensor:
        """(B, channels_in, H, W), and a ``shift`` (B or 1, channels_out) -> (B, channels_out, H, W)."""
        h = self.conv1(F.silu(self.norm1(x)))
        if shift is not None:
            h = h + rearrange(shift, "b c -> b c 1 1").to(h.dtype)
        h = self.conv2(F.silu(self.norm2(h)))
        return self.skip(x) + h
