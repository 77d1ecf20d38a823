"""Samplers that look at one level at a time: ddpm, ddim, euler, euler_ancestral, heun, lcm."""

import math
from collections.abc import Iterator, Sequence

from torch import Tensor

from ldm_edu.denoise import Denoiser
from ldm_edu.prediction import to_eps
from ldm_edu.samplers.noise import Noise
from ldm_edu.samplers.step import Step, estimate, move_eps, move_x0, pairs
from ldm_edu.samplers.stochastic import add_fresh_noise, ancestral, check_noise, posterior_std
from ldm_edu.schedule import Level


def ddpm(denoise: Denoiser, x: Tensor, levels: Sequence[Level], *, rng: Noise | None = None) -> Iterator[Step]:
    """Ancestral sampling: each step draws from the posterior of the forward chain (Ho et al. 2020, equations 6 and 7).

    Its variance is the smaller of the two choices of section 3.2. Between two levels that are not neighbours the chain
    is the one that skips those between. Needs ``rng``. See `Sampler` for the arguments.
    """
    for i, (now, nxt) in pairs(levels):
        x0 = estimate(denoise, x, now, i)
        (alpha, sigma), (alpha_next, sigma_next) = now.factors, nxt.factors
        kept = alpha / alpha_next  # of the signal, from the next level up to this one: sqrt(1 - beta)
        added = sigma**2 - kept**2 * sigma_next**2  # noise that this step adds on the way up: beta
        mean = (alpha_next * added / sigma**2) * x0 + (kept * sigma_next**2 / sigma**2) * x
        x = add_fresh_noise(mean, posterior_std(now, nxt), rng, "ddpm")
        yield Step(i, x, x0, nxt)


def ddim(
    denoise: Denoiser, x: Tensor, levels: Sequence[Level], *, eta: float = 0.0, rng: Noise | None = None
) -> Iterator[Step]:
    """Keep the estimated x0 and eps, and mix them anew at the next level (Song et al. 2021, equations 12 and 16).

    ``eta`` is the share of the posterior's noise that is drawn fresh: 0 draws none and follows an ordinary differential
    equation, 1 is `ddpm`. Needs ``rng`` when it is not 0. See `Sampler` for the other arguments.
    """
    check_noise(eta)
    for i, (now, nxt) in pairs(levels):
        x0 = estimate(denoise, x, now, i)
        eps = to_eps(x0, x, now)
        std = eta * posterior_std(now, nxt)
        alpha_next, sigma_next = nxt.factors
        x = alpha_next * x0 + math.sqrt(max(0.0, sigma_next**2 - std**2)) * eps
        x = add_fresh_noise(x, std, rng, f"ddim with eta={eta}")
        yield Step(i, x, x0, nxt)


def euler(denoise: Denoiser, x: Tensor, levels: Sequence[Level], *, rng: Noise | None = None) -> Iterator[Step]:
    """Euler's method on d(x / alpha) / d(sigma / alpha) = eps (Karras et al. 2022, equation 1 and algorithm 1).

    In that space the slope is eps itself, so a step of Euler is a step of DDIM; for a rectified flow the same step is
    Euler's on dx / d(sigma) = eps - x0. First order. See `Sampler` for the arguments.
    """
    for i, (now, nxt) in pairs(levels):
        x0 = estimate(denoise, x, now, i)
        x = move_x0(x, x0, now, nxt)
        yield Step(i, x, x0, nxt)


def euler_ancestral(
    denoise: Denoiser,
    x: Tensor,
    levels: Sequence[Level],
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
    rng: Noise | None = None,
) -> Iterator[Step]:
    """Euler down to less noise than the next level has, then fresh noise up to it (Song et al. 2021b, appendix F).

    ``eta`` is the share of the posterior's noise that is drawn fresh: with 1 this is `ddpm`'s step in the other space,
    with 0 `euler`'s. ``s_noise`` multiplies the fresh noise. Needs ``rng`` when ``eta`` is not 0. See `Sampler` for the
    other arguments.
    """
    check_noise(eta, s_noise)
    for i, (now, nxt) in pairs(levels):
        x0 = estimate(denoise, x, now, i)
        down, up = ancestral(now, nxt, eta)
        x = add_fresh_noise(move_x0(x, x0, now, down), s_noise * up, rng, "euler_ancestral")
        yield Step(i, x, x0, nxt)


def heun(denoise: Denoiser, x: Tensor, levels: Sequence[Level], *, rng: Noise | None = None) -> Iterator[Step]:
    """Heun's method: an Euler step, then again with the mean of both ends' eps (Karras et al. 2022, algorithm 1).

    Second order for two evaluations a step. Where eps at one end is not defined, at a clean end and at a start of pure
    noise with alpha 0, one Euler step is taken. See `Sampler` for the arguments.
    """
    for i, (now, nxt) in pairs(levels):
        x0 = estimate(denoise, x, now, i)
        ahead = move_x0(x, x0, now, nxt)
        if nxt.sigma == 0 or now.alpha == 0:
            x = ahead
        else:
            eps = to_eps(x0, x, now)
            eps_ahead = to_eps(estimate(denoise, ahead, nxt, i), ahead, nxt)
            x = move_eps(x, (eps + eps_ahead) / 2, now, nxt)
        yield Step(i, x, x0, nxt)


def lcm(denoise: Denoiser, x: Tensor, levels: Sequence[Level], *, rng: Noise | None = None) -> Iterator[Step]:
    """Jump to x0, then fresh noise up to the next level (Song et al. 2023, consistency models, algorithm 1).

    For models distilled to jump all the way at once (Luo et al. 2023), in 1 to 8 steps; other models draw blurred
    pictures with it. Needs ``rng``. See `Sampler` for the arguments.
    """
    for i, (now, nxt) in pairs(levels):
        x0 = estimate(denoise, x, now, i)
        alpha_next, sigma_next = nxt.factors
        x = add_fresh_noise(alpha_next * x0, sigma_next, rng, "lcm")
        yield Step(i, x, x0, nxt)
