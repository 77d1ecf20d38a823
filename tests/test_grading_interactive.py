"""`check`, `hint`, what they show and what they record."""

import json
import logging
import warnings
from pathlib import Path

import pytest
import torch
from tqdm import tqdm
from typer.testing import CliRunner

from ldm_edu.cli import app
from ldm_edu.grading import CheckFailed, check, hint
from ldm_edu.grading.interactive import Panel, find, panel
from ldm_edu.grading.items import ITEMS
from ldm_edu.grading.progress import FILE, Progress
from ldm_edu.grading.verdict import Verdict


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def snr(alpha_bar: torch.Tensor) -> torch.Tensor:
    return alpha_bar / (1 - alpha_bar)


def test_a_right_answer_is_told_so(capsys: pytest.CaptureFixture[str]) -> None:
    check("01.snr", snr)
    assert "✓ 01.snr passed, 2 of 2 points" in capsys.readouterr().out


def test_a_wrong_answer_is_told_what_is_wrong_and_raises_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CheckFailed) as failed:
        check("01.snr", lambda a: (1 - a) / a)
    said = capsys.readouterr().out
    assert "✗ 01.snr is not right yet, 0 of 2 points" in said
    assert "upside down" in said
    assert (
        "on alpha_bar = 0.9, 0.5, 0.1, 0.01:\n  expected [9, 1, 0.1111, 0.0101] of shape (4,)\n  got [0.1111, 1" in said
    )
    assert said.index("upside down") < said.index("expected"), "what helps most comes first"
    assert failed.value._render_traceback_() == ["01.snr: not right yet, see above"]


def test_a_stub_is_not_started(capsys: pytest.CaptureFixture[str]) -> None:
    def stub(alpha_bar: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    with pytest.raises(CheckFailed, match="not started"):
        check("01.snr", stub)
    assert 'hint("01.snr")' in capsys.readouterr().out


def test_an_error_is_told_with_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    def broken(alpha_bar: torch.Tensor) -> torch.Tensor:
        kept = alpha_bar
        return kept @ torch.ones(3, 3)

    with pytest.raises(CheckFailed):
        check("01.snr", broken)
    said = capsys.readouterr().out
    assert "it raised RuntimeError: " in said
    assert "(in line 3 of `broken`)" in said


def test_an_unknown_item_names_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"there is no item '01.nothing'; there are 01.alpha_bar, 01.one_step"):
        find("01.nothing")
    with pytest.raises(ValueError, match="there are 01, 02"):
        find("99.nothing")


def test_hints_open_one_by_one_and_are_recorded() -> None:
    item = ITEMS["01.snr"]
    for opened in (1, 2, 3, 3):
        text = repr(hint("01.snr"))
        assert [h in text for h in item.hints] == [i < opened for i in range(3)]
    assert json.loads(Path(FILE).read_text()) == {"01.snr": {"hints": 3}}


def test_tries_are_recorded_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CheckFailed):
        check("01.snr", lambda a: a)
    check("01.snr", snr)
    hint("01.alpha_bar")
    assert Progress.at(Path.cwd()).read() == {
        "01.alpha_bar": {"hints": 1},
        "01.snr": {"tries": 2, "passed": 1},
    }
    said = CliRunner().invoke(app, ["progress", "."]).output
    assert "lesson 01: 1 of 8 items, 2 of 23 points" in said
    assert "✓ 01.snr" in said
    assert "(2 tries, 0 hints)" in said
    assert "next: 01.alpha_bar" in said


def test_a_damaged_record_starts_anew() -> None:
    Path(FILE).write_text("{")
    assert Progress.at(Path.cwd()).read() == {}
    check("01.snr", snr)
    assert Progress.at(Path.cwd()).read()["01.snr"]["passed"] == 1


def test_a_panel_is_html_without_holes_and_plain_text() -> None:
    shown = Panel("✗", "<b>", ("use `a < b`, not <i>",), "#000000")
    assert "<b>" not in shown._repr_html_()
    assert "<code>a &lt; b</code>, not &lt;i&gt;" in shown._repr_html_()
    assert repr(shown) == "✗ <b>\n  use `a < b`, not <i>"
    assert 'role="status"' in panel(Verdict(ITEMS["01.snr"], True, "right"))._repr_html_()


@pytest.mark.filterwarnings("ignore:slow")
def test_printing_warning_and_showing_in_an_answer_is_not_borrowing(capsys: pytest.CaptureFixture[str]) -> None:
    def talking(alpha_bar: torch.Tensor) -> torch.Tensor:
        from IPython.display import display

        print("here")
        display("there")
        logging.getLogger("mine").warning("here")
        for _ in tqdm([1]):
            warnings.warn("slow", stacklevel=1)
        return alpha_bar / (1 - alpha_bar)

    check("01.snr", talking)
    assert "✓ 01.snr passed" in capsys.readouterr().out


def test_asking_the_items_for_their_answer_is_borrowing() -> None:
    with pytest.raises(CheckFailed):
        check("01.snr", lambda a: ITEMS["01.snr"].answer(a))
