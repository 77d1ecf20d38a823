"""What a picture is to show, as tensors that a network can read: the ways into a network.

There are three: a sequence that the network attends to, a vector that is added to the time embedding, and channels
that are concatenated with the noisy sample. A model family uses those that its network has. The files in
`ldm_edu.conditioners` make a `Conditioning` of prompts. The blank condition comes from the same conditioner: an empty
prompt, or a vector of zeros. Guidance steers away from the blank condition (Ho and Salimans 2022, equation 6).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

MOST_REPEATS = 4  # how often the longest context is repeated to be as long as the others


@dataclass(frozen=True, eq=False)
class Conditioning:
    """The conditions of a batch of pictures; all parts None: an unconditional model's.

    >>> a = Conditioning(context=torch.zeros(1, 77, 768))
    >>> b = Conditioning(context=torch.ones(3, 77, 768))
    >>> len(Conditioning.cat([a, b.repeat(2)]))
    7
    """

    context: Tensor | None = None  # (B, L, D) the network attends to the context
    vector: Tensor | None = None  # (B, D) added to the time embedding
    concat: Tensor | None = None  # (B, C, H, W) concatenated with the noisy sample, after the sample's channels

    def __post_init__(self) -> None:
        if len(sizes := {len(part) for part in self._parts()}) > 1:
            raise ValueError(f"the parts of a condition are for {sorted(sizes)} pictures; give all the same batch size")

    def __len__(self) -> int:
        """The number of pictures; 0 without any part, which fits every number of pictures."""
        return max((len(part) for part in self._parts()), default=0)

    def repeat(self, n: int) -> "Conditioning":
        """Each condition ``n`` times in a row: a, a, b, b for n = 2."""
        return self._map(lambda part: part.repeat_interleave(n, dim=0))

    def beside(self, concat: Tensor | None) -> "Conditioning":
        """The same with channels (1 or B, C, H, W) to be laid beside the sample. Either may be one for all.

        Raises
        ------
        ValueError
            if neither is for one picture, nor both for as many.
        """
        if concat is None or len(self) in (0, len(concat)):
            return replace(self, concat=concat)
        if len(concat) == 1:
            return replace(self, concat=concat.expand(len(self), *concat.shape[1:]))
        return replace(self.repeat(len(concat)) if len(self) == 1 else self, concat=concat)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "Conditioning":
        """The same on another device, or in another floating type."""
        return self._map(lambda part: part.to(device=device, dtype=dtype))

    @staticmethod
    def cat(conditions: Sequence["Conditioning"]) -> "Conditioning":
        """The conditions of several batches as those of one.

        Raises
        ------
        ValueError
            if one has a part that another lacks, or of another size (prompts of 5 and 7 windows, say).
        """
        joined: dict[str, Tensor] = {}
        for field in fields(Conditioning):
            parts = [getattr(condition, field.name) for condition in conditions]
            present = [part for part in parts if part is not None]
            if not present:
                continue
            if len(present) < len(parts) or len({part.shape[1:] for part in present}) > 1:
                found = ", ".join("none" if part is None else str(tuple(part.shape)) for part in parts)
                raise ValueError(
                    f"{field.name} of shapes {found} make no batch; make all with the same conditioner, and "
                    "draw prompts of very different lengths by themselves"
                )
            joined[field.name] = torch.cat(present)
        return Conditioning(**joined)

    def _parts(self) -> list[Tensor]:
        return [part for field in fields(self) if (part := getattr(self, field.name)) is not None]

    def _map(self, change: Callable[[Tensor], Tensor]) -> "Conditioning":
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return Conditioning(**{name: None if part is None else change(part) for name, part in values.items()})


UNCONDITIONAL = Conditioning()

# Hooks that cast the inputs of a network (sharded training, recorded launches) look for tensors inside a condition.
pytree.register_pytree_node(
    Conditioning,
    lambda cond: ([cond.context, cond.vector, cond.concat], None),
    lambda parts, _: Conditioning(*parts),
)


def for_batch(cond: Conditioning, size: int) -> Conditioning:
    """The condition for ``size`` pictures: as it is, or one that holds for all repeated.

    Raises
    ------
    ValueError
        if it is for another number of pictures.
    """
    if len(cond) in (0, size):
        return cond
    if len(cond) != 1:
        raise ValueError(f"conditions for {len(cond)} pictures do not fit a batch of {size}; give one each, or one")
    return cond.repeat(size)


def as_long_as_each_other(conditions: Sequence[Conditioning]) -> list[Conditioning]:
    """The same conditions with contexts of one length, each repeated whole as often as it takes.

    Softmax attention over a sequence repeated gives what attention over it once gives, so nothing changes but the
    shape. As they were, where the longest would have to be repeated more than `MOST_REPEATS` times.
    """
    lengths = [cond.context.shape[1] for cond in conditions if cond.context is not None]
    if len(lengths) < len(conditions) or math.lcm(*lengths) > MOST_REPEATS * max(lengths):
        return list(conditions)
    return [
        replace(cond, context=cond.context.repeat(1, math.lcm(*lengths) // cond.context.shape[1], 1))
        for cond in conditions
        if cond.context is not None
    ]


def refuse_one(prompts: Sequence[object]) -> None:
    """Raise `TypeError` for a prompt by itself: it is a sequence too, of its letters."""
    if isinstance(prompts, str):
        raise TypeError(f"pass a list of prompts, [{prompts[:20]!r}], not a single one")
