"""Both towers of CLIP against the reference classes', on the same random weights."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from parity.reference import difference, norm_epsilons, randomised, reference_clip, reference_text, reference_vision
from PIL import Image
from torch import Tensor

from ldm_edu.config import CLIPConfig, TextConfig, VisionConfig
from ldm_edu.layouts.clip import clip_pairs, text_pairs, vision_pairs
from ldm_edu.layouts.pair import convert, convert_back
from ldm_edu.models.clip import CLIP, TextEncoder, VisionEncoder
from ldm_edu.pictures import clip_input
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


def openai_names(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of Hugging Face's CLIP as OpenAI's release has them: q, k and v in one, projections transposed."""
    renamed = {
        "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
        "text_model.embeddings.position_embedding.weight": "positional_embedding",
        "text_model.encoder.layers.": "transformer.resblocks.",
        "text_model.final_layer_norm.": "ln_final.",
        "vision_model.embeddings.class_embedding": "visual.class_embedding",
        "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
        "vision_model.embeddings.patch_embedding.": "visual.conv1.",
        "vision_model.pre_layrnorm.": "visual.ln_pre.",
        "vision_model.encoder.layers.": "visual.transformer.resblocks.",
        "vision_model.post_layernorm.": "visual.ln_post.",
        "layer_norm1": "ln_1",
        "layer_norm2": "ln_2",
        "self_attn.out_proj": "attn.out_proj",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
        "text_projection.weight": "text_projection",
        "visual_projection.weight": "visual.proj",
    }
    found: dict[str, Tensor] = {}
    for name, tensor in theirs.items():
        if name.endswith("position_ids") or ".k_proj." in name or ".v_proj." in name:
            continue
        if ".q_proj." in name:
            tensor = torch.cat([theirs[name.replace("q_proj", f"{part}_proj")] for part in "qkv"])
            name = name.replace("self_attn.q_proj.", "attn.in_proj_")
        for part, instead in renamed.items():
            name = name.replace(part, instead)
        found[name] = tensor.T if name in ("text_projection", "visual.proj") else tensor
    return found


def test_openais_layout() -> None:
    theirs = randomised(transformers.CLIPModel(reference_clip(TEXT, VISION, 16))).eval()
    published = openai_names(theirs.state_dict())
    ours = CLIP(TEXT, VISION, 16)
    ours.load_state_dict(convert(published, clip_pairs(BOTH, "original")))
    tokens, images = Tokenizer(TEXT.vocab, TEXT.length)(PROMPTS), torch.randn(3, 3, 24, 24)
    with torch.no_grad():
        reference = theirs(input_ids=tokens, pixel_values=images).logits_per_text
        assert difference(ours.eval()(tokens, images), reference) <= TOLERANCE
    back = convert_back(ours.state_dict(), clip_pairs(BOTH, "original"))
    assert back.keys() == published.keys() and all(torch.equal(back[name], published[name]) for name in back)


@pytest.mark.parametrize("size", [(224, 224), (301, 200), (97, 240), (640, 481)], ids=str)
def test_a_picture_is_read_as_theirs_is(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 7, 3), dtype=np.uint8))
    for picture in (coarse.resize(size), coarse.resize(size).convert("L")):
        wanted = transformers.CLIPImageProcessorPil()(picture, return_tensors="pt").pixel_values
        found = clip_input(picture.convert("RGB"))
        assert found.shape == wanted.shape == (1, 3, 224, 224)
        assert difference(found, wanted) <= TOLERANCE


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
