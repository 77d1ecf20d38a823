"""The model families. A new family is a new file in this folder, and one word more in `FAMILIES`."""

from ldm_edu.config import Preset, UNetPreset
from ldm_edu.families import course, dit, sd1, sd2, sdxl
from ldm_edu.families.course import EMOJI, FASHION, SHAPES, TOY
from ldm_edu.families.family import Family
from ldm_edu.families.sd1 import SD15, SD15_INPAINT, SD15_PIX2PIX

FAMILIES: list[Family] = [course.FAMILY, sd1.FAMILY, sd2.FAMILY, sdxl.FAMILY, sdxl.REFINER, dit.FAMILY]

PRESETS: dict[str, Preset] = {preset.name: preset for family in FAMILIES for preset in family.presets}

__all__ = [
    "EMOJI",
    "FAMILIES",
    "FASHION",
    "PRESETS",
    "SD15",
    "SD15_INPAINT",
    "SD15_PIX2PIX",
    "SHAPES",
    "TOY",
    "family_named",
    "family_of",
    "preset_named",
    "unet_preset",
]


def family_named(name: str) -> Family:
    """A family by its name.

    Raises
    ------
    ValueError
        if there is none, with those that there are.
    """
    for family in FAMILIES:
        if family.name == name:
            return family
    raise ValueError(
        f"there is no model family {name!r}; known are {', '.join(family.name for family in FAMILIES)}. A newer "
        "ldm-edu may know it."
    )


def family_of(preset: Preset) -> Family:
    """The family of a preset; raises as `family_named`."""
    return family_named(preset.family)


def preset_named(name: str) -> Preset:
    """A preset by its name.

    Raises
    ------
    ValueError
        if there is none, with those that there are.
    """
    presets = {preset.name: preset for family in FAMILIES for preset in family.presets}
    if name not in presets:
        raise ValueError(f"there is no preset {name!r}; choose one of {', '.join(presets)}")
    return presets[name]


def unet_preset(preset: Preset) -> UNetPreset:
    """The preset itself, where its network is a U-Net with at most one text encoder.

    Raises
    ------
    ValueError
        for another preset: the training of latents and the benchmarks know only such models.
    """
    if not isinstance(preset, UNetPreset):
        known = ", ".join(name for name, each in PRESETS.items() if isinstance(each, UNetPreset))
        raise ValueError(f"{preset.name} is not a U-Net with at most one text encoder; choose one of {known}")
    return preset
