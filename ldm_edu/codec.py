"""Pictures to what is diffused, and back: latents of an autoencoder, or the pixels themselves."""

from typing import Protocol

import torch
from einops import rearrange
from torch import Tensor

from ldm_edu.models.autoencoder import AutoencoderKL
from ldm_edu.tiling import TILE, piecewise


class Codec(Protocol):
    """What a model asks of a codec."""

    @property
    def factor(self) -> int:
        """How many pixels one place of the sample is wide."""
        ...

    def encode(self, images: Tensor, *, tile: int = TILE) -> Tensor:
        """Pictures (B, C, H, W) in [-1, 1] to samples (B, c, H/f, W/f) of about unit variance, in float32."""
        ...

    def decode(self, sample: Tensor, *, tile: int = TILE) -> Tensor:
        """Samples (B, c, h, w) to pictures (B, C, h*f, w*f) in [-1, 1], in float32; values outside are clipped."""
        ...

    def unscaled(self, sample: Tensor) -> Tensor:
        """Samples (B, c, h, w) before they were scaled to unit variance."""
        ...

    def check_tile(self, tile: int) -> None:
        """Raise ValueError if pictures cannot be encoded and decoded in tiles of that side, in pixels."""
        ...


class PixelCodec:
    """Pixels are diffused as they are."""

    factor = 1

    def encode(self, images: Tensor, *, tile: int = TILE) -> Tensor:
        """The pictures (B, C, H, W) themselves."""
        return images

    def decode(self, sample: Tensor, *, tile: int = TILE) -> Tensor:
        """The samples (B, C, H, W) clipped to [-1, 1]; raises ValueError if they are no finite numbers."""
        _refuse_nan(sample)
        return sample.clamp(-1, 1)

    def unscaled(self, sample: Tensor) -> Tensor:
        """The samples themselves."""
        return sample

    def check_tile(self, tile: int) -> None:
        """Raise ValueError if the side is too small."""
        _check_tile(tile, self.factor)


class LatentCodec:
    """An autoencoder, whose latents are shifted and scaled to about unit variance (Rombach et al. 2022, appendix G)."""

    def __init__(self, autoencoder: AutoencoderKL) -> None:
        self.autoencoder = autoencoder

    @property
    def factor(self) -> int:
        """How many pixels a latent pixel is wide."""
        return self.autoencoder.config.factor

    @torch.no_grad()
    def encode(self, images: Tensor, *, tile: int = TILE) -> Tensor:
        """The most likely latents (B, c, H/f, W/f) of pictures (B, C, H, W) in [-1, 1], in float32.

        Parameters
        ----------
        tile
            no more than ``tile * tile`` pixels are encoded at a time (see `ldm_edu.tiling`).

        Raises
        ------
        ValueError
            if a side, or ``tile``, is not a multiple of the factor f.
        """
        self.check_tile(tile)
        autoencoder = self.autoencoder
        to_mode = lambda x: autoencoder.encode(x.to(autoencoder.quant.weight)).mode.float()  # noqa: E731
        return self.scaled(piecewise(to_mode, images, tile, self.factor))

    @torch.no_grad()
    def decode(self, sample: Tensor, *, tile: int = TILE) -> Tensor:
        """Latents (B, c, h, w) to pictures (B, C, h*f, w*f) in [-1, 1], in float32.

        Raises
        ------
        ValueError
            as `encode`; and if the latents, or what becomes of them, are no finite numbers.
        """
        self.check_tile(tile)
        _refuse_nan(sample)
        autoencoder = self.autoencoder
        to_images = lambda z: autoencoder.decode(z.to(autoencoder.quant.weight)).float()  # noqa: E731
        images = piecewise(to_images, self.unscaled(sample), tile // self.factor)
        if not images.isfinite().all():
            kind = str(autoencoder.quant.weight.dtype).removeprefix("torch.")
            raise ValueError(
                f"the autoencoder gave numbers that are not finite in {kind}, and the picture would be black: run the "
                "model in bfloat16 or float32 (--dtype), or with another autoencoder (--vae)"
            )
        return images.clamp(-1, 1)

    def scaled(self, raw: Tensor) -> Tensor:
        """The autoencoder's own latents (B, c, h, w), scaled to about unit variance."""
        mean, std = self._moments(raw)
        return (raw - mean) / std * self.autoencoder.config.scale

    def unscaled(self, sample: Tensor) -> Tensor:
        """The opposite of `scaled`."""
        mean, std = self._moments(sample)
        return sample / self.autoencoder.config.scale * std + mean

    def _moments(self, like: Tensor) -> tuple[Tensor | float, Tensor | float]:
        """What is taken away from the autoencoder's latents, and what they are divided by, before they are scaled."""
        config = self.autoencoder.config
        if config.latents_mean is None or config.latents_std is None:
            return config.shift, 1.0
        mean, std = like.new_tensor([config.latents_mean, config.latents_std])  # (C,) each
        return rearrange(mean, "c -> c 1 1"), rearrange(std, "c -> c 1 1")

    def check_tile(self, tile: int) -> None:
        """Raise ValueError if the side of a tile, in pixels, is too small or not a multiple of the factor."""
        _check_tile(tile, self.factor)


def _refuse_nan(sample: Tensor) -> None:
    if not sample.isfinite().all():
        raise ValueError(
            "what was drawn holds numbers that are not finite, and the picture would be black: run the model in "
            "bfloat16 or float32 (--dtype), or with less guidance (--guidance)"
        )


def _check_tile(tile: int, factor: int) -> None:
    if tile % factor or tile < 2 * factor:
        raise ValueError(f"tile={tile} must be a multiple of {factor}, and at least {2 * factor}")
