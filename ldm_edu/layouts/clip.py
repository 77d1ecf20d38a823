"""CLIP's towers as transformers publishes them."""

from collections.abc import Iterable, Iterator

from ldm_edu.config import TextConfig, VisionConfig
from ldm_edu.layouts.json import refuse, refuse_unusual
from ldm_edu.layouts.pair import Format, Json, Layout, Pair, both, listed_pairs, own_names
from ldm_edu.models.clip import TextEncoder

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
        *both("final_layer_norm", "norm"),
        *listed_pairs(_clip_layers(config.layers)),
    ]
    return [Pair(prefix + pair.theirs, ours + pair.ours) for pair in pairs]


def vision_pairs(config: VisionConfig, prefix: str = "", ours: str = "") -> list[Pair]:
    """The pairs of the picture tower's tensors; ``prefix`` as in `text_pairs`, "vision_model." where there is one."""
    pairs = [
        Pair("embeddings.class_embedding", "cls"),
        Pair("embeddings.patch_embedding.weight", "patch.weight"),
        Pair("embeddings.position_embedding.weight", "position"),
        *both("pre_layrnorm", "norm_in"),  # their spelling
        *both("post_layernorm", "norm_out"),
        *listed_pairs(_clip_layers(config.layers)),
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
            yield from both(f"encoder.layers.{i}.{theirs}", f"layers.{i}.{name}")


def text_layout_pairs(config: TextConfig, format: Format, names: Iterable[str] = ()) -> list[Pair]:
    """The pairs of the text tower's tensors; older tools leave out the prefix ``text_model.``, as transformers 5 does.

    ``names`` are those that a file has; without any, the prefix is written.
    """
    prefixed = not (names := list(names)) or any(name.startswith("text_model.") for name in names)
    pairs = text_pairs(config, "text_model." if prefixed else "")
    return own_names(pairs) if format == "ldm-edu" else pairs


# --- config.json ------------------------------------------------------------------------------------------------------

_USUAL: Json = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}


def read_text(config: Json, where: str) -> TextConfig:
    """The text encoder of ``text_encoder/config.json``; raises as `ldm_edu.layouts.unet.read_unet`."""
    refuse_unusual(config, _USUAL, where)
    width = config.get("hidden_size", 512)
    if config.get("intermediate_size", 2048) != 4 * width:
        refuse(where, "intermediate_size", config.get("intermediate_size", 2048))
    return TextConfig(
        vocab=config.get("vocab_size", 49408),
        length=config.get("max_position_embeddings", 77),
        width=width,
        layers=config.get("num_hidden_layers", 12),
        heads=config.get("num_attention_heads", 8),
    )


def write_text(config: TextConfig) -> Json:
    """The ``text_encoder/config.json`` of a text encoder."""
    return {
        "architectures": ["CLIPTextModel"],
        "bos_token_id": config.vocab - 2,
        "eos_token_id": config.vocab - 1,
        "hidden_act": config.activation,
        "hidden_size": config.width,
        "intermediate_size": 4 * config.width,
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": config.length,
        "model_type": "clip_text_model",
        "num_attention_heads": config.heads,
        "num_hidden_layers": config.layers,
        "pad_token_id": config.vocab - 1,
        "projection_dim": config.width,
        "vocab_size": config.vocab,
    }


TEXT = Layout(TextEncoder, text_layout_pairs, read_text, write_text)
