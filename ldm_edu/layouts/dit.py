"""DiT as it is published: the flat file of the paper's authors, and diffusers' folders.

Three things differ besides names. The authors hold queries, keys and values as one map. Diffusers gives each block a
copy of the time layers and of the table of labels. And the authors' file holds the positions, which are computed here.

The networks behind the names differ too: with the same weights, diffusers' `DiTTransformer2DModel` gives other numbers
than the authors' code, since it counts the frequencies of a time in steps of 1/127 instead of 1/128, and its second
norm adds 1e-5 instead of 1e-6 to a variance. `ldm_edu.models.dit` follows the authors.
"""

from collections.abc import Iterable, Iterator

from ldm_edu.config import DiTConfig
from ldm_edu.layouts.pair import Format, Json, Layout, Pair, both, own_names
from ldm_edu.layouts.settings import refuse, refuse_unusual
from ldm_edu.models.dit import DiT

_ORIGINAL = {  # ours: the authors'
    "modulation.linear": "adaLN_modulation.1",
    "attention.to_out": "attn.proj",
    "mlp.0": "mlp.fc1",
    "mlp.2": "mlp.fc2",
}
_DIFFUSERS = {  # ours: diffusers'
    "modulation.linear": "norm1.linear",
    "attention.to_q": "attn1.to_q",
    "attention.to_k": "attn1.to_k",
    "attention.to_v": "attn1.to_v",
    "attention.to_out": "attn1.to_out.0",
    "mlp.0": "ff.net.0.proj",
    "mlp.2": "ff.net.2",
}


def dit_pairs(config: DiTConfig, format: Format = "diffusers", names: Iterable[str] = ()) -> list[Pair]:
    """The pairs of a DiT's tensors; copies in blocks after the first that a file of ``names`` lacks are left out."""
    match format:
        case "original":
            return list(_original(config))
        case "diffusers":
            return list(_diffusers(config, set(names)))
        case "ldm-edu":
            return own_names(_original(config))


def _original(config: DiTConfig) -> Iterator[Pair]:
    yield from both("x_embedder.proj", "patch")
    yield from both("t_embedder.mlp.0", "time_mlp.linear1")
    yield from both("t_embedder.mlp.2", "time_mlp.linear2")
    yield Pair("y_embedder.embedding_table.weight", "labels")
    for i in range(config.depth):
        for ours, theirs in _ORIGINAL.items():
            yield from both(f"blocks.{i}.{theirs}", f"layers.{i}.{ours}")
        for kind in ("weight", "bias"):
            for j, ours in enumerate(("to_q", "to_k", "to_v")):
                third = slice(j * config.width, (j + 1) * config.width)
                yield Pair(f"blocks.{i}.attn.qkv.{kind}", f"layers.{i}.attention.{ours}.{kind}", rows=third)
    yield from both("final_layer.adaLN_modulation.1", "final.modulation.linear")
    yield from both("final_layer.linear", "final.linear")


def _diffusers(config: DiTConfig, names: set[str]) -> Iterator[Pair]:
    yield from both("pos_embed.proj", "patch")
    for i in range(config.depth):
        for pair in _embedders(f"transformer_blocks.{i}.norm1.emb"):
            if i == 0 or not names or pair.theirs in names:
                yield pair
        for ours, theirs in _DIFFUSERS.items():
            yield from both(f"transformer_blocks.{i}.{theirs}", f"layers.{i}.{ours}")
    yield from both("proj_out_1", "final.modulation.linear")
    yield from both("proj_out_2", "final.linear")


def _embedders(theirs: str) -> Iterator[Pair]:
    """What diffusers copies into each block."""
    yield from both(f"{theirs}.timestep_embedder.linear_1", "time_mlp.linear1")
    yield from both(f"{theirs}.timestep_embedder.linear_2", "time_mlp.linear2")
    yield Pair(f"{theirs}.class_embedder.embedding_table.weight", "labels")


# --- config.json ------------------------------------------------------------------------------------------------------

# What the transformer here does, for the fields whose other values it does not know. A field that is absent is usual.
_USUAL: Json = {
    "activation_fn": "gelu-approximate", "attention_bias": True, "caption_channels": None,
    "cross_attention_dim": None, "double_self_attention": False, "norm_elementwise_affine": False,
    "norm_type": "ada_norm_zero", "num_vector_embeds": None, "only_cross_attention": False,
    "use_linear_projection": False,
}  # fmt: skip


def read_dit(config: Json, where: str) -> DiTConfig:
    """The transformer of ``transformer/config.json``; ``where`` is the path of the config, for messages.

    Raises
    ------
    CheckpointError
        if the config asks for what this transformer does not do, naming the field.
    """
    refuse_unusual(config, _USUAL, where)
    channels, heads = config.get("in_channels", 4), config.get("num_attention_heads", 16)
    out_channels = config.get("out_channels") or channels
    if out_channels not in (channels, 2 * channels):
        refuse(where, "out_channels", out_channels)
    return DiTConfig(
        size=config.get("sample_size", 32),
        channels=channels,
        patch=config.get("patch_size", 2),
        width=heads * config.get("attention_head_dim", 72),
        depth=config.get("num_layers", 28),
        heads=heads,
        classes=config.get("num_embeds_ada_norm", 1000),
        learned_variance=out_channels == 2 * channels,
    )


def write_dit(config: DiTConfig) -> Json:
    """The ``transformer/config.json`` of a DiT."""
    return {
        "_class_name": "DiTTransformer2DModel",
        "activation_fn": "gelu-approximate",
        "attention_bias": True,
        "attention_head_dim": config.width // config.heads,
        "in_channels": config.channels,
        "norm_elementwise_affine": False,
        "norm_type": "ada_norm_zero",
        "num_attention_heads": config.heads,
        "num_embeds_ada_norm": config.classes,
        "num_layers": config.depth,
        "out_channels": config.out_channels,
        "patch_size": config.patch,
        "sample_size": config.size,
    }


DIT = Layout(DiT, dit_pairs, read_dit, write_dit)
