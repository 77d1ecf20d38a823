"""Stable Diffusion as published, at toy size: written by the reference libraries, read by ours, same outputs."""

import argparse
import dataclasses
import json
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
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

from ldm_edu.checkpoint.diffusers_folder import read_preset
from ldm_edu.checkpoint.open import open_checkpoint
from ldm_edu.checkpoint.single_file import averaged_name
from ldm_edu.condition import Conditioning
from ldm_edu.families import PRESETS, SD15
from ldm_edu.families.sd1 import FAMILY
from ldm_edu.layouts.autoencoder import autoencoder_pairs, read_autoencoder
from ldm_edu.layouts.clip import read_text, text_pairs
from ldm_edu.layouts.pair import convert, convert_back
from ldm_edu.layouts.unet import read_unet, unet_pairs
from ldm_edu.model import LatentDiffusion
from ldm_edu.models.unet import UNet
from ldm_edu.tokenizer import Tokenizer
from ldm_edu.weights.errors import CheckpointError

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.slow, pytest.mark.parity]


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
        ("model.diffusion_model.", unet_pairs(UNET), unet_pairs(UNET, "original"), "unet"),
        ("first_stage_model.", autoencoder_pairs(AUTOENCODER), autoencoder_pairs(AUTOENCODER, "original"), "vae"),
        (
            "cond_stage_model.transformer.",
            text_pairs(TEXT, names=state["text_encoder"]),
            text_pairs(TEXT, "original"),
            "text_encoder",
        ),
    ):
        theirs = convert_back(convert(state[name], pairs), compvis)
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
        assert difference(model.unet(x, t, Conditioning(context)), references["unet"](x, t, context).sample) <= 1e-5
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


PUBLISHED = {  # the fields that the configs of the first folders had; newer ones have more
    "unet/config.json": {
        "act_fn": "silu", "attention_head_dim": 8, "block_out_channels": [320, 640, 1280, 1280],
        "center_input_sample": False, "cross_attention_dim": 768, "downsample_padding": 1, "flip_sin_to_cos": True,
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"], "freq_shift": 0, "in_channels": 4,
        "layers_per_block": 2, "mid_block_scale_factor": 1, "norm_eps": 1e-05, "norm_num_groups": 32,
        "out_channels": 4, "sample_size": 64, "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    },
    "vae/config.json": {
        "act_fn": "silu", "block_out_channels": [128, 256, 512, 512], "in_channels": 3, "latent_channels": 4,
        "down_block_types": ["DownEncoderBlock2D"] * 4, "layers_per_block": 2, "norm_num_groups": 32,
        "out_channels": 3, "sample_size": 512, "up_block_types": ["UpDecoderBlock2D"] * 4,
    },
    "text_encoder/config.json": {
        "hidden_act": "quick_gelu", "hidden_size": 768, "intermediate_size": 3072, "layer_norm_eps": 1e-05,
        "max_position_embeddings": 77, "num_attention_heads": 12, "num_hidden_layers": 12, "vocab_size": 49408,
    },
    "scheduler/scheduler_config.json": {
        "_class_name": "PNDMScheduler", "beta_end": 0.012, "beta_schedule": "scaled_linear", "beta_start": 0.00085,
        "num_train_timesteps": 1000, "set_alpha_to_one": False, "skip_prk_steps": True, "steps_offset": 1,
        "trained_betas": None, "clip_sample": False,
    },
}  # fmt: skip


@pytest.mark.parametrize("channels, name", [(4, "sd15"), (9, "sd15_inpaint"), (8, "sd15_pix2pix")])
def test_the_published_configs_are_our_presets(tmp_path: Path, channels: int, name: str) -> None:
    for place, config in PUBLISHED.items():
        (tmp_path / place).parent.mkdir()
        (tmp_path / place).write_text(json.dumps(config | ({"in_channels": channels} if "unet" in place else {})))
    assert read_preset(tmp_path) == PRESETS[name]


def test_our_configs_are_those_of_the_reference_library() -> None:
    """What it makes of our configs has the published counts; what it writes of itself is our preset again."""
    configs = FAMILY.write_folder(SD15)  # type: ignore[misc]
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel.from_config(configs["unet/config.json"])
        vae = diffusers.AutoencoderKL.from_config(configs["vae/config.json"])
        text = transformers.CLIPTextModel(transformers.CLIPTextConfig(**configs["text_encoder/config.json"]))
    counts = [sum(p.numel() for p in module.parameters()) for module in (unet, vae, text)]
    assert counts == [859_520_964, 83_653_863, 123_060_480]
    assert read_unet(dict(unet.config), "") == SD15.unet
    assert read_autoencoder(dict(vae.config), "") == SD15.autoencoder
    assert read_text(text.config.to_dict(), "") == SD15.text


def test_a_folder_s_configs_say_which_model_it_is(folder: Path, references: dict[str, Any]) -> None:
    scheduler = {"prediction_type": "v_prediction", "beta_schedule": "scaled_linear", "beta_start": 0.00085}
    diffusers.DDIMScheduler(**scheduler, beta_end=0.012).save_pretrained(folder / "scheduler")
    model = LatentDiffusion.from_pretrained(folder)
    wanted = dataclasses.replace(SMALL_SD, name="sd", size=128, prediction="v")  # 64 latent pixels if none are named
    assert model.preset == wanted
    check(model, references)


@pytest.mark.parametrize(
    "part, change, words",
    [
        ("unet", {"attention_head_dim": [2, 3]}, "attention_head_dim"),
        ("unet", {"addition_embed_type": "text_time"}, "projection_class_embeddings_input_dim"),
        ("unet", {"time_cond_proj_dim": 256}, "time_cond_proj_dim"),
        ("unet", {"block_out_channels": "many"}, "describes no network"),
        ("unet", {"down_block_types": ["Fancy", "DownBlock2D"]}, "'Fancy'"),
        ("vae", {"use_quant_conv": False}, "use_quant_conv"),
        ("text_encoder", {"hidden_act": "relu"}, "hidden_act"),
        ("scheduler", {"_class_name": "FlowMatchEulerDiscreteScheduler"}, "FlowMatch"),
    ],
    ids=str,
)
def test_a_config_that_asks_for_more_is_refused(folder: Path, part: str, change: dict[str, Any], words: str) -> None:
    diffusers.DDIMScheduler().save_pretrained(folder / "scheduler")
    path = folder / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError, match=words):
        LatentDiffusion.from_pretrained(folder)


def test_a_folder_in_pieces(tmp_path: Path, references: dict[str, Any]) -> None:
    for name, module in references.items():
        module.save_pretrained(tmp_path / name, max_shard_size="30KB")
    assert len(list((tmp_path / "unet").glob("*.safetensors"))) > 2
    check(LatentDiffusion.from_pretrained(tmp_path, preset=SMALL_SD), references)
    listing = next((tmp_path / "unet").glob("*.index.json"))
    next((tmp_path / "unet").glob("*-00002-of-*")).unlink()
    with pytest.raises(CheckpointError, match=r"lacks diffusion_pytorch_model-00002-of.*that .*index\.json lists"):
        LatentDiffusion.from_pretrained(tmp_path, preset=SMALL_SD)
    listing.write_text('{"weight_map": {"conv_in.weight": "../../elsewhere.safetensors"}}')
    with pytest.raises(CheckpointError, match="lists no files of its own folder"):
        LatentDiffusion.from_pretrained(tmp_path, preset=SMALL_SD)


def test_a_folder_in_half_precision_alone(folder: Path, references: dict[str, Any]) -> None:
    for name, module in references.items():
        (weights,) = (folder / name).glob("*.safetensors")
        half = {key: tensor.half() for key, tensor in module.state_dict().items()}
        safetensors.torch.save_file(half, weights.with_suffix(".fp16.safetensors"))
        weights.unlink()
    model = LatentDiffusion.from_pretrained(folder, preset=SMALL_SD)
    for ours, name in {"unet": "unet", "autoencoder": "vae", "text": "text_encoder"}.items():
        stored = [p.half().float().flatten() for p in references[name].parameters()]
        loaded = [p.flatten() for p in model.networks[ours].parameters()]
        assert torch.equal(torch.cat(stored).sort().values, torch.cat(loaded).sort().values)


def test_a_folder_with_the_last_weights_beside_the_averaged(folder: Path, references: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=r"one copy of the U-Net, so there is no 'last' to choose"):
        LatentDiffusion.from_pretrained(folder, preset=SMALL_SD, weights="last")
    last = {name: tensor + 1 for name, tensor in references["unet"].state_dict().items()}
    safetensors.torch.save_file(last, folder / "unet" / "diffusion_pytorch_model.non_ema.safetensors")
    bias = references["unet"].conv_out.bias
    for weights, added in {None: 0, "ema": 0, "last": 1}.items():
        model = LatentDiffusion.from_pretrained(folder, preset=SMALL_SD, weights=weights)  # type: ignore[arg-type]
        assert torch.equal(model.unet.conv_out.bias, bias + added)


# --- one file ---------------------------------------------------------------------------------------------------------


def averaged(file: dict[str, Tensor]) -> dict[str, Tensor]:
    """The second copy of the U-Net that some files carry, told from the first by its values."""
    prefix = "model.diffusion_model."
    return {
        "model_ema.diffusion_model" + name.removeprefix(prefix).replace(".", ""): tensor + 1
        for name, tensor in file.items()
        if name.startswith(prefix)
    }


def test_a_file_with_two_copies_wants_one_to_be_named(tmp_path: Path, references: dict[str, Any]) -> None:
    file, path = one_file(references), tmp_path / "sd.safetensors"
    safetensors.torch.save_file(file | averaged(file), path)
    with pytest.raises(CheckpointError, match=r'holds the U-Net twice.*weights="ema".*weights="last"'):
        LatentDiffusion.from_pretrained(path, preset=SMALL_SD)
    last = LatentDiffusion.from_pretrained(path, preset=SMALL_SD, weights="last")
    check(last, references)
    ema = LatentDiffusion.from_pretrained(path, preset=SMALL_SD, weights="ema")
    for a, b in zip(ema.unet.parameters(), last.unet.parameters(), strict=True):
        assert torch.equal(a, b + 1)
    safetensors.torch.save_file(file, path)
    with pytest.raises(CheckpointError, match="one copy of the U-Net"):
        LatentDiffusion.from_pretrained(path, preset=SMALL_SD, weights="ema")


def test_names_without_dots_are_still_apart() -> None:
    names = [averaged_name(pair.theirs) for pair in unet_pairs(SD15.unet, "original")]
    assert len(set(names)) == len(names) == 686


def test_a_pickle_of_weights_alone_is_read(tmp_path: Path, references: dict[str, Any]) -> None:
    """As the first release was: a dictionary in a dictionary, and a layout of memory that is not the usual one."""
    file = one_file(references)
    name = "model.diffusion_model.input_blocks.0.0.weight"
    file[name] = file[name].to(memory_format=torch.channels_last)
    base = torch.cat([torch.zeros(3), file["first_stage_model.quant_conv.bias"]])
    file["first_stage_model.quant_conv.bias"] = base[3:]  # a part of a larger piece of memory
    torch.save({"state_dict": file, "global_step": 470000}, tmp_path / "sd.ckpt")
    check(LatentDiffusion.from_pretrained(tmp_path / "sd.ckpt", preset=SMALL_SD), references)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_kept_exactly(tmp_path: Path, references: dict[str, Any], dtype: torch.dtype) -> None:
    half = {name: t.to(dtype) if t.is_floating_point() else t for name, t in one_file(references).items()}
    safetensors.torch.save_file(half, tmp_path / "sd.safetensors")
    for wanted in (dtype, torch.float32):
        model = LatentDiffusion.from_pretrained(tmp_path / "sd.safetensors", preset=SMALL_SD, dtype=wanted)
        weight = model.unet.up[1].stages[0].res.conv1.weight
        assert weight.dtype == wanted
        assert torch.equal(weight, half["model.diffusion_model.output_blocks.2.0.in_layers.2.weight"].to(wanted))


def test_a_community_file(tmp_path: Path, references: dict[str, Any]) -> None:
    """Names of the text encoder without `text_model.`, what merging tools leave in, the loss of the autoencoder."""
    file = {
        name.replace("transformer.text_model.", "transformer."): tensor for name, tensor in one_file(references).items()
    }
    file |= {name: torch.zeros(3) for name in ("first_stage_model.loss.logvar", "cond_stage_model.logit_scale")}
    safetensors.torch.save_file(file, tmp_path / "sd.safetensors")
    check(LatentDiffusion.from_pretrained(tmp_path / "sd.safetensors", preset=SMALL_SD), references)


@pytest.mark.parametrize("channels, name", [(4, "sd15"), (9, "sd15_inpaint"), (8, "sd15_pix2pix")])
def test_variants_are_told_by_the_first_layer(tmp_path: Path, channels: int, name: str) -> None:
    with torch.device("meta"):
        state = UNet(PRESETS[name].unet).state_dict()
    names = [pair.theirs for pair in unet_pairs(PRESETS[name].unet, "original")]
    file = dict.fromkeys((f"model.diffusion_model.{n}" for n in names), torch.zeros(1))
    file["model.diffusion_model.input_blocks.0.0.weight"] = torch.zeros(320, channels, 3, 3)
    file = {n: t if "attn2.to_k" not in n else torch.zeros(1, 768) for n, t in file.items()}
    path = tmp_path / "sd.safetensors"
    safetensors.torch.save_file({n: t.clone() for n, t in file.items()}, path)
    found = open_checkpoint(path)
    assert found.preset == PRESETS[name] and not found.parts["unet"].missing and not found.parts["unet"].unexpected
    assert (
        sum(tensor.numel() for tensor in state.values()) == {4: 859_520_964, 9: 859_535_364, 8: 859_532_484}[channels]
    )


def test_other_numbers_of_channels_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "sd.safetensors"
    safetensors.torch.save_file({"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(320, 5, 3, 3)}, path)
    with pytest.raises(CheckpointError, match=r"a U-Net that reads 5 channels, which no model"):
        open_checkpoint(path)


def test_another_model_is_refused(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"the unet in the folder .*, taken for sd15: .* missing"):
        LatentDiffusion.from_pretrained(folder, preset=SD15)
    wider = dataclasses.replace(SMALL_SD, unet=dataclasses.replace(UNET, channels=16))
    with pytest.raises(CheckpointError, match=r"has shape .* another preset"):
        LatentDiffusion.from_pretrained(folder, preset=wider)


def test_tensors_outside_every_network_are_listed_and_not_needed(tmp_path: Path, references: dict[str, Any]) -> None:
    path = tmp_path / "sd.safetensors"
    safetensors.torch.save_file(one_file(references) | {"a.stray": torch.zeros(1)}, path)
    assert open_checkpoint(path, preset=SMALL_SD).unknown == ["a.stray"]
    check(LatentDiffusion.from_pretrained(path, preset=SMALL_SD), references)


def test_a_stray_tensor_inside_a_network_is_refused(tmp_path: Path, references: dict[str, Any]) -> None:
    path = tmp_path / "sd.safetensors"
    safetensors.torch.save_file(one_file(references) | {"first_stage_model.stray": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match=r"the autoencoder in the file .* not of this model: stray"):
        LatentDiffusion.from_pretrained(path, preset=SMALL_SD)


# --- what else is found in the field ----------------------------------------------------------------------------------


def test_a_pickle_with_harmless_things_beside_the_weights(tmp_path: Path, references: dict[str, Any]) -> None:
    """A callback's class as a key, arguments, a number of NumPy's: none is looked up, and none is needed."""
    callback = type("ModelCheckpoint", (), {"__module__": "lightning_of_tests.callbacks"})
    modules = {name: types.ModuleType(name) for name in ("lightning_of_tests", "lightning_of_tests.callbacks")}
    modules["lightning_of_tests.callbacks"].ModelCheckpoint = callback  # type: ignore[attr-defined]
    content = {
        "callbacks": {callback: {"best": np.float64(0.5)}, "one": callback()},
        "hyper_parameters": argparse.Namespace(lr=1e-4, place=Path("runs")),
        "state_dict": one_file(references),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, module in modules.items():
            patch.setitem(sys.modules, name, module)
        torch.save(content, tmp_path / "sd.ckpt")
    check(LatentDiffusion.from_pretrained(tmp_path / "sd.ckpt", preset=SMALL_SD), references)
    assert "lightning_of_tests" not in sys.modules


@pytest.mark.parametrize("levels", [("state_dict", "state_dict"), ("model",), ("module",), ("model", "ema")])
def test_weights_some_levels_down(tmp_path: Path, references: dict[str, Any], levels: tuple[str, ...]) -> None:
    content: dict[str, Any] = one_file(references)
    if levels == ("module",):  # as data-parallel training calls them
        content = {f"module.{name}": tensor for name, tensor in content.items()}
    for level in reversed(levels):
        content = {level: content, "step": 3}
    torch.save(content, tmp_path / "sd.pt")
    check(LatentDiffusion.from_pretrained(tmp_path / "sd.pt", preset=SMALL_SD), references)


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
@pytest.mark.parametrize("variant", ["", "non_ema.", "mine."])
def test_shards_and_variants(tmp_path: Path, references: dict[str, Any], suffix: str, variant: str) -> None:
    """Two files and their index, in every form that diffusers has written."""
    for name, module in references.items():
        module.save_pretrained(tmp_path / name)
    stem, weights = "diffusion_pytorch_model", references["unet"].state_dict()
    (tmp_path / "unet" / f"{stem}.safetensors").unlink()
    names, where = list(weights), {}
    for i in (1, 2):
        part = {name: weights[name].contiguous() for name in names[i - 1 :: 2]}
        place = tmp_path / "unet" / f"{stem}-0000{i}-of-00002.{variant}{suffix}"
        (torch.save if suffix == "bin" else safetensors.torch.save_file)(part, place)  # type: ignore[operator]
        where |= dict.fromkeys(part, place.name)
    index = tmp_path / "unet" / f"{stem}.{suffix}.index.{variant}json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    check(LatentDiffusion.from_pretrained(tmp_path, preset=SMALL_SD), references)
    index.write_text(json.dumps({"weight_map": [["a"], 3]}))
    with pytest.raises(CheckpointError, match="lists no files of its own folder"):
        LatentDiffusion.from_pretrained(tmp_path, preset=SMALL_SD)


def test_parts_by_themselves(tmp_path: Path, folder: Path, references: dict[str, Any]) -> None:
    """The autoencoder and the text encoder from other files, with and without the names that a whole model gives."""
    file = one_file(references)
    vae = {name.removeprefix("first_stage_model."): t for name, t in file.items() if name.startswith("first_stage")}
    text = {name.removeprefix("cond_stage_model.transformer."): t for name, t in file.items() if "cond_stage" in name}
    whole = tmp_path / "whole.safetensors"
    safetensors.torch.save_file(file, whole)
    safetensors.torch.save_file(vae | {"loss.logvar": torch.zeros(())}, tmp_path / "vae.safetensors")
    torch.save({"state_dict": vae}, tmp_path / "vae.ckpt")
    safetensors.torch.save_file(text | {"logit_scale": torch.zeros(())}, tmp_path / "text.safetensors")
    bare = tmp_path / "bare.safetensors"
    safetensors.torch.save_file({name: t for name, t in file.items() if name.startswith("model.")}, bare)

    with pytest.raises(CheckpointError, match=r"the autoencoder in the file .* is not there.*--vae FILE"):
        LatentDiffusion.from_pretrained(bare, preset=SMALL_SD)
    with pytest.raises(CheckpointError, match=r"the text in the file .* is not there.*--text FILE"):
        LatentDiffusion.from_pretrained(bare, preset=SMALL_SD, vae=whole)
    for a, b in (
        (tmp_path / "vae.safetensors", tmp_path / "text.safetensors"),
        (tmp_path / "vae.ckpt", folder / "text_encoder"),
        (folder / "vae", whole),
        (folder, folder / "text_encoder" / "model.safetensors"),
    ):
        check(LatentDiffusion.from_pretrained(bare, preset=SMALL_SD, vae=a, text=b), references)
    with pytest.raises(CheckpointError, match=r"holds no autoencoder .*; give a file or a folder"):
        LatentDiffusion.from_pretrained(bare, preset=SMALL_SD, vae=tmp_path / "text.safetensors", text=whole)
    stray = vae | {"decoder.stray": torch.zeros(1)}
    safetensors.torch.save_file(stray, tmp_path / "stray.safetensors")
    with pytest.raises(CheckpointError, match=r"the autoencoder in .*stray.safetensors.* not of this model: decoder"):
        LatentDiffusion.from_pretrained(bare, preset=SMALL_SD, vae=tmp_path / "stray.safetensors", text=whole)


@pytest.mark.parametrize(
    "yaml, header, mark, prediction",
    [
        (None, None, None, "eps"),
        ('model:\n  params:\n    parameterization: "v"\n', None, None, "v"),
        ("    parameterization: eps", None, None, "eps"),
        ("# parameterization: v", None, None, "eps"),
        (None, "v", None, "v"),
        (None, "epsilon", None, "eps"),
        (None, None, "v_pred", "v"),
    ],
)
def test_what_a_file_predicts(
    tmp_path: Path, yaml: str | None, header: str | None, mark: str | None, prediction: str
) -> None:
    path, prefix = tmp_path / "sd.safetensors", "model.diffusion_model."
    file = {f"{prefix}input_blocks.0.0.weight": torch.zeros(320, 4, 3, 3)}
    file |= {f"{prefix}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": torch.zeros(1, 768)}
    file |= {mark: torch.zeros(0)} if mark else {}
    safetensors.torch.save_file(file, path, {"modelspec.prediction_type": header} if header else None)
    if yaml:
        path.with_suffix(".yaml").write_text(yaml)
    found = open_checkpoint(path)
    assert found.preset.prediction == prediction and len(found.notes) == 1
    assert f"taken to predict {prediction}: " in found.notes[0] and "--prediction" in found.notes[0]
    said = open_checkpoint(path, prediction="x0")
    assert said.preset.prediction == "x0" and said.notes == []


def own_tokenizer(folder: Path) -> Path:
    """A tokenizer of ours in a folder of diffusers, cut to the vocabulary of the small text encoder."""
    (folder / "tokenizer").mkdir()
    for name, text in Tokenizer(TEXT.vocab, TEXT.length).files().items():
        (folder / "tokenizer" / name).write_text(text)
    return folder / "tokenizer"


def test_a_folder_s_own_tokenizer(folder: Path, references: dict[str, Any]) -> None:
    """Written by `transformers` 4 or 5, the one that we have is fine; any other is refused by name."""
    place = own_tokenizer(folder)
    check(LatentDiffusion.from_pretrained(folder, preset=SMALL_SD), references)
    files = {path.name: path.read_text() for path in place.iterdir()}
    theirs = transformers.CLIPTokenizer.from_pretrained(str(place))
    theirs.save_pretrained(place)
    check(LatentDiffusion.from_pretrained(folder, preset=SMALL_SD), references)
    theirs.add_tokens("<cat-toy>")
    theirs.save_pretrained(place)
    with pytest.raises(CheckpointError, match=r"tokens that were added to CLIP's .<cat-toy>"):
        LatentDiffusion.from_pretrained(folder, preset=SMALL_SD)

    words = json.loads(files["vocab.json"])
    words["a"], words["b"] = words["b"], words["a"]
    others = {
        "vocab.json": json.dumps(words),
        "merges.txt": "\n".join(files["merges.txt"].split("\n")[:-2]),
        "tokenizer_config.json": '{"tokenizer_class": "T5Tokenizer"}',
        "added_tokens.json": '{"<cat-toy>": 49408}',
        "spiece.model": "pieces",
    }
    for name, text in others.items():
        shutil.rmtree(place)
        for each, content in (files | {name: text}).items():
            place.mkdir(exist_ok=True)
            (place / each).write_text(content)
        with pytest.raises(CheckpointError, match="prompts would be read wrongly"):
            LatentDiffusion.from_pretrained(folder, preset=SMALL_SD)


def test_pickles_and_gaps_are_refused(folder: Path) -> None:
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"holds no diffusion_pytorch_model\.safetensors"):
        LatentDiffusion.from_pretrained(folder, preset=SMALL_SD)
    torch.save({}, weights.with_suffix(".bin"))
    with pytest.raises(CheckpointError, match="holds no weights"):
        LatentDiffusion.from_pretrained(folder, preset=SMALL_SD)
