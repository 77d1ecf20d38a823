"""One reader of picture files: every format, mode and orientation as it is seen, and what is no picture is refused."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ldm_edu.pictures import from_pil, open_picture, picture_size, read_metadata, save_gif, save_png, to_pil
from ldm_edu.pictures.reading import LARGEST


def plain(colour: str, side: int = 8) -> Image.Image:
    return Image.new("RGB", (side, side), colour)


def noisy(mode: str = "RGB", size: tuple[int, int] = (12, 8)) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


def test_a_picture_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    save_png(tmp_path / "a.png", noisy())
    again = open_picture(tmp_path / "a.png")
    assert np.array_equal(np.asarray(again), np.asarray(noisy()))
    tensor = from_pil(again)
    assert tensor.shape == (1, 3, 8, 12) and tensor.min() >= -1 and tensor.max() <= 1
    assert np.array_equal(np.asarray(to_pil(tensor[0])), np.asarray(noisy()))
    assert from_pil(noisy("L")).shape == (1, 1, 8, 12)


def test_black_and_white_and_palettes_become_the_colours_that_are_seen() -> None:
    page = Image.new("1", (2, 1))
    page.putpixel((1, 0), 1)
    assert from_pil(page).tolist() == [[[[-1.0, 1.0]]]]
    for mode in ("P", "RGBA", "LA", "CMYK"):
        seen = from_pil(noisy().convert(mode))
        assert torch.equal(seen, from_pil(noisy().convert(mode).convert("RGB"))) and seen.shape == (1, 3, 8, 12)
    clear = Image.new("RGBA", (1, 1), (200, 0, 0, 0))
    assert from_pil(clear).flatten().tolist() == [1.0, 1.0, 1.0]
    palette = Image.new("P", (1, 1))
    palette.putpalette([200, 0, 0])
    palette.info["transparency"] = 0
    assert from_pil(palette).flatten().tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "I;16"])
def test_every_kind_of_file_becomes_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    sixteen = Image.fromarray(np.asarray(noisy("L")).astype(np.uint16) * 257)
    (sixteen if mode == "I;16" else noisy().convert(mode)).save(path)
    read = open_picture(path)
    assert read.mode == "RGB" and read.size == (12, 8)
    if mode in ("L", "I;16"):
        assert np.array_equal(np.asarray(read)[..., 1], np.asarray(noisy("L")))


def test_what_is_transparent_becomes_white(tmp_path: Path) -> None:
    picture = Image.new("RGBA", (3, 1), (200, 0, 0, 255))
    picture.putpixel((1, 0), (200, 0, 0, 0))
    picture.putpixel((2, 0), (200, 0, 0, 128))
    picture.save(tmp_path / "a.png")
    levels = np.asarray(open_picture(tmp_path / "a.png"))[0]
    assert levels[0].tolist() == [200, 0, 0] and levels[1].tolist() == [255, 255, 255]
    assert abs(int(levels[2, 1]) - 127) <= 1


# --- orientation: turned once, in every format ------------------------------------------------------------------------

COLOURS = ((255, 0, 0), (0, 160, 0), (0, 0, 255), (255, 255, 255))  # of the four quarters, in reading order
UNDONE = {  # what a camera stores of an upright picture, for it to be shown upright by that orientation
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def quarters() -> Image.Image:
    picture = Image.new("RGB", (64, 32))
    for i, colour in enumerate(COLOURS):
        picture.paste(colour, (i % 2 * 32, i // 2 * 16, i % 2 * 32 + 32, i // 2 * 16 + 16))
    return picture


def with_chunk_behind(png: bytes, kind: bytes, data: bytes) -> bytes:
    """A PNG with one more chunk between its pixels and its end."""
    crc = struct.pack(">I", zlib.crc32(kind + data))
    return png[:-12] + struct.pack(">I", len(data)) + kind + data + crc + png[-12:]


def turned(path: Path, how: str, orientation: int) -> None:
    """Write the quarters as a camera does that was held in some way, and says so."""
    undo = UNDONE[orientation]
    stored = quarters() if undo is None else quarters().transpose(undo)
    exif = Image.Exif()
    exif[0x0112] = orientation
    xmp = f'<x:xmpmeta xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="{orientation}"/>'
    if how == "MPO":
        stored.save(path, "MPO", save_all=True, append_images=[stored], exif=exif, quality=95)
    elif how.startswith("PNG "):
        stored.save(path, "PNG")
        text = b"XML:com.adobe.xmp" + bytes(5) + xmp.encode()
        kind, data = (b"eXIf", exif.tobytes()[6:]) if how == "PNG behind" else (b"iTXt", text)
        path.write_bytes(with_chunk_behind(path.read_bytes(), kind, data))
    else:
        stored.save(path, how, exif=exif, **({} if how in ("PNG", "TIFF") else {"quality": 95}))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("how", ["JPEG", "MPO", "PNG", "PNG behind", "PNG xmp", "WEBP", "TIFF", "AVIF"])
def test_a_photo_is_turned_once_and_its_size_is_that_of_the_upright_one(
    tmp_path: Path, how: str, orientation: int
) -> None:
    path = tmp_path / "photo"
    turned(path, how, orientation)
    upright = open_picture(path)
    assert upright.size == picture_size(path) == picture_size(path.read_bytes()) == (64, 32)
    for i, colour in enumerate(COLOURS):
        seen = np.asarray(upright).astype(int)[i // 2 * 16 + 8, i % 2 * 32 + 16]
        assert np.abs(seen - colour).max() < 40, f"quarter {i} is {seen}"


def test_the_size_is_in_the_head_alone(tmp_path: Path) -> None:
    noisy(size=(300, 200)).save(tmp_path / "a.png")
    noisy(size=(300, 200)).save(tmp_path / "a.jpg")
    for name in ("a.png", "a.jpg"):
        whole = (tmp_path / name).read_bytes()
        assert picture_size(whole[:2000]) == (300, 200)
        with pytest.raises(ValueError, match="cannot be read"):
            open_picture(whole[:2000])


# --- modes and formats ------------------------------------------------------------------------------------------------


def ramp(largest: float, kind: type) -> np.ndarray:
    """16 levels from black to white: (2, 8)."""
    return (np.linspace(0, 1, 16).reshape(2, 8) * largest).astype(kind)


@pytest.mark.parametrize(
    "name, largest, kind",
    [
        ("a.png", 65535, np.uint16),
        ("a.tif", 65535, np.uint16),
        ("a.pgm", 65535, np.int32),
        ("a.tif", 2**32 - 1, np.uint32),
        ("a.tif", 1.0, np.float32),
    ],
)
def test_grey_of_16_and_32_bits_is_as_bright_as_it_was(tmp_path: Path, name: str, largest: float, kind: type) -> None:
    path = tmp_path / name
    if kind == np.uint32:  # which Pillow reads, but does not write
        write_tiff(path, ramp(largest, np.uint32), sample_format=1)
    else:
        Image.fromarray(ramp(largest, kind)).save(path)
    seen = np.asarray(open_picture(path)).astype(int)
    assert np.abs(seen - np.linspace(0, 255, 16).reshape(2, 8, 1)).max() <= 1
    assert picture_size(path) == (8, 2)


def write_tiff(path: Path, values: np.ndarray, sample_format: int) -> None:
    """One strip of 32 bits, uncompressed."""
    high, wide = values.shape
    tags = ((256, wide), (257, high), (258, 32), (259, 1), (262, 1), (273, 8), (277, 1), (278, high))
    tags += ((279, values.nbytes), (339, sample_format))
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    path.write_bytes(b"II*\0" + struct.pack("<I", 8 + values.nbytes) + values.tobytes() + directory)


def test_numbers_whose_brightness_is_not_known_are_refused(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", ramp(-1000, np.int32), sample_format=2)
    with pytest.raises(ValueError, match=r"a\.tif' cannot be read as a picture: .*signed.*8 or 16 bits"):
        open_picture(tmp_path / "a.tif")
    for values in (ramp(255, np.float32), np.full((2, 8), np.nan, np.float32)):
        Image.fromarray(values).save(tmp_path / "b.tif")
        with pytest.raises(ValueError, match="white is 1 where they are floats"):
            open_picture(tmp_path / "b.tif")


def test_grey_of_16_bits_may_be_transparent(tmp_path: Path) -> None:
    Image.fromarray(ramp(65535, np.uint16)).save(tmp_path / "a.png", transparency=0)
    assert np.asarray(open_picture(tmp_path / "a.png"))[0, :3, 0].tolist() == [255, 17, 34]


@pytest.mark.parametrize("suffix", ["png", "apng", "jpg", "jpe", "jfif", "webp", "avif", "gif", "bmp", "tiff", "ppm"])
def test_every_format_has_its_colours(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    quarters().save(path, format="JPEG" if suffix in ("jpe", "jfif") else None)
    levels = np.asarray(open_picture(path)).astype(int)
    for i, colour in enumerate(COLOURS):
        assert np.abs(levels[i // 2 * 16 + 8, i % 2 * 32 + 16] - colour).max() < 60
    assert picture_size(path) == (64, 32)


def test_the_first_of_several_frames_is_taken(tmp_path: Path) -> None:
    save_gif(tmp_path / "a.gif", [plain("red"), plain("blue")])
    assert open_picture(tmp_path / "a.gif").getpixel((4, 4)) == plain("red").getpixel((0, 0))


def damaged(kind: str) -> bytes:
    whole = io.BytesIO()
    noisy(size=(64, 64)).save(whole, "PNG")
    data = whole.getvalue()
    head = data[:16]
    return {
        "empty": b"",
        "text": b"this is no picture",
        "cut short": data[: len(data) // 2],
        "header alone": head,
        "absurd size": head + (2**30).to_bytes(4, "big") * 2 + data[24:],
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    }[kind]


@pytest.mark.parametrize("kind", ["empty", "text", "cut short", "header alone", "absurd size", "svg"])
def test_what_is_no_picture_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    (tmp_path / "photo.png").write_bytes(damaged(kind))
    with pytest.raises(ValueError, match=r"photo\.png' cannot be read as a picture"):
        open_picture(tmp_path / "photo.png")
    with pytest.raises(ValueError, match="cannot be read as a picture"):
        open_picture(tmp_path)
    for read in (open_picture, read_metadata):
        with pytest.raises(FileNotFoundError, match=r"no picture .*none\.png"):
            read(tmp_path / "none.png")


@pytest.mark.parametrize(
    "name, head, words",
    [
        ("a.jpg", bytes(4) + b"ftypheic", "a HEIC photo; save it as a PNG or a JPEG"),
        ("a.heic", bytes(4) + b"ftypmif1", "a HEIC photo"),
        ("a.nef", b"II*\0" + bytes(20), "a camera's raw photo; develop it"),
        ("a.png", b"version https://git-lfs.github.com/spec/v1", "a Git-LFS pointer .*git lfs pull"),
        ("a.png", b"<!DOCTYPE html><html>", "an HTML page; download the picture itself"),
        ("a.jxl", b"\xff\x0a" + bytes(20), "a JPEG XL picture"),
        ("a.svg", b'<?xml version="1.0"?>\n<svg>', "an SVG drawing"),
        ("a.psd", b"8BPS", "a Photoshop file"),
        ("a.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", "a PostScript drawing"),
        ("a.png", bytes(4) + b"ftypisom", "a film; save one of its frames"),
        ("a.zip", b"PK\x03\x04", "an archive; unpack it"),
    ],
)
def test_what_a_file_is_instead_of_a_picture_is_named(tmp_path: Path, name: str, head: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(head + bytes(600))
    with pytest.raises(ValueError, match=f"{name}' cannot be read as a picture: it is {words}"):
        open_picture(tmp_path / name)


# --- bounded memory and time ------------------------------------------------------------------------------------------


def png_of(wide: int, high: int) -> bytes:
    """A black picture of one bit, in a file as small as can be."""
    rows = zlib.compressobj(9)
    packed = b"".join(rows.compress(bytes(1 + (wide + 7) // 8)) for _ in range(high)) + rows.flush()
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", wide, high, 1, 0, 0, 0, 0)), (b"IDAT", packed), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def test_a_small_file_that_declares_a_huge_picture_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    side = int(LARGEST**0.5)
    assert picture_size(png_of(side, side)) == (side, side)
    for wide, high in ((side + 1, side + 1), (2**31 - 1, 2**31 - 1)):
        bomb = png_of(side, 1).replace(struct.pack(">II", side, 1), struct.pack(">II", wide, high))
        bomb = bomb[:29] + struct.pack(">I", zlib.crc32(bomb[12:29])) + bomb[33:]
        for read in (picture_size, open_picture):
            with pytest.raises(ValueError, match="declares more than 134 million pixels; scale it down"):
                read(bomb)


def test_only_a_regular_file_is_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")  # to open one waits for a writer, who never comes
    (tmp_path / "folder.png").mkdir()
    with open(tmp_path / "vast.webp", "wb") as file:  # of which Pillow would take all into memory
        file.write(b"RIFF\0\0\0\0WEBPVP8 ")
        file.truncate(2**40)
    refusals = {"pipe.png": "a pipe", "folder.png": "a folder", "vast.webp": "1024.0 GiB"}
    for path, words in [*((tmp_path / name, words) for name, words in refusals.items()), (Path("/dev/zero"), "device")]:
        for read in (open_picture, picture_size, read_metadata):
            with pytest.raises(ValueError, match=f"cannot be read as a picture: it is .*{words}"):
                read(path)
