"""The networks that a preset asks for, with random weights or without any."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from ldm_edu.conditioning import ClassConditioner
from ldm_edu.config import Preset
from ldm_edu.models.autoencoder import AutoencoderKL
from ldm_edu.models.clip import TextEncoder
from ldm_edu.models.unet import UNet


def build(preset: Preset) -> dict[str, Any]:
    """The networks of ``preset`` by the names of their files: unet, autoencoder, text, classes.

    Raises
    ------
    ValueError
        if the preset is no model: it has classes and a U-Net that takes no vector.
    """
    parts: dict[str, nn.Module] = {"unet": UNet(preset.unet)}
    if preset.autoencoder is not None:
        parts["autoencoder"] = AutoencoderKL(preset.autoencoder)
    if preset.text is not None:
        parts["text"] = TextEncoder(preset.text)
    if preset.classes is not None:
        if preset.unet.vector_dim is None:
            raise ValueError(f"{preset.name} has classes={preset.classes} but its U-Net has no vector_dim; set both")
        parts["classes"] = ClassConditioner(preset.classes, preset.unet.vector_dim)
    return parts


def build_on_meta(preset: Preset) -> dict[str, Any]:
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
