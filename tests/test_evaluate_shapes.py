"""The shapes evaluation with fakes whose scores are known."""

import pytest
import torch

from ldm_edu.datasets.shapes import shapes_tensors
from ldm_edu.evaluate.shapes import evaluate_shapes, shapes_section

COUNT, SIZE = 24, 32


def test_a_perfect_painter_scores_as_real_pictures_and_above_chance() -> None:
    real = shapes_tensors("test", COUNT, seed=5, size=SIZE)
    section = shapes_section(lambda c, s: real.images, lambda x: x, "test", count=COUNT, size=SIZE, seed=5)
    assert [figure.name for figure in section.figures] == ["size", "colour", "shape", "relation", "all words"]
    for figure in section.figures:
        assert figure.value == figure.beside["real"] == figure.beside["real, decoded"] > 0.9
        assert figure.value > figure.beside["chance"]
    related = sum(" of " in c or "above" in c or "below" in c for c in real.captions)
    assert [figure.count for figure in section.figures] == [COUNT, COUNT, COUNT, related, COUNT]


def test_a_blank_page_makes_no_word_true() -> None:
    blank = lambda captions, seeds: torch.ones(len(captions), 3, SIZE, SIZE)  # noqa: E731
    for section in evaluate_shapes(blank, lambda x: torch.ones_like(x), count=4, size=SIZE, seed=0):
        assert all(figure.value == 0 == figure.beside["real, decoded"] for figure in section.figures)


def test_both_splits_are_asked_for_with_seeds_of_their_own() -> None:
    asked: list[tuple[str, int]] = []

    def draw(captions, seeds):  # type: ignore[no-untyped-def]
        asked.extend(zip(captions, seeds, strict=True))
        return torch.ones(len(captions), 3, SIZE, SIZE)

    first, second = evaluate_shapes(draw, lambda x: x, count=3, size=SIZE, seed=10)
    assert first.title != second.title
    assert [seed for _, seed in asked] == list(range(10, 16))
    assert [caption for caption, _ in asked[3:]] == shapes_tensors("combos", 3, seed=13, size=SIZE).captions


def test_too_few_captions_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        evaluate_shapes(lambda c, s: torch.ones(1, 3, SIZE, SIZE), lambda x: x, count=1, size=SIZE, seed=0)
