"""From a notebook file to verdicts: which cells are answers, what they do, and how much they are worth."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ldm_edu.grading.execute import Collected, Limits, run
from ldm_edu.grading.item import Item
from ldm_edu.grading.items import ITEMS
from ldm_edu.grading.scan import complaints
from ldm_edu.grading.verdict import Verdict, judge

LARGEST = 50 * 2**20  # bytes of a notebook file


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


def grade(path: Path, limits: Limits | None = None) -> Graded:
    """Grade one exercise notebook. Whatever is wrong with the file becomes a remark, never an exception.

    Its lesson is read off its cells, so that a renamed file is graded alike.
    """
    try:
        cells = _cells(path)
    except (OSError, ValueError) as error:
        items = [item for item in ITEMS.values() if path.name.startswith(item.lesson)]
        remark = f"{path.name} cannot be read as a notebook: {error}"
        return Graded(path, tuple(Verdict(item, False, "the file cannot be read") for item in items), (remark,))
    items = [item.fresh() for item in _items(cells, path)]
    if not items:
        return Graded(path, (), (f"{path.name} holds no exercise of this course",))
    tampered = {cell.place: found for cell in cells if (found := complaints(cell.source))}
    remarks = [f"cell {place + 1} was not run: {found[0]}" for place, found in tampered.items()]
    code = [(c.place, c.source) for c in cells if not c.checks and c.place not in tampered]
    limits = limits or Limits()
    deadline = time.monotonic() + limits.notebook
    collected = run(code, items, limits)
    for item in _disturbed(items, cells, collected):
        others = {cell.place for cell in cells if cell.grade_id and cell.grade_id != item.grade_id}
        alone = [(place, source) for place, source in code if place not in others]
        left = replace(limits, notebook=deadline - time.monotonic())
        collected.outcomes |= run(alone, [item], left).outcomes
    verdicts = []
    for item in items:
        places = [cell.place for cell in cells if cell.grade_id == item.grade_id]
        if bad := next((tampered[place][0] for place in places if place in tampered), None):
            verdicts.append(Verdict(item, False, bad))
        elif item.id in collected.outcomes:
            verdicts.append(judge(item, collected.outcomes[item.id]))
        else:
            verdicts.append(_missing(item, places, collected.errors, collected.trouble.get(item.id, "")))
    solutions = {cell.place for cell in cells if cell.grade_id}
    remarks += [f"cell {p + 1} raised {e}" for p, e in sorted(collected.errors.items()) if p not in solutions]
    return Graded(path, tuple(verdicts), tuple(remarks))


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
    lessons = {cell.grade_id[:2] for cell in cells if cell.grade_id}
    lessons = lessons or {path.name[:2]}
    return [item for item in ITEMS.values() if item.lesson in lessons]


def _cells(path: Path) -> list[_Cell]:
    """The code cells, read so that a notebook with a wrong or a double cell id counts too."""
    if path.stat().st_size > LARGEST:
        raise ValueError(f"it has more than {LARGEST // 2**20} MiB; clear its outputs")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        cells = raw["cells"]
        return [
            _cell(place, cell)
            for place, cell in enumerate(cells)
            if cell["cell_type"] == "code" and _source(cell).strip()
        ]
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"it is no valid JSON ({error}); save it again from JupyterLab") from error
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"it is no notebook ({type(error).__name__}: {error})") from error


def _cell(place: int, cell: dict[str, Any]) -> _Cell:
    marks = cell.get("metadata", {}).get("nbgrader") or {}
    source = _source(cell)
    checks = bool(marks.get("grade")) or source.lstrip().startswith(("check(", "hint("))
    grade_id = str(marks.get("grade_id", "")) if marks.get("solution") else ""
    return _Cell(place, source, "" if checks else grade_id, checks)


def _source(cell: dict[str, Any]) -> str:
    source = cell["source"]
    return source if isinstance(source, str) else "".join(source)
