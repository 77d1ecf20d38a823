"""One exercise item as data: the task, the right answer, and the wrong answers worth a word of their own."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

Kind = Literal["implement", "debug", "investigate"]


@dataclass(frozen=True)
class Case:
    """One input on which an answer is tried, and what to call it in a message."""

    words: str
    args: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Mistake:
    """A plausible wrong answer: recognised by doing what it does, on every case.

    ``answer`` : a function with the signature of the item, or for an investigation the wrong value.
    ``diagnosis`` : what went wrong and what to think about, in the second person; it does not give the answer away.
    """

    diagnosis: str
    answer: Any


@dataclass(frozen=True)
class Item:
    """Something to do, worth points.

    Parameters
    ----------
    id : "LESSON.NAME"; the learner's function, or value, has that name.
    title, why (it matters), kind, points, difficulty (1 to 3), minutes : as the notebook shows them.
    answer : the right answer: a function, or for an investigation a number or a word.
    cases : the inputs, the same at every call; an investigation has none.
    mistakes : 3 to 6 of them, told apart by the cases.
    hints : three, each a little more open than the one before.
    others : right answers written differently, by name; tests hold them against the cases.
    rtol : how far an answer may be off, relative to the largest value expected.
    """

    id: str
    title: str
    why: str
    kind: Kind
    points: int
    difficulty: int
    minutes: int
    answer: Any
    hints: tuple[str, str, str]
    mistakes: tuple[Mistake, ...]
    cases: Callable[[], list[Case]] = field(default=lambda: [Case("your answer")])
    others: Mapping[str, Any] = field(default_factory=dict)
    rtol: float = 1e-3

    @property
    def lesson(self) -> str:
        """The two digits of its lesson."""
        return self.id.partition(".")[0]

    @property
    def name(self) -> str:
        """The name that the learner gives the answer."""
        return self.id.partition(".")[2]

    @property
    def grade_id(self) -> str:
        """Its name in a notebook's metadata, where no dot is allowed."""
        return self.id.replace(".", "-")


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers for a case: the same at every call."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)
