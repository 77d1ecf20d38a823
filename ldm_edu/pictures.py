"""Tensors as pictures: one, a captioned sheet of many, a film of how they came to be.

Inside the package a picture is a float tensor (3, H, W) in [-1, 1], RGB; here it becomes a Pillow image.
"""

import math
import textwrap
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ldm_edu.files import atomic_write

PAPER, INK = (255, 255, 255), (40, 40, 40)
LINE = 14  # height of a line of a caption, in pixels
GAP = 8


def to_pil(image: Tensor) -> Image.Image:
    """A picture (3, H, W), or a grey one (1, H, W), in [-1, 1] as 8-bit RGB; values outside are clipped.

    Raises
    ------
    ValueError
        if the tensor has another shape.
    """
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise ValueError(f"expected a picture of shape (3, H, W), not {tuple(image.shape)}")
    levels = ((image.expand(3, -1, -1).detach().float().cpu().clamp(-1, 1) + 1) * 127.5).round().byte()  # (3, H, W)
    return Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy())  # (H, W, 3)


def sheet(
    pictures: Sequence[Image.Image],
    captions: Sequence[str] = (),
    *,
    columns: int | None = None,
    width: int = 192,
) -> Image.Image:
    """The pictures in a grid, each at least ``width`` pixels wide, its caption below it.

    Parameters
    ----------
    pictures
        all of one size.
    captions
        none, or one a picture.
    columns
        how many stand in a row; None: a grid about as wide as high, four in a row for four.
    width
        small pictures are enlarged by a whole number to at least this.

    Raises
    ------
    ValueError
        if there is no picture, or another number of captions.
    """
    if not pictures:
        raise ValueError("a sheet needs at least one picture")
    if captions and len(captions) != len(pictures):
        raise ValueError(f"{len(captions)} captions for {len(pictures)} pictures: give one each, or none")
    columns = columns or (len(pictures) if len(pictures) <= 4 else math.ceil(math.sqrt(len(pictures))))
    rows = math.ceil(len(pictures) / columns)
    times = math.ceil(width / pictures[0].width)
    wide, high = (side * times for side in pictures[0].size)
    lines = [textwrap.wrap(caption, max(8, wide // 7))[:3] for caption in captions]
    below = LINE * max((len(each) for each in lines), default=0) + (GAP if lines else 0)

    page = Image.new("RGB", (GAP + columns * (wide + GAP), GAP + rows * (high + below + GAP)), PAPER)
    draw, font = ImageDraw.Draw(page), _font()
    for i, picture in enumerate(pictures):
        left, top = GAP + (i % columns) * (wide + GAP), GAP + (i // columns) * (high + below + GAP)
        page.paste(picture.resize((wide, high), Image.Resampling.BICUBIC), (left, top))
        for j, line in enumerate(lines[i] if lines else ()):
            draw.text((left + wide / 2, top + high + GAP / 2 + j * LINE), line, INK, font, anchor="ma")
    return page


def save_png(path: Path, picture: Image.Image) -> None:
    """Write a PNG, whole or not at all.

    Raises
    ------
    SaveError
        if the disk refuses.
    """
    atomic_write(path, lambda beside: picture.save(beside, "PNG"))


def save_gif(path: Path, frames: Sequence[Image.Image], *, milliseconds: int = 120, hold: int = 1500) -> None:
    """Write an endless GIF of frames of one size; the last one stays for ``hold`` milliseconds.

    Raises
    ------
    SaveError
        if the disk refuses.
    ValueError
        if there is no frame.
    """
    if not frames:
        raise ValueError("a film needs at least one frame")
    durations = [milliseconds] * (len(frames) - 1) + [hold]
    palette = _strip([frames[0], frames[len(frames) // 2], frames[-1]]).quantize(256)  # one for all: no flicker
    indexed = [frame.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG) for frame in frames]
    atomic_write(
        path,
        lambda beside: indexed[0].save(
            beside, "GIF", save_all=True, append_images=indexed[1:], duration=durations, loop=0, optimize=False
        ),
    )


def _strip(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures of one size side by side."""
    wide, high = pictures[0].size
    page = Image.new("RGB", (wide * len(pictures), high))
    for i, picture in enumerate(pictures):
        page.paste(picture, (i * wide, 0))
    return page


def _font() -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """Matplotlib's DejaVu Sans, which knows more alphabets than Pillow's own font."""
    spec = find_spec("matplotlib")
    if spec is not None and spec.origin is not None:
        path = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
        if path.is_file():
            return ImageFont.truetype(str(path), 11)
    return ImageFont.load_default(11)
