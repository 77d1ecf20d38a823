"""The noise levels at which a sampler stops."""

import math
from typing import Literal, SupportsIndex, get_args

import torch
from torch import Tensor

from ldm_edu.config import Spacing
from ldm_edu.schedule import spacings
from ldm_edu.schedule.level import Level, NoiseSchedule
from ldm_edu.schedule.processes import VariancePreserving

Final = Literal["zero", "first"]


def levels(schedule: NoiseSchedule, steps: int, spacing: Spacing = "trailing", final: Final = "zero") -> list[Level]:
    """The levels of a run of ``steps`` steps, from the noisiest down: ``steps + 1`` of them, the last is its end.

    Spacings (Lin et al. 2023, table 2), for a schedule of 1000 times and 50 steps:

    - ``trailing``: 999, 979 ... 19. Starts at the noisiest time, where pure noise belongs: the default.
    - ``leading``: 981, 961 ... 1. It starts below the noisiest time (5 steps: at 801; 1 step: at 1) although the sample
      it is given is pure noise. Where the steps divide 1000 these are the times of the original DDIM and PLMS of Stable
      Diffusion; where they do not, the original takes more of them: see `original_times`.
    - ``linspace``: 999 ... 0 in equal, fractional strides, both ends included.
    - ``sgm_uniform``: the same without the cleanest: 999, 979.02 ... 19.98.
    - ``karras``: from the noisiest to the cleanest time in equal strides of (sigma / alpha) ** (1 / 7) (Karras et al.
      2022, equation 5); `karras_levels` has the range and the exponent as arguments.
    - ``exponential``: the same in equal strides of log(sigma / alpha).
    - ``beta``: fractional times at quantiles of a Beta(0.6, 0.6) distribution, dense at both ends (Lee et al. 2024).
    - ``align_your_steps`` and ``align_your_steps_xl``: optimised for few steps of SD 1.5 and of SDXL, interpolated in
      log(sigma / alpha) (Sabour et al. 2024). The last value of their table is the end of a run, ``first`` below.

    The end is, by ``final``:

    - ``zero``: no noise at all, so that the last ``x`` is the last estimate of x0. The default, since it is right for
      every sampler and schedule.
    - ``first``: the level of the cleanest time of training, alpha_bar_0. The original DDIM and PLMS stop there, and
      their pictures keep 3 % of noise.

    Raises
    ------
    ValueError
        if ``steps`` is not a whole number from 1 to ``schedule.steps``, or the spacing does not fit the schedule.
    """
    return levels_at(schedule, _spaced(schedule, _checked(schedule, steps), spacing), final)


def levels_at(schedule: NoiseSchedule, times: Tensor, final: Final = "zero") -> list[Level]:
    """The levels of a run that stops at the given ``times`` (N,), falling; and its end (see `levels`).

    Raises
    ------
    ValueError
        if the times do not fall, or lie outside the schedule.
    """
    times = torch.as_tensor(times, dtype=torch.float64)
    _check_falling("times", times)
    return _listed(schedule, schedule.level(times), final)


def levels_at_sigmas(schedule: NoiseSchedule, sigmas: Tensor, final: Final = "zero") -> list[Level]:
    """The levels of a run that stops where sigma / alpha has the values ``sigmas`` (N,), falling; and its end.

    These are the sigmas of Karras et al. 2022 and of k-diffusion. See `levels` for ``final``.

    Raises
    ------
    ValueError
        if they do not fall, or the schedule has no such noise.
    """
    sigmas = torch.as_tensor(sigmas, dtype=torch.float64)
    _check_falling("sigmas", sigmas)
    return _listed(schedule, sigma_to_level(schedule, sigmas), final)


def karras_levels(
    schedule: NoiseSchedule,
    steps: int,
    *,
    rho: float = 7.0,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    final: Final = "zero",
) -> list[Level]:
    """`levels` with karras spacing from ``sigma_max`` to ``sigma_min``, values of sigma / alpha; the schedule's ends.

    Raises
    ------
    ValueError
        if the schedule has no such noise, or ``rho`` is not positive.
    """
    lowest, highest = _ratio_range(schedule, "karras") if sigma_min is None or sigma_max is None else (0.0, 0.0)
    low, high = sigma_min or lowest, sigma_max or highest
    if not 0 < low < high or not rho > 0:
        raise ValueError(f"sigma must fall from {high} to {low} above 0, and rho={rho} be positive; 7 is usual")
    return levels_at_sigmas(schedule, spacings.karras(_checked(schedule, steps), low, high, rho), final)


def sigma_to_level(schedule: NoiseSchedule, sigma: Tensor | float) -> Level:
    """The level at which sigma / alpha is ``sigma``, 0-d or (B,): the sigma of Karras et al. 2022 and of k-diffusion.

    Raises
    ------
    ValueError
        if the schedule has no such noise.
    """
    wanted = torch.as_tensor(sigma, dtype=torch.float64)
    level = schedule.level(schedule.time(wanted))
    if not torch.isclose(level.ratio, wanted, rtol=1e-3, atol=0).all():
        low, high = schedule.level(schedule.first).ratio, schedule.level(schedule.last).ratio
        raise ValueError(
            f"sigma={wanted.tolist()} is not within the noise that the model was trained with: sigma / alpha from "
            f"{float(low):.4g} to {float(high):.4g}"
        )
    return level


def _spaced(schedule: NoiseSchedule, steps: int, spacing: Spacing) -> Tensor:
    """The times of a run (steps,), falling."""
    i = torch.arange(steps, dtype=torch.float64)
    match spacing:
        case "trailing":  # counted in whole numbers: strides of a fraction, added up, may make one time too many
            return schedule.last - schedule.steps + torch.round(schedule.steps * (steps - i) / steps)
        case "leading":
            stride = schedule.steps // steps
            start = min(1, schedule.last - stride * (steps - 1))  # 0 where 1 would run past the last time (1000 steps)
            return start + stride * i.flip(0)
        case "linspace":
            return torch.linspace(schedule.last, schedule.first, steps, dtype=torch.float64)
        case "sgm_uniform":
            return torch.linspace(schedule.last, schedule.first, steps + 1, dtype=torch.float64)[:-1]
        case "beta":
            return schedule.first + (schedule.last - schedule.first) * spacings.beta_quantiles(steps)
        case "karras":
            return schedule.time(spacings.karras(steps, *_ratio_range(schedule, spacing)))
        case "exponential":
            return schedule.time(spacings.exponential(steps, *_ratio_range(schedule, spacing)))
        case "align_your_steps" | "align_your_steps_xl":
            xl = spacing == "align_your_steps_xl"
            times = torch.tensor(spacings.ALIGN_YOUR_STEPS_XL if xl else spacings.ALIGN_YOUR_STEPS)
            if not isinstance(schedule, VariancePreserving) or schedule.steps != 1000:
                raise ValueError(
                    f"{spacing} is a table of Stable Diffusion's 1000 times; use karras or trailing spacing"
                )
            _ratio_range(schedule, spacing)
            return schedule.time(spacings.interpolated(schedule.level(times).ratio, steps + 1)[:-1])
    raise ValueError(f"no spacing is called {spacing!r}; choose {', '.join(get_args(Spacing))}")


def _ratio_range(schedule: NoiseSchedule, spacing: str) -> tuple[float, float]:
    """sigma / alpha at the cleanest and at the noisiest time."""
    low, high = float(schedule.level(schedule.first).ratio), float(schedule.level(schedule.last).ratio)
    if math.isinf(high):
        raise ValueError(
            f"{spacing} spacing needs a schedule with a signal at every time: it divides sigma / alpha, which is "
            "infinite where a rectified flow or a zero-SNR schedule starts; use trailing spacing, or linspace"
        )
    return low, high


def _listed(schedule: NoiseSchedule, stops: Level, final: Final) -> list[Level]:
    """The levels of ``stops`` (N,) one by one, and the end of the run."""
    end = {"zero": schedule.clean, "first": lambda: schedule.level(schedule.first)}
    if final not in end:
        raise ValueError(f"final={final!r} must be 'zero' or 'first'")
    single = zip(stops.t, stops.alpha, stops.sigma, strict=True)
    return [*(Level(*parts, schedule) for parts in single), end[final]()]


def _check_falling(name: str, values: Tensor) -> None:
    if (values.diff() >= 0).any():
        raise ValueError(f"the {name} of a run must fall from noise to data, not {values.tolist()}")


def _checked(schedule: NoiseSchedule, steps: int) -> int:
    if isinstance(steps, bool) or not isinstance(steps, SupportsIndex) or not 1 <= steps <= schedule.steps:
        raise ValueError(
            f"steps={steps!r} must be a whole number from 1 to {schedule.steps}, the number of steps the model was "
            "trained with; 20 to 50 are usual"
        )
    return int(steps)
