"""Are two answers the same, and if not, where do they differ: tolerances, never matched random numbers."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

SHOWN = 4  # numbers of a tensor in a message
NOISE = 2e-6  # what rounding to float32 does to a sum, relative to its largest term
TINY = 1e-9  # where 0 is expected, this is 0


def difference(got: Any, wanted: Any, rtol: float, noise: float = NOISE) -> str | None:
    """What is wrong with ``got``, in words, or None where every number equals the one wanted.

    A number may be off by ``rtol`` of itself and by ``noise`` of the largest one; whole numbers, and words, must agree.
    Tensors that differ are shown on lines of their own.

    Numbers, NumPy arrays, tensors of any type and lists of them are compared as numbers; a single number may come as a
    tensor of one element; sequences and mappings are compared part by part.
    """
    if isinstance(wanted, str):
        return None if isinstance(got, str) and got == wanted else f"expected {wanted!r}, got {shown(got)}"
    if isinstance(wanted, Mapping):
        return _mappings(got, wanted, rtol, noise)
    if isinstance(wanted, Sequence):
        return _sequences(got, wanted, rtol, noise)
    values, expected = as_tensor(got), as_tensor(wanted)
    assert expected is not None, f"an answer of type {type(wanted).__name__} cannot be compared"
    if values is None:
        return f"expected {kind(wanted)}, got {kind(got)}"
    if expected.ndim == 0 and values.numel() == 1:
        values = values.reshape(())
    if values.shape != expected.shape:
        return f"expected the shape {tuple(expected.shape)}, got {tuple(values.shape)}"
    if not values.isfinite().all() and expected.isfinite().all():
        return f"{int((~values.isfinite()).sum())} of {values.numel()} values are NaN or infinite"
    counted = not wanted.is_floating_point() if isinstance(wanted, Tensor) else isinstance(wanted, int)
    return _numbers(values, expected, *((0.0, 0.0) if counted else (rtol, noise)))


def _numbers(values: Tensor, expected: Tensor, rtol: float, noise: float) -> str | None:
    if expected.numel() == 0:
        return None
    size = expected.abs().nan_to_num(nan=0.0, posinf=0.0)  # an infinite one would let anything pass
    allowed = rtol * size + noise * size.max() + TINY
    error = (values - expected).abs().nan_to_num(nan=math.inf)
    error[(values == expected) | (values.isnan() & expected.isnan())] = 0.0  # infinities, or NaN, that agree
    excess = error / allowed
    if float(excess.max()) <= 1:
        return None
    if expected.ndim == 0:
        return f"expected {number(expected)}, got {number(values)}"
    place = tuple(int(i) for i in torch.unravel_index(excess.argmax(), excess.shape))
    return (
        f"expected {listed(expected)}\n"
        f"got {first(values)}\n"
        f"they differ most at {list(place)}: {number(expected[place])} was expected, {number(values[place])} came"
    )


def _sequences(got: Any, wanted: Sequence[Any], rtol: float, noise: float) -> str | None:
    if type(got).__module__ == "numpy" or isinstance(got, Tensor):
        row = getattr(got, "ndim", 0) == 1 and not any(isinstance(part, Tensor) for part in wanted)
        got = got.tolist() if row else got  # a batch is no list of several answers
    if isinstance(got, str) or not isinstance(got, Sequence):
        return f"expected {len(wanted)} things, as in `return a, b`, got {kind(got)}"
    if len(got) != len(wanted):
        return f"expected {len(wanted)} things, got {len(got)}"
    for place, (one, other) in enumerate(zip(got, wanted, strict=True)):
        if found := difference(one, other, rtol, noise):
            return f"thing {place + 1} of {len(wanted)}: {found}"
    return None


def _mappings(got: Any, wanted: Mapping[str, Any], rtol: float, noise: float) -> str | None:
    if not isinstance(got, Mapping) or set(got) != set(wanted):
        return f"expected a dictionary with the keys {', '.join(wanted)}"
    for key, value in wanted.items():
        if found := difference(got[key], value, rtol, noise):
            return f"{key}: {found}"
    return None


def as_tensor(value: Any) -> Tensor | None:
    """A number, an array, a tensor, or a list of them, in float64 on the CPU; None for anything else."""
    if isinstance(value, Tensor):
        return None if value.is_complex() else value.detach().cpu().double()
    if isinstance(value, list | tuple) and not all(isinstance(part, bool | int | float) for part in value):
        parts = [as_tensor(part) for part in value]
        rows = [part for part in parts if part is not None]
        alike = len(rows) == len(parts) and len({part.shape for part in rows}) == 1
        return torch.stack(rows) if alike else None
    if isinstance(value, bool | int | float | list | tuple) or type(value).__module__ == "numpy":
        try:
            return torch.as_tensor(value, dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError, OverflowError):
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
    """A number with four digits that count, a whole one with all of its digits."""
    plain = float(value)
    return f"{plain:.0f}" if plain.is_integer() and abs(plain) < 1e9 else f"{plain:.4g}"


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
