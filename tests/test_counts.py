"""The counts that the literature gives, and that a preset's parts add up to it."""

import pytest
import torch
from torch import nn

from ldm_edu.build import build
from ldm_edu.config import Preset, UNetPreset
from ldm_edu.counts import parameter_counts
from ldm_edu.families import PRESETS, SD15, TOY
from ldm_edu.models.clip import CLIP


def test_stable_diffusion_to_the_last_parameter() -> None:
    counts = parameter_counts(SD15)
    assert counts["U-Net"] == {
        "conv_in": 11_840,
        "time": 2_050_560,
        "down": 249_612_480,
        "mid": 97_038_080,
        "up": 510_795_840,
        "norm_out": 640,
        "conv_out": 11_524,
    }
    assert sum(counts["U-Net"].values()) == 859_520_964
    assert counts["autoencoder"] == {"encoder": 34_163_592, "decoder": 49_490_179, "quant": 72, "post_quant": 20}
    assert sum(counts["autoencoder"].values()) == 83_653_863
    assert sum(counts["text encoder"].values()) == 123_060_480


@pytest.mark.slow
@pytest.mark.parametrize("preset", [p for p in PRESETS.values() if p.name != "sd15"], ids=lambda p: p.name)
def test_the_parts_add_up_to_the_models(preset: Preset) -> None:
    counts = parameter_counts(preset)
    total = sum(sum(parts.values()) for parts in counts.values())
    with torch.device("meta"):
        models = list(build(preset).values())
        if isinstance(preset, UNetPreset) and preset.text and preset.vision and preset.embed_dim:
            whole = CLIP(preset.text, preset.vision, preset.embed_dim)
            models += [whole.vision, whole.text_proj, whole.vision_proj, nn.ParameterList([whole.logit_scale])]
    assert total == sum(p.numel() for model in models for p in model.parameters())


def test_counting_allocates_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    devices = set()
    keep = nn.Module.register_parameter

    def spy(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if param is not None:
            devices.add(param.device.type)
        keep(self, name, param)

    monkeypatch.setattr(nn.Module, "register_parameter", spy)
    parameter_counts(TOY)
    assert devices == {"meta"}
