"""A checkpoint from one layout to another: the same numbers, bit for bit, under other names.

Going there and back gives the same tensors. What is left behind is what no network needs (`Checkpoint.spare`).
"""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ldm_edu.build import build_on_meta
from ldm_edu.checkpoint.diffusers_config import write_configs
from ldm_edu.checkpoint.diffusers_folder import FOLDERS, STEMS
from ldm_edu.weights.errors import CheckpointError
from ldm_edu.checkpoint.io import FORMAT, Tensors, refuse_nan, save_file
from ldm_edu.checkpoint.keymaps import to_ours, to_theirs
from ldm_edu.checkpoint.parts import Checkpoint, Family, check_shapes, pairs_of
from ldm_edu.checkpoint.single_file import NOTE, PREFIXES
from ldm_edu.config import SD15, SD15_INPAINT, SD15_PIX2PIX, Preset, to_dict
from ldm_edu.files import atomic_write_all
from ldm_edu.tokenizer import Tokenizer

Writes = dict[Path, Callable[[Path], None]]


def convert_checkpoint(source: Checkpoint, out: Path, to: Family, *, dtype: torch.dtype | None = None) -> None:
    """Write a checkpoint in another layout.

    Parameters
    ----------
    source
        the checkpoint, from `open_checkpoint`.
    out
        the .safetensors file of layout "compvis", or the folder of the others; nothing may be there yet.
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
    if (to == "compvis") != (out.suffix == ".safetensors"):
        raise CheckpointError(
            f"{out} does not fit: layout compvis is one file, NAME.safetensors, and the others are folders."
        )
    writers = {"compvis": _compvis, "diffusers": _diffusers, "ldm-edu": _ours}
    atomic_write_all(writers[to](source, out, dtype))


def _compvis(source: Checkpoint, out: Path, dtype: torch.dtype | None) -> Writes:
    preset = source.preset
    if other := [part for part in source.parts if part not in PREFIXES]:
        raise CheckpointError(f"{preset.name} has a part {other[0]!r}, which layout compvis has no place for.")

    def write(beside: Path) -> None:
        tensors: Tensors = {}
        for part in source.parts:
            named = _named(source, part, "compvis", "text_model.", dtype)
            tensors |= {PREFIXES[part] + name: tensor for name, tensor in named.items()}
        save_file(beside, tensors, _note(preset))

    return {out: write}


def _note(preset: Preset) -> dict[str, str]:
    """A file of another model than those that are told by their shapes says which it is."""
    told = preset in (SD15, SD15_INPAINT, SD15_PIX2PIX)
    return {} if told else {NOTE: json.dumps(to_dict(preset))}


def _diffusers(source: Checkpoint, out: Path, dtype: torch.dtype | None) -> Writes:
    preset = source.preset
    writes = {out / name: _text(json.dumps(config, indent=2) + "\n") for name, config in write_configs(preset).items()}
    assert preset.text is not None
    tokenizer = Tokenizer(preset.text.vocab, preset.text.length)
    writes |= {out / "tokenizer" / name: _text(text) for name, text in tokenizer.files().items()}
    for part, folder in FOLDERS.items():
        path = out / folder / f"{STEMS[part]}.safetensors"
        writes[path] = _part(source, part, "diffusers", "text_model.", dtype)
    return writes


def _ours(source: Checkpoint, out: Path, dtype: torch.dtype | None) -> Writes:
    writes = {out / f"{part}.safetensors": _part(source, part, "ldm-edu", "", dtype) for part in source.parts}
    return writes | {
        out / "config.json": _text(json.dumps({"format": FORMAT, **to_dict(source.preset)}, indent=2) + "\n")
    }


def _part(
    source: Checkpoint, part: str, layout: Family, prefix: str, dtype: torch.dtype | None
) -> Callable[[Path], None]:
    return lambda beside: save_file(beside, _named(source, part, layout, prefix, dtype))


def _named(source: Checkpoint, part: str, layout: Family, prefix: str, dtype: torch.dtype | None) -> Tensors:
    """The tensors of a part under the names of another layout; views of the files where nothing changes."""
    theirs = {pair.ours: pair for pair in pairs_of(part, source.preset, layout, prefix)}
    found = source.parts[part]
    tensors: dict[str, Tensor] = {}
    for pair in found.pairs:
        entry, wanted = found.entries[pair.theirs], theirs[pair.ours]
        tensor = entry.file.read(entry.name, dtype=dtype)
        refuse_nan({pair.ours: tensor}, found.what)
        tensors[wanted.theirs] = to_theirs(to_ours(tensor, pair), wanted)
    return tensors


def _text(text: str) -> Callable[[Path], None]:
    def write(beside: Path) -> None:
        beside.write_bytes(text.encode())

    return write
