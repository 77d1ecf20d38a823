"""Lesson 04, diffusion in latent space: the items, their right answers and the mistakes that are recognised."""

import torch
from torch import Generator, Tensor

from ldm_edu.grading.draw import different, normal, number, uniform, whole
from ldm_edu.grading.item import Case, Item, Mistake

# 04.to_unit


def to_unit(z: Tensor, scale: float, shift: float) -> Tensor:
    return (z - shift) * scale


TO_UNIT = Item(
    "04.to_unit",
    title="Latents for a diffusion model",
    why="The noise has variance 1; data of another size would be drowned too late or too early.",
    kind="implement",
    points=2,
    difficulty=1,
    minutes=5,
    answer=to_unit,
    draw=lambda rng: [
        Case(f"latents {shape}, scale {scale}, shift {shift}", (3.6 * normal(rng, *shape) + shift, scale, shift))
        for shape, scale, shift in (
            ((2, 4, 4, 4), 0.276, 0.231),
            ((2, 4, 4, 4), 2.0, -1.0),
            *((tuple(different(rng, 4, 2, 7)), number(rng, 0.1, 0.8), number(rng, -3.0, -0.2)) for _ in range(3)),
        )
    ],
    others={
        "multiplied out": lambda z, scale, shift: z * scale - shift * scale,
        "float64": lambda z, scale, shift: torch.sub(z.double(), shift).mul(scale),
    },
    hints=(
        "They should have mean 0 and standard deviation 1, as the noise has that is added to them.",
        "The shift is the mean of the raw latents, the scale is one over their standard deviation.",
        "First take the shift away, then multiply.",
    ),
    mistakes=(
        Mistake("The shift is not scaled along: first shift, then scale.", lambda z, scale, shift: z * scale - shift),
        Mistake(
            "You divide by the scale; it is one over the standard deviation already.",
            lambda z, s, shift: (z - shift) / s,
        ),
        Mistake("The shift is the mean: it is taken away, not added.", lambda z, s, shift: (z + shift) * s),
        Mistake("The shift is forgotten.", lambda z, s, shift: z * s),
    ),
)

# 04.times


def times(u: Tensor, steps: int) -> Tensor:
    n = len(u)
    return ((torch.arange(n) + u) / n * steps).long()


def _spread(rng: Generator, n: int, steps: int) -> Tensor:
    """Random numbers in [0, 1) whose times fall clear of whole ones, where float32 and float64 may part."""
    u = uniform(rng, n)
    while (0.5 - ((torch.arange(n) + u.double()) / n * steps).frac().sub(0.5).abs()).min() < 0.01:
        u = uniform(rng, n)
    return u


def _batches(rng: Generator) -> list[Case]:
    sizes = [(n, whole(rng, 100, 1500)) for n in different(rng, 3, 4, 9)]
    return [
        Case("a batch of 4, 1000 steps", (torch.tensor([0.11, 0.91, 0.53, 0.999]), 1000)),
        Case("a batch of 3, 10 steps", (torch.tensor([0.01, 0.33, 0.99]), 10)),
        *(Case(f"a batch of {n}, {steps} steps", (_spread(rng, n, steps), steps)) for n, steps in sizes),
    ]


TIMES = Item(
    "04.times",
    title="Times spread over the batch",
    why="A steadier loss for free: the same expectation, less variance, one line.",
    kind="implement",
    points=3,
    difficulty=2,
    minutes=10,
    answer=times,
    draw=_batches,
    others={
        "floor": lambda u, steps: torch.floor(steps * (torch.arange(len(u)).double() + u) / len(u)),
        "a list": lambda u, steps: [int(steps * (i + float(v)) / len(u)) for i, v in enumerate(u)],
    },
    hints=(
        "Cut [0, 1) into as many equal strips as there are pictures; picture i draws from strip i.",
        "A number of strip i: (i + u[i]) / n.",
        "Times steps, rounded down: the times are 0 ... steps - 1.",
    ),
    mistakes=(
        Mistake(
            "Not spread: every picture draws from all times, and a batch may see high noise only.",
            lambda u, steps: (u * steps).long(),
        ),
        Mistake(
            "Rounded to the nearest: a time of `steps` itself can come out, which the schedule does not have.",
            lambda u, steps: ((torch.arange(len(u)) + u) / len(u) * steps).round().long(),
        ),
        Mistake(
            "One step too few: the noisiest time, steps - 1, is never seen.",
            lambda u, steps: ((torch.arange(len(u)) + u) / len(u) * (steps - 1)).long(),
        ),
        Mistake(
            "The same place in every strip: each picture has its own u.",
            lambda u, steps: ((torch.arange(len(u)) + u[0]) / len(u) * steps).long(),
        ),
        Mistake(
            "You draw random numbers of your own; they are given, as `u`.",
            lambda u, steps: times(torch.rand_like(u), steps),
        ),
        Mistake(
            "The times have a fraction; a schedule is looked up at whole ones, rounded down.",
            lambda u, steps: (torch.arange(len(u)) + u) / len(u) * steps,
        ),
    ),
)

# 04.ema


def ema(average: Tensor, weights: Tensor, decay: float) -> Tensor:
    return decay * average + (1 - decay) * weights


EMA = Item(
    "04.ema",
    title="The calmer copy",
    why="Samples of the average look better than samples of the last weights; it is what is published.",
    kind="implement",
    points=2,
    difficulty=1,
    minutes=5,
    answer=ema,
    draw=lambda rng: [
        Case(f"weights {shape}, a decay of {decay}", (normal(rng, *shape), normal(rng, *shape), decay))
        for shape, decay in (
            ((5,), 0.9),
            ((3, 3), 0.999),
            *((tuple(different(rng, n, 2, 7)), number(rng, 0.55, 0.98)) for n in (1, 2, 4)),
        )
    ],
    others={
        "torch.lerp": lambda a, w, d: torch.lerp(a, w, 1 - d),
        "a step towards": lambda a, w, d: a.double() + (1 - d) * (w.double() - a.double()),
    },
    hints=(
        "Samples are drawn with an average of the weights over the last steps, which jitters less than the weights.",
        "Keep `decay` of the average; the rest comes from the weights as they are now.",
        "With a decay of 0.999 one step changes the average by a thousandth of the difference.",
    ),
    mistakes=(
        Mistake("Exchanged: yours follows the weights and forgets the average.", lambda a, w, d: (1 - d) * a + d * w),
        Mistake("The two factors must add up to 1, or the average grows.", lambda a, w, d: d * a + w),
        Mistake("A plain mean forgets half of everything at each step.", lambda a, w, d: (a + w) / 2),
        Mistake("The average is written over in place; return a new tensor.", lambda a, w, d: a.lerp_(w, 1 - d)),
    ),
)

# 04.weight


def weight(snr: Tensor, gamma: float) -> Tensor:
    return snr.clamp(max=gamma) / snr


WEIGHT = Item(
    "04.weight",
    title="Which noise levels count",
    why="With it, its authors report, training converges 3.4 times as fast.",
    kind="implement",
    points=3,
    difficulty=2,
    minutes=10,
    answer=weight,
    draw=lambda rng: [
        Case("SNR = 100, 5, 1, 0.01 and gamma = 5", (torch.tensor([100.0, 5.0, 1.0, 0.01]), 5.0)),
        *(
            Case(f"{n} ratios and gamma = {gamma}", (gamma * 10 ** uniform(rng, n, low=-1.0, high=1.0), gamma))
            for n, gamma in zip(different(rng, 3, 5, 12), [number(rng, 1.0, 20.0) for _ in range(3)], strict=True)
        ),
    ],
    others={
        "a minimum": lambda snr, gamma: (gamma / snr.double()).clamp(max=1),
        "where": lambda snr, gamma: torch.where(snr > gamma, gamma / snr, torch.ones_like(snr)),
    },
    hints=(
        "Hang et al. 2023, section 3.4: in terms of x0 the weight is min(SNR, gamma).",
        "An error of eps is one of x0 times the root of the SNR; squared, times the SNR. So divide by it.",
        "min(SNR, gamma) / SNR: 1 where there is much noise, falling where there is little.",
    ),
    mistakes=(
        Mistake("That is the weight of an error of x0; for one of eps divide by the SNR.", lambda s, g: s.clamp(max=g)),
        Mistake("A maximum for a minimum: yours weighs noisy levels without bound.", lambda s, g: s.clamp(min=g) / s),
        Mistake("That is for v: it divides by SNR + 1.", lambda s, g: s.clamp(max=g) / (s + 1)),
        Mistake("The ceiling is forgotten: without it all weights are 1.", lambda s, g: torch.ones_like(s)),
    ),
)

# 04.cached: working code with one planted mistake


def cached(latents: Tensor, rows: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    kept = alpha_bar[:, None, None, None]
    return kept.sqrt() * latents[rows] + (1 - kept).sqrt() * eps


def _caches(rng: Generator) -> list[Case]:
    drawn = [(whole(rng, 5, 9), tuple(different(rng, 3, 2, 6))) for _ in range(3)]
    rows = [torch.tensor([3, 0, 3]), *(torch.tensor([n - 1, *different(rng, 3, 0, n - 2)]) for n, _ in drawn)]
    return [
        Case(
            f"a cache {(n, *shape)}, rows {places.tolist()}",
            (
                normal(rng, n, *shape),
                places,
                normal(rng, len(places), *shape),
                uniform(rng, len(places), low=0.05, high=0.95),
            ),
        )
        for (n, shape), places in zip([(5, (4, 2, 2)), *drawn], rows, strict=True)
    ]


CACHED = Item(
    "04.cached",
    title="Find the mistake: latents that decay",
    why="Caching latents saves an encoder run a picture; writing into the cache spoils all later epochs, silently.",
    kind="debug",
    points=3,
    difficulty=2,
    minutes=10,
    answer=cached,
    draw=_caches,
    others={
        "index_select": lambda z, rows, e, a: (
            torch.einsum("b,bchw->bchw", a**0.5, z.index_select(0, rows)) + (1 - a).sqrt().view(-1, 1, 1, 1) * e
        ),
        "one by one": lambda z, rows, e, a: torch.stack(
            [a[i] ** 0.5 * z[r].double() + (1 - a[i]) ** 0.5 * e[i].double() for i, r in enumerate(rows)]
        ),
    },
    hints=(
        "Run it twice on the same cache. Is the second result what you expect?",
        "Which operations write into the tensor they are given?",
        "`mul_` and assignments to `latents[...]` change the cache; make new tensors instead.",
    ),
    mistakes=(
        Mistake(
            "The mistake is still there: the cache is overwritten, and the next epoch starts from noisy latents.",
            lambda z, rows, e, a: z.index_copy_(
                0, rows, a.sqrt().view(-1, 1, 1, 1) * z[rows] + (1 - a).sqrt().view(-1, 1, 1, 1) * e
            )[rows],
        ),
        Mistake(
            "You took the first latents of the cache instead of the rows that were asked for.",
            lambda z, rows, e, a: a.sqrt().view(-1, 1, 1, 1) * z[: len(rows)] + (1 - a).sqrt().view(-1, 1, 1, 1) * e,
        ),
        Mistake(
            "The square roots are missing.",
            lambda z, rows, e, a: a.view(-1, 1, 1, 1) * z[rows] + (1 - a).view(-1, 1, 1, 1) * e,
        ),
    ),
)

# 04.convolutions and 04.attention: predict, run, explain

CONVOLUTIONS = Item(
    "04.convolutions",
    title="What a convolution saves",
    why="It is the economic argument of the whole paper, in one division.",
    kind="investigate",
    points=2,
    difficulty=1,
    minutes=5,
    answer=64,
    others={"a float": 64.0, "a tensor": torch.tensor(64)},
    hints=(
        "A convolution does the same work at every place. Count the places.",
        "At f = 8 both sides are 8 times shorter.",
        "8 * 8 times fewer places.",
    ),
    mistakes=(
        Mistake("Both sides get shorter: the factor counts twice.", 8),
        Mistake("That counts the numbers in the latent; the hidden channels are the same in both.", 48),
        Mistake("That is attention's saving, which grows with the square of the number of places.", 4096),
    ),
)

ATTENTION = Item(
    "04.attention",
    title="What attention saves",
    why="It is why attention over pixels was out of reach and attention over latents is not.",
    kind="investigate",
    points=3,
    difficulty=2,
    minutes=8,
    answer=4096,
    others={"a float": 4096.0, "a tensor": torch.tensor(8**4)},
    hints=(
        "In self-attention every place looks at every place. Count the pairs.",
        "There are (h w)^2 pairs; at f = 8 both h and w are 8 times smaller.",
        "It is 8 to the fourth power.",
    ),
    mistakes=(
        Mistake("That is a convolution's saving; pairs of places go with the square of it.", 64),
        Mistake("Four factors of 8, not three: two sides, and pairs.", 512),
        Mistake("Both sides, and both places of a pair: the factor counts four times.", 8),
    ),
)

ITEMS = (TO_UNIT, TIMES, EMA, WEIGHT, CACHED, CONVOLUTIONS, ATTENTION)
