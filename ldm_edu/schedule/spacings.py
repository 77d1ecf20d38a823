"""How the steps of a run are spread: plain numbers, times or values of sigma / alpha, from the noisiest down.

`ldm_edu.schedule.run` makes levels of them.
"""

import math

import torch
from torch import Tensor

# 10-step schedules of Sabour et al. 2024, as times of Stable Diffusion's 1000; the last is the end of a run
ALIGN_YOUR_STEPS = (999, 850, 736, 645, 545, 455, 343, 233, 124, 24, 0)  # made for SD 1.5
ALIGN_YOUR_STEPS_XL = (999, 845, 730, 587, 443, 310, 193, 116, 53, 13, 0)  # made for SDXL


def karras(steps: int, low: float, high: float, rho: float = 7.0) -> Tensor:
    """Equal strides of sigma ** (1 / rho), both ends included: (steps,) (Karras et al. 2022, equation 5)."""
    return torch.lerp(*_ends(high ** (1 / rho), low ** (1 / rho)), _ramp(steps)) ** rho


def exponential(steps: int, low: float, high: float) -> Tensor:
    """Equal strides of log sigma, both ends included: (steps,)."""
    return torch.lerp(*_ends(math.log(high), math.log(low)), _ramp(steps)).exp()


def beta_quantiles(steps: int, shape: float = 0.6) -> Tensor:
    """The quantiles 1, 1 - 1 / steps ... 1 / steps of a Beta distribution with both parameters ``shape``: (steps,).

    With 0.6 they crowd at both ends (Lee et al. 2024, "Beta Sampling is All You Need"). The distribution is symmetric,
    and y = u ** shape makes its density smooth at 0, so that one half is integrated by the trapezoid rule.
    """
    y = torch.linspace(0, 0.5**shape, 20_001, dtype=torch.float64)
    half = torch.cumulative_trapezoid((1 - y ** (1 / shape)) ** (shape - 1), y)
    share = torch.cat([half.new_zeros(1), half / half[-1] / 2])  # (20001,) the probability below y ** (1 / shape)
    wanted = 1 - torch.arange(steps, dtype=torch.float64) / steps
    below = torch.minimum(wanted, 1 - wanted)
    high = torch.searchsorted(share, below).clamp(1, len(share) - 1)
    weight = (below - share[high - 1]) / (share[high] - share[high - 1])
    quantile = torch.lerp(y[high - 1], y[high], weight) ** (1 / shape)
    return torch.where(wanted > 0.5, 1 - quantile, quantile)


def interpolated(table: Tensor, count: int) -> Tensor:
    """``count`` values along a falling table of sigma / alpha, interpolated in its logarithm (Sabour et al. 2024)."""
    place = torch.linspace(0, len(table) - 1, count, dtype=torch.float64)
    low = place.long().clamp(max=len(table) - 2)
    return torch.lerp(table.log()[low], table.log()[low + 1], place - low).exp()


def original_times(steps: int, total: int = 1000) -> Tensor:
    """The times of the first DDIM and PLMS of Stable Diffusion: every (total // steps)-th from 1 on, falling.

    Where ``steps`` does not divide ``total`` there are more of them than steps: 30 give 31 times, 991, 958 ... 1. Make
    a run of them with ``levels_at(schedule, original_times(30), final="first")``.
    """
    if not 1 <= steps < total:
        raise ValueError(f"steps={steps} must lie from 1 to {total - 1}: the original takes times up to its last only")
    return torch.arange(1, total + 1, total // steps, dtype=torch.float64).flip(0)


def _ramp(steps: int) -> Tensor:
    return torch.linspace(0, 1, steps, dtype=torch.float64)


def _ends(start: float, end: float) -> tuple[Tensor, Tensor]:
    return torch.tensor(start, dtype=torch.float64), torch.tensor(end, dtype=torch.float64)
