"""Samplers that remember x0: dpmpp_2m, dpmpp_3m, unipc, and with fresh noise dpmpp_2m_sde and dpmpp_3m_sde.

Each is a DDIM step with a better x0 put in, made of the last few estimates: one evaluation a step.
"""

from collections.abc import Iterator, Sequence

from torch import Tensor

from ldm_edu.denoise import Denoiser
from ldm_edu.samplers.noise import Noise
from ldm_edu.samplers.polynomial import (
    Estimates,
    extrapolates,
    flattened,
    halfway,
    mean_in_log_snr,
    order_left,
    remember,
)
from ldm_edu.samplers.step import Step, estimate, move_x0, pairs
from ldm_edu.samplers.stochastic import add_fresh_noise, check_noise, reverse_sde
from ldm_edu.schedule import Level


def dpmpp_2m(denoise: Denoiser, x: Tensor, levels: Sequence[Level], *, rng: Noise | None = None) -> Iterator[Step]:
    """DPM-Solver++ 2M: x0 is extrapolated along a line in log-SNR (Lu et al. 2022b, algorithm 2).

    Second order. The first step takes x0 as it is; so does the last one, if it ends without noise or there are fewer
    than 15 steps. See `Sampler` for the arguments.
    """
    older: Estimates = []
    for i, (now, nxt) in pairs(levels):
        x0 = estimate(denoise, x, now, i)
        order = min(1 + len(older), order_left(i, levels))
        ahead = halfway(x0, now, nxt, older[0]) if order > 1 else x0
        x, older = move_x0(x, ahead, now, nxt), remember(now, x0, older, 1)
        yield Step(i, x, x0, nxt)


def dpmpp_3m(
    denoise: Denoiser, x: Tensor, levels: Sequence[Level], *, third_order: bool = False, rng: Noise | None = None
) -> Iterator[Step]:
    """DPM-Solver++ 3M: x0 is extrapolated along a parabola in log-SNR (Lu et al. 2022b, one term more).

    The parabola's curvature counts half in the authors' code and in all that follow it, which leaves the order at 2,
    with a smaller error than `dpmpp_2m`'s. That is the default here, so that pictures are the published ones.
    ``third_order`` counts it fully: order 3, more accurate from about 30 steps on, less so below. Near the end of a
    run it steps down as `dpmpp_2m` does. See `Sampler` for the other arguments.
    """
    older: Estimates = []
    for i, (now, nxt) in pairs(levels):
        x0 = estimate(denoise, x, now, i)
        order = min(1 + len(older), order_left(i, levels))
        ahead = x0
        if order == 2:
            ahead = halfway(x0, now, nxt, older[0])
        elif order == 3:
            ahead = (mean_in_log_snr if third_order else flattened)(now, nxt, [(now, x0), *older])
        x, older = move_x0(x, ahead, now, nxt), remember(now, x0, older, 2)
        yield Step(i, x, x0, nxt)


def dpmpp_2m_sde(
    denoise: Denoiser,
    x: Tensor,
    levels: Sequence[Level],
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
    rng: Noise | None = None,
) -> Iterator[Step]:
    """SDE-DPM-Solver++ 2M: as `dpmpp_2m`, with fresh noise at every step (Lu et al. 2022b).

    ``eta`` is how much of the noise is fresh: 1 as much as in `ddpm`, 0 none. ``s_noise`` multiplies it. Needs ``rng``
    when ``eta`` is not 0. See `Sampler` for the other arguments.
    """
    check_noise(eta, s_noise)
    older: Estimates = []
    for i, (now, nxt) in pairs(levels):
        x0 = estimate(denoise, x, now, i)
        ahead = halfway(x0, now, nxt, older[0]) if older and extrapolates(now, nxt) else x0
        down, up = reverse_sde(now, nxt, eta)
        x = add_fresh_noise(move_x0(x, ahead, now, down), s_noise * up, rng, "dpmpp_2m_sde")
        older = remember(now, x0, older, 1)
        yield Step(i, x, x0, nxt)


def dpmpp_3m_sde(
    denoise: Denoiser,
    x: Tensor,
    levels: Sequence[Level],
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
    rng: Noise | None = None,
) -> Iterator[Step]:
    """SDE-DPM-Solver++ 3M: as `dpmpp_2m_sde` with a parabola, whose curvature counts half as in `dpmpp_3m`.

    ``eta`` is how much of the noise is fresh: 1 as much as in `ddpm`, 0 none. ``s_noise`` multiplies it. Needs ``rng``
    when ``eta`` is not 0. See `Sampler` for the other arguments.
    """
    check_noise(eta, s_noise)
    older: Estimates = []
    for i, (now, nxt) in pairs(levels):
        x0 = estimate(denoise, x, now, i)
        known, ahead = remember(now, x0, older, 3), x0
        if len(known) > 1 and extrapolates(now, nxt):
            ahead = (flattened if len(known) == 3 else mean_in_log_snr)(now, nxt, known, 1 + eta)
        down, up = reverse_sde(now, nxt, eta)
        x = add_fresh_noise(move_x0(x, ahead, now, down), s_noise * up, rng, "dpmpp_3m_sde")
        older = known
        yield Step(i, x, x0, nxt)


def unipc(
    denoise: Denoiser, x: Tensor, levels: Sequence[Level], *, order: int = 2, rng: Noise | None = None
) -> Iterator[Step]:
    """UniPC: predict as dpmpp does; once x0 at the new level is known, take the last step again with it, for nothing.

    (Zhao et al. 2023, algorithms 1 and 2, for data prediction, with their B_2(h).) ``order`` is the predictor's, the
    corrector adds one; the first and last steps use less. A `Step` holds the predicted x: it is corrected within the
    next step, and the last not at all. See `Sampler` for the other arguments.

    Raises
    ------
    ValueError
        if the order is less than 1.
    """
    if order < 1:
        raise ValueError(f"order={order} must be at least 1; 2 suits guided sampling, 3 unguided")
    known: Estimates = []
    start, used = x, 0  # where the last step began, and the order that it was taken with
    for i, (now, nxt) in pairs(levels):
        x0 = estimate(denoise, x, now, i)
        if used:
            (before, x0_before), *rest = known
            better = [(before, x0_before), *rest[: used - 1], (now, x0)]
            ahead = mean_in_log_snr(before, now, better) if used > 1 else (x0_before + x0) / 2
            x = move_x0(start, ahead, before, now)
        known = [(now, x0), *(old for old in known if old[0].alpha > 0)][:order]
        used = min(len(known), len(levels) - 1 - i)
        ahead = x0
        if used == 2:
            ahead = halfway(x0, now, nxt, known[1])
        elif used > 2:
            ahead = mean_in_log_snr(now, nxt, known[:used])
        start, x = x, move_x0(x, ahead, now, nxt)
        yield Step(i, x, x0, nxt)
