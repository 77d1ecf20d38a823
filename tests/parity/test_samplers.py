"""Whole trajectories, every x_t, against the reference library's schedulers: at most 1e-4 of the trajectory's scale.

The network is a fixed random map, cheap and smooth, so that 1000 steps are quick. Stochastic samplers are given the
same generators. Where the reference differs in something else than the sampler, the difference is met at its place and
said there: some schedulers choose other times for the same spacing (ours then stop at theirs, by `levels_at`), and some
lose their way at some spacings (then they are given the times).
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import diffusers
import pytest
import torch
from einops import rearrange
from torch import Tensor

from ldm_edu.config import Prediction, Spacing
from ldm_edu.prediction import to_eps, to_x0
from ldm_edu.samplers import (
    Rng,
    Sampler,
    ddim,
    ddpm,
    deis,
    dpmpp_2m,
    dpmpp_2m_sde,
    dpmpp_3m,
    euler,
    euler_ancestral,
    heun,
    initial_noise,
    ipndm,
    lcm,
    plms,
    unipc,
)
from ldm_edu.schedule import Final, Level, flow, levels, levels_at, scaled_linear

pytestmark = pytest.mark.parity

SEEDS = (3, 4)
SHAPE = (4, 3, 3)  # (C, H, W)
TOLERANCE = 1e-4
SCHEDULE = scaled_linear()
NAMES = {"eps": "epsilon", "v": "v_prediction"}

_weights = torch.randn(36, 36, generator=torch.Generator().manual_seed(0)) / 6
_bias = torch.randn(36, generator=torch.Generator().manual_seed(1))

Network = Callable[[Tensor, Tensor], Tensor]


def network(x: Tensor, t: Tensor) -> Tensor:
    """(B, C, H, W) and a 0-d time -> (B, C, H, W)."""
    hidden = rearrange(x, "b c h w -> b (c h w)") @ _weights + _bias * (float(t) / 1000)
    return rearrange(torch.tanh(hidden), "b (c h w) -> b c h w", c=SHAPE[0], h=SHAPE[1])


def denoiser(kind: Prediction) -> Callable[[Tensor, Level], Tensor]:
    return lambda x, level: to_x0(kind, network(x, level.t), x, level)


def reference(name: str, kind: Prediction, steps: int, spacing: Spacing, **options: Any) -> Any:
    """A scheduler of Stable Diffusion's schedule, its times set.

    With 1000 steps and steps_offset 1 its leading times run from 1000, past the end: there the offset is 0.
    """
    scheduler = getattr(diffusers, name)(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=NAMES[kind],
        timestep_spacing=spacing,
        steps_offset=0 if steps == 1000 else 1,
        **options,
    )
    scheduler.set_timesteps(steps)
    return scheduler


def error(sampler: Sampler, kind: Prediction, run: list[Level], theirs: Iterator[Tensor]) -> float:
    """The largest difference of two trajectories, over the largest value."""
    ours = sampler(denoiser(kind), initial_noise(SEEDS, SHAPE), run, rng=Rng(SEEDS))
    difference = scale = 0.0
    for step, x in zip(ours, theirs, strict=True):
        difference = max(difference, float((step.x - x).abs().max()))
        scale = max(scale, float(x.abs().max()))
        assert x.isfinite().all()
    return difference / scale


def cases(*steps: int) -> Any:
    """eps and v; leading, trailing, linspace; 5 to 1000 steps. Of the long runs one is quick, the others are slow."""
    values = []
    for count in steps or (5, 10, 30, 50, 1000):
        for kind in ("eps", "v"):
            for spacing in ("leading", "trailing", "linspace"):
                slow = count == 1000 and (kind, spacing) != ("eps", "trailing")
                values.append(pytest.param(kind, count, spacing, marks=[pytest.mark.slow] if slow else []))
    return pytest.mark.parametrize("kind, steps, spacing", values)


def walk(scheduler: Any, run: list[Level], **options: Any) -> Iterator[Tensor]:
    """The reference's trajectory, for schedulers whose sample is x itself."""
    x = initial_noise(SEEDS, SHAPE)
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t), t, x, **options).prev_sample
        yield x


def walk_scaled(scheduler: Any, run: list[Level], **options: Any) -> Iterator[Tensor]:
    """The same for those whose sample is x / alpha; a whole step of heun's is two of the scheduler's."""
    scaled = initial_noise(SEEDS, SHAPE) / run[0].alpha.float()
    times = scheduler.timesteps
    for call, t in enumerate(times):
        out = network(scheduler.scale_model_input(scaled, t), t)
        scaled = scheduler.step(out, t, scaled, **options).prev_sample
        if scheduler.order == 1 or call % 2 == 1 or call == len(times) - 1:
            yield scaled * run[call // scheduler.order + 1].alpha.float()


class Stride:
    """A stand-in for a number of steps: whatever is divided by it, the quotient is the stride."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __rfloordiv__(self, total: int) -> int:
        return self.value


def mend(scheduler: Any, now: Level, nxt: Level) -> None:
    """Has DDIMScheduler and PNDMScheduler step to the time that they ask the network about next.

    They step down by 1000 // steps, whatever their own list of times says. That is right for leading spacing; for
    linspace, and for trailing where steps do not divide 1000, the sample is then at another level than the network is
    told.
    """
    if scheduler.config.timestep_spacing != "leading":
        end = -1 if nxt.sigma == 0 else round(float(nxt.t))
        scheduler.num_inference_steps = Stride(round(float(now.t)) - end)


def at_their_times(scheduler: Any, final: Final = "zero") -> list[Level]:
    return levels_at(SCHEDULE, scheduler.timesteps.double(), final)


def mended(scheduler: Any, steps: int, spacing: Spacing) -> Any:
    """The schedulers of dpmpp and unipc, given our times where their own are of no use.

    For ``steps`` steps they lay out ``steps + 1`` times and drop the last. With 1000 steps that makes every leading
    time the same, and repeats one of linspace, which divides by zero.
    """
    if steps == 1000 and spacing != "trailing":
        run = levels(SCHEDULE, steps, spacing)
        scheduler.timesteps = torch.stack([level.t for level in run[:-1]])
        scheduler.sigmas = torch.stack([level.ratio for level in run]).float()
    return scheduler


@cases()
def test_ddpm(kind: Prediction, steps: int, spacing: Spacing) -> None:
    scheduler = reference("DDPMScheduler", kind, steps, spacing, clip_sample=False)
    run = at_their_times(scheduler)  # linspace: theirs are rounded
    theirs = walk(scheduler, run, generator=Rng(SEEDS).generators)
    assert error(ddpm, kind, run, theirs) <= TOLERANCE


@pytest.mark.parametrize("eta", [0.0, 1.0])
@cases()
def test_ddim(kind: Prediction, steps: int, spacing: Spacing, eta: float) -> None:
    final: Final = "first" if spacing == "leading" else "zero"  # leading: all as Stable Diffusion had it
    scheduler = reference("DDIMScheduler", kind, steps, spacing, clip_sample=False, set_alpha_to_one=final == "zero")
    run = at_their_times(scheduler, final)  # linspace: theirs are rounded

    def theirs() -> Iterator[Tensor]:
        x, generators = initial_noise(SEEDS, SHAPE), Rng(SEEDS).generators
        for i, t in enumerate(scheduler.timesteps):
            mend(scheduler, run[i], run[i + 1])
            x = scheduler.step(network(x, t), t, x, eta=eta, generator=generators).prev_sample
            yield x

    assert error(partial(ddim, eta=eta), kind, run, theirs()) <= TOLERANCE


@cases()
def test_euler(kind: Prediction, steps: int, spacing: Spacing) -> None:
    run = levels(SCHEDULE, steps, spacing)
    theirs = walk_scaled(reference("EulerDiscreteScheduler", kind, steps, spacing), run)
    assert error(euler, kind, run, theirs) <= TOLERANCE


@cases()
def test_euler_ancestral(kind: Prediction, steps: int, spacing: Spacing) -> None:
    run = levels(SCHEDULE, steps, spacing)
    scheduler = reference("EulerAncestralDiscreteScheduler", kind, steps, spacing)
    theirs = walk_scaled(scheduler, run, generator=Rng(SEEDS).generators)
    assert error(euler_ancestral, kind, run, theirs) <= TOLERANCE


@cases()
def test_heun(kind: Prediction, steps: int, spacing: Spacing) -> None:
    run = levels(SCHEDULE, steps, spacing)
    theirs = walk_scaled(reference("HeunDiscreteScheduler", kind, steps, spacing), run)
    assert error(heun, kind, run, theirs) <= TOLERANCE


@pytest.mark.parametrize("order, sampler", [(2, dpmpp_2m), (3, dpmpp_3m)])
@cases()
def test_dpmpp(kind: Prediction, steps: int, spacing: Spacing, order: int, sampler: Sampler) -> None:
    scheduler = reference("DPMSolverMultistepScheduler", kind, steps, spacing, solver_order=order)
    scheduler = mended(scheduler, steps, spacing)
    run = at_their_times(scheduler)
    assert error(sampler, kind, run, walk(scheduler, run)) <= TOLERANCE


@pytest.mark.parametrize("order, sampler", [(2, dpmpp_2m), (3, dpmpp_3m)])
@cases(5, 30)
def test_dpmpp_to_the_first_level(kind: Prediction, steps: int, spacing: Spacing, order: int, sampler: Sampler) -> None:
    options = {"solver_order": order, "final_sigmas_type": "sigma_min"}
    scheduler = reference("DPMSolverMultistepScheduler", kind, steps, spacing, **options)
    run = at_their_times(scheduler, "first")
    assert error(sampler, kind, run, walk(scheduler, run)) <= TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("order", [2, 3])
@cases()
def test_unipc(kind: Prediction, steps: int, spacing: Spacing, order: int) -> None:
    scheduler = reference("UniPCMultistepScheduler", kind, steps, spacing, solver_order=order)
    scheduler = mended(scheduler, steps, spacing)
    run = at_their_times(scheduler)
    assert error(partial(unipc, order=order), kind, run, walk(scheduler, run)) <= TOLERANCE


@cases()
def test_plms(kind: Prediction, steps: int, spacing: Spacing) -> None:
    """For v the reference extrapolates v, but adds it up as if it were eps, at the old sample: first order only.

    It is given eps there, made of the network's v.
    """
    final: Final = "first" if spacing == "leading" else "zero"
    scheduler = reference("PNDMScheduler", "eps", steps, spacing, skip_prk_steps=True, set_alpha_to_one=final == "zero")
    times = torch.cat([scheduler.timesteps[:1], scheduler.timesteps[2:]])  # the second time is there twice
    run = levels_at(SCHEDULE, times.double(), final)
    denoise = denoiser(kind)

    def theirs() -> Iterator[Tensor]:
        x = initial_noise(SEEDS, SHAPE)
        for call, t in enumerate(scheduler.timesteps):
            step = max(call - 1, 0)  # the first step takes two calls
            at = run[1] if call == 1 else run[step]
            mend(scheduler, run[step], run[step + 1])
            x = scheduler.step(to_eps(denoise(x, at), x, at), t, x).prev_sample
            if call:
                yield x

    assert error(partial(plms, fixed_weights=True), kind, run, theirs()) <= TOLERANCE


@cases()
def test_ipndm(kind: Prediction, steps: int, spacing: Spacing) -> None:
    """The reference knows neither spacings nor eps: it is given our levels as its betas, and v made of the estimate."""
    run = levels(SCHEDULE, steps, spacing)
    scheduler = diffusers.IPNDMScheduler(trained_betas=[float(level.sigma) for level in run])
    scheduler.set_timesteps(steps)
    denoise = denoiser(kind)

    def theirs() -> Iterator[Tensor]:
        x = initial_noise(SEEDS, SHAPE)
        for now, t in zip(run[:-1], scheduler.timesteps, strict=True):
            x0 = denoise(x, now)
            x = scheduler.step(now.alpha * to_eps(x0, x, now) - now.sigma * x0, t, x).prev_sample
            yield x

    assert error(partial(ipndm, fixed_weights=True), kind, run, theirs()) <= TOLERANCE


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the reference hands tensors to numpy
@pytest.mark.parametrize("order", [2, 3])
@cases(10, 30)
def test_deis(kind: Prediction, steps: int, spacing: Spacing, order: int) -> None:
    """The reference always ends at the first level."""
    scheduler = reference("DEISMultistepScheduler", kind, steps, spacing, solver_order=order)
    run = at_their_times(scheduler, "first")
    assert error(partial(deis, order=order), kind, run, walk(scheduler, run)) <= TOLERANCE


@cases(10, 30)
def test_dpmpp_2m_sde(kind: Prediction, steps: int, spacing: Spacing) -> None:
    """Ours extrapolates in a short run's last step too, if it does not end without noise: k-diffusion does."""
    scheduler = reference("DPMSolverMultistepScheduler", kind, steps, spacing, algorithm_type="sde-dpmsolver++")
    run = at_their_times(scheduler)
    assert error(dpmpp_2m_sde, kind, run, walk(scheduler, run, generator=Rng(SEEDS).generators)) <= TOLERANCE


@pytest.mark.parametrize("kind", ["eps", "v"])
@pytest.mark.parametrize("steps", [2, 4, 8])
def test_lcm(kind: Prediction, steps: int) -> None:
    """The reference mixes x into x0: by less than 1e-5 at these times, which are not its own."""
    run = levels(SCHEDULE, steps)
    scheduler = reference("LCMScheduler", kind, steps, "leading")
    scheduler.set_timesteps(timesteps=[int(level.t) for level in run[:-1]])
    theirs = walk(scheduler, run, generator=Rng(SEEDS).generators)
    assert error(lcm, kind, run, theirs) <= TOLERANCE


@pytest.mark.parametrize("steps", [5, 10, 30, 50])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_euler_on_a_rectified_flow(steps: int, shift: float) -> None:
    """The reference's own list is shifted twice at its low end: it is given the unshifted times."""
    run = levels(flow(shift=shift), steps, "linspace")
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=torch.linspace(1, 0.001, steps).tolist())

    def theirs() -> Iterator[Tensor]:
        x = initial_noise(SEEDS, SHAPE)
        for t in scheduler.timesteps:
            x = scheduler.step(network(x, t), t, x).prev_sample
            yield x

    assert error(euler, "flow", run, theirs()) <= TOLERANCE


def test_a_wrong_trajectory_is_told_apart() -> None:
    run = levels(SCHEDULE, 10, "leading")
    scheduler = reference("EulerDiscreteScheduler", "eps", 10, "leading")
    assert error(heun, "eps", run, walk_scaled(scheduler, run)) > 100 * TOLERANCE
