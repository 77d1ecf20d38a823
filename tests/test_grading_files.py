"""What may be handed in besides a notebook: files that are none, odd cells, links, pipes, folders in folders."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from ldm_edu.cli import app
from ldm_edu.cli.grade import notebooks
from ldm_edu.grading import notebook as grading
from ldm_edu.grading.execute import Collected
from ldm_edu.grading.items import ITEMS
from ldm_edu.grading.notebook import grade
from ldm_edu.grading.report import as_gradescope, as_json
from ldm_edu.grading.verdict import outcomes

FIRST = [item for item in ITEMS.values() if item.lesson == "01"]
FULL = sum(item.points for item in FIRST)


@pytest.fixture
def _solved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every answer is right, and no process is started: these tests are about files."""

    def run(_: Any, items: Any, *__: Any, **___: Any) -> Collected:
        return Collected({item.id: outcomes(item, item.answer, ours=True) for item in items})

    monkeypatch.setattr(grading, "run", run)


def notebook_of(*sources: Any, **fields: Any) -> bytes:
    cells = [{"cell_type": "code", "metadata": {}, "source": source} | fields for source in sources]
    return json.dumps({"cells": cells}).encode()


CHECKS = 'check("01.snr", snr)'
SPLIT = ["check(", '"01.snr", snr)']


@pytest.mark.usefixtures("_solved")
@pytest.mark.parametrize(
    "content",
    [
        notebook_of("x = 1", CHECKS),
        notebook_of("x = 1", SPLIT),
        notebook_of("x = 1", 'hint( "01.snr" )'),
        notebook_of(CHECKS, metadata=None),
        notebook_of(CHECKS, metadata={"nbgrader": 3}),
        notebook_of(CHECKS, metadata={"nbgrader": {"solution": True, "grade_id": ["01"]}}),
        notebook_of(CHECKS, None, 7, {}, [1, 2], []),
        b"\xef\xbb\xbf" + notebook_of(CHECKS),
        notebook_of(CHECKS).decode().encode("utf-16"),
        json.dumps({"cells": [3, None, [], "x", {}, {"cell_type": "code", "source": CHECKS}]}).encode(),
    ],
)
def test_a_lesson_is_recognised_by_its_checks_whatever_else_is_lost(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "Copy of homework.ipynb"
    path.write_bytes(content)
    result = grade(path)
    assert [verdict.item.id for verdict in result.verdicts] == [item.id for item in FIRST]
    assert all(verdict.passed for verdict in result.verdicts)


def test_without_metadata_a_cell_belongs_to_the_check_that_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {}

    def run(cells: Any, *_: Any, **__: Any) -> Collected:
        seen["cells"] = [source for _, source in cells]
        return Collected(errors={1: "NotImplementedError: "})

    monkeypatch.setattr(grading, "run", run)
    path = tmp_path / "x.ipynb"
    path.write_bytes(
        notebook_of("import torch", "def snr(a):\n    raise", CHECKS, 'hint("01.snr")\n\n' + CHECKS + "\nx = 1")
    )
    found = {verdict.item.id: verdict for verdict in grade(path).verdicts}
    assert not found["01.snr"].started
    assert seen["cells"] == ["import torch", "def snr(a):\n    raise", 'hint("01.snr")\n\n' + CHECKS + "\nx = 1"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "no valid JSON"),
        (b"\xff\xfe", "no valid JSON"),
        (b"[]", "no notebook"),
        (b'{"cells": 3}', "no notebook"),
        (b"[" * 100_000, "no notebook"),
        (b'{"cells": ' + b"9" * 5000 + b"}", "no notebook"),
        (b'{"cells": [{}]}', "holds no exercise"),
        (b'{"cells": []}', "holds no exercise"),
    ],
)
def test_a_file_that_is_no_notebook_is_reported(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.ipynb"
    path.write_bytes(content)
    result = grade(path)
    assert result.verdicts == ()
    assert words in result.remarks[0]
    assert len(result.remarks[0]) < 300


def test_pipes_devices_links_and_folders_are_skipped_with_a_word(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "01_pipe.ipynb")
    (tmp_path / "02_device.ipynb").symlink_to("/dev/zero")
    (tmp_path / "03_nowhere.ipynb").symlink_to("nowhere")
    (tmp_path / "04_folder.ipynb").mkdir()
    (tmp_path / "05_\x1b[2J.ipynb").write_text("{")
    results = [grade(path) for path in notebooks(tmp_path)]
    assert len(results) == 5
    assert all(result.remarks and result.remarks[0].isprintable() for result in results)
    assert ["link, or no file" in result.remarks[0] for result in results] == [True] * 4 + [False]
    assert not any(verdict.points for result in results for verdict in result.verdicts)


def command(folder: Path, *options: str) -> Result:
    return CliRunner().invoke(app, ["grade", str(folder), "--isolate", "off", *options])


@pytest.mark.usefixtures("_solved")
def test_a_notebook_that_the_grader_fails_on_costs_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    solved = grading.run

    def run(cells: Any, *given: Any, **named: Any) -> Collected:
        if any("boom" in source for _, source in cells):
            raise RuntimeError("\x1b a fault of the grader's own")
        return solved(cells, *given, **named)

    monkeypatch.setattr(grading, "run", run)
    (tmp_path / "01_bad.ipynb").write_bytes(notebook_of("boom", CHECKS))
    (tmp_path / "01_good.ipynb").write_bytes(notebook_of("fine", CHECKS))
    result = command(tmp_path, "--json", str(tmp_path / "report.json"))
    assert result.exit_code == 0, result.output
    assert "could not be graded (RuntimeError: \\x1b a fault" in result.output
    assert json.loads((tmp_path / "report.json").read_text())["score"] == FULL


def test_an_answer_that_cannot_be_compared_costs_its_own_item_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Odd:
        __module__ = "numpy"

        def __getattr__(self, _: str) -> Any:
            raise KeyError("odd")

    monkeypatch.setattr(grading, "run", lambda _, items, *__, **___: Collected({i.id: [Odd()] for i in items}))
    (tmp_path / "01_odd.ipynb").write_bytes(notebook_of(CHECKS))
    result = grade(tmp_path / "01_odd.ipynb")
    assert len(result.verdicts) == len(FIRST)
    assert not any(verdict.passed for verdict in result.verdicts)


@pytest.mark.usefixtures("_solved")
def test_an_unpacked_folder_is_graded_and_a_programs_own_copies_are_not(tmp_path: Path) -> None:
    for folder in ("lesson01", "lesson01/.ipynb_checkpoints", "__MACOSX"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "01_work.ipynb").write_bytes(notebook_of(CHECKS))
    assert command(tmp_path, "--gradescope", str(tmp_path / "results.json")).exit_code == 0
    assert json.loads((tmp_path / "results.json").read_text())["score"] == FULL
    assert notebooks(tmp_path) == [tmp_path / "lesson01" / "01_work.ipynb"]


def test_where_there_is_nothing_the_reports_say_so(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = command(tmp_path / "empty", "--gradescope", str(tmp_path / "results.json"))
    assert "there is no notebook at" in str(result.exception)
    values = json.loads((tmp_path / "results.json").read_text())
    assert values["score"] == 0
    assert "there is no notebook at" in values["output"]


def test_reports_of_nothing() -> None:
    assert as_json([]) == {"score": 0, "max_score": 0, "items": [], "notebooks": []}
    assert as_gradescope([])["tests"] == []


@pytest.mark.slow
def test_a_terminal_that_lacks_the_signs_gets_others(tmp_path: Path) -> None:
    (tmp_path / "x.ipynb").write_text("{}")
    environment = os.environ | {"PYTHONIOENCODING": "latin-1"}
    words = [
        sys.executable,
        "-c",
        "import sys; sys.argv[0] = 'ldm-edu'; from ldm_edu.cli import main; main()",
        "progress",
        str(tmp_path),
    ]
    result = subprocess.run(words, capture_output=True, env=environment, timeout=120)
    assert result.returncode == 0, result.stderr
    assert "? 01.snr" in result.stdout.decode("latin-1")
