"""Adapters: what changes a model from outside. A new kind is a new file here, and one word more in `ADAPTERS`.

No adapter edits a network's file: it is attached to a model and detached again, and the model is then as it was.
"""

import math
from pathlib import Path
from typing import TYPE_CHECKING

from ldm_edu.adapters.adapter import Adapter, Attached
from ldm_edu.weights.errors import CheckpointError
from ldm_edu.weights.mapped import WeightFile, open_weights

if TYPE_CHECKING:
    from ldm_edu.model import LatentDiffusion

ADAPTERS: list[Adapter] = []

__all__ = ["ADAPTERS", "Adapter", "Attached", "attach", "kind_of_adapter"]


def kind_of_adapter(file: WeightFile) -> Adapter | None:
    """The kind of adapter that a file holds; None for a file that holds none of the kinds that are known."""
    return next((adapter for adapter in ADAPTERS if adapter.recognise(file)), None)


def attach(model: "LatentDiffusion", path: Path | str, scale: float = 1.0) -> Attached:
    """Attach the adapter in a file to a model.

    Raises
    ------
    ValueError
        if the scale is not a finite number.
    CheckpointError
        if the file is damaged, holds no adapter that is known here, or one for another model.
    """
    if not math.isfinite(scale):
        raise ValueError(f"the scale of {path} must be a finite number, 1 as it was trained, not {scale}")
    file = open_weights(Path(path))
    adapter = kind_of_adapter(file)
    if adapter is None:
        known = ", ".join(each.title for each in ADAPTERS) or "none yet"
        raise CheckpointError(f"{path} holds no adapter of a kind that is known here ({known}); check the file.")
    return adapter.attach(model, file, scale)
