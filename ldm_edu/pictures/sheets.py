"""Many pictures on one page, each with its caption below it."""

import math
import textwrap
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

PAPER, INK = (255, 255, 255), (40, 40, 40)
LINE = 14  # height of a line of a caption, in pixels
GAP = 8


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


def _font() -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """Matplotlib's DejaVu Sans, which knows more alphabets than Pillow's own font."""
    spec = find_spec("matplotlib")
    if spec is not None and spec.origin is not None:
        path = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
        if path.is_file():
            return ImageFont.truetype(str(path), 11)
    return ImageFont.load_default(11)
