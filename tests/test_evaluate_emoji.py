"""The emoji evaluation with fakes whose scores are known: a copyist, a painter of noise, an untrained judge."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from ldm_edu.classifiers import TrainedClassifier
from ldm_edu.config import ClassifierConfig
from ldm_edu.datasets.emoji import SPLITS, STYLES, EmojiTensors, emoji_labels, emoji_tensors
from ldm_edu.evaluate.emoji import (
    autoencoder_section,
    evaluate_emoji,
    on_white,
    order,
    shuffle_pixels,
    style_of_strangers,
)
from ldm_edu.evaluate.judge import judge_pictures
from ldm_edu.evaluate.psnr import pooled_copy
from ldm_edu.models.classifier import Classifier

COUNT = 6


@pytest.fixture(scope="module")
def pairs() -> EmojiTensors:
    return emoji_tensors("pairs", core=True)


@pytest.fixture(scope="module")
def judge() -> TrainedClassifier:
    torch.manual_seed(0)
    labels = tuple(emoji_labels())
    config = ClassifierConfig(concepts=len(labels), styles=len(STYLES), channels=8, mults=(1, 2), groups=4)
    return TrainedClassifier(Classifier(config).eval(), labels, STYLES, "nothing at all")


@pytest.fixture(scope="module")
def splits(pairs: EmojiTensors) -> dict[str, EmojiTensors]:
    """Three small sets in place of the splits, which are large."""
    return {split: part(pairs, start, start + 30) for start, split in zip((0, 30, 60), SPLITS[:3], strict=True)}


def part(data: EmojiTensors, start: int, end: int) -> EmojiTensors:
    return EmojiTensors(*(column[start:end] for column in data))


@pytest.fixture
def short_splits(splits: dict[str, EmojiTensors], monkeypatch: pytest.MonkeyPatch) -> dict[str, EmojiTensors]:
    monkeypatch.setattr("ldm_edu.evaluate.emoji.emoji_tensors", lambda split, starter=False: splits[split])
    return splits


def test_a_copyist_scores_as_real_pictures_and_is_caught(
    judge: TrainedClassifier, short_splits: dict[str, EmojiTensors]
) -> None:
    pictures = {c: on_white(d.rgba[i, None])[0] for d in short_splits.values() for i, c in enumerate(d.captions)}

    def draw(captions: Sequence[str], seeds: Sequence[int]) -> Tensor:
        return torch.stack([pictures[caption] for caption in captions])

    sections, sheet = evaluate_emoji(draw, lambda x: x, judge, factor=4, count=COUNT, seed=3)
    _, trained, pairs, frechet, near = sections
    for section in (trained, pairs, frechet):
        for figure in section.figures:
            assert figure.value == pytest.approx(figure.beside["real"])
            assert figure.count == COUNT
    closer = {figure.name: figure for figure in near.figures if figure.name.startswith("nearer")}
    assert all(figure.value >= 0.5 for figure in closer.values())  # half of them are training pictures
    assert all(figure.count == 2 * COUNT for figure in near.figures)
    assert sheet.width > sheet.height / 2


def test_noise_scores_worse_than_real_pictures(judge: TrainedClassifier, short_splits: dict[str, EmojiTensors]) -> None:
    asked: list[tuple[str, int]] = []

    def draw(captions: Sequence[str], seeds: Sequence[int]) -> Tensor:
        asked.extend(zip(captions, seeds, strict=True))
        return torch.randn(len(captions), 3, 64, 64, generator=torch.Generator().manual_seed(seeds[0]))

    sections, _ = evaluate_emoji(draw, lambda x: pooled_copy(x, 4), judge, factor=4, count=COUNT, seed=3)
    assert len({seed for _, seed in asked}) == len(asked) == 2 * COUNT  # every picture has a seed of its own
    autoencoder, _, _, frechet, _ = sections
    assert frechet.figures[0].value > 3 * frechet.figures[0].beside["real"]
    for figure in autoencoder.figures:  # the baseline, measured as if it were the autoencoder
        assert figure.value == pytest.approx(figure.beside["16 x 16 averages"])
        assert figure.value > figure.beside["one flat colour"]
    assert autoencoder.figures[0].count == len(short_splits["concepts"].captions)


def test_a_judge_is_asked_for_the_style_of_things_that_it_never_saw(
    judge: TrainedClassifier, pairs: EmojiTensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = part(pairs, 0, 20)
    new = ~torch.isin(pairs.concepts, known.concepts)
    assert 0 < new.sum() < len(new)
    monkeypatch.setattr("ldm_edu.evaluate.emoji.emoji_tensors", lambda split, core=False: known if core else pairs)
    answers = judge_pictures(judge.model, on_white(pairs.rgba)).style_logits.argmax(dim=1)
    of_core = TrainedClassifier(judge.model, judge.concepts, judge.styles, "core concepts")
    right = (answers == pairs.styles)[new].double().mean()
    assert style_of_strangers(of_core, seed=0) == pytest.approx(float(right))
    assert style_of_strangers(judge, seed=0) is None  # it does not say that there is anything it never saw


def test_an_order_takes_every_caption_once_before_it_repeats(pairs: EmojiTensors) -> None:
    data, n = pairs, len(pairs.captions)
    asked = order(data, n + 5, seed=1, first=100)
    assert sorted(asked.captions[:n]) == sorted(data.captions) and asked.captions[n:] == asked.captions[:5]
    assert asked.seeds == list(range(100, 100 + n + 5))
    row = asked.rows.tolist().index(0)
    torch.testing.assert_close(asked.real[row], on_white(data.rgba[:1])[0])
    assert asked.concepts[row] == data.concepts[0] and asked.styles[row] == data.styles[0]
    assert order(data, 9, seed=1, first=0).captions == asked.captions[:9] != order(data, 9, seed=2, first=0).captions


def test_shuffled_pixels_keep_their_colours() -> None:
    images = torch.randn(2, 3, 4, 4)
    shuffled = shuffle_pixels(images, 0)
    assert not torch.equal(shuffled, images)
    torch.testing.assert_close(shuffled.flatten(2).sort().values, images.flatten(2).sort().values)


def test_a_perfect_autoencoder_is_beyond_every_goal() -> None:
    rgba = torch.randint(0, 256, (3, 4, 16, 16), dtype=torch.uint8)
    section = autoencoder_section(lambda x: x + 1e-3, rgba, factor=4, seed=0)
    assert all(figure.reached for figure in section.figures)
    assert {figure.goal for figure in section.figures} == {30.0}


def test_a_judge_of_other_classes_is_refused() -> None:
    config = ClassifierConfig(concepts=2, styles=1, channels=8, mults=(1,), groups=4)
    with pytest.raises(ValueError, match="other classes"):
        evaluate_emoji(
            lambda c, s: torch.zeros(0),
            lambda x: x,
            TrainedClassifier(Classifier(config), ("a", "b"), ("c",)),
            factor=4,
            count=2,
            seed=0,
        )


@pytest.mark.parametrize("count", [0, -3])
def test_no_pictures_measure_nothing(pairs: EmojiTensors, count: int) -> None:
    with pytest.raises(ValueError, match="ask for at least 1"):
        order(pairs, count, seed=0, first=0)
