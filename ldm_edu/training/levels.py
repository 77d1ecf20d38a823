"""How well a network predicts at each noise level: the loss that one number over all levels hides."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ldm_edu.condition import Conditioning
from ldm_edu.config import Prediction
from ldm_edu.denoise import NetworkDenoiser
from ldm_edu.models.network import Network
from ldm_edu.prediction import to_eps
from ldm_edu.schedule import NoiseSchedule, add_noise

TIMES = tuple(range(50, 1000, 100))  # the noise levels that are measured


@torch.no_grad()
def loss_per_level(
    network: Network,
    cond: Conditioning,
    schedule: NoiseSchedule,
    x0: Tensor,
    *,
    prediction: Prediction = "eps",
    times: Sequence[int] = TIMES,
    seed: int = 0,
) -> Tensor:
    """Mean squared error of the estimated noise at each of ``times`` (Ho et al. 2020, equation 14): (len(times),).

    The noise is the same at every call with the same ``x0`` and ``seed``.

    Parameters
    ----------
    cond : what each picture shows. ``x0`` : (B, C, H, W) clean samples.
    """
    rng = torch.Generator().manual_seed(seed)
    eps = torch.randn(x0.shape, generator=rng)
    denoise = NetworkDenoiser(network, prediction, cond)
    losses = []
    for t in times:
        level = schedule.level(float(t))
        x = add_noise(x0, eps, level)
        losses.append((to_eps(denoise(x, level), x, level) - eps).square().mean())
    return torch.stack(losses).float()
