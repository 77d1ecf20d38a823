"""The emoji set: 1,386 concepts drawn in up to six styles, with captions such as "red apple, 3d style".

The splits were fixed in ``data/emoji/splits.json`` before anything was trained. Sources and licences: data/README.md.
"""

import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from ldm_edu.datasets.tables import as_dataset, read_tables
from ldm_edu.paths import data_dir

if TYPE_CHECKING:
    from datasets import Dataset

Split = Literal["train", "pairs", "concepts", "all"]
SPLITS: tuple[Split, ...] = ("train", "pairs", "concepts", "all")
STYLES = ("3d", "flat", "noto", "blob", "twemoji", "firefox")  # a style's id is its place here
SIZE = 64
STARTER_GROUPS = ("animals-nature", "food-drink")


def caption(label: str, style: str, background: str = "") -> str:
    """What a picture is called.

    >>> caption("red apple", "3d"), caption("fish", "flat", "blue")
    ('red apple, 3d style', 'fish, flat style, on a blue background')
    """
    words = f"{label}, {style} style"
    return on_background(words, background) if background else words


def on_background(words: str, background: str) -> str:
    """A caption with the colour of its background.

    >>> on_background("fish, flat style", "orange")
    'fish, flat style, on an orange background'
    """
    article = "an" if background[0] in "aeiou" else "a"
    return f"{words}, on {article} {background} background"


@dataclass(frozen=True)
class EmojiSplits:
    """What is held out, by name.

    ``pairs`` (concept, style) are for the text-to-image test; whole ``concepts`` for the autoencoder's test and kept
    out of text-to-image training too; ``core`` are the plain concepts that the small model is trained on. Of the
    composed pictures ``hues`` (thing, colour), ``counts`` (thing, how many) and ``together`` {thing, thing} are never
    trained, in any style.
    """

    pairs: frozenset[tuple[str, str]]
    concepts: frozenset[str]
    core: frozenset[str]
    hues: frozenset[tuple[str, str]] = frozenset()
    counts: frozenset[tuple[str, int]] = frozenset()
    together: frozenset[frozenset[str]] = frozenset()

    def of(self, concept: str, style: str) -> Split:
        """The one split that a picture belongs to."""
        if concept in self.concepts:
            return "concepts"
        return "pairs" if (concept, style) in self.pairs else "train"


def emoji_splits() -> EmojiSplits:
    """The committed splits."""
    found = json.loads((data_dir() / "emoji" / "splits.json").read_text(encoding="utf-8"))
    hues, counts = (frozenset((name, what) for name, what in found[kind]) for kind in ("hues", "counts"))
    return EmojiSplits(
        frozenset((concept, style) for concept, style in found["pairs"]),
        frozenset(found["concepts"]),
        frozenset(found["core"]),
        hues,
        counts,
        frozenset(frozenset(names) for names in found["together"]),
    )


def emoji(split: Split = "train", core: bool = False, starter: bool = False) -> "Dataset":
    """The pictures of one split, concepts in Unicode's order and styles in the order of ``STYLES``.

    Parameters
    ----------
    split : "train"; "pairs", the (concept, style) pairs held out; "concepts", the concepts held out; "all".
    core : only the plain concepts of ``emoji_splits().core``.
    starter : of these only animals, plants and food (``STARTER_GROUPS``): what a first model can learn in an hour.

    Returns
    -------
    Columns concept, label, style, group, subgroup, tags, codepoint, image (64x64 RGBA), source, licence, caption.

    Raises
    ------
    ValueError
        if there is no such split.
    """
    return as_dataset(_table(split, core, starter))


class EmojiTensors(NamedTuple):
    """A split in memory; ``concepts`` index ``emoji_labels()`` and ``styles`` index ``STYLES``."""

    rgba: Tensor  # (N, 4, 64, 64) uint8
    captions: list[str]
    concepts: Tensor  # (N,) int64
    styles: Tensor  # (N,) int64


def emoji_tensors(split: Split = "train", core: bool = False, starter: bool = False) -> EmojiTensors:
    """The pictures of one split, decoded, as training wants them. Parameters as for ``emoji``."""
    table = _table(split, core, starter)
    pictures = [np.asarray(Image.open(io.BytesIO(row["bytes"])).convert("RGBA")) for row in table["image"].to_pylist()]
    rgba = rearrange(torch.from_numpy(np.stack(pictures)), "n h w c -> n c h w").contiguous()
    places = {label: place for place, label in enumerate(emoji_labels())}
    concepts = torch.tensor([places[label] for label in table["label"].to_pylist()])
    styles = torch.tensor([STYLES.index(style) for style in table["style"].to_pylist()])
    return EmojiTensors(rgba, table["caption"].to_pylist(), concepts, styles)


def emoji_labels() -> list[str]:
    """The label of every concept ("red apple") in Unicode's order; a concept's id is its place here."""
    return list(dict.fromkeys(_table("all")["label"].to_pylist()))


def _table(split: Split, core: bool = False, starter: bool = False) -> pa.Table:
    if split not in SPLITS:
        raise ValueError(f"No emoji split {split!r}. Use one of: {', '.join(SPLITS)}.")
    table = read_tables(sorted((data_dir() / "emoji").glob("emoji-*.parquet")))
    labels, styles = table["label"].to_pylist(), table["style"].to_pylist()
    captions = [caption(label, style) for label, style in zip(labels, styles, strict=True)]
    splits = emoji_splits()
    wanted = [
        (split == "all" or splits.of(concept, style) == split)
        and (not (core or starter) or concept in splits.core)
        and (not starter or group in STARTER_GROUPS)
        for concept, style, group in zip(table["concept"].to_pylist(), styles, table["group"].to_pylist(), strict=True)
    ]
    return table.append_column("caption", pa.array(captions)).filter(pa.array(wanted))
