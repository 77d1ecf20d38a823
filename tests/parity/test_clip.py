"""Both towers of CLIP against the reference classes', on the same random weights."""

import dataclasses
from typing import Any

import pytest
import torch
from parity.reference import difference, norm_epsilons, randomised, reference_clip, reference_text, reference_vision

from ldm_edu.config import CLIPConfig, TextConfig, VisionConfig
from ldm_edu.layouts.clip import clip_pairs, text_pairs, vision_pairs
from ldm_edu.layouts.pair import convert, convert_back
from ldm_edu.models.clip import CLIP, TextEncoder, VisionEncoder
from ldm_edu.tokenizer import Tokenizer

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity

TOLERANCE = 1e-5
TEXT = TextConfig(vocab=1024, length=20, width=32, layers=3, heads=4)
VISION = VisionConfig(size=24, patch=8, width=48, layers=2, heads=4)
BOTH = CLIPConfig(TEXT, VISION, 16)
PROMPTS = ["a red apple", "", "漢字 " * 30, "blue <|endoftext|> fish"]


def variants(config: Any) -> list[Any]:
    return [config, dataclasses.replace(config, activation="gelu", mlp_width=40)]


def names(module: torch.nn.Module) -> list[str]:
    return list(module.state_dict())


@pytest.mark.parametrize("from_theirs", [True, False], ids=["their weights", "our weights"])
@pytest.mark.parametrize("config", variants(TEXT), ids=lambda c: c.activation)
def test_text(config: TextConfig, from_theirs: bool) -> None:
    ours, theirs = TextEncoder(config), transformers.CLIPTextModel(reference_text(config))
    if from_theirs:
        ours.load_state_dict(convert(randomised(theirs).state_dict(), text_pairs(config, names=names(theirs))))
    else:
        theirs.load_state_dict(convert_back(randomised(ours).state_dict(), text_pairs(config, names=names(theirs))))
    tokens = Tokenizer(config.vocab, config.length)(PROMPTS)
    with torch.no_grad():
        states, reference = ours.eval()(tokens), theirs.eval()(tokens)
    assert difference(states.last, reference.last_hidden_state) <= TOLERANCE
    assert difference(states.pooled, reference.pooler_output) <= TOLERANCE


@pytest.mark.parametrize("from_theirs", [True, False], ids=["their weights", "our weights"])
@pytest.mark.parametrize("config", variants(VISION), ids=lambda c: c.activation)
def test_vision(config: VisionConfig, from_theirs: bool) -> None:
    ours, theirs = VisionEncoder(config), transformers.CLIPVisionModel(reference_vision(config))
    if from_theirs:
        ours.load_state_dict(convert(randomised(theirs).state_dict(), vision_pairs(config, names=names(theirs))))
    else:
        theirs.load_state_dict(convert_back(randomised(ours).state_dict(), vision_pairs(config, names=names(theirs))))
    images = torch.randn(3, 3, 24, 24)
    with torch.no_grad():
        assert difference(ours.eval()(images), theirs.eval()(images).pooler_output) <= TOLERANCE


@pytest.mark.parametrize("from_theirs", [True, False], ids=["their weights", "our weights"])
def test_both(from_theirs: bool) -> None:
    ours, theirs = CLIP(TEXT, VISION, 16), transformers.CLIPModel(reference_clip(TEXT, VISION, 16))
    if from_theirs:
        ours.load_state_dict(convert(randomised(theirs).state_dict(), clip_pairs(BOTH)))
    else:
        theirs.load_state_dict(convert_back(randomised(ours).state_dict(), clip_pairs(BOTH)))
    tokens, images = Tokenizer(TEXT.vocab, TEXT.length)(PROMPTS), torch.randn(3, 3, 24, 24)
    with torch.no_grad():
        reference = theirs.eval()(input_ids=tokens, pixel_values=images)
        assert difference(ours.eval()(tokens, images), reference.logits_per_text) <= TOLERANCE
        assert difference(ours.encode_text(tokens), reference.text_embeds) <= TOLERANCE
        assert difference(ours.encode_image(images), reference.image_embeds) <= TOLERANCE


def test_norms_add_the_same_to_the_variance() -> None:
    wanted = norm_epsilons(transformers.CLIPModel(reference_clip(TEXT, VISION, 16)))
    found = norm_epsilons(CLIP(TEXT, VISION, 16))
    assert {p.theirs: found[p.ours] for p in clip_pairs(BOTH) if p.ours in found} == wanted


def test_the_comparison_can_fail() -> None:
    """A mask that lets a token see the next one, and the other activation, are seen."""
    ours, theirs = TextEncoder(TEXT), transformers.CLIPTextModel(reference_text(TEXT)).eval()
    ours.load_state_dict(convert(randomised(theirs).state_dict(), text_pairs(TEXT, names=names(theirs))))
    tokens = Tokenizer(TEXT.vocab, TEXT.length)(PROMPTS)
    with torch.no_grad():
        wanted = theirs(tokens).last_hidden_state
        assert difference(ours(tokens).last, wanted) <= TOLERANCE
        ours.layers[2].attention.causal = False  # type: ignore[union-attr]
        assert difference(ours(tokens).last, wanted) > TOLERANCE
        ours.layers[2].attention.causal, ours.layers[0].mlp.quick = True, False  # type: ignore[union-attr]
        assert difference(ours(tokens).last, wanted) > TOLERANCE
