"""Which of our tensors is which of theirs, and what differs between the two besides the name.

A layout is a list of pairs, made by walking through a config as the network itself is built. Conversion wants a
bijection: a tensor without a partner, on either side, is an error.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any, Literal, NoReturn

import torch
from einops import rearrange
from torch import Tensor, nn

from ldm_edu.weights.errors import CheckpointError

Format = Literal["ldm-edu", "diffusers", "original"]  # original: the one file of a model's first release
Json = dict[str, Any]
MAX_TENSORS = 100_000  # of one network: a damaged or hostile config may ask for more than there is time to name


@dataclass(frozen=True)
class Pair:
    """One of our tensors, by both of its names.

    ``theirs`` may hold more than ours (``rows``: ours are those rows of theirs), be a 1x1 convolution where ours is a
    linear map (``conv``), be used as x @ W where ours is x @ W.T (``transposed``), or hold the two halves of its rows
    in the other order (``swapped``). Where they hold copies of one of ours, each copy has a pair.
    """

    theirs: str
    ours: str
    conv: bool = False
    rows: slice | None = None
    transposed: bool = False
    swapped: bool = False


def _no_config(*_: Any) -> NoReturn:
    raise CheckpointError("diffusers has no config for this network; keep this model in ldm-edu's own layout.")


@dataclass(frozen=True)
class Layout:
    """How one sort of network is published.

    ``pairs(config, format, names)`` gives the pairs of a network's tensors; ``names`` are those that a file holds, by
    which a layout tells spellings of one format apart (empty: the spelling that is written today). ``read`` makes a
    config of a ``config.json`` in diffusers' format and ``write`` the opposite.
    """

    network: Callable[[Any], nn.Module]
    pairs: Callable[[Any, Format, Iterable[str]], list[Pair]]
    read: Callable[[Json, str], Any] = _no_config
    write: Callable[[Any], Json] = _no_config


def to_ours(theirs: Tensor, pair: Pair) -> Tensor:
    """Their tensor as ours: a view where the numbers do not move.

    Raises
    ------
    CheckpointError
        if it has a shape that the pair does not expect.
    """
    if pair.conv and theirs.ndim != 2 and (theirs.ndim != 4 or theirs.shape[2:] != (1, 1)):
        raise CheckpointError(
            f"{pair.theirs} has shape {tuple(theirs.shape)}, where a linear map or a 1x1 convolution is expected; "
            "choose the other layout of this model."
        )
    if pair.rows is not None:
        theirs = theirs[pair.rows]
    if pair.transposed:
        theirs = rearrange(theirs, "i o -> o i")
    if pair.conv and theirs.ndim == 4:
        theirs = rearrange(theirs, "o i 1 1 -> o i")
    if pair.swapped:
        theirs = torch.cat(theirs.chunk(2)[::-1])
    return theirs


def to_theirs(ours: Mapping[str, Tensor], pairs: Iterable[Pair]) -> Iterator[tuple[str, Tensor]]:
    """Our tensors under their names, those that share one of theirs joined: name and tensor, one after another.

    Copies of one of ours have memory of their own: safetensors writes no memory twice.
    """
    sharing: dict[str, list[Pair]] = {}
    for pair in pairs:
        sharing.setdefault(pair.theirs, []).append(pair)
    written = set[str]()
    for theirs, group in sharing.items():
        pieces = [_turned(ours[pair.ours], pair) for pair in sorted(group, key=lambda p: p.rows.start if p.rows else 0)]
        tensor = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
        yield theirs, tensor.clone() if group[0].ours in written else tensor
        written |= {pair.ours for pair in group}


def _turned(ours: Tensor, pair: Pair) -> Tensor:
    if pair.swapped:
        ours = torch.cat(ours.chunk(2)[::-1])
    if pair.conv:
        ours = rearrange(ours, "o i -> o i 1 1")
    return rearrange(ours, "o i -> i o") if pair.transposed else ours


def convert(theirs: Mapping[str, Tensor], pairs: Iterable[Pair]) -> dict[str, Tensor]:
    """Their tensors under our names.

    Raises
    ------
    CheckpointError
        if a tensor is missing or left over, or copies differ.
    """
    pairs = list(pairs)
    refuse_others(theirs.keys(), {pair.theirs for pair in pairs})
    return all_ours(lambda pair: theirs[pair.theirs], pairs)


def all_ours(read: Callable[[Pair], Tensor], pairs: Iterable[Pair]) -> dict[str, Tensor]:
    """Our tensors by their names. ``read`` gives theirs, once for neighbours that share one of theirs.

    Raises
    ------
    CheckpointError
        if theirs holds copies of one of ours that differ.
    """
    ours: dict[str, Tensor] = {}
    for _, sharing in groupby(pairs, key=lambda pair: pair.theirs):
        group = list(sharing)
        theirs = read(group[0])
        for pair in group:
            tensor = to_ours(theirs, pair)
            if not _same(ours.setdefault(pair.ours, tensor), tensor):
                raise CheckpointError(
                    f"{pair.theirs} differs from another copy of {pair.ours}, and the network here has only one; take "
                    "a checkpoint whose copies agree."
                )
    return ours


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors hold the same numbers; without numbers, on the ``meta`` device, whether the shapes agree."""
    return a is b or (a.shape == b.shape and a.dtype == b.dtype and (a.is_meta or torch.equal(a, b)))


def convert_back(ours: Mapping[str, Tensor], pairs: Iterable[Pair]) -> dict[str, Tensor]:
    """Our tensors under their names; raises as `convert`."""
    pairs = list(pairs)
    refuse_others(ours.keys(), {pair.ours for pair in pairs})
    return dict(to_theirs(ours, pairs))


def refuse_others(found: Iterable[str], wanted: Iterable[str]) -> None:
    """Raise CheckpointError if the names that were found are not those that are wanted."""
    found, wanted = set(found), set(wanted)
    for problem, names in {"missing": sorted(wanted - found), "unknown": sorted(found - wanted)}.items():
        if names:
            raise CheckpointError(
                f"{len(names)} of {len(wanted)} tensors {problem}: {', '.join(names[:3])}{' ...' * (len(names) > 3)}. "
                "This is the checkpoint of another model or layout; choose the preset that the checkpoint was made for."
            )


def both(theirs: str, ours: str) -> Iterator[Pair]:
    """The pairs of a layer's weight and bias."""
    yield Pair(f"{theirs}.weight", f"{ours}.weight")
    yield Pair(f"{theirs}.bias", f"{ours}.bias")


def own_names(pairs: Iterable[Pair]) -> list[Pair]:
    """The pairs of our own format: every name is its own partner."""
    return [Pair(pair.ours, pair.ours) for pair in listed_pairs(pairs)]


def listed_pairs(pairs: Iterable[Pair]) -> list[Pair]:
    """The pairs of one network.

    Raises
    ------
    CheckpointError
        if there are more than any network has.
    """
    found = list(islice(pairs, MAX_TENSORS + 1))
    if len(found) > MAX_TENSORS:
        raise CheckpointError(f"the config asks for more than {MAX_TENSORS:,} tensors, which no network has: check it.")
    return found
