"""A small residual classifier of pictures: the perceptual loss, the judge and the Fréchet distance all look through it.

It tells the concept and the style of an emoji. One trained copy serves the autoencoder as its perceptual loss; another,
of other widths and another seed, is the judge, and no generator is ever trained with it.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from ldm_edu.config import ClassifierConfig
from ldm_edu.nn.norm import GroupNorm
from ldm_edu.nn.resample import Downsample
from ldm_edu.nn.resnet import ResBlock


class Classifier(nn.Module):
    """Levels of one residual block each, halved between; the mean over pixels; one linear head a question."""

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config = config
        widths = [config.channels * m for m in config.mults]
        self.conv_in = nn.Conv2d(3, widths[0], 4, stride=2, padding=1)
        self.levels = nn.ModuleList()
        current = widths[0]
        for width in widths:
            self.levels.append(
                nn.Sequential(ResBlock(current, width, groups=config.groups, eps=1e-5), Downsample(width))
            )
            current = width
        self.norm_out = GroupNorm(config.groups, current, eps=1e-5)
        self.concept = nn.Linear(current, config.concepts)
        self.style = nn.Linear(current, config.styles)

    def maps(self, images: Tensor) -> list[Tensor]:
        """The feature map after each level, of pictures (B, 3, H, W) in [-1, 1]: (B, C_i, H / 2^(i+2), ..)."""
        h = self.conv_in(images)
        maps = []
        for level in self.levels:
            h = level(h)
            maps.append(h)
        return maps

    def features(self, images: Tensor) -> Tensor:
        """One vector a picture, the space of the Fréchet distance: (B, 3, H, W) -> (B, C)."""
        return F.silu(self.norm_out(self.maps(images)[-1])).mean(dim=(2, 3))  # (B, C)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the concepts and of the styles: (B, 3, H, W) -> (B, concepts), (B, styles)."""
        features = self.features(images)
        return self.concept(features), self.style(features)
