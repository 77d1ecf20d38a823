"""Read a picture of the shapes set back: which things it shows, and whether a caption is true of it.

Analysis by synthesis: find each patch of ink, name its colour, then draw every shape where the patch is and keep the
one that fits best. For clean pictures and for those of a trained model, which may be noisy or show nothing at all.
"""

from collections.abc import Sequence
from itertools import permutations
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ldm_edu.datasets.patches import patches
from ldm_edu.datasets.shapes import COLOURS, RADII, RELATIONS, SHAPES, Thing, coverage, parse

KINDS = ("size", "colour", "shape", "relation")  # the kinds of word that a caption has
UNKNOWN = ""  # the word for ink that is no colour, or no shape, of the set

INK = 0.22  # a pixel this far from white, in [0, 1], may be ink
LEAST_AREA = 0.012  # of the picture: below half of the smallest triangle, it is a speck
COLOUR_NEAR = 0.30  # Euclidean, in [0, 1]
SHAPE_MISFIT = 0.45  # squared error of the best shape, relative to its own area
SIZE_EDGE = (RADII["small"][1] + RADII["big"][0]) / 2

# area / radius^2, and how far the centre of mass lies below the centre, in radii
_AREA = {"circle": torch.pi, "square": 4.0, "triangle": 2.0, "cross": 20 / 9}
_SINK = {"circle": 0.0, "square": 0.0, "triangle": 1 / 3, "cross": 0.0}


def see(image: Tensor) -> list[Thing]:
    """The things in a picture, (3, S, S) in [-1, 1], largest first; an unknown colour or shape is "".

    Raises
    ------
    ValueError
        if the picture is not a square of three channels.
    """
    if image.ndim != 3 or image.shape[0] != 3 or image.shape[1] != image.shape[2]:
        raise ValueError(f"Expected one square picture (3, S, S), got {tuple(image.shape)}.")
    ink = 1 - ((image.detach().float().cpu() + 1) / 2).clamp(0, 1)  # (3, S, S), 0 where white
    patches = [_name(ink, patch) for patch in _patches(ink)]
    return sorted(patches, key=lambda thing: -thing.radius)


def _patches(ink: Tensor) -> list[Tensor]:
    """Masks (S, S) of the connected patches of ink that are larger than a speck."""
    mask = ink.amax(0) > INK  # (S, S)
    return patches(mask, least=LEAST_AREA * mask.numel())


def _name(ink: Tensor, patch: Tensor) -> Thing:
    colour, rgb = _colour(ink, patch)
    near = F.max_pool2d(patch[None].float(), 3, 1, 1)[0]  # (S, S), with the faint outline around the patch
    # how much of each pixel is this colour: its ink projected on the colour's
    alpha = (torch.einsum("chw,c->hw", ink, rgb) / rgb.square().sum().clamp(min=1e-6)).clamp(0, 1) * near
    misfit, shape, x, y, radius = min(_fit(shape, alpha, near) for shape in SHAPES)
    size = "small" if radius < SIZE_EDGE else "big"
    return Thing(size, colour, shape if misfit <= SHAPE_MISFIT else UNKNOWN, x, y, radius)


def _colour(ink: Tensor, patch: Tensor) -> tuple[str, Tensor]:
    """The patch's colour word, and its ink (3,): the median of the pixels inside, else of all."""
    inside = -F.max_pool2d(-patch[None].float(), 3, 1, 1)[0] > 0  # (S, S)
    rgb = ink[:, inside if inside.sum() >= 4 else patch].median(dim=1).values  # (3,)
    palette = 1 - torch.tensor(list(COLOURS.values()))  # (P, 3)
    distance, which = (palette - rgb).norm(dim=1).min(0)
    return (list(COLOURS)[which] if distance <= COLOUR_NEAR else UNKNOWN), rgb


def _fit(shape: str, alpha: Tensor, near: Tensor) -> tuple[float, str, float, float, float]:
    """(misfit, shape, x, y, radius) of a shape with the patch's area and centre of mass."""
    size = alpha.shape[-1]
    grid = (torch.arange(size) + 0.5) / size
    area = alpha.sum().clamp(min=1e-6)
    radius = (area / _AREA[shape]).sqrt() / size
    x = (alpha.sum(0) * grid).sum() / area
    y = (alpha.sum(1) * grid).sum() / area - _SINK[shape] * radius
    drawn = coverage(shape, x[None], y[None], radius[None], size)[0]
    misfit = (drawn - alpha).square().sum() / area
    return misfit.item(), shape, x.item(), y.item(), radius.item()


def check_caption(image: Tensor, caption: str) -> dict[str, bool]:
    """Whether each kind of word of a caption is true of a picture, (3, S, S) in [-1, 1].

    The things seen are matched to the things named so that most of their own words are true; where they stand has no
    say in it. "size", "colour" and "shape" are true if they are right for every thing; "relation" if the matched
    centres lie so, more along the relation's axis than across it. Where two matchings are equally good, it must be true
    of both, unless the caption names two equal things: a picture whose words say nothing is not to be right by choice.
    A picture with more or fewer things than the caption names has every kind wrong.

    Returns
    -------
    {"size": ..., "colour": ..., "shape": ...}, and "relation" if the caption has one.

    Raises
    ------
    ValueError
        if the caption is not of the set's grammar.
    """
    wanted = parse(caption)
    seen = see(image)
    if len(seen) != len(wanted.things):
        return dict.fromkeys(KINDS if wanted.relation else KINDS[:3], False)
    matchings = [(_compare(order, wanted.things), order) for order in permutations(seen)]
    most = max(_count(words) for words, _ in matchings)
    best = [(words, order) for words, order in matchings if _count(words) == most]
    verdict = dict(zip(KINDS, map(all, best[0][0]), strict=False))
    if wanted.relation:
        stand = [_lie_so(wanted.relation, *order) for _, order in best]
        verdict["relation"] = any(stand) if wanted.things[0] == wanted.things[1] else all(stand)
    return verdict


def _compare(seen: Sequence[Thing], wanted: Sequence[tuple[str, str, str]]) -> list[tuple[bool, ...]]:
    """For size, colour and shape, which of its words are true under one matching."""
    pairs = zip(seen, wanted, strict=True)
    by_thing = [tuple(have == want for have, want in zip(s.words, w, strict=True)) for s, w in pairs]
    return list(zip(*by_thing, strict=True))


def _count(words: list[tuple[bool, ...]]) -> int:
    return sum(map(sum, words))


def _lie_so(relation: str, first: Thing, second: Thing) -> bool:
    """Whether the first lies as a relation says of the second, more along its axis than across it."""
    axis, sign = RELATIONS[relation]
    offset = (first.x - second.x, first.y - second.y)
    return sign * offset[axis] > abs(offset[1 - axis])


class CaptionScore(NamedTuple):
    """Share of pictures, in [0, 1], for which a kind of word is true, and for which all are."""

    size: float
    colour: float
    shape: float
    relation: float
    all: float


def caption_accuracy(images: Tensor, captions: Sequence[str]) -> CaptionScore:
    """How often captions are true of pictures, (N, 3, S, S) in [-1, 1]; relation over the captions that have one.

    Raises
    ------
    ValueError
        if there are no pictures, or not as many captions.
    """
    if not len(images) or len(images) != len(captions):
        raise ValueError(f"Expected as many captions as pictures and at least one, got {len(captions)}, {len(images)}.")
    verdicts = [check_caption(image, caption) for image, caption in zip(images, captions, strict=True)]
    shares = []
    for kind in KINDS:
        answers = [verdict[kind] for verdict in verdicts if kind in verdict]
        shares.append(sum(answers) / len(answers) if answers else float("nan"))
    shares.append(sum(all(verdict.values()) for verdict in verdicts) / len(verdicts))
    return CaptionScore(*shares)
