"""A trained classifier on disk: its weights, its config, and the words for its classes.

Two copies of one class play two parts: ``perceptual`` is part of the autoencoder's loss, ``judge`` measures what the
generators draw and takes no part in their training.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ldm_edu.checkpoint.io import FORMAT, load_tensors, save_tensors
from ldm_edu.config import ClassifierConfig, from_dict, to_dict
from ldm_edu.files import atomic_write_text
from ldm_edu.models.classifier import Classifier
from ldm_edu.paths import checkpoints_dir
from ldm_edu.weights.errors import CheckpointError
from ldm_edu.weights.fit import load_into

KIND = PART = "classifier"  # in the config, and in the names of the weights' files
CONFIG_FILE = "config.json"


@dataclass(frozen=True)
class TrainedClassifier:
    """A classifier and what its logits mean: logit ``i`` is the concept ``concepts[i]``, and so for the styles."""

    model: Classifier
    concepts: tuple[str, ...]
    styles: tuple[str, ...]
    trained_on: str = ""  # a few words, repeated in every report that rests on it

    def __post_init__(self) -> None:
        config, words = self.model.config, (len(self.concepts), len(self.styles))
        if (config.concepts, config.styles) != words:
            raise ValueError(
                f"a classifier of {config.concepts} concepts and {config.styles} styles needs as many words, "
                f"not {words[0]} and {words[1]}"
            )


def save_classifier(
    folder: Path,
    model: Classifier,
    concepts: Sequence[str],
    styles: Sequence[str],
    *,
    trained_on: str = "",
    dtype: torch.dtype = torch.bfloat16,
) -> None:
    """Write a classifier into ``folder``; each file is written whole or not at all.

    Parameters
    ----------
    folder : made if need be.
    concepts, styles : the words for its classes, in the order of its logits.
    trained_on : which pictures it has seen, in a few words.
    dtype : of the weights on disk.

    Raises
    ------
    ValueError
        if there are more or fewer words than classes.
    SaveError
        if the disk refuses.
    """
    trained = TrainedClassifier(model, tuple(concepts), tuple(styles), trained_on)
    values = {
        "format": FORMAT,
        "kind": KIND,
        "config": to_dict(model.config),
        "concepts": trained.concepts,
        "styles": trained.styles,
        "trained_on": trained_on,
    }
    folder = Path(folder)
    save_tensors(folder, PART, model.state_dict(), dtype=dtype)
    atomic_write_text(folder / CONFIG_FILE, json.dumps(values, indent=1, ensure_ascii=False) + "\n")


def load_classifier(name: str | Path) -> TrainedClassifier:
    """Read a classifier, in float32 and ready to look at pictures.

    Parameters
    ----------
    name : a shipped one ("judge", "perceptual") or a folder that `save_classifier` wrote.

    Raises
    ------
    CheckpointError
        if there is none, with what to do; if the folder holds something else; if its files are damaged or do not fit
        each other.
    """
    folder = _find(name)
    values = _read_config(folder / CONFIG_FILE)
    try:
        model = Classifier(from_dict(ClassifierConfig, values["config"]))
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder / CONFIG_FILE} describes no classifier: {error}") from error
    load_into(model, load_tensors(folder, PART), f"the classifier of {folder}")
    model.requires_grad_(False).eval()
    return TrainedClassifier(model, tuple(values["concepts"]), tuple(values["styles"]), values.get("trained_on", ""))


def _find(name: str | Path) -> Path:
    for folder in (Path(name), checkpoints_dir() / name):
        if (folder / CONFIG_FILE).is_file():
            return folder
    raise CheckpointError(
        f"there is no classifier {str(name)!r}: neither a folder with a {CONFIG_FILE} nor one in {checkpoints_dir()}. "
        "Train one with `ldm-edu train classifier`."
    )


def _read_config(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        found = (values["format"], values["kind"])
        fields = [values[key] for key in ("config", "concepts", "styles")]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} does not describe a classifier ({error!r}); give the folder of one") from error
    if found != (FORMAT, KIND):
        raise CheckpointError(f"{path} describes a {found[1]} of format {found[0]}, not a {KIND} of format {FORMAT}")
    return dict(zip(("config", "concepts", "styles"), fields, strict=True)) | {
        "trained_on": values.get("trained_on", "")
    }
