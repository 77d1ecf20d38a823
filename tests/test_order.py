"""Samplers on a Gaussian mixture, whose best denoiser is known: order of convergence, and the distribution at the end.

Only the error of the method is left there, none of a network.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from itertools import pairwise

import pytest
import torch
from scipy.stats import ks_2samp
from torch import Tensor

from ldm_edu.config import Spacing
from ldm_edu.denoise import Denoiser
from ldm_edu.evaluate.mixture import GaussianMixture
from ldm_edu.prediction import target, to_eps, to_x0
from ldm_edu.samplers import (
    SAMPLERS,
    Noise,
    Sampler,
    Step,
    ddim,
    ddpm,
    deis,
    dpm2,
    dpm2_ancestral,
    dpmpp_2m,
    dpmpp_2m_sde,
    dpmpp_2s_ancestral,
    dpmpp_3m,
    dpmpp_3m_sde,
    dpmpp_sde,
    euler,
    euler_ancestral,
    heun,
    ipndm,
    lcm,
    lms,
    plms,
    unipc,
)
from ldm_edu.samplers.step import move_eps
from ldm_edu.schedule import Level, NoiseSchedule, flow, levels, levels_at, levels_at_sigmas, scaled_linear

pytestmark = pytest.mark.slow

WEIGHTS = torch.tensor([0.3, 0.5, 0.2], dtype=torch.float64)
MEANS = torch.tensor([[-1.0, 0.5], [1.0, 0.8], [0.2, -1.2]], dtype=torch.float64)
STDS = torch.tensor([0.3, 0.2, 0.4], dtype=torch.float64)
MIXTURE = GaussianMixture(WEIGHTS, MEANS, STDS)
WIDE = GaussianMixture(WEIGHTS, MEANS, 3 * STDS)


def at_ratios(ratios: Tensor) -> list[Level]:
    """Levels of Stable Diffusion at these sigma / alpha, without the end at no noise."""
    return levels_at_sigmas(scaled_linear(), ratios)[:-1]


def equal_in_log_snr(steps: int) -> list[Level]:
    """From the noise where Stable Diffusion starts to the noise of its first step."""
    return at_ratios(torch.linspace(math.log(14.6), math.log(0.03), steps + 1, dtype=torch.float64).exp())


def equal_in_ratio(steps: int) -> list[Level]:
    return at_ratios(torch.linspace(5.0, 0.03, steps + 1, dtype=torch.float64))


def equal_in_flow_time(steps: int) -> list[Level]:
    """From pure noise, alpha 0."""
    return levels_at(flow(), torch.linspace(1000, 10, steps + 1, dtype=torch.float64))[:-1]


def predicts_flow(x: Tensor, level: Level) -> Tensor:
    x0 = MIXTURE(x, level)
    return to_x0("flow", target("flow", x0, to_eps(x0, x, level), level), x, level)


def end(sampler: Callable[..., Iterator[Step]], denoise: Denoiser, x: Tensor, run: Sequence[Level]) -> Tensor:
    return list(sampler(denoise, x, run))[-1].x


STARTS = torch.randn(64, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@cache
def exact(spaced: Callable[[int], list[Level]], denoise: Denoiser) -> Tensor:
    return end(partial(dpmpp_3m, third_order=True), denoise, STARTS, spaced(1500))


def order(
    sampler: Callable[..., Iterator[Step]],
    spaced: Callable[[int], list[Level]],
    denoise: Denoiser = MIXTURE,
    counts: Sequence[int] = (20, 40, 80),
) -> float:
    """The slope of log error over log steps: errors fall as steps ** -order."""
    truth = exact(spaced, denoise)
    errors = [(end(sampler, denoise, STARTS, spaced(n)) - truth).abs().mean() for n in counts]
    assert errors[-1] < errors[0] < 0.2
    return float((errors[0] / errors[-1]).log() / math.log(counts[-1] / counts[0]))


ORDERS = [
    (ddim, 0.9, 1.1),
    (euler, 0.9, 1.1),
    (heun, 1.9, 2.3),
    (dpmpp_2m, 1.8, 2.2),
    (partial(plms, fixed_weights=True), 1.8, 2.2),  # the weights are those of equal strides, which these are not
    (partial(ipndm, fixed_weights=True), 1.8, 2.2),
    (plms, 2.9, 3.6),
    (ipndm, 2.9, 3.6),
    (partial(lms, order=2), 1.8, 2.2),
    (partial(lms, order=3), 2.4, 3.3),
    (deis, 1.8, 2.3),
    (partial(deis, order=3), 2.4, 3.4),
    (dpm2, 1.9, 2.3),
    (partial(dpmpp_2s_ancestral, eta=0.0), 1.8, 2.2),
    (partial(dpmpp_2m_sde, eta=0.0), 1.8, 2.2),
    (partial(dpmpp_3m_sde, eta=0.0), 2.0, 2.5),
    (dpmpp_3m, 2.0, 2.5),  # as published: half of the curvature is missing
    (partial(dpmpp_3m, third_order=True), 2.8, 3.3),
    (unipc, 2.6, 3.2),  # order 2 and its corrector
    (partial(unipc, order=3), 2.9, 3.6),
]


def named(value: object) -> str | None:
    if isinstance(value, partial):
        return value.func.__name__ + "_" + "_".join(f"{k}={v}" for k, v in value.keywords.items())
    return getattr(value, "__name__", None)


@pytest.mark.parametrize("sampler, low, high", ORDERS, ids=named)
def test_order(sampler: Callable[..., Iterator[Step]], low: float, high: float) -> None:
    assert low <= order(sampler, equal_in_log_snr) <= high


@pytest.mark.parametrize("sampler", [plms, ipndm])
def test_fixed_weights_are_of_higher_order_where_strides_are_equal(sampler: Callable[..., Iterator[Step]]) -> None:
    fixed = partial(sampler, fixed_weights=True)
    assert order(fixed, equal_in_ratio, WIDE, (20, 40, 80, 160)) >= 2.9
    for a, b in zip(fixed(WIDE, STARTS, equal_in_ratio(20)), sampler(WIDE, STARTS, equal_in_ratio(20)), strict=True):
        if a.index < 17:  # then the order falls
            torch.testing.assert_close(a.x, b.x)


def test_without_fresh_noise_they_are_the_samplers_they_come_from() -> None:
    run = levels(scaled_linear(), 20)
    for stochastic, plain in [
        (euler_ancestral, euler),
        (dpm2_ancestral, dpm2),
        (dpmpp_2m_sde, dpmpp_2m),
        (dpmpp_sde, partial(dpmpp_2s_ancestral, eta=0.0)),
    ]:
        torch.testing.assert_close(
            end(partial(stochastic, eta=0.0), MIXTURE, STARTS, run), end(plain, MIXTURE, STARTS, run)
        )


SPREAD = 0.25  # variance of the data of the next test


class Unit:
    """The k-th draw of noise is the k-th unit vector, so that a sample lists how much of each draw is in it."""

    def __init__(self) -> None:
        self.k = 0

    def normal(self, like: Tensor) -> Tensor:
        self.k += 1
        return torch.eye(like.shape[1], dtype=like.dtype)[self.k : self.k + 1]


def of_one_gaussian(x: Tensor, level: Level) -> Tensor:
    return level.alpha * SPREAD / (level.alpha**2 * SPREAD + level.sigma**2) * x


def variance_error(sampler: Callable[..., Iterator[Step]], steps: int) -> float:
    """Of a sample's variance over the right one: exact, as each step of the sampler is linear here."""
    run = equal_in_log_snr(steps)
    right = [float(level.alpha**2 * SPREAD + level.sigma**2) for level in (run[0], run[-1])]
    x = math.sqrt(right[0]) * torch.eye(2 * steps + 2, dtype=torch.float64)[:1]
    *_, last = sampler(of_one_gaussian, x, run, rng=Unit())
    return abs(float((last.x**2).sum()) / right[1] - 1)


@pytest.mark.parametrize("eta", [0.5, 1.0])
@pytest.mark.parametrize(
    "sampler, order",
    [
        (ddim, 1),
        (euler_ancestral, 1),
        (dpm2_ancestral, 2),
        (dpmpp_2s_ancestral, 2),
        (dpmpp_sde, 2),
        (dpmpp_2m_sde, 2),
        (dpmpp_3m_sde, 2),
    ],
)
def test_order_of_the_variance(sampler: Callable[..., Iterator[Step]], order: int, eta: float) -> None:
    coarse, fine = (variance_error(partial(sampler, eta=eta), steps) for steps in (40, 160))
    assert coarse < 0.15
    assert order - 0.15 < math.log(coarse / fine, 4) < order + 0.25


def test_too_much_noise_shows_in_the_variance() -> None:
    assert variance_error(partial(dpmpp_2m_sde, s_noise=1.05), 160) > 20 * variance_error(dpmpp_2m_sde, 160)


@pytest.mark.parametrize(
    "sampler, low, high", [(ddim, 0.9, 1.1), (euler, 0.9, 1.1), (heun, 1.8, 2.1), (dpmpp_2m, 1.8, 2.3)], ids=named
)
def test_order_on_a_rectified_flow(sampler: Sampler, low: float, high: float) -> None:
    """From pure noise, as if a network had predicted flow."""
    assert low <= order(sampler, equal_in_flow_time, predicts_flow, (40, 80, 160)) <= high


def test_a_wrong_heun_is_of_first_order() -> None:
    def lopsided(denoise: Denoiser, x: Tensor, levels: Sequence[Level]) -> Iterator[Step]:
        for i, (now, nxt) in enumerate(pairwise(levels)):
            x0 = denoise(x, now)
            eps = to_eps(x0, x, now)
            ahead = move_eps(x, eps, now, nxt)
            x = move_eps(x, 0.6 * eps + 0.4 * to_eps(denoise(ahead, nxt), ahead, nxt), now, nxt)
            yield Step(i, x, x0, nxt)

    assert order(lopsided, equal_in_log_snr) < 1.3


class OneGenerator:
    """Noise for a large batch: one generator for all."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self.generator, dtype=like.dtype)


COUNT = 4000
SLICES = torch.tensor([[math.cos(a), math.sin(a)] for a in torch.arange(8) * math.pi / 8], dtype=torch.float64)


def p_value(samples: Tensor) -> float:
    """That samples are the mixture's: Kolmogorov and Smirnov's test on eight slices, the least times eight."""
    real = MIXTURE.sample(COUNT, torch.Generator().manual_seed(201))
    return 8 * min(ks_2samp(real @ s, samples @ s).pvalue for s in SLICES)


def noise() -> Tensor:
    return torch.randn(COUNT, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(101))


def samples(sampler: Callable[..., Iterator[Step]], schedule: NoiseSchedule, rng: Noise | None = None) -> Tensor:
    """The lower the order, the more steps are needed to come as near; the stochastic ones have the larger error."""
    plain = sampler.func if isinstance(sampler, partial) else sampler
    steps = 250 if sampler in (ddpm, euler_ancestral) else 100 if plain in (ddim, euler) else 50
    return list(sampler(MIXTURE, noise(), levels(schedule, steps), rng=rng or OneGenerator(1)))[-1].x


@pytest.mark.parametrize("schedule", [scaled_linear(), flow()], ids=["scaled_linear", "flow"])
@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "lcm"])
def test_distribution(name: str, schedule: NoiseSchedule) -> None:
    assert p_value(samples(SAMPLERS[name], schedule)) > 1e-2


def test_distribution_with_half_of_the_noise() -> None:
    assert p_value(samples(partial(ddim, eta=0.5), scaled_linear())) > 1e-2


def test_consistency_sampling_of_a_consistency_function() -> None:
    """A model that jumps along the exact path to its end, as those for lcm are trained to."""

    def jump(x: Tensor, level: Level) -> Tensor:
        below = torch.linspace(float(level.ratio.log()), math.log(0.03), 15, dtype=torch.float64).exp()
        return end(dpmpp_3m, MIXTURE, x, levels_at_sigmas(scaled_linear(), below))

    x = list(lcm(jump, noise(), levels(scaled_linear(), 4), rng=OneGenerator(1)))[-1].x
    assert p_value(x) > 1e-2


def test_real_samples_pass() -> None:
    assert p_value(MIXTURE.sample(COUNT, torch.Generator().manual_seed(9))) > 1e-2


class TooLittle(OneGenerator):
    def normal(self, like: Tensor) -> Tensor:
        return 0.8 * super().normal(like)


def test_wrong_samples_are_told_apart() -> None:
    run = levels(scaled_linear(), 100)
    swapped = GaussianMixture(WEIGHTS.flip(0), MEANS, STDS)
    wrong = {
        "too little noise on the way": samples(ddpm, scaled_linear(), TooLittle(2)),
        "too few steps": end(ddim, MIXTURE, noise(), levels(scaled_linear(), 4)),
        "a start below pure noise": end(dpmpp_2m, MIXTURE, noise(), run[40:]),
        "weights of the wrong components": end(dpmpp_2m, swapped, noise(), run),
    }
    assert max({name: p_value(x) for name, x in wrong.items()}.values()) < 1e-6


def test_trailing_is_nearer_than_leading_in_few_steps() -> None:
    """Leading spacing starts below the noisiest level, on noise that belongs to the noisiest one."""
    real = MIXTURE.sample(COUNT, torch.Generator().manual_seed(201))

    def distance(spacing: Spacing) -> float:
        x = end(dpmpp_2m, MIXTURE, noise(), levels(scaled_linear(), 5, spacing))
        return max(float(ks_2samp(real @ s, x @ s).statistic) for s in SLICES)

    assert distance("trailing") < 0.8 * distance("leading")
