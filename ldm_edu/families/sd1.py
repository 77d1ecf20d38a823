"""Stable Diffusion 1.x, its inpainting variant, and InstructPix2Pix (Rombach et al. 2022; Brooks et al. 2023)."""

import dataclasses
from functools import partial

import torch
from torch import Tensor

from ldm_edu.config import (
    AutoencoderConfig,
    Beside,
    Prediction,
    Preset,
    ScheduleConfig,
    TextConfig,
    UNetConfig,
    UNetPreset,
)
from ldm_edu.families.family import Family, Folder
from ldm_edu.families.unet_parts import (
    autoencoder_part,
    conditioner,
    has_exact_gelu,
    note_of,
    read_unet_folder,
    text_part,
    tokenizers,
    told_prediction,
    unet_part,
    unet_shapes,
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
    "*embeddings.position_ids", "first_stage_model.loss.*", "*.vision_model.*",
    "*.visual_projection.weight", "v_pred", "ztsnr",
)  # fmt: skip


def recognise(file: WeightFile) -> UNetPreset | None:
    """The variant, by the channels that the U-Net's first layer reads, where the text states are 768 wide."""
    unet = unet_shapes(file)
    if unet is None or unet.contexts - {SD15.unet.context_dim} or unet.vector is not None:
        return None
    found = {preset.unet.in_channels: preset for preset in PRESETS}.get(unet.channels or SD15.unet.in_channels)
    zero_snr = ScheduleConfig(rescale_betas_zero_snr="ztsnr" in file.tensors)
    return found and dataclasses.replace(found, prediction=_prediction(file)[0], schedule=zero_snr)


def notes(file: WeightFile) -> list[str]:
    """What the network was taken to predict, and why."""
    return [note_of(*_prediction(file))]


def _prediction(file: WeightFile) -> tuple[Prediction, str]:
    return told_prediction(file) or ("eps", "nothing in the file says otherwise")


def prediction_marks(preset: Preset) -> dict[str, Tensor]:
    """The tensors by which tools tell that a network predicts v, and that its schedule ends in pure noise."""
    found = {"v_pred": preset.prediction == "v", "ztsnr": preset.schedule.rescale_betas_zero_snr}
    return {name: torch.tensor(1.0) for name, stands in found.items() if stands}


def read_folder(folder: Folder) -> UNetPreset | None:
    """The preset of a folder whose text encoder is CLIP's, with quick GELU."""
    if folder.pipeline and folder.pipeline not in PIPELINES:
        return None
    return None if has_exact_gelu(folder) else read_unet_folder(folder, "sd1", PIPELINES, PRESETS)


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
    notes=notes,
    marks=prediction_marks,
)
