"""Checkpoint folders: the preset as ``config.json``, the weights of each part as safetensors.

A part is one file ``unet.safetensors``, or several ``unet-00001-of-00003.safetensors`` where it is large, so that each
can be kept in a git repository. Numbers are bfloat16 on disk. Loading is strict: what does not fit exactly is refused
with a sentence that says what to do, and nothing is ever unpickled.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ldm_edu.config import Preset, from_dict, to_dict
from ldm_edu.families import FAMILIES, PRESETS, family_named, family_of
from ldm_edu.files import atomic_write_all
from ldm_edu.layouts.clip import current_name
from ldm_edu.weights.errors import CheckpointError, hint_of_pickles, listed, printable
from ldm_edu.weights.files import Tensors, save_file
from ldm_edu.weights.mapped import open_weights
from ldm_edu.weights.untrusted import read_json

FORMAT = "ldm-edu/1"
SHARD_BYTES = 15 * 2**20


def save_checkpoint(
    folder: Path,
    preset: Preset,
    parts: Mapping[str, Mapping[str, Tensor]],
    *,
    shard_bytes: int = SHARD_BYTES,
    dtype: torch.dtype = torch.bfloat16,
) -> None:
    """Write a whole checkpoint: every part, then ``config.json``. Files of an older one that it replaces are removed.

    Nothing is renamed into place before everything is written, so a full disk leaves the older checkpoint as it was.

    Parameters
    ----------
    parts
        name of a part ("unet", "autoencoder", "text" ...) to its tensors.
    shard_bytes, dtype
        as in `save_tensors`.

    Raises
    ------
    SaveError
        if the folder cannot be written.
    """
    writes: dict[Path, Callable[[Path], None]] = {}
    for part, tensors in parts.items():
        writes |= _shards(folder, part, tensors, shard_bytes, dtype)
    text = json.dumps({"format": FORMAT, **to_dict(preset)}, indent=2) + "\n"
    writes[folder / "config.json"] = lambda beside: _write(beside, text.encode())
    atomic_write_all(writes)
    _remove_stale(folder, parts, writes)


def save_tensors(
    folder: Path,
    part: str,
    tensors: Mapping[str, Tensor],
    *,
    shard_bytes: int = SHARD_BYTES,
    dtype: torch.dtype = torch.bfloat16,
) -> None:
    """Write one part of a checkpoint, in place of the one that may be there.

    Parameters
    ----------
    shard_bytes
        size of a file's tensors at most; a single tensor that is larger has a file to itself.
    dtype
        of the floating numbers on disk.

    Raises
    ------
    SaveError
        if the folder cannot be written; then the old part is untouched.
    """
    writes = _shards(folder, part, tensors, shard_bytes, dtype)
    atomic_write_all(writes)
    _remove_stale(folder, [part], writes)


def load_preset(folder: Path) -> Preset:
    """The preset that a checkpoint folder was saved with.

    Raises
    ------
    CheckpointError
        if the folder holds no checkpoint of this format.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(
            f"{folder} holds no checkpoint: it has no config.json. Check the path.{hint_of_pickles(folder)}"
        )
    values = read_json(path)
    found = values.pop("format", None)
    if found != FORMAT:
        raise CheckpointError(
            f"{path} says format {printable(repr(found))}, and this version reads {FORMAT!r}; use a checkpoint that "
            "ldm-edu saved, or another version of ldm-edu."
        )
    if "kind" in values:
        raise CheckpointError(
            f"{path} describes a {printable(repr(values['kind']))}, which draws nothing; give a model's folder."
        )
    try:
        return preset_from(values)
    except (ValueError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise CheckpointError(f"{path} describes no model: {error}.") from error


def preset_from(values: dict[str, Any]) -> Preset:
    """The preset that `ldm_edu.config.to_dict` wrote, by this version or by an older one.

    Older ones wrote no family, and left what a U-Net reads besides the sample to be told from its channels.

    Raises
    ------
    ValueError
        if the values describe no preset.
    """
    if "family" not in values:
        known = PRESETS.get(str(values.get("name")))
        unet = dict(values["unet"])
        extra, channels = unet["in_channels"] - unet["out_channels"], unet["out_channels"]
        unet["beside"] = {0: "nothing", channels: "picture", channels + 1: "mask"}.get(extra, "nothing")
        values = values | {"family": known.family if known else "course", "unet": unet}
    preset: Preset = from_dict(family_named(values["family"]).preset, values)
    return preset


def load_tensors(folder: Path, part: str, *, dtype: torch.dtype = torch.float32) -> Tensors:
    """All tensors of one part of a checkpoint folder, the floating ones as ``dtype``, by the names that we use today.

    Raises
    ------
    CheckpointError
        if files are missing, damaged, or not safetensors.
    """
    tensors: Tensors = {}
    for path in files_of(folder, part):
        file = open_weights(path)
        if twice := sorted(tensors.keys() & file.tensors.keys()):
            raise CheckpointError(f"{path} repeats {twice[0]} of another file; remove this part and copy it again.")
        tensors |= {current_name(name): file.read(name, dtype=dtype) for name in file.tensors}
    return tensors


def has_part(folder: Path, part: str) -> bool:
    """Whether a checkpoint folder holds a part."""
    return bool(_named(folder, part))


def has_model(folder: Path) -> bool:
    """Whether a folder holds a network that predicts noise, of any family."""
    return any(has_part(folder, family.network) for family in FAMILIES)


def _shards(
    folder: Path, part: str, tensors: Mapping[str, Tensor], shard_bytes: int, dtype: torch.dtype
) -> dict[Path, Callable[[Path], None]]:
    """The files of a part and how to write each; a tensor is converted when its file is written, and not before."""
    shards: list[dict[str, Tensor]] = [{}]
    room = shard_bytes
    for name, tensor in tensors.items():
        size = tensor.numel() * (dtype if tensor.is_floating_point() else tensor.dtype).itemsize
        room -= size
        if room < 0 and shards[-1]:
            shards.append({})
            room = shard_bytes - size
        shards[-1][name] = tensor
    if len(shards) == 1:
        names = [f"{part}.safetensors"]
    else:
        names = [f"{part}-{i:05}-of-{len(shards):05}.safetensors" for i in range(1, len(shards) + 1)]
    return {folder / name: _writer(shard, dtype) for name, shard in zip(names, shards, strict=True)}


def _writer(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> Callable[[Path], None]:
    def write(beside: Path) -> None:
        converted = {
            name: tensor.detach().to("cpu", dtype if tensor.is_floating_point() else tensor.dtype).contiguous()
            for name, tensor in tensors.items()
        }
        save_file(beside, converted)

    return write


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _named(folder: Path, part: str) -> list[Path]:
    pattern = re.compile(rf"{re.escape(part)}(-\d{{5}}-of-\d{{5}})?\.safetensors")
    return sorted(path for path in folder.glob("*.safetensors") if pattern.fullmatch(path.name))


def files_of(folder: Path, part: str) -> list[Path]:
    """The files of a part of a checkpoint folder.

    Raises
    ------
    CheckpointError
        if there are none, or not all of them, or those of two savings.
    """
    found = _named(folder, part)
    if not found:
        raise CheckpointError(_why_missing(folder, part))
    totals = {path.stem[-5:] if path.stem != part else "00001" for path in found}
    names = {path.name for path in found}
    if len(totals) > 1:
        raise CheckpointError(f"{folder} mixes two savings of {part}: {listed(sorted(names))}. Remove the older files.")
    total = int(totals.pop())
    wanted = {f"{part}-{i:05}-of-{total:05}.safetensors" for i in range(1, total + 1)}
    if names != {f"{part}.safetensors"} and (missing := sorted(wanted - names)):
        raise CheckpointError(f"{folder} lacks {listed(missing)} of {total} files of {part}; copy it again, whole.")
    return found


def _why_missing(folder: Path, part: str) -> str:
    """In a folder that is being trained in, the network that predicts the noise comes last."""
    why = "copy the checkpoint again, whole."
    if (folder / "config.json").is_file() and any(folder.glob("*.safetensors")):
        preset = load_preset(folder)
        if part == family_of(preset).network:
            why = (
                f"this network is not trained yet: ldm-edu train {part} --preset {preset.name} --out {folder}; or, if "
                "the folder was copied, copy it again, whole."
            )
    return f"{folder} has no {part}.safetensors; {why}{hint_of_pickles(folder)}"


def _remove_stale(folder: Path, parts: Iterable[str], written: Mapping[Path, object]) -> None:
    for part in parts:
        for path in _named(folder, part):
            if path not in written:
                path.unlink()
