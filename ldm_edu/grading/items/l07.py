"""Lesson 07, fast samplers: the items, their right answers and the mistakes that are recognised."""

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from ldm_edu.grading.draw import different, normal, number, whole
from ldm_edu.grading.item import Case, Item, Mistake

Denoise = Callable[[Tensor, float], Tensor]

# 07.ddim_step


def ddim_step(x: Tensor, eps: Tensor, now: float, nxt: float) -> Tensor:
    x0 = (x - (1 - now) ** 0.5 * eps) / now**0.5
    return nxt**0.5 * x0 + (1 - nxt) ** 0.5 * eps


def _levels(rng: Generator) -> list[Case]:
    small = [((2, 3, 4, 4), 0.3, 0.6), ((2, 3, 4, 4), 0.9, 1.0)]
    drawn = [(tuple(different(rng, n, 2, 7)), number(rng, 0.05, 0.45), number(rng, 0.5, 0.95)) for n in (4, 3, 1)]
    return [
        Case(f"samples {shape}, from alpha_bar {now} to {nxt}", (normal(rng, *shape), normal(rng, *shape), now, nxt))
        for shape, now, nxt in small + drawn
    ]


DDIM_STEP = Item(
    "07.ddim_step",
    title="One step of DDIM",
    why="Fifty steps instead of a thousand, with the same network: this step made diffusion usable.",
    kind="implement",
    points=4,
    difficulty=2,
    minutes=10,
    answer=ddim_step,
    draw=_levels,
    others={
        "one line": lambda x, e, a, b: (b / a) ** 0.5 * x + ((1 - b) ** 0.5 - (b / a) ** 0.5 * (1 - a) ** 0.5) * e,
        "in the ratio of noise": lambda x, e, a, b: (
            b**0.5 * (x.double() / a**0.5 + ((1 / b - 1) ** 0.5 - (1 / a - 1) ** 0.5) * e.double())
        ),
    },
    hints=(
        "Two lines: the clean picture that eps implies, then noise it again to the next level, with the same eps.",
        "x0 = (x - sqrt(1 - now) eps) / sqrt(now).",
        "The next x is sqrt(nxt) x0 + sqrt(1 - nxt) eps (Song et al. 2021, equation 12, eta = 0).",
    ),
    mistakes=(
        Mistake(
            "You stop at the clean picture: noise it again, to the next level.",
            lambda x, e, a, b: (x - (1 - a) ** 0.5 * e) / a**0.5,
        ),
        Mistake(
            "The noise you add back belongs to the old level; the next one has less.",
            lambda x, e, a, b: b**0.5 * (x - (1 - a) ** 0.5 * e) / a**0.5 + (1 - a) ** 0.5 * e,
        ),
        Mistake(
            "The two levels are exchanged: yours goes back up to more noise.",
            lambda x, e, a, b: a**0.5 * (x - (1 - b) ** 0.5 * e) / b**0.5 + (1 - a) ** 0.5 * e,
        ),
        Mistake(
            "No noise is added back: the picture is scaled to the next level, but too clean for it.",
            lambda x, e, a, b: b**0.5 * (x - (1 - a) ** 0.5 * e) / a**0.5,
        ),
        Mistake(
            "The square roots are missing where the noise is taken away.",
            lambda x, e, a, b: b**0.5 * (x - (1 - a) * e) / a**0.5 + (1 - b) ** 0.5 * e,
        ),
    ),
)

# 07.euler_step


def euler_step(x: Tensor, x0: Tensor, sigma: float, sigma_next: float) -> Tensor:
    return x + (sigma_next - sigma) * (x - x0) / sigma


def _sigmas(rng: Generator) -> list[tuple[tuple[int, ...], float, float]]:
    """Shapes of samples, and two sigmas, the second smaller."""
    drawn = [(tuple(different(rng, n, 2, 7)), number(rng, 3.0, 9.0), number(rng, 0.3, 2.0)) for n in (4, 3, 1)]
    return [((2, 3, 4, 4), 5.0, 3.0), *drawn]


def _to_zero(rng: Generator) -> list[Case]:
    return [
        Case(f"samples {shape}, from sigma {now} to {nxt}", (now * normal(rng, *shape), normal(rng, *shape), now, nxt))
        for shape, now, nxt in [((2, 3, 4, 4), 0.5, 0.0), *_sigmas(rng)]
    ]


EULER_STEP = Item(
    "07.euler_step",
    title="The same step as an ordinary differential equation",
    why="Seen as an equation, sampling is an old problem, and two hundred years of methods apply.",
    kind="implement",
    points=3,
    difficulty=2,
    minutes=8,
    answer=euler_step,
    draw=_to_zero,
    others={
        "a mix of x and x0": lambda x, x0, s, n: x0 + n / s * (x - x0),
        "torch.lerp": lambda x, x0, s, n: torch.lerp(x0.double(), x.double(), n / s),
    },
    hints=(
        "Here x = x0 + sigma eps: noise is only added, nothing is faded. Then dx / d sigma = eps.",
        "eps = (x - x0) / sigma.",
        "Euler: x plus the slope times the step, and the step sigma_next - sigma is negative.",
    ),
    mistakes=(
        Mistake(
            "The step has the wrong sign: going from sigma to a smaller sigma_next takes noise away.",
            lambda x, x0, s, n: x + (s - n) * (x - x0) / s,
        ),
        Mistake(
            "The slope is not divided by sigma: eps is the noise at unit strength.",
            lambda x, x0, s, n: x + (n - s) * (x - x0),
        ),
        Mistake(
            "You stop at x0; only the last step, to sigma 0, ends there.",
            lambda x, x0, s, n: x0.clone(),
        ),
        Mistake(
            "All of x0 is added; of x only sigma_next / sigma is kept, and x0 makes up for the rest alone.",
            lambda x, x0, s, n: x0 + n / s * x,
        ),
    ),
)

# 07.heun_step


def a_denoiser(rng: Generator) -> Denoise:
    """Stands for a model: the exact one of data that is N(0, 1), bent a little."""
    bend = number(rng, 0.3, 1.5)

    def denoise(x: Tensor, sigma: float) -> Tensor:
        return torch.tanh(bend * x) / (1 + sigma**2)

    return denoise


def heun_step(denoise: Denoise, x: Tensor, sigma: float, sigma_next: float) -> Tensor:
    slope = (x - denoise(x, sigma)) / sigma
    ahead = x + (sigma_next - sigma) * slope
    slope_ahead = (ahead - denoise(ahead, sigma_next)) / sigma_next
    return x + (sigma_next - sigma) * (slope + slope_ahead) / 2


def heun_as_a_correction(denoise: Denoise, x: Tensor, sigma: float, sigma_next: float) -> Tensor:
    h = sigma_next - sigma

    def slope(y: Tensor, s: float) -> Tensor:
        return (y - denoise(y, s)) / s

    first = slope(x, sigma)
    euler = torch.add(x, first, alpha=h)
    return euler + h / 2 * (slope(euler, sigma_next) - first)


def heun_in_float64(denoise: Denoise, x: Tensor, sigma: float, sigma_next: float) -> Tensor:
    return heun_step(denoise, x.double(), sigma, sigma_next)


def _heun(denoise: Denoise, x: Tensor, s: float, n: float, at: str) -> Tensor:
    slope = (x - denoise(x, s)) / s
    ahead = x + (n - s) * slope
    second = {
        "old x": (x - denoise(x, n)) / n,
        "old sigma": (ahead - denoise(ahead, s)) / s,
        "from ahead": (ahead - denoise(ahead, n)) / n,
    }[at]
    start = ahead if at == "from ahead" else x
    return start + (n - s) * (slope + second) / 2


HEUN_STEP = Item(
    "07.heun_step",
    title="Look ahead, then step",
    why="Asking twice a step is worth it only if the error falls faster than the steps do: here it does.",
    kind="implement",
    points=4,
    difficulty=3,
    minutes=15,
    answer=heun_step,
    draw=lambda rng: [
        Case(f"samples {shape}, from sigma {now} to {nxt}", (a_denoiser(rng), now * normal(rng, *shape), now, nxt))
        for shape, now, nxt in [((2, 3, 4, 4), 1.0, 0.4), *_sigmas(rng)]
    ],
    others={"a correction": heun_as_a_correction, "float64": heun_in_float64},
    hints=(
        "First an Euler step. Then ask for the slope where it leads, and step again from the start.",
        "The second step goes along the mean of the two slopes (Karras et al. 2022, algorithm 1).",
        "The second slope is (ahead - denoise(ahead, sigma_next)) / sigma_next.",
    ),
    mistakes=(
        Mistake(
            "That is Euler's step: the second slope, at its end, is missing.",
            lambda d, x, s, n: x + (n - s) * (x - d(x, s)) / s,
        ),
        Mistake(
            "The second slope alone: take the mean of both.",
            lambda d, x, s, n: (
                x + (n - s) * ((x + (n - s) * (x - d(x, s)) / s) - d(x + (n - s) * (x - d(x, s)) / s, n)) / n
            ),
        ),
        Mistake(
            "The second slope is taken where you started; it belongs to the place that Euler's step leads to.",
            lambda d, x, s, n: _heun(d, x, s, n, "old x"),
        ),
        Mistake(
            "The second slope is taken at the old sigma; ahead, sigma_next holds.",
            lambda d, x, s, n: _heun(d, x, s, n, "old sigma"),
        ),
        Mistake(
            "You step a second time from where Euler's step led; the second step starts anew.",
            lambda d, x, s, n: _heun(d, x, s, n, "from ahead"),
        ),
    ),
)

# 07.dpm_step


def dpm_step(x: Tensor, x0: Tensor, x0_before: Tensor, sigmas: list[float]) -> Tensor:
    before, now, nxt = (-math.log(s) for s in sigmas)
    h, r = nxt - now, (now - before) / (nxt - now)
    straight = x0 + (x0 - x0_before) / (2 * r)
    return math.exp(-h) * x + (1 - math.exp(-h)) * straight


def dpm_step_in_sigmas(x: Tensor, x0: Tensor, x0_before: Tensor, sigmas: list[float]) -> Tensor:
    a, b, c = sigmas
    slope = (x0.double() - x0_before.double()) / math.log(a / b)
    ahead = x0.double() + slope * math.log(b / c) / 2
    return c / b * x.double() + (1 - c / b) * ahead


def dpm_step_with_expm1(x: Tensor, x0: Tensor, x0_before: Tensor, sigmas: list[float]) -> Tensor:
    lam = -torch.tensor(sigmas).log()
    h_before, h = lam.diff()
    weight = h / (2 * h_before)
    return x * torch.exp(-h) - torch.expm1(-h) * ((1 + weight) * x0 - weight * x0_before)


def _dpm(x: Tensor, x0: Tensor, before: Tensor, sigmas: list[float], weight: Callable[[float], float]) -> Tensor:
    lam = [-math.log(s) for s in sigmas]
    h, r = lam[2] - lam[1], (lam[1] - lam[0]) / (lam[2] - lam[1])
    return math.exp(-h) * x + (1 - math.exp(-h)) * (x0 + weight(r) * (x0 - before))


def _three_sigmas(rng: Generator) -> list[Case]:
    drawn = [
        (tuple(different(rng, n, 2, 7)), [number(rng, 6.0, 9.0), number(rng, 2.5, 4.0), number(rng, 0.3, 0.9)])
        for n in (4, 3, 1)
    ]
    return [
        Case(
            f"samples {shape}, sigmas {sigmas}",
            (5 * normal(rng, *shape), normal(rng, *shape), normal(rng, *shape), sigmas),
        )
        for shape, sigmas in [((2, 3, 4, 4), [9.0, 5.0, 2.0]), ((2, 3, 4, 4), [1.0, 0.7, 0.4]), *drawn]
    ]


DPM_STEP = Item(
    "07.dpm_step",
    title="One step of DPM-Solver++ 2M",
    why="A widely used default, and for a reason: second order at the price of first.",
    kind="implement",
    points=5,
    difficulty=3,
    minutes=20,
    answer=dpm_step,
    draw=_three_sigmas,
    others={"ratios of sigmas": dpm_step_in_sigmas, "expm1": dpm_step_with_expm1},
    hints=(
        "Time is lambda = -log sigma. With h the step ahead and h_before the one behind, r = h_before / h.",
        "Extend the line through the last two estimates half a step ahead: x0 + (x0 - x0_before) / (2 r).",
        "Then x is exp(-h) x + (1 - exp(-h)) times that (Lu et al. 2022b, algorithm 2); exp(-h) is sigma_next / sigma.",
    ),
    mistakes=(
        Mistake(
            "That is first order, the same as DDIM: the estimate before is not used.",
            lambda x, x0, b, s: _dpm(x, x0, b, s, lambda r: 0.0),
        ),
        Mistake(
            "r is upside down: it is the step behind over the step ahead.",
            lambda x, x0, b, s: _dpm(x, x0, b, s, lambda r: r / 2),
        ),
        Mistake(
            "A whole step ahead; the mean over the step lies half way.",
            lambda x, x0, b, s: _dpm(x, x0, b, s, lambda r: 1 / r),
        ),
        Mistake(
            "The sign: the line goes on from x0, away from the estimate before.",
            lambda x, x0, b, s: _dpm(x, x0, b, s, lambda r: -1 / (2 * r)),
        ),
        Mistake(
            "You take steps in sigma for steps in lambda = -log sigma.",
            lambda x, x0, b, s: _dpm(x, x0, b, s, lambda _: (s[1] - s[2]) / (2 * (s[0] - s[1]))),
        ),
    ),
)

# 07.trailing


def trailing(steps: int, total: int) -> list[int]:
    return [round(total * (steps - i) / steps) - 1 for i in range(steps)]


def _stride(steps: int, total: int) -> list[int]:
    return [total - i * (total // steps) - 1 for i in range(steps)]


def _runs(rng: Generator) -> list[Case]:
    few = [(10, 1000), (4, 1000), (1, 1000)]
    for _ in range(4):  # an odd number of steps: no time is half way between two whole ones
        steps = 2 * whole(rng, 3, 30) + 1
        few.append((steps, steps * whole(rng, 8, 20) + whole(rng, 2, steps - 2)))
    return [Case(f"{steps} of {total}", (steps, total)) for steps, total in few]


TRAILING = Item(
    "07.trailing",
    title="At which times?",
    why="Two libraries with the same sampler draw different pictures if their lists of times differ; they do.",
    kind="implement",
    points=3,
    difficulty=2,
    minutes=10,
    answer=trailing,
    draw=_runs,
    others={
        "a tensor": lambda n, total: (torch.arange(n, 0, -1) * total / n).round().long() - 1,
        "counted down, in whole numbers": lambda n, total: [(2 * (n - i) * total + n) // (2 * n) - 1 for i in range(n)],
    },
    hints=(
        "The first time is the noisiest of all, total - 1: that is where pure noise belongs.",
        "Go down in equal strides of total / steps, which need not be whole, and stop one stride above -1.",
        "10 of 1000: 999, 899, ..., 99.",
    ),
    mistakes=(
        Mistake(
            "That is `leading`: it starts one stride below the noisiest time, although the sample is pure noise.",
            lambda n, total: [total // n * i + 1 for i in range(n)][::-1],
        ),
        Mistake(
            "Off by one: times count from 0, so the noisiest is total - 1.",
            lambda n, total: [total * (n - i) // n for i in range(n)],
        ),
        Mistake(
            "You round down; the nearest whole number is asked for.",
            lambda n, total: [total * (n - i) // n - 1 for i in range(n)],
        ),
        Mistake(
            "You round the stride, and its error grows from step to step: round each time instead.",
            _stride,
        ),
        Mistake("They must fall: sampling goes from noise to picture.", lambda n, total: trailing(n, total)[::-1]),
        Mistake(
            "That is `linspace`: both ends are kept, and the last step starts from a time without noise to take away.",
            lambda n, total: torch.linspace(total - 1, 0, n).round(),
        ),
    ),
)

# 07.eta_sigma: working code with one planted mistake


def eta_sigma(now: float, nxt: float, eta: float) -> float:
    return eta * ((1 - nxt) / (1 - now)) ** 0.5 * (1 - now / nxt) ** 0.5


ETA_SIGMA = Item(
    "07.eta_sigma",
    title="Find the mistake: grainy pictures",
    why="Too much noise in the last step is grain in the picture, at no gain.",
    kind="debug",
    points=3,
    difficulty=2,
    minutes=10,
    answer=eta_sigma,
    draw=lambda rng: [
        Case(f"alpha_bar {now} to {nxt}, eta {eta}", (now, nxt, eta))
        for now, nxt, eta in (
            (0.5, 0.6, 1.0),
            (0.95, 1.0, 1.0),
            *((number(rng, 0.05, 0.45), number(rng, 0.5, 0.95), number(rng, 0.2, 0.8)) for _ in range(3)),
        )
    ],
    others={
        "from the variance": lambda a, b, eta: eta * math.sqrt((1 - b) / (1 - a) * (b - a) / b),
        "tensors": lambda a, b, eta: eta * (torch.tensor((1 - b) / (1 - a)) * (1 - a / b)).sqrt(),
    },
    hints=(
        "Try the last step, where nxt is 1: how much noise should be added to the finished picture?",
        "With eta = 1 it is DDPM's: the variance of the posterior, and its root.",
        "Song et al. 2021, equation 16: sqrt((1 - nxt) / (1 - now)) sqrt(1 - now / nxt), times eta.",
    ),
    mistakes=(
        Mistake(
            "The mistake is still there: even the finished picture gets noise.",
            lambda a, b, eta: eta * (1 - a / b) ** 0.5,
        ),
        Mistake(
            "That is the variance; the factor of the noise is its square root.",
            lambda a, b, eta: eta * (1 - b) / (1 - a) * (1 - a / b),
        ),
        Mistake("eta is forgotten: at eta = 0 no noise is added, DDIM.", lambda a, b, eta: eta_sigma(a, b, 1.0)),
        Mistake(
            "Only the first of the two factors is left.",
            lambda a, b, eta: eta * ((1 - b) / (1 - a)) ** 0.5,
        ),
    ),
)

# 07.order and 07.evaluations: predict, run, explain

ORDER = Item(
    "07.order",
    title="Which order was that?",
    why="A method's order is what you get for each further step; measuring it finds mistakes that pictures hide.",
    kind="investigate",
    points=3,
    difficulty=2,
    minutes=8,
    answer=2.0,
    rtol=0.06,
    others={"the exact slope": math.log2(0.0803 / 0.0050) / 2, "an int": 2},
    hints=(
        "An error falls like steps ** (-order). What does doubling the steps do to it?",
        "From 10 to 20 steps it falls by about four.",
        "order = log2(error at n / error at 2n).",
    ),
    mistakes=(
        Mistake("At first order, twice the steps halve the error; this one falls faster.", 1.0),
        Mistake(
            "That is by how much the error falls when the steps double; the order is its logarithm to base 2.", 4.0
        ),
        Mistake("At third order, twice the steps divide the error by eight.", 3.0),
    ),
)

EVALUATIONS = Item(
    "07.evaluations",
    title="What does it really cost?",
    why="Comparing samplers by steps favours those that ask twice; time is spent in evaluations.",
    kind="investigate",
    points=2,
    difficulty=1,
    minutes=6,
    answer=39,
    rtol=0.01,
    others={"a float": 39.0, "a tensor": torch.tensor(39)},
    hints=(
        "Heun asks twice a step: once where it starts and once ahead.",
        "Ahead of the last step lies sigma = 0, where the slope divides by 0: there it takes Euler's step.",
        "Nineteen steps of two, and one of one.",
    ),
    mistakes=(
        Mistake("That is the number of steps; Heun asks more often.", 20),
        Mistake("Nearly: the last step, to sigma = 0, cannot ask ahead.", 40),
        Mistake("The last step asks once, not never.", 38),
        Mistake("Guidance doubles the batch, not the number of calls.", 78),
    ),
)

ITEMS = (DDIM_STEP, EULER_STEP, HEUN_STEP, DPM_STEP, TRAILING, ETA_SIGMA, ORDER, EVALUATIONS)
