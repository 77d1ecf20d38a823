"""The quiz: every choice explains itself, the first try counts, and a page without widgets has lines to open."""

import re
import sys
from typing import Any

import pytest

from ldm_edu.viz import Choice, Question, quiz

WIDGET = "application/vnd.jupyter.widget-view+json"


def question(text: str = "What does `sigma` scale?") -> Question:
    return Question(
        text,
        [
            Choice("the picture", "That is `alpha`."),
            Choice("the noise `eps`", "It grows with t.", right=True),
            Choice("a < b & c", "Nothing of the kind."),
        ],
    )


def parts(widget: Any) -> list[tuple[Any, Any]]:
    """The radio buttons and the place of the answer, question by question."""
    _, *asked, _ = widget.children
    return [(box.children[1], box.children[2]) for box in asked]


def test_a_choice_explains_itself_at_once() -> None:
    [(radio, answer)] = parts(quiz(question()).widget())
    assert radio.index is None and answer.value == ""
    radio.index = 0
    assert "No." in answer.value and "That is <code>alpha</code>." in answer.value
    radio.index = 1
    assert "Right." in answer.value and "It grows with t." in answer.value


def test_the_first_try_counts() -> None:
    widget = quiz(question("one?"), question("two?")).widget()
    (first, _), (second, _) = parts(widget)
    score = widget.children[-1]
    assert "0 of 2 answered, 0 right" in score.value
    first.index = 2
    first.index = 1  # too late
    assert "1 of 2 answered, 0 right" in score.value
    second.index = 1
    second.index = 0  # looking at another explanation takes nothing away
    assert "2 of 2 answered, 1 right" in score.value


def test_two_readers_of_one_quiz_do_not_share_their_answers() -> None:
    asked = quiz(question())
    [(radio, _)] = parts(asked.widget())
    radio.index = 1
    assert "0 of 1 answered" in asked.widget().children[-1].value


def test_without_widgets_every_choice_opens() -> None:
    page = quiz(question()).as_html()
    assert page.count("<details") == page.count("<summary>") == 3
    assert page.count("Right.") == 1 and page.count("No.") == 2
    assert "What does <code>sigma</code> scale?" in page
    assert "a &lt; b &amp; c" in page and "a < b" not in page


def test_html_in_a_text_is_shown_and_not_obeyed() -> None:
    wild = "<script>alert(1)</script>"
    choices = [Choice(f"{wild} {i}", wild, right=i == 0) for i in range(3)]
    asked = quiz(Question(wild, choices))
    [(radio, answer)] = parts(asked.widget())
    radio.index = 0
    for page in (asked.as_html(), answer.value):
        assert "<script" not in page and "&lt;script&gt;" in page


def test_shown_in_a_notebook() -> None:
    data, _ = quiz(question())._repr_mimebundle_()
    assert {WIDGET, "text/html", "text/plain"} <= set(data)
    assert data["text/plain"].splitlines()[:2] == ["1. What does sigma scale?", "   a) the picture"]
    assert not re.search("0x[0-9a-f]{6}", data["text/plain"])
    assert "Right" not in data["text/plain"]


def test_shown_where_widgets_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["ldm_edu.viz.quiz"], "find_spec", lambda name: None)
    data, _ = quiz(question())._repr_mimebundle_()
    assert set(data) == {"text/html", "text/plain"}


def test_what_is_no_quiz_is_refused() -> None:
    good = list(question().choices)
    with pytest.raises(ValueError, match="at least one question"):
        quiz()
    with pytest.raises(ValueError, match="'Why\\?' needs at least 3 choices, not 2"):
        Question("Why?", good[:2])
    with pytest.raises(ValueError, match="exactly one right choice, not 0"):
        Question("Why?", [good[0], good[2], Choice("c", "d")])
    with pytest.raises(ValueError, match="exactly one right choice, not 2"):
        Question("Why?", [*good, Choice("c", "d", right=True)])
    with pytest.raises(ValueError, match="the same choice twice"):
        Question("Why?", [*good, good[0]])
    with pytest.raises(ValueError, match="'because' needs an explanation"):
        Choice("because", " ")
    with pytest.raises(ValueError, match="needs an answer"):
        Choice("", "why")
    with pytest.raises(ValueError, match="needs a text"):
        Question(" ", good)
