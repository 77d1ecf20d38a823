"""A folder with a folder for each network in it, as `diffusers` publishes models.

Each network has a ``config.json``, and its weights in one file or in several that an index lists; a repository often
holds them twice, in full and (``.fp16``) in half precision, and the U-Net also as training left it (``.non_ema``).
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ldm_edu.checkpoint.fill import Checkpoint, Entry, StoredPart, Weights, pairs_of
from ldm_edu.config import Preset, from_dict, to_dict
from ldm_edu.families import FAMILIES, family_of
from ldm_edu.families.family import Part
from ldm_edu.layouts.pair import Json
from ldm_edu.weights.errors import PICKLES, CheckpointError, listed
from ldm_edu.weights.mapped import open_weights

T = TypeVar("T")
BUFFERS = ("position_ids",)  # tensors that some versions of a library saved, and no network needs


@dataclass(frozen=True)
class DiffusersFolder:
    """A folder, as `ldm_edu.families.family.Folder`."""

    path: Path

    @property
    def name(self) -> str:
        """Its name."""
        return self.path.resolve().name

    @property
    def pipeline(self) -> str:
        """The class that ``model_index.json`` names; "" for a folder without an index."""
        index = self.path / "model_index.json"
        return str(_json(index).get("_class_name")) if index.is_file() else ""

    def read(self, config: str, read: Callable[[Json, str], T]) -> T:
        """What ``read`` makes of a config.

        Raises
        ------
        CheckpointError
            if the config is missing, damaged, or describes no network.
        """
        path = self.path / config
        values = _json(path)
        try:
            return read(values, str(path))
        except CheckpointError:
            raise
        except (ValueError, TypeError, AttributeError, IndexError, KeyError, ArithmeticError) as error:
            raise CheckpointError(f"{path} describes no network: {error}. Download the model again.") from error


def is_of_diffusers(path: Path) -> bool:
    """Whether a folder is in this format."""
    if (path / "model_index.json").is_file():
        return True
    networks = {part.folder for family in FAMILIES for part in family.parts if part.name == family.network}
    return any((path / folder).is_dir() for folder in networks - {""})


def open_diffusers_folder(path: Path, preset: Preset | None = None, weights: Weights | None = None) -> Checkpoint:
    """Look into a folder.

    Parameters
    ----------
    preset
        the model that the folder holds; None: what its configs say.
    weights
        which copy of the network, where the folder has two: "ema" is the plain file, "last" the one called non_ema.

    Raises
    ------
    CheckpointError
        if a file is missing or damaged, or the configs describe another kind of model.
    """
    preset = preset or read_preset(path)
    family = family_of(preset)
    parts, ignored = {}, []
    for part in family.parts_of(preset):
        if not part.folder:
            raise CheckpointError(f"{preset.name} has a part {part.name!r}, for which this format has no place.")
        entries = _entries(weight_files(path, part, weights if part.name == family.network else None))
        ignored += [f"{part.folder}: {name}" for name in entries if name.endswith(BUFFERS)]
        entries = {name: entry for name, entry in entries.items() if not name.endswith(BUFFERS)}
        what = f"the {part.name} in the folder {path}, taken for {preset.name}"
        parts[part.name] = StoredPart(what, entries, pairs_of(part, preset, "diffusers", entries))
    return Checkpoint(path, "diffusers", preset, parts, ignored)


def read_preset(path: Path) -> Preset:
    """The preset that the configs of a folder describe.

    Raises
    ------
    CheckpointError
        if a config is missing or damaged, or asks for what the networks here do not do.
    """
    folder = DiffusersFolder(path)
    for family in FAMILIES:
        if (found := family.read_folder(folder)) is not None:
            try:
                from_dict(type(found), to_dict(found))  # every field is of its type
            except ValueError as error:
                raise CheckpointError(
                    f"the configs in {path} describe no model: {error}. Download the model again."
                ) from error
            return found
    known = ", ".join(family.title for family in FAMILIES if family.write_folder is not None)
    pipeline = folder.pipeline or "a pipeline without a name"
    raise CheckpointError(f"{path} is of {pipeline}, and folders are read of {known}; take one of those.")


def weight_files(path: Path, part: Part, weights: Weights | None = None) -> list[Path]:
    """The files of a network: in full precision if there are such, in safetensors if there are such.

    Raises
    ------
    CheckpointError
        if there are none, or an index lists one that is not there.
    """
    folder, stem = path / part.folder, part.stem
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
