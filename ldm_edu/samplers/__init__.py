"""Samplers: from noise to a picture, one step at a time.

A sampler is a generator function of (denoiser, sample, levels); see `Sampler`. It holds no state outside of a run.
"""

from ldm_edu.samplers.adams import deis, ipndm, lms, plms
from ldm_edu.samplers.midpoint import dpm2, dpm2_ancestral, dpmpp_2s_ancestral, dpmpp_sde
from ldm_edu.samplers.multistep import dpmpp_2m, dpmpp_2m_sde, dpmpp_3m, dpmpp_3m_sde, unipc
from ldm_edu.samplers.noise import Noise, Rng, initial_noise
from ldm_edu.samplers.one_step import ddim, ddpm, euler, euler_ancestral, heun, lcm
from ldm_edu.samplers.step import Sampler, Step

SAMPLERS: dict[str, Sampler] = {
    "ddpm": ddpm,
    "ddim": ddim,
    "euler": euler,
    "euler_ancestral": euler_ancestral,
    "heun": heun,
    "dpm2": dpm2,
    "dpm2_ancestral": dpm2_ancestral,
    "dpmpp_2s_ancestral": dpmpp_2s_ancestral,
    "dpmpp_sde": dpmpp_sde,
    "dpmpp_2m": dpmpp_2m,
    "dpmpp_2m_sde": dpmpp_2m_sde,
    "dpmpp_3m": dpmpp_3m,
    "dpmpp_3m_sde": dpmpp_3m_sde,
    "lms": lms,
    "plms": plms,
    "ipndm": ipndm,
    "deis": deis,
    "unipc": unipc,
    "lcm": lcm,
}

__all__ = [
    "SAMPLERS",
    "Noise",
    "Rng",
    "Sampler",
    "Step",
    "ddim",
    "ddpm",
    "deis",
    "dpm2",
    "dpm2_ancestral",
    "dpmpp_2m",
    "dpmpp_2m_sde",
    "dpmpp_2s_ancestral",
    "dpmpp_3m",
    "dpmpp_3m_sde",
    "dpmpp_sde",
    "euler",
    "euler_ancestral",
    "heun",
    "initial_noise",
    "ipndm",
    "lcm",
    "lms",
    "plms",
    "unipc",
]
