"""The picture compressor: an encoder to a small latent map, a decoder back, and a Gaussian in between."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm_edu.config import AutoencoderConfig
from ldm_edu.nn.attention import PixelAttention
from ldm_edu.nn.norm import GroupNorm
from ldm_edu.nn.resample import Downsample, Upsample
from ldm_edu.nn.resnet import ResBlock

EPS = 1e-6  # of every group norm in the autoencoder


@dataclass(frozen=True)
class Posterior:
    """q(z | x), a Gaussian of its own mean and variance at every latent value (Kingma and Welling 2014, appendix B).

    ``mean`` and ``logvar`` are (B, latent_channels, h, w).
    """

    mean: Tensor
    logvar: Tensor

    @property
    def mode(self) -> Tensor:
        """The most likely latent, (B, latent_channels, h, w)."""
        return self.mean

    def sample(self, noise: Tensor) -> Tensor:
        """``mean + std * noise``, the reparametrisation of Kingma and Welling 2014, section 2.4."""
        return self.mean + torch.exp(0.5 * self.logvar) * noise

    def kl(self) -> Tensor:
        """KL divergence to the standard normal, in nats, a picture: (B,) (Kingma and Welling 2014, appendix B)."""
        return 0.5 * (self.mean**2 + self.logvar.exp() - 1.0 - self.logvar).sum(dim=(1, 2, 3))


class Middle(nn.Module):
    """Residual block, attention over all pixels, residual block, at the lowest resolution."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.res1 = ResBlock(channels, channels, groups=groups, eps=EPS)
        self.attention = PixelAttention(channels, groups=groups)
        self.res2 = ResBlock(channels, channels, groups=groups, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        return self.res2(self.attention(self.res1(x)))


class Encoder(nn.Module):
    """(B, in_channels, H, W) -> (B, 2 * latent_channels, H/f, W/f)."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths = [config.channels * m for m in config.mults]
        self.conv_in = nn.Conv2d(config.in_channels, config.channels, 3, padding=1)
        layers: list[nn.Module] = []
        current = config.channels
        for i, width in enumerate(widths):
            for _ in range(config.blocks):
                layers.append(ResBlock(current, width, groups=config.groups, eps=EPS))
                current = width
            if i < len(widths) - 1:
                layers.append(Downsample(width, pad_end=True))
        self.down = nn.Sequential(*layers)
        self.mid = Middle(current, config.groups)
        self.norm_out = GroupNorm(config.groups, current, eps=EPS)
        self.conv_out = nn.Conv2d(current, 2 * config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, 2 * latent_channels, H/f, W/f)."""
        h = self.mid(self.down(self.conv_in(x)))
        return self.conv_out(F.silu(self.norm_out(h)))


class Decoder(nn.Module):
    """(B, latent_channels, h, w) -> (B, in_channels, h*f, w*f)."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths = [config.channels * m for m in config.mults]
        current = widths[-1]
        self.conv_in = nn.Conv2d(config.latent_channels, current, 3, padding=1)
        self.mid = Middle(current, config.groups)
        layers: list[nn.Module] = []
        for i, width in reversed(list(enumerate(widths))):
            for _ in range(config.blocks + 1):
                layers.append(ResBlock(current, width, groups=config.groups, eps=EPS))
                current = width
            if i:
                layers.append(Upsample(width))
        self.up = nn.Sequential(*layers)
        self.norm_out = GroupNorm(config.groups, current, eps=EPS)
        self.conv_out = nn.Conv2d(current, config.in_channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """(B, latent_channels, h, w) -> (B, in_channels, h*f, w*f)."""
        h = self.up(self.mid(self.conv_in(z)))
        return self.conv_out(F.silu(self.norm_out(h)))


class AutoencoderKL(nn.Module):
    """A variational autoencoder with a small weight on its KL term (Rombach et al. 2022, section 3.1).

    Latents here are raw: `LatentDiffusion` applies the config's ``scale`` and ``shift``. With the preset ``sd15`` it
    has Stable Diffusion's 83,653,863 parameters.
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quant = nn.Conv2d(2 * config.latent_channels, 2 * config.latent_channels, 1)
        with (
            torch.no_grad()
        ):  # exp(-6 / 2) = 0.05: training starts as a plain autoencoder, not with latents of pure noise
            self.quant.bias[config.latent_channels :] = -6.0  # type: ignore[index]
        self.post_quant = nn.Conv2d(config.latent_channels, config.latent_channels, 1)

    def encode(self, x: Tensor) -> Posterior:
        """The posterior over latents (B, latent_channels, H/f, W/f) of pictures (B, in_channels, H, W) in [-1, 1].

        Raises
        ------
        ValueError
            if a side is not a multiple of the factor f.
        """
        factor = self.config.factor
        if x.ndim != 4 or x.shape[1] != self.config.in_channels:
            raise ValueError(f"expected pictures (B, {self.config.in_channels}, H, W), not {tuple(x.shape)}")
        if x.shape[2] % factor or x.shape[3] % factor:
            raise ValueError(
                f"the sides of a picture must be multiples of {factor}, not {x.shape[2]} x {x.shape[3]}: crop or resize"
            )
        mean, logvar = self.quant(self.encoder(x)).chunk(2, dim=1)  # each (B, latent_channels, H/f, W/f)
        return Posterior(mean, logvar.clamp(-30.0, 20.0))

    def decode(self, z: Tensor) -> Tensor:
        """Pictures (B, in_channels, h*f, w*f), about in [-1, 1], of raw latents ``z`` (B, latent_channels, h, w)."""
        return self.decoder(self.post_quant(z))
