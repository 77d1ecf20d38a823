"""Tensors as pictures: one, a captioned sheet of many, a film of how they came to be; and files read as tensors.

Inside the package a picture is a float tensor (3, H, W) in [-1, 1], RGB; here it becomes a Pillow image, and back.
"""

import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from ldm_edu.files import atomic_write

PAPER, INK = (255, 255, 255), (40, 40, 40)
LINE = 14  # height of a line of a caption, in pixels
GAP = 8
METADATA = "ldm-edu"  # keyword of the text in a PNG that says how it was drawn


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


def from_pil(picture: Image.Image) -> Tensor:
    """A picture as (1, 3, H, W) in [-1, 1], a grey one as (1, 1, H, W): `to_pil` undone.

    One of black and white alone is grey; one of another kind becomes RGB, as `open_picture` makes it of a file.
    """
    if picture.mode == "1":
        picture = picture.convert("L")
    elif picture.mode not in ("L", "RGB"):
        picture = _on_white(picture)
    levels = torch.from_numpy(np.array(picture)).float()  # (H, W, 3) or (H, W)
    channels = levels.permute(2, 0, 1) if levels.ndim == 3 else levels[None]
    return channels[None] / 127.5 - 1


def open_picture(path: Path) -> Image.Image:
    """A picture file as upright RGB; what is transparent becomes white, of several frames the first is taken.

    Raises
    ------
    ValueError
        if it is no picture that Pillow can read, is damaged, or is of absurd size.
    FileNotFoundError
        if there is no such file.
    """
    try:
        with Image.open(path) as file:
            file.load()
            picture: Image.Image = ImageOps.exif_transpose(file)
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no picture {str(path)!r}: check the path") from None
    except Exception as error:  # Pillow's readers raise a dozen kinds on damaged files
        raise ValueError(
            f"{str(path)!r} cannot be read as a picture ({error}); give a PNG, a JPEG or a WebP file"
        ) from error
    return _on_white(picture)


def _on_white(picture: Image.Image) -> Image.Image:
    """A picture of any kind as RGB; what is transparent becomes white."""
    if picture.mode.startswith("I"):  # 16 bits of grey, which `convert` would clip at 255
        picture = Image.fromarray((np.asarray(picture).astype(np.int64) // 257).clip(0, 255).astype(np.uint8))
    layer = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, (*PAPER, 255)), layer).convert("RGB")


def fit(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A picture of (height, width) ``size``: scaled until it covers that, and cut around its middle."""
    return ImageOps.fit(picture, (size[1], size[0]), Image.Resampling.LANCZOS)


def fitting_size(picture: Image.Image, side: int, multiple: int) -> tuple[int, int]:
    """The height and width at which a model draws a picture that it is given.

    The picture's own, if both are multiples of ``multiple`` and the model, made for ``side`` times ``side``, is not far
    from home (a quarter to four times the pixels); else the nearest shape with about as many pixels as that.

    >>> fitting_size(Image.new("RGB", (768, 512)), 512, 64), fitting_size(Image.new("RGB", (4000, 3000)), 512, 64)
    ((512, 768), (448, 576))
    """
    wide, high = picture.size
    if not (wide % multiple or high % multiple) and side**2 / 4 <= wide * high <= 4 * side**2:
        return high, wide
    ratio = min(max(wide / high, 1 / 4), 4.0)
    nearest = lambda length: max(multiple, round(length / multiple) * multiple)  # noqa: E731
    return nearest(side / ratio**0.5), nearest(side * ratio**0.5)


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


def save_png(path: Path, picture: Image.Image, metadata: Mapping[str, Any] | None = None) -> None:
    """Write a PNG, whole or not at all.

    Parameters
    ----------
    metadata
        how the picture was drawn, as JSON-ready values. It is kept as text in the file, and `read_metadata` reads it.

    Raises
    ------
    SaveError
        if the disk refuses.
    """
    text = PngInfo()
    if metadata is not None:
        value = json.dumps(metadata, ensure_ascii=False).encode(errors="replace").decode()  # no lone surrogates
        text.add_itxt(METADATA, value)
    atomic_write(path, lambda beside: picture.save(beside, "PNG", pnginfo=text))


def read_metadata(path: Path) -> dict[str, Any]:
    """How a PNG of `save_png` was drawn.

    Raises
    ------
    ValueError
        if the file says nothing of it, or what nobody could have meant, or is no picture.
    FileNotFoundError
        if there is no such file.
    """
    try:
        with Image.open(path) as file:
            text = file.info.get(METADATA)
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no picture {str(path)!r}: check the path") from None
    except Exception as error:
        raise ValueError(f"{str(path)!r} cannot be read as a picture ({error})") from error
    if text is None:
        raise ValueError(
            f"{str(path)!r} does not say how it was drawn: it is not from ldm-edu, or was saved anew by a program that "
            "dropped the text"
        )
    try:
        values = json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"what {str(path)!r} says of how it was drawn cannot be read ({error})") from error
    if not isinstance(values, dict) or not _is_list_of_objects(values.get("pictures", [])):
        raise ValueError(
            f"what {str(path)!r} says of how it was drawn was not written by ldm-edu: it is no object, or its pictures "
            "are no list of such"
        )
    return values


def _is_list_of_objects(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, dict) for each in value)


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
