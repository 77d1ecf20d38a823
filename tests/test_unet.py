"""What a U-Net refuses: conditions that it lacks or cannot read, and widths that its heads do not divide."""

import dataclasses

import pytest
import torch

from ldm_edu.condition import Conditioning
from ldm_edu.config import UNetConfig
from ldm_edu.families import FASHION, TOY
from ldm_edu.models.unet import UNet

X, T, CONTEXT = torch.randn(1, 4, 8, 8), torch.tensor([500]), torch.randn(1, 16, 32)


def test_a_condition_that_is_a_tensor_or_missing() -> None:
    with pytest.raises(ValueError, match="expected a Conditioning, not Tensor"):
        UNet(TOY.unet)(X, T, CONTEXT)
    with pytest.raises(ValueError, match="reads a context"):
        UNet(TOY.unet)(X, T)


def test_a_vector_that_it_cannot_read() -> None:
    with pytest.raises(ValueError, match="without vector_dim"):
        UNet(TOY.unet)(X, T, Conditioning(CONTEXT, torch.zeros(1, 16)))


def test_a_context_that_it_cannot_read() -> None:
    assert FASHION.unet.vector_dim == 16
    with pytest.raises(ValueError, match="without context_dim"):
        UNet(FASHION.unet)(torch.randn(1, 1, 28, 28), T, Conditioning(CONTEXT, torch.zeros(1, 16)))


def test_the_first_level_is_as_wide_as_the_first_convolution() -> None:
    with pytest.raises(ValueError, match=r"mults=\(2, 4\) must begin with 1.*for levels of \[32, 64\] channels"):
        UNetConfig(channels=16, mults=(2, 4), depth=(0, 1), groups=4)
    assert UNet(UNetConfig(channels=32, mults=(1, 2), depth=(0, 1), groups=4))


def test_heads_divide_the_widths_that_attend() -> None:
    for wrong in ({"heads": 3}, {"heads": None, "head_dim": 48}, {"heads": None, "head_dim": 256}):
        with pytest.raises(ValueError, match=r"head(s|_dim)=\d+ does not divide the level widths"):
            dataclasses.replace(TOY.unet, **wrong)
    narrow = UNetConfig(channels=24, mults=(1, 2), blocks=1, depth=(0, 1), heads=16, groups=8, context_dim=None)
    assert UNet(narrow).config.heads == 16  # 24 has no heads: there is no attention at that level
