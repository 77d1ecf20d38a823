"""What is measured of the shapes model: a program reads its pictures and says which words of the caption came true."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ldm_edu.datasets.shapes import Split, shapes_tensors
from ldm_edu.datasets.shapes_check import KINDS, CaptionScore, caption_accuracy
from ldm_edu.evaluate.record import Figure, Section

Draw = Callable[[Sequence[str], Sequence[int]], Tensor]  # captions and seeds -> (N, 3, H, W) in [-1, 1]
Restore = Callable[
    [Tensor], Tensor
]  # pictures through the autoencoder and back; the pictures themselves if there is none

TITLES: dict[Split, str] = {
    "test": "Words trained together",
    "combos": "A (colour, shape) pair never trained",
}


def shapes_section(draw: Draw, restore: Restore, split: Split, *, count: int, size: int, seed: int) -> Section:
    """Share of ``count`` captions of a split whose words are true of the pictures drawn from them.

    Beside it: the same for the real pictures, for the real ones through the autoencoder, and by chance: for the real
    pictures under each other's captions, and for the relation in all four quarter turns.

    Parameters
    ----------
    draw, restore : the model's. ``size`` : side of its pictures. ``seed`` : of the captions; the pictures' own seeds
        count up from it.

    Raises
    ------
    ValueError
        if the count is too small, or the split is unknown.
    """
    if count < 2:
        raise ValueError(f"count={count} captions measure nothing; ask for at least 2, better some hundred")
    real, captions = shapes_tensors(split, count, seed=seed, size=size)
    drawn = draw(captions, [seed + i for i in range(count)]).float().cpu()
    with torch.inference_mode():
        decoded = torch.cat([restore(part).float().cpu() for part in real.split(64)])
    ours, of_real = caption_accuracy(drawn, captions), caption_accuracy(real, captions)
    beside = {
        "real": of_real,
        "real, decoded": caption_accuracy(decoded, captions),
        "chance": by_chance(real, captions, of_real),
    }
    figures = [_figure(kind, ours, beside, captions) for kind in (*KINDS, "all")]
    return Section(
        TITLES.get(split, split),
        "drawn",
        figures,
        "Chance: real pictures under each other's captions. For the relation: under their own captions, in all four "
        "quarter turns, so the right things, standing anyhow.",
    )


def by_chance(real: Tensor, captions: list[str], unturned: CaptionScore) -> CaptionScore:
    """What is true of real pictures (N, 3, S, S) that were drawn without a look at these captions of theirs.

    ``unturned`` : their score under their own captions, as they stand.
    """
    others = caption_accuracy(real, captions[1:] + captions[:1])
    turned = [caption_accuracy(real.rot90(turns, (2, 3)), captions).relation for turns in (1, 2, 3)]
    return others._replace(relation=(unturned.relation + sum(turned)) / 4)


def _figure(kind: str, ours: CaptionScore, beside: dict[str, CaptionScore], captions: list[str]) -> Figure:
    related = sum(" a " in caption for caption in captions)  # a second thing, and so a relation
    return Figure(
        "all words" if kind == "all" else kind,
        getattr(ours, kind),
        related if kind == "relation" else len(captions),
        {name: getattr(score, kind) for name, score in beside.items()},
        "%",
    )


def evaluate_shapes(draw: Draw, restore: Restore, *, count: int, size: int, seed: int) -> list[Section]:
    """The sections of both held-out splits; parameters and errors as for `shapes_section`."""
    splits: tuple[Split, ...] = ("test", "combos")
    return [
        shapes_section(draw, restore, split, count=count, size=size, seed=seed + i * count)
        for i, split in enumerate(splits)
    ]
