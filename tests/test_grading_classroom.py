"""The exercises in nbgrader's own hands: release, validate, autograde and feedback, as docs/classroom.md says."""

import json
import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from ldm_edu.grading.items import ITEMS

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "classroom.md"
NAME = "01_forward_noising"

pytestmark = pytest.mark.slow


def commands(heading: str) -> list[str]:
    """All commands of the page below a heading."""
    part = PAGE.read_text(encoding="utf-8").partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for block in re.findall(r"```bash\n(.*?)```", part, re.DOTALL) for line in block.splitlines()]
    assert lines, heading
    return lines


def shell(line: str, folder: Path) -> str:
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "COURSE": str(ROOT),
        "SUBMISSION": str(folder / "ldm-class" / "submitted" / "ben" / "lesson01"),
        "RESULTS": str(folder),
        "JUPYTER_DATA_DIR": str(folder / ".jupyter"),
        "JUPYTER_CONFIG_DIR": str(folder / ".jupyter"),
        "JUPYTER_RUNTIME_DIR": str(folder / ".jupyter"),
        "IPYTHONDIR": str(folder / ".jupyter"),
    }
    result = subprocess.run(
        ["bash", "-ec", line], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, f"{line}\n{result.stdout}{result.stderr}"
    return result.stdout + result.stderr


def test_every_block_of_the_page_is_run() -> None:
    page = PAGE.read_text(encoding="utf-8")
    headings = ("Set up the course", "Hand out", "Collect", "Grade", "Hand back")
    assert sum(len(commands(h)) for h in headings) == sum(
        b.count("\n") for b in re.findall(r"```bash\n(.*?)```", page, re.S)
    )


def test_a_class_from_release_to_feedback(tmp_path: Path) -> None:
    for heading in ("Set up the course", "Hand out"):
        for line in commands(heading):
            shell(line, tmp_path)
    course = tmp_path / "ldm-class"
    released = course / "release" / "lesson01" / f"{NAME}.ipynb"
    assert "BEGIN SOLUTION" not in released.read_text(encoding="utf-8")

    good = nbformat.read(course / "source" / "lesson01" / f"{NAME}.ipynb", as_version=4)
    half = nbformat.read(released, as_version=4)
    solved = {c.metadata.get("nbgrader", {}).get("grade_id"): c.source for c in good.cells}
    for cell in half.cells:
        if cell.metadata.get("nbgrader", {}).get("grade_id") == "01-q_sample":
            cell.source = solved["01-q_sample"]
    eve = nbformat.read(released, as_version=4)
    for cell in eve.cells:
        if cell.metadata.get("nbgrader", {}).get("grade_id") == "01-q_sample":
            cell.source = (
                "import ldm_edu.grading\ncheck = ldm_edu.grading.check = print\nq_sample = snr = alpha_bar = 1"
            )
        if cell.metadata.get("nbgrader", {}).get("grade_id") == "01-one_step":
            cell.source = "import os\nos._exit(0)"
        if cell.metadata.get("nbgrader", {}).get("grade_id") == "01-recover_x0":
            cell.source = solved["01-recover_x0"]
    for student, notebook in (("ada", good), ("ben", half), ("eve", eve)):
        folder = course / "submitted" / student / "lesson01"
        folder.mkdir(parents=True)
        nbformat.write(notebook, folder / f"{NAME}.ipynb")

    said = "".join(shell(line, tmp_path) for line in commands("Collect"))
    assert "01.snr" in said
    for heading in ("Grade", "Hand back"):
        for line in commands(heading):
            shell(line, tmp_path)
    rows = (course / "grades.csv").read_text(encoding="utf-8").splitlines()
    header = rows[0].split(",")
    grades = {row.split(",")[header.index("student_id")]: row.split(",") for row in rows[1:]}
    full = sum(item.points for item in ITEMS.values() if item.lesson == "01")
    assert float(grades["ada"][header.index("score")]) == float(grades["ada"][header.index("max_score")]) == full
    assert float(grades["ben"][header.index("score")]) == ITEMS["01.q_sample"].points
    assert float(grades["eve"][header.index("score")]) == ITEMS["01.recover_x0"].points
    for student, points in (("ada", full), ("ben", ITEMS["01.q_sample"].points)):
        assert json.loads((course / f"{student}.json").read_text(encoding="utf-8"))["score"] == points
    assert json.loads((tmp_path / "results.json").read_text())["score"] == ITEMS["01.q_sample"].points
    feedback = course / "feedback" / "ben" / "lesson01" / f"{NAME}.html"
    assert "01.q_sample passed" in feedback.read_text(encoding="utf-8")
    with sqlite3.connect(course / "gradebook.db") as gradebook:
        assert gradebook.execute("select count(*) from student").fetchone() == (3,)
