"""Key maps against the reference libraries' own classes, without weights: names and shapes on the meta device."""

import dataclasses
from typing import Any

import pytest
import torch
from parity.reference import reference_autoencoder, reference_clip, reference_text, reference_unet, reference_vision
from torch import Tensor, nn

from ldm_edu.config import AutoencoderConfig, CLIPConfig, TextConfig, UNetConfig, VisionConfig
from ldm_edu.families import SD15
from ldm_edu.layouts.autoencoder import autoencoder_pairs
from ldm_edu.layouts.clip import clip_pairs, text_pairs, vision_pairs
from ldm_edu.layouts.pair import Pair, convert, convert_back
from ldm_edu.layouts.unet import unet_pairs
from ldm_edu.models.autoencoder import AutoencoderKL
from ldm_edu.models.clip import CLIP, TextEncoder, VisionEncoder
from ldm_edu.models.unet import UNet
from ldm_edu.weights.errors import CheckpointError

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity

Shapes = dict[str, tuple[int, ...]]
TEXT, VISION = TextConfig(), VisionConfig()

# Some tensors of Stable Diffusion 1.x as the original code names them: no library here builds that layout.
COMPVIS_UNET = {
    "time_embed.0.weight": (1280, 320),
    "time_embed.2.bias": (1280,),
    "input_blocks.0.0.weight": (320, 4, 3, 3),
    "input_blocks.1.0.in_layers.0.weight": (320,),
    "input_blocks.1.0.in_layers.2.weight": (320, 320, 3, 3),
    "input_blocks.1.0.emb_layers.1.weight": (320, 1280),
    "input_blocks.1.0.out_layers.0.bias": (320,),
    "input_blocks.1.0.out_layers.3.weight": (320, 320, 3, 3),
    "input_blocks.1.1.norm.weight": (320,),
    "input_blocks.1.1.proj_in.weight": (320, 320, 1, 1),
    "input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight": (320, 768),
    "input_blocks.3.0.op.weight": (320, 320, 3, 3),
    "input_blocks.4.0.skip_connection.weight": (640, 320, 1, 1),
    "input_blocks.5.1.transformer_blocks.0.ff.net.0.proj.weight": (5120, 640),
    "input_blocks.6.0.op.bias": (640,),
    "input_blocks.7.0.skip_connection.weight": (1280, 640, 1, 1),
    "input_blocks.8.1.transformer_blocks.0.attn1.to_out.0.weight": (1280, 1280),
    "input_blocks.9.0.op.weight": (1280, 1280, 3, 3),
    "input_blocks.10.0.in_layers.2.weight": (1280, 1280, 3, 3),
    "input_blocks.11.0.out_layers.3.bias": (1280,),
    "middle_block.0.in_layers.0.weight": (1280,),
    "middle_block.1.transformer_blocks.0.norm2.weight": (1280,),
    "middle_block.2.out_layers.3.weight": (1280, 1280, 3, 3),
    "output_blocks.0.0.in_layers.2.weight": (1280, 2560, 3, 3),
    "output_blocks.2.1.conv.weight": (1280, 1280, 3, 3),
    "output_blocks.3.1.proj_out.weight": (1280, 1280, 1, 1),
    "output_blocks.5.0.in_layers.2.weight": (1280, 1920, 3, 3),
    "output_blocks.5.2.conv.weight": (1280, 1280, 3, 3),
    "output_blocks.6.0.skip_connection.weight": (640, 1920, 1, 1),
    "output_blocks.8.2.conv.bias": (640,),
    "output_blocks.9.0.in_layers.2.weight": (320, 960, 3, 3),
    "output_blocks.11.1.transformer_blocks.0.ff.net.2.weight": (320, 1280),
    "out.0.weight": (320,),
    "out.2.weight": (4, 320, 3, 3),
}
COMPVIS_AUTOENCODER = {
    "encoder.conv_in.weight": (128, 3, 3, 3),
    "encoder.down.0.block.0.norm1.weight": (128,),
    "encoder.down.0.downsample.conv.weight": (128, 128, 3, 3),
    "encoder.down.1.block.0.nin_shortcut.weight": (256, 128, 1, 1),
    "encoder.down.2.block.0.nin_shortcut.weight": (512, 256, 1, 1),
    "encoder.down.3.block.1.conv2.weight": (512, 512, 3, 3),
    "encoder.mid.block_1.conv1.weight": (512, 512, 3, 3),
    "encoder.mid.attn_1.norm.weight": (512,),
    "encoder.mid.attn_1.q.weight": (512, 512, 1, 1),
    "encoder.mid.attn_1.proj_out.bias": (512,),
    "encoder.norm_out.weight": (512,),
    "encoder.conv_out.weight": (8, 512, 3, 3),
    "decoder.conv_in.weight": (512, 4, 3, 3),
    "decoder.up.0.block.0.nin_shortcut.weight": (128, 256, 1, 1),
    "decoder.up.0.block.2.conv2.weight": (128, 128, 3, 3),
    "decoder.up.1.block.0.nin_shortcut.weight": (256, 512, 1, 1),
    "decoder.up.1.upsample.conv.weight": (256, 256, 3, 3),
    "decoder.up.3.block.0.norm1.weight": (512,),
    "decoder.up.3.upsample.conv.weight": (512, 512, 3, 3),
    "decoder.mid.attn_1.k.weight": (512, 512, 1, 1),
    "decoder.norm_out.bias": (128,),
    "decoder.conv_out.weight": (3, 128, 3, 3),
    "quant_conv.weight": (8, 8, 1, 1),
    "post_quant_conv.weight": (4, 4, 1, 1),
}


def shapes(module: nn.Module) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def on_meta(build: Any, *args: Any, **kwargs: Any) -> Shapes:
    with torch.device("meta"):
        return shapes(build(*args, **kwargs))


def translated(theirs: Shapes, pairs: list[Pair]) -> Shapes:
    empty = {name: torch.empty(shape, device="meta") for name, shape in theirs.items()}
    return {name: tuple(tensor.shape) for name, tensor in convert(empty, pairs).items()}


def check(theirs: Shapes, ours: Shapes, pairs: list[Pair]) -> None:
    """Every one of their tensors is one of ours, of the same shape, and the other way round."""
    assert len({pair.theirs for pair in pairs}) == len({pair.ours for pair in pairs}) == len(pairs)
    assert translated(theirs, pairs) == ours
    back = convert_back({n: torch.empty(s, device="meta") for n, s in ours.items()}, pairs)
    assert {name: tuple(tensor.shape) for name, tensor in back.items()} == theirs


INPAINTING = dataclasses.replace(SD15.unet, in_channels=9, beside="mask")
SD21 = UNetConfig(context_dim=1024, heads=None, head_dim=64, linear_proj=True)
SDXL = UNetConfig(
    mults=(1, 2, 4), depth=(0, 2, 10), mid_depth=10, context_dim=2048, heads=None, head_dim=64, linear_proj=True,
    vector_dim=2816,
)  # fmt: skip


@pytest.mark.parametrize(
    "config, parameters",
    [
        pytest.param(SD15.unet, 859_520_964, id="sd15"),
        pytest.param(INPAINTING, 859_535_364, id="inpainting", marks=pytest.mark.slow),
        pytest.param(SD21, 865_910_724, id="sd21", marks=pytest.mark.slow),
        pytest.param(SDXL, 2_567_463_684, id="sdxl", marks=pytest.mark.slow),
    ],
)
def test_full_size_unets(config: UNetConfig, parameters: int) -> None:
    theirs = on_meta(diffusers.UNet2DConditionModel, **reference_unet(config))
    ours = on_meta(UNet, config)
    assert sum(torch.Size(shape).numel() for shape in ours.values()) == parameters
    check(theirs, ours, unet_pairs(config))


def test_full_size_unet_in_one_file() -> None:
    ours = on_meta(UNet, SD15.unet)
    pairs = unet_pairs(SD15.unet, "original")
    theirs = {pair.theirs: ours[pair.ours] for pair in pairs}
    assert len(theirs) == 686
    check(theirs, ours, pairs)
    assert {name: theirs.get(name) for name in COMPVIS_UNET} == COMPVIS_UNET


def test_full_size_autoencoder() -> None:
    assert SD15.autoencoder
    theirs = on_meta(diffusers.AutoencoderKL, **reference_autoencoder(SD15.autoencoder))
    ours = on_meta(AutoencoderKL, SD15.autoencoder)
    assert len(theirs) == 248
    check(theirs, ours, autoencoder_pairs(SD15.autoencoder))
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for new, old in older.items():
        theirs = {name.replace(f"attentions.0.{new}.", f"attentions.0.{old}."): s for name, s in theirs.items()}
    pairs = [dataclasses.replace(pair, conv=False) for pair in autoencoder_pairs(SD15.autoencoder, names=theirs)]
    check(theirs, ours, pairs)


def test_full_size_autoencoder_in_one_file() -> None:
    assert SD15.autoencoder
    ours = on_meta(AutoencoderKL, SD15.autoencoder)
    pairs = autoencoder_pairs(SD15.autoencoder, "original")
    theirs = {p.theirs: (*ours[p.ours], 1, 1) if p.conv else ours[p.ours] for p in pairs}
    assert len(theirs) == 248
    check(theirs, ours, pairs)
    assert {name: theirs.get(name) for name in COMPVIS_AUTOENCODER} == COMPVIS_AUTOENCODER


def test_full_size_clip() -> None:
    text = on_meta(transformers.CLIPTextModel, reference_text(TEXT))
    check(text, on_meta(TextEncoder, TEXT), text_pairs(TEXT, names=text))
    check(
        {f"text_model.{name}": shape for name, shape in text.items()},  # as in published files
        on_meta(TextEncoder, TEXT),
        text_pairs(TEXT),
    )
    vision = on_meta(transformers.CLIPVisionModel, reference_vision(VISION))
    check(vision, on_meta(VisionEncoder, VISION), vision_pairs(VISION, names=vision))
    both = reference_clip(TEXT, VISION, 768)
    check(
        on_meta(transformers.CLIPModel, both),
        on_meta(CLIP, TEXT, VISION, 768),
        clip_pairs(CLIPConfig(TEXT, VISION, 768)),
    )


def numbered(names: list[str], shapes: Shapes) -> dict[str, Tensor]:
    """Tensors that can be told apart."""
    return {name: torch.full(shapes[name], float(i)) for i, name in enumerate(names)}


SMALL_SD = UNetConfig(channels=8, mults=(1, 2, 4, 4), depth=(1, 1, 1, 0), context_dim=8, heads=2, groups=4)


def test_one_file_as_the_reference_library_reads_it() -> None:
    """Both of our layouts, by way of the reference library's own conversion from one to the other."""
    single_file = pytest.importorskip("diffusers.loaders.single_file_utils")
    ours = on_meta(UNet, SMALL_SD)
    weights = numbered(list(ours), ours)
    file = convert_back(weights, unet_pairs(SMALL_SD, "original"))
    file = {f"model.diffusion_model.{name}": tensor for name, tensor in file.items()}
    theirs = single_file.convert_ldm_unet_checkpoint(file, reference_unet(SMALL_SD))
    wanted = convert_back(weights, unet_pairs(SMALL_SD))
    assert theirs.keys() == wanted.keys()
    assert all(torch.equal(theirs[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("mults", [(1, 2, 4, 4), (1, 2)])
def test_an_autoencoder_in_one_file_as_the_reference_library_reads_it(mults: tuple[int, ...]) -> None:
    single_file = pytest.importorskip("diffusers.loaders.single_file_utils")
    config = AutoencoderConfig(channels=8, mults=mults, groups=4)
    ours = on_meta(AutoencoderKL, config)
    weights = numbered(list(ours), ours)
    file = convert_back(weights, autoencoder_pairs(config, "original"))
    file = {f"first_stage_model.{name}": tensor for name, tensor in file.items()}
    theirs = single_file.convert_ldm_vae_checkpoint(file, reference_autoencoder(config))
    wanted = convert_back(weights, autoencoder_pairs(config))
    assert theirs.keys() == wanted.keys()
    assert all(torch.equal(theirs[name], wanted[name]) for name in wanted)


SMALL = UNetConfig(channels=8, mults=(1, 2), blocks=1, depth=(0, 1), context_dim=8, heads=2, groups=4)


@pytest.mark.parametrize("layout", ["diffusers", "original"])
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"mults": (1, 3, 2), "depth": (1, 0, 2), "blocks": 3},
        {"mults": (1, 1), "context_dim": None, "mid_depth": 0, "depth": (1, 0)},
        {"vector_dim": 12, "heads": None, "head_dim": 4, "linear_proj": True, "mid_depth": 3},
    ],
    ids=str,
)
def test_odd_unets_have_a_bijection(change: dict[str, Any], layout: Any) -> None:
    config = dataclasses.replace(SMALL, **change)
    pairs, ours = unet_pairs(config, layout), on_meta(UNet, config)
    assert sorted(pair.ours for pair in pairs) == sorted(ours)
    assert len({pair.theirs for pair in pairs}) == len(pairs)


@pytest.mark.parametrize("layout", ["diffusers", "diffusers_old", "original"])
@pytest.mark.parametrize("mults, blocks", [((1,), 1), ((1, 2), 1), ((2, 1, 1, 3), 3)])
def test_odd_autoencoders_have_a_bijection(mults: tuple[int, ...], blocks: int, layout: Any) -> None:
    config = AutoencoderConfig(channels=8, mults=mults, blocks=blocks, groups=4)
    pairs, ours = autoencoder_pairs(config, layout), on_meta(AutoencoderKL, config)
    assert sorted(pair.ours for pair in pairs) == sorted(ours)
    assert len({pair.theirs for pair in pairs}) == len(pairs)


# --- conversion is strict ---------------------------------------------------------------------------------------------

PAIRS = [Pair("their.a", "our.a"), Pair("their.b", "our.b", conv=True)]


def tensors() -> dict[str, Tensor]:
    return {"their.a": torch.randn(3), "their.b": torch.randn(4, 3, 1, 1)}


def test_conversion_there_and_back_changes_nothing() -> None:
    theirs = tensors()
    ours = convert(theirs, PAIRS)
    assert ours["our.b"].shape == (4, 3)
    back = convert_back(ours, PAIRS)
    assert back.keys() == theirs.keys() and all(torch.equal(back[name], theirs[name]) for name in theirs)


def test_missing_and_unknown_tensors_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"1 of 2 tensors missing: their\.b"):
        convert({"their.a": torch.zeros(3)}, PAIRS)
    with pytest.raises(CheckpointError, match=r"1 of 2 tensors unknown: their\.c"):
        convert(tensors() | {"their.c": torch.zeros(1)}, PAIRS)
    with pytest.raises(CheckpointError, match=r"tensors missing: our\.a, our\.b"):
        convert_back(tensors(), PAIRS)


@pytest.mark.parametrize("shape", [(4,), (4, 3, 3, 3)])
def test_what_is_no_1x1_convolution_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(CheckpointError, match=r"their\.b has shape .* 1x1 convolution"):
        convert(tensors() | {"their.b": torch.zeros(shape)}, PAIRS)
