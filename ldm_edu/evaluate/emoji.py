"""Everything that is measured of the emoji model, on the fixed splits, each figure beside real pictures and chance.

The model was trained to draw the starter concepts (animals, plants, food), so it and the judge are asked about these
alone.

Nothing here knows how a picture is drawn: the functions take one that draws (captions and seeds in, pictures out) and
one that sends pictures through the autoencoder and back.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from ldm_edu.classifiers import TrainedClassifier
from ldm_edu.datasets.backgrounds import background, composite, random_backgrounds
from ldm_edu.datasets.emoji import STYLES, EmojiTensors, emoji_labels, emoji_tensors
from ldm_edu.evaluate.frechet import frechet_distance, gaussian
from ldm_edu.evaluate.judge import JudgeScore, Verdicts, chance_score, judge_pictures, judge_score
from ldm_edu.evaluate.nearest import copy_score, nearest, nearest_sheet
from ldm_edu.evaluate.psnr import flat_colour, pooled_copy, psnr_score
from ldm_edu.evaluate.record import Figure, Section

Draw = Callable[[Sequence[str], Sequence[int]], Tensor]  # captions and seeds -> (N, 3, H, W) in [-1, 1]
Restore = Callable[[Tensor], Tensor]  # pictures (B, 3, H, W) through the autoencoder and back

NEIGHBOURS = 16  # drawn pictures of each split whose nearest training picture is shown
STRANGERS = 1000  # real pictures of things that the judge does not know, whose style it is asked for


def on_white(rgba: Tensor) -> Tensor:
    """Transparent pictures (N, 4, H, W) uint8 on white, as plain captions mean them: (N, 3, H, W) in [-1, 1]."""
    return composite(rgba, background("white", len(rgba)))


def autoencoder_section(
    restore: Restore, rgba: Tensor, *, factor: int, seed: int, goal: float | None = 30.0
) -> Section:
    """PSNR of pictures (N, 4, H, W) uint8 there and back, on white and on random backgrounds.

    Beside it: a copy averaged over squares of ``factor`` pixels, and one flat colour a picture.
    """
    side = rgba.shape[-1] // factor
    grounds = random_backgrounds(len(rgba), torch.Generator().manual_seed(seed))
    figures = []
    for name, images in (("white", on_white(rgba)), ("random backgrounds", composite(rgba, grounds))):
        ours = psnr_score(restore, images)
        pooled = psnr_score(lambda x: pooled_copy(x, factor), images)
        flat = psnr_score(flat_colour, images)
        for kind in ("mean", "pooled"):
            beside = {f"{side} x {side} averages": getattr(pooled, kind), "one flat colour": getattr(flat, kind)}
            words = "mean of the pictures' own" if kind == "mean" else "of the mean squared error"
            figures.append(Figure(f"PSNR on {name}, {words}", getattr(ours, kind), ours.count, beside, "dB", goal))
    return Section("Autoencoder, on concepts never trained", "autoencoder", figures)


@dataclass(frozen=True)
class Order:
    """What the model is asked to draw, with the real pictures of the same captions."""

    captions: list[str]
    concepts: Tensor  # (N,)
    styles: Tensor  # (N,)
    seeds: list[int]
    real: Tensor  # (N, 3, H, W) on white
    rows: Tensor  # (N,) which pictures of the split these are


def order(data: EmojiTensors, count: int, *, seed: int, first: int) -> Order:
    """``count`` captions of a split in a random order; when all have been taken, from the start with new seeds.

    ``seed`` decides the order; the pictures' own seeds are ``first``, ``first + 1`` ...
    """
    if count < 1:
        raise ValueError(f"count={count} pictures measure nothing; ask for at least 1, better some hundred")
    rows = torch.randperm(len(data.captions), generator=torch.Generator().manual_seed(seed))
    rows = rows.repeat(-(-count // len(rows)))[:count]  # (N,)
    return Order(
        [data.captions[i] for i in rows.tolist()],
        data.concepts[rows],
        data.styles[rows],
        [first + i for i in range(count)],
        on_white(data.rgba[rows]),
        rows,
    )


@dataclass(frozen=True)
class Seen:
    """One order carried out: what was drawn, and what the judge says of it and of the real pictures."""

    order: Order
    drawn: Tensor  # (N, 3, H, W)
    judged: Verdicts
    real: Verdicts
    decoded: Verdicts  # the real pictures through the autoencoder: what a perfect generator would reach


def carry_out(draw: Draw, restore: Restore, judge: TrainedClassifier, asked: Order) -> Seen:
    """Draw an order and let the judge look."""
    drawn = draw(asked.captions, asked.seeds).float().cpu()
    with torch.inference_mode():
        decoded = torch.cat([restore(part).float().cpu() for part in asked.real.split(32)])
    return Seen(asked, drawn, *(judge_pictures(judge.model, images) for images in (drawn, asked.real, decoded)))


def style_of_strangers(judge: TrainedClassifier, seed: int) -> float | None:
    """How often the judge knows the style of a real picture of a thing that it has never seen, in any style.

    What a generator draws is such a picture too, so this is about what a perfect one would score. None for a judge that
    was not trained on the core concepts alone: it has no strangers.
    """
    if not judge.trained_on.startswith("core"):
        return None
    every, core = emoji_tensors("all"), emoji_tensors("all", core=True)
    rows = (~torch.isin(every.concepts, core.concepts)).nonzero()[:, 0]
    rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:STRANGERS]]
    verdicts = judge_pictures(judge.model, on_white(every.rgba[rows]))
    return judge_score(verdicts, every.concepts[rows], every.styles[rows]).style


def judge_section(
    title: str,
    seen: Seen,
    among: Sequence[int],
    *,
    goals: tuple[float | None, float | None, float | None],
    strangers: float | None = None,
    note: str = "",
) -> Section:
    """Top-1, top-5 and style of one order, with the ``goals`` for these; the judge answers with concepts ``among``.

    ``strangers``: what `style_of_strangers` found.
    """
    asked = seen.order

    def score(verdicts: Verdicts, answers: Sequence[int] | None = among) -> JudgeScore:
        return judge_score(verdicts, asked.concepts, asked.styles, among=answers)

    drawn, real, decoded = score(seen.judged), score(seen.real), score(seen.decoded)
    chance = chance_score(len(among), len(STYLES))
    figures = []
    for name, field, goal in zip(
        ("concept top-1", "concept top-5", "style"), ("top1", "top5", "style"), goals, strict=True
    ):
        beside = {
            "real": getattr(real, field),
            "real, decoded": getattr(decoded, field),
            "chance": getattr(chance, field),
        }
        if field == "style" and strangers is not None:
            beside["real, new to the judge"] = strangers
        figures.append(Figure(name, getattr(drawn, field), drawn.count, beside, "%", goal))
    return Section(title, "drawn", figures, note)


def frechet_section(seen: Seen, judge: TrainedClassifier, training: Tensor, *, seed: int) -> Section:
    """Fréchet distance to the training pictures that were not asked for; all columns have the same N.

    ``training`` (M, 3, H, W) is the split that the order was taken from. The real column is of the pictures asked for:
    it shows how large the distance of so few pictures is by itself.
    """
    n = min(len(seen.drawn), len(training) // 2)  # no more than half, or nothing is left to compare with
    if n < 2:
        raise ValueError(f"the Fréchet distance needs at least 2 pictures on each side, not {n}; raise the count")
    rest = torch.ones(len(training), dtype=torch.bool)
    rest[seen.order.rows[:n]] = False
    reference = gaussian(judge_pictures(judge.model, training[rest]).features)
    scrambled = judge_pictures(judge.model, shuffle_pixels(seen.order.real[:n], seed)).features
    columns = {"real": seen.real.features, "real, decoded": seen.decoded.features, "pixels shuffled": scrambled}
    beside = {name: frechet_distance(gaussian(features[:n]), reference) for name, features in columns.items()}
    ours = frechet_distance(gaussian(seen.judged.features[:n]), reference)
    return Section(
        "Fréchet distance in the judge's features, captions of the training set",
        "drawn",
        [Figure("distance, lower is better", ours, n, beside, better="lower")],
        f"To {int(rest.sum()):,} training pictures that were not asked for, in {reference.mean.shape[0]} features. "
        "It is not comparable with distances in the features of another network.",
    )


def shuffle_pixels(images: Tensor, seed: int) -> Tensor:
    """The same pixels in another order, the same for all pictures: colours without shapes. (N, C, H, W) -> same."""
    height, width = images.shape[-2:]
    places = torch.randperm(height * width, generator=torch.Generator().manual_seed(seed))
    return rearrange(rearrange(images, "n c h w -> n c (h w)")[..., places], "n c (h w) -> n c h w", h=height, w=width)


def nearest_section(
    trained: Seen, pairs: Seen, judge: TrainedClassifier, training: Tensor, held_out: Tensor
) -> tuple[Section, Image.Image]:
    """Nearest training picture of the first drawn ones of both orders, and a sheet that shows them.

    ``training`` (M, 3, H, W) are the pictures trained on, ``held_out`` (K, 3, H, W) real ones that were not.
    """
    first, second = min(NEIGHBOURS, len(trained.drawn)), min(NEIGHBOURS, len(pairs.drawn))
    drawn = torch.cat([trained.drawn[:first], pairs.drawn[:second]]).clamp(-1, 1)
    features = torch.cat([trained.judged.features[:first], pairs.judged.features[:second]])
    captions = trained.order.captions[:first] + pairs.order.captions[:second]
    known = judge_pictures(judge.model, training).features
    by_judge, by_pixels = nearest(features, known), nearest(drawn, training)
    scores = {
        "judge's features": copy_score(by_judge, nearest(judge_pictures(judge.model, held_out).features, known)),
        "pixels": copy_score(by_pixels, nearest(held_out, training)),
    }
    figures = []
    for name, score in scores.items():
        figures.append(
            Figure(f"median distance, {name}", score.median, score.count, {"real, held out": score.held_out})
        )
        figures.append(
            Figure(f"nearer than 95 % of the real, {name}", score.closer, score.count, {"real, held out": 0.05}, "%")
        )
    section = Section(
        "Nearest training picture",
        "drawn",
        figures,
        f"The first {first} have captions of the training set, where each caption has one "
        "picture: to come near it is what was asked for. The others are (concept, style) pairs never trained.",
    )
    return section, nearest_sheet(drawn, captions, training, by_judge, by_pixels)


def evaluate_emoji(
    draw: Draw, restore: Restore, judge: TrainedClassifier, *, factor: int, count: int, seed: int
) -> tuple[list[Section], Image.Image]:
    """All sections, and the sheet of nearest training pictures.

    Parameters
    ----------
    draw, restore : the model's.
    judge : knows every concept and style of the set, in the order of its readers.
    factor : of the autoencoder.
    count : pictures drawn for each of the two orders, trained pairs and pairs never trained.
    seed : of the orders and the backgrounds; the pictures' own seeds count up from it.

    Raises
    ------
    ValueError
        if the judge was trained for other classes, or a count is too small.
    """
    if judge.concepts != tuple(emoji_labels()) or judge.styles != STYLES:
        raise ValueError("this classifier names other classes than the emoji set: give one that was trained on it")
    data, data_pairs = emoji_tensors("train", starter=True), emoji_tensors("pairs", starter=True)
    training, held_out = on_white(data.rgba), on_white(data_pairs.rgba)
    among = (
        torch.cat([data.concepts, data_pairs.concepts, emoji_tensors("concepts", starter=True).concepts])
        .unique()
        .tolist()
    )

    trained = carry_out(draw, restore, judge, order(data, count, seed=seed, first=seed))
    pairs = carry_out(draw, restore, judge, order(data_pairs, count, seed=seed, first=seed + count))
    near, sheet = nearest_section(trained, pairs, judge, training, held_out)
    strangers = style_of_strangers(judge, seed)
    return [
        autoencoder_section(restore, emoji_tensors("concepts").rgba, factor=factor, seed=seed),
        judge_section(
            "Text to image, captions of the training set",
            trained,
            among,
            goals=(0.6, None, None),
            strangers=strangers,
            note=_about(judge, among),
        ),
        judge_section(
            "Text to image, (concept, style) pairs never trained",
            pairs,
            among,
            goals=(None, 0.5, 0.9),
            strangers=strangers,
            note=f"There are {len(data_pairs.captions)} such pairs; asked for more often, they have new seeds.",
        ),
        frechet_section(trained, judge, training, seed=seed),
        near,
    ], sheet


def _about(judge: TrainedClassifier, among: Sequence[int]) -> str:
    seen = f", trained on {judge.trained_on}" if judge.trained_on else ""
    return (
        f'The judge{seen}, answers with one of {len(among):,} concepts. "Real, decoded" are the real pictures through '
        "the autoencoder: no generator of its latents can be expected to do better. The judge knows these by heart; "
        '"real, new to the judge" are pictures of things that it has never seen, as what is drawn anew is.'
    )
