"""How much noise at what time: variance-preserving chains, rectified flow and EDM."""

import math

import torch
from torch import Tensor

from ldm_edu.config import ScheduleConfig
from ldm_edu.schedule.level import Level, NoiseSchedule


class VariancePreserving:
    """A chain of ``steps`` small additions of noise, alpha^2 + sigma^2 = 1 (Ho et al. 2020, equation 4).

    Times run from 0 to ``steps - 1``; alpha^2 is the paper's cumulative product alpha_bar. Between two whole times the
    ratio sigma / alpha is interpolated linearly, as the reference library does for its fractional times.

    Parameters
    ----------
    alpha_bar : (steps,) falling, all below 1; the last may be 0, pure noise, where the ratio is infinite.

    Raises
    ------
    ValueError
        if they do not fall, or one is outside.
    """

    def __init__(self, alpha_bar: Tensor) -> None:
        if len(alpha_bar) < 2 or not ((alpha_bar >= 0) & (alpha_bar < 1)).all() or (alpha_bar.diff() >= 0).any():
            raise ValueError("alpha_bar must fall from below 1 to 0 or above, with at least two values; see linear()")
        self.alpha_bar = alpha_bar.double()  # (steps,)
        self.ratios = ((1 - self.alpha_bar) / self.alpha_bar).sqrt()  # (steps,) rising

    @property
    def steps(self) -> int:
        """The length of the chain."""
        return len(self.alpha_bar)

    @property
    def first(self) -> int:
        """Time 0, which already carries the noise of one step."""
        return 0

    @property
    def last(self) -> int:
        """Time ``steps - 1``, the noisiest."""
        return self.steps - 1

    def level(self, t: Tensor | float) -> Level:
        """The level at time ``t`` in [0, steps - 1], 0-d or (B,), fractional ones too.

        Where the last time is pure noise, so is every fractional one between it and the last but one.

        Raises
        ------
        ValueError
            if a time lies outside.
        """
        t = _times(t, self.last)
        ratios = self.ratios.to(t.device)
        low = t.floor().long().clamp(max=self.last - 1)
        weight = t - low
        above = torch.where(weight > 0, weight * ratios[low + 1], 0.0)  # 0 times an infinite ratio is 0 here
        ratio = (1 - weight) * ratios[low] + above
        alpha = 1 / (1 + ratio**2).sqrt()
        return Level(t, alpha, torch.where(ratio.isinf(), 1.0, ratio * alpha), self)

    def clean(self) -> Level:
        """alpha_bar = 1: one step before time 0, hence at time -1."""
        t, alpha, sigma = torch.tensor([-1.0, 1.0, 0.0], dtype=torch.float64)
        return Level(t, alpha, sigma, self)

    def time(self, ratio: Tensor) -> Tensor:
        """The time at which sigma / alpha is ``ratio``, 0-d or (N,): the inverse of `level`, or the nearest time."""
        high = torch.searchsorted(self.ratios, ratio).clamp(1, self.last)
        below, above = self.ratios[high - 1], self.ratios[high]
        return (high - 1 + (ratio - below) / (above - below)).clamp(0, self.last)


class RectifiedFlow:
    """A straight line from data to noise, x = (1 - sigma) x0 + sigma eps (Liu et al. 2022; Lipman et al. 2022).

    A uniform time ``u`` in [0, steps] is moved towards the noise by ``shift`` (Esser et al. 2024, equation 23); the
    network is told ``t = steps * sigma``.
    """

    def __init__(self, steps: int, shift: float) -> None:
        self._steps, self.shift = steps, shift

    @property
    def steps(self) -> int:
        """Times run from 0, the data, to ``steps``, pure noise."""
        return self._steps

    @property
    def first(self) -> int:
        """Time 1, the cleanest that carries noise."""
        return 1

    @property
    def last(self) -> int:
        """Time ``steps``: alpha is 0, pure noise."""
        return self._steps

    def level(self, t: Tensor | float) -> Level:
        """The level at the uniform time ``t`` in [0, steps], 0-d or (B,); its own ``t`` is the shifted one.

        Raises
        ------
        ValueError
            if a time lies outside.
        """
        u = _times(t, self.last) / self.steps
        sigma = self.shift * u / (1 + (self.shift - 1) * u)
        return Level(self.steps * sigma, 1 - sigma, sigma, self)

    def time(self, ratio: Tensor) -> Tensor:
        """The uniform time at which sigma / (1 - sigma) is ``ratio``, 0-d or (N,): the inverse of `level`."""
        return self.steps / (1 + self.shift / ratio)

    def clean(self) -> Level:
        """Time 0."""
        return self.level(0.0)


class EDM:
    """Noise that is added to unscaled data, x = x0 + sigma eps, sigma from ``sigma_max`` to ``sigma_min``.

    (Karras et al. 2022, table 1.) Times run from 0 to ``steps - 1`` in equal strides of sigma ** (1 / rho) (equation
    5), so that linspace spacing gives the paper's steps. The network is told ``t = log(sigma) / 4``, their c_noise.
    """

    def __init__(self, steps: int, sigma_min: float, sigma_max: float, rho: float) -> None:
        self._steps = steps
        self.rho = rho
        self.ends = sigma_min ** (1 / rho), sigma_max ** (1 / rho)

    @property
    def steps(self) -> int:
        """The number of whole times."""
        return self._steps

    @property
    def first(self) -> int:
        """Time 0: ``sigma_min``."""
        return 0

    @property
    def last(self) -> int:
        """Time ``steps - 1``: ``sigma_max``."""
        return self._steps - 1

    def level(self, t: Tensor | float) -> Level:
        """The level at time ``t`` in [0, steps - 1], 0-d or (B,); its own ``t`` is the network's.

        Raises
        ------
        ValueError
            if a time lies outside.
        """
        low, high = self.ends
        sigma = (low + _times(t, self.last) / self.last * (high - low)) ** self.rho
        return Level(sigma.log() / 4, torch.ones_like(sigma), sigma, self)

    def time(self, ratio: Tensor) -> Tensor:
        """The time at which sigma is ``ratio``, 0-d or (N,), the inverse of `level`; the nearest one if it never is."""
        low, high = self.ends
        return ((ratio ** (1 / self.rho) - low) / (high - low)).clamp(0, 1) * self.last

    def clean(self) -> Level:
        """sigma = 0, at the network's time minus infinity."""
        t, alpha, sigma = torch.tensor([-math.inf, 1.0, 0.0], dtype=torch.float64)
        return Level(t, alpha, sigma, self)


def linear(steps: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012) -> VariancePreserving:
    """beta rises linearly (Ho et al. 2020, section 4, with the range of Rombach et al. 2022)."""
    _check_betas(steps, beta_start, beta_end)
    return _from_betas(torch.linspace(beta_start, beta_end, steps, dtype=torch.float64))


def scaled_linear(steps: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012) -> VariancePreserving:
    """The square root of beta rises linearly: Stable Diffusion's schedule.

    The latent-diffusion code calls it "linear" too; the reference library's name tells the two apart.
    """
    _check_betas(steps, beta_start, beta_end)
    return _from_betas(torch.linspace(beta_start**0.5, beta_end**0.5, steps, dtype=torch.float64) ** 2)


def cosine(steps: int = 1000) -> VariancePreserving:
    """alpha_bar falls like a squared cosine (Nichol and Dhariwal 2021, equation 17); beta is at most 0.999."""
    _check_steps(steps)
    u = torch.arange(steps + 1, dtype=torch.float64) / steps
    f = torch.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2  # (steps + 1,)
    return _from_betas((1 - f[1:] / f[:-1]).clamp(max=0.999))


def flow(steps: int = 1000, shift: float = 1.0) -> RectifiedFlow:
    """Rectified flow; a ``shift`` above 1 spends more of the time at high noise, as larger pictures need."""
    _check_steps(steps)
    if not 0 < shift < math.inf:
        raise ValueError(f"shift={shift} must be a positive number; 1 leaves the times as they are, SD 3 uses 3")
    return RectifiedFlow(steps, shift)


def edm(steps: int = 1000, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> EDM:
    """Karras et al. 2022; CosXL goes up to a ``sigma_max`` of 120."""
    _check_steps(steps)
    if not 0 < sigma_min < sigma_max < math.inf or not 0 < rho < math.inf:
        raise ValueError(
            f"sigma_min={sigma_min}, sigma_max={sigma_max} and rho={rho} make no schedule; sigma must rise from above "
            "0, as from 0.002 to 80 with rho 7"
        )
    return EDM(steps, sigma_min, sigma_max, rho)


def zero_terminal_snr(schedule: VariancePreserving) -> VariancePreserving:
    """The same chain shifted and stretched to end in pure noise (Lin et al. 2023, algorithm 1).

    sqrt(alpha_bar) keeps its first value and falls to 0. Only a network that predicts v, x0 or flow can start there.
    """
    root = schedule.alpha_bar.sqrt()  # (steps,)
    return VariancePreserving(((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2)


def make_schedule(config: ScheduleConfig) -> NoiseSchedule:
    """The schedule that a config names.

    Raises
    ------
    ValueError
        for an unknown kind, or numbers that make no schedule.
    """
    match config.kind:
        case "flow":
            return flow(config.steps, config.shift)
        case "edm":
            return edm(config.steps, config.sigma_min, config.sigma_max, config.rho)
        case "linear":
            chain = linear(config.steps, config.beta_start, config.beta_end)
        case "scaled_linear":
            chain = scaled_linear(config.steps, config.beta_start, config.beta_end)
        case "cosine":
            chain = cosine(config.steps)
        case _:
            raise ValueError(
                f"no schedule is called {config.kind!r}; choose linear, scaled_linear, cosine, flow or edm"
            )
    return zero_terminal_snr(chain) if config.rescale_betas_zero_snr else chain


def _from_betas(betas: Tensor) -> VariancePreserving:
    return VariancePreserving(torch.cumprod(1 - betas, dim=0))


def _times(t: Tensor | float, last: int) -> Tensor:
    t = t.double() if isinstance(t, Tensor) else torch.tensor(t, dtype=torch.float64)
    if (
        t.device.type == "cpu" and not ((t >= 0) & (t <= last)).all()
    ):  # elsewhere the question would wait for the device
        raise ValueError(f"times must lie from 0 to {last}, not {t.tolist()}")
    return t


def _check_steps(steps: int) -> None:
    if steps < 2:
        raise ValueError(f"a schedule of steps={steps} times is none; 1000 are usual")


def _check_betas(steps: int, beta_start: float, beta_end: float) -> None:
    _check_steps(steps)
    if not 0 < beta_start <= beta_end < 1:
        raise ValueError(f"betas must rise within (0, 1), not from {beta_start} to {beta_end}")
