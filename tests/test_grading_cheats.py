"""Marks without the work: every way round the question that we could think of, through the real grader.

Each cheat aims at one item and must get nothing for it; an honest answer beside it must keep its marks.
"""

import gc
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from ldm_edu.grading.execute import Limits
from ldm_edu.grading.items import ITEMS
from ldm_edu.grading.notebook import Graded, grade
from ldm_edu.grading.parcel import pack, unpack
from ldm_edu.grading.scan import complaints

ROOT = Path(__file__).resolve().parent.parent
AIM, HONEST = ITEMS["01.q_sample"], ITEMS["01.snr"]
SNR = "def snr(alpha_bar):\n    return alpha_bar / (1 - alpha_bar)"
PARTS = re.split(r"^# %% (.*)\n", (ROOT / "tests" / "grading_cheats.txt").read_text(encoding="utf-8"), flags=re.M)
CHEATS = {name: source.replace("{ROOT}", str(ROOT)) for name, source in zip(PARTS[1::2], PARTS[2::2], strict=True)}

SEEN = {name: found for name, source in CHEATS.items() if (found := complaints(source))}


def graded(cheat: str, folder: Path) -> Graded:
    cells = [nbformat.v4.new_code_cell("import torch")]
    for item, source in ((AIM, cheat), (HONEST, SNR)):
        cell = nbformat.v4.new_code_cell(source)
        cell.metadata["nbgrader"] = {"solution": True, "grade": False, "grade_id": item.grade_id}
        cells.append(cell)
    path = folder / "01_forward_noising.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return grade(path, Limits(cell=8, answer=5))


def test_some_are_seen_by_reading_and_never_run() -> None:
    assert len(CHEATS) > 50
    assert 10 < len(SEEN) < 30
    assert not complaints(SNR)


@pytest.mark.slow
@pytest.mark.parametrize("name", [next(iter(SEEN)), *(name for name in CHEATS if name not in SEEN)])
def test_a_cheat_gets_no_marks_and_costs_no_others(name: str, tmp_path: Path) -> None:
    result = graded(CHEATS[name], tmp_path)
    found = {verdict.item.id: verdict for verdict in result.verdicts}
    assert found[AIM.id].points == 0, found[AIM.id].message
    assert found[AIM.id].message
    assert (found[AIM.id].message in SEEN.get(name, [])) == (name in SEEN)
    assert found[HONEST.id].passed, (found[HONEST.id].message, result.remarks)
    assert not (ROOT / "ldm_edu" / "grading" / "cheated.txt").exists()


@pytest.mark.slow
def test_the_same_answer_typed_in_gets_full_marks(tmp_path: Path) -> None:
    typed = (
        "def q_sample(x0, eps, a):\n    a = a[:, None, None, None]\n    return a.sqrt() * x0 + (1 - a).sqrt() * eps\n"
    )
    assert [verdict.passed for verdict in graded(typed, tmp_path).verdicts if verdict.item in (AIM, HONEST)] == [1, 1]


@pytest.mark.slow
def test_no_answer_is_in_the_process_that_runs_a_notebook() -> None:
    program = (
        "import gc, ldm_edu.grading.collect as c\n"
        "import IPython; IPython.get_ipython = lambda: IPython; IPython.display_pub = c\n"
        "c.prepare(64 * 2**30)\n"
        "from ldm_edu.grading import check, hint\n"
        "check('01.snr', None), hint('01.snr')\n"
        "names = {type(o).__name__ + str(type(o).__module__) for o in gc.get_objects()}\n"
        "assert not any('ldm_edu.grading.item' in name for name in names), names\n"
        "import sys; assert not any('items.l' in m or m.endswith('.item') for m in sys.modules)\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert any(type(o).__module__ == "ldm_edu.grading.item" for o in gc.get_objects()), "here they are"


def test_what_an_item_hands_in_travels_without_its_module() -> None:
    for item in ITEMS.values():
        for case in item.cases():
            for given in unpack(pack(case.args)):
                if callable(given):
                    assert item.name not in given.__globals__, item.id
                    assert "ITEMS" not in given.__globals__
