"""A folder with a folder for each network in it, as `diffusers` publishes Stable Diffusion.

Each network has a ``config.json``, and its weights in one file or in several that an index lists; a repository often
holds them twice, in full and (``.fp16``) in half precision, and the U-Net also as training left it (``.non_ema``).
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ldm_edu.checkpoint import diffusers_config as configs
from ldm_edu.weights.errors import PICKLES, CheckpointError, listed
from ldm_edu.checkpoint.keymaps import Layout
from ldm_edu.weights.mapped import open_weights
from ldm_edu.checkpoint.parts import Checkpoint, Entry, Part, Weights, pairs_of, parts_of
from ldm_edu.config import PRESETS, Preset, from_dict, to_dict

FOLDERS = {"unet": "unet", "autoencoder": "vae", "text": "text_encoder"}
STEMS = {"unet": "diffusion_pytorch_model", "autoencoder": "diffusion_pytorch_model", "text": "model"}
OTHER_PIPELINES = {"XL": "Stable Diffusion XL", "Diffusion3": "Stable Diffusion 3", "Flux": "FLUX"}


def open_diffusers_folder(path: Path, preset: Preset | None = None, weights: Weights | None = None) -> Checkpoint:
    """Look into a folder.

    Parameters
    ----------
    preset
        the model that it holds; None: what its configs say.
    weights
        which copy of the U-Net, where the folder has two: "ema" is the plain file, "last" the one called non_ema.

    Raises
    ------
    CheckpointError
        if a file is missing or damaged, or the configs describe another kind of model.
    """
    preset = preset or read_preset(path)
    parts, spare = {}, []
    for part in parts_of(preset):
        if part not in FOLDERS:
            raise CheckpointError(f"{preset.name} has a part {part!r}, which this layout has no place for.")
        entries = _entries(weight_files(path, part, weights if part == "unet" else None))
        spare += [f"{FOLDERS[part]}: {name}" for name in entries if name.endswith("position_ids")]
        entries = {name: entry for name, entry in entries.items() if not name.endswith("position_ids")}
        layout: Layout = "diffusers_old" if part == "autoencoder" and _is_old(entries) else "diffusers"
        prefix = "text_model." if any(name.startswith("text_model.") for name in entries) else ""
        what = f"the {part} in the folder {path}, taken for {preset.name}"
        parts[part] = Part(what, entries, pairs_of(part, preset, layout, prefix))
    return Checkpoint(path, "diffusers", preset, parts, spare)


def read_preset(path: Path) -> Preset:
    """The preset that the configs of a folder describe; a known one by its name, another by that of the folder.

    Raises
    ------
    CheckpointError
        if a config is missing or damaged, or asks for what the networks here do not do.
    """
    index = path / "model_index.json"
    pipeline = str(_json(index).get("_class_name")) if index.is_file() else ""
    for mark, name in OTHER_PIPELINES.items():
        if mark in pipeline:
            raise CheckpointError(f"{path} holds {name}, and this version reads 1.x; take a model of that version.")
    unet = _config(path / "unet" / "config.json", configs.read_unet)
    autoencoder = _config(path / "vae" / "config.json", configs.read_autoencoder)
    text = _config(path / "text_encoder" / "config.json", configs.read_text)
    schedule, prediction = _config(path / "scheduler" / "scheduler_config.json", configs.read_schedule)
    side = _json(path / "unet" / "config.json").get("sample_size")
    size = side * autoencoder.factor if isinstance(side, int) and side > 0 else 64 * autoencoder.factor
    found = Preset(path.resolve().name, size, unet, autoencoder, text, schedule=schedule, prediction=prediction)
    try:
        from_dict(Preset, to_dict(found))  # every field is of its type
    except ValueError as error:
        raise CheckpointError(f"the configs in {path} describe no model: {error}. Download it anew.") from error
    for known in PRESETS.values():
        if (known.unet, known.autoencoder, known.text) == (unet, autoencoder, text):
            return dataclasses.replace(known, size=size, schedule=schedule, prediction=prediction)
    return found


def weight_files(path: Path, part: str, weights: Weights | None = None) -> list[Path]:
    """The files of a network: in full precision if there are such, in safetensors if there are such.

    Raises
    ------
    CheckpointError
        if there are none, or an index lists one that is not there.
    """
    folder, stem = path / FOLDERS[part], STEMS[part]
    single = "{stem}.{variant}safetensors", "{stem}.safetensors.index.{variant}json"
    other_copy = [place for form in single if (place := folder / form.format(stem=stem, variant="non_ema.")).is_file()]
    if weights is not None and not other_copy:
        raise CheckpointError(
            f"{folder} holds one copy of the U-Net, so there is no {weights!r} to choose; leave it out."
        )
    if weights == "last":
        return _of_index(other_copy[0])
    for variant in ("", "fp16."):
        for form in single:
            if (place := folder / form.format(stem=stem, variant=variant)).is_file():
                return _of_index(place)
    others = sorted(place for place in folder.glob("*.safetensors"))
    if len(others) == 1:
        return others
    if pickles := sorted((p for p in folder.glob("*") if p.suffix in PICKLES), key=lambda p: len(p.name)):
        return pickles[:1]
    raise CheckpointError(f"{folder} holds no {stem}.safetensors; download the model anew, whole.")


def _of_index(path: Path) -> list[Path]:
    """The files that an index lists, or the file itself where it is none."""
    if path.suffix != ".json":
        return [path]
    listing = _json(path).get("weight_map")
    names = sorted(set(listing.values())) if isinstance(listing, dict) else []
    if not names or any(not isinstance(name, str) or Path(name).name != name for name in names):
        raise CheckpointError(f"{path} lists no files of its own folder: it is damaged. Download the model anew.")
    if missing := [name for name in names if not (path.parent / name).is_file()]:
        raise CheckpointError(
            f"{path.parent} lacks {listed(missing)} of {len(names)} files that {path.name} lists; download them too."
        )
    return [path.parent / name for name in names]


def _entries(files: list[Path]) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    for path in files:
        file = open_weights(path)
        if twice := sorted(entries.keys() & file.tensors.keys()):
            raise CheckpointError(f"{path} repeats {twice[0]} of another file; download this folder anew.")
        entries |= {name: Entry(file, name) for name in file.tensors}
    return entries


def _is_old(entries: dict[str, Entry]) -> bool:
    return any(".query." in name for name in entries)


def _config(path: Path, read: Callable[[dict[str, Any], str], Any]) -> Any:
    values = _json(path)
    try:
        return read(values, str(path))
    except CheckpointError:
        raise
    except (ValueError, TypeError, AttributeError, IndexError, KeyError, ArithmeticError) as error:
        raise CheckpointError(f"{path} describes no network: {error}. Download the model anew.") from error


def _json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no {path}; download the model anew, whole.") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not a readable config ({error}); download it anew.") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} is not a readable config: no object; download it anew.")
    return values
