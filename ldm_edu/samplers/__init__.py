"""Samplers: from noise to a picture, one step at a time.

A sampler is a generator function of (denoiser, sample, levels); see `Sampler`. It holds no state outside of a run.
"""

from ldm_edu.samplers.multistep import dpmpp_2m, dpmpp_3m, ipndm, plms, unipc
from ldm_edu.samplers.noise import Noise, Rng, initial_noise
from ldm_edu.samplers.one_step import ddim, ddpm, euler, euler_ancestral, heun
from ldm_edu.samplers.step import Sampler, Step

SAMPLERS: dict[str, Sampler] = {
    "ddpm": ddpm,
    "ddim": ddim,
    "euler": euler,
    "euler_ancestral": euler_ancestral,
    "heun": heun,
    "dpmpp_2m": dpmpp_2m,
    "dpmpp_3m": dpmpp_3m,
    "plms": plms,
    "ipndm": ipndm,
    "unipc": unipc,
}

__all__ = [
    "SAMPLERS",
    "Noise",
    "Rng",
    "Sampler",
    "Step",
    "ddim",
    "ddpm",
    "dpmpp_2m",
    "dpmpp_3m",
    "euler",
    "euler_ancestral",
    "heun",
    "initial_noise",
    "ipndm",
    "plms",
    "unipc",
]
