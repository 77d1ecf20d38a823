"""Stable Diffusion 1.x as it was published: a folder in diffusers' layout, or one CompVis file, as our tensors."""

from pathlib import Path

from ldm_edu.checkpoint.io import CheckpointError, Tensors, read_file, refuse_pickle
from ldm_edu.checkpoint.keymaps import Pair, autoencoder_pairs, convert, select, text_pairs, unet_pairs
from ldm_edu.config import Preset

FOLDERS = {"unet": "unet", "autoencoder": "vae", "text": "text_encoder"}
PREFIXES = {
    "unet": "model.diffusion_model.",
    "autoencoder": "first_stage_model.",
    "text": "cond_stage_model.transformer.",
}
AVERAGED = "model_ema."  # a second copy of the U-Net in some files, averaged over training


def is_published(path: Path) -> bool:
    """Whether a path looks like a published checkpoint: a folder with a ``unet`` folder in it, or a single file."""
    return path.is_file() or (path / FOLDERS["unet"]).is_dir()


def load_published(path: Path, preset: Preset) -> dict[str, Tensors]:
    """The tensors of every part that ``preset`` has, under our names and as they are stored.

    Parameters
    ----------
    path
        the folder, or the .safetensors file.
    preset
        the model that it holds.

    Raises
    ------
    CheckpointError
        if a file is missing, damaged or a pickle, or holds another model.
    """
    refuse_pickle(path)
    parts = [part for part in FOLDERS if getattr(preset, part) is not None]
    if path.is_dir():
        found = {part: select(read_file(_file_in(path / FOLDERS[part]))) for part in parts}
    else:
        found = _split(read_file(path), parts)
    layout = "folder" if path.is_dir() else "file"
    converted = {}
    for part, tensors in found.items():
        try:
            converted[part] = convert(tensors, _pairs(part, preset, tensors, in_folder=path.is_dir()))
        except CheckpointError as error:
            raise CheckpointError(f"the {part} in the {layout} {path} is not that of {preset.name}: {error}") from error
    return converted


def _pairs(part: str, preset: Preset, tensors: Tensors, *, in_folder: bool) -> list[Pair]:
    if part == "text":
        assert preset.text is not None
        return text_pairs(preset.text, "text_model." if any(name.startswith("text_model.") for name in tensors) else "")
    if part == "unet":
        return unet_pairs(preset.unet, "diffusers" if in_folder else "compvis")
    assert preset.autoencoder is not None
    older = any(".query." in name for name in tensors)
    return autoencoder_pairs(
        preset.autoencoder, ("diffusers_old" if older else "diffusers") if in_folder else "compvis"
    )


def _split(tensors: Tensors, parts: list[str]) -> dict[str, Tensors]:
    """The networks of a single file. Dropped by name: the averaged copy, and the schedule's numbers (without a dot)."""
    known = (*PREFIXES.values(), AVERAGED)
    if other := sorted(name for name in tensors if "." in name and not name.startswith(known)):
        raise CheckpointError(
            f"this file is no Stable Diffusion 1.x in CompVis's layout: it holds {other[0]}. Give the folder of the "
            "model instead, or a file of version 1."
        )
    return {part: select(tensors, PREFIXES[part]) for part in parts}


def _file_in(folder: Path) -> Path:
    """The weights of one network of a diffusers folder; of several copies the one in full precision."""
    found = sorted(folder.glob("*.safetensors"), key=lambda path: len(path.name))  # fp16 copies have longer names
    if found:
        return found[0]
    for path in sorted(folder.glob("*")):
        refuse_pickle(path)
    raise CheckpointError(f"{folder} holds no .safetensors file; download the model anew, whole.")
