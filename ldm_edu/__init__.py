"""Latent diffusion from first principles: from a prompt to a picture, in pieces that can be read.

The reading line, which is the public interface:

>>> from ldm_edu import TOY, LatentDiffusion, cfg, dpmpp_2m, initial_noise, levels
>>> model = LatentDiffusion.from_preset(TOY)        # random weights; from_pretrained("emoji") has trained ones
>>> cond = model.condition(["red apple, 3d style"])
>>> blank = model.condition([""])
>>> guided = cfg(model.denoiser(cond), model.denoiser(blank), scale=5.0)
>>> noise = initial_noise([7], model.latent_shape())
>>> for step in dpmpp_2m(guided, noise, levels(model.schedule, 3)):
...     print(step.index, tuple(step.x0.shape))
0 (1, 4, 8, 8)
1 (1, 4, 8, 8)
2 (1, 4, 8, 8)
>>> tuple(model.decode(step.x).shape)
(1, 3, 16, 16)

Names are imported when they are first used, so that ``import ldm_edu`` is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ldm_edu.condition import Conditioning as Conditioning
    from ldm_edu.conditioners.conditioner import Conditioner as Conditioner
    from ldm_edu.config import AutoencoderConfig as AutoencoderConfig
    from ldm_edu.config import Preset as Preset
    from ldm_edu.config import Sampling as Sampling
    from ldm_edu.config import ScheduleConfig as ScheduleConfig
    from ldm_edu.config import TextConfig as TextConfig
    from ldm_edu.config import UNetConfig as UNetConfig
    from ldm_edu.config import UNetPreset as UNetPreset
    from ldm_edu.counts import parameter_counts as parameter_counts
    from ldm_edu.denoise import Denoiser as Denoiser
    from ldm_edu.denoise import Joinable as Joinable
    from ldm_edu.denoise import NetworkDenoiser as NetworkDenoiser
    from ldm_edu.editing import Edit as Edit
    from ldm_edu.editing import inpaint as inpaint
    from ldm_edu.families import EMOJI as EMOJI
    from ldm_edu.families import FAMILIES as FAMILIES
    from ldm_edu.families import FASHION as FASHION
    from ldm_edu.families import PRESETS as PRESETS
    from ldm_edu.families import SD15 as SD15
    from ldm_edu.families import SD15_INPAINT as SD15_INPAINT
    from ldm_edu.families import SD15_PIX2PIX as SD15_PIX2PIX
    from ldm_edu.families import SHAPES as SHAPES
    from ldm_edu.families import TOY as TOY
    from ldm_edu.families.family import Family as Family
    from ldm_edu.families.family import Part as Part
    from ldm_edu.files import SaveError as SaveError
    from ldm_edu.guidance import cfg as cfg
    from ldm_edu.guidance import cfg2 as cfg2
    from ldm_edu.guidance import interval as interval
    from ldm_edu.guidance import rescale as rescale
    from ldm_edu.layouts.pair import Layout as Layout
    from ldm_edu.layouts.pair import Pair as Pair
    from ldm_edu.model import LatentDiffusion as LatentDiffusion
    from ldm_edu.models.autoencoder import AutoencoderKL as AutoencoderKL
    from ldm_edu.models.clip import CLIP as CLIP
    from ldm_edu.models.clip import TextEncoder as TextEncoder
    from ldm_edu.models.network import Network as Network
    from ldm_edu.models.unet import UNet as UNet
    from ldm_edu.paths import data_dir as data_dir
    from ldm_edu.pictures import clip_input as clip_input
    from ldm_edu.pictures import from_pil as from_pil
    from ldm_edu.pictures import to_pil as to_pil
    from ldm_edu.prediction import target as target
    from ldm_edu.prediction import to_eps as to_eps
    from ldm_edu.prediction import to_x0 as to_x0
    from ldm_edu.samplers import SAMPLERS as SAMPLERS
    from ldm_edu.samplers import Rng as Rng
    from ldm_edu.samplers import Sampler as Sampler
    from ldm_edu.samplers import Step as Step
    from ldm_edu.samplers import ddim as ddim
    from ldm_edu.samplers import ddpm as ddpm
    from ldm_edu.samplers import deis as deis
    from ldm_edu.samplers import dpm2 as dpm2
    from ldm_edu.samplers import dpm2_ancestral as dpm2_ancestral
    from ldm_edu.samplers import dpmpp_2m as dpmpp_2m
    from ldm_edu.samplers import dpmpp_2m_sde as dpmpp_2m_sde
    from ldm_edu.samplers import dpmpp_2s_ancestral as dpmpp_2s_ancestral
    from ldm_edu.samplers import dpmpp_3m as dpmpp_3m
    from ldm_edu.samplers import dpmpp_3m_sde as dpmpp_3m_sde
    from ldm_edu.samplers import dpmpp_sde as dpmpp_sde
    from ldm_edu.samplers import euler as euler
    from ldm_edu.samplers import euler_ancestral as euler_ancestral
    from ldm_edu.samplers import heun as heun
    from ldm_edu.samplers import initial_noise as initial_noise
    from ldm_edu.samplers import ipndm as ipndm
    from ldm_edu.samplers import lcm as lcm
    from ldm_edu.samplers import lms as lms
    from ldm_edu.samplers import plms as plms
    from ldm_edu.samplers import unipc as unipc
    from ldm_edu.schedule import Level as Level
    from ldm_edu.schedule import add_noise as add_noise
    from ldm_edu.schedule import karras_levels as karras_levels
    from ldm_edu.schedule import levels as levels
    from ldm_edu.schedule import levels_at as levels_at
    from ldm_edu.schedule import levels_at_sigmas as levels_at_sigmas
    from ldm_edu.schedule import make_schedule as make_schedule
    from ldm_edu.schedule import sigma_to_level as sigma_to_level
    from ldm_edu.tokenizer import Tokenizer as Tokenizer
    from ldm_edu.weights.errors import CheckpointError as CheckpointError

__version__ = "0.1.0"

_HOME = {
    "weights.errors": ("CheckpointError",),
    "condition": ("Conditioning",),
    "conditioners.conditioner": ("Conditioner",),
    "config": (
        "AutoencoderConfig",
        "Preset",
        "Sampling",
        "ScheduleConfig",
        "TextConfig",
        "UNetConfig",
        "UNetPreset",
    ),
    "counts": ("parameter_counts",),
    "denoise": (
        "Denoiser",
        "Joinable",
        "NetworkDenoiser",
    ),
    "editing": (
        "Edit",
        "inpaint",
    ),
    "families": (
        "EMOJI",
        "FAMILIES",
        "FASHION",
        "PRESETS",
        "SD15",
        "SD15_INPAINT",
        "SD15_PIX2PIX",
        "SHAPES",
        "TOY",
    ),
    "families.family": (
        "Family",
        "Part",
    ),
    "files": ("SaveError",),
    "guidance": (
        "cfg",
        "cfg2",
        "interval",
        "rescale",
    ),
    "layouts.pair": (
        "Layout",
        "Pair",
    ),
    "model": ("LatentDiffusion",),
    "models.autoencoder": ("AutoencoderKL",),
    "models.clip": (
        "CLIP",
        "TextEncoder",
    ),
    "models.network": ("Network",),
    "models.unet": ("UNet",),
    "paths": ("data_dir",),
    "pictures": (
        "clip_input",
        "from_pil",
        "to_pil",
    ),
    "prediction": (
        "target",
        "to_eps",
        "to_x0",
    ),
    "samplers": (
        "SAMPLERS",
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
    ),
    "schedule": (
        "Level",
        "add_noise",
        "karras_levels",
        "levels",
        "levels_at",
        "levels_at_sigmas",
        "make_schedule",
        "sigma_to_level",
    ),
    "tokenizer": ("Tokenizer",),
}
_MODULE = {name: f"ldm_edu.{module}" for module, names in _HOME.items() for name in names}

__all__ = sorted(["__version__", *_MODULE])


def __getattr__(name: str) -> Any:
    if name not in _MODULE:
        raise AttributeError(f"module 'ldm_edu' has no name {name!r}; it has {', '.join(_MODULE)}")
    value = globals()[name] = getattr(import_module(_MODULE[name]), name)
    return value


def __dir__() -> list[str]:
    return __all__
