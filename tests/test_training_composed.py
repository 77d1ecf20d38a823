"""Composed pictures in training: among the others, in their share, with their own captions and latents."""

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from ldm_edu.checkpoint.io import load_tensors
from ldm_edu.cli import app
from ldm_edu.datasets.compose import Composed
from ldm_edu.families import EMOJI
from ldm_edu.models.clip import TextEncoder
from ldm_edu.training import sources
from ldm_edu.training.tasks import mirror_and_crop

FEW = 30


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def painted(n: int) -> Composed:
    """Grey squares, each lighter than the one before, in place of composed drawings."""
    images = torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1).repeat(1, 3, 64, 64)
    facts = [(f"two things {i}", "3d style", "white") for i in range(n)]
    return Composed(images, [f"{what}, {style}" for what, style, _ in facts], facts)


@pytest.fixture(scope="module")
def captioned() -> sources.Captioned:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "compose", painted)
        patch.setattr(sources, "COMPOSED", FEW)
        return sources.captioned_pictures(EMOJI, composed=True)


def test_composed_rows_follow_the_others_with_their_captions_and_pictures(captioned: sources.Captioned) -> None:
    assert len(captioned.composed) == FEW and len(captioned.facts or []) == len(captioned.captions)
    rows = torch.tensor([0, int(captioned.composed[7]), 1, int(captioned.composed[2])])
    images = captioned.images(rows)
    torch.testing.assert_close(images[[1, 3], 0, 0, 0], torch.tensor([7, 2]) / 127.5 - 1)
    assert captioned.captions[int(rows[1])] == "two things 7, 3d style"
    assert images[0, :, 0, 0].tolist() == [1, 1, 1]
    assert captioned.phrases().texts[int(rows[1])] == "two things 7, 3d style"


def test_their_share_of_the_batches(captioned: sources.Captioned, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "captioned_pictures", lambda preset, composed: captioned)
    assert EMOJI.text is not None
    latents = torch.arange(len(captioned.captions)).float().view(-1, 1, 1, 1)
    encoder = TextEncoder(EMOJI.text).requires_grad_(False)
    draw = sources.diffusion_batches(EMOJI, captioned, latents, encoder, drop=0.1, joint=False, composed=0.7)
    batch = draw(rng(), 400, 0.5)
    new = (batch.x0.flatten() >= captioned.composed[0]).float().mean()
    assert new.item() == pytest.approx(0.7, abs=0.07)
    context = batch.cond.context
    assert context is not None and context.shape == (400, 32, 192) and not context.requires_grad

    images, tokens, true = sources.caption_pairs(EMOJI, composed=0.5)(rng(), 20)
    assert len(images) == len(tokens) == 20 and true.diagonal().all()
    assert images.std(dim=(1, 2, 3)).lt(1e-6).sum() == 10  # the grey squares


def test_clip_is_trained_on_from_a_checkpoint(tmp_path: Path) -> None:
    command = ["train", "--preset", "toy", "clip", "--steps", "1"]
    first, second = tmp_path / "first", tmp_path / "second"
    assert CliRunner().invoke(app, [*command, "--out", str(first)]).exit_code == 0
    result = CliRunner().invoke(app, [*command, "--start", str(first), "--out", str(second)])
    assert result.exit_code == 0, result.output
    for part in ("text", "vision", "clip"):
        before, after = load_tensors(first, part), load_tensors(second, part)
        moved = max(float((after[name].float() - before[name].float()).abs().max()) for name in before)
        assert 0 < moved < 0.02, part  # one step away, not another start


def test_a_crop_is_part_of_the_picture_or_of_its_mirror_image() -> None:
    x = torch.rand(16, 3, 64, 64, generator=rng())
    parts = mirror_and_crop(x, rng(), side=48)
    assert parts.shape == (16, 3, 48, 48)
    mirrored = 0
    for part, whole in zip(parts, x, strict=True):
        near = [
            flip
            for flip, other in ((False, whole), (True, whole.flip(2)))
            for window in other.unfold(1, 48, 1).unfold(2, 48, 1).flatten(1, 2).transpose(0, 1)
            if (window - part).abs().mean() < 0.05  # the faint noise
        ]
        assert len(near) == 1
        mirrored += near[0]
    assert 0 < mirrored < 16
