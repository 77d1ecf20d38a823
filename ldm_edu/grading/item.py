"""One exercise item as data: the task, the right answer, and the wrong answers worth a word of their own."""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from torch import Generator

from ldm_edu.grading.draw import generator

Kind = Literal["implement", "debug", "investigate"]


@dataclass(frozen=True)
class Case:
    """One input on which an answer is tried, and what to call it in a message."""

    words: str
    args: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Mistake:
    """A plausible wrong answer: recognised by doing what it does, on every case.

    ``answer`` : a function with the signature of the item, or for an investigation the wrong value. One that draws
    random numbers stands for every answer that says something else to the same input.
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
    draw : inputs from a generator: some that read well, and at least three of drawn sizes and values, so that a typed
        constant, an argument ignored or a size taken for granted is wrong. An investigation has none.
    mistakes : 3 to 8 of them, which the cases distinguish from each other.
    hints : three, each a little more open than the one before.
    others : right answers written differently, by name; tests hold them against the cases.
    rtol : how far each number may be off, relative to the number expected; whole numbers must agree.
    noise : how far rounding may carry any number, relative to the largest one expected.
    seed : which cases are drawn; not a part of what the item is.
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
    draw: Callable[[Generator], list[Case]] = field(default=lambda _: [Case("your answer")])
    others: Mapping[str, Any] = field(default_factory=dict)
    rtol: float = 1e-3
    noise: float = 2e-6
    seed: int = field(default=0, compare=False)

    def cases(self) -> list[Case]:
        """The inputs. A function's last one comes twice: an answer that draws numbers for itself gives two values."""
        drawn = self.draw(generator(self.seed))
        if self.kind == "investigate":
            return drawn
        again = self.draw(generator(self.seed))[-1]  # drawn too: what is handed in may remember that it was asked
        return [*drawn, replace(again, words=f"{again.words}, once more")]

    def fresh(self) -> "Item":
        """The same item with cases that nobody has seen."""
        return replace(self, seed=secrets.randbits(62))

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
