"""From what an answer did on every case to a verdict a person can act on."""

from collections.abc import Sequence
from dataclasses import dataclass

from ldm_edu.grading.compare import difference, shown
from ldm_edu.grading.item import Item
from ldm_edu.grading.outcome import Outcome, run


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


def outcomes(item: Item, answer: object, *, ours: bool = False) -> list[Outcome]:
    """What an answer does on each of the item's cases; ``ours``: not a learner's, so it may call anything."""
    return [run(answer, case.args, ours=ours) for case in item.cases()]


def judge(item: Item, got: Sequence[Outcome]) -> Verdict:
    """The verdict over an answer's outcomes, one a case, by the item's own answer."""
    cases = item.cases()
    if len(got) != len(cases):
        return Verdict(item, False, f"{len(got)} of {len(cases)} inputs were answered")
    if borrowed := next((b for o in got if (b := _borrowed(o))), ()):
        names = ", ".join(borrowed[:2])
        return Verdict(item, False, f"it calls {names}; this item asks you to write that yourself, with torch alone")
    if any(o.error.startswith("NotImplementedError") for o in got) or all(_missing(o) for o in got):
        return Verdict(item, False, f"not started: `{item.name}` is still to be written", started=False)
    wanted = outcomes(item, item.answer, ours=True)
    complaints = [_complaint(item, g, w) for g, w in zip(got, wanted, strict=True)]
    wrong = next((place for place, complaint in enumerate(complaints) if complaint), None)
    if item.kind == "investigate":  # what came, but not what was expected: that would be the answer
        return Verdict(
            item, wrong is None, f"you answered {shown(got[0].value)}", "" if wrong is None else _recognised(item, got)
        )
    if wrong is None:
        return Verdict(item, True, f"right on {len(cases)} {'input' if len(cases) == 1 else 'inputs'}")
    complaint = str(complaints[wrong])
    space = "\n" if "\n" in complaint else " "
    return Verdict(item, False, f"on {cases[wrong].words}:{space}{complaint}", _recognised(item, got))


def _missing(outcome: Outcome) -> bool:
    return outcome.value is Ellipsis or (outcome.value is None and not outcome.error)


def _borrowed(outcome: Outcome) -> tuple[str, ...]:
    kind, _, name = outcome.error.partition(": ")
    return outcome.borrowed or ((name,) if kind == "BorrowedError" else ())


def _complaint(item: Item, got: Outcome, wanted: Outcome) -> str | None:
    if wanted.error:  # bad input, which the right answer refuses
        kind = wanted.error.partition(":")[0]
        return None if got.error.startswith(kind) else f"expected a {kind}, which tells what is wrong with the input"
    if got.error:
        return f"it raised {got.error}"
    if found := difference(got.value, wanted.value, item.rtol):
        return found
    return "it changed its input; make a new tensor (`x + y`, not `x += y`)" if got.changed else None


def _recognised(item: Item, got: Sequence[Outcome]) -> str:
    for mistake in item.mistakes:
        known = outcomes(item, mistake.answer, ours=True)
        if all(_alike(g, k, item.rtol) for g, k in zip(got, known, strict=True)):
            return mistake.diagnosis
    return ""


def _alike(got: Outcome, known: Outcome, rtol: float) -> bool:
    if got.error or known.error:
        return bool(got.error) and got.error.partition(":")[0] == known.error.partition(":")[0]
    if known.value is None:
        return got.value is None
    return got.changed == known.changed and difference(got.value, known.value, rtol) is None
