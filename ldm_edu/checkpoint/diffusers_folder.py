"""A folder with a folder for each network in it, as `diffusers` publishes models.

Each network has a ``config.json``, and its weights in one file or in several that an index lists; a repository often
holds them twice, in full and (``.fp16``) in half precision, and the U-Net also as training left it (``.non_ema``).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ldm_edu.checkpoint.fill import BUFFERS, Checkpoint, StoredPart, Weights, entries_of, pairs_of
from ldm_edu.checkpoint.folder_tokenizer import check_tokenizer
from ldm_edu.config import Preset, from_dict, to_dict
from ldm_edu.families import FAMILIES, family_of
from ldm_edu.families.family import Part
from ldm_edu.layouts.pair import Json
from ldm_edu.weights.errors import PICKLES, CheckpointError, listed, printable
from ldm_edu.weights.untrusted import read_json, refuse_special

T = TypeVar("T")


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
        return str(read_json(index).get("_class_name") or "") if index.is_file() else ""

    def read(self, config: str, read: Callable[[Json, str], T]) -> T:
        """What ``read`` makes of a config.

        Raises
        ------
        CheckpointError
            if the config is missing, damaged, or describes no network.
        """
        path = self.path / config
        values = read_json(path)
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
    for place, tokenizer in family.tokenizers(preset).items():
        check_tokenizer(path / place, tokenizer)
    parts, ignored = {}, []
    for part in family.parts_of(preset):
        if not part.folder:
            raise CheckpointError(f"{preset.name} has a part {part.name!r}, for which this format has no place.")
        entries = entries_of(weight_files(path, part, weights if part.name == family.network else None))
        ignored += [f"{part.folder}: {name}" for name in entries if name.endswith(BUFFERS)]
        entries = {name: entry for name, entry in entries.items() if not name.endswith(BUFFERS)}
        what = f"the {part.name} in the folder {path}, taken for {preset.name}"
        parts[part.name] = StoredPart(what, entries, pairs_of(part, preset, "diffusers", entries), part.option)
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
    pipeline = printable(folder.pipeline or "a pipeline without a name")
    raise CheckpointError(f"{path} is of {pipeline}, and folders are read of {known}; take one of those.")


def weight_files(path: Path, part: Part, weights: Weights | None = None) -> list[Path]:
    """The files of a network: the plain ones; else the variant fp16; else the first variant that there is.

    Of one variant, safetensors go before pickles, and one file before several.

    Parameters
    ----------
    weights
        "last": the variant non_ema, for training on; "ema": the other one.

    Raises
    ------
    CheckpointError
        if there are none, or an index lists one that is not there.
    """
    folder = path / part.folder
    refuse_special(folder)
    found = _variants(folder, part.stem)
    if weights is not None and "non_ema" not in found:
        raise CheckpointError(
            f"{folder} holds one copy of the U-Net, so there is no {weights!r} to choose; leave it out."
        )
    if weights == "last":
        return _of_index(found["non_ema"])
    for name in ("", "fp16", *found):
        if name in found:
            return _of_index(found[name])
    others = [place for place in _files(folder) if place.suffix == ".safetensors"] or [
        place for place in _files(folder) if place.suffix in PICKLES
    ]
    if len(others) == 1:
        return others
    raise CheckpointError(f"{folder} holds no {part.stem}.safetensors; download the model again, whole.")


def _variants(folder: Path, stem: str) -> dict[str, Path]:
    """The file or the index of each variant in a folder, by the variant's name; "" is the plain one."""
    forms = (  # the likeliest first; diffusers has put the variant before and behind the word "index"
        r"{stem}(?:\.(?P<variant>[\w-]+))?\.safetensors",
        r"{stem}\.safetensors\.index(?:\.(?P<variant>[\w-]+))?\.json",
        r"{stem}(?:\.(?P<variant>[\w-]+))?\.bin",
        r"{stem}\.bin\.index(?:\.(?P<variant>[\w-]+))?\.json",
    )
    found: dict[str, Path] = {}
    for form in forms:
        for name in dict.fromkeys((stem, "pytorch_model")):  # of text encoders in pickles
            pattern = re.compile(form.format(stem=re.escape(name)))
            for place in _files(folder):
                if named := pattern.fullmatch(place.name):
                    found.setdefault(named["variant"] or "", place)
    return found


def _files(folder: Path) -> list[Path]:
    return sorted(place for place in folder.glob("*") if place.is_file())


def _of_index(path: Path) -> list[Path]:
    """The files that an index lists, or the file itself where it is none."""
    if path.suffix != ".json":
        return [path]
    listing = read_json(path).get("weight_map")
    listed_names = list(listing.values()) if isinstance(listing, dict) else []
    if not listed_names or any(not isinstance(name, str) or Path(name).name != name for name in listed_names):
        raise CheckpointError(f"{path} lists no files of its own folder: it is damaged. Download the model again.")
    names = sorted(set(listed_names))
    if missing := [name for name in names if not (path.parent / name).is_file()]:
        raise CheckpointError(
            f"{path.parent} lacks {listed(missing)} of {len(names)} files that {path.name} lists; download them too."
        )
    return [path.parent / name for name in names]
