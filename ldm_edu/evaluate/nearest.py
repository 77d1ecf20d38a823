"""Is a drawn picture a copy? Its nearest training picture, as the judge sees it and pixel by pixel."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from ldm_edu.pictures import sheet, to_pil


@dataclass(frozen=True)
class Nearest:
    """For each of N pictures: the place of the nearest reference picture, and how far away it is."""

    index: Tensor  # (N,) int64
    distance: Tensor  # (N,) float32


def nearest(points: Tensor, reference: Tensor, *, batch: int = 64) -> Nearest:
    """The nearest of ``reference`` (M, ...) to each of ``points`` (N, ...), as vectors.

    Distances are root mean squares over the coordinates, so that feature vectors and pictures of any size read alike:
    for pictures in [-1, 1], 2 is black against white.

    Raises
    ------
    ValueError
        if the shapes of one point and one reference differ, or there is none.
    """
    if not len(reference) or points.shape[1:] != reference.shape[1:]:
        raise ValueError(
            f"points of shape {tuple(points.shape[1:])} have no neighbours in {len(reference)} of shape "
            f"{tuple(reference.shape[1:])}"
        )
    others = rearrange(reference.float(), "m ... -> m (...)")  # (M, D)
    found = []
    for part in points.float().split(batch):
        found.append(torch.cdist(rearrange(part, "n ... -> n (...)"), others).min(dim=1))  # (n, M) -> (n,), (n,)
    distance, index = (torch.cat(each) for each in zip(*found, strict=True))
    return Nearest(index, distance / others.shape[1] ** 0.5)


@dataclass(frozen=True)
class CopyScore:
    """How near ``count`` drawn pictures lie to the training pictures, beside real pictures that were held out.

    ``median`` and ``held_out`` are median distances to the nearest training picture. ``closer`` is the share of the
    drawn ones that lie nearer than 95 % of the held-out ones do: about 0.05 if nothing is copied, 1 if everything is.
    """

    median: float
    held_out: float
    closer: float
    count: int


def copy_score(drawn: Nearest, held_out: Nearest) -> CopyScore:
    """Compare the distances of drawn pictures with those of real, held-out ones to the same training pictures."""
    edge = held_out.distance.quantile(0.05)
    return CopyScore(
        float(drawn.distance.median()),
        float(held_out.distance.median()),
        float((drawn.distance < edge).double().mean()),
        len(drawn.distance),
    )


def nearest_sheet(
    drawn: Tensor, captions: Sequence[str], training: Tensor, by_judge: Nearest, by_pixels: Nearest, *, columns: int = 4
) -> Image.Image:
    """Drawn pictures (N, 3, H, W), each beside its nearest training picture for the judge and by pixels.

    ``columns`` groups of three stand in a row; the numbers are the distances.
    """
    pictures, words = [], []
    for i, caption in enumerate(captions):
        pictures += [drawn[i], training[by_judge.index[i]], training[by_pixels.index[i]]]
        words += [caption, f"judge {float(by_judge.distance[i]):.2f}", f"pixels {float(by_pixels.distance[i]):.2f}"]
    return sheet([to_pil(picture) for picture in pictures], words, columns=3 * columns, width=96)
