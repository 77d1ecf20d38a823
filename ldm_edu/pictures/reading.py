"""The one reader of picture files: for training, ``--init`` and masks.

Only regular files are opened, and a size is checked before anything is decoded, so that a pipe, a device or a small
file that declares a huge picture costs neither memory nor time.
"""

import os
import stat
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from ldm_edu.pictures.colours import eight_bits, on_white
from ldm_edu.pictures.kinds import FORMATS, HEAD, mistaken, unread

Source = Path | bytes  # a file, or what is in one

LARGEST = 2**27  # pixels, 134 million: half a gigabyte as RGBA
LARGEST_FILE = 2**30  # bytes: some of Pillow's readers take all of a file into memory
_EXCHANGE_SIDES = (5, 6, 7, 8)  # orientations by which width and height change places
_CHUNKS = 2**16  # of a PNG that are looked through
_REMEDY = "save it again as a PNG or a JPEG, or leave it out"


def open_picture(source: Source, name: str | None = None) -> Image.Image:
    """A picture as upright RGB of 8 bits; what is transparent becomes white, of several frames the first is taken.

    Parameters
    ----------
    source
        the path of a file, or the bytes of one.
    name
        what a message calls the picture; None: its path.

    Raises
    ------
    ValueError
        if it is not a picture of a format in `ldm_edu.pictures.kinds.FORMATS`, or is damaged, or larger than `LARGEST`.
    FileNotFoundError
        if there is no such file.
    """
    with opened(source, name) as file:
        return on_white(_upright(file))


def open_layer(source: Source, name: str | None = None) -> Image.Image:
    """A picture as upright RGBA of 8 bits, what is transparent as it is; else as `open_picture`."""
    with opened(source, name) as file:
        return _upright(file).convert("RGBA")


def picture_size(source: Source, name: str | None = None) -> tuple[int, int]:
    """Width and height of the picture that `open_picture` gives, from the head of the file alone.

    Raises
    ------
    ValueError, FileNotFoundError
        as `open_picture`, but for damages behind the head.
    """
    with opened(source, name) as file:
        width, height = file.size
        if file.format == "TIFF":  # some releases of Pillow have exchanged them here already, some have not
            width, height = file.tag_v2[256], file.tag_v2[257]  # type: ignore[attr-defined]
        if file.format == "PNG" and _tells_more_behind(file.fp):  # type: ignore[attr-defined]
            file.load()
        exif = Image.Image.getexif(file)  # a PNG's own would decode the picture
        turned = exif.get(ExifTags.Base.Orientation) in _EXCHANGE_SIDES
        return (height, width) if turned else (width, height)


@contextmanager
def opened(source: Source, name: str | None = None) -> Iterator[Image.Image]:
    """A picture's head, read; its pixels are not decoded yet. What goes wrong inside is one sentence.

    Raises
    ------
    ValueError, FileNotFoundError
        as `open_picture`.
    """
    called = repr(str(source)) if name is None and isinstance(source, Path) else name or "the picture"
    try:
        with _bytes_of(source) as stream, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what Pillow mends by itself, and of sizes that are checked here
            head = stream.read(HEAD)
            stream.seek(0)
            if found := unread(source.name if isinstance(source, Path) else "", head):
                raise _UnreadableError(*found)
            with Image.open(stream, formats=FORMATS) as file:
                if file.width * file.height > LARGEST:
                    raise Image.DecompressionBombError
                yield file
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no picture {called}: check the path") from None
    except _UnreadableError as error:
        kind, remedy = error.args
        raise ValueError(f"{called} cannot be read as a picture: it is {kind}; {remedy}") from None
    except Image.DecompressionBombError:
        size = f"more than {LARGEST // 10**6} million pixels"
        raise ValueError(f"{called} cannot be read as a picture: it declares {size}; scale it down") from None
    except Exception as error:  # Pillow's readers raise a dozen kinds on damaged files
        if isinstance(error, UnidentifiedImageError):
            kind, remedy = mistaken(head) or ("of no known format, or damaged at its head", _REMEDY)
            raise ValueError(f"{called} cannot be read as a picture: it is {kind}; {remedy}") from None
        raise ValueError(f"{called} cannot be read as a picture ({error}); {_REMEDY}") from error


class _UnreadableError(Exception):
    """What a file is instead of a picture that is read, and what to do about it."""


def _bytes_of(source: Source) -> BinaryIO:
    if isinstance(source, bytes):
        return BytesIO(source)
    found = os.stat(source)
    if not stat.S_ISREG(found.st_mode):  # to open a pipe would wait for somebody who writes into it
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe, a socket or a device"
        raise _UnreadableError(f"{kind} and not a file", _REMEDY)
    if not found.st_size:
        raise _UnreadableError("an empty file", _REMEDY)
    if found.st_size > LARGEST_FILE:
        raise _UnreadableError(
            f"a file of {found.st_size / 2**30:.1f} GiB, and 1 GiB is the most that is read", "scale it down"
        )
    return open(source, "rb")


def _upright(file: Image.Image) -> Image.Image:
    """The picture of 8 bits, decoded and turned as its EXIF says; what a TIFF says Pillow has done when it decodes."""
    sample_format, signed = 339, 2
    if file.mode == "I" and signed in getattr(file, "tag_v2", {}).get(sample_format, ()):
        raise _UnreadableError(
            "a TIFF of signed numbers, whose black and white are not known", "save it with 8 or 16 bits"
        )
    return eight_bits(ImageOps.exif_transpose(file))


def _tells_more_behind(file: BinaryIO) -> bool:
    """Whether a PNG has chunks behind its pixels that may say how it is turned; Pillow reads them after the pixels."""
    behind, at = False, file.tell()
    try:
        file.seek(8)
        for _ in range(_CHUNKS):
            head = file.read(8)
            if len(head) < 8:
                return False
            length, kind = struct.unpack(">I4s", head)
            behind |= kind == b"IDAT"
            if behind and kind in (b"eXIf", b"iTXt", b"tEXt", b"zTXt"):
                return True
            file.seek(length + 4, os.SEEK_CUR)
        return True
    finally:
        file.seek(at)
