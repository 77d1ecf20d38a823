"""Half as wide, twice as wide."""

import torch.nn.functional as F
from torch import Tensor, nn


class Downsample(nn.Module):
    """A 3x3 convolution of stride 2: (B, C, H, W) -> (B, C, H/2, W/2).

    ``pad_end``: one zero row below and one column on the right only (the autoencoder), instead of one on every side
    (the U-Net). The published weights were trained so; the two differ by half a pixel.
    """

    def __init__(self, channels: int, *, pad_end: bool = False) -> None:
        super().__init__()
        self.pad_end = pad_end
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=0 if pad_end else 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H/2, W/2)."""
        return self.conv(F.pad(x, (0, 1, 0, 1)) if self.pad_end else x)


class Upsample(nn.Module):
    """Every pixel becomes four, then a 3x3 convolution: (B, C, H, W) -> (B, C, 2H, 2W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, 2H, 2W)."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
