"""Image to image, inpainting (4 and 9 channels) and editing by instruction, against the reference's pipelines.

The networks are small and random; both sides are given the same noise, and the reference the mean of its posterior
instead of a sample. Latents agree to 1e-4 of their scale.
"""

import dataclasses
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from parity.reference import (
    AUTOENCODER,
    SMALL_SD,
    TEXT,
    UNET,
    difference,
    randomised,
    reference_autoencoder,
    reference_text,
    reference_unet,
)
from torch import Tensor

from ldm_edu.condition import as_long_as_each_other
from ldm_edu.config import Beside
from ldm_edu.editing import Edit
from ldm_edu.model import LatentDiffusion
from ldm_edu.samplers import Sampler, ddim, dpmpp_2m, initial_noise

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity

SCHEDULE = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "timestep_spacing": "trailing",
    "steps_offset": 1,
}
SEEDS, STEPS = [5, 9], 10
PROMPTS, NEGATIVE = ["red apple", "a long blue fish"], "grey"

SAMPLERS: dict[str, tuple[Sampler, Any]] = {
    "ddim": (ddim, lambda: diffusers.DDIMScheduler(clip_sample=False, set_alpha_to_one=True, **SCHEDULE)),
    "dpmpp_2m": (dpmpp_2m, lambda: diffusers.DPMSolverMultistepScheduler(final_sigmas_type="zero", **SCHEDULE)),
}


BESIDE: dict[int, Beside] = {4: "nothing", 8: "picture", 9: "mask"}


class Pair:
    """The same random weights on both sides."""

    def __init__(self, folder: Path, in_channels: int) -> None:
        self.preset = dataclasses.replace(
            SMALL_SD, unet=dataclasses.replace(UNET, in_channels=in_channels, beside=BESIDE[in_channels])
        )
        self.unet = randomised(diffusers.UNet2DConditionModel(sample_size=8, **reference_unet(self.preset.unet)))
        self.vae = randomised(diffusers.AutoencoderKL(**reference_autoencoder(AUTOENCODER)), seed=1)
        text = randomised(transformers.CLIPTextModel(reference_text(TEXT)), seed=2)
        for name, module in (("unet", self.unet), ("vae", self.vae), ("text_encoder", text)):
            module.save_pretrained(folder / name)
        self.ours = LatentDiffusion.from_pretrained(folder, preset=self.preset)

    def theirs(self, kind: str, scheduler: Any, **how: Any) -> Tensor:
        """The latents that a pipeline of the reference ends with; every noise it draws is ours for `SEEDS`."""
        pipeline = getattr(diffusers, kind)(
            vae=self.vae,
            unet=self.unet,
            scheduler=scheduler,
            **{"text_encoder": None, "tokenizer": None, "safety_checker": None, "feature_extractor": None},
            requires_safety_checker=False,
        )
        pipeline.set_progress_bar_config(disable=True)
        conditions = [self.ours.condition(PROMPTS), self.ours.condition([NEGATIVE] * 2)]  # of two windows, and of one
        words, blank = (cond.context for cond in as_long_as_each_other(conditions))
        wanted = {"prompt_embeds": words, "negative_prompt_embeds": blank, "num_inference_steps": STEPS}
        with pytest.MonkeyPatch.context() as patch:
            module = __import__(type(pipeline).__module__, fromlist=["_"])
            patch.setattr(module, "randn_tensor", lambda shape, **_: initial_noise(SEEDS, shape[1:]))
            patch.setattr(
                "diffusers.models.autoencoders.vae.DiagonalGaussianDistribution.sample",
                lambda posterior, generator=None: posterior.mode(),
            )
            return pipeline(**wanted, **how, output_type="latent").images

    def mine(self, sampler: Sampler, edit: Edit, guidance: float) -> Tensor:
        how = {"seeds": SEEDS, "steps": STEPS, "negative": NEGATIVE, "sampler": sampler, "guidance": guidance}
        *_, last = self.ours.generate(PROMPTS, edit=edit, **how)  # type: ignore[arg-type]
        return last.x


@pytest.fixture(scope="module", params=[4, 8, 9])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(tmp_path_factory.mktemp("sd"), request.param)


only = lambda channels: pytest.mark.parametrize("pair", [channels], indirect=True)  # noqa: E731


def pictures(n: int) -> Tensor:
    return torch.rand(n, 3, 32, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1  # higher than wide


def blocks() -> Tensor:
    """A mask along the edges of latent pixels: inside of one the reference asks its corner, and we ask all of it."""
    mask = torch.zeros(1, 1, 32, 16)
    mask[..., 6:20, 4:12] = 1
    return mask


def unit(images: Tensor) -> Tensor:
    """Pictures as the reference takes them, in [0, 1]."""
    return (images + 1) / 2


@only(4)
@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("strength", [0.9, 0.6, 0.1])
def test_image_to_image(pair: Pair, name: str, strength: float) -> None:
    sampler, scheduler = SAMPLERS[name]
    picture = pictures(2)
    theirs = pair.theirs(
        "StableDiffusionImg2ImgPipeline", scheduler(), image=unit(picture), strength=strength, guidance_scale=5.0
    )
    assert difference(pair.mine(sampler, Edit(picture, strength), 5.0), theirs) <= 1e-4


@only(4)
@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("strength", [0.9, 0.5])
def test_inpainting_by_knowing_a_part(pair: Pair, name: str, strength: float) -> None:
    """Theirs blends after every step; ours knows x0 where it is known. Below full strength they are the same."""
    sampler, scheduler = SAMPLERS[name]
    picture = pictures(2)
    how = {"image": unit(picture), "mask_image": blocks(), "strength": strength, "guidance_scale": 5.0}
    theirs = pair.theirs("StableDiffusionInpaintPipeline", scheduler(), height=32, width=16, **how)
    assert difference(pair.mine(sampler, Edit(picture, strength, blocks()), 5.0), theirs) <= 1e-4


@only(9)
@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_inpainting_by_a_network_that_learned_it(pair: Pair, name: str, strength: float) -> None:
    sampler, scheduler = SAMPLERS[name]
    picture = pictures(2)
    how = {"image": unit(picture), "mask_image": blocks(), "strength": strength, "guidance_scale": 5.0}
    theirs = pair.theirs("StableDiffusionInpaintPipeline", scheduler(), height=32, width=16, **how)
    assert difference(pair.mine(sampler, Edit(picture, strength, blocks()), 5.0), theirs) <= 1e-4


@only(8)
@pytest.mark.parametrize("name", SAMPLERS)
def test_editing_by_instruction(pair: Pair, name: str) -> None:
    sampler, scheduler = SAMPLERS[name]
    picture = pictures(2)
    how = {"image": unit(picture), "guidance_scale": 7.5, "image_guidance_scale": 1.8}
    theirs = pair.theirs("StableDiffusionInstructPix2PixPipeline", scheduler(), **how)
    assert difference(pair.mine(sampler, Edit(picture, image_guidance=1.8), 7.5), theirs) <= 1e-4
