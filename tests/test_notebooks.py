"""Every lesson runs from start to end in a fresh kernel without a network, and is what its text says.

`notebooks/text/NN.py` is what people edit and review; `notebooks/NN.ipynb` is the same, executed.
"""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
LESSONS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TEXTS = sorted((ROOT / "notebooks" / "text").glob("*.py"))
MINUTES = 15  # a lesson takes 4 at most on two idle cores; a busy machine gets more before it counts as hanging


def execute(notebook: Path) -> subprocess.CompletedProcess[str]:
    """Run all cells with nbval in a kernel of their own; saved output is compared where a cell asks for it."""
    command = [
        *(sys.executable, "-m", "pytest", "--nbval-lax", "--nbval-current-env", "-q", "--no-header", "--tb=short"),
        *("-p", "no:cacheprovider", "-o", "addopts=", "-o", "testpaths=", "--rootdir", str(notebook.parent)),
        *(f"--nbval-cell-timeout={MINUTES * 60}", "--nbval-kernel-startup-timeout=120", str(notebook)),
    ]
    path = os.pathsep.join([str(ROOT / "tests" / "offline"), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    return subprocess.run(
        command, cwd=notebook.parent, env=environment, capture_output=True, text=True, timeout=MINUTES * 60 + 180
    )


def write(path: Path, *cells: str) -> Path:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, path)
    return path


def cells_of(notebook: Any) -> list[tuple[str, str]]:
    return [(cell.cell_type, cell.source.rstrip()) for cell in notebook.cells]


def test_there_is_a_lesson_00() -> None:
    assert [path.name for path in LESSONS if path.name.startswith("00_")] == ["00_start_here.ipynb"]


def test_every_text_has_its_notebook_and_the_reverse() -> None:
    assert [path.stem for path in TEXTS] == [path.stem for path in LESSONS]


@pytest.mark.notebook
@pytest.mark.parametrize("text", TEXTS, ids=lambda path: path.stem)
def test_notebook_and_text_are_the_same_cells(text: Path) -> None:
    lesson = ROOT / "notebooks" / f"{text.stem}.ipynb"
    assert lesson.is_file(), f"run `make lessons LESSON={text.stem}`"
    written, executed = jupytext.read(text), nbformat.read(lesson, as_version=4)
    assert cells_of(executed) == cells_of(written), f"run `make lessons LESSON={text.stem}`"


@pytest.mark.notebook
@pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)
def test_the_saved_notebook_shows_its_pictures(lesson: Path) -> None:
    """A reader on the web sees only what is saved."""
    notebook = nbformat.read(lesson, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    outputs = [output for cell in code for output in cell.outputs]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), "not run from start to end"
    assert [output for output in outputs if output.output_type == "error"] == []
    pictures = [o for o in outputs if any(kind.startswith("image/") for kind in o.get("data", {}))]
    assert pictures, "no picture is saved"


@pytest.mark.parametrize("text", TEXTS, ids=lambda path: path.stem)
def test_a_lesson_has_its_parts(text: Path) -> None:
    words = text.read_text(encoding="utf-8")
    parts = ["**The question.**", "**After this lesson you can**", "**You need**", "**Time**", "**What to see.**"]
    parts += ["## Recap", "quiz(", "## Go on", "arXiv"]
    if (ROOT / "exercises" / f"{text.stem}.ipynb").is_file():
        parts += [f"(../exercises/{text.stem}.ipynb)", "assert_close("]
    assert [part for part in parts if part not in words] == []


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)
def test_every_picture_of_a_lesson_has_words(lesson: Path) -> None:
    shown = [o for cell in nbformat.read(lesson, as_version=4).cells for o in cell.get("outputs", [])]
    pages = [output["data"].get("text/html", "") for output in shown if "data" in output]
    pictures = [tag for page in pages for tag in re.findall(r"<img [^>]*>", page)]
    assert pictures
    assert [tag[-200:] for tag in pictures if not re.search(r'alt="[^"]{10,}"', tag)] == []


@pytest.mark.slow
@pytest.mark.notebook
@pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)
def test_the_lesson_runs(lesson: Path) -> None:
    before = lesson.read_bytes()
    done = execute(lesson)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    cells = [c for c in nbformat.read(lesson, as_version=4).cells if c.cell_type == "code" and c.source.strip()]
    assert re.search(rf"\b{len(cells)} passed", done.stdout), done.stdout[-500:]
    assert lesson.read_bytes() == before


@pytest.mark.slow
@pytest.mark.notebook
def test_the_harness_fails_bad_cells_and_cuts_the_network(tmp_path: Path) -> None:
    child = "import socket; socket.getaddrinfo('example.com', 80)"
    done = execute(
        write(
            tmp_path / "bad.ipynb",
            "import ldm_edu, socket, subprocess, sys, urllib.request",
            "x = 1",
            "assert x == 2, 'as it should'",
            "urllib.request.urlopen('http://example.com', timeout=5)",
            "socket.create_connection(('192.0.2.1', 80), timeout=5)",
            f"done = subprocess.run([sys.executable, '-c', {child!r}], capture_output=True, text=True)\n"
            "assert done.returncode == 0, done.stderr",
        )
    )
    assert done.returncode == 1
    assert "4 failed, 2 passed" in done.stdout, done.stdout
    assert "as it should" in done.stdout
    for host in ("example.com", "192.0.2.1"):
        assert f"the network is cut in this test: '{host}'" in done.stdout
    assert re.search(r"AssertionError.*the network is cut", re.sub(r"\x1b\[[0-9;]*m", "", done.stdout), re.S)
