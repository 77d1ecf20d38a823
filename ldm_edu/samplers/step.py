"""What the samplers share: the step they yield, the move from one level to the next, and the checks."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from ldm_edu.denoise import Denoiser
from ldm_edu.samplers.noise import Noise
from ldm_edu.schedule import Level, check_level


@dataclass(frozen=True)
class Step:
    """What one step of a sampler leaves behind.

    ``index`` counts from 0; ``x`` (B, ...) is the sample after the step, at ``level``; ``x0`` (B, ...) is the clean
    sample as the denoiser saw it before the step.
    """

    index: int
    x: Tensor
    x0: Tensor
    level: Level


class Sampler(Protocol):
    """Every sampler is called alike.

    ``denoise`` : noisy sample and level in, estimate of x0 out. ``x`` : (B, ...) a sample at ``levels[0]``, for a new
    picture pure noise. ``levels`` : from noise to data; a run of ``len(levels) - 1`` steps (``levels[k:]`` and a
    noised picture: image to image). ``rng`` : the noise of the stochastic samplers; the others leave it alone.

    Yields one `Step` a step. Nothing is kept between two runs: a sampler's history is its local variables.
    """

    def __call__(
        self, denoise: Denoiser, x: Tensor, levels: Sequence[Level], *, rng: Noise | None = None
    ) -> Iterator[Step]: ...


def pairs(levels: Sequence[Level]) -> Iterator[tuple[int, tuple[Level, Level]]]:
    """Index, this level and the next one of every step.

    Raises
    ------
    TypeError
        if something else than levels is in the list.
    ValueError
        if there is no step to take, or no noise at the start.
    """
    if not isinstance(levels, Sequence):
        raise TypeError(
            f"`levels` must be a list of Level, not a {type(levels).__name__}: make one with levels(schedule, steps), "
            "or of sigmas with levels_at_sigmas(schedule, sigmas)"
        )
    for level in levels:
        check_level(level)
    if len(levels) < 2:
        raise ValueError(f"a run needs at least 2 levels, its start and its end, not {len(levels)}; ask for more steps")
    if levels[0].sigma == 0:
        raise ValueError("a run goes from noise to data, and these levels start without noise; turn them round")
    return enumerate(pairwise(levels))


def estimate(denoise: Denoiser, x: Tensor, level: Level, index: int) -> Tensor:
    """The denoiser's estimate of x0, like ``x`` (B, ...), which must consist of numbers; no gradients are recorded.

    Raises
    ------
    TypeError
        if the denoiser returns something else than a tensor.
    ValueError
        if the shape is not that of ``x``, or there is NaN or infinity: names the step and what to do.
    """
    with torch.no_grad():
        x0 = denoise(x, level)
    if not isinstance(x0, Tensor):
        raise TypeError(
            f"a denoiser must return the estimate of x0, a tensor, not a {type(x0).__name__}: take the tensor out "
            "(.sample), and turn what the network predicts into x0 with to_x0"
        )
    if x0.shape != x.shape:
        raise ValueError(f"the denoiser returned a tensor of {tuple(x0.shape)} for a sample of {tuple(x.shape)}")
    if not all(map(math.isfinite, x0.aminmax())):  # NaN passes through both; quicker than a look at each number
        raise ValueError(
            f"at step {index} (t = {float(level.t):.1f}) the model's estimate holds NaN or infinity; lower the "
            "guidance scale, run in float32 or bfloat16 instead of float16, and check that the weights are complete"
        )
    return x0


def move_x0(x: Tensor, x0: Tensor, now: Level, nxt: Level) -> Tensor:
    """From one level to the next as if x0 were known: the DDIM step (Song et al. 2021, equation 12) without eps.

    It is exact when x0 stays the same on the way; the solvers that extrapolate x0 (dpmpp, unipc) put theirs in. Fit
    for the noisy end, where alpha may be 0; ``now.sigma`` must not be.
    """
    (alpha, sigma), (alpha_next, sigma_next) = now.factors, nxt.factors
    keep = sigma_next / sigma
    return keep * x + (alpha_next - alpha * keep) * x0


def move_eps(x: Tensor, eps: Tensor, now: Level, nxt: Level) -> Tensor:
    """From one level to the next as if eps were known: the same DDIM step without x0.

    It is exact when eps stays the same on the way; the solvers that average or extrapolate eps (heun, dpm2, lms, plms,
    ipndm, deis) put theirs in. Fit for the clean end, where sigma may be 0; ``now.alpha`` must not be.
    """
    (alpha, sigma), (alpha_next, sigma_next) = now.factors, nxt.factors
    keep = alpha_next / alpha
    return keep * x + (sigma_next - sigma * keep) * eps
