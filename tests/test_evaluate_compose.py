"""Words never seen together, measured with fakes whose scores are known: a copyist and a painter of nothing."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from ldm_edu.classifiers import TrainedClassifier
from ldm_edu.config import ClassifierConfig
from ldm_edu.datasets import emoji_labels, emoji_splits, emoji_tensors
from ldm_edu.datasets.compose import Drawings, drawings
from ldm_edu.datasets.emoji import STYLES
from ldm_edu.datasets.words import thing
from ldm_edu.evaluate import compose
from ldm_edu.evaluate.emoji import on_white
from ldm_edu.evaluate.record import Section
from ldm_edu.models.classifier import Classifier

COUNT = 6
COLOURS, COUNTS, PAIRS = range(3)
Measure = Callable[[compose.Draw], list[Section]]


@pytest.fixture(scope="module")
def source() -> Drawings:
    return drawings()


@pytest.fixture(scope="module")
def judge() -> TrainedClassifier:
    torch.manual_seed(0)
    labels = tuple(emoji_labels())
    config = ClassifierConfig(concepts=len(labels), styles=len(STYLES), channels=8, mults=(1, 2), groups=4)
    return TrainedClassifier(Classifier(config).eval(), labels, STYLES)


@pytest.fixture
def sections(source: Drawings, judge: TrainedClassifier, monkeypatch: pytest.MonkeyPatch) -> Measure:
    """A function that measures one that draws."""
    monkeypatch.setattr(compose, "drawings", lambda: source)

    def measure(draw: compose.Draw) -> list[Section]:
        return compose.composed_sections(draw, lambda x: x, judge, count=COUNT, seed=1)

    return measure


@pytest.mark.slow
def test_a_copyist_scores_as_real_pictures(source: Drawings, sections: Measure) -> None:
    kinds = (compose.held_out_hues, compose.held_out_counts, compose.held_out_together)
    pictures = {each.caption: on_white(each.made.rgba[None])[0] for kind in kinds for each in kind(source)}

    def draw(captions: Sequence[str], seeds: Sequence[int]) -> Tensor:
        assert len(set(seeds)) == len(seeds) == COUNT
        return torch.stack([pictures[caption] for caption in captions])

    found = sections(draw)
    for section in found:
        for figure in section.figures:
            assert figure.value == figure.beside["real"] == figure.beside["real, decoded"]
    assert found[COLOURS].figures[0].value == found[COUNTS].figures[0].value == 1.0
    assert found[COUNTS].figures[0].count == COUNT


@pytest.mark.slow
def test_a_painter_of_nothing_scores_nothing(sections: Measure) -> None:
    found = sections(lambda captions, seeds: torch.ones(len(captions), 3, 64, 64))
    assert [section.figures[0].value for section in found] == [0, 0, 0]


def test_what_is_asked_for_is_held_out_of_things_that_the_model_was_trained_for(source: Drawings) -> None:
    splits = emoji_splits()
    for each in compose.held_out_counts(source):
        assert (each.names[0], each.made.number) in splits.counts and each.names[0] in source.starter
    for each in compose.held_out_together(source):
        assert frozenset(each.names) in splits.together
        assert each.sided == (" and " not in each.made.what)
    trained = set(emoji_tensors("train", core=True).captions)
    assert not {each.caption for each in compose.held_out_counts(source)} & trained


def test_the_judge_answers_with_things_and_not_with_their_colours(judge: TrainedClassifier) -> None:
    labels = emoji_labels()
    apples = torch.tensor([labels.index("red apple"), labels.index("green apple")])
    assert compose.Names(judge, apples).of(torch.rand(3, 3, 64, 64)) == [thing("red apple")] * 3
