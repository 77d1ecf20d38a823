"""Questions to check yourself with: an answer explains itself at once, right or wrong.

Where widgets run, a choice is made with the mouse or the arrow keys, and the answers that were right at first try are
counted. Elsewhere (a printed page, the web) every choice is a line that opens.
"""

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from ldm_edu.extras import need
from ldm_edu.viz.style import NOISE, TEXT

FEWEST = 3  # choices of a question: with two, a guess is right too often

# Radio buttons are made for labels of a word or two; these are sentences, so they wrap.
STYLE = """<style>
.ldm-edu-quiz .widget-radio-box label { height: auto; min-height: 1.6em; line-height: 1.5; white-space: normal;
  font-size: inherit; padding: 1px 0; }
.ldm-edu-quiz .widget-radio, .ldm-edu-quiz .widget-radio-box { width: auto; max-width: 100%; height: auto; }
</style>"""


@dataclass(frozen=True)
class Choice:
    """One answer to a question, and why it is right or wrong.

    Raises
    ------
    ValueError
        if the answer or its explanation is empty.
    """

    answer: str
    why: str
    right: bool = False

    def __post_init__(self) -> None:
        if not self.answer.strip():
            raise ValueError("a choice needs an answer to choose")
        if not self.why.strip():
            raise ValueError(f"the choice {self.answer!r} needs an explanation: why is it right, or wrong?")


@dataclass(frozen=True)
class Question:
    """A question with its choices, of which exactly one is right.

    Raises
    ------
    ValueError
        if the text is empty, there are fewer than three choices, two are the same, or not exactly one is right.
    """

    text: str
    choices: Sequence[Choice]

    def __post_init__(self) -> None:
        object.__setattr__(self, "choices", tuple(self.choices))
        if not self.text.strip():
            raise ValueError("a question needs a text")
        if len(self.choices) < FEWEST:
            raise ValueError(f"{self.text!r} needs at least {FEWEST} choices, not {len(self.choices)}")
        if len({_plain(choice.answer) for choice in self.choices}) < len(self.choices):
            raise ValueError(f"{self.text!r} has the same choice twice")
        right = sum(choice.right for choice in self.choices)
        if right != 1:
            raise ValueError(f"{self.text!r} needs exactly one right choice, not {right}")


def quiz(*questions: Question) -> "Quiz":
    """Questions to answer: the last line of a notebook's cell.

    Raises
    ------
    ValueError
        if there is no question.
    """
    if not questions:
        raise ValueError("a quiz needs at least one question")
    return Quiz(tuple(questions))


@dataclass(frozen=True)
class Quiz:
    """What `quiz` returns: choices to make where widgets run, lines to open elsewhere."""

    questions: tuple[Question, ...]

    def as_html(self) -> str:
        """The static form: under every question, each choice opens to its explanation."""
        parts = []
        for number, question in enumerate(self.questions, 1):
            lines = "".join(
                f'<details style="margin: 2px 0 2px 1em"><summary>{_marked(choice.answer)}</summary>'
                f'<p style="margin: 2px 0 6px 1.2em">{_verdict(choice)}</p></details>'
                for choice in question.choices
            )
            parts.append(f'<p style="margin: 10px 0 4px"><b>{number}. {_marked(question.text)}</b></p>{lines}')
        return f"<div>{''.join(parts)}</div>"

    def widget(self) -> Any:
        """The quiz as an ipywidgets box; Tab goes to a question, the arrow keys and Space choose."""
        widgets = need("ipywidgets")

        first: dict[int, bool] = {}  # by question: was the first choice the right one?
        score = widgets.HTML(self._score(first))

        def ask(number: int, question: Question) -> Any:
            heading = widgets.HTML(f"<b>{number}. {_marked(question.text)}</b>")
            radio = widgets.RadioButtons(
                options=[_plain(choice.answer) for choice in question.choices],
                value=None,  # nothing is chosen for the reader
                layout=widgets.Layout(width="auto"),
            )
            answer = widgets.HTML()

            def chosen(event: Any) -> None:
                choice = question.choices[radio.index]
                first.setdefault(number, choice.right)
                answer.value = f'<div role="status" style="line-height: 1.5">{_verdict(choice)}</div>'
                score.value = self._score(first)

            radio.observe(chosen, "index")
            return widgets.VBox([heading, radio, answer], layout=widgets.Layout(margin="0 0 12px 0"))

        asked = [ask(number, question) for number, question in enumerate(self.questions, 1)]
        box = widgets.VBox([widgets.HTML(STYLE), *asked, score])
        box.add_class("ldm-edu-quiz")
        return box

    def _score(self, first: dict[int, bool]) -> str:
        count = len(self.questions)
        words = f"{len(first)} of {count} answered, {sum(first.values())} right at first try."
        return f'<div role="status">{words}</div>'

    def __repr__(self) -> str:
        lines = []
        for number, question in enumerate(self.questions, 1):
            lines.append(f"{number}. {_plain(question.text)}")
            lines += [
                f"   {letter}) {_plain(c.answer)}" for letter, c in zip("abcdefgh", question.choices, strict=False)
            ]
        return "\n".join(lines)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> tuple[dict, dict]:
        data: dict[str, Any] = {"text/html": self.as_html(), "text/plain": repr(self)}
        if find_spec("ipywidgets") is not None:  # a front end without widgets takes the next kind: the lines that open
            data = {**data, **self.widget()._repr_mimebundle_(), "text/plain": repr(self)}
        return data, {}


def _verdict(choice: Choice) -> str:
    # The word carries the meaning, the mark repeats it; both colours stand out on light and on dark pages.
    mark, word, color = ("✓", "Right.", TEXT) if choice.right else ("✗", "No.", NOISE)
    badge = f'<b style="background: {color}; color: #fff; border-radius: 4px; padding: 0 6px">{mark} {word}</b>'
    return f"{badge} {_marked(choice.why)}"


def _marked(text: str) -> str:
    """Escaped for HTML, with `code` in backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text, quote=True))


def _plain(text: str) -> str:
    """Without the backticks, for labels that cannot show code."""
    return re.sub(r"`([^`]+)`", r"\1", text)
