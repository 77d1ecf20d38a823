"""Drawn shapes with captions that a program can check: "a small red circle left of a big blue square".

Nothing is stored: a scene depends on (seed, split, index) alone. `ldm_edu.datasets.shapes_check` reads pictures back.
"""

import io
import random
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import pyarrow as pa
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from ldm_edu.datasets.tables import as_dataset, with_picture_column

if TYPE_CHECKING:
    from datasets import Dataset

Split = Literal["train", "test", "combos"]
SPLITS: tuple[Split, ...] = ("train", "test", "combos")

COLOURS = {  # sRGB in [0, 1]
    "red": (0.90, 0.10, 0.10),
    "orange": (1.00, 0.55, 0.00),
    "yellow": (0.98, 0.85, 0.10),
    "green": (0.10, 0.65, 0.20),
    "blue": (0.10, 0.30, 0.90),
    "purple": (0.55, 0.15, 0.75),
    "pink": (1.00, 0.55, 0.75),
    "black": (0.05, 0.05, 0.05),
}
SHAPES = ("circle", "square", "triangle", "cross")
RADII = {"small": (0.110, 0.135), "big": (0.185, 0.210)}  # half the width, as a share of the picture's side
RELATIONS = {  # where the first thing's centre lies seen from the second's: (axis, sign), axis 0 = x, y points down
    "left of": (0, -1),
    "right of": (0, 1),
    "above": (1, -1),
    "below": (1, 1),
}
SINGLE_SHARE = 0.25  # of the captions name one thing
MARGIN, GAP = 0.03, 0.08  # free space at the picture's border and between two things
LEAN = 0.5  # things beside each other differ in height by at most this share of their distance, and so on

# Never seen together in "train" and "test": every second colour misses one shape, every shape misses one colour.
HELD_OUT = frozenset((colour, SHAPES[(i // 2 + 1) % len(SHAPES)]) for i, colour in enumerate(COLOURS) if i % 2 == 0)


@dataclass(frozen=True)
class Thing:
    """One shape: three words, its centre (x, y) from the top left and its radius, as shares of the picture's side."""

    size: str
    colour: str
    shape: str
    x: float
    y: float
    radius: float

    @property
    def words(self) -> tuple[str, str, str]:
        """(size, colour, shape): what a caption says about it."""
        return self.size, self.colour, self.shape


@dataclass(frozen=True)
class Scene:
    """One thing, or two with the relation of the first to the second."""

    things: tuple[Thing, ...]
    relation: str | None = None


class Words(NamedTuple):
    """What a caption asks for: (size, colour, shape) of each thing, and the relation if there are two."""

    things: tuple[tuple[str, str, str], ...]
    relation: str | None


class ShapesTensors(NamedTuple):
    """Pictures in memory with their captions."""

    images: Tensor  # (N, 3, S, S) float32 in [-1, 1]
    captions: list[str]


_NOUN = f"a ({'|'.join(RADII)}) ({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})"
_GRAMMAR = re.compile(f"{_NOUN}(?: ({'|'.join(RELATIONS)}) {_NOUN})?")


def describe(scene: Scene) -> str:
    """The caption of a scene."""
    nouns = [f"a {' '.join(thing.words)}" for thing in scene.things]
    return f" {scene.relation} ".join(nouns)


def parse(caption: str) -> Words:
    """What a caption asks for: the inverse of `describe`.

    >>> parse("a small red circle left of a big blue square").relation
    'left of'

    Raises
    ------
    ValueError
        if the caption is not of the grammar of this set.
    """
    found = _GRAMMAR.fullmatch(caption)
    if found is None:
        raise ValueError(
            f"{caption!r} is no caption of the shapes set. Say 'a SIZE COLOUR SHAPE' or 'a SIZE COLOUR SHAPE RELATION "
            f"a SIZE COLOUR SHAPE' with sizes {', '.join(RADII)}; colours {', '.join(COLOURS)}; shapes "
            f"{', '.join(SHAPES)}; relations {', '.join(RELATIONS)}."
        )
    words = found.groups()
    first, relation, second = words[:3], words[3], words[4:]
    return Words((first, second) if relation else (first,), relation)  # type: ignore[arg-type]


def scenes(split: Split = "train", n: int = 10_000, seed: int = 0) -> list[Scene]:
    """The first ``n`` scenes of a split.

    "train" and "test" never show a pair of `HELD_OUT`; in "combos" every scene shows at least one.

    Raises
    ------
    ValueError
        if there is no such split or ``n`` is below 1.
    """
    if split not in SPLITS or n < 1:
        raise ValueError(f"No shapes split {split!r} of {n} scenes. Use one of {', '.join(SPLITS)}, and n >= 1.")
    return [_scene(random.Random(f"{seed}:{split}:{index}"), combos=split == "combos") for index in range(n)]


def _scene(rng: random.Random, combos: bool) -> Scene:
    count = 1 if rng.random() < SINGLE_SHARE else 2
    while True:  # draw words until they fit the split; two things never share both colour and shape
        words = [(rng.choice(list(RADII)), rng.choice(list(COLOURS)), rng.choice(SHAPES)) for _ in range(count)]
        kinds = {(colour, shape) for _, colour, shape in words}
        if len(kinds) == count and bool(kinds & HELD_OUT) == combos:
            break
    radii = [rng.uniform(*RADII[size]) for size, _, _ in words]
    if count == 1:
        low, high = MARGIN + radii[0], 1 - MARGIN - radii[0]
        return Scene((Thing(*words[0], rng.uniform(low, high), rng.uniform(low, high), radii[0]),))
    relation = rng.choice(list(RELATIONS))
    axis, sign = RELATIONS[relation]
    centres = _beside(rng, radii if sign < 0 else radii[::-1])
    if sign > 0:
        centres.reverse()
    # centres are (along, across) the relation's axis
    things = [
        Thing(*word, *(centre if axis == 0 else centre[::-1]), radius)
        for word, centre, radius in zip(words, centres, radii, strict=True)
    ]
    return Scene(tuple(things), relation)


def _beside(rng: random.Random, radii: list[float]) -> list[tuple[float, float]]:
    """Centres (along, across) of two things, the first before the second along the axis."""
    slack = 1 - 2 * MARGIN - GAP - 2 * sum(radii)
    before, between = sorted((rng.uniform(0, slack), rng.uniform(0, slack)))
    first = MARGIN + before + radii[0]
    second = first + radii[0] + GAP + (between - before) + radii[1]
    reach = LEAN * (second - first)
    across = rng.uniform(MARGIN + radii[0], 1 - MARGIN - radii[0])
    low, high = max(across - reach, MARGIN + radii[1]), min(across + reach, 1 - MARGIN - radii[1])
    return [(first, across), (second, rng.uniform(low, high))]


def coverage(shape: str, x: Tensor, y: Tensor, radius: Tensor, size: int) -> Tensor:
    """How much of every pixel a shape covers.

    Parameters
    ----------
    x, y, radius : (N,), shares of the side.
    size : pixels a side.

    Returns
    -------
    (N, size, size) in [0, 1]: the distance to the outline, cut off half a pixel inside and outside of it.
    """
    grid = (torch.arange(size) + 0.5) / size  # pixel centres
    x, y, r = (rearrange(value, "n -> n 1 1") for value in (x, y, radius))
    dx, dy = grid[None, None, :] - x, grid[None, :, None] - y  # (N, 1, S), (N, S, 1)
    if shape == "circle":
        outside = (dx.square() + dy.square()).sqrt() - r
    elif shape == "square":
        outside = torch.maximum(dx.abs(), dy.abs()) - r
    elif shape == "triangle":  # apex (0, -r), base from (-r, r) to (r, r): three half planes
        outside = torch.maximum(dy - r, (2 * dx.abs() - dy - r) / 5**0.5)
    elif shape == "cross":  # two bars, a third of the width each
        thin, wide = torch.minimum(dx.abs(), dy.abs()), torch.maximum(dx.abs(), dy.abs())
        outside = torch.maximum(wide - r, thin - r / 3)
    else:
        raise ValueError(f"No shape {shape!r}. Use one of: {', '.join(SHAPES)}.")
    return (0.5 - outside * size).clamp(0, 1)  # (N, S, S)


def draw(scenes: list[Scene], size: int = 32) -> Tensor:
    """Pictures of scenes, anti-aliased on white: (N, 3, size, size) float32 in [-1, 1]."""
    images = torch.ones(len(scenes), 3, size, size)
    placed = [(n, thing) for n, scene in enumerate(scenes) for thing in scene.things]
    for shape in SHAPES:
        mine = [(n, thing) for n, thing in placed if thing.shape == shape]
        if not mine:
            continue
        x, y, radius = torch.tensor([(t.x, t.y, t.radius) for _, t in mine]).unbind(1)  # (M,) each
        colours = rearrange(2 * torch.tensor([COLOURS[t.colour] for _, t in mine]) - 1, "m c -> m c 1 1")
        alpha = rearrange(coverage(shape, x, y, radius, size), "m h w -> m 1 h w")
        # things of one picture never overlap, so what each adds to the white can be summed in any order
        images.index_add_(0, torch.tensor([n for n, _ in mine]), alpha * (colours - 1))
    return images


def shapes_tensors(split: Split = "train", n: int = 10_000, seed: int = 0, size: int = 32) -> ShapesTensors:
    """The first ``n`` pictures of a split and their captions, as training wants them. Errors as for `scenes`."""
    chosen = scenes(split, n, seed)
    return ShapesTensors(draw(chosen, size), [describe(scene) for scene in chosen])


def shapes(split: Split = "train", n: int = 1_000, seed: int = 0, size: int = 32) -> "Dataset":
    """The same as a ``datasets.Dataset`` with columns image and caption."""
    images, captions = shapes_tensors(split, n, seed, size)
    pixels = rearrange(((images + 1) * 127.5).round().byte(), "n c h w -> n h w c").numpy()
    pictures = [{"bytes": _png(Image.fromarray(picture)), "path": None} for picture in pixels]
    return as_dataset(with_picture_column(pa.table({"caption": captions}), pictures))


def _png(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()
