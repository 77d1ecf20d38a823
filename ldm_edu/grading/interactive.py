"""`check` and `hint`, as a learner calls them in a notebook."""

import html
import sys
from dataclasses import dataclass
from pathlib import Path

from ldm_edu.grading.item import Item
from ldm_edu.grading.items import ITEMS
from ldm_edu.grading.progress import Progress
from ldm_edu.grading.verdict import Verdict, tried


class CheckFailed(AssertionError):  # noqa: N818 (what learners and nbgrader see: a check that failed)
    """An item is not right yet. Jupyter shows its one line, without a traceback; nbgrader counts it as no points."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


class NoItemError(ValueError):
    """There is no item of that name. Jupyter shows its one line, without a traceback."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


@dataclass(frozen=True)
class Panel:
    """A few lines with a heading: a coloured box in a notebook, plain text elsewhere."""

    mark: str
    heading: str
    lines: tuple[str, ...]
    colour: str

    def __repr__(self) -> str:
        return "\n".join([f"{self.mark} {self.heading}", *(f"  {line}" for line in self.lines)])

    def _repr_html_(self) -> str:
        body = "".join(f'<div style="margin-top: 4px">{_marked(line)}</div>' for line in self.lines)
        return (
            f'<div role="status" style="border-left: 5px solid {self.colour}; padding: 8px 12px; margin: 4px 0">'
            f"<strong>{self.mark} {html.escape(self.heading)}</strong>{body}</div>"
        )


def check(item_id: str, answer: object) -> None:
    """Try an answer on the item's inputs and show what came of it.

    Parameters
    ----------
    item_id : "LESSON.NAME", as it stands in the notebook.
    answer : your function, or your value; not called yet.

    Raises
    ------
    CheckFailed
        if it is not right yet.
    NoItemError
        if there is no such item, naming those of the lesson.
    """
    item = find(item_id).fresh()
    verdict = tried(item, answer)
    Progress.at(Path.cwd()).record(item, passed=verdict.passed)
    show(panel(verdict))
    if not verdict.passed:
        raise CheckFailed(f"{item.id}: {'not right yet' if verdict.started else 'not started'}, see above")


def hint(item_id: str) -> Panel:
    """The next of an item's three hints, with those already opened; it is recorded that you looked.

    Raises
    ------
    NoItemError
        if there is no such item.
    """
    item = find(item_id)
    opened = Progress.at(Path.cwd()).open_hint(item)
    heading = f"{item.id}: hint {opened} of {len(item.hints)}"
    return Panel("·", heading, tuple(f"{i}. {text}" for i, text in enumerate(item.hints[:opened], 1)), BLUE)


GREEN, ORANGE, BLUE, GREY = "#009e73", "#d55e00", "#0072b2", "#8a8a8a"  # of Okabe and Ito's colour-blind safe set


def panel(verdict: Verdict) -> Panel:
    """A verdict as a learner sees it."""
    item, points = verdict.item, f"{verdict.points} of {verdict.item.points} points"
    if verdict.passed:
        return Panel("✓", f"{item.id} passed, {points}", (verdict.message,), GREEN)
    if not verdict.started:
        return Panel("○", f"{item.id}, {points}", (verdict.message, f'`hint("{item.id}")` opens a first hint'), GREY)
    lines = (*filter(None, [verdict.diagnosis]), *verdict.message.split("\n"))  # what helps most comes first
    return Panel("✗", f"{item.id} is not right yet, {points}", lines, ORANGE)


def find(item_id: str) -> Item:
    """The item of that name.

    Raises
    ------
    NoItemError
        if there is none.
    """
    if item_id not in ITEMS:
        near = [name for name in ITEMS if name[:2] == str(item_id)[:2]] or sorted({name[:2] for name in ITEMS})
        raise NoItemError(f"there is no item {item_id!r}; there are {', '.join(near)}")
    return ITEMS[item_id]


def show(shown: Panel) -> None:
    """In a notebook as a box, elsewhere as text."""
    if "IPython" in sys.modules and sys.modules["IPython"].get_ipython() is not None:
        from IPython.display import display

        display(shown)
    else:
        print(shown)


def _marked(line: str) -> str:
    """Escape a line; what stands between backticks is code."""
    parts = html.escape(line).split("`")
    return "".join(f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(parts))
