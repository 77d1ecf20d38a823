"""Read a composed picture back: how many things stand there, in which colour, and what is on each side."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ldm_edu.datasets.backgrounds import background, composite
from ldm_edu.datasets.hues import find_body, name_colour, repaint
from ldm_edu.datasets.patches import patches

INK = 0.15  # a pixel this far from the ground in one channel, in [0, 1], belongs to a thing
SPECK = 0.2  # a patch this much smaller than the largest is no thing
LEAST = 20  # pixels of a patch that may be a thing


def find_things(image: Tensor) -> Tensor:
    """Where a picture (3, H, W) in [-1, 1] differs from its ground, its border's median colour: (H, W), boolean."""
    rgb = ((image.float() + 1) / 2).clamp(0, 1)  # (3, H, W)
    border = torch.cat([rgb[:, 0], rgb[:, -1], rgb[:, :, 0], rgb[:, :, -1]], dim=1)  # (3, n)
    ground = border.median(dim=1).values[:, None, None]  # (3, 1, 1)
    return (rgb - ground).abs().amax(0) > INK


def read_colour(image: Tensor) -> str:
    """The word for the main colour of what a picture (3, H, W) in [-1, 1] shows, "" where none fits."""
    mask = find_things(image)
    return name_colour(((image.float() + 1) / 2).clamp(0, 1), mask) if mask.any() else ""


def in_colour(image: Tensor, colour: Tensor) -> Tensor:
    """What a picture (3, H, W) in [-1, 1] shows, its main colour exchanged for another, Oklab (3,), on white.

    As it is where no colour is the main one.
    """
    alpha = 255 * find_things(image)[None]  # (1, H, W)
    rgba = torch.cat([(image.clamp(-1, 1) + 1) * 127.5, alpha]).byte()  # (4, H, W)
    body = find_body(rgba) if alpha.any() else None
    return image if body is None else composite(repaint(rgba, body, colour)[None], background("white"))[0]


def read_count(image: Tensor) -> int:
    """How many things of about one size stand apart in a picture (3, H, W) in [-1, 1]."""
    found = patches(find_things(image), least=LEAST)
    return sum(int(patch.sum()) >= SPECK * int(found[0].sum()) for patch in found)


def halves(image: Tensor) -> tuple[Tensor, Tensor]:
    """What a picture (3, S, S) shows on its left and on its right, each twice as large: two pictures (3, S, S)."""
    size = image.shape[-1]
    left, right = image.split(size // 2, dim=2)  # (3, S, S / 2) each
    return _enlarged(left), _enlarged(right)


def _enlarged(part: Tensor) -> Tensor:
    """The square of a tall part (3, S, S / 2) in whose middle its things are, as large as the whole picture."""
    size, half = part.shape[1:]
    ink = find_things(part).float().sum(1)  # (S,) in each row
    middle = float((ink * (torch.arange(size) + 0.5)).sum() / ink.sum()) if ink.sum() else size / 2
    top = min(max(round(middle - half / 2), 0), size - half)
    return F.interpolate(part[None, :, top : top + half], (size, size), mode="bicubic", antialias=True)[0].clamp(-1, 1)
