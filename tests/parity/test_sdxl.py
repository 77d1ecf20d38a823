"""SDXL as whole models, small and random: files in three formats, and the latents of diffusers' pipelines."""

from collections.abc import Mapping
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import diffusers
import pytest
import safetensors.torch
import torch
from parity.reference import AUTOENCODER, difference, randomised
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

from ldm_edu.cascade import base_then_refiner, split
from ldm_edu.checkpoint.open import open_checkpoint
from ldm_edu.cli import app
from ldm_edu.config import AutoencoderConfig, TextConfig, UNetConfig
from ldm_edu.convert import convert_checkpoint
from ldm_edu.families.sdxl_presets import PLAYGROUND25, SDXL_REFINER, SDXLPreset
from ldm_edu.model import LatentDiffusion
from ldm_edu.samplers import initial_noise
from ldm_edu.schedule import levels, scaled_linear

transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.slow, pytest.mark.parity]

TOLERANCE = 1e-5
TEXT = TextConfig(600, length=12, width=16, layers=3, heads=2)
TEXT2 = TextConfig(600, length=12, width=24, layers=3, heads=2, activation="gelu", projection=24, pad=0)
UNET = UNetConfig(
    channels=8, mults=(1, 2), blocks=1, depth=(0, 2), mid_depth=2, context_dim=40, heads=None, head_dim=4, groups=4,
    linear_proj=True, vector_dim=24 + 6 * 256,
)  # fmt: skip
BASE = SDXLPreset(name="small-sdxl", size=16, unet=UNET, autoencoder=AUTOENCODER, text=TEXT, text2=TEXT2)
REFINER = replace(
    SDXL_REFINER,
    name="small-refiner",
    size=16,
    unet=replace(UNET, channels=12, context_dim=24, vector_dim=24 + 5 * 256),
    autoencoder=AUTOENCODER,
    text2=TEXT2,
)
LATENTS = AutoencoderConfig(
    channels=8, mults=(1, 2), blocks=1, groups=4, scale=0.5, latents_mean=(-1.5, 2.0, -1.0, 2.5),
    latents_std=(8.0, 6.0, 6.5, 5.0),
)  # fmt: skip
EDM = replace(PLAYGROUND25, name="small-playground", size=16, unet=UNET, autoencoder=LATENTS, text=TEXT, text2=TEXT2)
PROMPTS, NEGATIVE, SEEDS = ["red apple", "a blue fish"], "grey", [5, 9]


def random_model(preset: SDXLPreset) -> LatentDiffusion:
    model = LatentDiffusion.from_preset(preset)
    for seed, network in enumerate(model.networks.values()):
        randomised(network, seed)
    return model


def as_folder(model: LatentDiffusion, place: Path) -> Path:
    model.save(place / "ours", dtype=torch.float32)
    convert_checkpoint(open_checkpoint(place / "ours"), place / model.preset.name, "diffusers")
    return place / model.preset.name


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    presets = (BASE, REFINER, EDM)
    return {p.name: as_folder(random_model(p), tmp_path_factory.mktemp(p.name)) for p in presets}


def pipeline(folder: Path, cls: Any = diffusers.StableDiffusionXLPipeline, **scheduler: Any) -> Any:
    made = cls.from_pretrained(folder)
    if scheduler:
        kind = scheduler.pop("kind")
        made.scheduler = kind.from_config(made.scheduler.config, **scheduler)
    made.set_progress_bar_config(disable=True)
    return made


def same(a: LatentDiffusion, b: LatentDiffusion) -> bool:
    return a.preset == b.preset and all(
        torch.equal(tensor, b.networks[name].state_dict()[key])
        for name, network in a.networks.items()
        for key, tensor in network.state_dict().items()
    )


EULER = {"kind": diffusers.EulerDiscreteScheduler, "timestep_spacing": "leading", "steps_offset": 1}  # as published
SHARED = {"num_inference_steps": 5, "guidance_scale": 3.0, "height": 16, "width": 24, "output_type": "latent"}


@pytest.mark.parametrize("negative", ["", NEGATIVE])
def test_base(folders: Mapping[str, Path], negative: str) -> None:
    model, theirs = LatentDiffusion.from_pretrained(folders["small-sdxl"]), pipeline(folders["small-sdxl"], **EULER)
    noise = initial_noise(SEEDS, model.latent_shape((16, 24)))
    wanted = theirs(
        PROMPTS, latents=noise, negative_prompt=[negative] * 2 if negative else None, original_size=(16, 24), **SHARED
    ).images
    *_, last = model.generate(
        PROMPTS, seeds=SEEDS, steps=5, guidance=3.0, negative=negative, size=(16, 24), spacing="leading"
    )
    assert difference(last.x, wanted) <= TOLERANCE
    assert difference(model.decode(last.x), decoded(theirs, wanted)) <= 10 * TOLERANCE


@torch.no_grad()
def decoded(theirs: Any, latents: Tensor) -> Tensor:
    return theirs.vae.decode(latents / theirs.vae.config.scaling_factor).sample.clamp(-1, 1)


def test_base_then_refiner(folders: Mapping[str, Path]) -> None:
    base, refiner = (LatentDiffusion.from_pretrained(folders[name]) for name in ("small-sdxl", "small-refiner"))
    one = pipeline(folders["small-sdxl"], **EULER)
    two = pipeline(folders["small-refiner"], diffusers.StableDiffusionXLImg2ImgPipeline, **EULER)
    shared = SHARED | {"height": 16, "width": 16, "num_inference_steps": 10}
    noise = initial_noise(SEEDS, base.latent_shape())
    half = one(PROMPTS, latents=noise, denoising_end=0.8, **shared).images
    del shared["height"], shared["width"]
    wanted = two(
        PROMPTS, image=half, denoising_start=0.8, negative_prompt=["", ""], original_size=(16, 16),
        target_size=(16, 16), **shared,
    ).images  # fmt: skip
    steps = list(base_then_refiner(base, refiner, PROMPTS, seeds=SEEDS, steps=10, guidance=3.0, spacing="leading"))
    assert [step.index for step in steps] == list(range(10))
    assert difference(steps[7].x / steps[7].level.alpha, half) <= TOLERANCE
    assert difference(steps[-1].x, wanted) <= TOLERANCE


def test_playground(folders: Mapping[str, Path]) -> None:
    model, theirs = LatentDiffusion.from_pretrained(folders["small-playground"]), pipeline(folders["small-playground"])
    assert type(theirs.scheduler).__name__ == "EDMDPMSolverMultistepScheduler" and model.preset == EDM
    noise = initial_noise(SEEDS, model.latent_shape())
    shared = SHARED | {"height": 16, "width": 16}
    wanted = theirs(PROMPTS, latents=noise, **shared).images
    *_, last = model.generate(PROMPTS, seeds=SEEDS, steps=5, guidance=3.0)
    assert difference(last.x, wanted) <= TOLERANCE
    pictures = theirs(PROMPTS, latents=noise, **(shared | {"output_type": "pt"})).images
    assert difference(model.decode(last.x) / 2 + 0.5, pictures) <= 100 * TOLERANCE
    raw = model.codec.unscaled(last.x)
    torch.testing.assert_close(model.codec.scaled(raw), last.x, rtol=1e-4, atol=1e-4)  # type: ignore[attr-defined]


@pytest.mark.parametrize("preset", [BASE, REFINER, EDM], ids=lambda p: p.name)
def test_one_file_and_a_folder_give_the_model_again(
    preset: SDXLPreset, folders: Mapping[str, Path], tmp_path: Path
) -> None:
    model, file = random_model(preset), tmp_path / "one.safetensors"
    assert same(model, LatentDiffusion.from_pretrained(folders[preset.name]))
    convert_checkpoint(open_checkpoint(folders[preset.name]), file, "original")
    assert same(model, LatentDiffusion.from_pretrained(file))
    found = open_checkpoint(file)
    assert not found.unknown
    text2 = "conditioner.embedders.0.model." if preset.text is None else "conditioner.embedders.1.model."
    tensors = safetensors.torch.load_file(file)
    assert tensors[f"{text2}transformer.resblocks.2.attn.in_proj_weight"].shape == (72, 24)
    assert ("edm_mean" in tensors) == (preset.prediction == "edm")


def test_diffusers_reads_our_one_file(folders: Mapping[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "one.safetensors"
    convert_checkpoint(open_checkpoint(folders["small-sdxl"]), file, "original")
    theirs = diffusers.StableDiffusionXLPipeline.from_single_file(str(file), config=str(folders["small-sdxl"]))
    wanted = pipeline(folders["small-sdxl"])
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        ours, found = getattr(wanted, part).state_dict(), getattr(theirs, part).state_dict()
        assert ours.keys() == found.keys() and all(torch.equal(ours[name], found[name]) for name in ours), part


def test_the_cut_is_by_time() -> None:
    for steps, first in ((40, 32), (50, 40)):
        run = levels(scaled_linear(), steps, "leading")
        base, refiner = split(run, scaled_linear(), 0.8)
        assert (len(base) - 1, len(refiner) - 1) == (first, steps - first) and base[-1] is refiner[0]
    assert float(split(levels(scaled_linear(), 40, "leading"), scaled_linear())[1][0].t) == 176
    with pytest.raises(ValueError, match=r"switch=0\.8 leaves one of two models"):
        split(levels(scaled_linear(), 1), scaled_linear())


def test_the_comparison_can_fail(folders: Mapping[str, Path]) -> None:
    """A cut, another size and no guidance are seen."""
    model, theirs = LatentDiffusion.from_pretrained(folders["small-sdxl"]), pipeline(folders["small-sdxl"], **EULER)
    noise = initial_noise(SEEDS, model.latent_shape((16, 24)))
    shared = {"seeds": SEEDS, "steps": 5, "guidance": 3.0, "size": (16, 24), "spacing": "leading"}
    *_, last = model.generate(PROMPTS, **shared)  # type: ignore[arg-type]
    *_, cropped = model.generate(PROMPTS, about={"crop": (0, 9), "original": (99, 24)}, **shared)  # type: ignore[arg-type]
    both = SHARED | {"crops_coords_top_left": (0, 9), "original_size": (99, 24)}
    assert difference(cropped.x, theirs(PROMPTS, latents=noise, **both).images) <= TOLERANCE
    for other in ({"crops_coords_top_left": (0, 9)}, {"original_size": (99, 24)}, {"guidance_scale": 2.0}):
        wanted = theirs(PROMPTS, latents=noise, **(SHARED | other)).images
        assert difference(last.x, wanted) > 100 * TOLERANCE


def test_the_command_line_draws_with_a_refiner_and_says_the_sizes(folders: Mapping[str, Path], tmp_path: Path) -> None:
    def drawn(*more: object) -> bytes:
        out = tmp_path / "drawn.png"
        base = ("--model", folders["small-sdxl"], "--steps", 5, "--sampler", "ddim", "--out", out)
        done = CliRunner().invoke(app, [str(each) for each in ("generate", "a horse", *base, *more)])
        assert done.exit_code == 0, done.output
        return out.read_bytes()

    def pixels(png: bytes) -> bytes:
        return Image.open(BytesIO(png)).tobytes()

    plain = pixels(drawn())
    refined = drawn("--refiner", folders["small-refiner"], "--switch", 0.5)
    assert pixels(refined) != plain and b"refiner" in refined
    assert pixels(drawn("--crop", "4,0")) != plain != pixels(drawn("--original-size", "64x32"))
    for options, words in {
        ("--switch", "0.5"): "--switch says when --refiner takes over",
        ("--crop", "left"): "must be two numbers of pixels",
    }.items():
        done = CliRunner().invoke(app, ["generate", "a", "--model", str(folders["small-sdxl"]), *options])
        assert words in str(done.exception)


def test_two_models_in_turn_refuse_what_one_refuses() -> None:
    base, refiner = random_model(BASE), random_model(REFINER)
    with pytest.raises(TypeError, match="pass a list of prompts"):
        next(base_then_refiner(base, refiner, "red apple"))
    with pytest.raises(ValueError, match="2 prompts and 1 seeds"):
        next(base_then_refiner(base, refiner, PROMPTS, seeds=[5]))
    with pytest.raises(ValueError, match="0"):
        next(base_then_refiner(base, refiner, PROMPTS, steps=0))
