"""SDXL: its files and folders, of the base and its variants, and of the refiner (Podell et al. 2023).

Base and refiner are two families, since they read prompts with other text encoders and are published under other names.
The autoencoder overflows in float16, and runs in float32 then. Files of kohya's tools that were saved from a diffusers
folder hold the text projection the wrong way round, and nothing in them tells.
"""

import dataclasses
import re
from collections.abc import Mapping
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from ldm_edu.conditioners.conditioner import Conditioner
from ldm_edu.conditioners.two_texts import TwoTextConditioner
from ldm_edu.config import (
    Beside,
    Prediction,
    ScheduleConfig,
)
from ldm_edu.families.family import Family, Folder, Networks, Part
from ldm_edu.families.sd1 import IGNORED, prediction_marks
from ldm_edu.families.sdxl_presets import (
    COSXL,
    PLAYGROUND25,
    PRESETS,
    SDXL,
    SDXL_INPAINT,
    SDXL_PIX2PIX,
    SDXL_REFINER,
    SDXLPreset,
)
from ldm_edu.families.unet_parts import autoencoder_part, note_of, tokenizer_of, told_prediction, unet_part, unet_shapes
from ldm_edu.layouts import clip, openclip
from ldm_edu.layouts.autoencoder import AUTOENCODER
from ldm_edu.layouts.pair import Json
from ldm_edu.layouts.schedule import read_schedule, write_schedule
from ldm_edu.layouts.unet import UNET, read_unet
from ldm_edu.tokenizer import Tokenizer
from ldm_edu.weights.errors import CheckpointError
from ldm_edu.weights.mapped import WeightFile

PIPELINES: dict[str, Beside] = {
    "StableDiffusionXLPipeline": "nothing",
    "StableDiffusionXLImg2ImgPipeline": "nothing",
    "StableDiffusionXLInpaintPipeline": "mask",
    "StableDiffusionXLInstructPix2PixPipeline": "picture",
}
DISTILLED = {  # transformer layers of the three levels: models with a part of SDXL's layers
    (0, 2, 4): "SSD-1B", (0, 1, 2): "Segmind-Vega", (0, 2, 5): "KOALA-700M", (0, 2, 6): "KOALA-1B",
}  # fmt: skip
CLIP_PREFIX = "conditioner.embedders.0.transformer."
BASE_PREFIX, REFINER_PREFIX = "conditioner.embedders.1.model.", "conditioner.embedders.0.model."
MARKS = ("v_pred", "ztsnr", "edm_mean", "edm_std", "edm_vpred.sigma_max", "edm_vpred.sigma_min")


def conditioner(preset: SDXLPreset, networks: Networks) -> Conditioner:
    """Prompts to all of a preset's text encoders."""
    configs = {"text": preset.text, "text2": preset.text2}
    readers = [(tokenizer_of(config), networks[name]) for name, config in configs.items() if config is not None]
    size = (preset.size, preset.size)
    return TwoTextConditioner(readers, size, numbers=preset.numbers, zeros=preset.zeros)  # type: ignore[arg-type]


# --- one file ---------------------------------------------------------------------------------------------------------


def recognise(file: WeightFile) -> SDXLPreset | None:
    """The variant, by the U-Net's channels, and by tensors that stand in a file for no other purpose.

    Raises
    ------
    CheckpointError
        for a relative with fewer layers, by its name.
    """
    unet = unet_shapes(file)
    if unet is None or unet.contexts != {SDXL.unet.context_dim}:
        return None
    refuse_distilled(_depths(file), str(file.path))
    if "edm_mean" in file.tensors:
        return PLAYGROUND25
    if "edm_vpred.sigma_max" in file.tensors:
        return dataclasses.replace(COSXL, schedule=_schedule_of(file))
    variants = {preset.unet.in_channels: preset for preset in (SDXL, SDXL_INPAINT, SDXL_PIX2PIX)}
    found = variants.get(unet.channels or 0)
    zero_snr = ScheduleConfig(rescale_betas_zero_snr="ztsnr" in file.tensors)
    return found and dataclasses.replace(found, prediction=_prediction(file)[0], schedule=zero_snr)


def recognise_refiner(file: WeightFile) -> SDXLPreset | None:
    """The refiner, by the width of the text states that it reads, and its vector."""
    unet, refiner = unet_shapes(file), SDXL_REFINER.unet
    found = unet is not None and unet.contexts == {refiner.context_dim} and unet.vector == refiner.vector_dim
    return SDXL_REFINER if found else None


def notes(file: WeightFile) -> list[str]:
    """What the network was taken to predict, and why; that nothing tells the models of few steps from the base."""
    return [note_of(*_prediction(file))]


def marks(preset: SDXLPreset) -> dict[str, Tensor]:
    """The tensors by which tools tell how a model of these networks is drawn with."""
    config, schedule = preset.autoencoder, preset.schedule
    if preset.prediction == "edm" and config.latents_mean is not None and config.latents_std is not None:
        mean, std = torch.tensor([config.latents_mean, config.latents_std])  # (C,) each
        return {"edm_mean": mean.reshape(1, -1, 1, 1), "edm_std": std.reshape(1, -1, 1, 1)}
    if preset.prediction == "edm_v":
        ends = {"edm_vpred.sigma_max": schedule.sigma_max, "edm_vpred.sigma_min": schedule.sigma_min}
        return {name: torch.tensor(sigma) for name, sigma in ends.items()}
    return prediction_marks(preset)


def refuse_distilled(depths: tuple[int, ...], where: str) -> None:
    """Raise CheckpointError, naming the model, for one with a part of SDXL's transformer layers."""
    if depths in DISTILLED:
        raise CheckpointError(
            f"{where} is {DISTILLED[depths]}, a smaller relative of SDXL that is not read here; take SDXL itself, or a "
            "model that was trained from it with all its layers."
        )


def _prediction(file: WeightFile) -> tuple[Prediction, str]:
    for name, prediction in {"edm_mean": "edm", "edm_vpred.sigma_max": "edm_v"}.items():
        if name in file.tensors:
            return prediction, f"the file is marked with {name}"  # type: ignore[return-value]
    return told_prediction(file) or ("eps", "nothing in the file says otherwise")


def _schedule_of(file: WeightFile) -> ScheduleConfig:
    """CosXL's schedule with the ends that its file names."""

    def end(name: str, usual: float) -> float:
        return round(float(file.read(f"edm_vpred.{name}")), 6) if f"edm_vpred.{name}" in file.tensors else usual

    usual = COSXL.schedule
    low, high = end("sigma_min", usual.sigma_min), end("sigma_max", usual.sigma_max)
    return dataclasses.replace(usual, sigma_min=low, sigma_max=high)


def _depths(file: WeightFile) -> tuple[int, ...]:
    """The transformer layers of each level, the most of its blocks."""
    blocks, ends = dict[int, int](), set[int]()
    for name in file.tensors:
        if found := re.match(
            r"model\.diffusion_model\.input_blocks\.(\d+)\.(?:1\.transformer_blocks\.(\d+)|0\.op)\.", name
        ):
            if found[2] is None:
                ends.add(int(found[1]))
            else:
                blocks[int(found[1])] = max(blocks.get(int(found[1]), 0), int(found[2]) + 1)
    edges = [0, *sorted(ends), max([*blocks, *ends], default=0) + 1]
    return tuple(max((blocks.get(i, 0) for i in range(low, high)), default=0) for low, high in pairwise(edges))


# --- a folder ---------------------------------------------------------------------------------------------------------


def read_folder(folder: Folder, *, refiner: bool = False) -> SDXLPreset | None:
    """The preset that a folder's configs describe: a known one by its name, another by the folder's.

    Raises
    ------
    CheckpointError
        if a config asks for what the networks here do not do, or describes a relative with fewer layers.
    """
    if folder.pipeline not in PIPELINES:
        return None
    text2 = folder.read("text_encoder_2/config.json", openclip.TEXT.read)
    if refiner != (folder.read("unet/config.json", lambda values, _: values.get("cross_attention_dim")) == text2.width):
        return None
    folder.read("unet/config.json", lambda values, where: refuse_distilled(_depths_of(values), where))
    unet = folder.read("unet/config.json", partial(read_unet, beside=PIPELINES[folder.pipeline]))
    autoencoder = folder.read("vae/config.json", AUTOENCODER.read)
    text = None if refiner else folder.read("text_encoder/config.json", clip.TEXT.read)
    schedule, prediction = folder.read("scheduler/scheduler_config.json", read_schedule)
    side = folder.read("unet/config.json", lambda values, _: values.get("sample_size"))
    zeros = folder.read("model_index.json", lambda values, _: values.get("force_zeros_for_empty_prompt", True))
    found = SDXLPreset(
        family="sdxl_refiner" if refiner else "sdxl",
        name=folder.name,
        size=side * autoencoder.factor if isinstance(side, int) and side > 0 else SDXL.size,
        unet=unet,
        autoencoder=autoencoder,
        text=text,
        text2=text2,
        zeros=bool(zeros),
        schedule=schedule,
        prediction=prediction,
        defaults={"edm": PLAYGROUND25, "edm_v": COSXL}.get(prediction, SDXL).defaults,
    )
    for known in (SDXL_REFINER, *PRESETS):
        if dataclasses.replace(found, name=known.name, size=known.size, defaults=known.defaults) == known:
            return dataclasses.replace(known, size=found.size)
    return found


def write_folder(preset: SDXLPreset) -> dict[str, Json]:
    """The configs of a folder that describe a preset, by their paths in it."""
    schedule = write_schedule(preset)
    pipelines = {beside: name for name, beside in reversed(PIPELINES.items())}
    pipeline = "StableDiffusionXLImg2ImgPipeline" if preset.text is None else pipelines[preset.beside]
    index: Json = {
        "_class_name": pipeline,
        "_diffusers_version": "0.19.0",
        "force_zeros_for_empty_prompt": preset.zeros,
        "scheduler": ["diffusers", schedule["_class_name"]],
        "text_encoder": [None, None] if preset.text is None else ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer": [None, None] if preset.text is None else ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    if pipeline in ("StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLInpaintPipeline"):
        index["requires_aesthetics_score"] = preset.numbers == "score"
    unet = {"addition_time_embed_dim": 256, "sample_size": preset.size // preset.autoencoder.factor}
    configs = {
        "model_index.json": index,
        "unet/config.json": UNET.write(preset.unet) | unet,
        "vae/config.json": AUTOENCODER.write(preset.autoencoder) | {"sample_size": preset.size, "force_upcast": True},
        "text_encoder_2/config.json": openclip.TEXT.write(preset.text2),
        "scheduler/scheduler_config.json": schedule,
    }
    return configs | ({} if preset.text is None else {"text_encoder/config.json": clip.TEXT.write(preset.text)})


def tokenizers(preset: SDXLPreset) -> dict[str, Tokenizer]:
    """The tokenizers of a folder, by the names of their own folders there."""
    first = {} if preset.text is None else {"tokenizer": tokenizer_of(preset.text)}
    return first | {"tokenizer_2": tokenizer_of(preset.text2)}


def _depths_of(unet: Mapping[str, object]) -> tuple[int, ...]:
    """The transformer layers of each level of a ``unet/config.json``, the most of its blocks where it lists them."""
    kinds, layers = unet.get("down_block_types"), unet.get("transformer_layers_per_block")
    if not isinstance(kinds, list) or not isinstance(layers, list):
        return ()
    most = [max(each) if isinstance(each, list) else each for each in layers]
    return tuple(count if "Cross" in str(kind) else 0 for kind, count in zip(kinds, most, strict=False))


def _parts(prefix: str) -> tuple[Part, ...]:
    return (
        unet_part(),
        dataclasses.replace(autoencoder_part(), float16=False),
        Part("text", "text encoder", clip.TEXT, lambda p: p.text, "text_encoder", "model", CLIP_PREFIX, (), "text"),
        Part("text2", "second text encoder", openclip.TEXT, lambda p: p.text2, "text_encoder_2", "model", prefix),
    )


FAMILY = Family(
    name="sdxl",
    title="Stable Diffusion XL",
    preset=SDXLPreset,
    presets=PRESETS,
    parts=_parts(BASE_PREFIX),
    network="unet",
    conditioner=conditioner,
    recognise=recognise,
    read_folder=read_folder,
    write_folder=write_folder,
    tokenizers=tokenizers,
    ignored=(*IGNORED, *MARKS, "conditioner.embedders.*.logit_scale", "denoiser.sigmas"),
    notes=notes,
    marks=marks,
)
REFINER = dataclasses.replace(
    FAMILY,
    name="sdxl_refiner",
    title="the refiner of Stable Diffusion XL",
    presets=(SDXL_REFINER,),
    parts=_parts(REFINER_PREFIX),
    recognise=recognise_refiner,
    read_folder=partial(read_folder, refiner=True),
    notes=lambda file: [],
    marks=lambda preset: {},
)
