"""A network's ``config.json``, and its refusal where the config asks for what the networks here do not do.

A config that asks for more is refused by the name of its field: its weights would load, and the pictures would be wrong.
"""

from collections.abc import Mapping
from typing import Any, NoReturn

from ldm_edu.layouts.pair import Json
from ldm_edu.weights.errors import CheckpointError


def mults_of(widths: list[int], where: str) -> tuple[int, ...]:
    """The widths of the levels as multiples of the first."""
    if not widths or any(width % widths[0] for width in widths):
        refuse(where, "block_out_channels", widths)
    return tuple(width // widths[0] for width in widths)


def refuse_unusual(config: Mapping[str, Any], usual: Json, where: str) -> None:
    """Raise CheckpointError for the first field whose value the network here does not know."""
    for name, value in usual.items():
        if config.get(name, value) != value:
            refuse(where, name, config[name])


def refuse(where: str, name: str, value: object) -> NoReturn:
    """Raise CheckpointError: a config asks for what the networks here do not do."""
    raise CheckpointError(
        f"{where} asks for {name} = {value!r}, which the networks of ldm-edu do not do; take a model that "
        "`ldm-edu inspect --list` names, or one that was fine-tuned from such a model."
    )
