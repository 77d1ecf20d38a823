"""From what an answer did on every case to a verdict a person can act on."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ldm_edu.grading.compare import difference, shown
from ldm_edu.grading.item import Item
from ldm_edu.grading.outcome import Outcome, run

NOTHING = "Your function gives nothing back: is there a `return`?"
NO_GRADIENT = (
    "The numbers are right, but no gradient gets through them, so that nothing could be trained: look for `.item()`, "
    "`float(...)`, `.detach()` or `torch.no_grad()`."
)
DRAWN = "The same input gave two answers: use the numbers that you are given, and draw none yourself."
CONSTANT = (
    "Every input gave the same answer: do you use the inputs, and is the name that of a function, not of a value?"
)


@dataclass(frozen=True)
class Verdict:
    """``message`` says what was expected and what came; ``diagnosis`` names the mistake where it is recognised.

    ``started`` : False for an untouched stub.
    """

    item: Item
    passed: bool
    message: str
    diagnosis: str = ""
    started: bool = True

    @property
    def points(self) -> int:
        """All or nothing."""
        return self.item.points if self.passed else 0


def tried(item: Item, answer: object, *, ours: bool = False) -> Verdict:
    """The verdict over an answer that is at hand; ``ours``: not a learner's, so it may call anything."""
    if item.kind != "investigate" and not callable(answer) and answer is not Ellipsis:
        message = f'hand over the function itself, `check("{item.id}", {item.name})`, not what it gave: {shown(answer)}'
        return Verdict(item, False, message)
    return judge(item, outcomes(item, answer, ours=ours))


def outcomes(item: Item, answer: object, *, ours: bool = False) -> list[Outcome]:
    """What an answer does on each of the item's cases."""
    return [run(answer, case.args, ours=ours) for case in item.cases()]


def judge(item: Item, got: Sequence[Outcome]) -> Verdict:
    """The verdict over an answer's outcomes, one a case, by the item's own answer."""
    cases = item.cases()
    if len(got) != len(cases):
        return Verdict(item, False, f"{len(got)} of {len(cases)} inputs were answered")
    if borrowed := next((b for o in got if (b := _borrowed(o))), ()):
        names = ", ".join(borrowed[:2])
        return Verdict(item, False, f"it calls {names}; this item asks you to write that yourself, with torch alone")
    if any(o.error.startswith("NotImplementedError") for o in got) or all(_missing(item, o) for o in got):
        return Verdict(item, False, f"not started: `{item.name}` is still to be written", started=False)
    wanted = outcomes(item, item.answer, ours=True)
    complaints = [complaint(item, g, w) for g, w in zip(got, wanted, strict=True)]
    wrong = next((place for place, found in enumerate(complaints) if found), None)
    if item.kind == "investigate":  # what came, but not what was expected: that would be the answer
        return Verdict(
            item, wrong is None, f"you answered {shown(got[0].value)}", "" if wrong is None else _recognised(item, got)
        )
    if wrong is None:
        return Verdict(item, True, f"right on {len(cases)} inputs")
    words = str(complaints[wrong])
    space = "\n" if "\n" in words else " "
    diagnosis = _recognised(item, got) or _general(item, got, wanted)
    return Verdict(item, False, f"on {cases[wrong].words}:{space}{words}", diagnosis)


def _missing(item: Item, outcome: Outcome) -> bool:
    untouched = outcome.value is Ellipsis or (item.kind == "investigate" and outcome.value is None)
    return untouched and not outcome.error


def _borrowed(outcome: Outcome) -> tuple[str, ...]:
    kind, _, name = outcome.error.partition(": ")
    return outcome.borrowed or ((name,) if kind == "BorrowedError" else ())


def complaint(item: Item, got: Outcome, wanted: Outcome) -> str | None:
    """What is wrong with an answer's outcome on one case, against the right one's; None where nothing is."""
    if wanted.error:  # bad input, which the right answer refuses
        kind = wanted.error.partition(":")[0]
        return None if got.error.startswith(kind) else f"expected a {kind}, which tells what is wrong with the input"
    if got.error:
        return f"it raised {got.error}"
    if found := difference(got.value, wanted.value, item.rtol, item.noise):
        return found
    if not _same_gradients(item, got, wanted):
        return "the numbers are right, but the gradient that reaches the inputs is not"
    return "it changed its input; make a new one (`x + y`, not `x += y`)" if got.changed else None


def _same_gradients(item: Item, got: Outcome, wanted: Outcome) -> bool:
    arrived = got.gradients or (None,) * len(wanted.gradients)
    if len(arrived) != len(wanted.gradients):
        return False
    return all(
        difference(one, other, item.rtol, 10 * item.noise) is None
        if one is not None and other is not None
        else _nothing(one) and _nothing(other)
        for one, other in zip(arrived, wanted.gradients, strict=True)
    )


def _nothing(gradient: Tensor | None) -> bool:
    return gradient is None or not bool(gradient.any())


def _recognised(item: Item, got: Sequence[Outcome]) -> str:
    for mistake in item.mistakes:
        known = outcomes(item, mistake.answer, ours=True)
        if _draws(item, known) and _draws(item, got):
            return mistake.diagnosis
        if all(_alike(item, g, k) for g, k in zip(got, known, strict=True)):
            return mistake.diagnosis
    return ""


def _alike(item: Item, got: Outcome, known: Outcome) -> bool:
    if got.error or known.error:
        return _reason(got.error) == _reason(known.error)
    if not _comparable(known.value):
        return False
    return (
        got.changed == known.changed
        and difference(got.value, known.value, item.rtol, item.noise) is None
        and _same_gradients(item, got, known)
    )


def _reason(error: str) -> str:
    """What was raised and why, without the sizes in it and the line."""
    return re.sub(r"\d+", "", error.partition(" (in line ")[0])


def _draws(item: Item, got: Sequence[Outcome]) -> bool:
    """Whether the input that came twice had two answers."""
    if item.kind == "investigate" or any(o.error or not _comparable(o.value) for o in got[-2:]):
        return False
    return difference(got[-1].value, got[-2].value, item.rtol, item.noise) is not None


def _general(item: Item, got: Sequence[Outcome], wanted: Sequence[Outcome]) -> str:
    """What can be said about a wrong answer to any item."""
    if all(o.value is None and not o.error for o in got):
        return NOTHING
    if any(o.error or not _comparable(o.value) for o in got):
        return ""
    if _draws(item, got):
        return DRAWN
    if all(difference(o.value, got[0].value, item.rtol, item.noise) is None for o in got[1:]):
        return CONSTANT
    right = all(difference(g.value, w.value, item.rtol, item.noise) is None for g, w in zip(got, wanted, strict=True))
    return NO_GRADIENT if right and any(None in o.gradients for o in got) else ""


def _comparable(value: object) -> bool:
    """Whether it is something that has numbers or words to compare."""
    try:
        return difference(value, value, 0.0) is None
    except AssertionError:
        return False
