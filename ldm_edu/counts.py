"""How many parameters a preset has, part by part, counted without allocating any of them.

>>> from ldm_edu.config import SD15
>>> counts = parameter_counts(SD15)
>>> f"{sum(counts['U-Net'].values()):,}"
'859,520,964'
"""

from collections.abc import Mapping

import torch
from torch import nn

from ldm_edu.config import Preset
from ldm_edu.models.autoencoder import AutoencoderKL
from ldm_edu.models.clip import CLIP, TextEncoder
from ldm_edu.models.unet import UNet

Counts = dict[str, dict[str, int]]  # model -> part -> parameters


def parameter_counts(preset: Preset) -> Counts:
    """The parameters of every model of ``preset``, by part, in the order in which data pass through it.

    The models are built on the ``meta`` device: shapes without numbers, so Stable Diffusion takes no memory.
    """
    with torch.device("meta"):
        counts = {"U-Net": _by_part(UNet(preset.unet), {"time_mlp": "time", "vector_mlp": "vector"})}
        if preset.autoencoder is not None:
            counts["autoencoder"] = _by_part(AutoencoderKL(preset.autoencoder))
        if preset.text is not None:
            names = {"token": "tokens", "position": "positions"}
            counts["text encoder"] = _by_part(TextEncoder(preset.text), names)
            if preset.vision is not None and preset.embed_dim is not None:
                clip = _by_part(CLIP(preset.text, preset.vision, preset.embed_dim))
                counts["picture encoder"] = {"vision": clip["vision"]}
                clip_only = {part: n for part, n in clip.items() if part not in ("text", "vision")}
                counts["joint space"] = clip_only
    if preset.classes is not None and preset.unet.vector_dim is not None:
        counts["classes"] = {"table": preset.classes * preset.unet.vector_dim}
    return counts


def _by_part(module: nn.Module, names: Mapping[str, str] | None = None) -> dict[str, int]:
    """Parameters under each direct child of a module, under the child's name or the one that ``names`` gives it."""
    found: dict[str, int] = {}
    for path, parameter in module.named_parameters():
        child = path.split(".")[0]
        name = (names or {}).get(child, child)
        found[name] = found.get(name, 0) + parameter.numel()
    return found
