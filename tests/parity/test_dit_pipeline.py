"""DiT as a whole model: files in three formats, and the pictures of diffusers' pipeline."""

import argparse
import dataclasses
from pathlib import Path

import pytest
import safetensors.torch
import torch
from parity.reference import AUTOENCODER, randomised

from ldm_edu.checkpoint.open import open_checkpoint
from ldm_edu.config import DiTConfig
from ldm_edu.convert import convert_checkpoint
from ldm_edu.families.dit import DIT_XL2, DIT_XL2_512, PRESETS, TOY_DIT, DiTPreset, positions, recognise
from ldm_edu.guidance import cfg
from ldm_edu.layouts.dit import DIT
from ldm_edu.layouts.pair import convert_back
from ldm_edu.model import LatentDiffusion
from ldm_edu.samplers import ddim
from ldm_edu.schedule import levels_at
from ldm_edu.weights.errors import CheckpointError
from ldm_edu.weights.mapped import Stored, WeightFile

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.parity

SMALL = DiTPreset(  # 1000 classes: diffusers' pipeline takes row 1000 for the null class, whatever the network has
    name="small-dit", size=16, dit=DiTConfig(size=8, width=48, depth=2, heads=4), autoencoder=AUTOENCODER
)


@pytest.fixture(scope="module")
def model() -> LatentDiffusion:
    model = LatentDiffusion.from_preset(SMALL)
    for seed, network in enumerate(model.networks.values()):
        randomised(network, seed)
    return model


@pytest.fixture(scope="module")
def folder(model: LatentDiffusion, tmp_path_factory: pytest.TempPathFactory) -> Path:
    ours = tmp_path_factory.mktemp("dit") / "ours"
    model.save(ours, dtype=torch.float32)
    convert_checkpoint(open_checkpoint(ours), ours.with_name("small-dit"), "diffusers")
    return ours.with_name("small-dit")


def same(a: LatentDiffusion, b: LatentDiffusion) -> bool:
    return a.preset == b.preset and all(
        torch.equal(tensor, b.networks[name].state_dict()[key])
        for name, network in a.networks.items()
        for key, tensor in network.state_dict().items()
    )


def test_the_pictures_of_diffusers_pipeline(model: LatentDiffusion, folder: Path) -> None:
    pipeline = diffusers.DiTPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    for block in pipeline.transformer.transformer_blocks:  # as in test_dit.py
        block.norm1.emb.time_proj.downscale_freq_shift = 0
        block.norm3.eps = 1e-6
    rng, labels = torch.Generator().manual_seed(3), [7, 999]
    wanted = pipeline(labels, num_inference_steps=4, generator=rng, output_type="pt").images

    noise = torch.randn(2, *model.latent_shape(), generator=torch.Generator().manual_seed(3))
    some = levels_at(model.schedule, pipeline.scheduler.timesteps.double())
    guided = cfg(model.denoiser(model.condition(labels), some), model.denoiser(model.condition([""]), some), 4.0)
    *_, last = ddim(guided, noise, some)
    assert wanted.std() > 0.1
    assert (model.decode(last.x) / 2 + 0.5 - wanted).abs().max() <= 1e-4


def test_a_folder_and_one_file_give_the_model_again(model: LatentDiffusion, folder: Path, tmp_path: Path) -> None:
    assert same(model, LatentDiffusion.from_pretrained(folder))
    file = tmp_path / "small-dit.safetensors"
    convert_checkpoint(open_checkpoint(folder), file, "original")
    assert same(model, LatentDiffusion.from_pretrained(file))
    tensors = safetensors.torch.load_file(file)
    assert tensors["blocks.1.attn.qkv.weight"].shape == (3 * 48, 48)
    assert torch.equal(tensors["pos_embed"][0], model.networks["dit"]._positions(4, 4))
    found = open_checkpoint(file)
    found.check()
    assert (found.ignored, found.unknown) == (["pos_embed"], [])


def test_copies_that_differ_are_refused(folder: Path) -> None:
    path = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    before = safetensors.torch.load_file(path)
    name = "transformer_blocks.1.norm1.emb.timestep_embedder.linear_1.bias"
    safetensors.torch.save_file(before | {name: before[name] + 1}, path)
    try:
        with pytest.raises(CheckpointError, match=f"{name} differs from another copy of time_mlp"):
            LatentDiffusion.from_pretrained(folder)
    finally:
        safetensors.torch.save_file(before, path)


def published_file(preset: DiTPreset, path: Path) -> WeightFile:
    """The names and shapes of the authors' file, without numbers."""
    with torch.device("meta"):
        tensors = convert_back(DIT.network(preset.dit).state_dict(), DIT.pairs(preset.dit, "original", ()))
    tensors |= positions(preset)
    return WeightFile(path, {name: Stored(tuple(each.shape), each.dtype, 0) for name, each in tensors.items()}, {})


CELEBRITIES = dataclasses.replace(  # somebody's own training: other classes, no variance
    DIT_XL2, name="dit", dit=dataclasses.replace(DIT_XL2.dit, classes=1, learned_variance=False)
)


@pytest.mark.parametrize("preset", [*PRESETS[1:], CELEBRITIES], ids=lambda preset: preset.name)
def test_a_file_is_recognised_by_its_shapes(preset: DiTPreset, tmp_path: Path) -> None:
    file = published_file(preset, tmp_path / "DiT.safetensors")
    assert recognise(file) == preset


def test_the_authors_file_is_drawn_with_an_autoencoder_from_elsewhere(folder: Path, tmp_path: Path) -> None:
    """Their train.py saves a pickle: the last weights, the averaged ones, and the arguments of the training."""
    whole = LatentDiffusion.from_pretrained(folder)
    weights = convert_back(whole.dit.state_dict(), DIT.pairs(whole.preset.dit, "original", ()))
    last = {name: tensor + 1 for name, tensor in weights.items()}
    path = tmp_path / "0400000.pt"
    torch.save({"model": last, "ema": weights, "opt": {}, "args": argparse.Namespace(model="DiT")}, path)
    with pytest.raises(CheckpointError, match=r"the autoencoder .* is not there; .* --vae FILE"):
        LatentDiffusion.from_pretrained(path, preset=whole.preset)
    for vae in (folder, folder / "vae", folder / "vae" / "diffusion_pytorch_model.safetensors"):
        model = LatentDiffusion.from_pretrained(path, preset=whole.preset, vae=vae)
        for part, network in whole.networks.items():
            for name, tensor in network.state_dict().items():
                assert torch.equal(tensor, model.networks[part].state_dict()[name])


def test_the_schedule_is_the_published_one() -> None:
    """Betas rise linearly, themselves and not their roots: other numbers than Stable Diffusion's."""
    theirs = diffusers.DDIMScheduler(beta_schedule="linear", beta_start=1e-4, beta_end=0.02)
    ours = LatentDiffusion(TOY_DIT, LatentDiffusion.from_preset(TOY_DIT).networks).schedule
    alpha = torch.stack([ours.level(t).alpha for t in (0, 500, 999)])
    assert (alpha.square() - theirs.alphas_cumprod[[0, 500, 999]].double()).abs().max() < 1e-6
    assert DIT_XL2.schedule == DIT_XL2_512.schedule == TOY_DIT.schedule
    assert (DIT_XL2_512.size, DIT_XL2_512.dit) == (512, dataclasses.replace(DIT_XL2.dit, size=64))
