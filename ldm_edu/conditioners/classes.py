"""Class numbers as learned vectors."""

from collections.abc import Sequence

import torch
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
        labels = [None if prompt == "" else prompt for prompt in prompts]
        for label in labels:
            if label is not None and label not in range(self.classes):
                raise ValueError(f"{label!r} is not a class: give whole numbers from 0 to {self.classes - 1}, or None")
        return labels  # type: ignore[return-value]

    def forward(self, prompts: Sequence[int | str | None], size: tuple[int, int] | None = None) -> Conditioning:
        """Classes, None for blank, to a vector (B, width).

        Raises
        ------
        ValueError
            if a label is not a class.
        """
        labels = self.read(prompts)
        device = self.table.weight.device
        known = torch.tensor([label is not None for label in labels], device=device)  # (B,)
        index = torch.tensor([label or 0 for label in labels], dtype=torch.long, device=device)  # (B,)
        return Conditioning(vector=self.table(index) * known[:, None].to(self.table.weight.dtype))

    def blank(self, n: int = 1) -> Conditioning:
        """The condition of ``n`` pictures of any class: vectors of zeros."""
        return self([None] * n)
