"""Which files are pictures that are read, and what other files are, by their first bytes or their name's ending."""

import re
from pathlib import Path

# Pillow's names. Others stay out: some start a program (EPS: Ghostscript), some have no mark to know them by.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # JPEG: also MPO, a JPEG that holds a second one
SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".avif", ".gif", ".bmp"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"),
)
HEAD = 512  # bytes that tell what a file is

# What cameras write, by the ending alone: most of these begin like a TIFF, and hold a thumbnail that Pillow would read.
_RAW = (".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".pef", ".raf", ".rw2")
_ARCHIVES = (".7z", ".arrow", ".gz", ".parquet", ".rar", ".tar", ".tgz", ".zip")
_CONVERT = "save it as a PNG or a JPEG"
_READ = rb"\x89PNG\r\n|\xff\xd8\xff|GIF8[79]a|RIFF.{4}WEBP|.{4}ftypavi[fs]"
# Pictures of other formats: what they begin with, what they are.
_OTHERS = (
    (rb".{4}ftyp(hei[cxms]|hev[cxms]|mif1|msf1)", "a HEIC photo"),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "a JPEG XL picture"),
    (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "a JPEG 2000 picture"),
    (rb"8BPS", "a Photoshop file"),
    (rb"gimp xcf", "a GIMP file"),
    (rb"%!PS", "a PostScript drawing"),
    (rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?(<!DOCTYPE svg[^>]*>\s*)?<svg", "an SVG drawing"),
    (rb"\x76\x2f\x31\x01|#\?RADIANCE", "a picture of high dynamic range"),
)
# What else stands where a picture should: what it begins with, what it is, what to do.
_MISTAKEN = (
    (rb"version https://git-lfs", "a Git-LFS pointer and not the picture itself", "fetch it with `git lfs pull`"),
    (rb"\s*(<!DOCTYPE html|<html)", "an HTML page", "download the picture itself"),
    (rb"%PDF", "a PDF", _CONVERT),
    (rb".{4}ftyp", "a film", "save one of its frames as a PNG"),
    (rb"PK\x03\x04|\x1f\x8b|Rar!|7z\xbc\xaf", "an archive", "unpack it"),
)


def unread(name: str, head: bytes) -> tuple[str, str] | None:
    """What a file is that is a picture, or holds pictures, but is not read as one; and what to do about it.

    Parameters
    ----------
    name
        the name of the file, for its ending.
    head
        its first `HEAD` bytes, or fewer where it is shorter.

    >>> unread("photo.jpg", bytes(4) + b"ftypheic"), unread("photo.png", b"no picture")
    (('a HEIC photo', 'save it as a PNG or a JPEG'), None)
    """
    suffix = Path(name).suffix.lower()
    if suffix in _RAW:
        return "a camera's raw photo", "develop it into a JPEG or a PNG"
    if suffix in _ARCHIVES:
        return "an archive", "unpack it"
    return next(((kind, _CONVERT) for pattern, kind in _OTHERS if _begins(pattern, head)), None)


def misnamed(name: str, head: bytes) -> bool:
    """Whether a file holds a picture, though its name does not end as a picture's."""
    return Path(name).suffix.lower() not in SUFFIXES and _begins(_READ, head)


def mistaken(head: bytes) -> tuple[str, str] | None:
    """What a file is that has the name of a picture and is none; and what to do about it."""
    return next(((kind, remedy) for pattern, kind, remedy in _MISTAKEN if _begins(pattern, head)), None)


def _begins(pattern: bytes, head: bytes) -> bool:
    return re.match(pattern, head, re.DOTALL | re.IGNORECASE) is not None
