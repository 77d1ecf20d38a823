"""Stable Diffusion 2 and SDXL at full size, without a number in memory: counts, and how their files are told apart."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ldm_edu.build import build_on_meta
from ldm_edu.checkpoint.fill import pairs_of
from ldm_edu.config import Preset, Sampling, ScheduleConfig, UNetConfig
from ldm_edu.families import FAMILIES, family_of, sd2, sdxl
from ldm_edu.families.sd2 import NORM, SD2_DEPTH, SD2_INPAINT, SD21, SD21_BASE
from ldm_edu.families.sdxl_presets import COSXL, PLAYGROUND25, SDXL, SDXL_INPAINT, SDXL_PIX2PIX, SDXL_REFINER
from ldm_edu.layouts.pair import convert, to_theirs
from ldm_edu.models.unet import UNet
from ldm_edu.weights.errors import CheckpointError
from ldm_edu.weights.mapped import Stored, WeightFile

CLIP_L, BIGG, H, VAE = 123_060_480, 694_659_840, 340_387_840, 83_653_863


class ShapesOnly(WeightFile):
    """A file of which only the given numbers can be read."""

    def __init__(self, shapes: Mapping[str, Any], numbers: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
        tensors = {name: Stored(tuple(shape), torch.float16, 0) for name, shape in shapes.items()}
        tensors |= {name: Stored(tuple(each.shape), torch.float32, 0) for name, each in numbers.items()}
        super().__init__(Path("model.safetensors"), tensors, metadata)
        self.numbers = numbers

    def read(self, name: str, **_: Any) -> Tensor:
        return self.numbers[name]


@cache
def unet_names(config: UNetConfig) -> dict[str, Any]:
    """The names and shapes by which a file's U-Net is recognised, of a thin network with the same layers."""
    thin = replace(config, channels=32, vector_dim=config.vector_dim, heads=None, head_dim=32)
    with torch.device("meta"):
        unet = UNet(thin)
    preset = replace(SD21, unet=thin)
    pairs = pairs_of(family_of(preset).parts[0], preset, "original")
    named = to_theirs(unet.state_dict(), pairs)
    return {f"model.diffusion_model.{name}": tensor.shape for name, tensor in named}


def file_of(config: UNetConfig, numbers: Mapping[str, Tensor] | None = None, **metadata: str) -> ShapesOnly:
    return ShapesOnly(unet_names(config), numbers or {}, metadata)


def recognised(file: WeightFile) -> Preset:
    found = [preset for family in FAMILIES if (preset := family.recognise(file)) is not None]
    assert len(found) == 1
    return found[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "preset, tensors, unet, rest",
    [
        (SD21, 686, 865_910_724, H + VAE),
        (SD2_INPAINT, 686, 865_925_124, H + VAE),
        (SD2_DEPTH, 686, 865_913_604, H + VAE),
        (SDXL, 1680, 2_567_463_684, CLIP_L + BIGG + VAE),
        (SDXL_INPAINT, 1680, 2_567_478_084, CLIP_L + BIGG + VAE),
        (SDXL_PIX2PIX, 1680, 2_567_475_204, CLIP_L + BIGG + VAE),
        (SDXL_REFINER, 1220, 2_259_526_660, BIGG + VAE),
    ],
    ids=lambda value: value.name if isinstance(value, Preset) else None,
)
def test_published_models(preset: Preset, tensors: int, unet: int, rest: int) -> None:
    networks: Mapping[str, nn.Module] = build_on_meta(preset)
    counts = {name: sum(p.numel() for p in network.parameters()) for name, network in networks.items()}
    assert counts["unet"] == unet and sum(counts.values()) == unet + rest
    shapes: dict[str, Any] = {}
    for part in family_of(preset).parts_of(preset):
        ours = networks[part.name].state_dict()
        for format in ("diffusers", "original"):
            pairs = pairs_of(part, preset, format)  # type: ignore[arg-type]
            theirs = dict(to_theirs(ours, pairs))
            assert {n: t.shape for n, t in convert(theirs, pairs).items()} == {n: t.shape for n, t in ours.items()}
            if part.name == "unet":
                assert len(theirs) == tensors
        shapes |= {f"{part.prefix}{name}": tensor.shape for name, tensor in theirs.items()}
    spread = {NORM: torch.linspace(-0.5, 0.5, 320)} if NORM in shapes else {}
    assert recognised(ShapesOnly(shapes, spread, {})) == preset


def test_eps_or_v_of_stable_diffusion_2_is_told_or_assumed_and_said() -> None:
    wide, narrow = torch.linspace(-0.5, 0.5, 320), torch.linspace(-0.1, 0.1, 320)
    for numbers, metadata, preset, why in (
        ({NORM: wide}, {}, SD21, "spread by 0.290, above 0.09"),
        ({NORM: narrow}, {}, SD21_BASE, "spread by 0.058, at most 0.09"),
        ({NORM: narrow}, {"modelspec.prediction_type": "v"}, SD21, "its header says so"),
        ({NORM: wide}, {"modelspec.prediction_type": "epsilon"}, SD21_BASE, "its header says so"),
    ):
        file = file_of(SD21.unet, numbers, **metadata)
        assert recognised(file) == preset
        (note,) = sd2.FAMILY.notes(file)
        assert note.startswith(f"taken to predict {preset.prediction}: ") and why in note and "--prediction" in note


@pytest.mark.parametrize(
    "numbers, metadata, prediction, zero_snr",
    [
        ({}, {}, "eps", False),
        ({"v_pred": torch.zeros(0)}, {}, "v", False),
        ({"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}, {}, "v", True),
        ({}, {"modelspec.prediction_type": "v"}, "v", False),
    ],
)
def test_markers_of_sdxl(numbers: dict[str, Tensor], metadata: dict[str, str], prediction: str, zero_snr: bool) -> None:
    file = file_of(SDXL.unet, numbers, **metadata)
    found = recognised(file)
    assert found == replace(
        SDXL,
        prediction=prediction,  # type: ignore[arg-type]
        schedule=ScheduleConfig(rescale_betas_zero_snr=zero_snr),
    )
    assert sdxl.FAMILY.notes(file)[0].startswith(f"taken to predict {prediction}: ")
    written = sdxl.FAMILY.marks(found)
    assert recognised(file_of(SDXL.unet, written)) == found


def test_edm_models_are_told_by_their_keys() -> None:
    playground = file_of(SDXL.unet, sdxl.FAMILY.marks(PLAYGROUND25))
    assert recognised(playground) == PLAYGROUND25 and playground.tensors["edm_std"].shape == (1, 4, 1, 1)
    other = replace(COSXL, schedule=replace(COSXL.schedule, sigma_max=150.0))
    assert recognised(file_of(SDXL.unet, sdxl.FAMILY.marks(other))) == other
    assert PLAYGROUND25.defaults == Sampling(50, 3.0, "dpmpp_2m", "linspace")


@pytest.mark.parametrize(
    "config, name",
    [
        (replace(SDXL.unet, depth=(0, 2, 4), mid_depth=4), "SSD-1B"),
        (replace(SDXL.unet, depth=(0, 1, 2), mid_depth=2), "Segmind-Vega"),
        (replace(SDXL.unet, depth=(0, 2, 5), mid_depth=5, blocks=1), "KOALA-700M"),
        (replace(SDXL.unet, depth=(0, 2, 6), mid_depth=6, blocks=1), "KOALA-1B"),
        (replace(SD21.unet, in_channels=7, beside="low_res"), "x4 upscaler"),
        (replace(SD21.unet, vector_dim=2048), "Stable unCLIP"),
    ],
)
def test_relatives_are_refused_by_name(config: UNetConfig, name: str) -> None:
    with pytest.raises(CheckpointError, match=name):
        recognised(file_of(config))
