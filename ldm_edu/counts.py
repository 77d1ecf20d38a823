"""How many parameters a preset has, part by part, counted without allocating any of them.

>>> from ldm_edu.families import SD15
>>> counts = parameter_counts(SD15)
>>> f"{sum(counts['U-Net'].values()):,}"
'859,520,964'
"""

import torch
from torch import nn

from ldm_edu.build import build_on_meta
from ldm_edu.config import Preset, UNetPreset
from ldm_edu.families import family_of
from ldm_edu.models.clip import CLIP

Counts = dict[str, dict[str, int]]  # network -> part -> parameters
PLAIN = {"time_mlp": "time", "vector_mlp": "vector", "token": "tokens", "position": "positions"}  # names to print


def parameter_counts(preset: Preset) -> Counts:
    """The parameters of every model of ``preset``, by part, in the order in which data pass through it.

    The networks are built on the ``meta`` device: shapes without numbers, so Stable Diffusion takes no memory.
    """
    networks = build_on_meta(preset)
    counts = {part.title: _by_part(networks[part.name]) for part in family_of(preset).parts_of(preset)}
    if isinstance(preset, UNetPreset) and preset.text and preset.vision and preset.embed_dim:
        with torch.device("meta"):
            clip = _by_part(CLIP(preset.text, preset.vision, preset.embed_dim))
        counts["picture encoder"] = {"vision": clip["vision"]}
        counts["joint space"] = {part: n for part, n in clip.items() if part not in ("text", "vision")}
    return counts


def _by_part(module: nn.Module) -> dict[str, int]:
    """Parameters under each direct child of a module, under the child's name or a plainer one."""
    found: dict[str, int] = {}
    for path, parameter in module.named_parameters():
        child = path.split(".")[0]
        name = PLAIN.get(child, child)
        found[name] = found.get(name, 0) + parameter.numel()
    return found
