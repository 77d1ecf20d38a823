"""Are two answers the same, and if not, where do they differ: tolerances, never matched random numbers."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

SHOWN = 4  # numbers of a tensor in a message


def difference(got: Any, wanted: Any, rtol: float) -> str | None:
    """What is wrong with ``got``, in words, or None where it equals ``wanted`` up to ``rtol`` of its largest value.

    Tensors that differ are shown on lines of their own.

    Numbers, NumPy arrays and tensors of any type are compared as numbers; sequences and mappings part by part.
    """
    if isinstance(wanted, str):
        same = isinstance(got, str) and got.strip().casefold() == wanted.casefold()
        return None if same else f"expected another word than {got!r}"
    if isinstance(wanted, Mapping):
        return _mappings(got, wanted, rtol)
    if isinstance(wanted, Sequence):
        return _sequences(got, wanted, rtol)
    values, expected = as_tensor(got), as_tensor(wanted)
    assert expected is not None, f"an answer of type {type(wanted).__name__} cannot be compared"
    if values is None:
        return f"expected {kind(wanted)}, got {kind(got)}"
    if values.shape != expected.shape:
        return f"expected the shape {tuple(expected.shape)}, got {tuple(values.shape)}"
    if not values.isfinite().all() and expected.isfinite().all():
        return f"{int((~values.isfinite()).sum())} of {values.numel()} values are NaN or infinite"
    return _numbers(values, expected, rtol)


def _numbers(values: Tensor, expected: Tensor, rtol: float) -> str | None:
    if expected.numel() == 0:
        return None
    size = expected.abs().nan_to_num(nan=0.0, posinf=0.0)  # an infinite one would let anything pass
    scale = max(float(size.max()), 1e-12)
    error = (values - expected).abs().nan_to_num(nan=math.inf)
    error[values == expected] = 0.0  # infinities that agree
    if float(error.max()) <= rtol * scale:
        return None
    if expected.ndim == 0:
        return f"expected {number(expected)}, got {number(values)}"
    place = tuple(int(i) for i in torch.unravel_index(error.argmax(), error.shape))
    return (
        f"expected {listed(expected)}\n"
        f"got {first(values)}\n"
        f"they differ most at {list(place)}: {number(expected[place])} was expected, {number(values[place])} came"
    )


def _sequences(got: Any, wanted: Sequence[Any], rtol: float) -> str | None:
    if isinstance(got, str) or not isinstance(got, Sequence | Tensor):
        return f"expected {len(wanted)} things, as in `return a, b`, got {kind(got)}"
    if len(got) != len(wanted):
        return f"expected {len(wanted)} things, got {len(got)}"
    for place, (one, other) in enumerate(zip(got, wanted, strict=True)):
        if found := difference(one, other, rtol):
            return f"thing {place + 1} of {len(wanted)}: {found}"
    return None


def _mappings(got: Any, wanted: Mapping[str, Any], rtol: float) -> str | None:
    if not isinstance(got, Mapping) or set(got) != set(wanted):
        return f"expected a dictionary with the keys {', '.join(wanted)}"
    for key, value in wanted.items():
        if found := difference(got[key], value, rtol):
            return f"{key}: {found}"
    return None


def as_tensor(value: Any) -> Tensor | None:
    """A number, array or tensor in float64 on the CPU; None for anything else."""
    if isinstance(value, Tensor):
        return value.detach().cpu().double()
    numbers = isinstance(value, list | tuple) and all(isinstance(v, bool | int | float) for v in value)
    if numbers or isinstance(value, bool | int | float) or type(value).__module__ == "numpy":
        try:
            return torch.as_tensor(value, dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError):
            return None
    return None


def kind(value: Any) -> str:
    """What a value is, in words."""
    if value is None:
        return "nothing (is there a `return`?)"
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    article = "an" if type(value).__name__[0] in "aeiou" else "a"
    return f"{article} {type(value).__name__}"


def number(value: Tensor | float) -> str:
    """A number with four digits that count."""
    return f"{float(value):.4g}"


def first(values: Tensor) -> str:
    """The first few numbers of a tensor."""
    flat = values.flatten()
    tail = ", ..." if flat.numel() > SHOWN else ""
    return f"[{', '.join(number(v) for v in flat[:SHOWN])}{tail}]"


def listed(values: Tensor) -> str:
    """The first few numbers of a tensor, with its shape."""
    return f"{first(values)} of shape {tuple(values.shape)}"


def shown(value: Any) -> str:
    """An answer in a few characters."""
    numbers = as_tensor(value)
    if numbers is None:
        return repr(value)[:80] if isinstance(value, str | Sequence | Mapping) else kind(value)
    return number(numbers) if numbers.ndim == 0 else listed(numbers)
