"""A file of weights, opened but not read: names, types and shapes at once, numbers when they are asked for.

The file is mapped into memory. A tensor that is used as it is stored takes no memory of its own: the system reads its
pages when they are touched, and may drop them again. A tensor that is converted is converted alone, and the pages it
came from are given back. So the most that loading takes is what was loaded, and one tensor.

Two kinds of file are read. ``.safetensors``: a length, a header in JSON, the numbers. ``.ckpt`` of PyTorch: a zip with
a pickle in it, which is read by PyTorch's reader of weights alone, so that no code of the file is ever run (see
`ldm_edu.weights.untrusted.load_pickle`).
"""

import json
import math
import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from ldm_edu.weights.errors import PICKLES, CheckpointError, diagnosis, printable, refuse_pickle
from ldm_edu.weights.untrusted import (
    MAX_ENTRIES,
    load_pickle,
    refuse_large_header,
    refuse_stand_in,
    tensors_in,
)

_TYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip

BLOCK_BYTES = 16 * 2**20  # converted at once


@dataclass(frozen=True)
class Stored:
    """A tensor in a file: what it is, and where its first number lies."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    offset: int  # in bytes from the start of the file
    stride: tuple[int, ...] | None = None  # in numbers; None: one row after another

    @property
    def count(self) -> int:
        """The number of its numbers."""
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """How many bytes lie from its first number to its last, both included."""
        numbers = self.count
        if self.stride is not None and numbers:
            numbers = 1 + sum((side - 1) * step for side, step in zip(self.shape, self.stride, strict=True))
        return numbers * self.dtype.itemsize


class WeightFile:
    """The tensors of one file, by name. Make it by `open_weights`.

    ``tensors`` says what there is; `read` makes a tensor of it. ``metadata`` are a safetensors file's own notes.

    Raises
    ------
    CheckpointError
        if there are more tensors than any model has, or a name holds signs that cannot be printed.
    """

    def __init__(self, path: Path, tensors: Mapping[str, Stored], metadata: Mapping[str, str]) -> None:
        if len(tensors) > MAX_ENTRIES:
            raise CheckpointError(f"{path} holds {len(tensors):,} tensors, more than any model. Take another file.")
        if odd := [name for name in tensors if not name.isprintable()]:  # a terminal would obey what is in it
            raise CheckpointError(
                f"{path} names a tensor {printable(odd[0])}, as no network does: it is damaged. Copy it again."
            )
        self.path, self.tensors, self.metadata = path, tensors, metadata
        self._map: mmap.mmap | None = None
        self._scratch = torch.empty(0, dtype=torch.uint8)

    def read(self, name: str, *, dtype: torch.dtype | None = None, channels_last: bool = False) -> Tensor:
        """One tensor.

        Parameters
        ----------
        dtype
            its type, if it holds floating numbers; None: as it is stored.
        channels_last
            whether a convolution's weight (O, I, h, w) is laid out with its channels last, as convolutions like it.

        Returns
        -------
        a view of the file where nothing is to be changed, else a copy. Writing to a view does not change the file.
        """
        stored = self.tensors[name]
        if not stored.dtype.is_floating_point or dtype is None:
            dtype = stored.dtype
        turned = channels_last and len(stored.shape) == 4 and stored.shape[2:] != (1, 1)
        aligned = stored.offset % stored.dtype.itemsize == 0  # the processor wants numbers at multiples of their size
        if aligned and dtype == stored.dtype and not turned and stored.stride is None:
            return self._bytes(stored.offset, stored.size).view(dtype).view(stored.shape)
        layout = torch.channels_last if turned else torch.contiguous_format
        copy = torch.empty(stored.shape, dtype=dtype, memory_format=layout)
        if stored.stride is not None:
            flat = self._bytes(stored.offset, stored.size).clone().view(stored.dtype)
            copy.copy_(flat.as_strided(stored.shape, stored.stride))
            self._give_back(stored.offset, stored.size)
        else:
            self._copy_rows(stored, copy)
        return copy

    def _copy_rows(self, stored: Stored, copy: Tensor) -> None:
        """Copy a tensor a few rows at a time, and give the pages back that they came from."""
        rows = stored.shape[0] if stored.shape else 1
        into = copy if stored.shape else copy.view(1)
        if stored.size == 0:
            return
        row_bytes = stored.size // rows
        step = max(1, BLOCK_BYTES // row_bytes)
        for first in range(0, rows, step):
            count = min(step, rows - first)
            offset = stored.offset + first * row_bytes
            raw = self._bytes(offset, count * row_bytes)
            flat = (raw if offset % stored.dtype.itemsize == 0 else self._moved(raw)).view(stored.dtype)
            into[first : first + count].copy_(flat.view(count, *stored.shape[1:]))
            self._give_back(offset, count * row_bytes)

    def _bytes(self, offset: int, size: int) -> Tensor:
        """A piece of the file."""
        if self._map is None:
            with open(self.path, "rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        if size == 0:
            return torch.empty(0, dtype=torch.uint8)
        return torch.frombuffer(self._map, dtype=torch.uint8, count=size, offset=offset)

    def _moved(self, raw: Tensor) -> Tensor:
        """The same bytes at a place of our own, always the same: many short-lived ones would leave holes in memory."""
        if self._scratch.numel() < raw.numel():
            self._scratch = torch.empty(max(BLOCK_BYTES, raw.numel()), dtype=torch.uint8)
        return self._scratch[: raw.numel()].copy_(raw)

    def _give_back(self, offset: int, size: int) -> None:
        """Let go of the whole pages in a piece of the file: what is read there again comes from the disk."""
        if self._map is None or not hasattr(mmap, "MADV_DONTNEED"):
            return
        first, last = -(-offset // mmap.PAGESIZE), (offset + size) // mmap.PAGESIZE
        if last > first:
            self._map.madvise(mmap.MADV_DONTNEED, first * mmap.PAGESIZE, (last - first) * mmap.PAGESIZE)


def open_weights(path: Path) -> WeightFile:
    """Open a ``.safetensors`` file, or a ``.ckpt`` of PyTorch, and read what it holds but no numbers.

    Raises
    ------
    CheckpointError
        if there is no such file, it is damaged or cut short, or it holds more than weights.
    """
    if not path.exists():
        raise CheckpointError(f"there is no file {path}. Check the path.")
    if path.suffix.lower() in PICKLES:
        return _open_pickle(path)
    refuse_stand_in(path)
    refuse_pickle(path)  # one under another name has something to hide
    refuse_large_header(path)
    _refuse_odd_path(path)
    try:
        with safetensors.safe_open(path, framework="pt"):  # checks lengths, types, and that nothing overlaps
            pass
        tensors, metadata = _header(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read: {diagnosis(path, error)}") from error
    return WeightFile(path, tensors, metadata)


def _refuse_odd_path(path: Path) -> None:
    """The library opens files by names in UTF-8 alone."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise CheckpointError(f"{printable(path)} is not a path in UTF-8; rename the file or its folder.") from error


def _header(path: Path) -> tuple[dict[str, Stored], dict[str, str]]:
    """What a safetensors file says of itself, after the library has found that it is true."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header: dict[str, Any] = json.loads(file.read(length))
    metadata = header.pop("__metadata__", None) or {}
    tensors = {}
    for name, entry in header.items():
        dtype = _TYPES.get(entry["dtype"])
        if dtype is None:
            raise CheckpointError(
                f"{path} holds {printable(name)} as {entry['dtype']}, a type that no network here runs in. Take the "
                "file of the same model in float32, float16 or bfloat16."
            )
        tensors[name] = Stored(tuple(entry["shape"]), dtype, 8 + length + entry["data_offsets"][0])
    return tensors, metadata


def _open_pickle(path: Path) -> WeightFile:
    """The tensors of a file of ``torch.save``; those of a network may stand a few levels down, as in ``state_dict``."""
    tensors = tensors_in(load_pickle(path))
    if not tensors:
        raise CheckpointError(f"{path} holds no weights: it is no checkpoint of a network. Check the path.")
    return WeightFile(path, {name: _stored(path, name, tensor) for name, tensor in tensors.items()}, {})


def _stored(path: Path, name: str, tensor: Tensor) -> Stored:
    """Where a tensor of a pickle lies: PyTorch notes it on tensors that it loads without their numbers."""
    plain = tensor.layout == torch.strided and not tensor.is_quantized
    start = getattr(tensor.untyped_storage(), "_checkpoint_offset", None) if plain else None
    if start is None:
        raise CheckpointError(
            f"{path} holds {printable(name)} as a sparse, quantised or empty tensor, which no network here has. Take "
            "the .safetensors file of the same model."
        )
    offset = start + tensor.storage_offset() * tensor.dtype.itemsize
    stride = None if tensor.is_contiguous() else tuple(tensor.stride())
    stored = Stored(tuple(tensor.shape), tensor.dtype, offset, stride)
    if offset + stored.size > path.stat().st_size:
        raise CheckpointError(f"{path} is damaged: {printable(name)} lies beyond its end. Copy or download it again.")
    return stored
