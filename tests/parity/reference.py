"""Our configs as the reference libraries' arguments, and the comparison of two outputs."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ldm_edu.config import AutoencoderConfig, TextConfig, UNetConfig, UNetPreset, VisionConfig

# Stable Diffusion's layout at a size for tests
UNET = UNetConfig(channels=8, mults=(1, 2), blocks=1, depth=(1, 0), context_dim=16, heads=2, groups=4)
AUTOENCODER = AutoencoderConfig(channels=8, mults=(1, 2), blocks=1, groups=4)
TEXT = TextConfig(vocab=600, length=12, width=16, layers=2, heads=2)
SMALL_SD = UNetPreset(family="sd1", name="small-sd", size=16, unet=UNET, autoencoder=AUTOENCODER, text=TEXT)


def randomised(module: nn.Module, seed: int = 0) -> Any:
    """The module with random weights everywhere: what a fresh network leaves at 0 or 1 would hide a wrong name."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            scale = 0.3 if parameter.ndim < 2 else parameter[0].numel() ** -0.5
            parameter.copy_(scale * torch.randn(parameter.shape, generator=rng) + (parameter.ndim == 1))
    return module.eval()


def difference(ours: Tensor, theirs: Tensor) -> float:
    """The largest absolute difference, relative to the largest value of the reference."""
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / theirs.abs().max())


def norm_epsilons(module: nn.Module) -> dict[str, float]:
    """What each norm adds to the variance, by the name of its weight. An output hardly shows it: 1e-6 of its scale."""
    return {f"{name}.weight": norm.eps for name, norm in module.named_modules() if hasattr(norm, "eps")}


def reference_unet(config: UNetConfig) -> dict[str, Any]:
    """Arguments of `UNet2DConditionModel`."""
    heads: dict[str, int | Sequence[int] | None] = {
        "attention_head_dim": config.heads
    }  # it calls the number of heads so, for historical reasons
    if config.head_dim:
        heads: dict[str, int | Sequence[int] | None] = {
            "attention_head_dim": [config.channels * m // config.head_dim for m in config.mults]
        }
    depth = config.depth
    extra: dict[str, Any] = {}
    if config.vector_dim:
        extra = {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": config.vector_dim,
        }
    return {
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "block_out_channels": tuple(config.channels * m for m in config.mults),
        "layers_per_block": config.blocks,
        "down_block_types": tuple("CrossAttnDownBlock2D" if d else "DownBlock2D" for d in depth),
        "up_block_types": tuple("CrossAttnUpBlock2D" if d else "UpBlock2D" for d in reversed(depth)),
        "transformer_layers_per_block": tuple(d or config.mid_depth for d in depth),
        "cross_attention_dim": config.context_dim,
        "use_linear_projection": config.linear_proj,
        "norm_num_groups": config.groups,
        **heads,
        **extra,
    }


def reference_autoencoder(config: AutoencoderConfig) -> dict[str, Any]:
    """Arguments of `AutoencoderKL`."""
    levels = len(config.mults)
    return {
        "in_channels": config.in_channels,
        "out_channels": config.in_channels,
        "latent_channels": config.latent_channels,
        "block_out_channels": tuple(config.channels * m for m in config.mults),
        "layers_per_block": config.blocks,
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "norm_num_groups": config.groups,
    }


def reference_text(config: TextConfig) -> Any:
    """The config of `CLIPTextModel`, or of `CLIPTextModelWithProjection`."""
    import transformers

    return transformers.CLIPTextConfig(
        vocab_size=config.vocab,
        max_position_embeddings=config.length,
        hidden_size=config.width,
        intermediate_size=config.mlp_width or 4 * config.width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        hidden_act=config.activation,
        projection_dim=config.projection or 512,
        bos_token_id=config.vocab - 2,
        eos_token_id=config.vocab - 1,
        pad_token_id=config.vocab - 1 if config.pad is None else config.pad,
    )


def reference_vision(config: VisionConfig) -> Any:
    """The config of `CLIPVisionModel`."""
    import transformers

    return transformers.CLIPVisionConfig(
        image_size=config.size,
        patch_size=config.patch,
        hidden_size=config.width,
        intermediate_size=config.mlp_width or 4 * config.width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        hidden_act=config.activation,
    )


def reference_clip(text: TextConfig, vision: VisionConfig, embed_dim: int) -> Any:
    """The config of `CLIPModel`."""
    import transformers

    return transformers.CLIPConfig(
        text_config=reference_text(text).to_dict(),
        vision_config=reference_vision(vision).to_dict(),
        projection_dim=embed_dim,
    )
