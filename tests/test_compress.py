"""The four small autoencoders that differ in f: about one size, saved and loaded alike."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ldm_edu.checkpoint.io import save_tensors
from ldm_edu.datasets.backgrounds import background, composite
from ldm_edu.datasets.emoji import emoji_tensors
from ldm_edu.evaluate.psnr import psnr_score
from ldm_edu.models.autoencoder import AutoencoderKL
from ldm_edu.training.compress import CONFIGS, cuttings, load_compress


def test_they_differ_in_the_factor_and_little_in_size() -> None:
    sizes = []
    for factor, config in CONFIGS.items():
        assert config.factor == factor
        sizes.append(sum(p.numel() for p in AutoencoderKL(config).parameters()))
    assert max(sizes) < 1.4 * min(sizes)


@pytest.mark.parametrize("factor", CONFIGS)
def test_they_are_saved_and_loaded_by_their_factor(factor: int, tmp_path: Path) -> None:
    torch.manual_seed(factor)
    model = AutoencoderKL(CONFIGS[factor])
    save_tensors(tmp_path, f"f{factor}", model.state_dict(), dtype=torch.float32)
    x = torch.zeros(1, 3, 64, 64)
    latents = load_compress(factor, tmp_path).encode(x).mode
    assert latents.shape == (1, 4, 64 // factor, 64 // factor)
    torch.testing.assert_close(latents, model.encode(x).mode)


@pytest.mark.slow
def test_cuttings_are_repeated_by_their_seed() -> None:
    draw = cuttings(32)
    first, again = (draw(torch.Generator().manual_seed(5), 3) for _ in range(2))
    assert first.shape == (3, 3, 32, 32) and torch.equal(first, again)


def test_another_factor_is_refused() -> None:
    with pytest.raises(ValueError, match="f = 3"):
        load_compress(3)


def test_the_shipped_ones_lose_more_the_more_they_compress() -> None:
    held_out = emoji_tensors("concepts").rgba[::12]
    pictures = composite(held_out, background("white", len(held_out)))  # (N, 3, 64, 64)
    with torch.no_grad():
        scores = [psnr_score(_there_and_back(factor), pictures).mean for factor in CONFIGS]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > scores[-1] + 6.0


def _there_and_back(factor: int) -> Callable[[torch.Tensor], torch.Tensor]:
    model = load_compress(factor)
    return lambda x: model.decode(model.encode(x).mode)
