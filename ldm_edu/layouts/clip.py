"""CLIP as it is published: the text tower, the picture tower, and both with their projections.

Three spellings are in use. Hugging Face's (``diffusers``) has ``text_model.`` in front of every name in files, and
`transformers` 5 leaves it out in memory. OpenAI's release, and all of OpenCLIP, keep the rows of queries, keys and
values in one tensor and apply a projection P as x @ P, where Hugging Face and this package apply its transpose. The one
file of Stable Diffusion 1 (``original``) holds the text tower in Hugging Face's spelling.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from ldm_edu.config import CLIPConfig, TextConfig, VisionConfig
from ldm_edu.layouts.pair import Format, Json, Layout, Pair, both, listed_pairs
from ldm_edu.layouts.settings import refuse, refuse_unusual
from ldm_edu.models.clip import CLIP, TextEncoder, VisionEncoder

_BEFORE = {  # the four maps in files of earlier versions of ldm-edu
    ".attention.query.": ".attention.to_q.",
    ".attention.key.": ".attention.to_k.",
    ".attention.value.": ".attention.to_v.",
    ".attention.out.": ".attention.to_out.",
}
_LAYER = {  # ours: Hugging Face's
    "norm1": "layer_norm1",
    "attention.to_q": "self_attn.q_proj",
    "attention.to_k": "self_attn.k_proj",
    "attention.to_v": "self_attn.v_proj",
    "attention.to_out": "self_attn.out_proj",
    "norm2": "layer_norm2",
    "mlp.up": "mlp.fc1",
    "mlp.down": "mlp.fc2",
}
_BLOCK = {  # ours: OpenAI's
    "norm1": "ln_1",
    "attention.to_out": "attn.out_proj",
    "norm2": "ln_2",
    "mlp.up": "mlp.c_fc",
    "mlp.down": "mlp.c_proj",
}
_USUAL: Json = {"layer_norm_eps": 1e-5, "attention_dropout": 0.0}


# --- names ------------------------------------------------------------------------------------------------------------


def text_pairs(config: TextConfig, format: Format = "diffusers", names: Iterable[str] = ()) -> list[Pair]:
    """The pairs of the text tower's tensors, in the spelling of ``names`` (see `Layout`)."""
    names = set(names)
    if format == "ldm-edu":
        return listed_pairs(_own(_hf_text(config, ""), names))
    if format == "original" and _is_openai(names):
        return listed_pairs(openai_text(config))
    prefix = "text_model." if not names or any(name.startswith("text_model.") for name in names) else ""
    twice = "text_projection.weight.weight"  # so in files of Playground v2
    return [
        replace(pair, theirs=twice) if twice[:-7] == pair.theirs and twice in names else pair
        for pair in listed_pairs(_hf_text(config, prefix))
    ]


def vision_pairs(config: VisionConfig, format: Format = "diffusers", names: Iterable[str] = ()) -> list[Pair]:
    """The pairs of the picture tower's tensors, in the spelling of ``names``."""
    names = set(names)
    if format == "ldm-edu":
        return listed_pairs(_own(_hf_vision(config, ""), names))
    if format == "original":
        return listed_pairs(_openai_vision(config))
    prefix = "vision_model." if not names or any(name.startswith("vision_model.") for name in names) else ""
    return listed_pairs(_hf_vision(config, prefix))


def clip_pairs(config: CLIPConfig, format: Format = "diffusers", names: Iterable[str] = ()) -> list[Pair]:
    """The pairs of the whole of CLIP; its original is OpenAI's file."""
    if format == "original":
        towers = [*_below("text.", openai_text(config.text)), *_below("vision.", _openai_vision(config.vision))]
        projections = (
            Pair("text_projection", "text_proj.weight", transposed=True),
            Pair("visual.proj", "vision_proj.weight", transposed=True),
        )
    else:
        towers = [
            *_below("text.", _hf_text(config.text, "text_model.")),
            *_below("vision.", _hf_vision(config.vision, "vision_model.")),
        ]
        projections = (
            Pair("text_projection.weight", "text_proj.weight"),
            Pair("visual_projection.weight", "vision_proj.weight"),
        )
    pairs = [*towers, *projections, Pair("logit_scale", "logit_scale")]
    return listed_pairs(_own(pairs, set(names))) if format == "ldm-edu" else pairs


def openai_text(config: TextConfig) -> Iterator[Pair]:
    """OpenAI's and OpenCLIP's names of the text tower."""
    yield Pair("token_embedding.weight", "token.weight")
    yield Pair("positional_embedding", "position")
    yield from _openai_blocks("transformer.resblocks", config)
    yield from both("ln_final", "norm")
    if config.projection:
        yield Pair("text_projection", "proj.weight", transposed=True)


def _openai_vision(config: VisionConfig) -> Iterator[Pair]:
    yield Pair("visual.class_embedding", "cls")
    yield Pair("visual.positional_embedding", "position")
    yield Pair("visual.conv1.weight", "patch.weight")
    yield from both("visual.ln_pre", "norm_in")
    yield from _openai_blocks("visual.transformer.resblocks", config)
    yield from both("visual.ln_post", "norm_out")


def _openai_blocks(theirs: str, config: TextConfig | VisionConfig) -> Iterator[Pair]:
    width = config.width
    for i in range(config.layers):
        for ours, name in _BLOCK.items():
            yield from both(f"{theirs}.{i}.{name}", f"layers.{i}.{ours}")
        for j, ours in enumerate(
            ("to_q", "to_k", "to_v")
        ):  # (3 D, D) and (3 D,): the rows of queries, of keys, of values
            rows = slice(j * width, (j + 1) * width)
            for kind in ("weight", "bias"):
                yield Pair(f"{theirs}.{i}.attn.in_proj_{kind}", f"layers.{i}.attention.{ours}.{kind}", rows=rows)


def _hf_text(config: TextConfig, prefix: str) -> Iterator[Pair]:
    yield Pair(f"{prefix}embeddings.token_embedding.weight", "token.weight")
    yield Pair(f"{prefix}embeddings.position_embedding.weight", "position")
    yield from _hf_layers(f"{prefix}encoder.layers", config.layers)
    yield from both(f"{prefix}final_layer_norm", "norm")
    if config.projection:
        yield Pair("text_projection.weight", "proj.weight")


def _hf_vision(config: VisionConfig, prefix: str) -> Iterator[Pair]:
    yield Pair(f"{prefix}embeddings.class_embedding", "cls")
    yield Pair(f"{prefix}embeddings.patch_embedding.weight", "patch.weight")
    yield Pair(f"{prefix}embeddings.position_embedding.weight", "position")
    yield from both(f"{prefix}pre_layrnorm", "norm_in")  # their spelling
    yield from _hf_layers(f"{prefix}encoder.layers", config.layers)
    yield from both(f"{prefix}post_layernorm", "norm_out")


def _hf_layers(theirs: str, layers: int) -> Iterator[Pair]:
    for i in range(layers):
        for ours, name in _LAYER.items():
            yield from both(f"{theirs}.{i}.{name}", f"layers.{i}.{ours}")


def _own(pairs: Iterable[Pair], names: set[str]) -> Iterator[Pair]:
    """Our own names of the same tensors; files written before the maps were renamed hold the names of then."""
    spelling = {current_name(name): name for name in names}
    return (Pair(spelling.get(pair.ours, pair.ours), pair.ours) for pair in pairs)


def current_name(name: str) -> str:
    """Our name today of a tensor in one of our own files, of whatever version.

    >>> current_name("layers.0.attention.query.bias"), current_name("layers.0.mlp.up.bias")
    ('layers.0.attention.to_q.bias', 'layers.0.mlp.up.bias')
    """
    for before, now in _BEFORE.items():
        name = name.replace(before, now)
    return name


def _below(ours: str, pairs: Iterable[Pair]) -> Iterator[Pair]:
    return (replace(pair, ours=ours + pair.ours) for pair in pairs)


def _is_openai(names: set[str]) -> bool:
    return any(name.startswith("transformer.resblocks.") for name in names)


# --- configs ----------------------------------------------------------------------------------------------------------


def read_text(config: Json, where: str) -> TextConfig:
    """The text tower of a ``config.json``.

    The numbers of its start, end and padding tokens are not read: published ones are wrong as often as right, and the
    vocabulary tells. A projection is there only where the architecture says so.

    Raises
    ------
    CheckpointError
        if it asks for what this tower does not do, naming the field.
    """
    projected = "CLIPTextModelWithProjection" in config.get("architectures", ())
    return TextConfig(
        vocab=config.get("vocab_size", 49408),
        length=config.get("max_position_embeddings", 77),
        projection=config.get("projection_dim", 512) if projected else None,
        **_read_tower(config, where, width=512, layers=12, heads=8),
    )


def read_vision(config: Json, where: str) -> VisionConfig:
    """The picture tower of a ``config.json``; raises as `read_text`."""
    refuse_unusual(config, {"num_channels": 3}, where)
    return VisionConfig(
        size=config.get("image_size", 224),
        patch=config.get("patch_size", 32),
        **_read_tower(config, where, width=768, layers=12, heads=12),
    )


def write_text(config: TextConfig) -> Json:
    """The ``config.json`` of a text tower."""
    return {
        "architectures": ["CLIPTextModelWithProjection" if config.projection else "CLIPTextModel"],
        "bos_token_id": config.vocab - 2,
        "eos_token_id": config.vocab - 1,
        "max_position_embeddings": config.length,
        "model_type": "clip_text_model",
        "pad_token_id": config.vocab - 1 if config.pad is None else config.pad,
        "projection_dim": config.projection or config.width,
        "vocab_size": config.vocab,
        **_write_tower(config),
    }


def write_vision(config: VisionConfig) -> Json:
    """The ``config.json`` of a picture tower."""
    return {
        "architectures": ["CLIPVisionModel"],
        "image_size": config.size,
        "model_type": "clip_vision_model",
        "num_channels": 3,
        "patch_size": config.patch,
        **_write_tower(config),
    }


def _read_tower(config: Json, where: str, *, width: int, layers: int, heads: int) -> dict[str, Any]:
    """The fields that both towers share; the numbers are those that hold where the file is silent."""
    refuse_unusual(config, _USUAL, where)
    activation = config.get("hidden_act", "quick_gelu")
    if activation not in ("quick_gelu", "gelu"):
        refuse(where, "hidden_act", activation)
    width = config.get("hidden_size", width)
    inner = config.get("intermediate_size", 4 * width)
    return {
        "width": width,
        "layers": config.get("num_hidden_layers", layers),
        "heads": config.get("num_attention_heads", heads),
        "activation": activation,
        "mlp_width": None if inner == 4 * width else inner,
    }


def _write_tower(config: TextConfig | VisionConfig) -> Json:
    return {
        "hidden_act": config.activation,
        "hidden_size": config.width,
        "intermediate_size": config.mlp_width or 4 * config.width,
        "layer_norm_eps": 1e-5,
        "num_attention_heads": config.heads,
        "num_hidden_layers": config.layers,
    }


TEXT = Layout(TextEncoder, text_pairs, read_text, write_text)
VISION = Layout(VisionEncoder, vision_pairs, read_vision, write_vision)
BOTH = Layout(lambda config: CLIP(config.text, config.vision, config.embed_dim), clip_pairs)
