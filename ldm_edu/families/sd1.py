"""Stable Diffusion 1.x, its inpainting variant, and InstructPix2Pix (Rombach et al. 2022; Brooks et al. 2023)."""

import dataclasses
from functools import partial

from ldm_edu.config import AutoencoderConfig, Beside, TextConfig, UNetConfig, UNetPreset
from ldm_edu.families.family import Family, Folder
from ldm_edu.families.unet_parts import (
    autoencoder_part,
    conditioner,
    read_unet_folder,
    text_part,
    tokenizers,
    unet_part,
    write_unet_folder,
)
from ldm_edu.weights.mapped import WeightFile

SD15 = UNetPreset(
    family="sd1", name="sd15", size=512, unet=UNetConfig(), autoencoder=AutoencoderConfig(), text=TextConfig()
)
SD15_INPAINT = dataclasses.replace(SD15, name="sd15_inpaint", unet=UNetConfig(in_channels=9, beside="mask"))
SD15_PIX2PIX = dataclasses.replace(SD15, name="sd15_pix2pix", unet=UNetConfig(in_channels=8, beside="picture"))
PRESETS = (SD15, SD15_INPAINT, SD15_PIX2PIX)

PIPELINES: dict[str, Beside] = {
    "StableDiffusionPipeline": "nothing",
    "StableDiffusionInpaintPipeline": "mask",
    "StableDiffusionInstructPix2PixPipeline": "picture",
}
TEXT_PREFIX = "cond_stage_model.transformer."

# What the one file carries besides the networks: the numbers of the schedule, which the preset has, the training losses
# of the autoencoder, and the rest of CLIP, which some tools keep.
IGNORED = (
    "betas", "*alphas_cumprod*", "posterior_*", "lvlb_weights", "logvar", "scale_factor", "model_ema.decay",
    "model_ema.num_updates", "cond_stage_model.logit_scale", "cond_stage_model.text_projection",
    "cond_stage_model.transformer.logit_scale", "cond_stage_model.transformer.text_projection.weight",
    "*embeddings.position_ids", "first_stage_model.loss.*",
)  # fmt: skip


def recognise(file: WeightFile) -> UNetPreset | None:
    """The variant, by the channels that the U-Net's first layer reads, where the text states are 768 wide."""
    unet = {
        name: stored
        for name, stored in file.tensors.items()
        if name.startswith(("model.diffusion_model.", "model_ema."))
    }
    widths = {
        stored.shape[-1] for name, stored in unet.items() if name.endswith(("attn2.to_k.weight", "attn2to_kweight"))
    }
    if not unet or (widths and widths != {SD15.unet.context_dim}) or any("label_emb" in name for name in unet):
        return None
    first = [
        stored.shape[1]
        for name, stored in unet.items()
        if name.endswith(("diffusion_model.input_blocks.0.0.weight", "diffusion_modelinput_blocks00weight"))
        and len(stored.shape) == 4
    ]
    by_channels = {preset.unet.in_channels: preset for preset in PRESETS}
    return by_channels.get(first[0] if first else SD15.unet.in_channels)


def read_folder(folder: Folder) -> UNetPreset | None:
    """The preset of a folder whose text encoder is CLIP's, with quick GELU."""
    if folder.pipeline and folder.pipeline not in PIPELINES:
        return None
    activation = folder.read("text_encoder/config.json", lambda values, _: values.get("hidden_act", "quick_gelu"))
    return None if activation == "gelu" else read_unet_folder(folder, "sd1", PIPELINES, PRESETS)


FAMILY = Family(
    name="sd1",
    title="Stable Diffusion 1.x",
    preset=UNetPreset,
    presets=PRESETS,
    parts=(unet_part(), autoencoder_part(), text_part(TEXT_PREFIX)),
    network="unet",
    conditioner=conditioner,
    recognise=recognise,
    read_folder=read_folder,
    write_folder=partial(write_unet_folder, pipelines=PIPELINES),
    tokenizers=tokenizers,
    ignored=IGNORED,
)
