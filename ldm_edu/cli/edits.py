"""What ``ldm-edu generate`` is told about sizes and pictures, as the package takes it."""

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from ldm_edu.editing import Edit
    from ldm_edu.model import LatentDiffusion

IMAGE_GUIDANCE = 1.5  # as the authors of InstructPix2Pix have it


def parse_size(text: str) -> tuple[int, int]:
    """``512`` or ``768x512``, width first as people write it, to (height, width).

    >>> parse_size("512"), parse_size("768x512")
    ((512, 512), (512, 768))

    Raises
    ------
    ValueError
        if it is neither.
    """
    found = re.fullmatch(r"\s*(-?\d{1,9})\s*(?:[xX×*]\s*(-?\d{1,9}))?\s*", text)
    if found is None:
        raise ValueError(f"--size {text!r} is no size: give pixels, 512, or width x height, 768x512")
    wide, high = int(found[1]), int(found[2] or found[1])
    return high, wide


def parse_crop(text: str) -> tuple[int, int]:
    """``TOP,LEFT``, how many pixels were cut off.

    >>> parse_crop("0,128")
    (0, 128)

    Raises
    ------
    ValueError
        if it is not two numbers of pixels.
    """
    if (found := re.fullmatch(r"\s*(\d{1,6})\s*,\s*(\d{1,6})\s*", text)) is None:
        raise ValueError(f"--crop {text!r} must be two numbers of pixels, TOP,LEFT, as in 0,128")
    return int(found[1]), int(found[2])


def parse_border(text: str) -> tuple[int, int, int, int]:
    """``64``, or ``left,top,right,bottom``, as four widths.

    >>> parse_border("64"), parse_border("0,0,128,0")
    ((64, 64, 64, 64), (0, 0, 128, 0))

    Raises
    ------
    ValueError
        if it is neither.
    """
    widths = [int(part) for part in text.split(",") if re.fullmatch(r"\s*\d{1,9}\s*", part)]
    if len(widths) not in (1, 4) or len(widths) != text.count(",") + 1 or not any(widths):
        raise ValueError(f"--outpaint {text!r} is no border: give pixels, 64, or left,top,right,bottom, 0,0,128,0")
    left, top, right, bottom = widths * 4 if len(widths) == 1 else widths
    return left, top, right, bottom


def make_edit(
    model: "LatentDiffusion",
    init: Path,
    mask: Path | None,
    outpaint: str | None,
    size: tuple[int, int] | None,
    strength: float | None,
    image_guidance: float | None,
    depth: Path | None = None,
) -> "Edit":
    """The edit that the options ask for, its picture at a size that the model draws.

    Raises
    ------
    ValueError
        if a file is no picture, or options contradict one another.
    """
    from ldm_edu.editing import Edit
    from ldm_edu.pictures import fit, fitting_size, from_pil, open_picture

    if depth is not None and outpaint is not None:
        raise ValueError("--depth is as large as --init, and --outpaint makes that larger: give one of them")
    if mask is not None and outpaint is not None:
        raise ValueError("--mask and --outpaint each say what to paint: give one of them")
    if image_guidance is not None and not by_instruction(model):
        raise ValueError(
            f"--image-guidance is for a model that edits by instruction, and {model.preset.name} does not: leave it out"
        )
    picture = open_picture(init)
    shape = size or fitting_size(picture, model.preset.size, model.multiple)
    if outpaint is None:
        model.latent_shape(shape)  # refused before anything is scaled to it
    if (picture.height, picture.width) != shape:
        typer.echo(f"{init}: {picture.width} x {picture.height}, taken at {shape[1]} x {shape[0]}", err=True)
    fitted = fit(picture, shape)
    pixels = from_pil(fitted if model.network.channels > 1 else fitted.convert("L"))  # (1, 3 or 1, H, W)
    if outpaint is not None:
        left, top, right, bottom = parse_border(outpaint)
        edit = Edit.outpaint(pixels, left=left, top=top, right=right, bottom=bottom)
    else:
        near = None if depth is None else from_pil(fit(open_picture(depth), shape).convert("L"))  # (1, 1, H, W)
        edit = Edit(pixels, mask=None if mask is None else _hidden(mask, init, picture, shape), depth=near)
    usual = 1.0 if edit.mask is not None or by_instruction(model) else 0.6
    return replace(
        edit,
        strength=usual if strength is None else strength,
        image_guidance=IMAGE_GUIDANCE if image_guidance is None else image_guidance,
    )


def by_instruction(model: "LatentDiffusion") -> bool:
    """Whether a model edits by instruction: beside the sample its U-Net takes a whole picture's latents."""
    return model.beside == "picture"


def _hidden(mask: Path, init: Path, picture: "Image", shape: tuple[int, int]) -> "Tensor":
    """A mask file as (1, 1, H, W) in [0, 1]: 1 where it is white, 0 where it is black or transparent."""
    from PIL.Image import Resampling

    from ldm_edu.pictures import fit, from_pil, open_mask

    drawn = open_mask(mask)
    if drawn.size != picture.size:
        raise ValueError(
            f"{str(mask)!r} is {drawn.width} x {drawn.height} and {str(init)!r} {picture.width} x {picture.height}: "
            "make the mask as large as its picture"
        )
    return (from_pil(fit(drawn, shape, Resampling.BILINEAR)) + 1) / 2
