"""What a picture is to show, as tensors that a network can read; and the conditioners that make them.

A condition reaches the U-Net on three ways: a sequence to attend to, a vector added to the time embedding, channels
laid beside the noisy sample. A family fills what it has. The blank condition is made by the same conditioner: an empty
prompt, or a vector of zeros. It is what guidance steers away from (Ho and Salimans 2022, equation 6).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from einops import rearrange
from torch import Tensor, nn

from ldm_edu.models.clip import TextEncoder
from ldm_edu.prompts import Chunks, chunks
from ldm_edu.tokenizer import Tokenizer

MOST_REPEATS = 4  # how often the longest context is repeated to be as long as the others


@dataclass(frozen=True, eq=False)
class Conditioning:
    """The conditions of a batch of pictures; all parts None: an unconditional model's.

    >>> a = Conditioning(context=torch.zeros(1, 77, 768))
    >>> b = Conditioning(context=torch.ones(3, 77, 768))
    >>> len(Conditioning.cat([a, b.repeat(2)]))
    7
    """

    context: Tensor | None = None  # (B, L, D) the U-Net attends to it
    vector: Tensor | None = None  # (B, D) added to the time embedding
    concat: Tensor | None = None  # (B, C, H, W) laid beside the noisy sample

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


class TextConditioner:
    """Prompts as the states of all their tokens (Rombach et al. 2022, section 3.3).

    Two things go beyond the paper, both as people are used to from Stable Diffusion. A prompt longer than the encoder's
    window is read in several, and the U-Net attends to the states of all. And a word in parentheses counts more (see
    `ldm_edu.prompts`): its state is moved along the line from the blank prompt's state at the same place,
    ``blank + weight * (state - blank)``, just as guidance moves the estimate. Weight 0 is as if nothing stood there.
    """

    def __init__(self, tokenizer: Tokenizer, encoder: TextEncoder) -> None:
        self.tokenizer, self.encoder = tokenizer, encoder

    def __call__(self, prompts: Sequence[str]) -> Conditioning:
        """Prompts to a context (B, n * L, D), n windows of L tokens.

        Padding is attended to as well: Stable Diffusion was trained so. Where prompts need different numbers of
        windows, each is repeated whole until all are of one length: attention over a sequence twice is attention over
        it once, so a picture does not depend on its neighbours' prompts.

        Raises
        ------
        TypeError
            for a prompt by itself; pass a list.
        ValueError
            if there is no prompt, or they are of lengths that make no batch: 5 and 7 windows would be repeated to 35.
        """
        refuse_one(prompts)
        if not prompts:
            raise ValueError("no prompts: give one a picture, [''] for the blank condition")
        read = {prompt: chunks(self.tokenizer, prompt) for prompt in dict.fromkeys(prompts)}
        states = self._states(list(read.values()))  # one a different prompt, each (1, n L, D)
        alike = as_long_as_each_other([Conditioning(context=each) for each in states])
        known = dict(zip(read, alike, strict=True))
        return Conditioning.cat([known[prompt] for prompt in prompts])

    def _states(self, read: list[Chunks]) -> list[Tensor]:
        """The states of each prompt, (1, n L, D); all windows are encoded as one batch."""
        tokens = torch.cat([each.tokens for each in read]).to(self.encoder.position.device)  # (N, L)
        weights = torch.cat([each.weights for each in read])  # (N, L)
        states = self.encoder(tokens).last  # (N, L, D)
        if (weights != 1).any():
            blank = self.encoder(self.tokenizer([""]).to(tokens.device)).last  # (1, L, D)
            states = torch.lerp(blank.expand_as(states), states, weights.to(states)[..., None])
        return [rearrange(part, "n l d -> 1 (n l) d") for part in states.split([len(each.tokens) for each in read])]

    def blank(self, n: int = 1) -> Conditioning:
        """The condition of ``n`` pictures without a prompt: that of an empty one."""
        return self([""] * n)


class ClassConditioner(nn.Module):
    """A learned vector for each class; the blank is a vector of zeros.

    Parameters
    ----------
    classes : number of classes.
    width : of the vectors, the U-Net's ``vector_dim``.
    """

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.classes = classes
        self.table = nn.Embedding(classes, width)

    def forward(self, labels: Sequence[int | None]) -> Conditioning:
        """Classes, None for blank, to a vector (B, width).

        Raises
        ------
        ValueError
            if a label is no class.
        """
        for label in labels:
            if label is not None and label not in range(self.classes):
                raise ValueError(f"{label!r} is no class: give whole numbers from 0 to {self.classes - 1}, or None")
        device = self.table.weight.device
        known = torch.tensor([label is not None for label in labels], device=device)  # (B,)
        index = torch.tensor([label or 0 for label in labels], dtype=torch.long, device=device)  # (B,)
        return Conditioning(vector=self.table(index) * known[:, None].to(self.table.weight.dtype))

    def blank(self, n: int = 1) -> Conditioning:
        """The condition of ``n`` pictures of any class: vectors of zeros."""
        return self([None] * n)
