"""One safetensors file, written whole."""

from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

Tensors = dict[str, Tensor]


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
