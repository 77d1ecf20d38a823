"""The networks that a preset asks for, with random weights or without any."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from ldm_edu.config import Preset
from ldm_edu.families import family_of


def build(preset: Preset) -> dict[str, nn.Module]:
    """The networks of ``preset`` by the names of their parts: unet, autoencoder, text, classes ...

    Raises
    ------
    ValueError
        if the preset describes no model: a U-Net that takes no vector, and classes.
    """
    return {part.name: part.layout.network(part.config(preset)) for part in family_of(preset).parts_of(preset)}


def build_on_meta(preset: Preset) -> dict[str, nn.Module]:
    """The same on the ``meta`` device: names and shapes, no numbers and no memory, until a checkpoint fills them.

    Raises
    ------
    ValueError
        if the preset, which may come from a file, describes no network.
    """
    try:
        with torch.device("meta"), _Uninitialised():
            return build(preset)
    except (RuntimeError, TypeError, ZeroDivisionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{preset.name} describes no network ({reason}); check its config") from error


class _Uninitialised(TorchFunctionMode):
    """Skips the random weights of modules that are built under it."""

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)
