"""Classifier-free guidance: from two denoisers a third that listens harder to the prompt.

All is done on estimates of x0. For one noisy sample they are a fixed line of eps or v, so guiding the one guides the
others alike.
"""

import math
from collections.abc import Sequence

import torch
from einops import reduce
from torch import Tensor

from ldm_edu.config import Prediction
from ldm_edu.denoise import Denoiser, Joinable
from ldm_edu.prediction import target, to_eps, to_x0
from ldm_edu.schedule import Level


def cfg(cond: Denoiser, uncond: Denoiser, scale: float) -> Denoiser:
    """Classifier-free guidance, uncond + scale * (cond - uncond) (Ho and Salimans 2022, equation 6).

    Two denoisers of one network are run as one batch, and two of your own that are `Joinable`. A negative prompt is
    another ``uncond``. Scale 1 is no guidance: then ``cond`` itself comes back, at half the cost; scale 0 gives
    ``uncond``. (The paper's w is ``scale - 1``.)

    Raises
    ------
    ValueError
        if the scale is no finite number.
    """
    if not math.isfinite(scale):
        raise ValueError(f"the guidance scale is {scale}; give a finite number: 1 is no guidance, 5 to 8 are usual")
    if scale == 1:
        return cond
    if scale == 0:
        return uncond
    return Guided(cond, uncond, scale)


def cfg2(both: Denoiser, image: Denoiser, neither: Denoiser, scale: float, image_scale: float) -> Denoiser:
    """Guidance by two conditions, a text and a picture (Brooks et al. 2023, InstructPix2Pix, equation 3).

    ``neither + image_scale * (image - neither) + scale * (both - image)``. Denoisers of one network are run as one
    batch. 7.5 and 1.5 are usual.

    Raises
    ------
    ValueError
        if a scale is no finite number.
    """
    if not (math.isfinite(scale) and math.isfinite(image_scale)):
        raise ValueError(
            f"the guidance scales are {scale} and {image_scale}; give finite numbers: 7.5 and 1.5 are usual"
        )
    together = Together([both, image, neither])

    def guided(x: Tensor, level: Level) -> Tensor:
        x0_both, x0_image, x0_neither = together(x, level)
        return x0_neither + image_scale * (x0_image - x0_neither) + scale * (x0_both - x0_image)

    return guided


class Together:
    """Several denoisers asked about one sample; as one batch where they can be joined (`Joinable`)."""

    def __init__(self, denoisers: Sequence[Denoiser]) -> None:
        self.denoisers = denoisers
        self._joint: tuple[int, Denoiser | None] | None = None  # batch size, all of them as one

    def __call__(self, x: Tensor, level: Level) -> Sequence[Tensor]:
        """The estimate of each, (B, ...)."""
        if self._joint is None or self._joint[0] != len(x):
            first, *others = self.denoisers
            self._joint = len(x), first.joined(others, len(x)) if isinstance(first, Joinable) else None
        joint = self._joint[1]
        if joint is None:
            return [denoise(x, level) for denoise in self.denoisers]
        return joint(torch.cat([x] * len(self.denoisers)), level).chunk(len(self.denoisers))


class Guided:
    """What `cfg` makes: a `Denoiser` that also tells its two branches apart."""

    def __init__(self, cond: Denoiser, uncond: Denoiser, scale: float) -> None:
        self.cond, self.uncond, self.scale = cond, uncond, scale
        self._together = Together([cond, uncond])

    def __call__(self, x: Tensor, level: Level) -> Tensor:
        """The guided estimate of x0, (B, ...)."""
        return self.mix(*self.branches(x, level))

    def mix(self, x0_cond: Tensor, x0_uncond: Tensor) -> Tensor:
        """The line through both estimates, ``scale`` times as far."""
        return x0_uncond + self.scale * (x0_cond - x0_uncond)

    def branches(self, x: Tensor, level: Level) -> tuple[Tensor, Tensor]:
        """The estimates of x0 with and without the condition, each (B, ...)."""
        with_cond, without = self._together(x, level)
        return with_cond, without


def rescale(guided: Denoiser, phi: float = 0.7, prediction: Prediction = "v") -> Denoiser:
    """Guidance whose output has the spread of the unguided one, against overexposure (Lin et al. 2023, eq. 15 and 16).

    Parameters
    ----------
    guided : the result of `cfg` itself, which still has two branches; `interval` and `inpaint` go around what comes
        back, not inside. Any other denoiser (a scale of 0 or 1 gives one) comes back as it is.
    phi : 0 is plain guidance, 1 all of the spread restored.
    prediction : in what the spread is measured; the paper's model predicts v.

    Raises
    ------
    ValueError
        if phi lies outside [0, 1].
    """
    if not 0 <= phi <= 1:
        raise ValueError(f"phi={phi} must lie from 0 (plain guidance) to 1 (all of the spread restored)")
    if not isinstance(guided, Guided):
        return guided

    def rescaled(x: Tensor, level: Level) -> Tensor:
        def as_predicted(x0: Tensor) -> Tensor:
            return target(prediction, x0, to_eps(x0, x, level), level)

        x0_cond, x0_uncond = guided.branches(x, level)
        wanted, out = as_predicted(x0_cond), as_predicted(guided.mix(x0_cond, x0_uncond))
        matched = out * _spread(wanted) / _spread(out)  # equation 15
        return to_x0(prediction, phi * matched + (1 - phi) * out, x, level)  # equation 16

    return rescaled


def interval(guided: Denoiser, cond: Denoiser, low: float, high: float) -> Denoiser:
    """Guidance only where sigma / alpha lies in (low, high] (Kynkäänniemi et al. 2024, section 3).

    Elsewhere ``cond`` alone, which costs half: at high noise guidance takes away variety, at low noise it does nothing.

    Raises
    ------
    ValueError
        if the bounds are no interval.
    """
    if not 0 <= low < high:
        raise ValueError(f"an interval of sigma / alpha must have 0 <= low < high, not low={low} and high={high}")

    def sometimes(x: Tensor, level: Level) -> Tensor:
        return guided(x, level) if low < level.ratio <= high else cond(x, level)

    return sometimes


def _spread(x: Tensor) -> Tensor:
    """The standard deviation of each picture: (B, ...) -> (B, 1, ...)."""
    ones = " ".join("1" for _ in x.shape[1:])
    return reduce(x, f"b ... -> b {ones}", torch.std)
