"""From a notebook file to verdicts: which cells are answers, what they do, and how much they are worth."""

import json
import re
import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ldm_edu.grading.execute import Collected, Limits, run
from ldm_edu.grading.item import Item
from ldm_edu.grading.items import ITEMS
from ldm_edu.grading.outcome import described, printable
from ldm_edu.grading.sandbox import isolates
from ldm_edu.grading.verdict import Verdict, judge

LARGEST = 32 * 2**20  # bytes of a notebook file
CHECK = re.compile(r"""(?:check|hint)\(\s*["']([^"']*)["']""")


@dataclass(frozen=True)
class Graded:
    """One notebook's verdicts, and remarks that concern all of it."""

    path: Path
    verdicts: tuple[Verdict, ...]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Cell:
    place: int
    source: str
    grade_id: str
    checks: bool  # a check or a hint: the grader asks for itself


def grade(path: Path, limits: Limits | None = None, *, isolated: bool | None = None) -> Graded:
    """Grade one exercise notebook. Whatever is wrong with the file becomes a remark, never an exception.

    Its lesson is read off its cells, so that a renamed file is graded alike. ``isolated`` : whether its code runs in a
    sandbox; None: where the computer has one.
    """
    try:
        cells = _cells(path)
        items = [item.fresh() for item in _items(cells, path)]
        if not items:
            return Graded(path, (), (f"{printable(path.name)} holds no exercise of this course",))
        return _graded(path, cells, items, limits or Limits(), isolates("auto") if isolated is None else isolated)
    except (OSError, ValueError) as error:
        return failed(path, f"it cannot be read as a notebook: {error}")
    except Exception as error:  # of the grader itself: it costs this notebook, and no other
        return failed(path, f"it could not be graded ({described(error)})")


def failed(path: Path, why: str) -> Graded:
    """No points for a notebook, and why; its lesson is read off its name."""
    items = [item for item in ITEMS.values() if item.lesson == path.name[:2]]
    words = f"{printable(path.name)}: {printable(why)}"
    return Graded(path, tuple(Verdict(item, False, "the notebook was not graded") for item in items), (words,))


def _graded(path: Path, cells: Sequence[_Cell], items: Sequence[Item], limits: Limits, isolated: bool) -> Graded:
    code = [(cell.place, cell.source) for cell in cells if not cell.checks]
    deadline = time.monotonic() + limits.notebook
    collected = run(code, items, limits, isolated=isolated)
    for item in _disturbed(items, cells, collected):
        others = {cell.place for cell in cells if cell.grade_id and cell.grade_id != item.grade_id}
        alone = [(place, source) for place, source in code if place not in others]
        left = replace(limits, notebook=deadline - time.monotonic())
        collected.outcomes |= run(alone, [item], left, isolated=isolated).outcomes
    verdicts = [_verdict(item, cells, collected) for item in items]
    solutions = {cell.place for cell in cells if cell.grade_id}
    remarks = (f"cell {p + 1} raised {e}" for p, e in sorted(collected.errors.items()) if p not in solutions)
    return Graded(path, tuple(verdicts), tuple(map(printable, remarks)))


def _verdict(item: Item, cells: Sequence[_Cell], collected: Collected) -> Verdict:
    if item.id not in collected.outcomes:
        places = [cell.place for cell in cells if cell.grade_id == item.grade_id]
        found = _missing(item, places, collected.errors, collected.trouble.get(item.id, ""))
    else:
        try:
            found = judge(item, collected.outcomes[item.id])
        except Exception as error:  # an answer that is like no other: it costs this item, and no other
            found = Verdict(item, False, f"the answer cannot be compared ({described(error)})")
    return replace(found, message="\n".join(map(printable, found.message.split("\n"))))


def once(graded: Sequence[Graded]) -> list[Graded]:
    """Every item counts once: where two notebooks hold it, the better answer does, and else the first."""
    best: dict[str, Verdict] = {}
    for verdict in (verdict for one in graded for verdict in one.verdicts):
        if verdict.item.id not in best or verdict.points > best[verdict.item.id].points:
            best[verdict.item.id] = verdict
    counted = []
    for one in graded:
        kept = tuple(verdict for verdict in one.verdicts if best[verdict.item.id] is verdict)
        left = len(one.verdicts) - len(kept)
        remark = (f"{left} of its items stand in another notebook too, and are counted there",) if left else ()
        counted.append(replace(one, verdicts=kept, remarks=one.remarks + remark))
    return counted


def _disturbed(items: Sequence[Item], cells: Sequence[_Cell], collected: Collected) -> list[Item]:
    """Items whose own cell ran, but whose answer could not be called: another item's cell may be why."""
    quiet = {cell.grade_id for cell in cells if cell.grade_id and cell.place not in collected.errors}
    return [item for item in items if item.id in collected.disturbed and item.grade_id in quiet]


def _missing(item: Item, places: Sequence[int], errors: dict[int, str], trouble: str) -> Verdict:
    raised = next((errors[place] for place in places if place in errors), "")
    if raised.startswith("NotImplementedError"):
        return Verdict(item, False, f"not started: `{item.name}` is still to be written", started=False)
    if raised:
        return Verdict(item, False, f"its cell stopped: {raised}")
    if not places:
        return Verdict(item, False, f"its cell is gone; copy it from a fresh notebook (it defines `{item.name}`)")
    return Verdict(item, False, trouble or f"`{item.name}` is not defined")


def _items(cells: Sequence[_Cell], path: Path) -> list[Item]:
    """The items of the lessons that the cells belong to, by their metadata or by what they check, or by the name."""
    lessons = {cell.grade_id[:2] for cell in cells if cell.grade_id}
    lessons = lessons or {name[:2] for cell in cells for name in CHECK.findall(cell.source) if name in ITEMS}
    lessons = lessons or {path.name[:2]}
    return [item for item in ITEMS.values() if item.lesson in lessons]


def _cells(path: Path) -> list[_Cell]:
    """The code cells, read so that whatever else is wrong with the file, or with a cell, costs nothing.

    Raises
    ------
    ValueError
        if the file is none of a notebook's kind.
    """
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode):  # a pipe or a device never ends, a link may lead to somebody else's work
        raise ValueError("it is a link, or no file at all; put a copy of the notebook in its place")
    if status.st_size > LARGEST:
        raise ValueError(f"it has more than {LARGEST // 2**20} MiB; clear its outputs")
    try:
        cells = json.loads(path.read_bytes())["cells"]
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"it is no valid JSON ({error}); save it again from JupyterLab") from error
    except (KeyError, TypeError, RecursionError, ValueError) as error:
        raise ValueError(f"it is no notebook ({described(error)}); save it again from JupyterLab") from error
    if not isinstance(cells, list):
        raise ValueError("it is no notebook (`cells` must be a list); save it again from JupyterLab")
    return _named([_cell(place, cell) for place, cell in enumerate(cells) if _field(cell, "cell_type", str) == "code"])


def _cell(place: int, cell: dict[str, Any]) -> _Cell:
    marks = _field(_field(cell, "metadata", dict), "nbgrader", dict)
    source = cell.get("source")
    text = "".join(line for line in (source if isinstance(source, list) else [source]) if isinstance(line, str))
    checks = all(line.startswith(("check(", "hint(", "#")) for line in text.splitlines() if line.strip())
    return _Cell(place, text, _field(marks, "grade_id", str) if marks.get("solution") and not checks else "", checks)


def _named(cells: list[_Cell]) -> list[_Cell]:
    """Where all metadata is lost, a cell belongs to the item that the next check is for."""
    if any(cell.grade_id for cell in cells):
        return cells
    named, item = [], ""
    for cell in reversed(cells):
        if cell.checks:
            item = next((ITEMS[name].grade_id for name in CHECK.findall(cell.source) if name in ITEMS), item)
            named.append(cell)
        else:
            named.append(replace(cell, grade_id=item))
            item = ""
    return named[::-1]


def _field(values: Any, name: str, kind: type) -> Any:
    """A field of a dictionary that may be missing, or of another kind: then it is empty."""
    value = values.get(name) if isinstance(values, dict) else None
    return value if isinstance(value, kind) else kind()
