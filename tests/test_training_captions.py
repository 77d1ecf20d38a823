"""Own captions as they are learned and as they are drawn: brackets stand as they are, what is too long is told."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from ldm_edu.families import TOY
from ldm_edu.model import LatentDiffusion
from ldm_edu.prompts import parse
from ldm_edu.training.diffusion import Share
from ldm_edu.training.parts import load_parts
from ldm_edu.training.scale_run import cached
from ldm_edu.training.sheets import drawn

LONG = "a red circle " * 20


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    LatentDiffusion.from_preset(TOY).save(tmp_path / "toy")
    return tmp_path / "toy"


def test_a_sheet_draws_captions_as_they_stand(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generate, asked = LatentDiffusion.generate, list[str]()

    def spy(model: LatentDiffusion, prompts: Sequence[str], **options: Any) -> Any:
        asked.extend(prompts)
        return generate(model, prompts, **options | {"steps": 1})

    monkeypatch.setattr(LatentDiffusion, "generate", spy)
    captions, pictures = drawn(toy, ["a (very) big [cat]", r"C:\(x"])
    assert captions == ["a (very) big [cat]", r"C:\(x"] and len(pictures) == 2
    assert [[(span.text, span.weight) for span in parse(prompt)] for prompt in asked] == [
        [("a (very) big [cat]", 1.0)],
        [(r"C:\(x", 1.0)],
    ]


def test_captions_longer_than_the_window_are_told_once(toy: Path, tmp_path: Path) -> None:
    captions = [LONG, LONG, "a red circle", LONG + "and more"]
    for i, caption in enumerate(captions):
        Image.new("RGB", (16, 16), (60 * i, 0, 0)).save(tmp_path / f"{i}.png")
        (tmp_path / f"{i}.txt").write_text(caption)
    parts, told = load_parts(toy, TOY, torch.device("cpu")), list[str]()
    for _ in range(2):
        cached(tmp_path, tmp_path / "cache", parts, Share(4), size=16, tell=told.append)
    assert told == [
        "2 of 3 captions are longer than the text encoder's window of 16 tokens; what comes after it is not learned"
    ]


def test_the_command_tells_it(toy: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from ldm_edu.cli import app

    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text(LONG)
    command = ["train", "unet", "--preset", "toy", "--data", str(tmp_path), "--out", str(toy), "--batch", "2"]
    for times in (1, 0):
        result = CliRunner().invoke(app, [*command, "--steps", "1", "--sheet-every", "0"])
        assert result.exit_code == 0, result.output
        assert result.stderr.count("1 of 1 captions is longer than the text encoder's window") == times


def test_captions_that_fit_are_nothing_to_tell(toy: Path, tmp_path: Path) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("a red circle")
    parts = load_parts(toy, TOY, torch.device("cpu"))
    cached(tmp_path, tmp_path / "cache", parts, Share(4), size=16, tell=pytest.fail)
