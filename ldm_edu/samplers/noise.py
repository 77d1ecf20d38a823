"""Noise that belongs to a picture: its seed alone decides it, not the batch, the order or the device."""

from collections.abc import Sequence
from typing import Protocol, SupportsIndex

import torch
from torch import Tensor

_SEEDS = 2**32  # the CPU generator is seeded with 32 bits: a larger seed would repeat a smaller one's noise


class Noise(Protocol):
    """Where a stochastic sampler takes its noise from."""

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal numbers of the shape, type and device of ``like`` (B, ...)."""
        ...


class Rng:
    """One generator a picture, on the CPU. Each call of `normal` goes on where the last one ended.

    Parameters
    ----------
    seeds : one a picture, each from 0 to 2 ** 32 - 1.

    Raises
    ------
    ValueError
        if a seed lies outside.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        # An odd factor and an odd shift make a bijection of the seeds without a fixed point: the noise drawn during
        # sampling is never the picture's initial noise again.
        self.generators = [_generator((seed * 0x9E3779B1 + 0x7F4A7C15) % _SEEDS) for seed in map(_checked, seeds)]

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal numbers of the shape, type and device of ``like`` (B, ...), one picture a seed."""
        if len(self.generators) != len(like):
            raise ValueError(f"{len(self.generators)} seeds do not fit a batch of {len(like)}; give one seed a picture")
        return _draw(self.generators, like.shape[1:]).to(like)


def initial_noise(seeds: Sequence[int], shape: Sequence[int]) -> Tensor:
    """The noise that pictures start from: ``(B, *shape)`` float32 on the CPU, one picture a seed.

    Parameters
    ----------
    seeds : one a picture, each from 0 to 2 ** 32 - 1.
    shape : of one picture, (C, H, W).

    Raises
    ------
    ValueError
        if there is no seed, or one lies outside.
    """
    if not seeds:
        raise ValueError("seeds is empty; give one seed a picture")
    return _draw([_generator(_checked(seed)) for seed in seeds], shape)


def _draw(generators: list[torch.Generator], shape: Sequence[int]) -> Tensor:
    return torch.stack([torch.randn(tuple(shape), generator=g) for g in generators])


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _checked(seed: int) -> int:
    if not isinstance(seed, SupportsIndex) or not 0 <= seed < _SEEDS:
        raise ValueError(f"seed={seed} must be a whole number from 0 to {_SEEDS - 1}")
    return int(seed)
