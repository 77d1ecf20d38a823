"""Samplers that look at one level at a time: ddpm, ddim, euler, euler_ancestral, heun."""

import math
from collections.abc import Iterator, Sequence

from torch import Tensor

from ldm_edu.denoise import Denoiser
from ldm_edu.prediction import to_eps
from ldm_edu.samplers.noise import Noise
from ldm_edu.samplers.step import Step, estimate, move_eps, move_x0, pairs
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
        std = posterior_std(now, nxt)
        x = mean + std * _noise(rng, "ddpm").normal(x) if std > 0 else mean
        yield Step(i, x, x0, nxt)


def ddim(
    denoise: Denoiser, x: Tensor, levels: Sequence[Level], *, eta: float = 0.0, rng: Noise | None = None
) -> Iterator[Step]:
    """Keep the estimated x0 and eps, and mix them anew at the next level (Song et al. 2021, equations 12 and 16).

    ``eta`` is the share of the posterior's noise that is drawn fresh: 0 draws none and follows an ordinary differential
    equation, 1 is `ddpm`. Needs ``rng`` when it is not 0. See `Sampler` for the other arguments.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta={eta} must lie from 0 (no fresh noise) to 1 (as much as ddpm)")
    for i, (now, nxt) in pairs(levels):
        x0 = estimate(denoise, x, now, i)
        eps = to_eps(x0, x, now)
        std = eta * posterior_std(now, nxt)
        alpha_next, sigma_next = nxt.factors
        x = alpha_next * x0 + math.sqrt(max(0.0, sigma_next**2 - std**2)) * eps
        if std > 0:
            x = x + std * _noise(rng, f"ddim with eta={eta}").normal(x)
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
    denoise: Denoiser, x: Tensor, levels: Sequence[Level], *, rng: Noise | None = None
) -> Iterator[Step]:
    """Euler down to less noise than the next level has, then fresh noise up to it (Song et al. 2021b, appendix F).

    With sigma_up and sigma_down of the published samplers this is `ddpm`'s step again, in the other space. Needs
    ``rng``. See `Sampler` for the arguments.
    """
    for i, (now, nxt) in pairs(levels):
        x0 = estimate(denoise, x, now, i)
        up = posterior_std(now, nxt)
        sigma_down = math.sqrt(max(0.0, nxt.factors[1] ** 2 - up**2))
        x = move_x0(x, x0, now, Level(nxt.t, nxt.alpha, nxt.sigma.new_tensor(sigma_down)))
        if up > 0:
            x = x + up * _noise(rng, "euler_ancestral").normal(x)
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


def posterior_std(now: Level, nxt: Level) -> float:
    """Standard deviation of x at the next level, given x at this one and x0 (Kingma et al. 2021, appendix A).

    For a variance-preserving schedule it is sigma_t(1) of Song et al. 2021, equation 16.
    """
    (alpha, sigma), (alpha_next, sigma_next) = now.factors, nxt.factors
    kept = alpha / alpha_next
    return sigma_next / sigma * math.sqrt(max(0.0, sigma**2 - kept**2 * sigma_next**2))


def _noise(rng: Noise | None, name: str) -> Noise:
    if rng is None:
        raise ValueError(f"{name} draws noise at every step: pass rng=Rng(seeds), one seed a picture")
    return rng
