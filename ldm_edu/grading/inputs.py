"""What happens to an answer's inputs: copies to call it on, whether it changed them, which gradients reach them."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor


def copied(value: Any) -> Any:
    """A copy, down to the tensors in lists and dictionaries; gradients pass from a copy to its original."""
    if isinstance(value, Tensor):
        return value.clone()
    if type(value) in (list, tuple):
        return type(value)(copied(part) for part in value)
    if type(value) is dict:
        return {key: copied(part) for key, part in value.items()}
    return value


def same(one: Any, other: Any) -> bool:
    """Whether two inputs hold the same, number by number; NaN equals NaN."""
    if isinstance(one, Tensor):
        alike = isinstance(other, Tensor) and (one.shape, one.dtype) == (other.shape, other.dtype)
        return alike and torch.equal(one.detach().nan_to_num(), other.detach().nan_to_num())
    if type(one) in (list, tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    if type(one) is dict:
        return type(other) is dict and list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    return one is other or bool(one == other)


def gradients(value: Any, args: tuple[Any, ...]) -> tuple[Tensor | None, ...]:
    """How an answer's ``value`` reacts to each tensor of ``args`` that asks for a gradient; None: not at all.

    Every number of the value gets another weight in the sum that is differentiated, so that no two of them can stand
    for each other. A network handed in counts with the weights that it closes over.
    """
    leaves = [part for part in _tensors(args) if part.requires_grad]
    outputs = [part for part in _tensors(value) if part.requires_grad]
    if not leaves or not outputs:
        return (None,) * len(leaves)
    sums = [(part * (1 + torch.arange(part.numel()).sin().view(part.shape))).sum() for part in outputs]
    return torch.autograd.grad(torch.stack(sums).sum(), leaves, allow_unused=True)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)
    else:
        for cell in getattr(value, "__closure__", None) or ():
            if isinstance(cell.cell_contents, Tensor):
                yield cell.cell_contents
