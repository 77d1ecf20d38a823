"""Stable Diffusion as published, at toy size: written by the reference libraries, read by ours, same outputs."""

import dataclasses
import json
from pathlib import Path
from typing import Any

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
from ldm_edu.weights.errors import CheckpointError

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity


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


def test_pickles_and_gaps_are_refused(folder: Path) -> None:
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"holds no diffusion_pytorch_model\.safetensors"):
        LatentDiffusion.from_pretrained(folder, preset=SMALL_SD)
    torch.save({}, weights.with_suffix(".bin"))
    with pytest.raises(CheckpointError, match="holds no weights"):
        LatentDiffusion.from_pretrained(folder, preset=SMALL_SD)
