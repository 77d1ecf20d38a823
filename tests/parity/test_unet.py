"""The U-Net's output against the reference class's, on the same random weights, in both directions."""

import dataclasses
from typing import Any

import pytest
import torch
from parity.reference import difference, norm_epsilons, randomised, reference_unet
from torch import Tensor

from ldm_edu.condition import Conditioning
from ldm_edu.config import UNetConfig
from ldm_edu.layouts.pair import convert, convert_back
from ldm_edu.layouts.unet import unet_pairs
from ldm_edu.models.unet import UNet

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.parity

TOLERANCE = 1e-5
SMALL = UNetConfig(channels=16, mults=(1, 2), blocks=1, depth=(1, 1), context_dim=24, heads=2, groups=4)
CONFIGS = {
    "small": {},
    "as sd15": {"mults": (1, 2, 4, 4), "blocks": 2, "depth": (1, 1, 1, 0)},
    "three blocks, four heads": {"blocks": 3, "heads": 4},
    "narrow heads, linear projections": {"heads": None, "head_dim": 8, "linear_proj": True},
    "attention at the lowest level only": {"depth": (0, 1)},
    "attention in the middle only": {"depth": (0, 0)},
    "deeper and deeper": {"mults": (1, 2, 2), "depth": (0, 1, 2), "mid_depth": 2, "linear_proj": True},
    "narrower below": {"mults": (1, 3, 2), "depth": (1, 0, 1)},
    "nine channels in": {"in_channels": 9, "beside": "mask"},
    "a vector": {"vector_dim": 12 + 3 * 8},
}


def config_named(name: str) -> UNetConfig:
    changes: dict[str, Any] = CONFIGS[name]
    return dataclasses.replace(SMALL, **changes)


def inputs(config: UNetConfig) -> tuple[Tensor, Tensor, Tensor]:
    side = 2 * config.factor
    x = torch.randn(2, config.in_channels, side, side + config.factor)
    return x, torch.tensor([3.0, 987.0]), torch.randn(2, 5, config.context_dim or 1)


def outputs(ours: UNet, theirs: Any, config: UNetConfig) -> tuple[Tensor, Tensor]:
    x, t, context = inputs(config)
    vector, extra = None, {}
    if config.vector_dim:  # theirs makes it of a text's vector (12) and three numbers, each as 8 sinusoids
        numbers, text = torch.tensor([[64.0, 0.0, 3.0], [32.0, 7.0, 1.0]]), torch.randn(2, 12)
        vector = torch.cat([text, theirs.add_time_proj(numbers.flatten()).view(2, 24)], dim=1)
        extra = {"added_cond_kwargs": {"text_embeds": text, "time_ids": numbers}}
    with torch.no_grad():
        return ours(x, t, Conditioning(context, vector)), theirs(x, t, context, **extra).sample


@pytest.mark.parametrize("name", CONFIGS)
def test_their_weights_in_our_network(name: str) -> None:
    config = config_named(name)
    theirs = randomised(diffusers.UNet2DConditionModel(**reference_unet(config)))
    ours = UNet(config).eval()
    ours.load_state_dict(convert(theirs.state_dict(), unet_pairs(config)))
    a, b = outputs(ours, theirs, config)
    assert difference(a, b) <= TOLERANCE


@pytest.mark.parametrize("name", CONFIGS)
def test_our_weights_in_their_network(name: str) -> None:
    config = config_named(name)
    ours = randomised(UNet(config), seed=1)
    theirs = diffusers.UNet2DConditionModel(**reference_unet(config)).eval()
    theirs.load_state_dict(convert_back(ours.state_dict(), unet_pairs(config)))
    a, b = outputs(ours, theirs, config)
    assert difference(a, b) <= TOLERANCE


@pytest.mark.parametrize("name", ["as sd15", "a vector"])
def test_states_computed_beforehand(name: str) -> None:
    """The reference's output again, when keys, values and time embeddings are handed in."""
    config = config_named(name)
    theirs = randomised(diffusers.UNet2DConditionModel(**reference_unet(config)))
    ours = UNet(config).eval()
    ours.load_state_dict(convert(theirs.state_dict(), unet_pairs(config)))
    x, t, context = inputs(config)
    vector = torch.randn(2, config.vector_dim) if config.vector_dim else None
    with torch.no_grad():
        cond = Conditioning(context, vector)
        whole = ours(x, t, cond)
        ready = torch.cat([ours.step(x, prepared)[i : i + 1] for i, prepared in enumerate(ours.prepare(cond, t))])
    assert difference(ready, whole) <= TOLERANCE


def test_norms_add_the_same_to_the_variance() -> None:
    config = config_named("as sd15")
    wanted = norm_epsilons(diffusers.UNet2DConditionModel(**reference_unet(config)))
    found = norm_epsilons(UNet(config))
    assert {p.theirs: found[p.ours] for p in unet_pairs(config) if p.ours in found} == wanted


def test_the_comparison_can_fail() -> None:
    """A single wrong weight is seen: one of the last block, one of the text's keys, one of the time's map."""
    config = config_named("as sd15")
    theirs = randomised(diffusers.UNet2DConditionModel(**reference_unet(config)))
    for name in (
        "conv_out.weight",
        "up.0.stages.0.res.time_proj.bias",
        "mid.0.transformer.layers.0.cross_attention.to_k.weight",
    ):
        ours = UNet(config).eval()
        ours.load_state_dict(convert(theirs.state_dict(), unet_pairs(config)))
        with torch.no_grad():
            ours.get_parameter(name).view(-1)[0] += 0.1
        a, b = outputs(ours, theirs, config)
        assert difference(a, b) > TOLERANCE, name
