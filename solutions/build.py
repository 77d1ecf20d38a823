"""Build the exercises: solutions/text/NAME.py becomes solutions/NAME.ipynb and, cleared, exercises/NAME.ipynb.

    python solutions/build.py           write both for every lesson
    python solutions/build.py --check   say which files differ from what would be written; status 1 if one does

In a text, a markdown cell tagged ``item="01.q_sample"`` introduces an item, and a code cell tagged
``solution="01.q_sample"`` answers it. The heading, the hint cell, the check cell and nbgrader's metadata are added
here, from the item itself, so that points and names stand in one place. The solutions are cleared by nbgrader's own
preprocessors.
"""

import argparse
import copy
import logging
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbgrader.preprocessors import ClearOutput, ClearSolutions, ComputeChecksums, LockCells
from traitlets.config import Config

from ldm_edu.files import atomic_write_text
from ldm_edu.grading.item import Item
from ldm_edu.grading.items import ITEMS

HERE = Path(__file__).resolve().parent
EXERCISES = HERE.parent / "exercises"
STUBS = {  # a function that runs already, or a value that is already there, needs no error in its place
    "implement": "# your code here\nraise NotImplementedError",
    "debug": "# correct the function above, in its place",
    "investigate": "# replace the three dots by your answer, or by the code that computes it",
}


def master(text: Path) -> Any:
    """The notebook with solutions."""
    written = jupytext.read(text)
    cells: list[Any] = []
    for cell in written.cells:
        marks = dict(cell.metadata)
        cell.metadata = {}
        if "item" in marks:
            item = ITEMS[marks["item"]]
            cell.source = f"{heading(item)}\n\n{cell.source}\n\n*Why it matters.* {item.why}"
        cells.append(cell)
        if "solution" in marks:
            item = ITEMS[marks["solution"]]
            cell.metadata["nbgrader"] = mark(item.grade_id, solution=True)
            ask = nbformat.v4.new_code_cell(f'hint("{item.id}")')
            test = nbformat.v4.new_code_cell(f'check("{item.id}", {item.name})')
            test.metadata["nbgrader"] = mark(f"{item.grade_id}-check", points=item.points)
            cells += [ask, test]
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for place, cell in enumerate(notebook.cells):
        cell.id = f"{place:02d}-{sha256(cell.source.encode()).hexdigest()[:8]}"
    return notebook


def heading(item: Item) -> str:
    """What an item is, and what it costs and brings."""
    dots = "●" * item.difficulty + "○" * (3 - item.difficulty)
    points = "1 point" if item.points == 1 else f"{item.points} points"
    return f"## {item.title}\n\n`{item.id}` · {item.kind} · {points} · difficulty {dots} · about {item.minutes} minutes"


def mark(grade_id: str, *, solution: bool = False, points: int = 0) -> dict[str, Any]:
    """nbgrader's metadata, version 3 of its schema."""
    marks = {"schema_version": 3, "grade_id": grade_id, "solution": solution, "grade": not solution, "task": False}
    return marks | ({"locked": False} if solution else {"locked": True, "points": points})


def release(solved: Any) -> Any:
    """The notebook for learners: nbgrader's preprocessors, one after the other."""
    logging.getLogger("traitlets").setLevel(logging.ERROR)
    notebook, resources = copy.deepcopy(solved), {}
    kinds = {item.grade_id: item.kind for item in ITEMS.values()}
    for cell in notebook.cells:
        kind = kinds.get(cell.metadata.get("nbgrader", {}).get("grade_id", ""))
        if kind:
            config = Config({"ClearSolutions": {"code_stub": {"python": STUBS[kind]}, "enforce_metadata": True}})
            ClearSolutions(config=config).preprocess_cell(cell, {"language": "python"}, 0)
    for step in (LockCells(), ClearOutput(), ComputeChecksums()):
        notebook, resources = step.preprocess(notebook, resources)
    return notebook


def content(notebook: Any) -> str:
    """The bytes of a notebook file, the same for the same cells."""
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    nbformat.validate(notebook)
    return nbformat.writes(notebook) + "\n"


def wanted() -> dict[Path, str]:
    """Every file that is generated, and what it should hold."""
    files = {}
    for text in sorted((HERE / "text").glob("*.py")):
        solved = master(text)
        files[HERE / f"{text.stem}.ipynb"] = content(solved)
        files[EXERCISES / f"{text.stem}.ipynb"] = content(release(solved))
    return files


def main() -> None:
    """Write, or check, all exercises."""
    parser = argparse.ArgumentParser(description="Build the exercises from their solutions.")
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 if a file is not up to date")
    check = parser.parse_args().check
    files = wanted()
    stale = [p for p, text in files.items() if not p.is_file() or p.read_text(encoding="utf-8") != text]
    for path in stale:
        if not check:
            EXERCISES.mkdir(exist_ok=True)
            atomic_write_text(path, files[path])
        print(f"{path.parent.name}/{path.name}: {'not up to date' if check else 'written'}")
    sys.exit(bool(stale) and check)


if __name__ == "__main__":
    main()
