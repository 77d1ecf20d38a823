"""What a sampler itself costs a step, around a network that costs nothing, beside `diffusers`' schedulers."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from ldm_edu.config import Prediction
from ldm_edu.evaluate.bench import OURS, time_in_turn
from ldm_edu.evaluate.record import Figure, Section
from ldm_edu.extras import need
from ldm_edu.samplers import SAMPLERS, Rng, initial_noise
from ldm_edu.schedule import levels, scaled_linear

PREDICTION: dict[Prediction, str] = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}  # diffusers' names
# those of the samplers that it has without further packages
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddpm": ("DDPMScheduler", {"clip_sample": False}),
    "ddim": ("DDIMScheduler", {"clip_sample": False}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "dpm2": ("KDPM2DiscreteScheduler", {}),
    "dpm2_ancestral": ("KDPM2AncestralDiscreteScheduler", {}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {"solver_order": 2}),
    "dpmpp_3m": ("DPMSolverMultistepScheduler", {"solver_order": 3}),
    "dpmpp_2m_sde": ("DPMSolverMultistepScheduler", {"solver_order": 2, "algorithm_type": "sde-dpmsolver++"}),
    "dpmpp_3m_sde": ("DPMSolverMultistepScheduler", {"solver_order": 3, "algorithm_type": "sde-dpmsolver++"}),
    "lms": ("LMSDiscreteScheduler", {}),
    "plms": ("PNDMScheduler", {"skip_prk_steps": True}),
    "ipndm": ("IPNDMScheduler", {}),
    "deis": ("DEISMultistepScheduler", {"solver_order": 2}),
    "lcm": ("LCMScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {"solver_order": 2}),
}


def bench_samplers(*, steps: int, rounds: int, shape: tuple[int, int, int] = (4, 64, 64)) -> Section:
    """What a step of each sampler costs around a network that costs nothing, beside `diffusers`' scheduler.

    Raises
    ------
    ValueError
        if `diffusers` is not installed.
    """
    need("diffusers")
    figures = []
    for name in SAMPLERS:
        actions = {OURS: _our_run(name, steps, shape)}
        if name in SCHEDULERS:
            actions["diffusers"] = _their_run(name, steps, shape)
        seconds = time_in_turn(actions, rounds, time.process_time)
        cost = {who: 1000 * statistics.median(each) / steps for who, each in seconds.items()}
        figures.append(Figure(name, cost.pop(OURS), rounds, cost, "ms", goal=0.1, better="lower"))
    return Section(
        "What a sampler adds to a step",
        OURS,
        figures,
        f"Latents (1, {', '.join(map(str, shape))}), runs of {steps} steps around a network that returns zeros; laying "
        "out the steps counts, and so does a second evaluation. The processor's time, in turn in one process; medians "
        "of N runs.",
    )


def their_scheduler(name: str, prediction: Prediction = "eps", **options: Any) -> Any:
    """`diffusers`' scheduler of a sampler, with Stable Diffusion's schedule."""
    kind, own = SCHEDULERS[name]
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    known = {} if name == "ipndm" else {**betas, "prediction_type": PREDICTION[prediction]}  # it has none of these
    return getattr(need("diffusers"), kind)(**known, **own, **options)


def _our_run(name: str, steps: int, shape: tuple[int, int, int]) -> Callable[[], None]:
    schedule, x, zeros = scaled_linear(), initial_noise([0], shape), torch.zeros(1, *shape)

    def run() -> None:
        for _ in SAMPLERS[name](lambda x, level: zeros, x, levels(schedule, steps), rng=Rng([0])):
            pass

    return run


def _their_run(name: str, steps: int, shape: tuple[int, int, int]) -> Callable[[], None]:
    scheduler, noise, zeros = their_scheduler(name), initial_noise([0], shape), torch.zeros(1, *shape)

    def run() -> None:
        scheduler.set_timesteps(steps)
        x = noise * float(scheduler.init_noise_sigma)
        for t in scheduler.timesteps:
            scheduler.scale_model_input(x, t)
            x = scheduler.step(zeros, t, x).prev_sample

    return run
