"""The model families. A new family is a new file in this folder, and one word more in `FAMILIES`."""

from ldm_edu.config import Preset
from ldm_edu.families import course, dit, sd1
from ldm_edu.families.course import EMOJI, FASHION, SHAPES, TOY
from ldm_edu.families.family import Family
from ldm_edu.families.sd1 import SD15, SD15_INPAINT, SD15_PIX2PIX

FAMILIES: list[Family] = [course.FAMILY, sd1.FAMILY, dit.FAMILY]

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
