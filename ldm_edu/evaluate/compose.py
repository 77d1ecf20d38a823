"""What is measured of words never seen together: colours and counts by a program, two things by the judge's two looks.

Each figure stands beside the same one for real pictures, composed of drawings as the training set's are, and for those
through the autoencoder and back.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from ldm_edu.classifiers import TrainedClassifier
from ldm_edu.datasets.compose import Drawing, Drawings, Made, drawings, in_hue, several, side_by_side
from ldm_edu.datasets.compose_check import halves, in_colour, read_colour, read_count
from ldm_edu.datasets.emoji import STYLES, caption, emoji_splits, emoji_tensors
from ldm_edu.datasets.words import RELATIONS, thing
from ldm_edu.evaluate.emoji import Draw, Restore, on_white
from ldm_edu.evaluate.judge import judge_pictures
from ldm_edu.evaluate.record import Figure, Section
from ldm_edu.pictures import sheet, to_pil

ROWS = 10  # prompts of each held-out kind on the sheet


@dataclass(frozen=True)
class Asked:
    """One held-out combination: the real thing, what it is called, and the things that it shows from left to right."""

    made: Made
    names: tuple[str, ...]
    sided: bool = False  # the caption says which is on the left
    own: Tensor | None = None  # the main colour of the drawing as it was, Oklab (3,)

    @property
    def caption(self) -> str:
        """The prompt."""
        return caption(self.made.what, self.made.style)


def held_out_hues(source: Drawings) -> list[Asked]:
    """Things in colours that they were never trained in, nor have in any drawing; one style each, in turn."""
    found: list[Asked] = []
    for name, hue in sorted(emoji_splits().hues):
        if name not in source.starter or any(hue == read_colour(on_white(d.rgba[None])[0]) for d in source.of[name]):
            continue
        drawing = _in_turn(source.of[name], len(found))
        if (body := source.body(drawing)) and (made := in_hue(source, drawing, hue)):
            found.append(Asked(made, (name,), own=body.colour))
    return found


def held_out_counts(source: Drawings) -> list[Asked]:
    """Two or three of things that were never trained so many at once."""
    names = [(name, count) for name, count in sorted(emoji_splits().counts) if name in source.starter]
    drawn = [(_in_turn(source.of[name], i), count) for i, (name, count) in enumerate(names)]
    return [Asked(several(drawing, n, random.Random(i)), (drawing.name,) * n) for i, (drawing, n) in enumerate(drawn)]


def held_out_together(source: Drawings) -> list[Asked]:
    """Two things that were never trained together, "and", "left of" and "right of" in turn."""
    found = []
    for i, (first, second) in enumerate(sorted(tuple(sorted(names)) for names in emoji_splits().together)):
        relation = RELATIONS[i % len(RELATIONS)]
        one = _in_turn(source.of[first], i)
        alike = [drawing for drawing in source.of[second] if drawing.style == one.style]
        if alike:
            made = side_by_side(one, relation, alike[0], random.Random(i))
            names = (second, first) if relation == "right of" else (first, second)
            found.append(Asked(made, names, sided=relation != "and"))
    return found


def _in_turn(drawn: Sequence[Drawing], i: int) -> Drawing:
    """The drawing in the style whose turn it is, or in the next one that there is."""
    return min(drawn, key=lambda drawing: (STYLES.index(drawing.style) - i) % len(STYLES))


@dataclass(frozen=True)
class Names:
    """The judge's answers by things: it knows a red and a green apple, which are both an apple."""

    judge: TrainedClassifier
    among: Tensor  # (K,) the concepts that it may answer with

    def of(self, images: Tensor) -> list[str]:
        """The thing in each picture (N, 3, H, W)."""
        logits = judge_pictures(self.judge.model, images).concept_logits[:, self.among]  # (N, K)
        return [thing(self.judge.concepts[int(self.among[i])]) for i in logits.argmax(1)]


def composed_sections(
    draw: Draw, restore: Restore, judge: TrainedClassifier, *, count: int, seed: int
) -> list[Section]:
    """Colours, counts and pairs that were never trained, ``count`` pictures of each; seeds count up from ``seed``."""
    source = drawings()
    among = torch.cat([emoji_tensors(split, starter=True).concepts for split in ("train", "concepts")]).unique()
    names = Names(judge, among)
    kinds: list[tuple[str, Callable[[Drawings], list[Asked]], Callable[..., list[Figure]]]] = [
        ("Colours: (thing, colour) pairs never trained", held_out_hues, hue_figures),
        ("Counts: (thing, how many) pairs never trained", held_out_counts, count_figures),
        ("Two things never trained together", held_out_together, pair_figures),
    ]
    sections = []
    for title, find, figures in kinds:
        every = find(source)
        asked = _shuffled(every, count, seed)
        drawn = draw([each.caption for each in asked], [seed + i for i in range(count)]).float().cpu()
        real = torch.cat([on_white(each.made.rgba[None]) for each in asked])
        with torch.inference_mode():
            decoded = torch.cat([restore(part).float().cpu() for part in real.split(32)])
        note = f"{len(every)} such combinations of the starter concepts; asked for more often, they have new seeds."
        sections.append(Section(title, "drawn", figures(asked, names, drawn, real, decoded), note))
    return sections


def _shuffled(every: Sequence[Asked], count: int, seed: int) -> list[Asked]:
    order = torch.randperm(len(every), generator=torch.Generator().manual_seed(seed)).tolist()
    return [every[i] for i in (order * -(-count // len(order)))[:count]]


def hue_figures(asked: Sequence[Asked], names: Names, *pictures: Tensor) -> list[Figure]:
    """How often the main colour is the one asked for, the thing is, and both are.

    The judge was never shown a blue carrot, so the thing is repainted in its own colour before the judge looks.
    """
    columns = []
    for images in pictures:
        natural = [in_colour(i, each.own) for i, each in zip(images, asked, strict=True) if each.own is not None]
        hue = [read_colour(image) == each.made.hue for image, each in zip(images, asked, strict=True)]
        same = [name in each.names for name, each in zip(names.of(torch.stack(natural)), asked, strict=True)]
        columns.append([hue, same, [a and b for a, b in zip(hue, same, strict=True)]])
    return _figures(("colour", "thing", "colour and thing"), columns, goals=(0.85, None, None))


def count_figures(asked: Sequence[Asked], names: Names, *pictures: Tensor) -> list[Figure]:
    """How often as many things stand apart as were asked for: of all, of two and of three."""
    columns = []
    for images in pictures:
        right = [read_count(image) == each.made.number for image, each in zip(images, asked, strict=True)]
        by_count = [[r for r, each in zip(right, asked, strict=True) if each.made.number == n] for n in (2, 3)]
        columns.append([right, *by_count])
    return _figures(("how many", "how many, of two", "how many, of three"), columns, goals=(0.7, None, None))


def pair_figures(asked: Sequence[Asked], names: Names, *pictures: Tensor) -> list[Figure]:
    """How often the judge sees both things, one in each half, at least one of them, and each on the side asked for."""
    columns = []
    for images in pictures:
        parts = torch.stack([half for image in images for half in halves(image)])  # (2 N, 3, H, W)
        seen = names.of(parts)
        pairs = [tuple(seen[i : i + 2]) for i in range(0, len(seen), 2)]
        both = [sorted(pair) == sorted(each.names) for pair, each in zip(pairs, asked, strict=True)]
        one = [bool(set(pair) & set(each.names)) for pair, each in zip(pairs, asked, strict=True)]
        sided = [pair == each.names for pair, each in zip(pairs, asked, strict=True) if each.sided]
        columns.append([both, one, sided])
    words = ("both things", "at least one of them", "both, and on the sides asked for")
    return _figures(words, columns, goals=(0.6, None, None))


def _figures(
    words: Sequence[str], columns: Sequence[Sequence[Sequence[bool]]], *, goals: Sequence[float | None]
) -> list[Figure]:
    """Shares of the drawn, the real and the decoded ones, by rows of answers."""
    found = []
    for row, (word, goal) in enumerate(zip(words, goals, strict=True)):
        drawn, real, decoded = (sum(column[row]) / max(1, len(column[row])) for column in columns)
        beside = {"real": real, "real, decoded": decoded}
        found.append(Figure(word, drawn, len(columns[0][row]), beside, "%", goal))
    return found


def prompts() -> list[str]:
    """Forty prompts by rule: the split file's first of each held-out kind, of animals, plants and food."""
    source = drawings()
    plain = emoji_tensors("pairs", starter=True).captions[:ROWS]
    kinds = (held_out_hues(source), held_out_counts(source), held_out_together(source))
    return plain + [each.caption for kind in kinds for each in kind[:ROWS]]


def prompt_sheet(draw: Draw, seed: int) -> Image.Image:
    """The pictures of `prompts`, one row a kind, each by the seed ``seed``."""
    words = prompts()
    pictures = draw(words, [seed] * len(words))
    return sheet([to_pil(picture) for picture in pictures], words, columns=ROWS, width=96)
