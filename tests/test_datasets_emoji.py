"""The emoji set: what is in it, that its splits leak nothing, and how it is laid on backgrounds."""

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from ldm_edu.datasets import (
    background,
    background_names,
    composite,
    emoji,
    emoji_labels,
    emoji_splits,
    emoji_tensors,
    random_backgrounds,
)
from ldm_edu.datasets.backgrounds import PALETTE
from ldm_edu.datasets.emoji import STYLES
from ldm_edu.datasets.make import splits as make_splits
from ldm_edu.paths import data_dir


@pytest.fixture(scope="module")
def everything():
    return emoji("all")


@pytest.mark.slow
def test_rows(everything) -> None:
    assert len(everything) == 7185
    assert len(set(zip(everything["concept"], everything["style"], strict=True))) == len(everything)
    assert set(everything["style"]) == set(STYLES)
    assert set(everything["licence"]) == {"MIT", "Apache-2.0", "CC-BY-4.0"}
    row = everything.filter(lambda row: row["concept"] == "red-apple" and row["style"] == "3d", keep_in_memory=True)[0]
    assert row["caption"] == "red apple, 3d style"
    assert row["image"].mode == "RGBA" and row["image"].size == (64, 64)
    red, green, blue, alpha = np.asarray(row["image"])[40, 32]
    assert red > 150 > max(green, blue) and alpha == 255
    assert not everything.cache_files


@pytest.mark.slow
def test_every_picture_shows_something() -> None:
    rgba = emoji_tensors("all").rgba
    assert (rgba[:, 3] > 16).float().mean((1, 2)).min() > 0.03


def test_captions_are_unique(everything) -> None:
    assert len(set(everything["caption"])) == len(everything)


def test_the_splits_part_the_set(everything) -> None:
    parts = [Counter(emoji(split)["caption"]) for split in ("train", "pairs", "concepts")]
    assert sum(parts, Counter()) == Counter(everything["caption"])


def test_held_out_concepts_are_in_no_other_split() -> None:
    held_out = set(emoji("concepts")["concept"])
    assert held_out == emoji_splits().concepts
    assert not held_out & (set(emoji("train")["concept"]) | set(emoji("pairs")["concept"]))


def test_held_out_pairs_leave_three_styles_and_cover_all() -> None:
    trained = Counter(emoji("train")["concept"])
    pairs = emoji("pairs")
    assert min(trained[concept] for concept in pairs["concept"]) >= 3
    assert max(Counter(pairs["concept"]).values()) == 1
    everywhere, here = Counter(emoji("all")["style"]), Counter(pairs["style"])
    for style in STYLES:
        assert 0.04 < here[style] / everywhere[style] < 0.06


def test_shares_of_the_core() -> None:
    splits = emoji_splits()
    assert 380 <= len(splits.core) <= 450
    assert 0.04 < len(splits.concepts & splits.core) / len(splits.core) < 0.06
    assert 0.04 < len(emoji("pairs", core=True)) / len(emoji("all", core=True)) < 0.06
    assert set(emoji("train", core=True)["concept"]) == splits.core - splits.concepts


def test_the_prompts_of_the_readme_are_trained() -> None:
    assert {"red apple, 3d style", "fish, flat style"} <= set(emoji("train", core=True)["caption"])


def test_the_committed_splits_follow_the_rule(tmp_path: Path) -> None:
    for shard in (data_dir() / "emoji").glob("*.parquet"):
        shutil.copy(shard, tmp_path)
    again = json.loads(make_splits.build(tmp_path).read_text())
    assert again == json.loads((data_dir() / "emoji" / "splits.json").read_text())


def test_tensors_are_the_rows() -> None:
    tensors, rows = emoji_tensors("pairs"), emoji("pairs")
    assert tensors.rgba.shape == (len(rows), 4, 64, 64) and tensors.rgba.dtype == torch.uint8
    assert tensors.captions == rows["caption"][:]
    labels = emoji_labels()
    for i in (0, 100, len(rows) - 1):
        assert torch.equal(tensors.rgba[i], torch.from_numpy(np.array(rows[i]["image"])).permute(2, 0, 1))
        assert labels[tensors.concepts[i]] == rows[i]["label"]
        assert STYLES[tensors.styles[i]] == rows[i]["style"]


def test_unknown_split() -> None:
    with pytest.raises(ValueError, match=r"'validation'.*train"):
        emoji("validation")  # type: ignore[arg-type]


def test_missing_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LDM_EDU_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="make data"):
        emoji("train")


def test_composite() -> None:
    rgba = torch.zeros(2, 4, 1, 3, dtype=torch.uint8)
    rgba[:, :3] = torch.tensor([255, 0, 51], dtype=torch.uint8)[:, None, None]
    rgba[:, 3] = torch.tensor([0, 255, 51], dtype=torch.uint8)  # transparent, opaque, a fifth
    before = rgba.clone()
    image = composite(rgba, torch.tensor([[1.0, 1.0, 1.0], [-1.0, 0.0, 1.0]]))
    assert image.shape == (2, 3, 1, 3)
    torch.testing.assert_close(image[0, :, 0, 0], torch.ones(3))
    torch.testing.assert_close(image[1, :, 0, 0], torch.tensor([-1.0, 0.0, 1.0]))
    torch.testing.assert_close(image[1, :, 0, 1], torch.tensor([1.0, -1.0, -0.6]))
    torch.testing.assert_close(image[1, :, 0, 2], torch.tensor([-0.6, -0.2, 0.68]))
    assert torch.equal(rgba, before)


@pytest.mark.parametrize(
    ("rgba", "colours", "message"),
    [
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(2, 3), r"\(2, 3, 4, 4\)"),
        (torch.zeros(2, 4, 4, 4), torch.zeros(2, 3), "float32"),
        (torch.zeros(2, 4, 4, 4, dtype=torch.uint8), torch.zeros(1, 3), r"\(1, 3\)"),
    ],
)
def test_composite_refuses(rgba: torch.Tensor, colours: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        composite(rgba, colours)


def test_random_backgrounds() -> None:
    colours = random_backgrounds(4000, torch.Generator().manual_seed(0))
    assert torch.equal(colours, random_backgrounds(4000, torch.Generator().manual_seed(0)))
    assert colours.shape == (4000, 3) and colours.abs().max() <= 1
    assert 0.47 < (colours == 1).all(1).float().mean() < 0.53
    named = Counter(background_names(colours))
    assert set(named) == {*PALETTE, ""}
    assert min(named.values()) > 50


def test_background_names() -> None:
    for name in PALETTE:
        assert background_names(background(name)) == [name]
    assert background_names(torch.tensor([[-1.0, 1.0, 1.0]])) == [""]
    with pytest.raises(ValueError, match=r"'mauve'.*blue"):
        background("mauve")


def test_the_starter_set_is_the_core_concepts_of_two_groups() -> None:
    starter, core = emoji("train", starter=True), emoji("train", core=True)
    groups = set(starter["group"])
    assert groups == {"animals-nature", "food-drink"}
    wanted = [c for c, group in zip(core["caption"], core["group"], strict=True) if group in groups]
    assert list(starter["caption"]) == wanted
    assert len(set(starter["concept"])) == 152
    assert "red apple, 3d style" in starter["caption"]
    assert emoji_tensors("train", starter=True).captions == wanted
