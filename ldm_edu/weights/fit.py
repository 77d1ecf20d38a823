"""Whether tensors are those of a network, and finite; and how they become its weights."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ldm_edu.weights.errors import CheckpointError, listed


def load_into(module: nn.Module, tensors: Mapping[str, Tensor], what: str) -> None:
    """Make ``tensors`` the weights of a module, each and every one; those of ``meta`` become real.

    Parameters
    ----------
    what
        what the tensors are, for the message: "the unet of data/checkpoints/emoji".

    Raises
    ------
    CheckpointError
        if one is missing, unknown, of another shape, no floating number, or not finite; the module is unchanged then.
    """
    check_fit(module, tensors, what)
    refuse_nan(tensors, what)
    on_meta = any(
        tensor.is_meta for tensor in module.state_dict().values()
    )  # no memory to copy to: they take its place
    module.load_state_dict(dict(tensors), strict=True, assign=on_meta)


def check_fit(module: nn.Module, tensors: Mapping[str, Any], what: str) -> None:
    """Whether ``tensors``, or what is known of their ``shape`` and ``dtype``, are those of a module.

    Raises
    ------
    CheckpointError
        if one is missing, unknown, of another shape, or no floating number.
    """
    wanted = module.state_dict()
    remedy = (
        "They were saved with another preset, or for another part: check config.json, or choose another checkpoint."
    )
    if missing := sorted(wanted.keys() - tensors.keys()):
        raise CheckpointError(f"{what}: {len(missing)} of {len(wanted)} tensors missing: {listed(missing)}. {remedy}")
    if unknown := sorted(tensors.keys() - wanted.keys()):
        raise CheckpointError(f"{what}: {len(unknown)} tensors not of this model: {listed(unknown)}. {remedy}")
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape:
            shapes = f"{tuple(tensor.shape)}, the model needs {tuple(wanted[name].shape)}"
            raise CheckpointError(f"{what}: {name} has shape {shapes}. {remedy}")
        if tensor.dtype.is_floating_point != wanted[name].is_floating_point():
            raise CheckpointError(f"{what}: {name} holds {tensor.dtype}, not {wanted[name].dtype}. {remedy}")


def refuse_nan(tensors: Mapping[str, Tensor], what: str) -> None:
    """Refuse weights that are no finite numbers.

    Raises
    ------
    CheckpointError
        naming them.
    """
    if broken := [name for name, tensor in tensors.items() if not _finite(tensor)]:
        raise CheckpointError(
            f"{what}: NaN or infinite weights in {listed(broken)}. Nothing can be drawn with them; the training that "
            "wrote them had diverged: use an earlier checkpoint, or lower the learning rate."
        )


def _finite(tensor: Tensor) -> bool:
    """Whether all numbers are finite, told by the least and the largest: that takes no memory."""
    if tensor.numel() == 0 or not tensor.is_floating_point():
        return True
    if tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        tensor = tensor.permute(0, 2, 3, 1)  # as it lies in memory: otherwise a copy would be made
    return bool(torch.stack(tensor.aminmax()).isfinite().all())
