"""Pictures leave the package as they are: the right colours, the right places, whole files."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from ldm_edu.files import SaveError
from ldm_edu.pictures import GAP, PAPER, save_gif, save_png, sheet, to_pil


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
