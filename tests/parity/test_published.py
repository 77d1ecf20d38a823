"""Stable Diffusion as published, at toy size: written by the reference libraries, read by ours, same outputs."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from parity.reference import difference, randomised, reference_autoencoder, reference_text, reference_unet
from torch import Tensor

from ldm_edu.checkpoint.io import CheckpointError
from ldm_edu.checkpoint.keymaps import autoencoder_pairs, convert, text_pairs, unet_pairs
from ldm_edu.config import AutoencoderConfig, Preset, TextConfig, UNetConfig
from ldm_edu.latent_diffusion import LatentDiffusion

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity

UNET = UNetConfig(channels=8, mults=(1, 2), blocks=1, depth=(1, 0), context_dim=16, heads=2, groups=4)
AUTOENCODER = AutoencoderConfig(channels=8, mults=(1, 2), blocks=1, groups=4)
TEXT = TextConfig(vocab=600, length=12, width=16, layers=2, heads=2)
SMALL_SD = Preset(name="small-sd", size=16, unet=UNET, autoencoder=AUTOENCODER, text=TEXT)


@pytest.fixture(scope="module")
def references() -> dict[str, Any]:
    return {
        "unet": randomised(diffusers.UNet2DConditionModel(**reference_unet(UNET))),
        "vae": randomised(diffusers.AutoencoderKL(**reference_autoencoder(AUTOENCODER)), seed=1),
        "text_encoder": randomised(transformers.CLIPTextModel(reference_text(TEXT)), seed=2),
    }


@pytest.fixture
def folder(tmp_path: Path, references: dict[str, Any]) -> Path:
    for name, module in references.items():
        module.save_pretrained(tmp_path / "sd" / name)
    return tmp_path / "sd"


def one_file(references: dict[str, Any]) -> dict[str, Tensor]:
    """CompVis's single file of the same weights, with what such files carry besides."""
    state = {name: module.state_dict() for name, module in references.items()}
    tensors = {}
    for prefix, pairs, compvis, name in (
        ("model.diffusion_model.", unet_pairs(UNET), unet_pairs(UNET, "compvis"), "unet"),
        ("first_stage_model.", autoencoder_pairs(AUTOENCODER), autoencoder_pairs(AUTOENCODER, "compvis"), "vae"),
        ("cond_stage_model.transformer.", text_pairs(TEXT), text_pairs(TEXT, "text_model."), "text_encoder"),
    ):
        theirs = convert(convert(state[name], pairs), compvis, reverse=True)
        tensors |= {prefix + key: tensor.clone() for key, tensor in theirs.items()}
    tensors["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(12)[None]
    tensors |= {"betas": torch.zeros(1000), "alphas_cumprod": torch.zeros(1000), "model_ema.decay": torch.zeros(())}
    return tensors


def check(model: LatentDiffusion, references: dict[str, Any]) -> None:
    prompts, x, t = ["red apple", ""], torch.randn(2, 4, 8, 8), torch.tensor([9.0, 900.0])
    assert model.tokenizer and model.autoencoder
    context = model.condition(prompts).context
    assert context is not None
    with torch.no_grad():
        assert difference(context, references["text_encoder"](model.tokenizer(prompts)).last_hidden_state) <= 1e-5
        assert difference(model.unet(x, t, context), references["unet"](x, t, context).sample) <= 1e-5
        assert difference(model.autoencoder.decode(x), references["vae"].decode(x).sample) <= 1e-5


def test_a_folder(folder: Path, references: dict[str, Any]) -> None:
    model = LatentDiffusion.from_pretrained(folder, preset=SMALL_SD)
    assert model.preset == SMALL_SD
    check(model, references)


def test_a_folder_of_older_files(folder: Path, references: dict[str, Any]) -> None:
    """`query` for `to_q`, `text_model.` before every name, the numbers of positions, a copy in half precision."""
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = safetensors.torch.load_file(path)
    for new, old in {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}.items():
        tensors = {name.replace(f"attentions.0.{new}.", f"attentions.0.{old}."): t for name, t in tensors.items()}
    safetensors.torch.save_file(tensors, path)
    path = folder / "text_encoder" / "model.safetensors"
    tensors = {
        f"text_model.{name.removeprefix('text_model.')}": t for name, t in safetensors.torch.load_file(path).items()
    }
    tensors["text_model.embeddings.position_ids"] = torch.arange(12)[None]
    safetensors.torch.save_file(tensors, path)
    half = {name: tensor.half() for name, tensor in references["unet"].state_dict().items()}
    safetensors.torch.save_file(half, folder / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    check(LatentDiffusion.from_pretrained(folder, preset=SMALL_SD), references)


def test_a_single_file(tmp_path: Path, references: dict[str, Any]) -> None:
    safetensors.torch.save_file(one_file(references), tmp_path / "sd.safetensors")
    check(LatentDiffusion.from_pretrained(tmp_path / "sd.safetensors", preset=SMALL_SD), references)


def test_a_published_model_can_be_saved_as_ours(tmp_path: Path, folder: Path, references: dict[str, Any]) -> None:
    LatentDiffusion.from_pretrained(folder, preset=SMALL_SD).save(tmp_path / "ours", dtype=torch.float32)
    check(LatentDiffusion.from_pretrained(tmp_path / "ours"), references)


def test_another_model_is_refused(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"the unet in the folder .* is not that of sd15: .* missing"):
        LatentDiffusion.from_pretrained(folder)
    wider = dataclasses.replace(SMALL_SD, unet=dataclasses.replace(UNET, channels=16))
    with pytest.raises(CheckpointError, match=r"has shape .* another preset"):
        LatentDiffusion.from_pretrained(folder, preset=wider)


def test_files_that_do_not_belong_are_refused(tmp_path: Path, references: dict[str, Any]) -> None:
    path = tmp_path / "sd.safetensors"
    safetensors.torch.save_file(one_file(references) | {"conditioner.embedders.0.x": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match=r"no Stable Diffusion 1\.x .* it holds conditioner"):
        LatentDiffusion.from_pretrained(path, preset=SMALL_SD)


def test_pickles_and_gaps_are_refused(folder: Path) -> None:
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"holds no \.safetensors file"):
        LatentDiffusion.from_pretrained(folder, preset=SMALL_SD)
    torch.save({}, weights.with_suffix(".bin"))
    with pytest.raises(CheckpointError, match="is a pickle"):
        LatentDiffusion.from_pretrained(folder, preset=SMALL_SD)
