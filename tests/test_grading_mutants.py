"""Wrong answers made by rule from the right ones: all must lose, whatever is drawn.

A change may write the right answer in another form (`eps - out` for `out - eps`, squared). The rule for that is
`equivalent`: computed in float64, on many draws, no number differs by more than rounding. An argument ignored, a size
fixed, a gradient cut off and an input changed are never excused: the item must have a case that tells.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from mutants import SEEN, Mutant, mutants
from torch import Tensor

from ldm_edu.grading.compare import difference
from ldm_edu.grading.item import Item
from ldm_edu.grading.items import ITEMS
from ldm_edu.grading.outcome import Outcome, run
from ldm_edu.grading.verdict import complaint, outcomes, tried

pytestmark = pytest.mark.slow

FUNCTIONS = [item for item in ITEMS.values() if item.kind != "investigate"]
NEVER_EXCUSED = ("constants typed", "argument ignored", "size fixed", "no gradient", "input changed")
ROUNDING = 1e-9  # of the largest number, in float64


def loses(item: Item, function: Callable[..., Any]) -> bool:
    """Whether the grader's own comparison finds a complaint on a case of the item."""
    pairs = zip(item.cases(), _right(item.id, item.seed), strict=True)
    return any(complaint(item, run(function, case.args, ours=True), wanted) for case, wanted in pairs)


@cache
def _right(item_id: str, seed: int) -> list[Outcome]:
    item = replace(ITEMS[item_id], seed=seed)
    return outcomes(item, item.answer, ours=True)


def equivalent(item: Item, mutant: Mutant, draws: int = 30) -> bool:
    """Whether a change is none: on every draw, in float64, the numbers of its origin up to rounding."""
    if mutant.kind in NEVER_EXCUSED:
        return False
    torch.set_default_dtype(torch.float64)
    try:
        for seed in range(draws):
            given = [replace(item, seed=SEEN + seed).cases() for _ in range(2)]
            for one, other in zip(*given, strict=True):
                right, got = (
                    run(f, _doubled(c.args), ours=True) for f, c in ((mutant.origin, one), (mutant.function, other))
                )
                if got.error or difference(got.value, right.value, ROUNDING, ROUNDING):
                    return False
        return True
    finally:
        torch.set_default_dtype(torch.float32)


def _doubled(args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(a.double() if isinstance(a, Tensor) and a.dtype == torch.float32 else a for a in args)


def survivors(item: Item, every: int) -> tuple[int, list[str]]:
    """How many were tried, and those that get full marks without being the right answer in another form."""
    made = list(mutants(item))[::every]
    passed = [mutant for mutant in made if not loses(item, mutant.function)]
    return len(made), [f"{m.kind}: {m.words}" for m in passed if not equivalent(item, m)]


@pytest.mark.parametrize("item", FUNCTIONS, ids=lambda item: item.id)
def test_a_few_wrong_answers_made_by_rule_get_no_marks(item: Item) -> None:
    made, passed = survivors(replace(item, seed=7), every=30)
    assert made > 0
    assert passed == []


@pytest.mark.parametrize("item", FUNCTIONS, ids=lambda item: item.id)
def test_no_wrong_answer_made_by_rule_gets_marks(item: Item) -> None:
    made, passed = survivors(item.fresh(), every=1)
    assert made > 20
    assert passed == []


def test_what_the_tool_makes_is_of_every_kind() -> None:
    names = ("01.q_sample", "02.add_time", "03.hinge_loss", "04.times")
    kinds = {mutant.kind for name in names for mutant in mutants(ITEMS[name])}
    assert kinds >= {*NEVER_EXCUSED, "rounding", "off by one", "operands exchanged", "operand left out", "axes"}


def test_the_same_formula_in_another_form_is_excused_and_an_ignored_argument_never() -> None:
    item = ITEMS["01.snr"]
    form = Mutant("odds", "operator", lambda a: 1 / (1 / a - 1), item.answer)
    assert equivalent(item, form)
    assert not equivalent(item, replace(form, kind="argument ignored"))
    assert not equivalent(item, replace(form, function=lambda a: a / (1 - a + 1e-6)))


def counted_down(steps: int, total: int) -> list[int]:
    return [int(total - i * total / steps) - 1 for i in range(steps)]


def windows_in_place(tokens: list[int], start: int, end: int) -> torch.Tensor:
    rows = ITEMS["08.windows"].answer(tokens, start, end)
    tokens += [end] * (-len(tokens) % 75)
    return rows


def by_heads(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return ITEMS["05.causal_attention"].answer(q * q.shape[-1] ** 0.5 / q.shape[1], k, v)


# Answers that got full marks before the cases were drawn.
ONCE_RIGHT = {
    "rounded down, where all step counts divide 1000": ("07.trailing", counted_down),
    "of a thousand times, whatever the total": ("07.trailing", lambda n, _: ITEMS["07.trailing"].answer(n, 1000)),
    "heads for the root of the width": ("05.causal_attention", by_heads),
    "the largest token": ("05.end_state", lambda s, t, _: s[torch.arange(len(s)), t.argmax(1)]),
    "capitals lost": ("05.merge", lambda parts, pair: [p.lower() for p in ITEMS["05.merge"].answer(parts, pair)]),
    "a list changed in place": ("08.windows", windows_in_place),
    "a batch of three": ("02.add_time", lambda h, shift: h + shift.view(3, -1, 1, 1)),
    "a tenth of the SNR at its low end": ("01.snr", lambda a: a / (1 - a) + 0.005),
    "one time too low": ("04.times", lambda u, n: ITEMS["04.times"].answer(u, n) - 1),
    "a tenth of the captions, always": (
        "06.drop_condition",
        lambda c, b, u, _: ITEMS["06.drop_condition"].answer(c, b, u, 0.125),
    ),
    "a loss that is a number": ("02.noise_loss", lambda *args: ITEMS["02.noise_loss"].answer(*args).item()),
}


@pytest.mark.parametrize("words", ONCE_RIGHT)
def test_what_once_got_full_marks_gets_none(words: str) -> None:
    item_id, answer = ONCE_RIGHT[words]
    found = tried(ITEMS[item_id], answer, ours=True)
    assert (found.points, found.started) == (0, True)


def test_an_endless_loop_is_stopped() -> None:
    item = ITEMS["05.merge"]
    endless = next(m for m in mutants(item) if m.words.startswith("answer: 1 -> 0"))
    assert "TimeoutError" in tried(item, endless.function, ours=True).message


def test_a_loss_without_gradient_is_said_to_have_none() -> None:
    item = ITEMS["03.hinge_loss"]
    found = tried(item, torch.no_grad()(item.answer), ours=True)
    assert "no gradient" in found.diagnosis
