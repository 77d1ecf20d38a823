"""The presets of SDXL, its refiner and its variants (Podell et al. 2023), and of models of the same networks.

Nothing but its preset sets such a model apart: how it was trained decides what its network predicts, on which noise
schedule, and how pictures are drawn with it.
"""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from ldm_edu.config import AutoencoderConfig, Beside, Preset, Sampling, ScheduleConfig, TextConfig, UNetConfig
from ldm_edu.layouts.openclip import BIGG

AUTOENCODER = AutoencoderConfig(scale=0.13025)  # Stable Diffusion 1's network with other weights
CLIP_L = TextConfig()  # Stable Diffusion 1's
DEFAULTS = Sampling(steps=40, guidance=5.0, sampler="euler")


@dataclass(frozen=True, kw_only=True)
class SDXLPreset(Preset):
    """A U-Net, an autoencoder, and the text encoders: ``text`` is CLIP's, None in the refiner, ``text2`` OpenCLIP's."""

    family: str = "sdxl"
    size: int = 1024
    unet: UNetConfig
    autoencoder: AutoencoderConfig = AUTOENCODER
    text: TextConfig | None = CLIP_L
    text2: TextConfig = BIGG
    zeros: bool = True  # whether an empty prompt is zeros instead of what the encoders make of it
    defaults: Sampling = DEFAULTS

    @property
    def beside(self) -> Beside:
        """What the U-Net reads besides the noisy sample."""
        return self.unet.beside

    @property
    def numbers(self) -> Literal["target", "score"]:
        """What the U-Net's vector ends with: the size of the picture, or, without CLIP, an aesthetic score."""
        return "score" if self.text is None else "target"


_UNET = UNetConfig(
    mults=(1, 2, 4), depth=(0, 2, 10), mid_depth=10, context_dim=2048, heads=None, head_dim=64, linear_proj=True,
    vector_dim=2816,
)  # fmt: skip
SDXL = SDXLPreset(name="sdxl", unet=_UNET)
SDXL_INPAINT = dataclasses.replace(
    SDXL,
    name="sdxl_inpaint",
    unet=dataclasses.replace(_UNET, in_channels=9, beside="mask"),
    defaults=Sampling(steps=40, guidance=7.5, sampler="euler"),
)
SDXL_PIX2PIX = dataclasses.replace(
    SDXL, name="sdxl_pix2pix", size=768, unet=dataclasses.replace(_UNET, in_channels=8, beside="picture")
)
SDXL_REFINER = SDXLPreset(
    family="sdxl_refiner",
    name="sdxl_refiner",
    unet=UNetConfig(
        channels=384, mults=(1, 2, 4, 4), depth=(0, 4, 4, 0), mid_depth=4, context_dim=1280, heads=None, head_dim=64,
        linear_proj=True, vector_dim=2560,
    ),
    text=None,
    zeros=False,
)  # fmt: skip

# The same networks, trained further; only the first two can be told by a file.
PLAYGROUND25 = dataclasses.replace(
    SDXL,
    name="playground25",
    autoencoder=AutoencoderConfig(
        scale=0.5,
        latents_mean=(-1.6574, 1.886, -1.383, 2.5155),
        latents_std=(8.4927, 5.9022, 6.5498, 5.2299),
    ),
    schedule=ScheduleConfig("edm"),
    prediction="edm",
    defaults=Sampling(steps=50, guidance=3.0, sampler="dpmpp_2m", spacing="linspace"),
)
COSXL = dataclasses.replace(
    SDXL,
    name="cosxl",
    schedule=ScheduleConfig("edm", sigma_max=120.0),
    prediction="edm_v",
    defaults=Sampling(steps=40, guidance=5.0, sampler="dpmpp_2m", spacing="linspace"),
)
PLAYGROUND2 = dataclasses.replace(SDXL, name="playground2")
SDXL_TURBO = dataclasses.replace(  # adversarial diffusion distillation: a step or four, no guidance
    SDXL, name="sdxl_turbo", size=512, defaults=Sampling(steps=4, guidance=1.0, sampler="euler_ancestral")
)
SDXL_LIGHTNING = dataclasses.replace(  # as many steps as the file was made for: 2, 4 or 8
    SDXL, name="sdxl_lightning", defaults=Sampling(steps=4, guidance=1.0, sampler="euler")
)
PRESETS = (SDXL, SDXL_INPAINT, SDXL_PIX2PIX, PLAYGROUND25, COSXL, PLAYGROUND2, SDXL_TURBO, SDXL_LIGHTNING)
