"""One network by itself, in the place of a model's own: a file or a folder, in any form that it is published in."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ldm_edu.checkpoint.diffusers_folder import weight_files
from ldm_edu.checkpoint.fill import BUFFERS, Checkpoint, Entry, StoredPart, entries_of, pairs_of
from ldm_edu.checkpoint.io import files_of, has_part, load_preset
from ldm_edu.config import Preset
from ldm_edu.families import family_of
from ldm_edu.families.family import Part
from ldm_edu.layouts.pair import Format, Pair
from ldm_edu.weights.errors import CheckpointError, listed
from ldm_edu.weights.untrusted import read_json, refuse_special

FORMATS: tuple[Format, ...] = ("original", "diffusers", "ldm-edu")
ALONE = ("", "vae.", "model.")  # before the names of a network that somebody saved by itself


def with_part(found: Checkpoint, option: str, path: Path) -> Checkpoint:
    """A checkpoint whose network of that option, "vae" or "text", is the one at ``path``.

    Raises
    ------
    CheckpointError
        if the model has no such network, or there is none of its shape at ``path``.
    """
    parts = [part for part in family_of(found.preset).parts_of(found.preset) if part.option == option]
    if not parts:
        raise CheckpointError(f"{found.preset.name} has no network that --{option} could replace; leave it out.")
    (part,) = parts
    refuse_special(path)
    if not path.exists():
        raise CheckpointError(f"there is no file or folder {path}; check the path after --{option}.")
    preset, entries = found.preset, dict[str, Entry]()
    if path.is_dir():
        preset, entries = _of_folder(path, part, preset)
    else:
        entries = entries_of([path])
    stored = _fitting(path, part, preset, entries)
    return replace(found, preset=preset, parts={**found.parts, part.name: stored})


def _of_folder(path: Path, part: Part, preset: Preset) -> tuple[Preset, dict[str, Entry]]:
    """A network in a folder of its own, or in that of a whole model; and the preset with its config."""
    if has_part(path, part.name):
        return _with_config(preset, part, part.config(load_preset(path))), entries_of(files_of(path, part.name))
    folder = path / part.folder if (path / part.folder).is_dir() else path
    if (folder / "config.json").is_file():
        values = read_json(folder / "config.json")
        try:
            preset = _with_config(preset, part, part.layout.read(values, str(folder / "config.json")))
        except (ValueError, TypeError, AttributeError, IndexError, KeyError, ArithmeticError) as error:
            raise CheckpointError(f"{folder / 'config.json'} describes no {part.title}: {error}.") from error
    return preset, entries_of(weight_files(folder, replace(part, folder="")))


def _with_config(preset: Preset, part: Part, config: Any) -> Preset:
    return replace(preset, **{part.name: config}) if config is not None else preset


def _fitting(path: Path, part: Part, preset: Preset, entries: Mapping[str, Entry]) -> StoredPart:
    """The tensors of a network among those of a file, in whichever form most of them fit.

    Tensors of other networks are left out; one inside this network that it does not know stays, to be refused.
    """
    what = f"the {part.name} in {path}, taken for that of {preset.name}"
    best, pairs, most = dict[str, Entry](), list[Pair](), 0
    for prefix, format in _forms(part):
        own = {name.removeprefix(prefix): entry for name, entry in entries.items() if name.startswith(prefix)}
        wanted = pairs_of(part, preset, format, own) if own else []
        names = {pair.theirs for pair in wanted}
        if (count := len(names & own.keys())) > most:
            inside = {name.partition(".")[0] for name in names}
            best = {
                name: entry
                for name, entry in own.items()
                if name in names or (name.partition(".")[0] in inside and not name.endswith(BUFFERS))
            }
            pairs, most = wanted, count
    if not best:
        raise CheckpointError(
            f"{path} holds no {part.title} (its first tensors are {listed(sorted(entries))}); give a file or a folder "
            "of one."
        )
    return StoredPart(what, best, pairs, part.option)


def _forms(part: Part) -> Iterator[tuple[str, Format]]:
    for prefix in dict.fromkeys((part.prefix or "", *part.other_prefixes, *ALONE)):
        for format in FORMATS:
            yield prefix, format
