"""How well a picture survives compression: the peak signal-to-noise ratio, of one picture and of many."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import reduce
from torch import Tensor

PEAK = 2.0  # pictures lie in [-1, 1]


def squared_errors(images: Tensor, reference: Tensor) -> Tensor:
    """Mean squared error of each picture, clipped to [-1, 1] as it would be shown: (B, C, H, W) twice -> (B,) float64.

    Raises
    ------
    ValueError
        if the shapes differ or there is no picture.
    """
    if images.shape != reference.shape or images.ndim != 4 or not len(images):
        raise ValueError(
            f"expected two batches of pictures (B, C, H, W) of one shape, not {tuple(images.shape)} and "
            f"{tuple(reference.shape)}"
        )
    difference = images.detach().double().clamp(-1, 1) - reference.detach().double()
    return reduce(difference**2, "b c h w -> b", "mean")


def psnr(images: Tensor, reference: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each picture in dB, ``10 log10(peak^2 / MSE)``: (B, C, H, W) twice -> (B,) float64.

    An exact copy has an infinite one. Errors as for `squared_errors`.
    """
    return 10 * torch.log10(PEAK**2 / squared_errors(images, reference))


@dataclass(frozen=True)
class PsnrScore:
    """PSNR over a set of ``count`` pictures, in dB.

    ``mean`` is the mean of the pictures' own; ``pooled`` is the PSNR of the mean squared error over all of them, which
    a few bad pictures pull down: it is never the larger.
    """

    mean: float
    pooled: float
    count: int


def psnr_score(restore: Callable[[Tensor], Tensor], images: Tensor, *, batch: int = 32) -> PsnrScore:
    """PSNR of ``restore(images)`` against the pictures (N, C, H, W) in [-1, 1], a batch at a time.

    ``restore`` is an autoencoder's way there and back, or a baseline (`flat_colour`, `pooled_copy`).
    """
    with torch.inference_mode():
        errors = torch.cat([squared_errors(restore(part), part) for part in images.split(batch)])  # (N,)
    return PsnrScore(
        mean=float((10 * torch.log10(PEAK**2 / errors)).mean()),
        pooled=10 * math.log10(PEAK**2 / float(errors.mean())) if errors.any() else math.inf,
        count=len(images),
    )


def flat_colour(images: Tensor) -> Tensor:
    """Every picture replaced by its mean colour: what no compression method may fall below. (B, C, H, W) -> same."""
    return reduce(images, "b c h w -> b c 1 1", "mean").expand_as(images)


def pooled_copy(images: Tensor, factor: int) -> Tensor:
    """Every picture averaged over squares of ``factor`` pixels and enlarged again: (B, C, H, W) -> same.

    A latent of that factor has as many positions; what an autoencoder gains over this copy, it has learned.
    """
    small = F.avg_pool2d(images, factor)  # (B, C, H / factor, W / factor)
    return F.interpolate(small, size=images.shape[-2:], mode="bilinear", align_corners=False)
