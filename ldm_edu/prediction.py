"""What a network predicts: eps, x0, v or flow, all as one line, a * x0 + b * eps.

With x = alpha * x0 + sigma * eps a second line is known, so any of the four gives any other.
"""

from collections.abc import Callable

from torch import Tensor

from ldm_edu.config import Prediction
from ldm_edu.schedule import Level, per_picture

# prediction = a * x0 + b * eps
PREDICTIONS: dict[Prediction, Callable[[Tensor, Tensor], tuple[Tensor | float, Tensor | float]]] = {
    "eps": lambda alpha, sigma: (0.0, 1.0),  # Ho et al. 2020, equation 14
    "x0": lambda alpha, sigma: (1.0, 0.0),
    "v": lambda alpha, sigma: (-sigma, alpha),  # Salimans and Ho 2022, section 4
    "flow": lambda alpha, sigma: (-1.0, 1.0),  # Liu et al. 2022, equation 1, from data to noise
}


def target(kind: Prediction, x0: Tensor, eps: Tensor, level: Level) -> Tensor:
    """What a network that predicts ``kind`` should have said: (B, ...) like ``x0``."""
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
    if kind == "x0":
        return out
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
        raise ValueError(f"no prediction is called {kind!r}; choose one of {', '.join(PREDICTIONS)}")
    return PREDICTIONS[kind](per_picture(level.alpha, like), per_picture(level.sigma, like))
