"""Lesson 06, guidance: the items, their right answers and the mistakes that are recognised."""

from collections.abc import Callable

import torch
from einops import rearrange
from torch import Generator, Tensor

from ldm_edu.grading.draw import different, normal, number, uniform
from ldm_edu.grading.item import Case, Item, Mistake

# 06.drop_condition


def drop_condition(context: Tensor, blank: Tensor, u: Tensor, share: float) -> Tensor:
    return torch.where(rearrange(u < share, "b -> b 1 1"), blank, context)


def drop_by_index(context: Tensor, blank: Tensor, u: Tensor, share: float) -> Tensor:
    kept = context.clone()
    kept[u < share] = blank
    return kept


def _captions(rng: Generator) -> list[Case]:
    def inputs(b: int, length: int, width: int, share: float) -> tuple[Tensor, Tensor, Tensor, float]:
        u = uniform(rng, b)
        u[:3] = torch.tensor([0.5 * share, share, (1 + share) / 2])  # below, just not below, above
        u = u[torch.randperm(b, generator=rng)]
        return normal(rng, b, length, width), normal(rng, length, width), u, share

    sixteenths = different(rng, 3, 3, 13)  # exact in float32 as in float64
    drawn = [(tuple(different(rng, 3, 5, 9)), n / 16) for n in sixteenths]
    return [
        Case(f"{b} captions of {length} tokens, a share of {share}", inputs(b, length, width, share))
        for (b, length, width), share in [((6, 3, 4), 0.125), ((4, 4, 4), 0.5), *drawn, ((30, 3, 2), 0.5)]
    ]


DROP_CONDITION = Item(
    "06.drop_condition",
    title="Forget the caption, now and then",
    why="A tenth of the captions, given up in training, is all that guidance costs there.",
    kind="implement",
    points=3,
    difficulty=2,
    minutes=8,
    answer=drop_condition,
    draw=_captions,
    others={
        "by index": drop_by_index,
        "by arithmetic, float64": lambda c, blank, u, share: (
            (u < share).double()[:, None, None] * blank + (u >= share).double()[:, None, None] * c
        ),
    },
    hints=(
        "`u` holds one number from 0 to 1 for each picture: below `share`, its caption is replaced.",
        "It is replaced by `blank`, the states of the empty prompt, as a whole: all tokens of that picture.",
        "`torch.where` with a condition of shape (B, 1, 1).",
    ),
    mistakes=(
        Mistake(
            "The other way round: you keep a tenth of the captions and drop nine of ten.",
            lambda c, blank, u, share: torch.where((u < share)[:, None, None], c, blank),
        ),
        Mistake(
            "Dropped captions become zeros. Sampling asks for the empty prompt, and its states are not 0.",
            lambda c, blank, u, share: torch.where((u < share)[:, None, None], 0.0, c),
        ),
        Mistake(
            "You fade every caption by `share`, instead of dropping a share of them.",
            lambda c, blank, u, share: (1 - share) * c + share * blank,
        ),
        Mistake(
            "Nothing is dropped: without that the network never learns to draw without a caption.",
            lambda c, *_: c.clone(),
        ),
        Mistake(
            "You draw random numbers of your own: `u` holds them already, one for each picture.",
            lambda c, blank, u, share: drop_condition(c, blank, torch.rand(len(c)), share),
        ),
    ),
)

# 06.cfg


def cfg(cond: Tensor, uncond: Tensor, scale: float) -> Tensor:
    return uncond + scale * (cond - uncond)


def _branches(rng: Generator) -> list[Case]:
    small = [((2, 4, 4, 4), scale) for scale in (7.5, 1.0, 0.0)]
    drawn = [(tuple(different(rng, n, 2, 7)), number(rng, 1.5, 9.0)) for n in (4, 3, 1)]
    return [
        Case(f"predictions {shape}, a scale of {scale:g}", (normal(rng, *shape), normal(rng, *shape), scale))
        for shape, scale in small + drawn
    ]


CFG = Item(
    "06.cfg",
    title="Further the same way",
    why="Hardly any picture you have seen from such a model was drawn without this line.",
    kind="implement",
    points=3,
    difficulty=1,
    minutes=6,
    answer=cfg,
    draw=_branches,
    others={
        "torch.lerp": lambda c, u, s: torch.lerp(u, c, s),
        "two weights, float64": lambda c, u, s: s * c.double() + (1 - s) * u.double(),
    },
    hints=(
        "A line through two points: where there is no condition, and where there is one.",
        "Scale 0 gives `uncond`, scale 1 gives `cond`; 7.5 goes on beyond it, in the same direction.",
        "Start at `uncond` and go `scale` times the difference.",
    ),
    mistakes=(
        Mistake(
            "That is the paper's w (Ho and Salimans 2022, equation 6), which counts from `cond`: scale = w + 1. Here "
            "scale 1 is no guidance.",
            lambda c, u, s: (1 + s) * c - s * u,
        ),
        Mistake("The sign: yours goes away from what the prompt asks for.", lambda c, u, s: u - s * (c - u)),
        Mistake("The two are exchanged: at scale 1 `cond` must come out.", lambda c, u, s: c + s * (u - c)),
        Mistake("A mean of the two never gets further than `cond`.", lambda c, u, s: (s * c + u) / (s + 1)),
    ),
)

# 06.one_call

Network = Callable[[Tensor, Tensor, Tensor], Tensor]


def one_call(network: Network, x: Tensor, t: Tensor, cond: Tensor, uncond: Tensor, scale: float) -> Tensor:
    both = network(torch.cat([x, x]), torch.cat([t, t]), torch.cat([cond, uncond]))
    with_prompt, without = both.chunk(2)
    return without + scale * (with_prompt - without)


def one_call_blank_first(network: Network, x: Tensor, t: Tensor, cond: Tensor, uncond: Tensor, scale: float) -> Tensor:
    n = len(x)
    both = network(x.repeat(2, 1, 1, 1), t.repeat(2), torch.vstack([uncond, cond]))
    return torch.lerp(both[:n], both[n:], scale)


def one_call_by_turns(network: Network, x: Tensor, t: Tensor, cond: Tensor, uncond: Tensor, scale: float) -> Tensor:
    pairs = torch.stack([cond, uncond], dim=1).flatten(0, 1)
    both = network(x.repeat_interleave(2, 0), t.repeat_interleave(2), pairs)
    return (1 - scale) * both[1::2] + scale * both[::2]


def _asked_once(rng: Generator) -> Network:
    asked, bend = 0, number(rng, 0.5, 1.5)

    def network(x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        nonlocal asked
        asked += 1
        if asked > 1:
            raise RuntimeError("the network was asked twice; lay both prompts into one batch")
        for things, n in (("times", len(t)), ("contexts", len(context))):
            if len(x) != n:
                much = "more" if len(x) > n else "fewer"
                raise ValueError(f"the network was given {much} pictures than {things}: {len(x)} and {n}")
        return torch.tanh(bend * x + context.mean(dim=(1, 2)).view(-1, 1, 1, 1)) * (1 + t.view(-1, 1, 1, 1) / 1000)

    return network


def _prompts(rng: Generator) -> list[Case]:
    sizes = [(2, 4, 4, 4, 3, 8), *((*different(rng, 4, 2, 6), *different(rng, 2, 3, 9)) for _ in range(3))]
    scales = [5.0, *(number(rng, 1.5, 9.0) for _ in range(3))]
    return [
        Case(
            f"pictures {(b, c, h, w)}, prompts {(b, length, width)}, scale {scale}",
            (
                _asked_once(rng),
                normal(rng, b, c, h, w),
                uniform(rng, b, high=999.0),
                normal(rng, b, length, width) + 0.3,
                normal(rng, b, length, width) - 0.3,
                scale,
            ),
        )
        for (b, c, h, w, length, width), scale in zip(sizes, scales, strict=True)
    ]


def _two_calls(network: Network, x: Tensor, t: Tensor, cond: Tensor, uncond: Tensor, scale: float) -> Tensor:
    return cfg(network(x, t, cond), network(x, t, uncond), scale)


def _mixed_prompts(network: Network, x: Tensor, t: Tensor, cond: Tensor, uncond: Tensor, scale: float) -> Tensor:
    return network(x, t, uncond + scale * (cond - uncond))


def _halves_exchanged(network: Network, x: Tensor, t: Tensor, cond: Tensor, uncond: Tensor, scale: float) -> Tensor:
    return one_call(network, x, t, uncond, cond, scale)


ONE_CALL = Item(
    "06.one_call",
    title="Two prompts, one batch",
    why="Guidance doubles the work; asked in one batch it costs much less than twice the time.",
    kind="implement",
    points=4,
    difficulty=2,
    minutes=12,
    answer=one_call,
    draw=_prompts,
    others={"the blank one first": one_call_blank_first, "by turns": one_call_by_turns},
    hints=(
        "The network is asked once, about a batch of 2B: every picture twice, with its prompt and without.",
        "All three inputs double: `torch.cat([x, x])`, the times too, and the two contexts one after the other.",
        "Split the answer with `.chunk(2)`, in the order in which you laid the contexts.",
    ),
    mistakes=(
        Mistake(
            "Two calls: on a GPU that costs nearly twice the time of one batch.",
            _two_calls,
        ),
        Mistake(
            "You mixed the prompts. Guidance mixes what the network answers; it is not linear in the prompt.",
            _mixed_prompts,
        ),
        Mistake(
            "The halves come back in the order in which you laid them in: yours are exchanged.",
            _halves_exchanged,
        ),
        Mistake(
            "The times are not doubled: every one of the 2B pictures needs its own.",
            lambda network, x, t, cond, uncond, scale: network(torch.cat([x, x]), t, torch.cat([cond, uncond])),
        ),
        Mistake(
            "The pictures are not doubled: each is asked about twice, with its prompt and without.",
            lambda network, x, t, cond, uncond, scale: network(x, t, torch.cat([cond, uncond])),
        ),
    ),
)

# 06.rescale


def rescale(cond: Tensor, guided: Tensor, phi: float) -> Tensor:
    def spread(x: Tensor) -> Tensor:
        return rearrange(x, "b ... -> b (...)").std(dim=1).view(-1, 1, 1, 1)

    matched = guided * spread(cond) / spread(guided)
    return phi * matched + (1 - phi) * guided


def rescale_one_by_one(cond: Tensor, guided: Tensor, phi: float) -> Tensor:
    factors = [phi * float(c.double().std() / g.double().std()) + 1 - phi for c, g in zip(cond, guided, strict=True)]
    return torch.stack([f * g for f, g in zip(factors, guided, strict=True)])


def _burnt(rng: Generator) -> list[Case]:
    small = [((2, 4, 4, 4), phi) for phi in (0.7, 1.0, 0.0)]
    drawn = [(tuple(different(rng, 4, 2, 7)), number(rng, 0.15, 0.45)) for _ in range(3)]
    return [
        Case(
            f"predictions {shape}, phi = {phi}",
            (
                normal(rng, *shape) + 0.2,
                uniform(rng, shape[0], 1, 1, 1, low=2.0, high=6.0) * normal(rng, *shape) + 0.5,
                phi,
            ),
        )
        for shape, phi in small + drawn
    ]


def _by(spread: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor, float], Tensor]:
    return lambda cond, guided, phi: phi * guided * spread(cond) / spread(guided) + (1 - phi) * guided


RESCALE = Item(
    "06.rescale",
    title="Against burnt colours",
    why="It lets you raise the scale for the prompt's sake and keep a picture of natural contrast.",
    kind="implement",
    points=4,
    difficulty=3,
    minutes=15,
    answer=rescale,
    draw=_burnt,
    others={
        "one by one": rescale_one_by_one,
        "std over three axes": lambda c, g, phi: (
            g * (1 - phi + phi * c.std((1, 2, 3), keepdim=True) / g.std((1, 2, 3), keepdim=True))
        ),
    },
    hints=(
        "Give the guided prediction the standard deviation of the unguided one (Lin et al. 2023, equation 15).",
        "The standard deviation of each picture, over channels and places: shape (B, 1, 1, 1).",
        "Then mix: phi times the rescaled one plus (1 - phi) times the guided one (equation 16).",
    ),
    mistakes=(
        Mistake(
            "Upside down: yours makes the spread even larger.",
            lambda c, g, phi: phi * g * g.std((1, 2, 3), keepdim=True) / c.std((1, 2, 3), keepdim=True) + (1 - phi) * g,
        ),
        Mistake(
            "One spread for the whole batch: pictures would depend on each other.",
            _by(lambda x: x.std()),
        ),
        Mistake(
            "phi and 1 - phi are exchanged: phi = 1 is all of the rescaling.",
            lambda c, g, phi: (1 - phi) * g * c.std((1, 2, 3), keepdim=True) / g.std((1, 2, 3), keepdim=True) + phi * g,
        ),
        Mistake(
            "You mix with the unguided prediction; the mix is of the rescaled and the guided one.",
            lambda c, g, phi: phi * g * c.std((1, 2, 3), keepdim=True) / g.std((1, 2, 3), keepdim=True) + (1 - phi) * c,
        ),
        Mistake(
            "One spread for each channel: that changes the colours of a picture against each other.",
            _by(lambda x: x.std((2, 3), keepdim=True)),
        ),
        Mistake(
            "You take the variance; the standard deviation is its square root.",
            _by(lambda x: x.var((1, 2, 3), keepdim=True)),
        ),
    ),
)

# 06.scale_at: working code with one planted mistake


def scale_at(ratio: float, scale: float, low: float, high: float) -> float:
    return scale if low < ratio <= high else 1.0


def _ratios(rng: Generator) -> list[Case]:
    intervals = [
        (5.0, 0.3, 4.0),
        *((number(rng, 2.0, 9.0), number(rng, 0.1, 0.4), number(rng, 4.0, 9.0)) for _ in "abc"),
    ]
    return [
        Case(f"sigma / alpha = {ratio:g}, guidance {scale:g} between {low:g} and {high:g}", (ratio, scale, low, high))
        for scale, low, high in intervals
        for ratio in (2 * high, high, number(rng, 0.5, 1.0), 3.0, low, low / 2)
    ]


SCALE_AT = Item(
    "06.scale_at",
    title="Find the mistake: guidance in an interval",
    why="Outside of the interval one prediction is enough: there, a step costs half.",
    kind="debug",
    points=3,
    difficulty=2,
    minutes=8,
    answer=scale_at,
    draw=_ratios,
    others={
        "nested": lambda r, s, low, high: 1.0 if r > high else (s if r > low else 1.0),
        "arithmetic": lambda r, s, low, high: 1 + (s - 1) * (low < r <= high),
    },
    hints=(
        "What happens outside of the interval: guidance is off. What does that mean for the prompt?",
        "Off means the conditional prediction alone; the prompt still counts.",
        "Which scale gives `cond` itself?",
    ),
    mistakes=(
        Mistake(
            "The mistake is still there: scale 0 is the empty prompt, so outside the interval yours is forgotten.",
            lambda r, s, low, high: s if low < r <= high else 0.0,
        ),
        Mistake(
            "Inside out: the guidance belongs into the interval.", lambda r, s, low, high: 1.0 if low < r <= high else s
        ),
        Mistake("Only one of the two bounds is kept.", lambda r, s, low, high: s if r > low else 1.0),
        Mistake(
            "Only one of the two bounds is kept: the lower one is missing.",
            lambda r, s, low, high: s if r <= high else 1.0,
        ),
        Mistake(
            "Yours takes `ratio` for alpha / sigma: it is sigma / alpha, and large where there is much noise.",
            lambda r, s, low, high: s if low < 1 / r <= high else 1.0,
        ),
    ),
)

# 06.same_as_w and 06.overshoot: predict, run, explain

SAME_AS_W = Item(
    "06.same_as_w",
    title="Two ways to count",
    why="Papers and programs count guidance from different zeros; a scale copied across is wrong by one.",
    kind="investigate",
    points=2,
    difficulty=1,
    minutes=4,
    answer=4.0,
    others={"an int": 4, "a tensor": torch.tensor(4)},
    hints=(
        "Write both: (1 + w) cond - w uncond, and uncond + scale (cond - uncond).",
        "Compare the factors of `cond`.",
        "No guidance is w = 0 in the paper and scale = 1 in Stable Diffusion's code.",
    ),
    mistakes=(
        Mistake("They do not count from the same point: w = 0 is no guidance, and so is scale = 1.", 3.0),
        Mistake("The other direction: the scale is the larger of the two.", 2.0),
        Mistake("It is not a product: compare the factors of `cond` in both formulas.", 6.0),
    ),
)

OVERSHOOT = Item(
    "06.overshoot",
    title="Past the target",
    why="Guidance does not draw from the prompt's pictures, but from beyond them: that is why it exaggerates.",
    kind="investigate",
    points=4,
    difficulty=3,
    minutes=15,
    answer=3.0,
    rtol=0.03,
    others={"measured": 2.97, "an int": 3},
    hints=(
        "Guidance at scale s draws from p(x) (p(x|c) / p(x))^s, up to a factor. Take the logarithm.",
        "log p(x) = -x^2 / 2 and log p(x|c) = -(x - 1)^2 / 2, up to constants: collect the terms in x.",
        "You get -x^2 / 2 + s x: the same as -(x - s)^2 / 2, up to a constant.",
    ),
    mistakes=(
        Mistake("That is the mean of what was asked for, scale 1. Guidance goes on beyond it.", 1.0),
        Mistake("Count from the unconditional mean, 0: the scale multiplies the whole difference.", 4.0),
        Mistake("That is w, one less than the scale.", 2.0),
        Mistake("It does not stay half way: the scale is an extrapolation, not a mean.", 0.5),
    ),
)

ITEMS = (DROP_CONDITION, CFG, ONE_CALL, RESCALE, SCALE_AT, SAME_AS_W, OVERSHOOT)
