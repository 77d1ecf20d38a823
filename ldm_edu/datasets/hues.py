"""The main colour of a drawing: found, named, exchanged. Colours are compared in Oklab (Ottosson 2020)."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ldm_edu.datasets.words import HUES

SRGB = {  # what a recoloured thing is about, in [0, 1]
    "red": (0.88, 0.18, 0.20),
    "orange": (0.98, 0.55, 0.10),
    "yellow": (0.99, 0.83, 0.22),
    "green": (0.30, 0.68, 0.28),
    "blue": (0.20, 0.48, 0.92),
    "purple": (0.53, 0.30, 0.78),
    "pink": (0.98, 0.58, 0.75),
}
GREY = 0.045  # chroma below this has no hue
SPAN = math.radians(38)  # hues this near to the main one belong to it
LIGHT = 0.4  # how much a difference in lightness counts beside one in hue, when a colour is named
LEAST_BODY, LEAST_GREY = 0.4, 0.5  # of a drawing's area has its main colour, or its main grey
LEAST_SHARE = 0.3  # of what is seen has the colour that it is named by

_LMS = torch.tensor(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_LAB = torch.tensor(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def oklab(rgb: Tensor) -> Tensor:
    """sRGB (3, ...) in [0, 1] to Oklab's lightness, a and b: (3, ...)."""
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb.clamp(min=0) + 0.055) / 1.055) ** 2.4)
    lms = torch.tensordot(_LMS, linear, 1).clamp(min=0) ** (1 / 3)  # (3, ...)
    return torch.tensordot(_LAB, lms, 1)  # (3, ...)


def srgb(lab: Tensor) -> Tensor:
    """The inverse of `oklab`; what no screen shows is cut off to [0, 1]."""
    lms = torch.tensordot(torch.linalg.inv(_LAB), lab, 1) ** 3  # (3, ...)
    linear = torch.tensordot(torch.linalg.inv(_LMS), lms, 1).clamp(0, 1)  # (3, ...)
    return torch.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear.clamp(min=1e-8) ** (1 / 2.4) - 0.055)


PALETTE = oklab(torch.tensor([SRGB[hue] for hue in HUES]).T)  # (3, hues)


class Body(NamedTuple):
    """Where a drawing has its main colour, and what that is in Oklab."""

    weight: Tensor  # (H, W), 1 where a pixel has it, 0 where not, between at its rims
    lightness: float
    chroma: float  # 0: the main colour is a grey
    hue: float  # radians

    @property
    def colour(self) -> Tensor:
        """Its main colour in Oklab, (3,)."""
        return torch.tensor([self.lightness, self.chroma * math.cos(self.hue), self.chroma * math.sin(self.hue)])


def find_body(rgba: Tensor) -> Body | None:
    """The main colour of a drawing (4, H, W) uint8: of its hues the one with the largest area, or else a grey.

    None where no hue covers enough of it, and no grey does: a drawing of many colours.
    """
    solid = rgba[3] > 127  # (H, W)
    lab = oklab(rgba[:3] / 255)  # (3, H, W)
    chroma, hue = lab[1:].norm(dim=0), torch.atan2(lab[2], lab[1])  # (H, W), (H, W)
    area = solid.sum()
    vivid = solid & (chroma > GREY)
    if vivid.sum() >= LEAST_BODY * area:
        steps = torch.linspace(-math.pi, math.pi, 73)[:-1]  # (72,)
        weights = (chroma[vivid] * (_apart(hue[vivid][None], steps[:, None]) < SPAN / 2)).sum(1)  # (72,)
        main = steps[weights.argmax()]
        near = vivid & (_apart(hue, main) < SPAN)
        if near.sum() >= LEAST_BODY * area:
            edge = (_apart(hue, main) - SPAN) / math.radians(12)  # below 0 inside
            weight = (1 - edge).clamp(0, 1) * ((chroma - GREY / 2) / (GREY / 2)).clamp(0, 1)  # (H, W)
            mean = lab[:, near].mean(1)  # (3,)
            own = math.atan2(float(mean[2]), float(mean[1]))
            return Body(weight, float(lab[0][near].median()), float(chroma[near].median()), own)
    plain = solid & (chroma <= GREY) & (lab[0] > 0.35)  # outlines and pupils are darker
    if plain.sum() < LEAST_GREY * area:
        return None
    middle = lab[0][plain].median()
    weight = (1.5 - (lab[0] - middle).abs() / 0.16).clamp(0, 1) * (2 - chroma / GREY).clamp(0, 1)  # (H, W)
    return Body(weight, float(middle), 0.0, 0.0)


def _apart(hue: Tensor, other: Tensor) -> Tensor:
    """How far two hues lie apart on their circle, in radians."""
    return (hue - other + math.pi).remainder(2 * math.pi).sub(math.pi).abs()


def recolour(rgba: Tensor, body: Body, hue: str) -> Tensor:
    """A drawing (4, H, W) uint8 with its body in one of the named colours; all else stays.

    >>> apple = torch.tensor([200, 30, 30, 255], dtype=torch.uint8).view(4, 1, 1).repeat(1, 4, 4)
    >>> name_colour(recolour(apple, find_body(apple), "blue")[:3] / 255, torch.ones(4, 4, dtype=torch.bool))
    'blue'
    """
    return repaint(rgba, body, PALETTE[:, HUES.index(hue)])


def repaint(rgba: Tensor, body: Body, target: Tensor) -> Tensor:
    """A drawing (4, H, W) uint8 with its body in another colour, Oklab (3,), shaded as before."""
    lab = oklab(rgba[:3] / 255)  # (3, H, W)
    lightness = target[0] + 0.8 * (lab[0] - body.lightness)  # (H, W)
    vivid = (lab[1:].norm(dim=0) / body.chroma).clamp(0.35, 1.4) if body.chroma else torch.ones_like(lightness)
    new = torch.stack([lightness.clamp(0.05, 0.99), vivid * target[1], vivid * target[2]])  # (3, H, W)
    mixed = lab + body.weight * (new - lab)
    return torch.cat([(255 * srgb(mixed)).round().byte(), rgba[3:]])


def name_colour(rgb: Tensor, mask: Tensor) -> str:
    """The word for the main colour of the pixels of a ``mask`` (H, W), of sRGB (3, H, W) in [0, 1].

    The word of the largest area, or "" where none covers `LEAST_SHARE` of the mask.
    """
    lab = oklab(rgb[:, mask])  # (3, n)
    scale = torch.tensor([LIGHT, 1.0, 1.0])
    nearest = torch.cdist((lab.T * scale), (PALETTE.T * scale)).argmin(1)  # (n,)
    votes = torch.bincount(nearest[lab[1:].norm(dim=0) > GREY], minlength=len(HUES))  # (hues,)
    share = votes.max() / max(1, lab.shape[1])
    return HUES[int(votes.argmax())] if share >= LEAST_SHARE else ""
