"""The U-Net as it is published: in diffusers' folders, and in the one file that CompVis introduced."""

from collections.abc import Iterable, Iterator

from ldm_edu.config import Beside, UNetConfig
from ldm_edu.layouts.pair import Format, Json, Layout, Pair, both, listed_pairs, own_names
from ldm_edu.layouts.residual import residual_pairs
from ldm_edu.layouts.settings import mults_of, refuse, refuse_unusual
from ldm_edu.models.unet import UNet
from ldm_edu.weights.errors import CheckpointError

_TRANSFORMER_LAYER = {  # ours: both layouts'
    "norm1": "norm1",
    "norm3": "norm3",
    "self_attention.to_out": "attn1.to_out.0",
    "feed_forward.proj": "ff.net.0.proj",
    "feed_forward.out": "ff.net.2",
}


def unet_pairs(config: UNetConfig, format: Format = "diffusers", names: Iterable[str] = ()) -> list[Pair]:
    """The pairs of a U-Net's tensors."""
    pairs = _unet(config, original=format == "original")
    return own_names(pairs) if format == "ldm-edu" else listed_pairs(pairs)


def _unet(config: UNetConfig, *, original: bool) -> Iterator[Pair]:
    levels, a_level = len(config.mults), config.blocks + 1  # the original counts all blocks of a side in one row
    ends = [("conv_in", "input_blocks.0.0"), ("conv_norm_out", "out.0"), ("conv_out", "out.2")]
    for (diffusers, other), ours in zip(ends, ("conv_in", "norm_out", "conv_out"), strict=True):
        yield from both(other if original else diffusers, ours)
    for i in (1, 2):
        yield from both(f"time_embed.{2 * i - 2}" if original else f"time_embedding.linear_{i}", f"time_mlp.linear{i}")
        if config.vector_dim:
            theirs = f"label_emb.0.{2 * i - 2}" if original else f"add_embedding.linear_{i}"
            yield from both(theirs, f"vector_mlp.linear{i}")

    for i, depth in enumerate(config.depth):
        for j in range(config.blocks):
            place, ours = f"input_blocks.{1 + i * a_level + j}", f"down.{i}.stages.{j}"
            res = f"{place}.0" if original else f"down_blocks.{i}.resnets.{j}"
            widens = j == 0 and config.mults[i] != (config.mults[i - 1] if i else 1)
            yield from residual_pairs(res, f"{ours}.res", original=original, skip=widens, time=True)
            attention = f"{place}.1" if original else f"down_blocks.{i}.attentions.{j}"
            yield from _transformer(attention, f"{ours}.transformer", depth, config)
        if i < levels - 1:
            theirs = f"input_blocks.{(i + 1) * a_level}.0.op" if original else f"down_blocks.{i}.downsamplers.0.conv"
            yield from both(theirs, f"down.{i}.resample.conv")

    for j in (0, 1):
        res = f"middle_block.{2 * j}" if original else f"mid_block.resnets.{j}"
        yield from residual_pairs(res, f"mid.{j}.res", original=original, skip=False, time=True)
    attention = "middle_block.1" if original else "mid_block.attentions.0"
    yield from _transformer(attention, "mid.0.transformer", config.mid_depth, config)

    for i, depth in enumerate(reversed(config.depth)):  # from the lowest level up
        for j in range(a_level):
            place, ours = f"output_blocks.{i * a_level + j}", f"up.{i}.stages.{j}"
            res = f"{place}.0" if original else f"up_blocks.{i}.resnets.{j}"
            yield from residual_pairs(res, f"{ours}.res", original=original, skip=True, time=True)
            attention = f"{place}.1" if original else f"up_blocks.{i}.attentions.{j}"
            yield from _transformer(attention, f"{ours}.transformer", depth, config)
        if i < levels - 1:
            place = f"output_blocks.{i * a_level + config.blocks}.{2 if depth else 1}.conv"
            yield from both(place if original else f"up_blocks.{i}.upsamplers.0.conv", f"up.{i}.resample.conv")


def _transformer(theirs: str, ours: str, depth: int, config: UNetConfig) -> Iterator[Pair]:
    if depth == 0:
        return
    for name in ("norm", "proj_in", "proj_out"):
        yield from both(f"{theirs}.{name}", f"{ours}.{name}")
    for k in range(depth):
        layer, our_layer = f"{theirs}.transformer_blocks.{k}", f"{ours}.layers.{k}"
        names = dict(_TRANSFORMER_LAYER)
        attentions = {"self_attention": "attn1"}
        if config.context_dim:
            names |= {"norm2": "norm2", "cross_attention.to_out": "attn2.to_out.0"}
            attentions |= {"cross_attention": "attn2"}
        for name, their_name in names.items():
            yield from both(f"{layer}.{their_name}", f"{our_layer}.{name}")
        for name, their_name in attentions.items():
            for part in ("to_q", "to_k", "to_v"):
                yield Pair(f"{layer}.{their_name}.{part}.weight", f"{our_layer}.{name}.{part}.weight")


# --- config.json ------------------------------------------------------------------------------------------------------

# What the U-Net here does, for the fields whose other values it does not know. A field that is absent is usual.
_USUAL: Json = {
    "act_fn": "silu", "attention_type": "default", "center_input_sample": False,
    "class_embed_type": None, "class_embeddings_concat": False, "conv_in_kernel": 3, "conv_out_kernel": 3,
    "cross_attention_norm": None, "downsample_padding": 1, "dual_cross_attention": False, "encoder_hid_dim": None,
    "encoder_hid_dim_type": None, "flip_sin_to_cos": True, "freq_shift": 0, "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2DCrossAttn", "norm_eps": 1e-5, "num_attention_heads": None,
    "num_class_embeds": None, "only_cross_attention": False, "resnet_out_scale_factor": 1.0,
    "resnet_skip_time_act": False, "resnet_time_scale_shift": "default", "reverse_transformer_layers_per_block": None,
    "time_cond_proj_dim": None, "time_embedding_act_fn": None, "time_embedding_dim": None,
    "time_embedding_type": "positional", "timestep_post_act": None,
}  # fmt: skip


def read_unet(config: Json, where: str, beside: Beside = "nothing") -> UNetConfig:
    """The U-Net of ``unet/config.json``.

    Parameters
    ----------
    where
        the path of the config, for messages.
    beside
        what the U-Net reads besides the sample: the pipeline's class says that, the config does not.

    Raises
    ------
    CheckpointError
        if the config asks for what this U-Net does not do, naming the field.
    """
    refuse_unusual(config, _USUAL, where)
    widths = list(config.get("block_out_channels", (320, 640, 1280, 1280)))
    kinds = list(config.get("down_block_types", ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"]))
    layers = config.get("transformer_layers_per_block", 1)
    layers = [layers] * len(kinds) if isinstance(layers, int) else list(layers)
    for kind in kinds:
        if kind not in ("CrossAttnDownBlock2D", "DownBlock2D"):
            refuse(where, "down_block_types", kind)
    expected = [kind.replace("Down", "Up") for kind in reversed(kinds)]
    if list(config.get("up_block_types", expected)) != expected:
        refuse(where, "up_block_types", config["up_block_types"])
    heads, head_dim = _heads(config, widths, where)
    return UNetConfig(
        in_channels=config.get("in_channels", 4),
        out_channels=config.get("out_channels", 4),
        channels=widths[0],
        mults=mults_of(widths, where),
        blocks=config.get("layers_per_block", 2),
        depth=tuple(count if "Cross" in kind else 0 for kind, count in zip(kinds, layers, strict=True)),
        mid_depth=layers[-1],
        context_dim=config.get("cross_attention_dim", 1280),
        heads=heads,
        head_dim=head_dim,
        linear_proj=bool(config.get("use_linear_projection", False)),
        vector_dim=_vector_dim(config, where),
        groups=config.get("norm_num_groups", 32),
        beside=beside,
    )


def _heads(config: Json, widths: list[int], where: str) -> tuple[int | None, int | None]:
    """Heads, or the width of a head: ``attention_head_dim`` is the number of heads, for historical reasons."""
    heads = config.get("attention_head_dim", 8)
    if isinstance(heads, int):
        return heads, None
    head_dims = {width / count for width, count in zip(widths, heads, strict=True)}
    if len(head_dims) != 1 or not (head_dim := head_dims.pop()).is_integer():
        refuse(where, "attention_head_dim", heads)
    return None, int(head_dim)


def _vector_dim(config: Json, where: str) -> int | None:
    if config.get("addition_embed_type") is None:
        return None
    if config["addition_embed_type"] != "text_time":
        refuse(where, "addition_embed_type", config["addition_embed_type"])
    width = config.get("projection_class_embeddings_input_dim")
    if not isinstance(width, int):
        refuse(where, "projection_class_embeddings_input_dim", width)
    return int(width)


def write_unet(config: UNetConfig) -> Json:
    """The ``unet/config.json`` of a U-Net, without the size of its samples.

    Raises
    ------
    CheckpointError
        if diffusers' U-Net has no such form.
    """
    layers = [depth or config.mid_depth for depth in config.depth]
    if config.mid_depth == 0 or (config.depth[-1] and layers[-1] != config.mid_depth):
        raise CheckpointError(
            f"diffusers' U-Net has no middle with {config.mid_depth} layers below levels of {config.depth}; keep "
            " this model in ldm-edu's own layout."
        )
    more: Json = {}
    if config.linear_proj:
        more["use_linear_projection"] = True
    if config.vector_dim:
        more |= {"addition_embed_type": "text_time", "projection_class_embeddings_input_dim": config.vector_dim}
    widths = [config.channels * mult for mult in config.mults]
    return {
        "_class_name": "UNet2DConditionModel",
        "act_fn": "silu",
        "attention_head_dim": config.heads or [width // (config.head_dim or 1) for width in widths],  # numbers of heads
        "block_out_channels": widths,
        "cross_attention_dim": config.context_dim,
        "down_block_types": ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in config.depth],
        "in_channels": config.in_channels,
        "layers_per_block": config.blocks,
        "norm_eps": 1e-5,
        "norm_num_groups": config.groups,
        "out_channels": config.out_channels,
        "transformer_layers_per_block": layers,
        "up_block_types": ["CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(config.depth)],
        **more,
    }


UNET = Layout(UNet, unet_pairs, read_unet, write_unet)
