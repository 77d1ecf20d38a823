"""Class numbers as vectors: learned ones, or one-hot vectors for a network that has the learned ones itself."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from ldm_edu.condition import Conditioning


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

    def forward(self, prompts: Sequence[int | str | None], size: tuple[int, int] | None = None) -> Conditioning:
        """Classes, None for blank, to a vector (B, width).

        Raises
        ------
        ValueError
            if a label is no class.
        """
        labels = self.read(prompts)
        device = self.table.weight.device
        known = torch.tensor([label is not None for label in labels], device=device)  # (B,)
        index = torch.tensor([label or 0 for label in labels], dtype=torch.long, device=device)  # (B,)
        return Conditioning(vector=self.table(index) * known[:, None].to(self.table.weight.dtype))

    def blank(self, n: int = 1) -> Conditioning:
        """The condition of ``n`` pictures of any class: vectors of zeros."""
        return self([None] * n)


class OneHotConditioner:
    """A one-hot vector for each class, for a network that owns the table of labels; the blank is one class more.

    A one-hot vector times the network's table is a row of that table: the network's own embedding of the class. The
    extra class is the null class that training puts in place of a class now and then (Ho and Salimans 2022, section
    3.2).

    Parameters
    ----------
    classes : number of classes, without the null class.
    """

    def __init__(self, classes: int) -> None:
        self.classes = classes

    def read(self, prompts: Sequence[int | str | None]) -> list[int | None]:
        """Classes as numbers; "" and None are the null class; raises as `read_classes`."""
        return read_classes(prompts, self.classes)

    def __call__(self, prompts: Sequence[int | str | None], size: tuple[int, int] | None = None) -> Conditioning:
        """Classes, None for blank, to a vector (B, classes + 1); raises as `read_classes`."""
        index = [self.classes if label is None else label for label in self.read(prompts)]
        return Conditioning(vector=F.one_hot(torch.tensor(index, dtype=torch.long), self.classes + 1).float())


def read_classes(prompts: Sequence[int | str | None], classes: int) -> list[int | None]:
    """Classes as numbers; "" and None are the blank class.

    Raises
    ------
    ValueError
        if a prompt is not a class.
    """
    labels = [None if prompt == "" else prompt for prompt in prompts]
    for label in labels:
        if label is not None and label not in range(classes):
            raise ValueError(f"{label!r} is not a class: give whole numbers from 0 to {classes - 1}, or None")
    return labels  # type: ignore[return-value]
