"""One noise level, and the forward process at it: ``x_t = alpha * x0 + sigma * eps``.

Everything here is computed in float64; samplers multiply by 0-d tensors or plain numbers, which leave the type and the
device of a sample as they are.
"""

from dataclasses import dataclass, field
from typing import Protocol

import torch
from einops import rearrange
from torch import Tensor


@dataclass(frozen=True)
class Level:
    """One noise level: ``x_t = alpha * x0 + sigma * eps``.

    ``t`` is the time that a network is told, ``alpha`` and ``sigma`` the two factors; all 0-d (a sampler's step) or
    (B,) (a training batch, one level a picture). ``schedule`` is the one that the level belongs to: samplers that ask
    between two levels find the time there.
    """

    t: Tensor
    alpha: Tensor
    sigma: Tensor
    schedule: "NoiseSchedule | None" = field(default=None, repr=False, compare=False)

    @property
    def snr(self) -> Tensor:
        """Signal-to-noise ratio, (alpha / sigma) ** 2; infinite at the clean end (Kingma et al. 2021, equation 2)."""
        return (self.alpha / self.sigma) ** 2

    @property
    def log_snr(self) -> Tensor:
        """Half the logarithm of the SNR, log(alpha / sigma): lambda of Lu et al. 2022, the solvers' own time."""
        return torch.log(self.alpha / self.sigma)

    @property
    def ratio(self) -> Tensor:
        """Noise over signal, sigma / alpha: what Karras et al. 2022 call sigma."""
        return self.sigma / self.alpha

    @property
    def factors(self) -> tuple[float, float]:
        """``alpha`` and ``sigma`` of a 0-d level as plain numbers, whose arithmetic costs a tenth of tensors'."""
        return float(self.alpha), float(self.sigma)

    def to(self, device: torch.device | str) -> "Level":
        """The same level on another device."""
        return Level(self.t.to(device), self.alpha.to(device), self.sigma.to(device), self.schedule)


class NoiseSchedule(Protocol):
    """A forward process: which level belongs to a time.

    ``first`` and ``last`` are the cleanest and the noisiest time of training, ``steps`` the number of whole times from
    one to the other.
    """

    @property
    def steps(self) -> int: ...

    @property
    def first(self) -> int: ...

    @property
    def last(self) -> int: ...

    def level(self, t: Tensor | float) -> Level:
        """The level at time ``t``, 0-d or (B,)."""
        ...

    def time(self, ratio: Tensor) -> Tensor:
        """The time at which sigma / alpha is ``ratio``, the inverse of `level`; the nearest one if it never is."""
        ...

    def clean(self) -> Level:
        """The level without noise: alpha 1, sigma 0."""
        ...


def add_noise(x0: Tensor, eps: Tensor, level: Level) -> Tensor:
    """The noisy sample alpha * x0 + sigma * eps (Ho et al. 2020, equation 4, in closed form).

    ``x0`` and ``eps`` are (B, ...), ``level`` 0-d or (B,); the result is like ``x0``.
    """
    check_level(level)
    return per_picture(level.alpha, x0) * x0 + per_picture(level.sigma, x0) * eps


def pure_noise(noise: Tensor, level: Level) -> Tensor:
    """A sample at ``level``, which is 0-d, of data nobody knows: noise (B, ...) with their standard deviation.

    Clean samples have variance 1, and noisy ones alpha^2 + sigma^2: 1 where a schedule preserves the variance.
    """
    return torch.hypot(level.alpha, level.sigma) * noise


def per_picture(value: Tensor, like: Tensor) -> Tensor:
    """A factor of a level in the shape to multiply a batch with: 0-d stays, (B,) becomes (B, 1, ..., 1) as ``like``."""
    if value.ndim == 0:
        return value
    ones = " ".join("1" for _ in like.shape[1:])
    return rearrange(value.to(like), f"b -> b {ones}")


def check_level(level: object) -> None:
    """That a level is one.

    Raises
    ------
    TypeError
        if it is a time, a sigma or something else.
    """
    if not isinstance(level, Level):
        raise TypeError(
            f"a level must be a Level, not the {type(level).__name__} {str(level)[:40]}: make one with "
            "schedule.level(t) or sigma_to_level(schedule, sigma), and those of a run with levels(schedule, steps)"
        )
