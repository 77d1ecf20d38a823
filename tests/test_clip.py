"""CLIP: counts, causality, the end token, unit vectors, sizes that do not fit."""

import math
from dataclasses import replace

import pytest
import torch

from ldm_edu.config import TextConfig, VisionConfig
from ldm_edu.families import SD15, TOY
from ldm_edu.models.clip import CLIP, TextEncoder, VisionEncoder
from ldm_edu.tokenizer import Tokenizer

assert TOY.text and TOY.vision and TOY.embed_dim and SD15.text


@pytest.fixture
def text() -> TextEncoder:
    return TextEncoder(TOY.text).eval()


@pytest.fixture
def clip() -> CLIP:
    return CLIP(TOY.text, TOY.vision, TOY.embed_dim).eval()


def test_counts_of_the_published_models() -> None:
    with torch.device("meta"):
        text, clip = TextEncoder(SD15.text), CLIP(TextConfig(), VisionConfig(), 768)
    assert sum(p.numel() for p in text.parameters()) == 123_060_480
    assert len(text.state_dict()) == 196
    assert sum(p.numel() for p in clip.vision.parameters()) == 303_179_776
    assert sum(p.numel() for p in clip.parameters()) == 427_616_513


def test_a_token_sees_only_those_before_it(text: TextEncoder) -> None:
    tokens = torch.randint(0, 1000, (1, 10))
    changed = tokens.clone()
    changed[0, 6] = 1001
    before, after = text(tokens).last, text(changed).last
    torch.testing.assert_close(before[:, :6], after[:, :6])
    assert not torch.allclose(before[:, 6], after[:, 6])
    assert not torch.allclose(before[:, 9], after[:, 9])


def test_pooled_is_the_state_of_the_first_end_token(text: TextEncoder) -> None:
    tokens = Tokenizer(1024, 16)(["red apple", "", "x " * 99])
    states = text(tokens)
    for row, ids in enumerate(tokens.tolist()):
        assert torch.equal(states.pooled[row], states.last[row, ids.index(1023)])
    assert torch.equal(states.pooled[2], states.last[2, 15])


def test_every_state_is_returned() -> None:
    config = replace(TOY.text, layers=2, projection=24)
    text, tokens = TextEncoder(config).eval(), torch.randint(0, 1000, (2, 16))
    states = text(tokens)
    assert len(states.hidden) == 3 and torch.equal(text.layers[1](states.hidden[-2]), states.hidden[-1])
    assert torch.equal(text.norm(states.hidden[-1]), states.last)
    assert states.projected is not None and text.proj is not None
    assert torch.equal(states.projected, text.proj(states.pooled)) and states.projected.shape == (2, 24)
    assert TextEncoder(TOY.text)(tokens).projected is None


def test_states_are_normalised(text: TextEncoder) -> None:
    last = text(torch.randint(0, 1000, (2, 16))).last
    torch.testing.assert_close(last.mean(-1), torch.zeros(2, 16), atol=1e-5, rtol=0)
    torch.testing.assert_close(last.var(-1, unbiased=False), torch.ones(2, 16), atol=0.05, rtol=0)


def test_embeddings_are_unit_vectors_and_logits_their_cosines(clip: CLIP) -> None:
    tokens, images = Tokenizer(1024, 16)(["red apple", "blue fish"]), torch.randn(3, 3, 16, 16)
    a, b = clip.encode_text(tokens), clip.encode_image(images)
    assert a.shape == (2, 32) and b.shape == (3, 32)
    torch.testing.assert_close(a.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(b.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(clip(tokens, images), a @ b.T / 0.07)


def test_the_temperature_has_a_floor(clip: CLIP) -> None:
    tokens, images = Tokenizer(1024, 16)(["red apple"]), torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        clip.logit_scale.fill_(math.log(100))
        at_the_floor = clip(tokens, images)
        clip.logit_scale.fill_(20.0)
        torch.testing.assert_close(clip(tokens, images), at_the_floor)


def test_the_class_token_sees_every_patch() -> None:
    encoder = VisionEncoder(TOY.vision).eval()
    images = torch.randn(1, 3, 16, 16)
    whole = encoder(images)
    for y, x in ((0, 0), (0, 15), (15, 0), (15, 15)):
        changed = images.clone()
        changed[0, :, y, x] += 10
        assert not torch.allclose(encoder(changed), whole)


def test_positions_of_patches_matter() -> None:
    encoder = VisionEncoder(TOY.vision).eval()
    images = torch.randn(1, 3, 16, 16)
    assert not torch.allclose(encoder(images.roll(4, dims=2)), encoder(images), atol=1e-4)


def test_gradients_reach_every_weight(clip: CLIP) -> None:
    tokens, images = Tokenizer(1024, 16)(["red apple", "blue fish"]), torch.randn(2, 3, 16, 16)
    clip(tokens, images).log_softmax(dim=1).trace().backward()
    # a bias of keys adds the same to all of a query's scores, which softmax takes away again
    idle = [n for n, p in clip.named_parameters() if p.grad is None or not p.grad.any()]
    assert [name for name in idle if not name.endswith("to_k.bias")] == []


def test_a_fresh_clip_knows_nothing() -> None:
    torch.manual_seed(0)
    clip = CLIP(TOY.text, TOY.vision, TOY.embed_dim)
    tokens = Tokenizer(1024, 16)(
        [f"{word} apple" for word in ["red", "blue", "green", "big", "small", "old", "new", "hot"]]
    )
    logits = clip(tokens, torch.randn(8, 3, 16, 16))
    loss = torch.nn.functional.cross_entropy(logits, torch.arange(8))
    assert abs(float(loss) - math.log(8)) < 0.5


def test_too_many_tokens_are_refused(text: TextEncoder) -> None:
    with pytest.raises(ValueError, match=r"17 tokens .* 16 positions"):
        text(torch.zeros(1, 17, dtype=torch.int64))


@pytest.mark.parametrize("shape", [(1, 3, 32, 32), (1, 1, 16, 16), (3, 16, 16)])
def test_pictures_of_another_size_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"takes \(B, 3, 16, 16\)"):
        VisionEncoder(TOY.vision)(torch.zeros(shape))


def test_configs_that_do_not_add_up_are_refused() -> None:
    with pytest.raises(ValueError, match="heads=5 does not divide width=32"):
        TextEncoder(TextConfig(width=32, heads=5))
    with pytest.raises(ValueError, match="patch=5 does not divide size=16"):
        VisionEncoder(VisionConfig(size=16, patch=5))
