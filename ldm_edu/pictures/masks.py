"""Mask files: how much of each pixel is painted, from 0, where the picture stays, to 255."""

from pathlib import Path

import numpy as np
from PIL import Image

from ldm_edu.pictures.reading import open_layer

HALF = 128
SPREAD = 16  # by which a grey's red, green and blue may differ: what a JPEG or a WebP makes of it
NAMED = 4  # colours that a message names


def open_mask(path: Path) -> Image.Image:
    """A mask file as levels of 8 bits (mode ``L``): its brightness times its opacity, ``L * alpha / 255``.

    White is painted; black stays, and so does what is transparent. Greys between the two are painted in part: the edge
    of a brush, a gradient. Of a mask in one colour besides black, as a label in a palette, all that has this colour is
    painted.

    Raises
    ------
    ValueError
        if nothing in it is white or nearly so, or it has several colours, as a map of labels has; with what to do; and
        as `ldm_edu.pictures.open_picture`.
    FileNotFoundError
        if there is no such file.
    """
    layer = open_layer(path)
    rgba = np.asarray(layer)  # (H, W, 4)
    alpha = rgba[..., 3]
    seen = rgba[alpha > 0][:, :3]  # (n, 3)
    if seen.size and np.ptp(seen, axis=1).max() > SPREAD:
        levels = _one_label(path, layer, rgba)
    else:
        brightness = np.asarray(layer.convert("L"), dtype=np.uint16)  # (H, W)
        levels = ((brightness * alpha + 127) // 255).astype(np.uint8)
    if not levels.any():
        raise ValueError(
            f"{str(path)!r} is black everywhere, or transparent, so nothing would be painted: white marks what is"
        )
    if levels.max() < HALF:
        raise ValueError(
            f"the brightest level of {str(path)!r} is {levels.max()} of 255, as in a map of labels: save what is to be "
            "painted as white on black"
        )
    return Image.fromarray(levels)


def _one_label(path: Path, layer: Image.Image, rgba: np.ndarray) -> np.ndarray:
    """The opacity where a mask has its one colour besides black: (H, W)."""
    found = layer.getcolors(256) or []
    colours = sorted({colour[:3] for _, colour in found if colour[3] and any(colour[:3])})  # type: ignore[index]
    if len(colours) != 1:
        names = ", ".join("#{:02x}{:02x}{:02x}".format(*colour) for colour in colours[:NAMED])
        more = f" and {len(colours) - NAMED} more" if len(colours) > NAMED else ""
        which = f"{names}{more}" if colours else "more than 256"
        raise ValueError(
            f"{str(path)!r} has several colours ({which}), as a map of labels or a photo has, and a mask is grey: save "
            "what is to be painted as white on black"
        )
    return np.where(rgba[..., :3].any(axis=2), rgba[..., 3], 0).astype(np.uint8)
