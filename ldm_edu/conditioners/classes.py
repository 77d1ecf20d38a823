"""Class numbers as vectors: learned ones, or one-hot vectors for a network that has the learned ones itself."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from ldm_edu.condition import Conditioning, refuse_one
from ldm_edu.conditioners.conditioner import Size


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

    def read(self, prompts: Sequence[int | str | None]) -> list[int | None]:
        """Classes as numbers; "" and None are the blank class.

        Raises
        ------
        ValueError
            if a prompt is not a class.
        """
        return read_classes(prompts, self.classes)

    def forward(self, prompts: Sequence[int | str | None], size: Size | None = None) -> Conditioning:
        """Classes to a vector (B, width). The ``size`` of the pictures makes no difference; raises as `read`."""
        labels, device = self.read(prompts), self.table.weight.device
        known = torch.tensor([label is not None for label in labels], device=device)  # (B,)
        index = torch.tensor([label or 0 for label in labels], dtype=torch.long, device=device)  # (B,)
        return Conditioning(vector=self.table(index) * known[:, None].to(self.table.weight.dtype))

    def blank(self, n: int = 1, size: Size | None = None) -> Conditioning:
        """The condition of ``n`` pictures of any class: vectors of zeros."""
        return self([None] * n)


class OneHotConditioner:
    """A one-hot vector for each class, for a network that owns the table of labels; the blank is one class more.

    A one-hot vector times the network's table is a row of that table: the network's own embedding of the class. The
    extra class is the null class that Ho and Salimans 2022 (section 3.2) train in place of a class now and then.

    Parameters
    ----------
    classes : number of classes, without the null class.
    """

    def __init__(self, classes: int) -> None:
        self.classes = classes

    def read(self, prompts: Sequence[int | str | None]) -> list[int | None]:
        """Classes as numbers; "" and None are the blank class; raises ValueError for a prompt that is not a class."""
        return read_classes(prompts, self.classes)

    def __call__(self, prompts: Sequence[int | str | None], size: Size | None = None) -> Conditioning:
        """Classes to a vector (B, classes + 1). The ``size`` of the pictures makes no difference; raises as `read`."""
        labels = self.read(prompts)
        index = torch.tensor([self.classes if label is None else label for label in labels], dtype=torch.long)  # (B,)
        return Conditioning(vector=F.one_hot(index, self.classes + 1).float())

    def blank(self, n: int = 1, size: Size | None = None) -> Conditioning:
        """The condition of ``n`` pictures of any class: the null class."""
        return self([None] * n)


def read_classes(prompts: Sequence[int | str | None], classes: int) -> list[int | None]:
    """Classes as numbers, None for the blank class; raises ValueError for a prompt that is not a class."""
    refuse_one(prompts)
    labels = [None if prompt == "" else _number(prompt) for prompt in prompts]
    for label in labels:
        if label is not None and label not in range(classes):
            raise ValueError(f"{label!r} is not a class: give whole numbers from 0 to {classes - 1}, or None")
    return labels  # type: ignore[return-value]


def _number(prompt: object) -> object:
    """A class that was typed as text, as a number."""
    return int(prompt) if isinstance(prompt, str) and prompt.isdecimal() else prompt
