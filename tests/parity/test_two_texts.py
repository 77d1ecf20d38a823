"""SDXL's conditions against the reference pipelines' own, on small random text encoders."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from parity.reference import (
    AUTOENCODER,
    UNET,
    difference,
    randomised,
    reference_autoencoder,
    reference_text,
    reference_unet,
)
from torch import Tensor

from ldm_edu.conditioners.two_texts import TwoTextConditioner
from ldm_edu.config import TextConfig
from ldm_edu.layouts import clip, openclip
from ldm_edu.layouts.pair import convert
from ldm_edu.models.clip import TextEncoder
from ldm_edu.tokenizer import Tokenizer

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity

TOLERANCE = 1e-5
FIRST = TextConfig(600, length=20, width=16, layers=3, heads=2)
SECOND = TextConfig(600, length=20, width=24, layers=3, heads=2, activation="gelu", projection=24, pad=0)
PROMPTS = ["a red apple, 3d", "blue <|endoftext|> fish"]


def reference_tokenizer(folder: Path, config: TextConfig) -> Any:
    folder.mkdir()
    for name, text in Tokenizer(config.vocab, config.length, config.pad).files().items():
        (folder / name).write_text(text, encoding="utf-8")
    return transformers.CLIPTokenizer.from_pretrained(folder)


def loaded(config: TextConfig, cls: Any, seed: int) -> tuple[TextEncoder, Any]:
    ours, theirs = TextEncoder(config).eval(), randomised(cls(reference_text(config)), seed)
    layout = clip.TEXT if config.pad is None else openclip.TEXT
    ours.load_state_dict(convert(theirs.state_dict(), layout.pairs(config, "diffusers", theirs.state_dict())))
    return ours, theirs


class Both:
    """Our conditioner and their pipeline, with the same text encoders."""

    def __init__(self, folder: Path, *, refiner: bool) -> None:
        one, their_one = loaded(FIRST, transformers.CLIPTextModel, 1)
        two, their_two = loaded(SECOND, transformers.CLIPTextModelWithProjection, 2)
        readers = [(Tokenizer(600, 20), one), (Tokenizer(600, 20, pad=0), two)]
        numbers, context = (5, 24) if refiner else (6, 40)
        unet = replace(UNET, context_dim=context, vector_dim=24 + numbers * 256)
        common = {
            "vae": diffusers.AutoencoderKL(**reference_autoencoder(AUTOENCODER)),
            "text_encoder_2": their_two,
            "tokenizer_2": reference_tokenizer(folder / "two", SECOND),
            "unet": diffusers.UNet2DConditionModel(**reference_unet(unet) | {"addition_time_embed_dim": 256}),
            "scheduler": diffusers.EulerDiscreteScheduler(),
        }
        if refiner:
            self.ours = TwoTextConditioner(readers[1:], (64, 48), numbers="score", zeros=False)
            self.theirs = diffusers.StableDiffusionXLImg2ImgPipeline(
                text_encoder=None, tokenizer=None, requires_aesthetics_score=True, force_zeros_for_empty_prompt=False,
                **common,
            )  # fmt: skip
        else:
            self.ours = TwoTextConditioner(readers, (64, 48))
            tokenizer = reference_tokenizer(folder / "one", FIRST)
            self.theirs = diffusers.StableDiffusionXLPipeline(text_encoder=their_one, tokenizer=tokenizer, **common)

    def encode(self, prompts: list[str]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Their context and pooled projection of the prompts, then both of the blank."""
        context, blank, pooled, blank_pooled = self.theirs.encode_prompt(prompts, do_classifier_free_guidance=True)
        return context, pooled, blank, blank_pooled

    def vector(self, pooled: Tensor, numbers: Tensor) -> Tensor:
        """Their pooled projection and numbers as their U-Net joins them."""
        sizes = self.theirs.unet.add_time_proj(numbers.flatten()).reshape(len(numbers), -1)
        return torch.cat([pooled, sizes.expand(len(pooled), -1)], dim=-1)


@torch.no_grad()
def test_base(tmp_path: Path) -> None:
    both = Both(tmp_path, refiner=False)
    context, pooled, blank_context, blank_pooled = both.encode(PROMPTS)
    numbers = both.theirs._get_add_time_ids((90, 70), (3, 5), (64, 48), torch.float32, text_encoder_projection_dim=24)
    ours = both.ours(PROMPTS, (64, 48), original=(90, 70), crop=(3, 5))
    assert ours.context is not None and ours.vector is not None
    assert difference(ours.context, context) <= TOLERANCE
    assert difference(ours.vector, both.vector(pooled, numbers)) <= TOLERANCE
    blank = both.ours.blank(2, (64, 48), original=(90, 70), crop=(3, 5))
    assert blank.context is not None and blank.vector is not None
    assert torch.equal(blank.context, blank_context) and not blank_context.any()
    assert difference(blank.vector, both.vector(blank_pooled, numbers)) <= TOLERANCE


@torch.no_grad()
def test_refiner(tmp_path: Path) -> None:
    both = Both(tmp_path, refiner=True)
    context, pooled, blank_context, blank_pooled = both.encode(PROMPTS[:1])
    numbers, blank_numbers = both.theirs._get_add_time_ids(
        (64, 48), (0, 0), (64, 48), 6.0, 2.5, (64, 48), (0, 0), (64, 48), torch.float32, text_encoder_projection_dim=24
    )
    ours, blank = both.ours(PROMPTS[:1]), both.ours.blank()
    assert ours.context is not None and ours.vector is not None and blank.context is not None
    assert blank.vector is not None
    assert difference(ours.context, context) <= TOLERANCE
    assert difference(ours.vector, both.vector(pooled, numbers)) <= TOLERANCE
    assert difference(blank.context, blank_context) <= TOLERANCE
    assert difference(blank.vector, both.vector(blank_pooled, blank_numbers)) <= TOLERANCE


@torch.no_grad()
def test_the_comparison_can_fail(tmp_path: Path) -> None:
    """Padding with the end token, the last state instead of the penultimate, and other numbers are seen."""
    both = Both(tmp_path, refiner=False)
    context, pooled, _, _ = both.encode(PROMPTS[:1])
    numbers = both.theirs._get_add_time_ids((64, 48), (0, 0), (64, 48), torch.float32, text_encoder_projection_dim=24)
    wanted = both.vector(pooled, numbers)
    crop = both.ours(PROMPTS[:1], crop=(0, 1)).vector
    assert crop is not None and difference(crop, wanted) > 0.01
    both.ours.readers[1] = (Tokenizer(600, 20), both.ours.readers[1][1])
    padded = both.ours(PROMPTS[:1])
    assert padded.context is not None and difference(padded.context, context) > 0.01
    assert padded.vector is not None and difference(padded.vector, wanted) <= TOLERANCE  # its end token came before
