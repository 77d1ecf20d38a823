"""What `ldm-edu grade` says: a table for people, JSON for programs, and Gradescope's results.json."""

from collections.abc import Iterator, Sequence
from typing import Any

from ldm_edu.grading.notebook import Graded
from ldm_edu.grading.outcome import printable
from ldm_edu.grading.verdict import Verdict


def score(graded: Sequence[Graded]) -> tuple[int, int]:
    """Points reached, and points there are."""
    verdicts = [v for g in graded for v in g.verdicts]
    return sum(v.points for v in verdicts), sum(v.item.points for v in verdicts)


def table(graded: Sequence[Graded]) -> Iterator[str]:
    """Lines of text: every item with its points and, where it is not right, what to look at next."""
    for one in graded:
        reached, possible = score([one])
        yield f"{printable(one.path.name)}: {reached} of {possible} points"
        width = max((len(v.item.id) for v in one.verdicts), default=0)
        for v in one.verdicts:
            yield f"  {mark(v)} {v.item.id:<{width}}  {v.points:>2}/{v.item.points:<2}  {advice(v)}"
        for remark in one.remarks:
            yield f"  ! {remark}"
    reached, possible = score(graded)
    yield f"in all {reached} of {possible} points" + (f", {reached / possible:.0%}" if possible else "")


def mark(verdict: Verdict) -> str:
    """One sign: right, wrong, not started."""
    return "✓" if verdict.passed else "✗" if verdict.started else "○"


def advice(verdict: Verdict) -> str:
    """The diagnosis where there is one, else the message, on one line."""
    return verdict.diagnosis or verdict.message.replace(":\n", ": ").replace("\n", "; ")


def as_json(graded: Sequence[Graded]) -> dict[str, Any]:
    """``score`` and ``max_score``; below them the items, and the notebooks that they are in."""
    reached, possible = score(graded)
    return {
        "score": reached,
        "max_score": possible,
        "items": [
            {
                "id": v.item.id,
                "title": v.item.title,
                "notebook": printable(one.path.name),
                "score": v.points,
                "max_score": v.item.points,
                "passed": v.passed,
                "started": v.started,
                "message": v.message,
                "diagnosis": v.diagnosis,
            }
            for one in graded
            for v in one.verdicts
        ],
        "notebooks": [
            {
                "file": printable(one.path.name),
                "score": score([one])[0],
                "max_score": score([one])[1],
                "remarks": list(one.remarks),
            }
            for one in graded
        ],
    }


def as_gradescope(graded: Sequence[Graded]) -> dict[str, Any]:
    """Gradescope's results.json (its documentation's "Autograder Specifications")."""
    return {
        "score": score(graded)[0],
        "output": "\n".join(remark for one in graded for remark in one.remarks),
        "tests": [
            {
                "name": f"{v.item.id} {v.item.title}",
                "score": v.points,
                "max_score": v.item.points,
                "status": "passed" if v.passed else "failed",
                "output": "\n".join(filter(None, [v.message, v.diagnosis])),
            }
            for one in graded
            for v in one.verdicts
        ],
    }
