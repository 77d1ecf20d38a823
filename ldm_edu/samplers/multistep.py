"""Samplers that remember: dpmpp_2m, dpmpp_3m and unipc extrapolate x0; plms and ipndm extrapolate eps.

Each is a DDIM step with a better x0 or eps put in, made of the last few estimates: one evaluation a step.

Between two levels the exact solution is `move_x0` with the mean of x0 over the step, weighted by the exponential of
log-SNR (Lu et al. 2022b, equation 8). What a solver of higher order does is to guess that mean: it lays a polynomial
through the estimates it has.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
from torch import Tensor

from ldm_edu.denoise import Denoiser
from ldm_edu.prediction import to_eps
from ldm_edu.samplers.noise import Noise
from ldm_edu.samplers.step import Step, estimate, move_eps, move_x0, pairs
from ldm_edu.schedule import Level

Estimates = list[tuple[Level, Tensor]]  # levels, and x0 as it was estimated at each, the newest first

# Adams-Bashforth: the weights of the last 1, 2, 3 and 4 slopes, the newest first (Liu et al. 2022b, equation 12)
ADAMS_BASHFORTH = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


def dpmpp_2m(denoise: Denoiser, x: Tensor, levels: Sequence[Level], *, rng: Noise | None = None) -> Iterator[Step]:
    """DPM-Solver++ 2M: x0 is extrapolated along a line in log-SNR (Lu et al. 2022b, algorithm 2).

    Second order. The first step takes x0 as it is; so does the last one, if it ends without noise or there are fewer
    than 15 steps. See `Sampler` for the arguments.
    """
    older: Estimates = []
    for i, (now, nxt) in pairs(levels):
        x0 = estimate(denoise, x, now, i)
        order = min(1 + len(older), _order_left(i, levels))
        ahead = _halfway(x0, now, nxt, older[0]) if order > 1 else x0
        x, older = move_x0(x, ahead, now, nxt), _remember(now, x0, older, 1)
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
        order = min(1 + len(older), _order_left(i, levels))
        ahead = x0
        if order == 2:
            ahead = _halfway(x0, now, nxt, older[0])
        elif order == 3:
            ahead = _mean_x0(now, nxt, [(now, x0), *older])
            if not third_order:
                stride = _log_snr(nxt) - _log_snr(now)
                ahead = ahead - 0.5 * _moments(stride, 3)[2] * stride**2 * _curvature([(now, x0), *older])
        x, older = move_x0(x, ahead, now, nxt), _remember(now, x0, older, 2)
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
            ahead = _mean_x0(before, now, better) if used > 1 else (x0_before + x0) / 2
            x = move_x0(start, ahead, before, now)
        known = [(now, x0), *(old for old in known if old[0].alpha > 0)][:order]
        used = min(len(known), len(levels) - 1 - i)
        ahead = x0
        if used == 2:
            ahead = _halfway(x0, now, nxt, known[1])
        elif used > 2:
            ahead = _mean_x0(now, nxt, known[:used])
        start, x = x, move_x0(x, ahead, now, nxt)
        yield Step(i, x, x0, nxt)


def plms(denoise: Denoiser, x: Tensor, levels: Sequence[Level], *, rng: Noise | None = None) -> Iterator[Step]:
    """PLMS, the first sampler of Stable Diffusion: Adams-Bashforth on eps (Liu et al. 2022b, PNDM, equations 9 and 12).

    The first step is taken twice, the second time with the mean of both ends' eps: one evaluation more than steps.
    Fourth order where strides of sigma / alpha are equal, second where they are not, as the weights assume that they
    are. See `Sampler` for the arguments.
    """
    slopes: list[Tensor] = []
    for i, (now, nxt) in pairs(levels):
        x0 = estimate(denoise, x, now, i)
        slopes = [to_eps(x0, x, now), *slopes][:4]
        if i == 0 and now.alpha > 0 and nxt.sigma > 0:
            ahead = move_x0(x, x0, now, nxt)
            slope_ahead = to_eps(estimate(denoise, ahead, nxt, i), ahead, nxt)
            x = move_eps(x, (slopes[0] + slope_ahead) / 2, now, nxt)
        else:
            x = _adams_bashforth(x, x0, slopes, now, nxt)
        yield Step(i, x, x0, nxt)


def ipndm(denoise: Denoiser, x: Tensor, levels: Sequence[Level], *, rng: Noise | None = None) -> Iterator[Step]:
    """iPNDM: as `plms`, but starting with steps of order 1, 2 and 3 instead (Zhang and Chen 2023).

    One evaluation a step from the first on. See `Sampler` for the arguments.
    """
    slopes: list[Tensor] = []
    for i, (now, nxt) in pairs(levels):
        x0 = estimate(denoise, x, now, i)
        slopes = [to_eps(x0, x, now), *slopes][:4]
        x = _adams_bashforth(x, x0, slopes, now, nxt)
        yield Step(i, x, x0, nxt)


def _adams_bashforth(x: Tensor, x0: Tensor, slopes: list[Tensor], now: Level, nxt: Level) -> Tensor:
    """One step with the weighted sum of up to 4 slopes, the newest first; from pure noise, a plain DDIM step."""
    if now.alpha == 0:
        return move_x0(x, x0, now, nxt)
    return move_eps(x, _weighted(ADAMS_BASHFORTH[len(slopes) - 1], slopes), now, nxt)


def _order_left(i: int, levels: Sequence[Level]) -> int:
    """The highest order that step ``i`` of a run may use: the last of a few large strides bear no extrapolation."""
    steps = len(levels) - 1
    if i == steps - 1 and (steps < 15 or levels[-1].sigma in (0, levels[-2].sigma)):  # the end may repeat a level
        return 1
    return 2 if i == steps - 2 and steps < 15 else 3


def _remember(now: Level, x0: Tensor, older: Estimates, count: int) -> Estimates:
    """The last ``count`` estimates. One from pure noise, infinitely far away in log-SNR, is of no use."""
    return [(now, x0), *older][:count] if now.alpha > 0 else []


def _halfway(x0: Tensor, now: Level, nxt: Level, older: tuple[Level, Tensor]) -> Tensor:
    """x0 in the middle of the step, on the line through the last two estimates."""
    level, x0_before = older
    stride, last_stride = _log_snr(nxt) - _log_snr(now), _log_snr(now) - _log_snr(level)
    return x0 + 0.5 * stride / last_stride * (x0 - x0_before)


def _mean_x0(now: Level, nxt: Level, known: Estimates) -> Tensor:
    """The weighted mean over the step from ``now`` to ``nxt`` of the polynomial through all known estimates.

    (Zhao et al. 2023, theorem 3.1, solved for the weight of each estimate.)
    """
    here = _log_snr(now)
    stride = _log_snr(nxt) - here
    places = np.array([(_log_snr(level) - here) / stride for level, _ in known])  # 0 is now, 1 is next
    powers = places ** np.arange(len(known))[:, None]
    weights = np.linalg.solve(powers, _moments(stride, len(known)))
    return _weighted(weights.tolist(), [x0 for _, x0 in known])


def _moments(stride: float, count: int) -> list[float]:
    """Means of u ** 0, u ** 1 ... over a step, u running from 0 to 1, weighted by exp(stride * u)."""
    parts = [-math.expm1(-stride)]
    for k in range(1, count):
        parts.append(1 - k / stride * parts[-1])  # integration by parts
    return [part / parts[0] for part in parts]


def _curvature(known: Estimates) -> Tensor:
    """Half the second derivative in log-SNR of the parabola through three estimates."""
    (l0, a), (l1, b), (l2, c) = [(_log_snr(level), x0) for level, x0 in known]
    return ((a - b) / (l0 - l1) - (b - c) / (l1 - l2)) / (l0 - l2)


def _log_snr(level: Level) -> float:
    """log(alpha / sigma) as a plain number, at levels with signal and noise."""
    alpha, sigma = level.factors
    return math.log(alpha / sigma)


def _weighted(weights: Sequence[float], values: Sequence[Tensor]) -> Tensor:
    total = weights[0] * values[0]
    for weight, value in zip(weights[1:], values[1:], strict=True):
        total = total.add(value, alpha=weight)
    return total
