"""What ``ldm-edu inspect`` says of a checkpoint: read from names and shapes alone, whatever its size."""

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ldm_edu.paths import checkpoints_dir
from ldm_edu.weights.errors import printable

if TYPE_CHECKING:
    from ldm_edu.checkpoint.fill import Checkpoint, StoredPart, Weights
    from ldm_edu.config import Prediction
    from ldm_edu.weights.mapped import WeightFile

FORMATS = {
    "ldm-edu": "a folder of ldm-edu",
    "diffusers": "a diffusers folder",
    "original": "one file, the original layout",
}
SHOWN = 8  # names of a kind; the rest is counted


def describe(
    name: str,
    weights: "Weights | None" = None,
    prediction: "Prediction | None" = None,
    parts: "Mapping[str, str | Path | None] | None" = None,
) -> tuple[list[str], bool]:
    """What a checkpoint is, as lines, and whether it can be loaded.

    Raises
    ------
    CheckpointError
        if there is none, or it is damaged.
    """
    from ldm_edu.adapters import kind_of_adapter
    from ldm_edu.checkpoint.find import find_checkpoint
    from ldm_edu.checkpoint.open import open_checkpoint
    from ldm_edu.checkpoint.single_file import copies
    from ldm_edu.weights.errors import CheckpointError
    from ldm_edu.weights.mapped import open_weights
    from ldm_edu.weights.untrusted import refuse_special

    path = find_checkpoint(name)
    refuse_special(path)
    opened = partial(open_checkpoint, path, prediction=prediction, parts=parts)
    if path.is_dir():
        return _loadable(opened(weights=weights))
    file = open_weights(path)
    if (adapter := kind_of_adapter(file)) is not None:
        return [f"{path}: {adapter.title}", *adapter.describe(file)], True
    both = copies(file.tensors) if weights is None else []
    try:
        if len(both) < 2:
            return _loadable(opened(weights=weights))
        return _with_two_copies({weights: opened(weights=weights) for weights in ("last", "ema")})
    except CheckpointError as error:
        return [*_foreign(file), "", f"cannot be loaded: {error}"], False


def find_classifier(name: str) -> Path | None:
    """The folder of a classifier, which draws nothing and is no checkpoint of a model; None where it is no such."""
    folders = (Path(name), checkpoints_dir() / name)
    return next((folder for folder in folders if _is_of_classifier(folder)), None)


def describe_classifier(folder: Path) -> list[str]:
    """What a classifier tells apart, and how large it is, as lines.

    Raises
    ------
    CheckpointError
        if it is damaged.
    """
    from ldm_edu.classifiers import load_classifier

    trained = load_classifier(folder)
    count = sum(parameter.numel() for parameter in trained.model.parameters())
    return [
        f"{folder}: a classifier of {len(trained.concepts):,} concepts and {len(trained.styles)} styles, which judges "
        "pictures and draws none",
        f"{count:,} parameters; trained on: {trained.trained_on or 'it does not say'}",
    ]


def _is_of_classifier(folder: Path) -> bool:
    from ldm_edu.weights.errors import CheckpointError
    from ldm_edu.weights.untrusted import read_json

    try:
        return (folder / "config.json").is_file() and read_json(folder / "config.json").get("kind") == "classifier"
    except CheckpointError:  # said by whatever reads the folder next
        return False


def _with_two_copies(found: "dict[str, Checkpoint]") -> tuple[list[str], bool]:
    parts = {f"unet ({weights})": checkpoint.parts["unet"] for weights, checkpoint in found.items()}
    parts |= {part: entries for part, entries in found["last"].parts.items() if part != "unet"}
    ignored = sorted(set(found["last"].ignored) & set(found["ema"].ignored))
    lines, whole = _report(found["ema"], parts, ignored)
    return [*lines, "the U-Net is there twice: say --weights ema to draw, --weights last to train on"], whole


def _loadable(found: "Checkpoint") -> tuple[list[str], bool]:
    return _report(found, dict(found.parts), found.ignored)


def _report(found: "Checkpoint", parts: "dict[str, StoredPart]", ignored: list[str]) -> tuple[list[str], bool]:
    problems = list(_problems(found, parts))
    lines = [f"{found.path}: {found.preset.name}, {FORMATS[found.format]}", "", *_table(parts)]
    if found.notes:
        lines += ["", *found.notes]
    if ignored:
        lines += ["", f"left out, since drawing does not need it: {len(ignored)} tensors ({_some(ignored)})"]
    if found.unknown:
        lines += ["", f"left out, outside every network: {len(found.unknown)} tensors ({_some(found.unknown)})"]
    if problems:
        return [*lines, "", *problems, "cannot be loaded as it is"], False
    return [*lines, "", "whole: nothing is missing, nothing unexpected"], True


def _problems(found: "Checkpoint", parts: "dict[str, StoredPart]") -> Iterator[str]:
    from ldm_edu.build import build_on_meta
    from ldm_edu.checkpoint.fill import check_shapes
    from ldm_edu.weights.errors import CheckpointError

    modules = build_on_meta(found.preset)
    for name, part in parts.items():
        for problem, names in {"missing": part.missing, "unexpected": part.unexpected}.items():
            if names:
                yield f"{problem} in {name}: {len(names)} of {len(part.pairs)} tensors ({_some(names)})"
        if not part.missing and not part.unexpected:
            try:
                check_shapes(modules[name.split()[0]], part)
            except CheckpointError as error:
                yield str(error)


def _table(parts: "dict[str, StoredPart]") -> Iterator[str]:
    yield f"{'':<16}{'tensors':>9}{'parameters':>16}  stored as"
    for name, part in parts.items():
        types = Counter(str(entry.stored.dtype).removeprefix("torch.") for entry in part.entries.values())
        stored = ", ".join(kind for kind, _ in types.most_common())
        yield f"{name:<16}{len(part.entries):>9,}{part.parameters:>16,}  {stored}"


def _foreign(file: "WeightFile") -> Iterator[str]:
    """A file of another kind, by the first words of its tensors' names."""
    counts: Counter[str] = Counter()
    tensors: Counter[str] = Counter()
    for name, stored in file.tensors.items():
        first = name.split(".")[0]
        counts[first] += stored.count
        tensors[first] += 1
    yield f"{file.path}: {len(file.tensors):,} tensors, {sum(counts.values()):,} numbers"
    yield ""
    for first, count in counts.most_common(SHOWN):
        yield f"{printable(first, 27):<32}{tensors[first]:>9,}{count:>16,}"
    if len(counts) > SHOWN:
        yield f"and {len(counts) - SHOWN} more"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(printable(name) for name in names[:SHOWN]) + more
