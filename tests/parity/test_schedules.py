"""Schedules, spacings and the forward process against the reference library's."""

import diffusers
import numpy as np
import pytest
import torch
from diffusers.schedulers import AysSchedules
from scipy.stats import beta

from ldm_edu.config import Spacing
from ldm_edu.prediction import target
from ldm_edu.schedule import (
    NoiseSchedule,
    VariancePreserving,
    add_noise,
    cosine,
    flow,
    levels,
    levels_at,
    linear,
    scaled_linear,
)

pytestmark = pytest.mark.parity

STABLE_DIFFUSION = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
BETAS = [("linear", linear()), ("scaled_linear", scaled_linear()), ("squaredcos_cap_v2", cosine())]


def times(schedule: NoiseSchedule, steps: int, spacing: Spacing) -> np.ndarray:
    return torch.stack([level.t for level in levels(schedule, steps, spacing)[:-1]]).numpy()


@pytest.mark.parametrize("name, schedule", BETAS)
def test_alpha_bar(name: str, schedule: VariancePreserving) -> None:
    theirs = diffusers.DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule=name).alphas_cumprod
    torch.testing.assert_close(schedule.alpha_bar, theirs.double(), rtol=1e-4, atol=1e-9)  # theirs is in float32


@pytest.mark.parametrize("steps", [*range(1, 60), 333, 500, 501, 999, 1000])
def test_leading_and_trailing_times(steps: int) -> None:
    leading = diffusers.DDIMScheduler(timestep_spacing="leading", steps_offset=0 if steps == 1000 else 1)
    leading.set_timesteps(steps)
    np.testing.assert_array_equal(times(scaled_linear(), steps, "leading"), leading.timesteps.numpy())

    trailing = diffusers.DDIMScheduler(timestep_spacing="trailing")
    trailing.set_timesteps(steps)
    halves = 2000 * np.arange(steps, 0, -1)
    tie = (halves % steps == 0) & (halves // steps % 2 == 1)  # theirs adds up strides, so a half may fall either way
    difference = times(scaled_linear(), steps, "trailing") - trailing.timesteps.numpy()
    assert (np.abs(difference) <= tie).all()


@pytest.mark.parametrize("steps", [1, 2, 5, 10, 30, 50, 999, 1000])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_noise_at_the_times_of_euler(steps: int, spacing: Spacing) -> None:
    theirs = diffusers.EulerDiscreteScheduler(
        **STABLE_DIFFUSION, timestep_spacing=spacing, steps_offset=0 if steps == 1000 else 1
    )
    theirs.set_timesteps(steps)
    if (steps, spacing) == (1, "linspace"):
        return  # theirs starts a single step at time 0, where there is nothing to remove; ours at 999
    run = levels(scaled_linear(), steps, spacing)
    np.testing.assert_allclose(times(scaled_linear(), steps, spacing), theirs.timesteps.numpy(), atol=1e-4)
    ratios = torch.stack([level.ratio for level in run])
    torch.testing.assert_close(ratios, theirs.sigmas.double(), rtol=2e-5, atol=0)


@pytest.mark.parametrize("steps", [5, 10, 50])
def test_karras(steps: int) -> None:
    theirs = diffusers.EulerDiscreteScheduler(**STABLE_DIFFUSION, use_karras_sigmas=True)
    theirs.set_timesteps(steps)
    run = levels(scaled_linear(), steps, "karras")
    torch.testing.assert_close(torch.stack([level.ratio for level in run]), theirs.sigmas.double(), rtol=2e-5, atol=0)
    # between two whole times theirs interpolates log sigma, though sigma itself to get there: ours always the latter
    np.testing.assert_allclose(times(scaled_linear(), steps, "karras"), theirs.timesteps.numpy(), atol=0.1)


@pytest.mark.parametrize("steps", [5, 10, 50])
def test_exponential(steps: int) -> None:
    theirs = diffusers.EulerDiscreteScheduler(**STABLE_DIFFUSION, use_exponential_sigmas=True)
    theirs.set_timesteps(steps)
    run = levels(scaled_linear(), steps, "exponential")
    torch.testing.assert_close(torch.stack([level.ratio for level in run]), theirs.sigmas.double(), rtol=2e-5, atol=0)


@pytest.mark.parametrize("spacing, name", [("align_your_steps", ""), ("align_your_steps_xl", "XL")])
def test_align_your_steps(spacing: Spacing, name: str) -> None:
    """Their table is of the same ten steps, rounded to three places."""
    run = levels(scaled_linear(), 10, spacing)
    assert times(scaled_linear(), 10, spacing) == pytest.approx(AysSchedules[f"StableDiffusion{name}Timesteps"])
    ratios = [float(level.ratio) for level in run]
    assert ratios == pytest.approx(AysSchedules[f"StableDiffusion{name}Sigmas"], abs=0.005)


@pytest.mark.parametrize("steps", [1, 2, 20, 1000])
def test_beta_quantiles(steps: int) -> None:
    shares = 1 - np.arange(steps) / steps
    np.testing.assert_allclose(times(scaled_linear(), steps, "beta"), 999 * beta.ppf(shares, 0.6, 0.6), atol=1e-6)


def test_the_times_of_the_reference_solver_are_trailing_to_one() -> None:
    theirs = diffusers.DPMSolverMultistepScheduler(**STABLE_DIFFUSION)
    theirs.set_timesteps(50)
    run = levels_at(scaled_linear(), theirs.timesteps)
    assert [int(run[0].t), int(run[1].t), int(run[-2].t), float(run[-1].sigma)] == [999, 979, 20, 0.0]
    assert np.abs(times(scaled_linear(), 50, "trailing") - theirs.timesteps.numpy()).max() <= 1


@pytest.mark.parametrize("steps", [1, 5, 50])
def test_flow(steps: int) -> None:
    theirs = diffusers.FlowMatchEulerDiscreteScheduler()
    theirs.set_timesteps(steps)
    run = levels(flow(), steps, "linspace")
    torch.testing.assert_close(torch.stack([level.sigma for level in run]), theirs.sigmas.double(), rtol=1e-5, atol=0)
    torch.testing.assert_close(torch.stack([level.t for level in run[:-1]]), theirs.timesteps.double())


def test_shifted_flow_of_training() -> None:
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    ours = flow(shift=3.0).level(torch.arange(1000, 0, -1))
    torch.testing.assert_close(ours.sigma, theirs.sigmas.double())
    torch.testing.assert_close(ours.t, theirs.timesteps.double(), rtol=1e-6, atol=0)


def test_add_noise_and_velocity() -> None:
    theirs = diffusers.DDPMScheduler(**STABLE_DIFFUSION)
    x0, eps = torch.randn(2, 4, 3, 5, 5)
    t = torch.tensor([0, 300, 998, 999])
    level = scaled_linear().level(t)
    x = add_noise(x0, eps, level)
    assert x.dtype == torch.float32
    torch.testing.assert_close(x, theirs.add_noise(x0, eps, t), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(target("v", x0, eps, level), theirs.get_velocity(x0, eps, t), rtol=1e-4, atol=1e-5)
