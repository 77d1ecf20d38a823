"""What a published config may ask for: settings that the networks here do not have are refused by name.

The weights of such a network would load, and its pictures would be wrong.
"""

from collections.abc import Mapping
from typing import Any, NoReturn

from ldm_edu.weights.errors import CheckpointError


def mults_of(widths: list[int], where: str) -> tuple[int, ...]:
    """The widths of the levels as multiples of the first."""
    if not widths or any(width % widths[0] for width in widths):
        refuse(where, "block_out_channels", widths)
    return tuple(width // widths[0] for width in widths)


def refuse_unusual(config: Mapping[str, Any], usual: Mapping[str, Any], where: str) -> None:
    """Raise CheckpointError if a field of ``config`` has another value than ``usual``; an absent field is usual."""
    for name, value in usual.items():
        if config.get(name, value) != value:
            refuse(where, name, config[name])


def refuse(where: str, name: str, value: object) -> NoReturn:
    """Raise CheckpointError for the value of a field in the config at ``where``."""
    raise CheckpointError(
        f"{where} asks for {name} = {value!r}, which the networks here do not have; take a model that "
        "`ldm-edu inspect --list` names, or one that was fine-tuned from such a model."
    )
