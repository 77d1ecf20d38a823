"""Pictures leave the package as they are: the right colours, the right places, whole files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from PIL.PngImagePlugin import PngInfo

from ldm_edu.files import SaveError
from ldm_edu.pictures import (
    GAP,
    PAPER,
    fit,
    fitting_size,
    open_picture,
    read_metadata,
    save_gif,
    save_png,
    sheet,
    to_pil,
)


def plain(colour: str, side: int = 8) -> Image.Image:
    return Image.new("RGB", (side, side), colour)


def test_values_become_levels_and_are_clipped() -> None:
    image = torch.tensor([-2.0, -1.0, 0.0, 1.0, 5.0]).expand(3, 2, 5).clone()
    image[0] = 1.0  # red
    levels = np.asarray(to_pil(image))
    assert levels.shape == (2, 5, 3)
    assert levels[0, :, 1].tolist() == [0, 0, 128, 255, 255]
    assert (levels[..., 0] == 255).all()


@pytest.mark.parametrize("shape", [(2, 8, 8), (8, 8, 3), (1, 3, 8, 8)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=str(shape[0])):
        to_pil(torch.zeros(shape))


def test_a_sheet_holds_every_picture_in_reading_order() -> None:
    colours = ["red", "lime", "blue", "black", "yellow"]
    page = sheet([plain(c) for c in colours], columns=3, width=16)
    assert page.size == (GAP + 3 * (16 + GAP), GAP + 2 * (16 + GAP))
    for i, colour in enumerate(colours):
        middle = (GAP + (i % 3) * (16 + GAP) + 8, GAP + (i // 3) * (16 + GAP) + 8)
        assert page.getpixel(middle) == plain(colour).getpixel((0, 0))
    assert page.getpixel((page.width - GAP - 8, page.height - GAP - 8)) == PAPER  # the sixth place is empty


def test_captions_stand_below_and_long_ones_are_cut() -> None:
    bare = sheet([plain("red")] * 2, width=160)
    page = sheet([plain("red")] * 2, ["red apple", "word " * 500], width=160)
    assert page.width == bare.width
    assert bare.height < page.height < 2 * bare.height
    below = np.asarray(page)[bare.height :]
    assert (below < 128).any(), "no ink"


@pytest.mark.parametrize("caption", ["", "🍎", "яблоко 苹果", "\x00\n\t", "\u202eתפוח"])
def test_any_caption_can_be_drawn(caption: str) -> None:
    assert sheet([plain("red")], [caption]).width > 0


def test_a_sheet_refuses_what_it_cannot_lay_out() -> None:
    with pytest.raises(ValueError, match="at least one"):
        sheet([])
    with pytest.raises(ValueError, match="3 captions for 1"):
        sheet([plain("red")], ["a", "b", "c"])


def test_a_film_plays_its_frames_in_order_and_holds_the_last(tmp_path: Path) -> None:
    colours = ["red", "lime", "blue"]
    save_gif(tmp_path / "film.gif", [plain(c) for c in colours], milliseconds=50, hold=900)
    with Image.open(tmp_path / "film.gif") as film:
        assert film.info["loop"] == 0
        seen = [
            (frame.convert("RGB").getpixel((4, 4)), frame.info["duration"]) for frame in ImageSequence.Iterator(film)
        ]
    assert seen == [(plain(c).getpixel((0, 0)), ms) for c, ms in zip(colours, [50, 50, 900], strict=True)]
    with pytest.raises(ValueError, match="at least one"):
        save_gif(tmp_path / "film.gif", [])


def test_nothing_is_left_where_a_picture_cannot_be_saved(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SaveError, match="not saved"):
        save_png(tmp_path / "file" / "sheet.png", plain("red"))
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_grey_picture_is_drawn_in_three_equal_colours() -> None:
    levels = np.asarray(to_pil(torch.linspace(-1, 1, 6).reshape(1, 2, 3)))
    assert levels.shape == (2, 3, 3)
    assert (levels == levels[:, :, :1]).all() and levels.min() == 0 and levels.max() == 255


# --- sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "size, side, multiple, wanted",
    [
        ((64, 64), 64, 16, (64, 64)),
        ((128, 64), 64, 16, (64, 128)),  # an outpainted one keeps its size
        ((512, 512), 64, 16, (64, 64)),
        ((4000, 3000), 512, 64, (448, 576)),
        ((1024, 1024), 512, 64, (1024, 1024)),
        ((64, 64), 512, 64, (512, 512)),
        ((500, 500), 512, 64, (512, 512)),
        ((1, 10_000), 512, 64, (1024, 256)),
    ],
)
def test_a_size_that_the_model_draws(size: tuple[int, int], side: int, multiple: int, wanted: tuple[int, int]) -> None:
    assert fitting_size(Image.new("L", size), side, multiple) == wanted


def test_fitting_cuts_around_the_middle() -> None:
    picture = Image.new("RGB", (30, 10), "red")
    picture.paste((0, 0, 255), (10, 0, 20, 10))
    assert np.asarray(fit(picture, (8, 8)))[4, 1:7, 2].min() > 200
    assert fit(picture, (8, 24)).size == (24, 8)


# --- how a picture was drawn ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prompt", ["red apple", "苹果 🍎 \u202e", 'a "quoted" \\ \x00 line\nand another', "", "x" * 50_000]
)
def test_a_picture_says_how_it_was_drawn(tmp_path: Path, prompt: str) -> None:
    about: dict[str, Any] = {"prompt": prompt, "seed": 7, "guidance": 7.5, "mask": None, "pictures": [{"seed": 1}]}
    save_png(tmp_path / "a.png", plain("red"), about)
    assert read_metadata(tmp_path / "a.png") == about
    assert open_picture(tmp_path / "a.png").getpixel((0, 0)) == (255, 0, 0)


def test_half_a_character_does_not_lose_the_picture(tmp_path: Path) -> None:
    save_png(tmp_path / "a.png", plain("red"), {"prompt": "a\ud800b"})
    assert read_metadata(tmp_path / "a.png") == {"prompt": "a?b"}


def test_a_picture_that_says_nothing_is_refused(tmp_path: Path) -> None:
    save_png(tmp_path / "a.png", plain("red"))
    with pytest.raises(ValueError, match="does not say how it was drawn"):
        read_metadata(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="cannot be read as a picture"):
        read_metadata(tmp_path / "a.png")
    text = PngInfo()
    text.add_itxt("ldm-edu", "[1, 2")
    plain("red").save(tmp_path / "b.png", pnginfo=text)
    with pytest.raises(ValueError, match="cannot be read"):
        read_metadata(tmp_path / "b.png")
