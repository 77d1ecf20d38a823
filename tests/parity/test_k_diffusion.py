"""The samplers that users know from k-diffusion end at the numbers that its functions end at.

The numbers below were printed by k-diffusion 0.1.1.post1 (its functions ``sample_*``, in float64), for `estimate`, the
levels `SIGMAS` with and without a 0 at the end, 14 * `START`, and the noise of `Waves`. For ``sample_dpmpp_sde`` the
noise was one path: W(sigma) grows by a draw times the square root of the distance in sigma, and the noise between two
sigmas is the difference of W over the square root of their distance, as its own Brownian tree has it.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from ldm_edu.samplers import (
    Step,
    dpm2,
    dpm2_ancestral,
    dpmpp_2m_sde,
    dpmpp_2s_ancestral,
    dpmpp_3m_sde,
    dpmpp_sde,
    euler_ancestral,
    lms,
)
from ldm_edu.schedule import Level, NoiseSchedule, edm, flow, levels_at_sigmas, scaled_linear

pytestmark = pytest.mark.parity

SIGMAS = torch.tensor([14.0, 9.0, 5.0, 3.0, 1.5, 0.8, 0.3, 0.1], dtype=torch.float64)
START = torch.tensor([[0.5, -1.2, 2.0]], dtype=torch.float64)

PUBLISHED: list[tuple[Callable[..., Iterator[Step]], dict[str, float], bool, list[float]]] = [
    (lms, {}, False, [0.672595638, -0.629950313, 1.028507797]),
    (dpm2, {}, False, [0.715778326, -0.488656542, 1.023987182]),
    (euler_ancestral, {"eta": 1.0, "s_noise": 1.0}, False, [0.464441723, 0.28119662, 0.46592838]),
    (euler_ancestral, {"eta": 0.6, "s_noise": 0.9}, False, [0.561788994, -0.352237622, 0.761490514]),
    (dpm2_ancestral, {"eta": 1.0, "s_noise": 1.0}, False, [0.87271221, 0.775687601, 0.71436085]),
    (dpm2_ancestral, {"eta": 0.6, "s_noise": 0.9}, False, [0.690855299, -0.056827241, 0.795447028]),
    (dpmpp_2s_ancestral, {"eta": 1.0, "s_noise": 1.0}, False, [0.637334091, 0.506164705, 0.585621721]),
    (dpmpp_2s_ancestral, {"eta": 0.6, "s_noise": 0.9}, False, [0.635914252, -0.189761215, 0.781044391]),
    (dpmpp_sde, {"eta": 1.0, "s_noise": 1.0}, False, [0.783940101, 0.570751719, 0.25942062]),
    (dpmpp_sde, {"eta": 0.6, "s_noise": 0.9}, False, [0.743150762, -0.117642507, 0.699510548]),
    (dpmpp_2m_sde, {"eta": 1.0, "s_noise": 1.0}, False, [0.614325608, 0.480563392, 0.460890212]),
    (dpmpp_2m_sde, {"eta": 0.6, "s_noise": 0.9}, False, [0.593317561, 0.301891998, 0.575183441]),
    (dpmpp_3m_sde, {"eta": 1.0, "s_noise": 1.0}, False, [0.740213425, 0.536400929, 0.456914598]),
    (dpmpp_3m_sde, {"eta": 0.6, "s_noise": 0.9}, False, [0.681794691, 0.343135673, 0.598374225]),
    (lms, {}, True, [0.722945404, -0.21864517, 0.821855773]),
    (dpm2, {}, True, [0.721921397, -0.161423119, 0.824657622]),
    (euler_ancestral, {"eta": 1.0, "s_noise": 1.0}, True, [0.600100565, 0.486548514, 0.600934729]),
    (euler_ancestral, {"eta": 0.6, "s_noise": 0.9}, True, [0.651803931, -0.038395085, 0.740144271]),
    (dpm2_ancestral, {"eta": 1.0, "s_noise": 1.0}, True, [0.779924747, 0.745575298, 0.721338068]),
    (dpm2_ancestral, {"eta": 0.6, "s_noise": 0.9}, True, [0.711501756, 0.225174725, 0.752957999]),
    (dpmpp_2s_ancestral, {"eta": 1.0, "s_noise": 1.0}, True, [0.687934098, 0.62298333, 0.663571876]),
    (dpmpp_2s_ancestral, {"eta": 0.6, "s_noise": 0.9}, True, [0.68728632, 0.108621723, 0.747596891]),
    (dpmpp_sde, {"eta": 1.0, "s_noise": 1.0}, True, [0.74868344, 0.656269933, 0.471648394]),
    (dpmpp_sde, {"eta": 0.6, "s_noise": 0.9}, True, [0.732969383, 0.17250737, 0.715159646]),
    (dpmpp_2m_sde, {"eta": 1.0, "s_noise": 1.0}, True, [0.67729076, 0.609072071, 0.598102161]),
    (dpmpp_2m_sde, {"eta": 0.6, "s_noise": 0.9}, True, [0.6672985, 0.500436067, 0.65846015]),
    (dpmpp_3m_sde, {"eta": 1.0, "s_noise": 1.0}, True, [0.731803403, 0.638886619, 0.595855665]),
    (dpmpp_3m_sde, {"eta": 0.6, "s_noise": 0.9}, True, [0.707627288, 0.527310523, 0.669727757]),
]


def estimate(x: Tensor, level: Level) -> Tensor:
    sigma = level.ratio
    return torch.tanh(x / level.alpha / (1 + sigma) + 0.3) - 0.2 * sigma / (1 + sigma)


class Waves:
    """Noise that needs no random numbers: the k-th draw is 1.3 sin(3 k + j), k from 1 and j from 0."""

    def __init__(self) -> None:
        self.k = 0

    def normal(self, like: Tensor) -> Tensor:
        self.k += 1
        return like.new_tensor([[1.3 * math.sin(3 * self.k + j) for j in range(like.shape[1])]])


@pytest.mark.parametrize("schedule", [scaled_linear(), flow(shift=3.0), edm()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("sampler, options, to_zero, theirs", PUBLISHED)
def test_the_same_numbers(
    sampler: Callable[..., Iterator[Step]],
    options: dict[str, Any],
    to_zero: bool,
    theirs: list[float],
    schedule: NoiseSchedule,
) -> None:
    """In sigma / alpha and x / alpha a sampler does the same on every schedule."""
    run = levels_at_sigmas(schedule, SIGMAS)
    run = run if to_zero else run[:-1]
    *_, last = sampler(estimate, 14 * START * run[0].alpha, run, rng=Waves(), **options)
    torch.testing.assert_close(
        last.x / last.level.alpha, torch.tensor([theirs], dtype=torch.float64), rtol=0, atol=1e-8
    )
