"""One file with every network in it, as the first release of a model has it."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

from ldm_edu.checkpoint.fill import Checkpoint, Entry, StoredPart, Weights, pairs_of
from ldm_edu.checkpoint.foreign import kind_of
from ldm_edu.checkpoint.io import preset_from
from ldm_edu.config import Preset
from ldm_edu.families import FAMILIES, family_of
from ldm_edu.families.family import Family, Part
from ldm_edu.weights.errors import CheckpointError
from ldm_edu.weights.mapped import WeightFile, open_weights
from ldm_edu.weights.untrusted import parse_json

AVERAGED = "model_ema."  # a second copy of the network in some files, averaged over training
NOTE = "ldm_edu.preset"  # in the metadata of the files that we write: the preset, where shapes do not tell it


def open_single_file(path: Path, preset: Preset | None = None, weights: Weights | None = None) -> Checkpoint:
    """Look into a single file.

    Parameters
    ----------
    preset
        the model that the file holds; None: told from the file.
    weights
        which copy of the network, where the file has two.

    Raises
    ------
    CheckpointError
        if the file is damaged, is another kind of model, or has two copies and none was named.
    """
    file = open_weights(path)
    certain = preset or _noted_preset(file)
    preset = certain or _recognised(file)
    family = family_of(preset)
    ignored = [name for name in file.tensors if _matches(name, family.ignored)]
    kept = [name for name in file.tensors if name not in set(ignored)]
    averaged = _wants_average(path, kept, weights)

    parts, used = {}, list[str]()
    for part in family.parts_of(preset):
        if part.prefix is None:
            raise CheckpointError(f"{preset.name} has a part {part.name!r}, for which one file has no place.")
        ema = averaged and part.name == family.network
        prefix = AVERAGED if ema else _prefix(part, kept)
        others = tuple(other.prefix for other in family.parts if other.prefix and other is not part)
        own = [name for name in kept if name.startswith(prefix) and not name.startswith(others)]
        entries = {name.removeprefix(prefix): Entry(file, name) for name in own}
        pairs = pairs_of(part, preset, "original", entries)
        if ema:
            pairs = [replace(pair, theirs=averaged_name(pair.theirs)) for pair in pairs]
        what = f"the {part.name} in the file {path}, taken for {preset.name}"
        parts[part.name] = StoredPart(what, entries, pairs, part.option)
        used += [entry.name for entry in entries.values()]
    if not used:
        raise CheckpointError(_without(path, preset, file))
    other_copy = _network_prefix(family) if averaged else AVERAGED
    ignored += [name for name in kept if other_copy and name.startswith(other_copy)]
    unknown = sorted(set(kept) - set(used) - set(ignored))
    return Checkpoint(path, "original", preset, parts, sorted(ignored), unknown, [] if certain else family.notes(file))


def _prefix(part: Part, names: Iterable[str]) -> str:
    """The prefix of a part's names in a file."""
    prefixes = [part.prefix or "", *part.other_prefixes]
    return next((prefix for prefix in prefixes if any(name.startswith(prefix) for name in names)), prefixes[0])


def copies(names: Iterable[str]) -> list[Weights]:
    """Which copies of the network a file of these names holds."""
    names = list(names)
    prefixes = tuple({_network_prefix(family) for family in FAMILIES} - {""})
    has_last = any(name.startswith(prefixes) for name in names)
    has_average = any(name.startswith(f"{AVERAGED}diffusion_model") for name in names)
    return [*(["last"] if has_last else []), *(["ema"] if has_average else [])]  # type: ignore[list-item]


def averaged_name(name: str) -> str:
    """The name of a U-Net's tensor in its averaged copy: without dots, below the name of the module around it.

    >>> averaged_name("input_blocks.0.0.weight")
    'diffusion_modelinput_blocks00weight'
    """
    return "diffusion_model" + name.replace(".", "")


def _network_prefix(family: Family) -> str:
    return next(part.prefix or "" for part in family.parts if part.name == family.network)


def _recognised(file: WeightFile) -> Preset:
    for family in FAMILIES:
        if (preset := family.recognise(file)) is not None:
            return preset
    known = ", ".join(family.title for family in FAMILIES if any(part.prefix is not None for part in family.parts))
    raise CheckpointError(
        f"{file.path} holds {kind_of(file.tensors)}. One file is read of {known}; take one of those, or a folder."
    )


def _noted_preset(file: WeightFile) -> Preset | None:
    if NOTE not in file.metadata:
        return None
    try:
        return preset_from(parse_json(file.metadata[NOTE]))
    except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError) as error:
        raise CheckpointError(f"{file.path} describes no model: {error}. Convert it again.") from error


def _without(path: Path, preset: Preset, file: WeightFile) -> str:
    return f"{path} holds {kind_of(file.tensors)}, and no network of {preset.name}; take the file of that model."


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _wants_average(path: Path, names: Iterable[str], weights: Weights | None) -> bool:
    """Whether the averaged copy of the network is the one to take."""
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
    return (weights or "".join(found)) == "ema"
