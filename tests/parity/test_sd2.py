"""Stable Diffusion 2 as whole models, small and random: files in three formats, and diffusers' pipelines."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import safetensors.torch
import torch
from parity.reference import AUTOENCODER, difference, randomised

from ldm_edu.checkpoint.open import open_checkpoint
from ldm_edu.config import Beside, TextConfig, UNetConfig, UNetPreset
from ldm_edu.convert import convert_checkpoint
from ldm_edu.editing import Edit
from ldm_edu.families.sd2 import NORM, SD2_DEPTH, SD2_INPAINT, SD21, SD21_BASE
from ldm_edu.model import LatentDiffusion
from ldm_edu.samplers import ddim, dpmpp_2m, initial_noise

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity

TOLERANCE = 1e-5
TEXT = TextConfig(600, length=12, width=24, layers=3, heads=2, activation="gelu", pad=0)
UNET = UNetConfig(
    channels=8, mults=(1, 2), blocks=1, depth=(1, 0), context_dim=24, heads=None, head_dim=4, groups=4, linear_proj=True
)
PROMPTS, NEGATIVE, SEEDS, STEPS = ["red apple", "a blue fish"], "grey", [5, 9], 5
SCHEDULE = {"timestep_spacing": "trailing", "steps_offset": 1, "set_alpha_to_one": True}


def small(preset: UNetPreset, in_channels: int, beside: Beside) -> UNetPreset:
    unet = replace(UNET, in_channels=in_channels, beside=beside)
    return replace(
        preset, name=f"small-{preset.name}", size=16, unet=unet, autoencoder=AUTOENCODER, text=TEXT,
        defaults=UNetPreset.defaults,
    )  # fmt: skip


V, EPS = small(SD21, 4, "nothing"), small(SD21_BASE, 4, "nothing")
INPAINT, DEPTH = small(SD2_INPAINT, 9, "mask"), small(SD2_DEPTH, 5, "depth")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for preset in (V, EPS, INPAINT, DEPTH):
        place = tmp_path_factory.mktemp(preset.name)
        model = LatentDiffusion.from_preset(preset)
        for seed, network in enumerate(model.networks.values()):
            randomised(network, seed)
        model.save(place / "ours", dtype=torch.float32)
        convert_checkpoint(open_checkpoint(place / "ours"), place / preset.name, "diffusers")
        made[preset.name] = place / preset.name
    return made


def pipeline(folder: Path, cls: Any, **more: Any) -> Any:
    made = cls.from_pretrained(folder, **more)
    made.scheduler = diffusers.DDIMScheduler.from_config(made.scheduler.config, **SCHEDULE)
    made.set_progress_bar_config(disable=True)
    return made


SHARED = {"num_inference_steps": STEPS, "guidance_scale": 3.0, "negative_prompt": [NEGATIVE] * 2}


@pytest.mark.parametrize("preset", [V, EPS], ids=lambda p: p.name)
def test_pictures_from_prompts(preset: UNetPreset, folders: Mapping[str, Path]) -> None:
    model = LatentDiffusion.from_pretrained(folders[preset.name])
    theirs = pipeline(folders[preset.name], diffusers.StableDiffusionPipeline)
    assert model.preset == preset and theirs.unet.config.get("upcast_attention", False) == (preset.prediction == "v")
    noise = initial_noise(SEEDS, model.latent_shape())
    wanted = theirs(PROMPTS, latents=noise, output_type="latent", height=16, width=16, **SHARED).images
    *_, last = model.generate(PROMPTS, seeds=SEEDS, steps=STEPS, guidance=3.0, negative=NEGATIVE, sampler=ddim)
    assert difference(last.x, wanted) <= TOLERANCE
    other = LatentDiffusion.from_pretrained(folders[preset.name], prediction="eps" if preset is V else "v")
    *_, wrong = other.generate(PROMPTS, seeds=SEEDS, steps=STEPS, guidance=3.0, negative=NEGATIVE, sampler=ddim)
    assert difference(wrong.x, wanted) > 100 * TOLERANCE


def test_depth(folders: Mapping[str, Path]) -> None:
    model = LatentDiffusion.from_pretrained(folders["small-sd2_depth"])
    more = {"depth_estimator": None, "feature_extractor": None}
    theirs = pipeline(folders["small-sd2_depth"], diffusers.StableDiffusionDepth2ImgPipeline, **more)
    picture, depth = torch.rand(1, 3, 16, 16) * 2 - 1, torch.rand(1, 1, 16, 16) * 9
    noise = initial_noise(SEEDS, model.latent_shape())
    known = model.encode(picture).expand(2, -1, -1, -1)  # theirs draws a sample of the posterior, and its own noise
    theirs.prepare_latents = lambda *_, **__: theirs.scheduler.add_noise(known, noise, torch.tensor([799]))
    shared = SHARED | {"image": picture, "depth_map": depth[:, 0].repeat(2, 1, 1), "strength": 0.8}
    wanted = theirs(PROMPTS, output_type="latent", **shared).images
    edit = Edit(picture, strength=0.8, depth=depth)
    shared = {"seeds": SEEDS, "steps": STEPS, "guidance": 3.0, "negative": NEGATIVE, "sampler": ddim}
    *_, last = model.generate(PROMPTS, edit=edit, **shared)  # type: ignore[arg-type]
    assert difference(last.x, wanted) <= TOLERANCE
    *_, other = model.generate(PROMPTS, edit=Edit(picture, strength=0.8, depth=-depth), **shared)  # type: ignore[arg-type]
    assert difference(other.x, wanted) > 100 * TOLERANCE
    with pytest.raises(ValueError, match="this model reads depths"):
        model.generate(PROMPTS)


def test_the_mask_comes_before_the_picture(folders: Mapping[str, Path]) -> None:
    """All of inpainting but the channels' order is tested with version 1; here one step of the network alone."""
    model = LatentDiffusion.from_pretrained(folders["small-sd2_inpaint"])
    theirs = diffusers.UNet2DConditionModel.from_pretrained(folders["small-sd2_inpaint"] / "unet")
    cond = model.condition(PROMPTS)
    x, mask, masked = torch.randn(2, 4, 8, 8), torch.ones(2, 1, 8, 8), torch.randn(2, 4, 8, 8)
    with torch.no_grad():
        ours = model.network(x, torch.tensor([500.0, 9.0]), cond.beside(torch.cat([mask, masked], dim=1)))
        wanted = theirs(torch.cat([x, mask, masked], dim=1), torch.tensor([500, 9]), cond.context).sample
    assert difference(ours, wanted) <= TOLERANCE
    *_, last = model.generate(PROMPTS, steps=2, sampler=dpmpp_2m)
    assert torch.isfinite(last.x).all()


def test_one_file_reads_as_diffusers_reads_it(folders: Mapping[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "one.safetensors"
    convert_checkpoint(open_checkpoint(folders["small-sd21"]), file, "original")
    ours, again = LatentDiffusion.from_pretrained(folders["small-sd21"]), LatentDiffusion.from_pretrained(file)
    assert again.preset == ours.preset
    for name, network in ours.networks.items():
        found = again.networks[name].state_dict()
        assert all(torch.equal(tensor, found[key]) for key, tensor in network.state_dict().items())
    tensors = safetensors.torch.load_file(file)
    assert tensors["cond_stage_model.model.transformer.resblocks.2.attn.in_proj_weight"].shape == (72, 24)
    assert NORM.startswith("model.diffusion_model.")

    sgm = {name.replace("cond_stage_model.model.", "conditioner.embedders.0.model."): t for name, t in tensors.items()}
    more = {"conditioner.embedders.0.model.logit_scale": torch.zeros(())}
    safetensors.torch.save_file(sgm | more, tmp_path / "sgm.safetensors")
    found = open_checkpoint(tmp_path / "sgm.safetensors", preset=ours.preset)
    found.check()
    assert not found.unknown and found.ignored == ["conditioner.embedders.0.model.logit_scale"]
