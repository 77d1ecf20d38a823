"""One file with every network in it, as the first release of Stable Diffusion had it ("CompVis's layout")."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from ldm_edu.weights.errors import CheckpointError
from ldm_edu.weights.mapped import Stored, WeightFile, open_weights
from ldm_edu.checkpoint.parts import Checkpoint, Entry, Part, Weights, pairs_of, parts_of
from ldm_edu.config import SD15, SD15_INPAINT, SD15_PIX2PIX, Preset, from_dict

PREFIXES = {
    "unet": "model.diffusion_model.",
    "autoencoder": "first_stage_model.",
    "text": "cond_stage_model.transformer.",
}
AVERAGED = "model_ema."  # a second copy of the U-Net in some files, averaged over training
NOTE = "ldm_edu.preset"  # in the metadata of the files that we write: the preset, for models that are not SD 1.x

# What such files carry besides, and drawing does not need: the numbers of the schedule, which the preset knows ...
_SPARE = {
    "betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod", "posterior_variance",
    "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2", "lvlb_weights", "logvar",
    "scale_factor", "model_ema.decay", "model_ema.num_updates",
    # ... and the rest of CLIP, which some tools leave in
    "cond_stage_model.logit_scale", "cond_stage_model.text_projection", "cond_stage_model.transformer.logit_scale",
    "cond_stage_model.transformer.text_projection.weight",
}  # fmt: skip
_SPARE_PREFIXES = ("first_stage_model.loss.",)  # the autoencoder's training losses
_BY_CHANNELS = {preset.unet.in_channels: preset for preset in (SD15, SD15_INPAINT, SD15_PIX2PIX)}


def open_single_file(path: Path, preset: Preset | None = None, weights: Weights | None = None) -> Checkpoint:
    """Look into a single file.

    Parameters
    ----------
    preset
        the model that it holds; None: told from the file.
    weights
        which copy of the U-Net, where the file has two.

    Raises
    ------
    CheckpointError
        if it is damaged, is another kind of model, or has two copies and none was named.
    """
    file = open_weights(path)
    preset = preset or _noted_preset(file) or _known_preset(file)
    refuse_other_models(path, file.tensors, preset)
    kept, spare = _sort_out(file.tensors)
    prefix = _unet_prefix(path, kept, weights)

    parts = {}
    for part in parts_of(preset):
        if part not in PREFIXES:
            raise CheckpointError(f"{preset.name} has a part {part!r}, which this layout has no place for.")
        if part == "unet" and prefix == AVERAGED:
            pairs = [pair._replace(theirs=averaged_name(pair.theirs)) for pair in pairs_of(part, preset, "compvis")]
        else:
            pairs = pairs_of(part, preset, "compvis", _text_prefix(kept))
        start = prefix if part == "unet" else PREFIXES[part]
        entries = {name.removeprefix(start): Entry(file, name) for name in kept if name.startswith(start)}
        parts[part] = Part(f"the {part} in the file {path}, taken for {preset.name}", entries, pairs)
    unused = PREFIXES["unet"] if prefix == AVERAGED else AVERAGED
    spare += [name for name in kept if name.startswith(unused)]
    strangers = [name for name in kept if not name.startswith((*PREFIXES.values(), AVERAGED))]
    return Checkpoint(path, "compvis", preset, parts, sorted(spare), strangers)


def copies(names: Iterable[str]) -> list[Weights]:
    """Which copies of the U-Net a file of these names holds."""
    starts: dict[Weights, str] = {"last": PREFIXES["unet"], "ema": AVERAGED}
    kept, _ = _sort_out(names)
    return [copy for copy, start in starts.items() if any(name.startswith(start) for name in kept)]


def averaged_name(name: str) -> str:
    """The name of a U-Net's tensor in its averaged copy: without dots, below the name of the module around it.

    >>> averaged_name("input_blocks.0.0.weight")
    'diffusion_modelinput_blocks00weight'
    """
    return "diffusion_model" + name.replace(".", "")


def refuse_other_models(path: Path, tensors: Mapping[str, Stored], preset: Preset) -> None:
    """Raise CheckpointError, naming the model, if a file is not one of Stable Diffusion 1.x in this layout."""
    found = kind_of(tensors, preset.unet.context_dim)
    if found is not None:
        raise CheckpointError(
            f"{path} is no Stable Diffusion 1.x in one file: it holds {found}. This version of ldm-edu reads Stable "
            "Diffusion 1.x, its inpainting and instruct-pix2pix variants, and folders of its own; take one of those."
        )


def kind_of(tensors: Mapping[str, Stored], context_dim: int | None = 768) -> str | None:
    """What a file is that is no single file of Stable Diffusion 1.x; None if it looks like one.

    Parameters
    ----------
    context_dim
        the width of the text states that its U-Net should attend to.
    """
    for mark, kind in _MARKS.items():
        if any(mark in name for name in tensors):
            return kind
    if not any(name.startswith((PREFIXES["unet"], AVERAGED)) for name in tensors):
        for name, network in _NETWORKS.items():
            if name in tensors:
                return f"a single network, {network}; give the folder of the whole model"
        first = min(tensors, default="nothing")
        return f"{len(tensors)} tensors of a layout that is not known here, the first of them {first}"
    widths = {stored.shape[-1] for name, stored in tensors.items() if name.endswith("attn2.to_k.weight")}
    if widths - {context_dim}:
        return _BY_WIDTH.get(max(widths), f"a U-Net for text states of width {max(widths)}, not {context_dim}")
    return None


_MARKS = {  # part of a name: what has such names; the first that fits decides
    "lora_": "a LoRA, which changes a model and is none",
    ".lora": "a LoRA, which changes a model and is none",
    "conditioner.embedders.1.": "Stable Diffusion XL",
    "conditioner.": "Stable Diffusion XL, or its refiner (it has conditioner.embedders)",
    "joint_blocks.": "Stable Diffusion 3",
    "double_blocks.": "FLUX",
    "cond_stage_model.model.": "Stable Diffusion 2.x",
    "model.diffusion_model.label_emb.": "Stable Diffusion XL",
    "control_model.": "a ControlNet",
    "controlnet_cond_embedding.": "a ControlNet",
}
_NETWORKS = {  # a tensor that only this network has
    "down_blocks.0.resnets.0.time_emb_proj.weight": "diffusers' U-Net",
    "encoder.down_blocks.0.resnets.0.conv1.weight": "diffusers' autoencoder",
    "text_model.embeddings.token_embedding.weight": "the text encoder",
    "embeddings.token_embedding.weight": "the text encoder",
    "down.0.stages.0.res.conv1.weight": "our U-Net",
}
_BY_WIDTH = {1024: "Stable Diffusion 2.x", 1280: "the refiner of Stable Diffusion XL", 2048: "Stable Diffusion XL"}


def _known_preset(file: WeightFile) -> Preset:
    """Stable Diffusion 1.5 or one of its variants, by the number of channels that the U-Net's first layer reads."""
    stored = file.tensors.get(PREFIXES["unet"] + "input_blocks.0.0.weight")
    channels = stored.shape[1] if stored is not None and len(stored.shape) == 4 else SD15.unet.in_channels
    if channels not in _BY_CHANNELS:
        known = ", ".join(f"{count} ({preset.name})" for count, preset in _BY_CHANNELS.items())
        raise CheckpointError(f"{file.path} holds a U-Net that reads {channels} channels; known are {known}.")
    return _BY_CHANNELS[channels]


def _noted_preset(file: WeightFile) -> Preset | None:
    if NOTE not in file.metadata:
        return None
    try:
        preset: Preset = from_dict(Preset, json.loads(file.metadata[NOTE]))
    except (ValueError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise CheckpointError(f"{file.path} describes no model: {error}. Convert it anew.") from error
    return preset


def _sort_out(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """The names that matter, and those that are known not to."""
    kept: list[str] = []
    spare: list[str] = []
    for name in names:
        known = name in _SPARE or name.endswith("embeddings.position_ids") or name.startswith(_SPARE_PREFIXES)
        (spare if known else kept).append(name)
    return kept, spare


def _unet_prefix(path: Path, names: Iterable[str], weights: Weights | None) -> str:
    """Where the wanted copy of the U-Net lies."""
    found = copies(names)
    if len(found) > 1 and weights is None:
        raise CheckpointError(
            f"{path} holds the U-Net twice: as training left it, and averaged over its last steps (EMA). Say which: "
            'weights="ema" for drawing (--weights ema), weights="last" for training on (--weights last).'
        )
    if len(found) < 2 and weights is not None:
        raise CheckpointError(
            f"{path} holds one copy of the U-Net, so there is no {weights!r} to choose; leave it out."
        )
    return AVERAGED if (weights or "".join(found)) == "ema" else PREFIXES["unet"]


def _text_prefix(kept: list[str]) -> str:
    """Some tools leave out the part of the text encoder's names that `transformers` 5 leaves out too."""
    start = PREFIXES["text"] + "text_model."
    return "text_model." if any(name.startswith(start) for name in kept) else ""
