"""Captioned pictures in the rows of a data set of the library `datasets`, saved or on the Hugging Face hub."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ldm_edu.datasets.captions import COLUMNS, Captions, row_captions
from ldm_edu.pictures import Source


def is_saved(folder: Path) -> bool:
    """Whether a folder is what `datasets`' ``save_to_disk`` wrote."""
    return any((folder / name).is_file() for name in ("dataset_info.json", "dataset_dict.json"))


def load_rows(source: str) -> tuple[list[str], list[Captions], Callable[[int], Source]]:
    """The names, the captions and the pictures of a data set's rows; of several splits that of ``train``.

    Parameters
    ----------
    source
        a saved data set's folder; or a name, which is looked for in `datasets`' own cache, and on the hub when online.

    Raises
    ------
    ValueError
        if there is no such data set, it has no columns of pictures and captions, or a row has no caption.
    """
    import datasets

    table = _train(_load(source), source)
    images = [name for name, kind in table.features.items() if isinstance(kind, datasets.Image)]
    captions = [name for name in COLUMNS if name in table.features]
    if len(images) != 1 or not captions:
        raise ValueError(
            f"{source} has the columns {', '.join(table.features)}; needed are one of pictures (datasets.Image) and "
            f"one of captions, named {' or '.join(COLUMNS)}: rename_column and remove_columns do that"
        )
    if not len(table):
        raise ValueError(f"{source} is empty; give a data set with pictures")
    names = [f"row {i} of {source}" for i in range(len(table))]
    rows = table.select_columns(captions)
    texts = [row_captions(row, name) for row, name in zip(rows, names, strict=True)]
    pictures = table.select_columns(images).cast_column(images[0], datasets.Image(decode=False))

    def picture(i: int) -> Source:
        value = pictures[i][images[0]]
        if value is None or (value["bytes"] is None and value["path"] is None):
            raise ValueError(f"{names[i]} has no picture: remove the row")
        return value["bytes"] if value["bytes"] is not None else Path(value["path"])

    return names, texts, picture


def _load(source: str) -> Any:
    import datasets

    folder = Path(source).expanduser()
    try:
        return datasets.load_from_disk(str(folder)) if is_saved(folder) else datasets.load_dataset(source)
    except Exception as error:  # many kinds: damaged, offline, unknown, private, gone
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        if is_saved(folder):
            raise ValueError(f"the data set in {source} cannot be loaded ({reason}); save it again") from error
        raise ValueError(
            f"{source!r} is not a folder, and no data set of that name could be loaded ({reason}). Give a folder of "
            "pictures, or one that datasets' save_to_disk wrote; one of the hub must be fetched once while online"
        ) from error


def _train(found: Any, source: str) -> Any:
    """The split to learn from."""
    if not isinstance(found, dict):
        return found
    if "train" not in found and len(found) != 1:
        raise ValueError(f"{source} has the splits {', '.join(found)}, none of them train; save the one to train on")
    return found["train"] if "train" in found else next(iter(found.values()))
