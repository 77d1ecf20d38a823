"""``ldm-edu grade`` and ``ldm-edu progress``: how far the exercises have come."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from ldm_edu.files import atomic_write_text, check_writable

Where = Annotated[Path, typer.Argument(help="An exercise notebook, or a folder of them.")]


def grade(
    path: Where = Path("exercises"),
    json_file: Annotated[Path | None, typer.Option("--json", help="Write a report as JSON.")] = None,
    gradescope: Annotated[Path | None, typer.Option(help="Write Gradescope's results.json.")] = None,
    pass_mark: Annotated[float, typer.Option(min=0, max=100, help="Percent of the points needed for status 0.")] = 50,
    isolate: Annotated[
        Literal["auto", "require", "off"],
        typer.Option(
            help="Run notebooks in a sandbox (bubblewrap): where there is one, or not without, or not at all."
        ),
    ] = "auto",
) -> None:
    """Grade exercise notebooks, each in a process of its own; nothing in them is changed.

    Exit status 0 from the pass mark on, 1 below it.
    """
    from ldm_edu.grading.notebook import Graded, failed, once
    from ldm_edu.grading.notebook import grade as grade_notebook
    from ldm_edu.grading.outcome import printable
    from ldm_edu.grading.report import as_gradescope, as_json, score, table
    from ldm_edu.grading.sandbox import isolates, unprotected

    for file in (json_file, gradescope):
        if file is not None:
            check_writable(file)
    graded: list[Graded] = []
    try:
        isolated = isolates(isolate)
        if not isolated:
            typer.echo(f"ldm-edu: {unprotected(isolate)}", err=True)
        for notebook in notebooks(path):
            typer.echo(f"grading {printable(notebook.name)} ...", err=True)
            graded.append(grade_notebook(notebook, isolated=isolated))
    except (ValueError, OSError) as error:  # a class's platform waits for the report, whatever happens
        graded.append(failed(path, str(error)))
        raise
    finally:
        graded = once(graded)
        for file, values in ((json_file, as_json), (gradescope, as_gradescope)):
            if file is not None:
                atomic_write_text(file, json.dumps(values(graded), indent=1, ensure_ascii=False) + "\n")
    for line in table(graded):
        typer.echo(line)
    reached, possible = score(graded)
    if not possible or 100 * reached < pass_mark * possible:
        raise typer.Exit(1)


def progress(path: Where = Path("exercises")) -> None:
    """Show what is done and what comes next, from what ``check`` and ``hint`` recorded in the notebooks."""
    from ldm_edu.grading.items import ITEMS
    from ldm_edu.grading.progress import Progress

    if not path.exists():
        raise _no_notebook(path)
    done = Progress.at(path if path.is_dir() else path.parent).read()
    for lesson in sorted({item.lesson for item in ITEMS.values()}):
        items = [item for item in ITEMS.values() if item.lesson == lesson]
        passed = [item for item in items if done.get(item.id, {}).get("passed")]
        points, possible = sum(item.points for item in passed), sum(item.points for item in items)
        typer.echo(f"lesson {lesson}: {len(passed)} of {len(items)} items, {points} of {possible} points")
        for item in items:
            entry = done.get(item.id, {})
            state = "✓" if entry.get("passed") else "✗" if entry.get("tries") else "○"
            tries, hints = entry.get("tries", 0), entry.get("hints", 0)
            told = f"  ({tries} tries, {hints} hints)" if entry else ""
            typer.echo(f"  {state} {item.id:<22} {item.title}{told}")
    after = next((item for item in ITEMS.values() if not done.get(item.id, {}).get("passed")), None)
    typer.echo(f"next: {after.id}, {after.title} (about {after.minutes} minutes)" if after else "all done")


def notebooks(path: Path) -> list[Path]:
    """The notebook at ``path``, or all of a folder; where it holds none, those of the folders in it (an unpacked zip).

    Raises
    ------
    ValueError
        if there is none.
    """
    if not path.is_dir():
        found = [path] if path.exists() else []
    else:
        found = sorted(path.glob("*.ipynb")) or sorted(p for p in path.rglob("*.ipynb") if not _hidden(p, path))
    if not found:
        raise _no_notebook(path)
    return found


def _hidden(path: Path, folder: Path) -> bool:
    """Whether a file is a program's own copy: .ipynb_checkpoints, __MACOSX."""
    return any(part.startswith((".", "__")) for part in path.relative_to(folder).parts)


def _no_notebook(path: Path) -> ValueError:
    return ValueError(f"there is no notebook at {path}; the exercises are in the course's folder `exercises`")
