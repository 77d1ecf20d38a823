"""Which model lies at a path, or behind a name: our own folder, a diffusers folder, or one CompVis file."""

from pathlib import Path

from ldm_edu.checkpoint.diffusers_folder import FOLDERS, open_diffusers_folder
from ldm_edu.checkpoint.errors import CheckpointError
from ldm_edu.checkpoint.find import find_checkpoint
from ldm_edu.checkpoint.io import files_of, load_preset
from ldm_edu.checkpoint.mapped import open_weights
from ldm_edu.checkpoint.parts import Checkpoint, Entry, Part, Weights, pairs_of, parts_of
from ldm_edu.checkpoint.single_file import open_single_file
from ldm_edu.config import Preset


def open_checkpoint(name: str | Path, *, preset: Preset | None = None, weights: Weights | None = None) -> Checkpoint:
    """Look into a checkpoint without reading its numbers.

    Parameters
    ----------
    name, preset, weights
        as in `LatentDiffusion.from_pretrained`.

    Raises
    ------
    CheckpointError
        if there is none of that name, or it is damaged, or another kind of model. Whether all tensors are there is
        another question: `Checkpoint.check`.
    """
    path = find_checkpoint(name)
    if path.is_file():
        return open_single_file(path, preset, weights)
    if (path / FOLDERS["unet"]).is_dir() or (path / "model_index.json").is_file():
        return open_diffusers_folder(path, preset, weights)
    return _open_ours(path, preset, weights)


def _open_ours(path: Path, preset: Preset | None, weights: Weights | None) -> Checkpoint:
    saved = load_preset(path)
    if preset is not None and preset != saved:
        raise CheckpointError(f"{path} was saved with another preset, {saved.name}; leave preset out to use it.")
    if weights is not None:
        raise CheckpointError(
            f"{path} holds one copy of the U-Net, so there is no {weights!r} to choose; leave it out."
        )
    parts = {}
    for part in parts_of(saved):
        entries: dict[str, Entry] = {}
        for place in files_of(path, part):
            file = open_weights(place)
            if twice := sorted(entries.keys() & file.tensors.keys()):
                raise CheckpointError(f"{place} repeats {twice[0]} of another file; remove this part and copy it anew.")
            entries |= {name: Entry(file, name) for name in file.tensors}
        parts[part] = Part(f"the {part} of {path}", entries, pairs_of(part, saved, "ldm-edu"))
    return Checkpoint(path, "ldm-edu", saved, parts)
