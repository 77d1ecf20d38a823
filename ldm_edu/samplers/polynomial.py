"""The polynomial through the last few estimates, and its mean over the step to come.

Between two levels the exact solution is a DDIM step with a mean of x0 (or of eps) over the step put in. A solver of
higher order guesses that mean: it lays a polynomial through the estimates it has. Two measures of the way are in use.
In log-SNR, where the mean of x0 is weighted by the exponential of log-SNR (Lu et al. 2022b, equation 8) and that of eps
by the exponential of its negative (Zhang and Chen 2023, log-rho-AB); and in sigma / alpha, where eps counts alike
everywhere (Karras et al. 2022, equation 1).
"""

import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from ldm_edu.schedule import Level

Estimates = list[tuple[Level, Tensor]]  # levels, and x0 or eps as it was estimated at each, the newest first


def remember(now: Level, value: Tensor, older: Estimates, count: int) -> Estimates:
    """The last ``count`` estimates. One from pure noise, infinitely far away in either measure, is of no use."""
    return [(now, value), *older][:count] if now.alpha > 0 else []


def log_snr(level: Level) -> float:
    """log(alpha / sigma) as a plain number, at levels with signal and noise."""
    alpha, sigma = level.factors
    return math.log(alpha / sigma)


def mean_in_log_snr(now: Level, nxt: Level, known: Estimates, growth: float = 1.0) -> Tensor:
    """The mean from ``now`` to ``nxt`` of the polynomial in log-SNR, weighted by exp(growth * log-SNR).

    ``growth`` is 1 for x0 (Zhao et al. 2023, theorem 3.1, solved for the weight of each estimate), 1 + eta for x0 with
    fresh noise, and -1 for eps.
    """
    here = log_snr(now)
    stride = log_snr(nxt) - here
    places = [(log_snr(level) - here) / stride for level, _ in known]
    return _mean(places, moments(growth * stride, len(known)), known)


def mean_in_ratio(now: Level, nxt: Level, known: Estimates) -> Tensor:
    """The plain mean from ``now`` to ``nxt`` of the polynomial in sigma / alpha: Adams and Bashforth's, any strides."""
    here = float(now.ratio)
    stride = float(nxt.ratio) - here
    if stride == 0:  # the end of a run may repeat a level
        return known[0][1]
    places = [(float(level.ratio) - here) / stride for level, _ in known]
    return _mean(places, [1 / (k + 1) for k in range(len(known))], known)


def moments(stride: float, count: int) -> list[float]:
    """Means of u ** 0, u ** 1 ... over a step, u running from 0 to 1, weighted by exp(stride * u)."""
    parts = [-math.expm1(-stride)]
    for k in range(1, count):
        parts.append(1 - k / stride * parts[-1])  # integration by parts
    return [part / parts[0] for part in parts]


def halfway(x0: Tensor, now: Level, nxt: Level, older: tuple[Level, Tensor]) -> Tensor:
    """x0 in the middle of the step in log-SNR, on the line through the last two estimates."""
    level, x0_before = older
    stride, last_stride = log_snr(nxt) - log_snr(now), log_snr(now) - log_snr(level)
    return x0 + 0.5 * stride / last_stride * (x0 - x0_before)


def flattened(now: Level, nxt: Level, known: Estimates, growth: float = 1.0) -> Tensor:
    """`mean_in_log_snr` of a parabola whose curvature counts half, as DPM-Solver++'s published third order has it."""
    (l0, a), (l1, b), (l2, c) = [(log_snr(level), x0) for level, x0 in known]
    curvature = ((a - b) / (l0 - l1) - (b - c) / (l1 - l2)) / (l0 - l2)  # half of the second derivative
    stride = log_snr(nxt) - l0
    return mean_in_log_snr(now, nxt, known, growth) - 0.5 * moments(growth * stride, 3)[2] * stride**2 * curvature


def order_left(i: int, levels: Sequence[Level]) -> int:
    """The highest order that step ``i`` of a run may use: the last of a few large strides bear no extrapolation."""
    steps = len(levels) - 1
    if i == steps - 1 and (steps < 15 or not extrapolates(*levels[-2:])):
        return 1
    return 2 if i == steps - 2 and steps < 15 else 3


def extrapolates(now: Level, nxt: Level) -> bool:
    """Whether a step has a length in log-SNR: not if it ends without noise, nor if the end repeats a level."""
    return float(nxt.sigma) not in (0.0, float(now.sigma))


def weighted(weights: Sequence[float], values: Sequence[Tensor]) -> Tensor:
    """The weighted sum of tensors."""
    total = weights[0] * values[0]
    for weight, value in zip(weights[1:], values[1:], strict=True):
        total = total.add(value, alpha=weight)
    return total


def _mean(places: list[float], means: list[float], known: Estimates) -> Tensor:
    """The mean of the polynomial through values at ``places`` (0 is now, 1 is next), given the means of its powers."""
    powers = np.array(places) ** np.arange(len(known))[:, None]
    return weighted(np.linalg.solve(powers, means).tolist(), [value for _, value in known])
