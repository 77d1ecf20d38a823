"""Every item: right answers pass, a stub is only not started, and each wrong answer gets its own diagnosis."""

import inspect
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ldm_edu.grading.compare import difference, shown
from ldm_edu.grading.inputs import same
from ldm_edu.grading.item import Case, Item, Mistake
from ldm_edu.grading.items import ITEMS
from ldm_edu.grading.outcome import Outcome, run
from ldm_edu.grading.transfer import plain
from ldm_edu.grading.verdict import CONSTANT, DRAWN, NOTHING, Verdict, judge, outcomes, tried

ROOT = Path(__file__).resolve().parent.parent
ALL = list(ITEMS.values())
WRONG = [(item, mistake) for item in ALL for mistake in item.mistakes]
OTHERS = [(item, name) for item in ALL for name in item.others]


def verdict(item: Item, answer: object) -> Verdict:
    return judge(item, outcomes(item, answer, ours=True))


def function(item: Item) -> bool:
    return item.kind != "investigate"


@pytest.mark.parametrize("item", list(filter(function, ALL)), ids=lambda item: item.id)
def test_at_least_three_cases_are_drawn_and_the_last_comes_twice(item: Item) -> None:
    one, other = (replace(item, seed=seed).cases() for seed in (1, 2))
    drawn = [a for a, b in zip(one, other, strict=True) if a.words != b.words or not same(*map(_plain, (a, b)))]
    assert len(drawn) >= 4
    assert same(_plain(one[-1]), _plain(one[-2]))
    assert all(same(_plain(a), _plain(b)) for a, b in zip(one, replace(item, seed=1).cases(), strict=True))
    assert item.fresh().seed != item.fresh().seed


def _plain(case: Case) -> tuple[object, ...]:
    return tuple(arg for arg in case.args if not callable(arg))


@pytest.mark.parametrize("item", ALL, ids=lambda item: item.id)
def test_the_right_answer_gets_full_marks(item: Item) -> None:
    assert verdict(item, item.answer).points == item.points > 0


@pytest.mark.parametrize(("item", "name"), OTHERS, ids=lambda value: getattr(value, "id", value))
def test_a_right_answer_written_differently_passes(item: Item, name: str) -> None:
    found = verdict(item, item.others[name])
    assert found.passed, found.message


@pytest.mark.parametrize("item", [i for i in ALL if i.kind != "investigate"], ids=lambda item: item.id)
def test_a_right_answer_passes_under_bfloat16_autocast_switched_off_and_in_another_default_type(item: Item) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        with torch.autocast("cpu", enabled=False):
            found = verdict(item, item.answer)
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.passed, found.message


@pytest.mark.parametrize(("item", "mistake"), WRONG, ids=lambda v: v.id if isinstance(v, Item) else v.diagnosis[:24])
def test_a_wrong_answer_gets_its_own_diagnosis(item: Item, mistake: Mistake) -> None:
    found = verdict(item, mistake.answer)
    assert (found.points, found.diagnosis) == (0, mistake.diagnosis)
    assert found.started


@pytest.mark.parametrize("item", ALL, ids=lambda item: item.id)
def test_an_untouched_stub_is_not_started(item: Item) -> None:
    def stub(*_: object) -> None:
        raise NotImplementedError

    for untouched in (stub, ...):
        found = verdict(item, untouched)
        assert (found.points, found.started) == (0, False)
        assert "Traceback" not in found.message


@pytest.mark.parametrize("item", ALL, ids=lambda item: item.id)
def test_an_item_is_complete(item: Item) -> None:
    assert item.id[:2].isdigit()
    assert item.name.isidentifier()
    assert 1 <= item.difficulty <= 3
    assert 1 <= item.points <= 6
    assert 2 <= item.minutes <= 40
    assert 3 <= len(item.mistakes) <= 8
    assert len(item.others) >= 2
    texts = [item.why, *item.hints, *(mistake.diagnosis for mistake in item.mistakes)]
    assert len(set(texts)) == len(texts)
    assert all(text[-1] in ".?`" and len(text) > 15 for text in texts), texts
    if item.kind != "investigate":
        takes = len(inspect.signature(item.answer).parameters)
        assert all(len(case.args) == takes for case in item.cases())


def test_every_lesson_has_five_to_eight_items_of_all_three_kinds() -> None:
    for lesson in {item.lesson for item in ALL}:
        kinds = [item.kind for item in ALL if item.lesson == lesson]
        assert 5 <= len(kinds) <= 8, lesson
        assert set(kinds) == {"implement", "debug", "investigate"}, lesson


def test_calling_the_package_is_seen_under_any_name() -> None:
    from ldm_edu import schedule as something
    from ldm_edu.schedule import Level

    item = ITEMS["01.q_sample"]

    def q_sample(x0: torch.Tensor, eps: torch.Tensor, alpha_bar: torch.Tensor) -> torch.Tensor:
        return something.add_noise(x0, eps, Level(alpha_bar, alpha_bar.sqrt(), (1 - alpha_bar).sqrt()))

    found = judge(item, outcomes(item, q_sample))
    assert not found.passed
    assert "ldm_edu.schedule.level.add_noise" in found.message
    assert judge(item, outcomes(item, q_sample, ours=True)).passed, "its numbers are right: only the calls tell"


def test_what_an_item_hands_in_may_call_anything() -> None:
    from ldm_edu.nn.embeddings import timestep_embedding

    def network(x: torch.Tensor) -> torch.Tensor:
        return timestep_embedding(x, 4)

    found = run(lambda f, x: f(x) + 1, (network, torch.zeros(2)))
    assert (found.error, found.borrowed) == ("", ())
    assert run(lambda x: timestep_embedding(x, 4), (torch.zeros(2),)).borrowed == (
        "ldm_edu.nn.embeddings.timestep_embedding",
    )
    assert sys.getprofile() is None


@pytest.mark.parametrize(
    ("given", "write"),
    [
        (torch.ones(3), lambda x: x.mul_(2)),
        ([1, 2], lambda x: x.reverse()),
        ([torch.ones(3)], lambda x: x[0].zero_()),
        ({"a": [1]}, lambda x: x["a"].append(2)),
        (torch.ones(3, requires_grad=True), lambda x: x.mul_(2)),
    ],
    ids=["a tensor", "a list", "a tensor in a list", "a list in a dictionary", "a tensor with gradient"],
)
def test_writing_into_the_input_is_seen(given: Any, write: Callable[[Any], object]) -> None:
    before = repr(given)
    assert run(write, (given,)).changed
    assert repr(given) == before
    assert not run(lambda x: x, (given,)).changed


def test_a_forgotten_return_a_value_for_a_function_and_own_noise_are_called_so() -> None:
    item = ITEMS["01.one_step"]
    forgotten = verdict(item, lambda *_: None)
    assert (forgotten.diagnosis, forgotten.started) == (NOTHING, True)
    handed = tried(item, torch.ones(2))
    assert 'check("01.one_step", one_step)' in handed.message
    assert verdict(item, torch.ones(2)).diagnosis == CONSTANT, "so it reads where a notebook is graded"
    assert verdict(ITEMS["06.cfg"], lambda c, u, s: c * torch.rand(())).diagnosis == DRAWN


def test_an_import_of_the_package_is_no_call() -> None:
    def snr(alpha_bar: torch.Tensor) -> torch.Tensor:
        sys.modules.pop("ldm_edu.nn.embeddings", None)
        import ldm_edu.nn.embeddings  # noqa: F401 (left over, as in a notebook)

        return alpha_bar / (1 - alpha_bar)

    kept = sys.modules.get("ldm_edu.nn.embeddings")
    try:
        found = tried(ITEMS["01.snr"], snr)
    finally:
        sys.modules["ldm_edu.nn.embeddings"] = kept or sys.modules["ldm_edu.nn.embeddings"]
    assert found.passed, found.message


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 110))
def test_what_is_drawn_changes_no_verdict(seed: int) -> None:
    for item in (replace(item, seed=seed) for item in ALL if function(item)):
        for answer in (item.answer, *item.others.values()):
            assert tried(item, answer, ours=True).passed, item.id
        for mistake in item.mistakes:
            assert tried(item, mistake.answer, ours=True).diagnosis == mistake.diagnosis, item.id


@pytest.mark.parametrize(
    ("got", "wanted", "words"),
    [
        (None, torch.ones(2), "nothing (is there a `return`?)"),
        (torch.ones(3), torch.ones(2), "expected the shape (2,), got (3,)"),
        (torch.tensor([1.0, float("nan")]), torch.ones(2), "1 of 2 values are NaN or infinite"),
        (torch.tensor([1.0, 5.0]), torch.ones(2), "they differ most at [1]"),
        ("text", torch.ones(2), "got a str"),
        (3.0, 4.0, "expected 4, got 3"),
        ((1.0,), (1.0, 2.0), "expected 2 things, got 1"),
        ((1.0, 3.0), (1.0, 2.0), "thing 2 of 2"),
        ({"a": 1}, {"b": 1}, "the keys b"),
        ("no", "yes", "expected 'yes', got 'no'"),
        ("Yes", "yes", "expected 'yes', got 'Yes'"),
        (torch.ones(2, 2), (torch.ones(2), 1.0), "got a tensor of shape (2, 2)"),
        (torch.tensor([9.0, 0.009]), torch.tensor([9.0, 0.01]), "they differ most at [1]"),
        (998, 999, "expected 999, got 998"),
        (torch.ones(2), torch.tensor([1.0, math.inf]), "inf was expected, 1 came"),
        (torch.tensor([1.0, -math.inf]), torch.tensor([1.0, math.inf]), "inf was expected, -inf came"),
    ],
)
def test_a_difference_is_said_in_words(got: object, wanted: object, words: str) -> None:
    assert words in str(difference(got, wanted, 1e-3))


def test_infinities_that_agree_are_no_difference() -> None:
    assert difference(torch.tensor([1.0, math.inf]), torch.tensor([1.0, math.inf]), 1e-3) is None


@pytest.mark.parametrize(
    ("got", "wanted"),
    [
        (torch.ones(2).double(), torch.ones(2)),
        (torch.ones(2).int(), torch.ones(2)),
        (np.ones(2), torch.ones(2)),
        ([1, 1.0], torch.ones(2)),
        ([torch.ones(3), np.ones(3)], torch.ones(2, 3)),
        ([[1, 1, 1], [1, 1, 1]], torch.ones(2, 3)),
        (torch.ones(1, 1), 1.0),
        (np.float32(1), torch.tensor(1.0)),
        (np.int64(3), 3),
        (torch.tensor([3, 2]), [3, 2]),
        (np.array([3, 2]), [3, 2]),
        (np.array(["a", "b"]), ["a", "b"]),
        (np.str_("a"), "a"),
        ((torch.ones(2), torch.tensor([1.0])), (torch.ones(2), 1.0)),
    ],
    ids=repr,
)
def test_the_form_of_a_right_answer_does_not_matter(got: object, wanted: object) -> None:
    assert difference(got, wanted, 1e-3) is None
    assert difference(plain(got), wanted, 1e-3) is None, "nor after its way out of the process"


def test_an_answer_is_shown_in_few_characters() -> None:
    assert shown(torch.arange(100.0)) == "[0, 1, 2, 3, ...] of shape (100,)"
    assert shown(0.123456) == "0.1235"
    assert len(shown("x" * 1000)) == 80


def test_an_investigation_does_not_give_its_answer_away() -> None:
    item = ITEMS["01.left_at_the_end"]
    assert shown(item.answer) not in verdict(item, 0.5).message


def test_a_wrong_number_of_outcomes_is_no_answer() -> None:
    assert not judge(ITEMS["01.q_sample"], [Outcome(torch.ones(1))]).passed


@pytest.mark.slow
def test_every_known_answer_is_counted_and_told_apart() -> None:
    command = [sys.executable, str(ROOT / "solutions" / "count.py")]
    said = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout.splitlines()
    table = [line for line in said if line.startswith("|")]
    right, passed, wrong, diagnosed = (int(cell) for cell in table[-1].split("|")[5:9])
    assert (passed, diagnosed) == (right, wrong)
    assert "\n".join(table) in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), "solutions/count.py --write"
