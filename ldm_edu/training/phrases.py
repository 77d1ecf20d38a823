"""What may be said of a picture: all of its caption, or a part of it that stands alone.

Whole captions alone let a text encoder learn each combination of thing and style by heart: asked for one that it never
met, it has nothing to say. Where now and then "red apple" stands for any style and "3d style" for any thing, each part
comes to mean something by itself, and what two parts mean together follows from it.
"""

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor

UNSAID = -1


class Phrases:
    """The captions of N pictures, and the parts of them that stand alone.

    Parameters
    ----------
    captions : (N,) the whole of what is said of each picture; text ``i`` is the caption of picture ``i``.
    facts : (N,) what each is made of, in one order: ("red apple", "3d style", "white"). None: nothing but itself, so
        that equal captions say the same.
    standing : so many of the facts, the first ones, are captions by themselves.
    """

    def __init__(
        self, captions: Sequence[str], facts: Sequence[tuple[str, ...]] | None = None, *, standing: int = 0
    ) -> None:
        facts = facts or [(caption,) for caption in captions]
        known = {fact: place for place, fact in enumerate(sorted({fact for row in facts for fact in row}))}
        alone = sorted({(kind, fact) for row in facts for kind, fact in enumerate(row[:standing])})
        place = {each: len(captions) + i for i, each in enumerate(alone)}
        self.texts = [*captions, *(fact for _, fact in alone)]
        self.facts = torch.tensor([[known[fact] for fact in row] for row in facts])  # (N, F)
        self.parts = torch.tensor([[place[each] for each in enumerate(row[:standing])] for row in facts])  # (N, S)
        said = torch.full((len(alone), self.facts.shape[1]), UNSAID)
        for i, (kind, fact) in enumerate(alone):
            said[i, kind] = known[fact]
        self.said = torch.cat([self.facts, said])  # (T, F)

    def pick(self, rows: Tensor, rng: torch.Generator, share: float) -> Tensor:
        """A text for each of the pictures ``rows`` (n,): with probability ``share`` one part of its caption."""
        if share == 0 or self.parts.numel() == 0:
            return rows
        which = torch.randint(self.parts.shape[1], rows.shape, generator=rng)
        return torch.where(torch.rand(rows.shape, generator=rng) < share, self.parts[rows, which], rows)

    def true_of(self, rows: Tensor, texts: Tensor) -> Tensor:
        """Which texts (m,) are true of which pictures ``rows`` (n,): (n, m), boolean."""
        said = rearrange(self.said[texts], "m f -> 1 m f")
        return ((said == rearrange(self.facts[rows], "n f -> n 1 f")) | (said == UNSAID)).all(dim=-1)
