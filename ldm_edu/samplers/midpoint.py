"""Samplers that ask a second time halfway between two levels: dpm2, dpm2_ancestral, dpmpp_2s_ancestral and dpmpp_sde.

Halfway is in log-SNR. Two evaluations a step; where one end of the step has no log-SNR, at a clean end and at a start
of pure noise with alpha 0, one evaluation and a plain DDIM step.
"""

import math
from collections.abc import Iterator, Sequence

from torch import Tensor

from ldm_edu.denoise import Denoiser
from ldm_edu.prediction import to_eps
from ldm_edu.samplers.noise import Noise
from ldm_edu.samplers.step import Step, estimate, move_eps, move_x0, pairs
from ldm_edu.samplers.stochastic import add_fresh_noise, ancestral, check_noise, draw
from ldm_edu.schedule import Level, sigma_to_level


def dpm2(denoise: Denoiser, x: Tensor, levels: Sequence[Level], *, rng: Noise | None = None) -> Iterator[Step]:
    """DPM-Solver 2: eps halfway serves for the whole step (Lu et al. 2022, algorithm 1; Karras et al. 2022, section 3).

    Second order: the midpoint rule. See `Sampler` for the arguments.
    """
    for i, (now, nxt) in pairs(levels):
        x0 = estimate(denoise, x, now, i)
        if _has_middle(now, nxt):
            x = _with_middle_eps(denoise, x, x0, now, nxt, i)
        else:
            x = move_x0(x, x0, now, nxt)
        yield Step(i, x, x0, nxt)


def dpm2_ancestral(
    denoise: Denoiser,
    x: Tensor,
    levels: Sequence[Level],
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
    rng: Noise | None = None,
) -> Iterator[Step]:
    """`dpm2` down to less noise than the next level has, then fresh noise up to it.

    ``eta`` is the share of the posterior's noise that is drawn fresh, ``s_noise`` multiplies it. Needs ``rng`` when
    ``eta`` is not 0. See `Sampler` for the other arguments.
    """
    check_noise(eta, s_noise)
    for i, (now, nxt) in pairs(levels):
        x0 = estimate(denoise, x, now, i)
        down, up = ancestral(now, nxt, eta)
        if _has_middle(now, down):
            x = _with_middle_eps(denoise, x, x0, now, down, i)
        else:
            x = move_x0(x, x0, now, down)
        x = add_fresh_noise(x, s_noise * up, rng, "dpm2_ancestral")
        yield Step(i, x, x0, nxt)


def dpmpp_2s_ancestral(
    denoise: Denoiser,
    x: Tensor,
    levels: Sequence[Level],
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
    rng: Noise | None = None,
) -> Iterator[Step]:
    """DPM-Solver++ 2S (Lu et al. 2022b, algorithm 1) down to less noise than the next level has, then fresh noise.

    x0 halfway serves for the whole step. ``eta`` is the share of the posterior's noise that is drawn fresh, ``s_noise``
    multiplies it. Needs ``rng`` when ``eta`` is not 0. See `Sampler` for the other arguments.
    """
    check_noise(eta, s_noise)
    for i, (now, nxt) in pairs(levels):
        x0 = ahead = estimate(denoise, x, now, i)
        down, up = ancestral(now, nxt, eta)
        if _has_middle(now, down):
            middle = _middle(now, down)
            ahead = estimate(denoise, move_x0(x, x0, now, middle), middle, i)
        x = add_fresh_noise(move_x0(x, ahead, now, down), s_noise * up, rng, "dpmpp_2s_ancestral")
        yield Step(i, x, x0, nxt)


def dpmpp_sde(
    denoise: Denoiser,
    x: Tensor,
    levels: Sequence[Level],
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
    rng: Noise | None = None,
) -> Iterator[Step]:
    """DPM-Solver++ SDE: as `dpmpp_2s_ancestral`, but with fresh noise also on the way to the middle.

    Both draws of a step follow one Brownian path in sigma / alpha: the noise of the whole step continues that of its
    first half. ``eta`` is the share of the posterior's noise that is drawn fresh, ``s_noise`` multiplies it. Needs
    ``rng`` when ``eta`` is not 0. See `Sampler` for the other arguments.
    """
    check_noise(eta, s_noise)
    for i, (now, nxt) in pairs(levels):
        x0 = ahead = estimate(denoise, x, now, i)
        down, up = ancestral(now, nxt, eta)
        noise = draw(x, rng, "dpmpp_sde") if up > 0 else None
        if _has_middle(now, nxt):
            middle = _middle(now, nxt)
            middle_down, middle_up = ancestral(now, middle, eta)
            x_middle = move_x0(x, x0, now, middle_down)
            if noise is not None:
                x_middle = x_middle + s_noise * middle_up * noise
                half = float((now.ratio - middle.ratio) / (now.ratio - nxt.ratio))  # of the path's variance
                noise = math.sqrt(half) * noise + math.sqrt(1 - half) * draw(x, rng, "dpmpp_sde")
            ahead = estimate(denoise, x_middle, middle, i)
        x = move_x0(x, ahead, now, down)
        if noise is not None:
            x = x + s_noise * up * noise
        yield Step(i, x, x0, nxt)


def _has_middle(now: Level, nxt: Level) -> bool:
    return bool(now.alpha > 0) and float(nxt.sigma) not in (0.0, float(now.sigma))


def _middle(now: Level, nxt: Level) -> Level:
    """The level halfway in log-SNR, with the time that the schedule has for it.

    Raises
    ------
    ValueError
        if the levels do not know their schedule.
    """
    if now.schedule is None:
        raise ValueError(
            "this sampler asks between two levels, and these do not know their schedule: make them with "
            "levels(schedule, steps), or give them one, Level(t, alpha, sigma, schedule)"
        )
    return sigma_to_level(now.schedule, (now.ratio * nxt.ratio).sqrt())


def _with_middle_eps(denoise: Denoiser, x: Tensor, x0: Tensor, now: Level, nxt: Level, index: int) -> Tensor:
    """One step of the midpoint rule on eps."""
    middle = _middle(now, nxt)
    x_middle = move_x0(x, x0, now, middle)
    return move_eps(x, to_eps(estimate(denoise, x_middle, middle, index), x_middle, middle), now, nxt)
