"""Fashion-MNIST, a subset balanced by class: 28x28 grey pictures of ten kinds of clothes (Xiao, Rasul and Vollgraf,
2017). Source and licence: data/README.md."""

import io
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor

from ldm_edu.datasets.tables import as_dataset, read_tables
from ldm_edu.paths import data_dir

if TYPE_CHECKING:
    from datasets import Dataset

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = ("train", "test")
FASHION_CLASSES = (  # a class's id is its place here
    "t-shirt",
    "trousers",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)


class FashionTensors(NamedTuple):
    """A split in memory."""

    images: Tensor  # (N, 1, 28, 28) float32 in [-1, 1]
    labels: Tensor  # (N,) int64, index FASHION_CLASSES


def fashion_mnist(split: Split = "train") -> "Dataset":
    """Columns image (28x28 grey), label (0 to 9), name ("ankle boot"): 8,000 pictures to train, 2,000 to test.

    Raises
    ------
    ValueError
        if there is no such split.
    """
    return as_dataset(_table(split))


def fashion_tensors(split: Split = "train") -> FashionTensors:
    """The pictures of one split, decoded. Errors as for `fashion_mnist`."""
    table = _table(split)
    pictures = [np.asarray(Image.open(io.BytesIO(row["bytes"]))) for row in table["image"].to_pylist()]
    images = torch.from_numpy(np.stack(pictures))[:, None]  # (N, 1, 28, 28) uint8
    return FashionTensors(2 * (images / 255) - 1, torch.tensor(table["label"].to_pylist()))


def _table(split: Split) -> pa.Table:
    if split not in SPLITS:
        raise ValueError(f"No Fashion-MNIST split {split!r}. Use one of: {', '.join(SPLITS)}.")
    return read_tables([data_dir() / "fashion_mnist" / f"{split}.parquet"])
