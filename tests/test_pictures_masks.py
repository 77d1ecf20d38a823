"""Mask files: white is painted, black and what is transparent stays, greys are in between, and labels are named."""

from pathlib import Path

import numpy as np
import pytest
import torch
from command import randomized_toy, refused, run
from PIL import Image, ImageDraw, ImageFilter

from ldm_edu.pictures import open_mask

HALF = np.repeat([[255] * 4 + [0] * 4], 4, axis=0).astype(np.uint8)  # (4, 8): the left half


def saved(path: Path, *bands: np.ndarray, mode: str | None = None) -> Path:
    Image.merge(mode or "L", [Image.fromarray(band) for band in bands]).save(path)
    return path


def levels(path: Path) -> np.ndarray:
    mask = open_mask(path)
    assert mask.mode == "L"
    return np.asarray(mask)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "I;16", "jpg"])
def test_white_on_black_in_any_mode(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.jpg" if mode == "jpg" else "a.png")
    sixteen = Image.fromarray(HALF.astype(np.uint16) * 257)
    (sixteen if mode == "I;16" else Image.fromarray(HALF).convert("RGB" if mode == "jpg" else mode)).save(path)
    assert np.abs(levels(path).astype(int) - HALF).max() <= (8 if mode == "jpg" else 0)


def test_what_is_transparent_stays_whatever_its_colour(tmp_path: Path) -> None:
    white = np.full_like(HALF, 255)
    strokes = saved(tmp_path / "strokes.png", white, white, white, HALF, mode="RGBA")  # white, also where it is clear
    assert np.array_equal(levels(strokes), HALF)
    Image.merge("LA", [Image.fromarray(band) for band in (white, HALF)]).save(tmp_path / "grey.png")
    assert np.array_equal(levels(tmp_path / "grey.png"), HALF)
    palette = Image.fromarray((HALF > 0).astype(np.uint8), "P")
    palette.putpalette([255, 255, 255, 255, 255, 255])
    palette.save(tmp_path / "palette.png", transparency=0)
    assert np.array_equal(levels(tmp_path / "palette.png"), HALF)
    hole = saved(tmp_path / "hole.png", HALF, HALF, HALF, 255 - HALF, mode="RGBA")  # white where it is clear
    with pytest.raises(ValueError, match=r"hole\.png' is black everywhere, or transparent"):
        open_mask(hole)


def test_greys_and_half_transparent_strokes_are_in_between(tmp_path: Path) -> None:
    grey = np.arange(0, 256, dtype=np.uint8).reshape(1, 256)
    assert np.array_equal(levels(saved(tmp_path / "a.png", grey)), grey)
    white = np.full_like(grey, 255)
    assert np.array_equal(levels(saved(tmp_path / "b.png", white, white, white, grey, mode="RGBA")), grey)
    product = np.rint(grey.astype(float) ** 2 / 255)  # a grey brush of the same opacity
    assert np.array_equal(levels(saved(tmp_path / "c.png", grey, grey, grey, grey, mode="RGBA")), product)


def labels(path: Path, values: np.ndarray, colours: list[int]) -> Path:
    mask = Image.fromarray(values.astype(np.uint8), "P")
    mask.putpalette(colours)
    mask.save(path)
    return path


def test_one_label_is_painted_wholly_and_several_are_named(tmp_path: Path) -> None:
    voc = [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0]
    one = HALF // 255
    assert np.array_equal(levels(labels(tmp_path / "one.png", one, voc)), HALF)
    assert np.array_equal(levels(labels(tmp_path / "any.png", 3 * one, voc)), HALF)
    two = one.copy()
    two[0] = 2
    with pytest.raises(ValueError, match=r"two\.png' has several colours \(#008000, #800000\), as a map of labels"):
        open_mask(labels(tmp_path / "two.png", two, voc))
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    photo.save(tmp_path / "photo.png")
    with pytest.raises(ValueError, match="more than 256"):
        open_mask(tmp_path / "photo.png")


@pytest.mark.parametrize("brightest", [1, 20, 127])
def test_a_map_of_labels_in_grey_is_not_bright_enough(tmp_path: Path, brightest: int) -> None:
    with pytest.raises(ValueError, match=f"brightest level of .* is {brightest} of 255, as in a map of labels"):
        open_mask(saved(tmp_path / "a.png", HALF // 255 * np.uint8(brightest)))
    assert levels(saved(tmp_path / "b.png", HALF // 255 * np.uint8(128))).max() == 128


# --- on the command line ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return randomized_toy(tmp_path_factory.mktemp("checkpoints") / "toy")


def painted(place: Path, toy: Path, photo: np.ndarray, mask: Image.Image, *how: str) -> np.ndarray:
    """The picture that is drawn over a photo where a mask says so: (H, W, 3)."""
    Image.fromarray(photo).save(place / "photo.png")
    mask.save(place / "mask.png")
    files = ["--init", "photo.png", "--mask", "mask.png", "--out", "out"]
    done = run("generate", "a", "--model", toy, "--steps", "2", *files, *how, cwd=place)
    assert done.returncode == 0, done.stderr
    with Image.open(place / "out" / "a-0.png") as picture:
        return np.asarray(picture).astype(int)


def test_a_soft_mask_keeps_what_is_black_and_blends_its_edge(tmp_path: Path, toy: Path) -> None:
    photo = np.full((32, 32, 3), 60, np.uint8)
    mask = Image.new("L", (32, 32))
    ImageDraw.Draw(mask).ellipse((10, 10, 22, 22), fill=255)
    mask = mask.filter(ImageFilter.GaussianBlur(2))
    drawn, share = painted(tmp_path, toy, photo, mask), np.asarray(mask) / 255  # (32, 32, 3), (32, 32)
    assert np.array_equal(drawn[share == 0], photo[share == 0])
    change = np.abs(drawn - photo).mean(axis=-1)  # (32, 32)
    rims = [change[(share > low) & (share <= low + 0.25)].mean() for low in (0, 0.25, 0.5, 0.75)]
    assert rims == sorted(rims) and rims[3] > 4 * rims[0]


def test_a_hard_mask_that_is_scaled_keeps_what_is_far_from_its_edge(tmp_path: Path, toy: Path) -> None:
    photo = np.full((500, 500, 3), 60, np.uint8)
    mask = Image.new("L", (500, 500))
    mask.paste(255, (250, 0, 500, 500))
    drawn = painted(tmp_path, toy, photo, mask, "--size", "32")
    assert (drawn[:, :15] == 60).all() and (drawn[:, 17:] != 60).any()


def test_a_mask_that_cannot_be_is_one_sentence(tmp_path: Path, toy: Path) -> None:
    Image.new("RGB", (16, 16), "green").save(tmp_path / "photo.png")
    labels(tmp_path / "two.png", np.arange(256).reshape(16, 16) % 3, [0, 0, 0, 128, 0, 0, 0, 128, 0])
    (tmp_path / "folder.png").mkdir()
    for mask, words in (("two.png", "several colours"), ("folder.png", "a folder and not a file")):
        how = ["--model", toy, "--init", "photo.png", "--mask", mask]
        assert words in refused(run("generate", "a", *how, cwd=tmp_path))
