"""Which of our tensors is which of theirs: the key layouts of published checkpoints.

Two layouts are in use for Stable Diffusion. ``diffusers``: a folder a network. ``compvis``: one file, as the first
release had it. Each is a list of pairs of names, made by walking through a config as the network itself is built. A
pair knows where a published 1x1 convolution is a linear map here; nothing else differs but names. Conversion wants a
bijection: a tensor without a partner, on either side, is an error.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, NamedTuple

from einops import rearrange
from torch import Tensor

from ldm_edu.weights.errors import CheckpointError
from ldm_edu.checkpoint.io import Tensors
from ldm_edu.config import AutoencoderConfig, TextConfig, UNetConfig, VisionConfig

Layout = Literal["diffusers", "diffusers_old", "compvis"]


class Pair(NamedTuple):
    """One tensor, by both of its names."""

    theirs: str
    ours: str
    conv: bool = False  # theirs is a 1x1 convolution (out, in, 1, 1), ours a linear map (out, in)


def convert(tensors: Mapping[str, Tensor], pairs: Iterable[Pair], *, reverse: bool = False) -> Tensors:
    """Their tensors under our names, or with ``reverse`` ours under theirs.

    Raises
    ------
    CheckpointError
        if a tensor is missing or left over, or is no 1x1 convolution where one is expected.
    """
    known = {pair.ours if reverse else pair.theirs: pair for pair in pairs}
    problems = {"missing": sorted(known.keys() - tensors.keys()), "unknown": sorted(tensors.keys() - known.keys())}
    for problem, names in problems.items():
        if names:
            raise CheckpointError(
                f"{len(names)} of {len(known)} tensors {problem}: {', '.join(names[:3])}{' ...' * (len(names) > 3)}. "
                "This is the checkpoint of another model or layout; choose the preset it was made for."
            )
    converted: Tensors = {}
    for name, pair in known.items():
        tensor, wanted = tensors[name], 2 if reverse else 4
        if pair.conv and (tensor.ndim != wanted or (not reverse and tensor.shape[2:] != (1, 1))):
            raise CheckpointError(
                f"{name} has shape {tuple(tensor.shape)}, where a {'linear map' if reverse else '1x1 convolution'} is "
                "expected; choose the other layout of this model."
            )
        converted[pair.theirs if reverse else pair.ours] = (to_theirs if reverse else to_ours)(tensor, pair)
    return converted


def to_ours(tensor: Tensor, pair: Pair) -> Tensor:
    """Their tensor in the shape of ours."""
    return rearrange(tensor, "o i 1 1 -> o i") if pair.conv else tensor


def to_theirs(tensor: Tensor, pair: Pair) -> Tensor:
    """Our tensor in the shape of theirs."""
    return rearrange(tensor, "o i -> o i 1 1") if pair.conv else tensor


# --- the U-Net --------------------------------------------------------------------------------------------------------

_RES = {  # ours: diffusers', CompVis's
    "norm1": ("norm1", "in_layers.0"),
    "conv1": ("conv1", "in_layers.2"),
    "time_proj": ("time_emb_proj", "emb_layers.1"),
    "norm2": ("norm2", "out_layers.0"),
    "conv2": ("conv2", "out_layers.3"),
    "skip": ("conv_shortcut", "skip_connection"),
}
_TRANSFORMER_LAYER = {  # ours: both layouts'
    "norm1": "norm1",
    "norm3": "norm3",
    "self_attention.to_out": "attn1.to_out.0",
    "feed_forward.proj": "ff.net.0.proj",
    "feed_forward.out": "ff.net.2",
}


def unet_pairs(config: UNetConfig, layout: Layout = "diffusers") -> list[Pair]:
    """The pairs of a U-Net's tensors."""
    return list(_unet(config, compvis=layout == "compvis"))


def _unet(config: UNetConfig, *, compvis: bool) -> Iterator[Pair]:
    levels, a_level = len(config.mults), config.blocks + 1  # CompVis counts all blocks of a side in one row
    ends = [("conv_in", "input_blocks.0.0"), ("conv_norm_out", "out.0"), ("conv_out", "out.2")]
    for (diffusers, other), ours in zip(ends, ("conv_in", "norm_out", "conv_out"), strict=True):
        yield from _both(other if compvis else diffusers, ours)
    for i in (1, 2):
        yield from _both(f"time_embed.{2 * i - 2}" if compvis else f"time_embedding.linear_{i}", f"time_mlp.linear{i}")
        if config.vector_dim:
            theirs = f"label_emb.0.{2 * i - 2}" if compvis else f"add_embedding.linear_{i}"
            yield from _both(theirs, f"vector_mlp.linear{i}")

    for i, depth in enumerate(config.depth):
        for j in range(config.blocks):
            place, ours = f"input_blocks.{1 + i * a_level + j}", f"down.{i}.stages.{j}"
            res = f"{place}.0" if compvis else f"down_blocks.{i}.resnets.{j}"
            widens = j == 0 and config.mults[i] != (config.mults[i - 1] if i else 1)
            yield from _res(res, f"{ours}.res", compvis=compvis, skip=widens, time=True)
            attention = f"{place}.1" if compvis else f"down_blocks.{i}.attentions.{j}"
            yield from _transformer(attention, f"{ours}.transformer", depth, config)
        if i < levels - 1:
            theirs = f"input_blocks.{(i + 1) * a_level}.0.op" if compvis else f"down_blocks.{i}.downsamplers.0.conv"
            yield from _both(theirs, f"down.{i}.resample.conv")

    for j in (0, 1):
        res = f"middle_block.{2 * j}" if compvis else f"mid_block.resnets.{j}"
        yield from _res(res, f"mid.{j}.res", compvis=compvis, skip=False, time=True)
    attention = "middle_block.1" if compvis else "mid_block.attentions.0"
    yield from _transformer(attention, "mid.0.transformer", config.mid_depth, config)

    for i, depth in enumerate(reversed(config.depth)):  # from the lowest level up
        for j in range(a_level):
            place, ours = f"output_blocks.{i * a_level + j}", f"up.{i}.stages.{j}"
            res = f"{place}.0" if compvis else f"up_blocks.{i}.resnets.{j}"
            yield from _res(res, f"{ours}.res", compvis=compvis, skip=True, time=True)
            attention = f"{place}.1" if compvis else f"up_blocks.{i}.attentions.{j}"
            yield from _transformer(attention, f"{ours}.transformer", depth, config)
        if i < levels - 1:
            place = f"output_blocks.{i * a_level + config.blocks}.{2 if depth else 1}.conv"
            yield from _both(place if compvis else f"up_blocks.{i}.upsamplers.0.conv", f"up.{i}.resample.conv")


def _transformer(theirs: str, ours: str, depth: int, config: UNetConfig) -> Iterator[Pair]:
    if depth == 0:
        return
    for name in ("norm", "proj_in", "proj_out"):
        yield from _both(f"{theirs}.{name}", f"{ours}.{name}")
    for k in range(depth):
        layer, our_layer = f"{theirs}.transformer_blocks.{k}", f"{ours}.layers.{k}"
        names = dict(_TRANSFORMER_LAYER)
        attentions = {"self_attention": "attn1"}
        if config.context_dim:
            names |= {"norm2": "norm2", "cross_attention.to_out": "attn2.to_out.0"}
            attentions |= {"cross_attention": "attn2"}
        for name, their_name in names.items():
            yield from _both(f"{layer}.{their_name}", f"{our_layer}.{name}")
        for name, their_name in attentions.items():
            for part in ("to_q", "to_k", "to_v"):
                yield Pair(f"{layer}.{their_name}.{part}.weight", f"{our_layer}.{name}.{part}.weight")


# --- the autoencoder --------------------------------------------------------------------------------------------------

_ATTENTION = {  # by layout: norm, to_q, to_k, to_v, to_out
    "diffusers": ("group_norm", "to_q", "to_k", "to_v", "to_out.0"),
    "diffusers_old": ("group_norm", "query", "key", "value", "proj_attn"),
    "compvis": ("norm", "q", "k", "v", "proj_out"),
}


def autoencoder_pairs(config: AutoencoderConfig, layout: Layout = "diffusers") -> list[Pair]:
    """The pairs of an autoencoder's tensors. ``diffusers_old`` are files with ``query`` and ``proj_attn``."""
    return list(_autoencoder(config, layout))


def _autoencoder(config: AutoencoderConfig, layout: Layout) -> Iterator[Pair]:
    compvis, mults, blocks = layout == "compvis", config.mults, config.blocks
    top = len(mults) - 1
    yield from _both("quant_conv", "quant")
    yield from _both("post_quant_conv", "post_quant")
    for side in ("encoder", "decoder"):
        for name, theirs in {"conv_in": "conv_in", "conv_out": "conv_out", "norm_out": "conv_norm_out"}.items():
            yield from _both(f"{side}.{name if compvis else theirs}", f"{side}.{name}")
        yield from _middle(side, layout)

    for i, mult in enumerate(mults):
        level = f"encoder.down.{i}" if compvis else f"encoder.down_blocks.{i}"
        for j in range(blocks):
            theirs = f"{level}.block.{j}" if compvis else f"{level}.resnets.{j}"
            widens = j == 0 and mult != (mults[i - 1] if i else 1)
            yield from _res(theirs, f"encoder.down.{i * (blocks + 1) + j}", compvis=False, skip=widens, nin=compvis)
        if i < top:
            theirs = f"{level}.downsample.conv" if compvis else f"{level}.downsamplers.0.conv"
            yield from _both(theirs, f"encoder.down.{i * (blocks + 1) + blocks}.conv")

    for i, mult in enumerate(reversed(mults)):  # from the lowest level up; CompVis numbers them from the top
        level = f"decoder.up.{top - i}" if compvis else f"decoder.up_blocks.{i}"
        for j in range(blocks + 1):
            theirs = f"{level}.block.{j}" if compvis else f"{level}.resnets.{j}"
            narrows = j == 0 and i > 0 and mult != mults[top - i + 1]
            yield from _res(theirs, f"decoder.up.{i * (blocks + 2) + j}", compvis=False, skip=narrows, nin=compvis)
        if i < top:
            theirs = f"{level}.upsample.conv" if compvis else f"{level}.upsamplers.0.conv"
            yield from _both(theirs, f"decoder.up.{i * (blocks + 2) + blocks + 1}.conv")


def _middle(side: str, layout: Layout) -> Iterator[Pair]:
    compvis = layout == "compvis"
    for j in (0, 1):
        theirs = f"{side}.mid.block_{j + 1}" if compvis else f"{side}.mid_block.resnets.{j}"
        yield from _res(theirs, f"{side}.mid.res{j + 1}", compvis=False, skip=False)
    theirs = f"{side}.mid.attn_1" if compvis else f"{side}.mid_block.attentions.0"
    norm, *maps = _ATTENTION[layout]
    yield from _both(f"{theirs}.{norm}", f"{side}.mid.attention.norm")
    for name, their_name in zip(("to_q", "to_k", "to_v", "to_out"), maps, strict=True):
        ours = f"{side}.mid.attention.attention.{name}"
        yield Pair(f"{theirs}.{their_name}.weight", f"{ours}.weight", conv=compvis)
        yield Pair(f"{theirs}.{their_name}.bias", f"{ours}.bias")


# --- CLIP -------------------------------------------------------------------------------------------------------------

_CLIP_LAYER = {
    "norm1": "layer_norm1",
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.out": "self_attn.out_proj",
    "norm2": "layer_norm2",
    "mlp.up": "mlp.fc1",
    "mlp.down": "mlp.fc2",
}


def text_pairs(config: TextConfig, prefix: str = "", ours: str = "") -> list[Pair]:
    """The pairs of the text tower's tensors.

    ``prefix`` is "" in `transformers` 5, "text_model." in the files that were published before, and "text_model."
    below the network's own prefix in a CompVis file; ``ours`` is "text." within `CLIP`.
    """
    pairs = [
        Pair("embeddings.token_embedding.weight", "token.weight"),
        Pair("embeddings.position_embedding.weight", "position"),
        *_both("final_layer_norm", "norm"),
        *_clip_layers(config.layers),
    ]
    return [Pair(prefix + pair.theirs, ours + pair.ours) for pair in pairs]


def vision_pairs(config: VisionConfig, prefix: str = "", ours: str = "") -> list[Pair]:
    """The pairs of the picture tower's tensors; ``prefix`` as in `text_pairs`, "vision_model." where there is one."""
    pairs = [
        Pair("embeddings.class_embedding", "cls"),
        Pair("embeddings.patch_embedding.weight", "patch.weight"),
        Pair("embeddings.position_embedding.weight", "position"),
        *_both("pre_layrnorm", "norm_in"),  # their spelling
        *_both("post_layernorm", "norm_out"),
        *_clip_layers(config.layers),
    ]
    return [Pair(prefix + pair.theirs, ours + pair.ours) for pair in pairs]


def clip_pairs(text: TextConfig, vision: VisionConfig) -> list[Pair]:
    """The pairs of the whole of CLIP."""
    return [
        *text_pairs(text, "text_model.", "text."),
        *vision_pairs(vision, "vision_model.", "vision."),
        Pair("text_projection.weight", "text_proj.weight"),
        Pair("visual_projection.weight", "vision_proj.weight"),
        Pair("logit_scale", "logit_scale"),
    ]


def _clip_layers(layers: int) -> Iterator[Pair]:
    for i in range(layers):
        for name, theirs in _CLIP_LAYER.items():
            yield from _both(f"encoder.layers.{i}.{theirs}", f"layers.{i}.{name}")


# --- shared -----------------------------------------------------------------------------------------------------------


def _both(theirs: str, ours: str) -> Iterator[Pair]:
    yield Pair(f"{theirs}.weight", f"{ours}.weight")
    yield Pair(f"{theirs}.bias", f"{ours}.bias")


def _res(theirs: str, ours: str, *, compvis: bool, skip: bool, time: bool = False, nin: bool = False) -> Iterator[Pair]:
    """A residual block. ``nin``: CompVis's autoencoder has diffusers' names for all but the way past the block."""
    for name, (diffusers, other) in _RES.items():
        if (name == "skip" and not skip) or (name == "time_proj" and not time):
            continue
        their_name = "nin_shortcut" if name == "skip" and nin else other if compvis else diffusers
        yield from _both(f"{theirs}.{their_name}", f"{ours}.{name}")
