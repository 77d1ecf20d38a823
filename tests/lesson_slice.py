"""Run what one cell of a lesson needs, and then the cell: `python tests/lesson_slice.py TEXT MARK [DEFECT]`.

The cell is the first whose code contains MARK. Of the cells above, those run that define a name which it uses, directly
or through other cells; trainings and drawings that it does not use are left out. DEFECT is Python that is run first.
Prints "passed", or the kind of the error that the cell itself raised; an error before it ends the program.
"""

import ast
import os
import sys
from pathlib import Path
from typing import Any

import jupytext


def names(code: str) -> tuple[set[str], set[str]]:
    """The names that a cell defines (or changes), and those that it uses."""
    defined, used = set(), set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else defined).add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            defined.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            defined |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, (ast.Attribute, ast.Subscript)) and isinstance(node.ctx, ast.Store):
            defined |= {inner.id for inner in ast.walk(node.value) if isinstance(inner, ast.Name)}
    return defined, used


def needed(cells: list[str], mark: str) -> list[str]:
    """The cells to run, the last of them the one with the mark."""
    place = next((i for i, cell in enumerate(cells) if mark in cell), None)
    if place is None:
        sys.exit(f"no cell contains {mark!r}")
    chosen, wanted = [cells[place]], names(cells[place])[1]
    for cell in reversed(cells[:place]):
        defined, used = names(cell)
        if defined & wanted:
            chosen.insert(0, cell)
            wanted |= used
    return chosen


def main() -> None:
    """Run the slice."""
    text, mark, defect = Path(sys.argv[1]).resolve(), sys.argv[2], "".join(sys.argv[3:])
    cells = [cell.source for cell in jupytext.read(text).cells if cell.cell_type == "code"]
    os.chdir(text.parent.parent)  # where a lesson's kernel starts
    *above, target = needed(cells, mark)
    state: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(defect, "defect", "exec"), {})
    for cell in above:
        exec(compile(cell, "cell", "exec"), state)
    try:
        exec(compile(target, "target", "exec"), state)
    except Exception as error:
        print(f"failed: {type(error).__name__}")
    else:
        print("passed")


if __name__ == "__main__":
    main()
