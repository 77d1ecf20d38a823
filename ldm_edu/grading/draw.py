"""Inputs for an exercise item's cases, drawn from a generator: another seed gives other sizes and other values."""

import torch
from torch import Generator, Tensor


def generator(seed: int) -> Generator:
    """A generator of its own: the state of torch's global one stays as it is."""
    return Generator().manual_seed(seed)


def normal(rng: Generator, *shape: int, gradient: bool = False) -> Tensor:
    """Standard normal numbers. ``gradient``: what an answer makes of them must let gradients through."""
    return torch.randn(*shape, generator=rng, dtype=torch.float32).requires_grad_(gradient)


def uniform(rng: Generator, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Numbers spread evenly over [low, high)."""
    return low + (high - low) * torch.rand(*shape, generator=rng, dtype=torch.float32)


def number(rng: Generator, low: float, high: float) -> float:
    """One number of [low, high), with three digits that count, as a message shows it."""
    drawn = low + (high - low) * torch.rand((), generator=rng, dtype=torch.float64).item()
    return float(f"{drawn:.3g}")


def whole(rng: Generator, low: int, high: int) -> int:
    """One whole number from ``low`` to ``high``, both included."""
    return int(torch.randint(low, high + 1, (), generator=rng))


def different(rng: Generator, n: int, low: int, high: int) -> list[int]:
    """``n`` different whole numbers from ``low`` to ``high``, both included: sizes that cannot be taken for each other.

    Raises
    ------
    ValueError
        if there are fewer than ``n``.
    """
    if high - low + 1 < n:
        raise ValueError(f"there are only {high - low + 1} whole numbers from {low} to {high}, so draw at most as many")
    return [low + int(i) for i in torch.randperm(high - low + 1, generator=rng)[:n]]
