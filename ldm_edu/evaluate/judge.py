"""What an independent classifier makes of pictures: which concept, which style, and where they lie among others."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm_edu.models.classifier import Classifier


@dataclass(frozen=True)
class Verdicts:
    """The judge's answers for N pictures, float32 on the CPU."""

    features: Tensor  # (N, D)
    concept_logits: Tensor  # (N, concepts)
    style_logits: Tensor  # (N, styles)


def judge_pictures(judge: Classifier, images: Tensor, *, batch: int = 64) -> Verdicts:
    """Let the judge look at pictures (N, 3, H, W) in [-1, 1], a batch at a time."""
    device = next(judge.parameters()).device
    with torch.inference_mode():
        features = torch.cat([judge.features(part.to(device)) for part in images.clamp(-1, 1).split(batch)])  # (N, D)
        concepts, styles = judge.concept(features), judge.style(features)
    return Verdicts(*(tensor.float().cpu().clone() for tensor in (features, concepts, styles)))


@dataclass(frozen=True)
class JudgeScore:
    """Shares in [0, 1] of ``count`` pictures that the judge names rightly."""

    top1: float  # the concept asked for is the judge's first answer
    top5: float  # ... is among its first five
    style: float
    count: int


def judge_score(
    verdicts: Verdicts, concepts: Tensor, styles: Tensor, *, among: Sequence[int] | None = None
) -> JudgeScore:
    """How often the judge sees what was asked for.

    Parameters
    ----------
    verdicts : of N pictures.
    concepts, styles : (N,) class ids asked for.
    among : the concepts that the judge may answer with, by id; None: all. A generator that knows few concepts is asked
        only about these, and chance is higher accordingly (`chance_score`).

    Raises
    ------
    ValueError
        if the numbers differ, there is no picture, or a concept asked for is not allowed as an answer.
    """
    n = len(verdicts.features)
    if not n or len(concepts) != n or len(styles) != n:
        raise ValueError(f"expected as many concepts and styles as pictures, not {len(concepts)}, {len(styles)}, {n}")
    logits = verdicts.concept_logits  # (N, K)
    if among is not None:
        shut = torch.ones(logits.shape[1], dtype=torch.bool)
        shut[list(among)] = False
        if shut[concepts].any():
            raise ValueError(
                f"the concept {int(concepts[shut[concepts]][0])} is asked for but is not among the answers"
            )
        logits = logits.masked_fill(shut, -torch.inf)
    best = logits.topk(min(5, logits.shape[1]), dim=1).indices  # (N, 5), best first
    hit = best == concepts[:, None]  # (N, 5)
    return JudgeScore(
        top1=float(hit[:, 0].double().mean()),
        top5=float(hit.any(dim=1).double().mean()),
        style=float((verdicts.style_logits.argmax(dim=1) == styles).double().mean()),
        count=n,
    )


def chance_score(concepts: int, styles: int) -> JudgeScore:
    """What guessing among that many concepts and styles scores; its count is 0, as nothing was drawn."""
    return JudgeScore(1 / concepts, min(5, concepts) / concepts, 1 / styles, 0)
