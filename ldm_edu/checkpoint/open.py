"""Which model a path or a name means: our own folder, a diffusers folder, or one file."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from ldm_edu.checkpoint.diffusers_folder import is_of_diffusers, open_diffusers_folder
from ldm_edu.checkpoint.fill import Checkpoint, StoredPart, Weights, entries_of, pairs_of
from ldm_edu.checkpoint.find import find_checkpoint
from ldm_edu.checkpoint.io import files_of, load_preset
from ldm_edu.checkpoint.part import with_part
from ldm_edu.checkpoint.single_file import open_single_file
from ldm_edu.config import Prediction, Preset, to_dict
from ldm_edu.families import family_of
from ldm_edu.weights.errors import CheckpointError, listed
from ldm_edu.weights.untrusted import refuse_special

P = TypeVar("P", bound=Preset)


def open_checkpoint(
    name: str | Path,
    *,
    preset: Preset | None = None,
    weights: Weights | None = None,
    prediction: Prediction | None = None,
    parts: Mapping[str, str | Path | None] | None = None,
) -> Checkpoint:
    """Look into a checkpoint without reading its numbers.

    Parameters
    ----------
    name, preset, weights, prediction
        as in `LatentDiffusion.from_pretrained`.
    parts
        networks that are taken from elsewhere: "vae" or "text" to a file or a folder; None: the model's own.

    Raises
    ------
    CheckpointError
        if there is none of that name, or it is damaged, or another kind of model. Whether all tensors are there is
        another question: `Checkpoint.check`.
    """
    path = find_checkpoint(name)
    refuse_special(path)
    opened = open_single_file if path.is_file() else open_diffusers_folder if is_of_diffusers(path) else _open_ours
    found = opened(path, preset, weights)
    for option, place in (parts or {}).items():
        if place is not None:
            found = with_part(found, option, Path(place).expanduser())
    if prediction is None:
        return found
    return replace(found, preset=replace(found.preset, prediction=prediction), notes=[])


def loaded_files(path: Path, weights: Weights | None = None) -> list[Path]:
    """The files that the weights of a checkpoint are read from: the file itself, or those of a folder.

    Raises
    ------
    CheckpointError
        if a diffusers folder lacks some.
    """
    if path.is_file():
        return [path]
    if is_of_diffusers(path):
        found = open_diffusers_folder(path, weights=weights)
        return sorted({entry.file.path for part in found.parts.values() for entry in part.entries.values()})
    return sorted(path.glob("[!.]*.safetensors"))


def _open_ours(path: Path, preset: Preset | None, weights: Weights | None) -> Checkpoint:
    saved = load_preset(path)
    if preset is not None and (differing := _differences(with_scale_of(saved, preset), saved)):
        raise CheckpointError(
            f"{path} was saved with another preset, {saved.name}: it differs in {listed(differing)}; leave preset out "
            "to use it."
        )
    if weights is not None:
        raise CheckpointError(
            f"{path} holds one copy of the U-Net, so there is no {weights!r} to choose; leave it out."
        )
    parts = {}
    for part in family_of(saved).parts_of(saved):
        entries = entries_of(files_of(path, part.name))
        pairs = pairs_of(part, saved, "ldm-edu", entries)
        parts[part.name] = StoredPart(f"the {part.name} of {path}", entries, pairs, part.option)
    return Checkpoint(path, "ldm-edu", saved, parts)


def with_scale_of(saved: Preset, expected: P) -> P:
    """The expected preset with the scale and the shift of the latents as saved: training measures them."""
    wanted, found = getattr(expected, "autoencoder", None), getattr(saved, "autoencoder", None)
    if wanted is None or found is None:
        return expected
    measured = replace(wanted, scale=found.scale, shift=found.shift)
    return replace(expected, autoencoder=measured)  # type: ignore[call-arg]


def _differences(expected: Preset, saved: Preset) -> list[str]:
    """The fields in which two presets differ, each with both values."""
    wanted, found = _flat(to_dict(expected)), _flat(to_dict(saved))
    names = [name for name in {**wanted, **found} if wanted.get(name) != found.get(name)]
    return [f"{name} ({found.get(name)}, not {wanted.get(name)})" for name in names]


def _flat(values: dict[str, Any], before: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{before}{name}.") if isinstance(value, dict) else {f"{before}{name}": value}
    return flat
