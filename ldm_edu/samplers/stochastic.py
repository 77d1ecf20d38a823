"""The stochastic part of a step: down to less noise than the next level has, then fresh noise up to it.

The two ways to split a step here are the same for ``eta`` 1, which is `ddpm`'s posterior, and for 0, which adds none.
"""

import math
from dataclasses import replace

from torch import Tensor

from ldm_edu.samplers.noise import Noise
from ldm_edu.schedule import Level


def posterior_std(now: Level, nxt: Level) -> float:
    """Standard deviation of x at the next level, given x at this one and x0 (Kingma et al. 2021, appendix A).

    For a variance-preserving schedule it is sigma_t(1) of Song et al. 2021, equation 16.
    """
    (alpha, sigma), (alpha_next, sigma_next) = now.factors, nxt.factors
    kept = alpha / alpha_next
    return sigma_next / sigma * math.sqrt(max(0.0, sigma**2 - kept**2 * sigma_next**2))


def ancestral(now: Level, nxt: Level, eta: float) -> tuple[Level, float]:
    """The level that a step goes down to, and the standard deviation of the noise that leads from there to ``nxt``.

    ``eta`` is the share of the posterior's standard deviation (Song et al. 2021, equation 16).
    """
    up = eta * posterior_std(now, nxt)
    return _with_sigma(nxt, math.sqrt(max(0.0, nxt.factors[1] ** 2 - up**2))), up


def reverse_sde(now: Level, nxt: Level, eta: float) -> tuple[Level, float]:
    """As `ancestral`, but exact for the stochastic equation whose noise is ``eta`` squared times the reverse chain's.

    The noise of x decays by (ratio_next / ratio) ** eta more than without (Lu et al. 2022b, SDE-DPM-Solver++).
    """
    sigma_next = nxt.factors[1]
    decay = 1.0 if eta == 0 else float(nxt.ratio / now.ratio) ** eta
    return _with_sigma(nxt, sigma_next * decay), sigma_next * math.sqrt(1 - decay**2)


def add_fresh_noise(x: Tensor, std: float, rng: Noise | None, name: str) -> Tensor:
    """``x`` (B, ...) with fresh noise of standard deviation ``std``; none is drawn where ``std`` is 0."""
    return x + std * draw(x, rng, name) if std > 0 else x


def draw(like: Tensor, rng: Noise | None, name: str) -> Tensor:
    """Standard normal numbers of the shape of ``like`` (B, ...) for the sampler ``name``.

    Raises
    ------
    ValueError
        if there is no ``rng``.
    TypeError
        if ``rng`` is something else than a `Noise`.
    """
    if rng is None:
        raise ValueError(f"{name} draws noise at every step: pass rng=Rng(seeds), one seed a picture")
    if not hasattr(rng, "normal"):
        raise TypeError(f"`rng` must be Rng(seeds), one seed a picture, not a {type(rng).__name__}")
    return rng.normal(like)


def check_noise(eta: float = 1.0, s_noise: float = 1.0) -> None:
    """That the options of a stochastic sampler mean something.

    Raises
    ------
    ValueError
        if they do not.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta={eta} must lie from 0 (no fresh noise) to 1 (as much as ddpm)")
    if not 0 <= s_noise < math.inf:
        raise ValueError(f"s_noise={s_noise} must be 0 or more; 1 adds the noise that the next level needs")


def _with_sigma(level: Level, sigma: float) -> Level:
    return replace(level, sigma=level.sigma.new_tensor(sigma))
