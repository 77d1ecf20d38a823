"""One safetensors file, read or written whole."""

from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ldm_edu.weights.errors import CheckpointError, diagnosis, refuse_pickle

Tensors = dict[str, Tensor]


def read_file(path: Path, *, dtype: torch.dtype | None = None) -> Tensors:
    """The tensors of one safetensors file; floating ones as ``dtype``, or as they are stored.

    Raises
    ------
    CheckpointError
        if it is a pickle, is cut short, or is no safetensors file.
    """
    refuse_pickle(path)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read: {diagnosis(path, error)}") from error
    if dtype is None:
        return tensors
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def save_file(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write one safetensors file from tensors that may be views of other files; only copies of one tensor are copied.

    To be called by `ldm_edu.files.atomic_write_all`, which makes the library's errors the system's.
    """
    own: dict[str, Tensor] = {}
    places: set[tuple[int, torch.Size]] = set()
    for name, tensor in tensors.items():
        place = tensor.data_ptr(), tensor.shape
        own[name] = tensor.clone() if place in places else tensor  # safetensors has no two names for one tensor
        places.add(place)
    safetensors.torch.save_file(own, path, metadata={"format": "pt", **(metadata or {})})
