"""The configs of a diffusers folder as a `Preset`, and a preset as those configs.

A config that asks for something that the networks here do not do is refused by the name of its field: its weights would
load, and the pictures would be wrong.
"""

from collections.abc import Mapping
from typing import Any

from ldm_edu.weights.errors import CheckpointError
from ldm_edu.config import AutoencoderConfig, Prediction, Preset, ScheduleConfig, TextConfig, UNetConfig

Json = dict[str, Any]

PREDICTIONS: dict[str, Prediction] = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
PIPELINES = {  # by the channels that the U-Net reads: the class that draws with it
    4: "StableDiffusionPipeline",
    8: "StableDiffusionInstructPix2PixPipeline",
    9: "StableDiffusionInpaintPipeline",
}

# What the networks here do, for the fields whose other values they do not know. A field that is absent is usual.
_USUAL_UNET: Json = {
    "act_fn": "silu", "addition_embed_type": None, "attention_type": "default", "center_input_sample": False,
    "class_embed_type": None, "class_embeddings_concat": False, "conv_in_kernel": 3, "conv_out_kernel": 3,
    "cross_attention_norm": None, "downsample_padding": 1, "dual_cross_attention": False, "encoder_hid_dim": None,
    "encoder_hid_dim_type": None, "flip_sin_to_cos": True, "freq_shift": 0, "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2DCrossAttn", "norm_eps": 1e-5, "num_attention_heads": None,
    "num_class_embeds": None, "only_cross_attention": False, "resnet_out_scale_factor": 1.0,
    "resnet_skip_time_act": False, "resnet_time_scale_shift": "default", "reverse_transformer_layers_per_block": None,
    "time_cond_proj_dim": None, "time_embedding_act_fn": None, "time_embedding_dim": None,
    "time_embedding_type": "positional", "timestep_post_act": None, "use_linear_projection": False,
}  # fmt: skip
_USUAL_AUTOENCODER: Json = {
    "act_fn": "silu", "latents_mean": None, "latents_std": None, "mid_block_add_attention": True,
    "use_post_quant_conv": True, "use_quant_conv": True,
}  # fmt: skip
_USUAL_TEXT: Json = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
_USUAL_SCHEDULE: Json = {"rescale_betas_zero_snr": False, "trained_betas": None, "use_flow_sigmas": False}


def read_unet(config: Json, where: str) -> UNetConfig:
    """The U-Net of ``unet/config.json``.

    Raises
    ------
    CheckpointError
        if it asks for what this U-Net does not do, naming the field; ``where`` the config lies.
    """
    _usual(config, _USUAL_UNET, where)
    widths = list(config.get("block_out_channels", (320, 640, 1280, 1280)))
    kinds = list(config.get("down_block_types", ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"]))
    layers = config.get("transformer_layers_per_block", 1)
    layers = [layers] * len(kinds) if isinstance(layers, int) else list(layers)
    for kind in kinds:
        if kind not in ("CrossAttnDownBlock2D", "DownBlock2D"):
            _refuse(where, "down_block_types", kind)
    expected = [kind.replace("Down", "Up") for kind in reversed(kinds)]
    if list(config.get("up_block_types", expected)) != expected:
        _refuse(where, "up_block_types", config["up_block_types"])
    heads = config.get("attention_head_dim", 8)  # the number of heads, for historical reasons
    if not isinstance(heads, int):
        _refuse(where, "attention_head_dim", heads)
    return UNetConfig(
        in_channels=config.get("in_channels", 4),
        out_channels=config.get("out_channels", 4),
        channels=widths[0],
        mults=_mults(widths, where),
        blocks=config.get("layers_per_block", 2),
        depth=tuple(count if "Cross" in kind else 0 for kind, count in zip(kinds, layers, strict=True)),
        mid_depth=layers[-1],
        context_dim=config.get("cross_attention_dim", 1280),
        heads=heads,
        groups=config.get("norm_num_groups", 32),
    )


def read_autoencoder(config: Json, where: str) -> AutoencoderConfig:
    """The autoencoder of ``vae/config.json``; raises as `read_unet`."""
    _usual(config, _USUAL_AUTOENCODER, where)
    widths = list(config.get("block_out_channels", (64,)))
    return AutoencoderConfig(
        in_channels=config.get("in_channels", 3),
        latent_channels=config.get("latent_channels", 4),
        channels=widths[0],
        mults=_mults(widths, where),
        blocks=config.get("layers_per_block", 1),
        groups=config.get("norm_num_groups", 32),
        scale=config.get("scaling_factor", 0.18215),
        shift=config.get("shift_factor") or 0.0,
    )


def read_text(config: Json, where: str) -> TextConfig:
    """The text encoder of ``text_encoder/config.json``; raises as `read_unet`."""
    _usual(config, _USUAL_TEXT, where)
    width = config.get("hidden_size", 512)
    if config.get("intermediate_size", 2048) != 4 * width:
        _refuse(where, "intermediate_size", config.get("intermediate_size", 2048))
    return TextConfig(
        vocab=config.get("vocab_size", 49408),
        length=config.get("max_position_embeddings", 77),
        width=width,
        layers=config.get("num_hidden_layers", 12),
        heads=config.get("num_attention_heads", 8),
    )


def read_schedule(config: Json, where: str) -> tuple[ScheduleConfig, Prediction]:
    """The forward process of ``scheduler/scheduler_config.json``, and what the U-Net predicts; raises likewise."""
    _usual(config, _USUAL_SCHEDULE, where)
    if "Flow" in str(config.get("_class_name")):
        _refuse(where, "_class_name", config["_class_name"])
    kind, prediction = config.get("beta_schedule", "linear"), config.get("prediction_type", "epsilon")
    if kind not in SCHEDULES:
        _refuse(where, "beta_schedule", kind)
    if prediction not in PREDICTIONS:
        _refuse(where, "prediction_type", prediction)
    schedule = ScheduleConfig(
        kind=SCHEDULES[kind],  # type: ignore[arg-type]
        steps=config.get("num_train_timesteps", 1000),
        beta_start=config.get("beta_start", 0.0001),
        beta_end=config.get("beta_end", 0.02),
    )
    return schedule, PREDICTIONS[prediction]


def write_configs(preset: Preset) -> dict[str, Json]:
    """The configs of a diffusers folder that describe ``preset``, by their paths in it.

    Raises
    ------
    CheckpointError
        if the preset has no such description: it diffuses pixels, or reads no prompts, or is a rectified flow.
    """
    if preset.autoencoder is None or preset.text is None:
        raise CheckpointError(
            f"{preset.name} has no autoencoder or no text encoder, and a diffusers folder of Stable Diffusion wants "
            "both; keep it in ldm-edu's own layout."
        )
    return {
        "model_index.json": _index(preset),
        "unet/config.json": _unet(preset),
        "vae/config.json": _autoencoder(preset.autoencoder, preset.size),
        "text_encoder/config.json": _text(preset.text),
        "scheduler/scheduler_config.json": _schedule(preset),
    }


def _index(preset: Preset) -> Json:
    if preset.unet.in_channels not in PIPELINES:
        raise CheckpointError(f"diffusers has no pipeline for a U-Net that reads {preset.unet.in_channels} channels.")
    return {
        "_class_name": PIPELINES[preset.unet.in_channels],
        "_diffusers_version": "0.6.0",
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "PNDMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }


def _unet(preset: Preset) -> Json:
    unet, factor = preset.unet, preset.autoencoder.factor if preset.autoencoder else 1
    layers = [depth or unet.mid_depth for depth in unet.depth]
    if unet.mid_depth == 0 or layers[-1] != unet.mid_depth:
        raise CheckpointError(f"diffusers' U-Net has no middle with {unet.mid_depth} transformer layers after {unet}.")
    for name in ("vector_dim", "linear_proj", "head_dim"):
        if getattr(unet, name):
            raise CheckpointError(f"{preset.name} is no Stable Diffusion 1.x: its U-Net has {name}; it stays as it is.")
    return {
        "_class_name": "UNet2DConditionModel",
        "act_fn": "silu",
        "attention_head_dim": unet.heads,  # the number of heads, for historical reasons
        "block_out_channels": [unet.channels * mult for mult in unet.mults],
        "cross_attention_dim": unet.context_dim,
        "down_block_types": ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in unet.depth],
        "in_channels": unet.in_channels,
        "layers_per_block": unet.blocks,
        "norm_eps": 1e-5,
        "norm_num_groups": unet.groups,
        "out_channels": unet.out_channels,
        "sample_size": preset.size // factor,
        "transformer_layers_per_block": layers,
        "up_block_types": ["CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(unet.depth)],
    }


def _autoencoder(config: AutoencoderConfig, size: int) -> Json:
    levels = len(config.mults)
    if config.shift:
        raise CheckpointError(
            f"the latents of this autoencoder are shifted by {config.shift}, and diffusers' pipeline of Stable "
            "Diffusion would not shift them back; convert it to compvis, or keep it in ldm-edu's own layout."
        )
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
        "sample_size": size,
        "scaling_factor": config.scale,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
    }


def _text(config: TextConfig) -> Json:
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


def _schedule(preset: Preset) -> Json:
    config = preset.schedule
    kinds = {ours: theirs for theirs, ours in SCHEDULES.items()}
    names = {ours: theirs for theirs, ours in PREDICTIONS.items()}
    if config.kind not in kinds or preset.prediction not in names:
        raise CheckpointError(
            f"{preset.name} predicts {preset.prediction} on a {config.kind} schedule, which diffusers' pipeline of "
            "Stable Diffusion does not draw with; keep it in ldm-edu's own layout."
        )
    return {
        "_class_name": "PNDMScheduler",
        "_diffusers_version": "0.6.0",
        "beta_end": config.beta_end,
        "beta_schedule": kinds[config.kind],
        "beta_start": config.beta_start,
        "clip_sample": False,
        "num_train_timesteps": config.steps,
        "prediction_type": names[preset.prediction],
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
    }


def _mults(widths: list[int], where: str) -> tuple[int, ...]:
    if not widths or any(width % widths[0] for width in widths):
        _refuse(where, "block_out_channels", widths)
    return tuple(width // widths[0] for width in widths)


def _usual(config: Mapping[str, Any], usual: Json, where: str) -> None:
    for name, value in usual.items():
        if config.get(name, value) != value:
            _refuse(where, name, config[name])


def _refuse(where: str, name: str, value: object) -> None:
    raise CheckpointError(
        f"{where} asks for {name} = {value!r}, which Stable Diffusion 1.x has not and this version does not know; take "
        "a model of version 1.x."
    )
