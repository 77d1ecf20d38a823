"""Parts of captions: what is said of a picture, and of which pictures a text is true."""

import pytest
import torch

from ldm_edu.families import EMOJI, TOY
from ldm_edu.training.phrases import Phrases
from ldm_edu.training.sources import caption_pairs, captioned_pictures

pytestmark = pytest.mark.slow

FACTS = [("apple", "3d style", "white"), ("apple", "flat style", "white"), ("fish", "3d style", "blue")]
CAPTIONS = ["apple, 3d style", "apple, flat style", "fish, 3d style, on a blue background"]


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_a_text_is_true_of_every_picture_that_it_describes() -> None:
    phrases = Phrases(CAPTIONS, FACTS, standing=2)
    assert phrases.texts == [*CAPTIONS, "apple", "fish", "3d style", "flat style"]
    rows, texts = torch.arange(3), torch.arange(7)
    wanted = [[1, 0, 0, 1, 0, 1, 0], [0, 1, 0, 1, 0, 0, 1], [0, 0, 1, 0, 1, 1, 0]]
    assert phrases.true_of(rows, texts).int().tolist() == wanted


def test_whole_captions_where_nothing_stands_alone() -> None:
    phrases = Phrases(["a", "b", "a"])
    rows = torch.arange(3)
    assert torch.equal(phrases.pick(rows, rng(), 0.9), rows)
    assert phrases.true_of(rows, rows).int().tolist() == [
        [1, 0, 1],
        [0, 1, 0],
        [1, 0, 1],
    ]  # equal captions say the same


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_share_of_parts_and_that_each_is_true_of_its_picture(share: float) -> None:
    phrases = Phrases(CAPTIONS, FACTS, standing=2)
    rows = torch.randint(3, (4000,), generator=rng())
    texts = phrases.pick(rows, rng(), share)
    assert (texts >= 3).float().mean().item() == pytest.approx(share, abs=0.03)
    assert phrases.true_of(rows, texts).diagonal().all()
    styles = (texts >= 5).float().mean().item()
    assert styles == pytest.approx(share / 2, abs=0.03)  # things and styles equally often


def test_the_words_of_the_emoji_captions() -> None:
    captioned = captioned_pictures(EMOJI)
    phrases = captioned.phrases()
    assert phrases.texts[: len(captioned.captions)] == captioned.captions
    alone = phrases.texts[len(captioned.captions) :]
    assert {"red apple", "3d style", "firefox style"} <= set(alone)
    assert not {"white", "blue"} & set(alone)  # a background by itself is no caption
    row = captioned.captions.index("red apple, 3d style")
    apples = phrases.true_of(torch.arange(len(captioned.captions)), torch.tensor([phrases.texts.index("red apple")]))
    assert all("red apple, " in captioned.captions[i] for i in apples[:, 0].nonzero()[:, 0].tolist())
    assert apples[row, 0]


def test_the_batches_of_clip_say_what_is_true() -> None:
    images, tokens, true = caption_pairs(TOY)(rng(), 6)
    assert len(images) == len(tokens) == 6
    assert true.shape == (6, 6)
    assert true.diagonal().all()
    same = (tokens[:, None] == tokens[None]).all(dim=-1)
    assert torch.equal(true, same)
    _, _, some = caption_pairs(EMOJI, partial=0.8)(rng(), 64)
    assert some.diagonal().all()
    assert some.sum() > 100  # "3d style" is true of a sixth of them
