"""Stable Diffusion 2.0 and 2.1: OpenCLIP's text encoder; noise or v predicted, at 512 or 768 pixels.

A file does not say whether its network predicts eps or v, and a wrong guess draws mud. A folder's scheduler says so. Of
a file, its header may; if not, v is taken where the biases of one norm spread widely, as those of the published models
do (ComfyUI tells them apart by the same norm). Either way `notes` says what was taken, and why.
"""

import dataclasses

from ldm_edu.config import AutoencoderConfig, Beside, Prediction, Sampling, UNetConfig, UNetPreset
from ldm_edu.families.family import Family, Folder
from ldm_edu.families.sd1 import IGNORED
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
from ldm_edu.layouts import openclip
from ldm_edu.layouts.pair import Json
from ldm_edu.weights.errors import CheckpointError
from ldm_edu.weights.mapped import WeightFile

_UNET = UNetConfig(context_dim=1024, heads=None, head_dim=64, linear_proj=True)

SD21 = UNetPreset(
    family="sd2",
    name="sd21",
    size=768,
    unet=_UNET,
    autoencoder=AutoencoderConfig(),
    text=openclip.H,
    prediction="v",
    defaults=Sampling(steps=25, guidance=7.5),
)
SD21_BASE = dataclasses.replace(SD21, name="sd21_base", size=512, prediction="eps")
SD20, SD20_BASE = (dataclasses.replace(SD21, name="sd20"), dataclasses.replace(SD21_BASE, name="sd20_base"))
SD2_INPAINT = dataclasses.replace(
    SD21_BASE, name="sd2_inpaint", unet=dataclasses.replace(_UNET, in_channels=9, beside="mask")
)
SD2_DEPTH = dataclasses.replace(
    SD21_BASE, name="sd2_depth", unet=dataclasses.replace(_UNET, in_channels=5, beside="depth")
)
PRESETS = (SD21, SD21_BASE, SD20, SD20_BASE, SD2_INPAINT, SD2_DEPTH)  # 2.0 and 2.1 differ in their weights alone

PIPELINES: dict[str, Beside] = {
    "StableDiffusionPipeline": "nothing",
    "StableDiffusionInpaintPipeline": "mask",
    "StableDiffusionDepth2ImgPipeline": "depth",
}
TEXT_PREFIX = "cond_stage_model.model."
SGM_PREFIX = "conditioner.embedders.0.model."  # the same encoder in files of generative-models
UNREAD = ("transformer.resblocks.23.*", "text_projection", "text_projection.weight", "logit_scale", "attn_mask")

NORM = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"
WIDE = 0.09  # standard deviation of that norm's biases: above in the published models of v, below in those of eps


def recognise(file: WeightFile) -> UNetPreset | None:
    """The variant, by the channels that the U-Net's first layer reads, where the text states are 1024 wide.

    Raises
    ------
    CheckpointError
        for a relative that is not read here: the upscaler, and unCLIP.
    """
    unet = unet_shapes(file)
    if unet is None or unet.contexts != {_UNET.context_dim}:
        return None
    if unet.vector is not None:
        raise CheckpointError(f"{file.path} is Stable unCLIP, which reads pictures too; take a Stable Diffusion 2.")
    if unet.channels == 7:
        raise CheckpointError(f"{file.path} is the x4 upscaler of Stable Diffusion 2; take a model that draws.")
    if unet.channels == _UNET.in_channels:
        prediction = _prediction(file)[0]
        return SD21 if prediction == "v" else dataclasses.replace(SD21_BASE, prediction=prediction)
    return {preset.unet.in_channels: preset for preset in PRESETS[-2:]}.get(unet.channels or 0)


def notes(file: WeightFile) -> list[str]:
    """What the network was taken to predict, and why."""
    return [note_of(*_prediction(file))]


def _prediction(file: WeightFile) -> tuple[Prediction, str]:
    if (told := told_prediction(file)) is not None:
        return told
    first = file.tensors.get("model.diffusion_model.input_blocks.0.0.weight")
    if first is not None and first.shape[1] != _UNET.in_channels:
        return "eps", "all published variants with more channels do"
    if NORM not in file.tensors:
        return "eps", "nothing in the file tells"
    spread = float(file.read(NORM).float().std(correction=0))
    comparison = "above" if spread > WIDE else "at most"
    return "v" if spread > WIDE else "eps", f"the biases of a norm spread by {spread:.3f}, {comparison} {WIDE}"


def read_folder(folder: Folder) -> UNetPreset | None:
    """The preset of a folder whose text encoder is OpenCLIP's, with exact GELU."""
    if folder.pipeline and folder.pipeline not in PIPELINES:
        return None
    return read_unet_folder(folder, "sd2", PIPELINES, PRESETS, openclip.TEXT) if has_exact_gelu(folder) else None


def write_folder(preset: UNetPreset) -> dict[str, Json]:
    """The configs of a folder; a flag lets diffusers compute the attention of v models in float32."""
    configs = write_unet_folder(preset, PIPELINES)
    if preset.prediction == "v":
        configs["unet/config.json"]["upcast_attention"] = True
    return configs


FAMILY = Family(
    name="sd2",
    title="Stable Diffusion 2.x",
    preset=UNetPreset,
    presets=PRESETS,
    parts=(unet_part(), autoencoder_part(), text_part(TEXT_PREFIX, openclip.TEXT, (SGM_PREFIX,))),
    network="unet",
    conditioner=conditioner,
    recognise=recognise,
    read_folder=read_folder,
    write_folder=write_folder,
    tokenizers=tokenizers,
    ignored=(
        *IGNORED,
        *(prefix + name for prefix in (TEXT_PREFIX, SGM_PREFIX) for name in UNREAD),
        "depth_model.*",
    ),
    notes=notes,
)
