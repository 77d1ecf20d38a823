"""The autoencoder as it is published: in diffusers' folders of two generations, and in CompVis's one file."""

from collections.abc import Iterable, Iterator, Mapping

import torch
from einops import reduce
from torch import Tensor

from ldm_edu.config import AutoencoderConfig
from ldm_edu.layouts.pair import Format, Json, Layout, Pair, both, listed_pairs, own_names
from ldm_edu.layouts.residual import residual_pairs
from ldm_edu.layouts.settings import mults_of, refuse_unusual
from ldm_edu.models.autoencoder import AutoencoderKL
from ldm_edu.weights.errors import CheckpointError

_ATTENTION = {  # by the name of the queries' map: to_q, to_k, to_v, to_out
    "to_q": ("to_q", "to_k", "to_v", "to_out.0"),  # diffusers
    "query": ("query", "key", "value", "proj_attn"),  # older diffusers
    "q": ("q", "k", "v", "proj_out"),  # the original
}
_NORMS = ("group_norm", "norm")  # before them: diffusers', the original's


def autoencoder_pairs(config: AutoencoderConfig, format: Format = "diffusers", names: Iterable[str] = ()) -> list[Pair]:
    """The pairs of an autoencoder's tensors.

    The attention in the middle has been published in three spellings, as linear maps and as 1x1 convolutions, in either
    format: ``names``, those that a file has, say which spelling to expect. Without names, a format has its own.
    """
    names = list(names)
    found = [spelling for spelling in _ATTENTION if any(f".{spelling}." in name for name in names)]
    spelling = found[0] if found else "q" if format == "original" else "to_q"
    norms = [norm for norm in _NORMS if any(f".{norm}." in name for name in names if "mid" in name)]
    norm = norms[0] if norms else "norm" if spelling == "q" else "group_norm"
    conv = bool(names) or format == "original"  # a file may hold either; the original is written as convolutions
    pairs = _autoencoder(config, original=format == "original", spelling=(norm, *_ATTENTION[spelling]), conv=conv)
    return own_names(pairs) if format == "ldm-edu" else listed_pairs(pairs)


def _autoencoder(config: AutoencoderConfig, *, original: bool, spelling: tuple[str, ...], conv: bool) -> Iterator[Pair]:
    mults, blocks = config.mults, config.blocks
    top = len(mults) - 1
    yield from both("quant_conv", "quant")
    yield from both("post_quant_conv", "post_quant")
    for side in ("encoder", "decoder"):
        for name, theirs in {"conv_in": "conv_in", "conv_out": "conv_out", "norm_out": "conv_norm_out"}.items():
            yield from both(f"{side}.{name if original else theirs}", f"{side}.{name}")
        yield from _middle(side, original=original, spelling=spelling, conv=conv)

    for i, mult in enumerate(mults):
        level = f"encoder.down.{i}" if original else f"encoder.down_blocks.{i}"
        for j in range(blocks):
            theirs = f"{level}.block.{j}" if original else f"{level}.resnets.{j}"
            widens = j == 0 and mult != (mults[i - 1] if i else 1)
            yield from residual_pairs(
                theirs, f"encoder.down.{i * (blocks + 1) + j}", original=False, skip=widens, nin=original
            )
        if i < top:
            theirs = f"{level}.downsample.conv" if original else f"{level}.downsamplers.0.conv"
            yield from both(theirs, f"encoder.down.{i * (blocks + 1) + blocks}.conv")

    for i, mult in enumerate(reversed(mults)):  # from the lowest level up; CompVis numbers them from the top
        level = f"decoder.up.{top - i}" if original else f"decoder.up_blocks.{i}"
        for j in range(blocks + 1):
            theirs = f"{level}.block.{j}" if original else f"{level}.resnets.{j}"
            narrows = j == 0 and i > 0 and mult != mults[top - i + 1]
            yield from residual_pairs(
                theirs, f"decoder.up.{i * (blocks + 2) + j}", original=False, skip=narrows, nin=original
            )
        if i < top:
            theirs = f"{level}.upsample.conv" if original else f"{level}.upsamplers.0.conv"
            yield from both(theirs, f"decoder.up.{i * (blocks + 2) + blocks + 1}.conv")


def _middle(side: str, *, original: bool, spelling: tuple[str, ...], conv: bool) -> Iterator[Pair]:
    for j in (0, 1):
        theirs = f"{side}.mid.block_{j + 1}" if original else f"{side}.mid_block.resnets.{j}"
        yield from residual_pairs(theirs, f"{side}.mid.res{j + 1}", original=False, skip=False)
    theirs = f"{side}.mid.attn_1" if original else f"{side}.mid_block.attentions.0"
    norm, *maps = spelling
    yield from both(f"{theirs}.{norm}", f"{side}.mid.attention.norm")
    for name, their_name in zip(("to_q", "to_k", "to_v", "to_out"), maps, strict=True):
        ours = f"{side}.mid.attention.attention.{name}"
        yield Pair(f"{theirs}.{their_name}.weight", f"{ours}.weight", conv=conv)
        yield Pair(f"{theirs}.{their_name}.bias", f"{ours}.bias")


# --- config.json ------------------------------------------------------------------------------------------------------

_USUAL: Json = {
    "act_fn": "silu", "mid_block_add_attention": True, "use_post_quant_conv": True, "use_quant_conv": True,
}  # fmt: skip


def read_autoencoder(config: Json, where: str) -> AutoencoderConfig:
    """The autoencoder of ``vae/config.json``; raises as `ldm_edu.layouts.unet.read_unet`."""
    refuse_unusual(config, _USUAL, where)
    widths = list(config.get("block_out_channels", (64,)))
    return AutoencoderConfig(
        in_channels=config.get("in_channels", 3),
        latent_channels=config.get("latent_channels", 4),
        channels=widths[0],
        mults=mults_of(widths, where),
        blocks=config.get("layers_per_block", 1),
        groups=config.get("norm_num_groups", 32),
        scale=config.get("scaling_factor", 0.18215),
        shift=config.get("shift_factor") or 0.0,
        latents_mean=_floats(config.get("latents_mean")),
        latents_std=_floats(config.get("latents_std")),
    )


def _floats(values: list[float] | None) -> tuple[float, ...] | None:
    return None if values is None else tuple(float(value) for value in values)


def write_autoencoder(config: AutoencoderConfig) -> Json:
    """The ``vae/config.json`` of an autoencoder, without the size of its pictures."""
    levels = len(config.mults)
    if config.shift:
        raise CheckpointError(
            f"the latents of this autoencoder are shifted by {config.shift}, and diffusers' pipeline of Stable "
            "Diffusion would not shift them back; fold the shift into the weights first (`fold_shift`)."
        )
    moments: Json = {}
    if config.latents_mean is not None and config.latents_std is not None:
        moments = {"latents_mean": list(config.latents_mean), "latents_std": list(config.latents_std)}
    return {
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "block_out_channels": [config.channels * mult for mult in config.mults],
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "in_channels": config.in_channels,
        "latent_channels": config.latent_channels,
        "layers_per_block": config.blocks,
        "norm_num_groups": config.groups,
        "out_channels": config.in_channels,
        "scaling_factor": config.scale,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        **moments,
    }


def fold_shift(tensors: Mapping[str, Tensor], shift: float) -> dict[str, Tensor]:
    """The tensors of an autoencoder, by our names, that does the same without a shift of its latents.

    The 1x1 convolutions next to the latents take the shift over: the one before subtracts it from the mean, and the one
    behind, W z + b, becomes W (z + shift) + b. Both biases become float32, whose rounding shows in no picture.
    """
    mean, deviation = tensors["quant.bias"].float().chunk(2)  # (C,) each
    weight, bias = tensors["post_quant.weight"].float(), tensors["post_quant.bias"].float()
    folded = {
        "quant.bias": torch.cat([mean - shift, deviation]),  # (2 C,)
        "post_quant.bias": bias + shift * reduce(weight, "o i 1 1 -> o", "sum"),
    }
    return {**tensors, **folded}


AUTOENCODER = Layout(AutoencoderKL, autoencoder_pairs, read_autoencoder, write_autoencoder)
