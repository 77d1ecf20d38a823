"""What a learner sees of editing and of prompts, on the shipped emoji model: colours and places, not single values."""

import pytest
import torch
from torch import Tensor

from ldm_edu.editing import Edit
from ldm_edu.model import LatentDiffusion
from ldm_edu.prompts import chunks

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def emoji() -> LatentDiffusion:
    return LatentDiffusion.from_pretrained("emoji")


def draw(model: LatentDiffusion, prompt: str, edit: Edit | None = None, seed: int = 8) -> Tensor:
    *_, last = model.generate([prompt], seeds=[seed], steps=12, guidance=3.0, edit=edit)
    image = model.decode(last.x)
    return image if edit is None else edit.paste(image)


@pytest.fixture(scope="module")
def apple(emoji: LatentDiffusion) -> Tensor:
    return draw(emoji, "red apple, 3d style", seed=3)


def colour(image: Tensor, rows: slice = slice(None), columns: slice = slice(None)) -> dict[str, float]:
    """The mean of each channel over what is not the white paper."""
    part = image[0, :, rows, columns]
    drawn = part.amin(0) < 0.7
    return dict(zip(("red", "green", "blue"), part[:, drawn].mean(1).tolist(), strict=True))


def test_strength_turns_a_red_apple_green(emoji: LatentDiffusion, apple: Tensor) -> None:
    greens = [colour(draw(emoji, "green apple, 3d style", Edit(apple, s))) for s in (0.1, 0.4, 0.8)]
    excess = [c["green"] - c["red"] for c in (colour(apple), *greens)]
    assert excess == sorted(excess) and excess[0] < -0.5 and excess[-1] > 0.05


def test_the_right_half_becomes_a_tangerine_and_the_left_stays(emoji: LatentDiffusion, apple: Tensor) -> None:
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 32:] = 1
    image = draw(emoji, "tangerine, 3d style", Edit(apple, mask=mask))
    assert torch.equal(image[..., :32], apple[..., :32])
    right = colour(image, columns=slice(36, 64))
    assert right["red"] > 0.5 and right["green"] > colour(apple, columns=slice(36, 64))["green"] + 0.4
    inside = image[0, 0, 24:48, 30:34] - image[0, 2, 24:48, 30:34]  # across the edge there is fruit, and no paper
    assert (inside > 0.3).float().mean() > 0.9


def test_outpainting_draws_a_second_one_beside(emoji: LatentDiffusion, apple: Tensor) -> None:
    image = draw(emoji, "red apple, 3d style", Edit.outpaint(apple, right=64))
    assert image.shape == (1, 3, 64, 128) and torch.equal(image[..., :64], apple)
    beside = image[0, :, :, 64:]
    assert (beside.amin(0) < 0.7).float().mean() > 0.3
    assert colour(beside[None])["red"] > colour(beside[None])["green"] + 0.5


def test_a_weight_says_how_red(emoji: LatentDiffusion) -> None:
    reds = [colour(draw(emoji, f"(red:{w}) apple, 3d style", seed=3)) for w in (-1, 0, 1)]
    excess = [c["red"] - (c["green"] + c["blue"]) / 2 for c in reds]
    assert excess == sorted(excess) and excess[2] > excess[0] + 0.2


def test_the_second_window_is_read(emoji: LatentDiffusion) -> None:
    """The same 30 words before it; what the picture shows is said in the second window alone."""
    assert emoji.tokenizer is not None
    filler = "a picture of a thing " * 6
    red, green = (f"{filler} {c} apple, {c} apple, 3d style" for c in ("red", "green"))
    assert len(chunks(emoji.tokenizer, red).tokens) == 2
    assert torch.equal(chunks(emoji.tokenizer, red).tokens[0], chunks(emoji.tokenizer, green).tokens[0])
    shown = [colour(draw(emoji, prompt, seed=3)) for prompt in (red, green)]
    assert shown[0]["red"] - shown[0]["green"] > shown[1]["red"] - shown[1]["green"] + 0.2, shown
