"""A patch discriminator: it judges every patch of a picture as real or decoded (Isola et al. 2017, section 3.2.2)."""

from torch import Tensor, nn


class PatchDiscriminator(nn.Module):
    """Strided convolutions down to one logit a patch: (B, 3, H, W) -> (B, 1, H/4, W/4).

    No normalisation over the batch: the verdict on a picture does not depend on its neighbours.
    """

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, channels, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(channels, 2 * channels, 4, stride=2, padding=1),
            nn.GroupNorm(8, 2 * channels),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * channels, 4 * channels, 3, padding=1),
            nn.GroupNorm(8, 4 * channels),
            nn.LeakyReLU(0.2),
            nn.Conv2d(4 * channels, 1, 3, padding=1),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits, high where a patch looks real: (B, 3, H, W) -> (B, 1, H/4, W/4)."""
        return self.layers(images)
