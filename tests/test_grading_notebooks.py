"""Whole notebooks through the grader: solutions, stubs, every wrong answer, and notebooks that mean harm."""

import json
import re
import resource
import subprocess
import sys
import time
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from textwrap import indent
from typing import Any

import nbformat
import pytest
from typer.testing import CliRunner

from ldm_edu.cli import app
from ldm_edu.grading.execute import Limits
from ldm_edu.grading.items import ITEMS
from ldm_edu.grading.notebook import Graded, grade, once
from ldm_edu.grading.report import score, table
from ldm_edu.grading.verdict import Verdict

ROOT = Path(__file__).resolve().parent.parent
EXERCISES = sorted((ROOT / "exercises").glob("*.ipynb"))
LESSONS = [path.name[:2] for path in EXERCISES]
QUICK = Limits(cell=6, answer=4)

pytestmark = pytest.mark.slow


def exercise(lesson: str) -> Any:
    path = next(path for path in EXERCISES if path.name.startswith(lesson))
    return nbformat.read(path, as_version=4)


def items(lesson: str) -> list[Any]:
    return [item for item in ITEMS.values() if item.lesson == lesson]


def answered(lesson: str, answers: dict[str, str], first: str = "") -> Any:
    """The exercise of a lesson with the source of some solution cells replaced, and code run before them."""
    notebook = exercise(lesson)
    cells = {cell.metadata.get("nbgrader", {}).get("grade_id"): cell for cell in notebook.cells}
    for item_id, source in answers.items():
        cells[ITEMS[item_id].grade_id].source = source
    notebook.cells.insert(2, nbformat.v4.new_code_cell(first))
    return notebook


def graded(notebook: Any, folder: Path, name: str = "01_forward_noising.ipynb") -> Graded:
    path = folder / name
    nbformat.write(notebook, path)
    return grade(path, QUICK)


def points(result: Graded) -> dict[str, int]:
    return {verdict.item.id: verdict.points for verdict in result.verdicts}


def as_learner_code(lesson: str) -> str:
    """The module of a lesson's items as a learner could have typed it: nothing is imported from the package."""
    module = import_module(f"ldm_edu.grading.items.l{lesson}")
    source = Path(str(module.__file__)).read_text(encoding="utf-8")
    parts = "class Part:\n    def __init__(self, *args, **named):\n        self.args = args\n"
    parts += "        self.id = args[0] if args else ''\n        self.__dict__.update(named)\n\n"
    parts += "Case = Item = Mistake = Part\n"  # what draws the cases is not called by an answer
    source = re.sub(r"from ldm_edu.grading.draw import .*\n", "", source)
    source = source.replace("from ldm_edu.grading.item import Case, Item, Mistake", parts)
    assert "ldm_edu" not in source.replace("`ldm_edu", "")
    # in a function, so that an answer of the same name does not get in the way of the wrong ones built on it
    return f"def learn():\n{indent(source, '    ')}\n    return ITEMS\n\nLEARNED_{lesson} = learn()"


@pytest.mark.parametrize("lesson", LESSONS)
def test_the_solutions_get_full_marks(lesson: str) -> None:
    result = grade(next((ROOT / "solutions").glob(f"{lesson}_*.ipynb")))
    assert score([result]) == (sum(item.points for item in items(lesson)),) * 2, list(table([result]))
    assert result.remarks == ()


@pytest.mark.parametrize("lesson", LESSONS)
def test_the_stubs_get_nothing_and_a_friendly_word(lesson: str) -> None:
    result = grade(next(path for path in EXERCISES if path.name.startswith(lesson)))
    assert score([result])[0] == 0
    for verdict in result.verdicts:
        assert verdict.started == (verdict.item.kind == "debug")
        assert verdict.diagnosis if verdict.started else "not started" in verdict.message
    assert "Traceback" not in "\n".join(table([result]))


def course(answers: dict[str, str]) -> Any:
    """One notebook with answers to items of all lessons: a kernel's start is what takes the time."""
    names = [ITEMS[item_id].name for item_id in answers]
    assert len(set(names)) == len(names), "two items of the course have one name"
    cells = [nbformat.v4.new_code_cell(as_learner_code(lesson)) for lesson in LESSONS]
    for item_id, source in answers.items():
        cell = nbformat.v4.new_code_cell(source)
        cell.metadata["nbgrader"] = {"solution": True, "grade": False, "grade_id": ITEMS[item_id].grade_id}
        cells.append(cell)
    return nbformat.v4.new_notebook(cells=cells)


def learned(item: Any) -> str:
    return f"next(i for i in LEARNED_{item.lesson} if i.id == {item.id!r})"


@pytest.mark.parametrize("turn", range(max(len(item.mistakes) for item in ITEMS.values())))
def test_every_wrong_answer_gets_its_diagnosis_from_the_notebook(turn: int, tmp_path: Path) -> None:
    chosen = {item.id: item.mistakes[turn] for item in ITEMS.values() if turn < len(item.mistakes)}
    answers = {i: f"{ITEMS[i].name} = {learned(ITEMS[i])}.mistakes[{turn}].args[1]" for i in chosen}
    found = {verdict.item.id: verdict for verdict in graded(course(answers), tmp_path).verdicts}
    got = {item_id: (found[item_id].points, found[item_id].diagnosis) for item_id in chosen}
    assert got == {item_id: (0, mistake.diagnosis) for item_id, mistake in chosen.items()}


@pytest.mark.parametrize("turn", range(2))
def test_right_answers_written_differently_pass_in_the_notebook(turn: int, tmp_path: Path) -> None:
    answers = {i: f"{item.name} = {learned(item)}.others[{[*item.others][turn]!r}]" for i, item in ITEMS.items()}
    result = graded(course(answers), tmp_path)
    assert len(result.verdicts) == len(ITEMS)
    assert [verdict for verdict in result.verdicts if not verdict.passed] == []


RIGHT = {
    "01.snr": "def snr(alpha_bar):\n    return alpha_bar / (1 - alpha_bar)",
    "01.one_step": "def one_step(x, eps, beta):\n    return (1 - beta) ** 0.5 * x + beta ** 0.5 * eps",
}


def test_each_harm_costs_its_own_item_only(tmp_path: Path) -> None:
    hostile = {
        "01.alpha_bar": "def alpha_bar(*_):\n    while True:\n        try:\n            while True: pass\n"
        "        except BaseException: pass",
        "01.q_sample": "import os\ndef q_sample(*_):\n    os._exit(0)",
        "01.recover_x0": "def recover_x0(*_):\n    return torch.ones(25_000_000_000)",
        "01.scaled_linear": "import os\ndef scaled_linear(*_):\n    while True: os.fork()",
        "01.even_time": "import sys\nsys.exit(0)",
        "01.left_at_the_end": "for _ in range(100):\n    print('x' * 1_000_000)\nleft_at_the_end = 0.00468",
    }
    right = {"01.snr": 2, "01.one_step": 2, "01.left_at_the_end": 3}
    result = graded(answered("01", RIGHT | hostile), tmp_path)
    assert {k: v for k, v in points(result).items() if v} == right, list(table([result]))
    words = {verdict.item.id: verdict.message for verdict in result.verdicts}
    assert "endless loop" in words["01.alpha_bar"]
    assert "ended the whole notebook" in words["01.q_sample"]
    assert "memory" in words["01.recover_x0"]
    assert "one process after the other" in words["01.scaled_linear"]
    assert "SystemExit" in words["01.even_time"]


SPAWN = "import subprocess, time\nfor _ in range(40):\n    subprocess.Popen(['sleep', '60'])\ntime.sleep(5)"


@pytest.mark.parametrize(
    "harm",
    [
        {"while True: pass": "endless loop", "import os\nos._exit(0)": "ended the whole notebook"},
        {"import os\nos.kill(os.getpid(), 9)": "ended the whole notebook", SPAWN: "one process after the other"},
        {
            "raise ValueError('mine')": "ValueError: mine",
            "kept = [0] * 10**11": "MemoryError",
            "raise ValueError('x' * 10**8)": "ValueError: xxx",
            "class Odd(Exception):\n    def __str__(self): raise SystemExit\nraise Odd": "Odd: its words cannot be",
            "import subprocess\nsubprocess.run(['false'], check=True)": "CalledProcessError",
            "x =": "SyntaxError",
        },
    ],
    ids=["loop and exit", "kill and spawn", "errors"],
)
def test_a_cell_of_the_learners_own_costs_nothing(harm: dict[str, str], tmp_path: Path) -> None:
    notebook = answered("01", RIGHT)
    notebook.cells[2:2] = [nbformat.v4.new_code_cell(source) for source in harm]
    result = graded(notebook, tmp_path)
    assert points(result)["01.snr"] == 2
    for place, words in enumerate(harm.values(), 3):
        assert any(r.startswith(f"cell {place} raised") and words in r for r in result.remarks), result.remarks


def test_a_notebook_gets_so_much_time_and_no_more(tmp_path: Path) -> None:
    notebook = answered("01", RIGHT)
    notebook.cells[2:2] = [nbformat.v4.new_code_cell("import time\ntime.sleep(1)") for _ in range(100)]
    path = tmp_path / "01_forward_noising.ipynb"
    nbformat.write(notebook, path)
    start = time.monotonic()
    result = grade(path, replace(QUICK, notebook=5))
    assert time.monotonic() - start < 60, "100 seconds of sleep were not slept"
    assert all("no time was left" in verdict.message for verdict in result.verdicts)


UNREADABLE = ["x = 1\0", "-" * 100_000 + "1", "x" + ".y" * 200_000, "x = '\ud800'", "def (", "(" * 100_000]


def test_a_cell_that_cannot_be_read_costs_its_own_item_only(tmp_path: Path) -> None:
    path = tmp_path / "01_forward_noising.ipynb"
    raw = json.loads(nbformat.writes(answered("01", RIGHT)))
    cell = next(c for c in raw["cells"] if c["metadata"].get("nbgrader", {}).get("grade_id") == "01-q_sample")
    cell["source"] = UNREADABLE[0]
    raw["cells"][2:2] = [{"cell_type": "code", "metadata": {}, "source": source} for source in UNREADABLE]
    path.write_text(json.dumps(raw))
    result = grade(path, QUICK)
    assert {k: v for k, v in points(result).items() if v} == {"01.snr": 2, "01.one_step": 2}
    assert all(verdict.message for verdict in result.verdicts)


def test_what_one_cell_does_later_costs_no_other_item(tmp_path: Path) -> None:
    late = "import os, threading\nthreading.Timer(0.3, os._exit, [0]).start()\ndef q_sample(*_):\n    pass"
    result = graded(answered("01", RIGHT | {"01.q_sample": late}), tmp_path)
    assert {k: v for k, v in points(result).items() if v} == {"01.snr": 2, "01.one_step": 2}, list(table([result]))


SHOWN = (
    "'x' * 10**8",
    "import os\nfor _ in range(256):\n    os.write(1, b'x' * 2**20)",
    "from IPython.display import HTML, display\nfor _ in range(20):\n    display(HTML('x' * 50_000_000))",
)


def test_gigabytes_that_are_shown_stay_in_their_own_process(tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    notebook = answered("01", RIGHT)
    notebook.cells[2:2] = [nbformat.v4.new_code_cell(source) for source in SHOWN]
    result = graded(notebook, tmp_path)
    assert points(result)["01.snr"] == 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024, "KiB"


@pytest.mark.parametrize(
    "change", ["deleted check", "edited check", "renamed", "duplicate ids", "moved", "no metadata"]
)
def test_what_happens_to_the_check_cells_changes_no_marks(change: str, tmp_path: Path) -> None:
    notebook, name = answered("01", RIGHT | {"01.recover_x0": "def recover_x0(x, e, a):\n    return x"}), "01_x.ipynb"
    for cell in list(notebook.cells):
        if cell.source.startswith("check("):
            if change == "deleted check":
                notebook.cells.remove(cell)
            if change == "edited check":
                cell.source = "assert True"
    if change == "renamed":
        name = "my homework (2).ipynb"
    if change == "no metadata":
        name = "Copy of homework.ipynb"
        for cell in notebook.cells:
            cell.metadata = {}
    if change == "moved":
        notebook.cells[3:] = notebook.cells[:2:-1]
    path = tmp_path / name
    nbformat.write(notebook, path)
    if change == "duplicate ids":
        raw = json.loads(path.read_text())
        for cell in raw["cells"]:
            cell["id"] = "same"
        path.write_text(json.dumps(raw))
    result = grade(path, QUICK)
    assert {k: v for k, v in points(result).items() if v} == {"01.snr": 2, "01.one_step": 2}


def test_the_command_writes_both_reports_and_fails_below_the_pass_mark(tmp_path: Path) -> None:
    folder = tmp_path / "handed in"
    folder.mkdir()
    nbformat.write(answered("01", RIGHT), folder / "01_forward_noising.ipynb")
    report, scope = tmp_path / "report.json", tmp_path / "results.json"
    command = ["grade", str(folder), "--json", str(report), "--gradescope", str(scope)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1
    assert "4 of 23 points" in result.output
    values = json.loads(report.read_text())
    assert (values["score"], values["max_score"]) == (4, 23)
    assert sum(item["score"] for item in values["items"]) == 4
    assert [item["id"] for item in values["items"] if item["passed"]] == ["01.one_step", "01.snr"]
    assert [notebook["file"] for notebook in values["notebooks"]] == ["01_forward_noising.ipynb"]
    assert sum(test["score"] for test in json.loads(scope.read_text())["tests"]) == 4
    assert CliRunner().invoke(app, [*command, "--pass-mark", "15"]).exit_code == 0


def test_an_item_handed_in_twice_counts_once_and_the_better_one() -> None:
    def handed_in(name: str, right: str) -> Graded:
        return Graded(Path(name), tuple(Verdict(i, i.id == right, "so") for i in items("01")))

    poor, rich, rich_too = handed_in("a.ipynb", ""), handed_in("b.ipynb", "01.snr"), handed_in("c.ipynb", "01.snr")
    first, second = once([poor, rich, rich_too])[:2]
    assert score(once([poor, rich, rich_too])) == (2, 23)
    assert [v.item.id for v in second.verdicts] == ["01.snr"]
    assert len(first.verdicts) == 7
    assert "1 of its items" in first.remarks[0]
    assert once([rich]) == [rich]


def test_the_exercises_are_what_the_solutions_give() -> None:
    command = [sys.executable, str(ROOT / "solutions" / "build.py"), "--check"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, f"run `make exercises`\n{result.stdout}{result.stderr}"


def test_no_solution_is_in_an_exercise() -> None:
    for path in EXERCISES:
        text = path.read_text(encoding="utf-8")
        assert "BEGIN SOLUTION" not in text
        assert "END SOLUTION" not in text
