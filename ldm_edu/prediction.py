"""What a network predicts: eps, x0, v or flow, all as one line, a * x0 + b * eps.

With x = alpha * x0 + sigma * eps a second line is known, so any of the four gives any other. A network with EDM
preconditioning (Karras et al. 2022) predicts such a mixture too, and also reads a scaled sample: see `Preconditioning`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ldm_edu.config import Prediction
from ldm_edu.schedule import Level, check_level, per_picture

# prediction = a * x0 + b * eps
PREDICTIONS: dict[Prediction, Callable[[Tensor, Tensor], tuple[Tensor | float, Tensor | float]]] = {
    "eps": lambda alpha, sigma: (0.0, 1.0),  # Ho et al. 2020, equation 14
    "x0": lambda alpha, sigma: (1.0, 0.0),
    "v": lambda alpha, sigma: (-sigma, alpha),  # Salimans and Ho 2022, section 4
    "flow": lambda alpha, sigma: (-1.0, 1.0),  # Liu et al. 2022, equation 1, from data to noise
}
SIGMA_DATA: dict[Prediction, float] = {"edm": 0.5, "edm_v": 1.0}  # standard deviation of the data, with preconditioning


@dataclass(frozen=True)
class Preconditioning:
    """What surrounds a network F so that its input, its output and its target all have variance 1.

    ``x0 = c_skip * x + c_out * F(c_in * x, c_noise)`` (Karras et al. 2022, equation 7).
    """

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor
    c_noise: Tensor


def preconditioning(kind: Prediction, sigma: Tensor) -> Preconditioning:
    """Karras et al. 2022, table 1, for noise ``sigma`` on data of standard deviation `SIGMA_DATA`.

    With "edm_v" the output has the other sign; for data of variance 1 it is v of the sample c_in * x.
    """
    data, sign = SIGMA_DATA[kind], -1 if kind == "edm_v" else 1
    total = (sigma**2 + data**2).sqrt()
    return Preconditioning(
        c_skip=data**2 / total**2,
        c_out=sign * sigma * data / total,
        c_in=1 / total,
        c_noise=sigma.log() / 4,
    )


def network_input(kind: Prediction, x: Tensor, level: Level) -> Tensor:
    """What the network reads of a noisy ``x`` (B, ...): ``x`` itself, or ``c_in * x`` with EDM preconditioning."""
    return per_picture(preconditioning(kind, level.sigma).c_in, x) * x if kind in SIGMA_DATA else x


def target(kind: Prediction, x0: Tensor, eps: Tensor, level: Level) -> Tensor:
    """What a network that predicts ``kind`` should have said: (B, ...) like ``x0``."""
    check_level(level)
    if kind in SIGMA_DATA:
        x, edm = x0 + per_picture(level.sigma, x0) * eps, preconditioning(kind, level.sigma)
        return (x0 - per_picture(edm.c_skip, x0) * x) / per_picture(edm.c_out, x0)
    a, b = _line(kind, level, x0)
    return a * x0 + b * eps


def to_x0(kind: Prediction, out: Tensor, x: Tensor, level: Level) -> Tensor:
    """The clean sample that a prediction implies.

    Solves ``x = alpha * x0 + sigma * eps`` and ``out = a * x0 + b * eps`` for x0.

    Parameters
    ----------
    out : (B, ...) the network's output. ``x`` : (B, ...) its noisy input. ``level`` : 0-d or (B,).

    Raises
    ------
    ValueError
        if the prediction says nothing about x0 at this level: eps at pure noise.
    """
    check_level(level)
    if kind == "x0":
        return out
    if kind in SIGMA_DATA:
        edm = preconditioning(kind, level.sigma)
        return per_picture(edm.c_skip, x) * x + per_picture(edm.c_out, x) * out
    alpha, sigma = per_picture(level.alpha, x), per_picture(level.sigma, x)
    a, b = _line(kind, level, x)
    determinant = alpha * b - sigma * a
    if determinant.ndim == 0 and determinant == 0:
        raise ValueError(
            f"a prediction of {kind} says nothing about x0 where alpha is {float(level.alpha)}; start at a lower level "
            "(leading spacing), or use a model that predicts v or flow"
        )
    return (b / determinant) * x - (sigma / determinant) * out


def to_eps(x0: Tensor, x: Tensor, level: Level) -> Tensor:
    """The noise that is left of ``x`` when the clean part is taken away; ``level.sigma`` must not be 0."""
    return (x - per_picture(level.alpha, x) * x0) / per_picture(level.sigma, x)


def _line(kind: Prediction, level: Level, like: Tensor) -> tuple[Tensor | float, Tensor | float]:
    if kind not in PREDICTIONS:
        raise ValueError(f"no prediction is called {kind!r}; choose one of {', '.join([*PREDICTIONS, *SIGMA_DATA])}")
    return PREDICTIONS[kind](per_picture(level.alpha, like), per_picture(level.sigma, like))
