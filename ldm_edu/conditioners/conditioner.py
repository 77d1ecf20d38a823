"""What a model asks of the thing that reads its prompts: the one protocol that texts, classes or your own fulfil."""

from collections.abc import Sequence
from typing import Any, Protocol

from ldm_edu.condition import Conditioning

Size = tuple[int, int]  # height and width of a picture, in pixels


class Conditioner(Protocol):
    """Turns prompts into conditions. What a prompt is (a text, a class) is the conditioner's own business."""

    def read(self, prompts: Sequence[Any]) -> list[Any]:
        """The prompts checked and tokenized, one value each, which `__call__` takes in their place.

        Whoever wants to look at the tokens, or to use a prompt twice, reads once and passes the result on.
        """
        ...

    def __call__(self, prompts: Sequence[Any], size: Size | None = None) -> Conditioning:
        """The conditions of prompts, or of what `read` made of them.

        Parameters
        ----------
        size
            of the pictures; None: the one that the model was made for. Some networks are told the size.

        Raises
        ------
        TypeError
            for a prompt by itself; pass a list.
        ValueError
            for a prompt that cannot be read, or prompts that make no batch.
        """
        ...

    def blank(self, n: int = 1, size: Size | None = None) -> Conditioning:
        """The condition of ``n`` pictures of nothing in particular: what guidance steers away from."""
        ...
