"""Marks without the work: every way round the question that we could think of, through the real grader.

Each cheat aims at one item and must get nothing for it; an honest answer beside it must keep its marks. What reaches
for files, processes or the network is in test_grading_sandbox.py.
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
from ldm_edu.grading.transfer import pack, unpack

ROOT = Path(__file__).resolve().parent.parent
AIM, HONEST = ITEMS["01.q_sample"], ITEMS["01.snr"]
SNR = "def snr(alpha_bar):\n    return alpha_bar / (1 - alpha_bar)"
PARTS = re.split(r"^# %% (.*)\n", (ROOT / "tests" / "grading_cheats.txt").read_text(encoding="utf-8"), flags=re.M)
CHEATS = dict(zip(PARTS[1::2], PARTS[2::2], strict=True))


def graded(answer: str, folder: Path) -> Graded:
    cells = [nbformat.v4.new_code_cell("import torch")]
    for item, source in ((AIM, answer), (HONEST, SNR)):
        cell = nbformat.v4.new_code_cell(source)
        cell.metadata["nbgrader"] = {"solution": True, "grade": False, "grade_id": item.grade_id}
        cells.append(cell)
    path = folder / "01_forward_noising.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return grade(path, Limits(cell=8, answer=5))


@pytest.mark.slow
@pytest.mark.parametrize("name", CHEATS)
def test_a_cheat_gets_no_marks_and_costs_no_others(name: str, tmp_path: Path) -> None:
    result = graded(CHEATS[name], tmp_path)
    found = {verdict.item.id: verdict for verdict in result.verdicts}
    assert found[AIM.id].points == 0, found[AIM.id].message
    assert 0 < len(found[AIM.id].message) < 10_000
    assert all(line.isprintable() for line in found[AIM.id].message.split("\n"))
    assert found[HONEST.id].passed, (found[HONEST.id].message, result.remarks)


HONEST_WORK = """
import logging, warnings
from IPython.display import HTML, display
from tqdm.auto import tqdm
import matplotlib.pyplot as plt
%matplotlib inline

def q_sample(x0, eps, a):
    print("levels", a)
    display(HTML("<b>here</b>"), a)
    warnings.warn("slow")
    logging.getLogger("mine").warning("here")
    plt.plot(a)
    plt.show()
    for _ in tqdm(range(2)):
        kept = a[:, None, None, None]
    return kept.sqrt() * x0 + (1 - kept).sqrt() * eps
"""


@pytest.mark.slow
def test_the_same_answer_typed_in_gets_full_marks_whatever_it_prints_and_shows(tmp_path: Path) -> None:
    result = graded(HONEST_WORK, tmp_path)
    assert [
        verdict.message for verdict in result.verdicts if verdict.item in (AIM, HONEST) and not verdict.passed
    ] == []
    assert result.remarks == ()


@pytest.mark.slow
def test_no_answer_is_in_the_process_that_runs_a_notebook() -> None:
    program = (
        "import gc, ldm_edu.grading.worker as w\n"
        "w.prepare()\n"
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
