"""A checkpoint from one layout to another: the same numbers, bit for bit, under other names.

One case is not bit for bit: diffusers' folder has no place for the shift of the latents that the course's autoencoders
have, so that two biases there take the shift over.

Going there and back gives the same tensors. What is left behind is what no network needs (`Checkpoint.ignored`).
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ldm_edu.build import build_on_meta
from ldm_edu.checkpoint.fill import Checkpoint, check_shapes, pairs_of
from ldm_edu.checkpoint.io import FORMAT
from ldm_edu.checkpoint.single_file import NOTE
from ldm_edu.config import AutoencoderConfig, Preset, to_dict
from ldm_edu.families import family_of
from ldm_edu.families.family import Part
from ldm_edu.files import atomic_write_all
from ldm_edu.layouts.autoencoder import fold_shift
from ldm_edu.layouts.pair import Format, Pair, all_ours, to_theirs
from ldm_edu.weights.errors import CheckpointError
from ldm_edu.weights.files import Tensors, save_file
from ldm_edu.weights.fit import refuse_nan

Writes = dict[Path, Callable[[Path], None]]


def convert_checkpoint(source: Checkpoint, out: Path, to: Format, *, dtype: torch.dtype | None = None) -> None:
    """Write a checkpoint in another layout.

    Parameters
    ----------
    source
        the checkpoint, from `open_checkpoint`.
    out
        the .safetensors file of the original format, or the folder of the others; nothing may be there yet.
    dtype
        of the floating numbers; None: as they are stored, so that nothing is lost.

    Raises
    ------
    CheckpointError
        if a tensor is missing, unknown, of another shape or not finite; if the layout cannot hold this model; or if
        there is something at ``out``.
    SaveError
        if ``out`` cannot be written; nothing is left of it then.
    """
    source.check()
    for name, module in build_on_meta(source.preset).items():
        check_shapes(module, source.parts[name])
    if out.exists() and (out.is_file() or any(out.iterdir())):
        raise CheckpointError(f"{out} is there already, and is not overwritten; remove it, or choose another name.")
    if (to == "original") != (out.suffix == ".safetensors"):
        raise CheckpointError(
            f"{out} does not fit: the original format is one file, NAME.safetensors, and the others are folders."
        )
    writers = {"original": _one_file, "diffusers": _diffusers, "ldm-edu": _ours}
    atomic_write_all(writers[to](source, out, dtype))


def _one_file(source: Checkpoint, out: Path, dtype: torch.dtype | None) -> Writes:
    preset = source.preset
    parts = family_of(preset).parts_of(preset)
    if other := [part.name for part in parts if part.prefix is None]:
        raise CheckpointError(f"{preset.name} has a part {other[0]!r}, for which one file has no place.")

    def write(beside: Path) -> None:
        tensors: Tensors = {}
        for part in parts:
            named = _named(source, part, "original", dtype)
            tensors |= {f"{part.prefix}{name}": tensor for name, tensor in named.items()}
        save_file(beside, tensors | family_of(preset).marks(preset), _note(preset))

    return {out: write}


def _note(preset: Preset) -> dict[str, str]:
    """A file of another model than those that are recognised by their shapes says which it is."""
    recognised = preset in family_of(preset).presets and preset.family != "course"
    return {} if recognised else {NOTE: json.dumps(to_dict(preset))}


def _diffusers(source: Checkpoint, out: Path, dtype: torch.dtype | None) -> Writes:
    family = family_of(source.preset)
    preset = _without_shift(source.preset)
    if family.write_folder is None:
        raise CheckpointError(f"diffusers has no folder for {family.title}; keep this model in ldm-edu's own layout.")
    configs = family.write_folder(preset)
    writes = {out / name: _text(json.dumps(config, indent=2) + "\n") for name, config in configs.items()}
    for folder, tokenizer in family.tokenizers(preset).items():
        writes |= {out / folder / name: _text(text) for name, text in tokenizer.files().items()}
    for part in family.parts_of(preset):
        writes[out / part.folder / f"{part.stem}.safetensors"] = _part(source, part, "diffusers", dtype)
    return writes


def _without_shift(preset: Preset) -> Preset:
    """The preset of the same model after its autoencoder took the shift of the latents over."""
    autoencoder = getattr(preset, "autoencoder", None)
    if autoencoder is None:
        return preset
    return dataclasses.replace(preset, autoencoder=dataclasses.replace(autoencoder, shift=0.0))  # type: ignore[call-arg]


def _ours(source: Checkpoint, out: Path, dtype: torch.dtype | None) -> Writes:
    parts = family_of(source.preset).parts_of(source.preset)
    writes = {out / f"{part.name}.safetensors": _part(source, part, "ldm-edu", dtype) for part in parts}
    return writes | {
        out / "config.json": _text(json.dumps({"format": FORMAT, **to_dict(source.preset)}, indent=2) + "\n")
    }


def _part(source: Checkpoint, part: Part, format: Format, dtype: torch.dtype | None) -> Callable[[Path], None]:
    return lambda beside: save_file(beside, _named(source, part, format, dtype))


def _named(source: Checkpoint, part: Part, format: Format, dtype: torch.dtype | None) -> Tensors:
    """The tensors of a part under the names of another format; views of the files where nothing changes."""
    found = source.parts[part.name]

    def read(pair: Pair) -> Tensor:
        entry = found.entries[pair.theirs]
        tensor = entry.file.read(entry.name, dtype=dtype)
        refuse_nan({pair.ours: tensor}, found.what)
        return tensor

    ours = all_ours(read, found.pairs)
    config = part.config(source.preset)
    if format == "diffusers" and isinstance(config, AutoencoderConfig) and config.shift:
        ours = fold_shift(ours, config.shift)
        ours = {name: tensor.to(dtype or tensor.dtype) for name, tensor in ours.items()}
    wanted = pairs_of(part, source.preset, format)
    return {name: tensor.contiguous() for name, tensor in to_theirs(ours, wanted)}


def _text(text: str) -> Callable[[Path], None]:
    def write(beside: Path) -> None:
        beside.write_bytes(text.encode())

    return write
