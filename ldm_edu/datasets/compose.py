"""Pictures that nobody drew, made of drawings: recoloured things, two and three of one, two things side by side.

Captions such as "purple elephant, 3d style", "two rockets, flat style", "a cat and a pizza, noto style". A program
reads each colour and each number back from the picture (`ldm_edu.datasets.compose_check`) before it is taken. What
the split file holds out is never made.
"""

import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ldm_edu.datasets.backgrounds import PALETTE, background, composite
from ldm_edu.datasets.compose_check import read_colour, read_count
from ldm_edu.datasets.emoji import (
    SIZE,
    STYLES,
    EmojiSplits,
    EmojiTensors,
    caption,
    emoji_labels,
    emoji_splits,
    emoji_tensors,
)
from ldm_edu.datasets.hues import Body, find_body, name_colour, recolour
from ldm_edu.datasets.words import (
    COUNTS,
    HUES,
    RELATIONS,
    Relation,
    coloured,
    countable,
    counted,
    thing,
    together,
    with_article,
)

Kind = Literal["hue", "count", "together"]
KINDS: dict[Kind, float] = {"hue": 0.5, "count": 0.25, "together": 0.25}  # share of each
OTHERS = 0.4  # share of things from all core concepts, the rest from the starter ones
PLAIN = 0.75  # share on white
ARTICLE = 0.3  # share of captions of one thing that begin with "a"

WIDE, HIGH = 28, 44  # the box of each of two things, in pixels
PLACES = {  # the middle of each thing, in pixels
    2: ((16, 32), (48, 32)),
    3: ((32, 16), (16, 48), (48, 48)),
}
JITTER = 1


class Composed(NamedTuple):
    """Composed pictures in memory."""

    images: Tensor  # (N, 3, 64, 64) uint8
    captions: list[str]
    facts: list[tuple[str, str, str]]  # of each: what it shows, its style, its background


@dataclass(frozen=True)
class Drawing:
    """One drawing, and what may be done with it."""

    rgba: Tensor  # (4, 64, 64) uint8
    name: str
    style: str


class Drawings:
    """The drawings of the training set by their things; ``starter`` are the things of animals, plants and food."""

    def __init__(self, data: EmojiTensors, starter: set[str]) -> None:
        labels = emoji_labels()
        self.of: dict[str, list[Drawing]] = defaultdict(list)
        for rgba, concept, style in zip(data.rgba, data.concepts.tolist(), data.styles.tolist(), strict=True):
            name = thing(labels[concept])
            self.of[name].append(Drawing(rgba, name, STYLES[style]))
        self.names = list(self.of)
        self.starter = [name for name in self.names if name in starter]
        self._bodies: dict[int, Body | None] = {}

    def pick(self, rng: random.Random, others: float = OTHERS) -> Drawing:
        """A thing, each alike, and one of its drawings."""
        names = self.names if rng.random() < others else self.starter
        return rng.choice(self.of[rng.choice(names)])

    def body(self, drawing: Drawing) -> Body | None:
        """Its main colour, found once."""
        key = id(drawing)
        if key not in self._bodies:
            self._bodies[key] = find_body(drawing.rgba)
        return self._bodies[key]


def drawings() -> Drawings:
    """The drawings that training may use: the core concepts' ``train`` split."""
    labels = emoji_labels()
    starter = emoji_tensors("train", starter=True).concepts.unique().tolist()
    return Drawings(emoji_tensors("train", core=True), {thing(labels[concept]) for concept in starter})


class Made(NamedTuple):
    """One composed drawing, not yet on a background."""

    rgba: Tensor  # (4, 64, 64) uint8
    what: str
    style: str
    hue: str = ""
    number: int = 1  # of things


def in_hue(source: Drawings, drawing: Drawing, hue: str) -> Made | None:
    """A thing in another colour; None where the drawing has too many colours of its own."""
    body = source.body(drawing)
    if body is None:
        return None
    return Made(recolour(drawing.rgba, body, hue), coloured(drawing.name, hue), drawing.style, hue=hue)


def several(drawing: Drawing, count: int, rng: random.Random) -> Made:
    """Two or three of a thing."""
    places = PLACES[count]
    if count == 3 and rng.random() < 0.5:  # the single one below
        places = tuple((x, SIZE - y) for x, y in places)
    part = fitted(drawing.rgba, WIDE, HIGH if count == 2 else WIDE)
    rgba = lay([part] * count, [_near(place, rng) for place in places])
    return Made(rgba, counted(drawing.name, count), drawing.style, number=count)


def side_by_side(first: Drawing, relation: Relation, second: Drawing, rng: random.Random) -> Made:
    """Two things, as a relation says; "and" leaves it open which one is on the left."""
    parts = [fitted(each.rgba, WIDE, HIGH) for each in (first, second)]
    if relation == "right of" or (relation == "and" and rng.random() < 0.5):
        parts.reverse()
    rgba = lay(parts, [_near(place, rng) for place in PLACES[2]])
    return Made(rgba, together(first.name, relation, second.name), first.style, number=2)


def any_hue(source: Drawings, rng: random.Random, held_out: EmojiSplits) -> Made | None:
    """Any thing in a colour that is not held out of it."""
    drawing = source.pick(rng)
    hue = rng.choice([hue for hue in HUES if (drawing.name, hue) not in held_out.hues])
    return in_hue(source, drawing, hue)


def any_count(source: Drawings, rng: random.Random, held_out: EmojiSplits) -> Made | None:
    """Two or three of any thing; None where it cannot be counted."""
    drawing = source.pick(rng)
    if not countable(drawing.name):
        return None
    count = rng.choice([count for count in COUNTS if (drawing.name, count) not in held_out.counts])
    return several(drawing, count, rng)


def any_two(source: Drawings, rng: random.Random, held_out: EmojiSplits) -> Made | None:
    """Any two things of one style; None where they are held out, or the second was never drawn in the first's style."""
    first, second = source.pick(rng), source.pick(rng)
    alike = [drawing for drawing in source.of[second.name] if drawing.style == first.style]
    if not alike or first.name == second.name or frozenset((first.name, second.name)) in held_out.together:
        return None
    relation: Relation = rng.choice(RELATIONS)
    return side_by_side(first, relation, alike[0], rng)


MAKERS = {"hue": any_hue, "count": any_count, "together": any_two}


def compose(n: int, seed: int = 0, source: Drawings | None = None) -> Composed:
    """``n`` composed pictures, whose captions a program has read back; picture ``i`` depends on (seed, i) alone."""
    source = source or drawings()
    held_out = emoji_splits()
    found = [_one(random.Random(f"{seed}:{i}"), source, held_out) for i in range(n)]
    images, captions, facts = zip(*found, strict=True)
    return Composed(torch.stack(images), list(captions), list(facts))


def _one(rng: random.Random, source: Drawings, held_out: EmojiSplits) -> tuple[Tensor, str, tuple[str, str, str]]:
    """One picture (3, 64, 64) uint8 with its caption and facts: tried until it is what it is called."""
    kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
    for made in _tries(kind, rng, source, held_out):
        names = [name for name in PALETTE if name not in ("white", made.hue)]
        ground = "white" if rng.random() < PLAIN else rng.choice(names)
        image = composite(made.rgba[None], background(ground))[0]  # (3, 64, 64)
        if is_true(image, made):
            what = with_article(made.what) if kind == "hue" and rng.random() < ARTICLE else made.what
            words = caption(what, made.style, "" if ground == "white" else ground)
            return ((image + 1) * 127.5).round().byte(), words, (made.what, f"{made.style} style", ground)
    raise AssertionError("unreachable: the tries do not end")


def _tries(kind: Kind, rng: random.Random, source: Drawings, held_out: EmojiSplits) -> Iterator[Made]:
    while True:
        if made := MAKERS[kind](source, rng, held_out):
            yield made


def is_true(image: Tensor, made: Made) -> bool:
    """Whether a picture (3, 64, 64) in [-1, 1] reads as the colour and as the number of things that it was made of."""
    if made.hue:  # where its ground hides it, the drawing itself knows better
        drawn = name_colour(made.rgba[:3] / 255, made.rgba[3] > 127)
        return read_colour(image) == drawn == made.hue
    return read_count(image) == made.number


def fitted(rgba: Tensor, wide: int, high: int) -> Tensor:
    """What a drawing (4, H, W) uint8 shows, as large as a box allows: premultiplied (4, h, w) in [0, 1]."""
    there = rgba[3] > 8  # (H, W)
    rows, columns = there.any(1).nonzero()[:, 0], there.any(0).nonzero()[:, 0]
    part = rgba[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] / 255  # (4, h, w)
    height, width = part.shape[1:]
    scale = min(wide / width, high / height)
    size = (max(1, round(scale * height)), max(1, round(scale * width)))
    premultiplied = torch.cat([part[:3] * part[3:], part[3:]])
    return F.interpolate(premultiplied[None], size, mode="bilinear", antialias=True)[0].clamp(0, 1)


def lay(parts: list[Tensor], places: list[tuple[int, int]]) -> Tensor:
    """Premultiplied parts (4, h, w) side by side, the middle of each at its place (x, y): (4, 64, 64) uint8."""
    canvas = torch.zeros(4, SIZE, SIZE)
    for part, (x, y) in zip(parts, places, strict=True):
        height, width = part.shape[1:]
        left, top = x - width // 2, y - height // 2
        canvas[:, top : top + height, left : left + width] += part
    alpha = canvas[3:].clamp(0, 1)
    return (255 * torch.cat([(canvas[:3] / alpha.clamp(min=1e-3)).clamp(0, 1), alpha])).round().byte()


def _near(place: tuple[int, int], rng: random.Random) -> tuple[int, int]:
    x, y = place
    return x + rng.randint(-JITTER, JITTER), y + rng.randint(-JITTER, JITTER)
