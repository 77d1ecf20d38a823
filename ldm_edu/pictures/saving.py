"""Pictures as files: a PNG that says how it was drawn, and a film as an endless GIF."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ldm_edu.files import atomic_write
from ldm_edu.pictures.reading import opened

METADATA = "ldm-edu"  # keyword of the text in a PNG that says how it was drawn


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
    with opened(path) as file:
        text = file.info.get(METADATA)
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
