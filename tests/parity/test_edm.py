"""EDM preconditioning, schedule and whole runs, and zero terminal SNR, against the reference library's schedulers."""

from collections.abc import Callable

import diffusers
import pytest
import torch
from parity.reference import difference
from torch import Tensor

from ldm_edu.config import Prediction
from ldm_edu.prediction import network_input, preconditioning, to_x0
from ldm_edu.samplers import ddim, dpmpp_2m, euler
from ldm_edu.schedule import Level, edm, levels, pure_noise, scaled_linear, zero_terminal_snr

pytestmark = pytest.mark.parity

TOLERANCE = 1e-5
KINDS: list[tuple[Prediction, str, float]] = [("edm", "epsilon", 0.5), ("edm_v", "v_prediction", 1.0)]


def network(x: Tensor, t: Tensor) -> Tensor:
    """A stand-in that bends with both of its inputs."""
    return torch.tanh(x.flip(-1) + t) + 0.3 * x


def our_denoiser(kind: Prediction) -> Callable[[Tensor, Level], Tensor]:
    return lambda x, level: to_x0(kind, network(network_input(kind, x, level), level.t), x, level)


def theirs(cls: type, kind: str, data: float, steps: int) -> diffusers.SchedulerMixin:
    scheduler = cls(prediction_type=kind, sigma_data=data, sigma_schedule="karras")
    scheduler.set_timesteps(steps)
    return scheduler


def run(scheduler: diffusers.SchedulerMixin, noise: Tensor) -> Tensor:
    x = noise * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        x = scheduler.step(network(scheduler.scale_model_input(x, t), t), t, x).prev_sample
    return x


@pytest.mark.parametrize("kind, name, data", KINDS)
def test_preconditioning(kind: Prediction, name: str, data: float) -> None:
    scheduler = theirs(diffusers.EDMEulerScheduler, name, data, 5)
    x, out = torch.randn(2, 3, 4, 8, 8, dtype=torch.float64)
    for sigma in (0.002, 0.5, 80.0):
        level = Level(*torch.tensor([0.0, 1.0, sigma], dtype=torch.float64))
        wanted = scheduler.precondition_outputs(x, out, level.sigma)
        assert difference(to_x0(kind, out, x, level), wanted) <= TOLERANCE
        inputs = scheduler.precondition_inputs(x, level.sigma)
        assert difference(network_input(kind, x, level), inputs) <= TOLERANCE
        noise = float(scheduler.precondition_noise(level.sigma))
        assert float(preconditioning(kind, level.sigma).c_noise) == pytest.approx(noise)


@pytest.mark.parametrize("steps", [1, 2, 5, 50])
def test_noise_and_times(steps: int) -> None:
    if steps == 1:
        return  # theirs divides by steps - 1
    scheduler, ours = theirs(diffusers.EDMEulerScheduler, "epsilon", 0.5, steps), levels(edm(), steps, "linspace")
    torch.testing.assert_close(
        torch.stack([level.sigma for level in ours]), scheduler.sigmas.double(), rtol=1e-5, atol=0
    )
    times = torch.stack([level.t for level in ours[:-1]])
    torch.testing.assert_close(times, scheduler.timesteps.double(), rtol=1e-5, atol=1e-6)
    noise = torch.randn(1, 4, 8, 8)
    assert difference(pure_noise(noise, ours[0]), noise * scheduler.init_noise_sigma) <= 1e-6


@pytest.mark.parametrize("kind, name, data", KINDS)
@pytest.mark.parametrize("steps", [3, 5, 20])  # 2: from 80 to 0.002 in one step, where float32 keeps 1e-5
def test_whole_runs(kind: Prediction, name: str, data: float, steps: int) -> None:
    noise, ours = torch.randn(2, 4, 8, 8), levels(edm(), steps, "linspace")
    start = pure_noise(noise, ours[0])
    for cls, sampler in ((diffusers.EDMEulerScheduler, euler), (diffusers.EDMDPMSolverMultistepScheduler, dpmpp_2m)):
        *_, last = sampler(our_denoiser(kind), start, ours)
        assert difference(last.x, run(theirs(cls, name, data, steps), noise)) <= TOLERANCE


def test_the_comparison_can_fail() -> None:
    """The sign of the output, the deviation of the data and the network's input matter."""
    noise, ours = torch.randn(2, 4, 8, 8), levels(edm(), 5, "linspace")
    wanted = run(theirs(diffusers.EDMEulerScheduler, "epsilon", 0.5, 5), noise)
    unscaled = lambda x, level: to_x0("edm", network(x, level.t), x, level)  # noqa: E731
    for denoise in (our_denoiser("edm_v"), unscaled):
        *_, last = euler(denoise, pure_noise(noise, ours[0]), ours)
        assert difference(last.x, wanted) > 100 * TOLERANCE


STABLE_DIFFUSION = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def test_zero_terminal_snr() -> None:
    scheduler = diffusers.DDIMScheduler(**STABLE_DIFFUSION, rescale_betas_zero_snr=True)
    ours = zero_terminal_snr(scaled_linear()).alpha_bar
    torch.testing.assert_close(ours, scheduler.alphas_cumprod.double(), rtol=1e-4, atol=1e-7)  # theirs is in float32
    assert ours[-1] == scheduler.alphas_cumprod[-1] == 0


@pytest.mark.parametrize("steps", [1, 4, 20])
def test_a_run_from_pure_noise(steps: int) -> None:
    scheduler = diffusers.DDIMScheduler(
        **STABLE_DIFFUSION, rescale_betas_zero_snr=True, prediction_type="v_prediction", timestep_spacing="trailing",
        clip_sample=False,
    )  # fmt: skip
    scheduler.set_timesteps(steps)
    noise = torch.randn(2, 4, 8, 8)
    denoise = lambda x, level: to_x0("v", network(x, level.t / 1000), x, level)  # noqa: E731
    x = noise
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t / 1000), t, x).prev_sample
    *_, last = ddim(denoise, noise, levels(zero_terminal_snr(scaled_linear()), steps, "trailing"))
    assert difference(last.x, x) <= TOLERANCE
