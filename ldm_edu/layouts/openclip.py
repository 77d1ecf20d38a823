"""OpenCLIP's text towers as Stable Diffusion 2 (ViT-H-14) and SDXL (ViT-bigG-14) publish them (Cherti et al. 2023).

The networks are CLIP's with another activation and padding. In the one file they keep OpenCLIP's names: the rows of
queries, keys and values in one tensor, the projection transposed. In a diffusers folder they have Hugging Face's.

OpenCLIP trained all layers, and Stable Diffusion 2 reads the state before the last one through the final norm: a tower
of one layer fewer, without a projection, gives the same. The folder holds just that tower, `H`; the one file holds all
24 layers, of which `unread` names what no picture needs.
"""

from collections.abc import Iterable
from dataclasses import replace

from ldm_edu.config import TextConfig
from ldm_edu.layouts import clip
from ldm_edu.layouts.pair import Format, Json, Layout, Pair
from ldm_edu.models.clip import TextEncoder

H = TextConfig(width=1024, layers=23, heads=16, activation="gelu", pad=0)
BIGG = TextConfig(width=1280, layers=32, heads=20, activation="gelu", projection=1280, pad=0)


def pairs(config: TextConfig, format: Format = "diffusers", names: Iterable[str] = ()) -> list[Pair]:
    """The pairs of a text tower's tensors."""
    return list(clip.openai_text(config)) if format == "original" else clip.text_pairs(config, format, names)


def read(config: Json, where: str) -> TextConfig:
    """The tower of a ``config.json``, which is silent about the padding: OpenCLIP's is token 0."""
    return replace(clip.read_text(config, where), pad=0)


def unread(config: TextConfig, name: str) -> bool:
    """Whether a tensor of the one file is one that drawing does not need.

    >>> [unread(H, name) for name in ("logit_scale", "transformer.resblocks.23.ln_1.bias", "ln_final.bias")]
    [True, True, False]
    """
    return (
        name in ("logit_scale", "attn_mask")
        or name.endswith("position_ids")
        or name.startswith(f"transformer.resblocks.{config.layers}.")
        or (config.projection is None and name in ("text_projection", "text_projection.weight"))
    )


TEXT = Layout(TextEncoder, pairs, read, clip.write_text)
