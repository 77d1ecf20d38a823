"""Lesson 01, forward noising: the items, their right answers and the mistakes that are recognised."""

import torch
from einops import rearrange
from torch import Generator, Tensor

from ldm_edu.grading.draw import different, normal, number, uniform, whole
from ldm_edu.grading.item import Case, Item, Mistake

SD = (1000, 0.00085, 0.012)  # steps, first and last beta


# 01.alpha_bar


def alpha_bar(steps: int, beta_start: float, beta_end: float) -> Tensor:
    beta = torch.linspace(beta_start, beta_end, steps)  # (steps,)
    return torch.cumprod(1 - beta, dim=0)  # (steps,)


def alpha_bar_by_logs(steps: int, beta_start: float, beta_end: float) -> Tensor:
    i = torch.arange(steps, dtype=torch.float64)
    beta = beta_start + (beta_end - beta_start) * i / (steps - 1)
    return torch.log1p(-beta).cumsum(0).exp()


def alpha_bar_by_a_loop(steps: int, beta_start: float, beta_end: float) -> list[float] | Tensor:
    kept, product = [], 1.0
    for beta in torch.linspace(beta_start, beta_end, steps).tolist():
        product *= 1 - beta
        kept.append(product)
    return torch.tensor(kept)


def alpha_without_product(steps: int, beta_start: float, beta_end: float) -> Tensor:
    return 1 - torch.linspace(beta_start, beta_end, steps)


def product_of_betas(steps: int, beta_start: float, beta_end: float) -> Tensor:
    return torch.cumprod(torch.linspace(beta_start, beta_end, steps), dim=0)


def one_step_late(steps: int, beta_start: float, beta_end: float) -> Tensor:
    kept = alpha_bar(steps, beta_start, beta_end)
    return torch.cat([torch.ones(1), kept[:-1]])


def end_left_out(steps: int, beta_start: float, beta_end: float) -> Tensor:
    return torch.cumprod(1 - (beta_start + (beta_end - beta_start) * torch.arange(steps) / steps), dim=0)


def summed_betas(steps: int, beta_start: float, beta_end: float) -> Tensor:
    return 1 - torch.linspace(beta_start, beta_end, steps).cumsum(0)


def _schedules(rng: Generator) -> list[Case]:
    ends = [(whole(rng, 3, 40), number(rng, 0.01, 0.1), number(rng, 0.2, 0.5)) for _ in range(3)]
    few = [(4, 0.1, 0.4), (2, 0.2, 0.5), *ends]
    return [
        Case("1000 steps from 0.00085 to 0.012", SD),
        *(Case(f"{n} steps from {a} to {b}", (n, a, b)) for n, a, b in few),
    ]


def roots_of_betas(steps: int, beta_start: float, beta_end: float) -> Tensor:
    return torch.cumprod(1 - torch.linspace(beta_start**0.5, beta_end**0.5, steps) ** 2, dim=0)


ALPHA_BAR = Item(
    "01.alpha_bar",
    title="How much of the picture is left",
    why="Training, sampling and every schedule you will compare look up their noise level in this one line of numbers.",
    kind="implement",
    points=3,
    difficulty=1,
    minutes=10,
    answer=alpha_bar,
    draw=_schedules,
    noise=1e-5,  # a product of a thousand numbers
    others={"logarithms in float64": alpha_bar_by_logs, "a loop": alpha_bar_by_a_loop},
    hints=(
        "Each step keeps 1 - beta of the picture's variance. What is left after two steps?",
        "After t steps it is the product of all the 1 - beta so far.",
        "`torch.linspace` gives the betas, both ends included; `torch.cumprod` the running product.",
    ),
    mistakes=(
        Mistake(
            "That is alpha, what a single step keeps; alpha_bar is what is left after all steps so far.",
            alpha_without_product,
        ),
        Mistake("You multiplied the betas. What multiplies from step to step is what is kept.", product_of_betas),
        Mistake(
            "Off by one: your first entry is 1, as if the first step added no noise. Entry 0 is after one step.",
            one_step_late,
        ),
        Mistake("Your betas stop short of beta_end; the last one is beta_end itself.", end_left_out),
        Mistake(
            "That is the scaled-linear schedule of Stable Diffusion's code; here beta itself rises linearly.",
            roots_of_betas,
        ),
        Mistake(
            "You take the square root at the end: that is the picture's factor; alpha_bar is its share of variance.",
            lambda steps, a, b: alpha_bar(steps, a, b).sqrt(),
        ),
        Mistake("You add the betas up. What is left after two steps is a share of a share: a product.", summed_betas),
    ),
)

# 01.one_step


def one_step(x: Tensor, eps: Tensor, beta: Tensor) -> Tensor:
    return (1 - beta).sqrt() * x + beta.sqrt() * eps


def one_step_in_float64(x: Tensor, eps: Tensor, beta: Tensor) -> Tensor:
    b = beta.double()
    return torch.sqrt(1 - b) * x.double() + b.sqrt() * eps.double()


def _shares(rng: Generator, name: str, shares: tuple[float, ...], low: float, high: float) -> list[Case]:
    """Two tensors of one shape and a share of the variance, 0-d, so that `.sqrt()` and `** 0.5` both work."""
    small = [((2, 3, 4, 4), share) for share in shares]
    drawn = [(tuple(different(rng, n, 2, 7)), number(rng, low, high)) for n in (4, 3, 1)]
    return [
        Case(
            f"tensors {shape}, {name} = {share}", (0.5 + normal(rng, *shape), normal(rng, *shape), torch.tensor(share))
        )
        for shape, share in small + drawn
    ]


ONE_STEP = Item(
    "01.one_step",
    title="One step of the chain",
    why="If the variance drifted, the network would meet inputs of another size at every time.",
    kind="implement",
    points=2,
    difficulty=1,
    minutes=5,
    answer=one_step,
    draw=lambda rng: _shares(rng, "beta", (0.01, 0.5), 0.05, 0.4),
    others={
        "float64": one_step_in_float64,
        "torch.add": lambda x, eps, beta: torch.add(x.mul((1 - beta) ** 0.5), eps, alpha=float(beta) ** 0.5),
    },
    hints=(
        "If x has variance 1, what comes out should have variance 1 as well.",
        "Variances of independent things add: (1 - beta) + beta = 1. What multiplies x, then?",
        "A factor multiplies the variance by its square: so both factors are square roots.",
    ),
    mistakes=(
        Mistake(
            "The square roots are missing: a factor c multiplies a variance by c squared, so yours falls below 1.",
            lambda x, eps, beta: (1 - beta) * x + beta * eps,
        ),
        Mistake(
            "The square root of the noise's factor is missing.",
            lambda x, eps, beta: (1 - beta) ** 0.5 * x + beta * eps,
        ),
        Mistake(
            "The picture is not faded, only noise is added: the variance grows at every step.",
            lambda x, eps, beta: x + beta**0.5 * eps,
        ),
        Mistake(
            "The two factors are swapped: beta is the small one, and belongs to the noise.",
            lambda x, eps, beta: beta**0.5 * x + (1 - beta) ** 0.5 * eps,
        ),
        Mistake(
            "You draw noise of your own; the noise of this step is given, as `eps`.",
            lambda x, eps, beta: (1 - beta) ** 0.5 * x + beta**0.5 * torch.randn_like(x),
        ),
    ),
)

# 01.q_sample


def q_sample(x0: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    kept = rearrange(alpha_bar, "b -> b 1 1 1")
    return kept.sqrt() * x0 + (1 - kept).sqrt() * eps


def q_sample_by_einsum(x0: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    signal = torch.einsum("b,bchw->bchw", alpha_bar**0.5, x0)
    return signal + torch.einsum("b,bchw->bchw", (1 - alpha_bar) ** 0.5, eps)


def q_sample_one_by_one(x0: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    each = [a**0.5 * x.double() + (1 - a) ** 0.5 * e.double() for x, e, a in zip(x0, eps, alpha_bar, strict=True)]
    return torch.stack(each)


def _weighted(x0: Tensor, eps: Tensor, signal: Tensor, noise: Tensor) -> Tensor:
    return signal.view(-1, 1, 1, 1) * x0 + noise.view(-1, 1, 1, 1) * eps


Q_SAMPLE = Item(
    "01.q_sample",
    title="Any amount of noise in one line",
    why="Every training step of every diffusion model begins with this line; without it one would walk the chain.",
    kind="implement",
    points=4,
    difficulty=2,
    minutes=10,
    answer=q_sample,
    draw=lambda rng: [
        Case("four pictures (4, 3, 8, 8), each with its own alpha_bar", _q_inputs(rng, 4, 3, 8, 8)),
        Case("four pictures (4, 4, 4, 4), where a wrong axis goes unnoticed", _q_inputs(rng, 4, 4, 4, 4)),
        Case("one picture (1, 3, 8, 8)", _q_inputs(rng, 1, 3, 8, 8)),
        *(
            Case(f"{shape[0]} pictures {tuple(shape)}", _q_inputs(rng, *shape))
            for shape in (different(rng, 4, 2, 7) for _ in range(3))
        ),
    ],
    others={"einsum": q_sample_by_einsum, "one by one, float64": q_sample_one_by_one},
    hints=(
        "The sum of many small Gaussian steps is one Gaussian step. Its two variances add up to 1.",
        "x_t = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) eps.",
        'alpha_bar is (B,): `rearrange(alpha_bar, "b -> b 1 1 1")` makes it fit (B, C, H, W).',
    ),
    mistakes=(
        Mistake(
            "The square roots are missing: alpha_bar is a share of the variance, and variances go with squares.",
            lambda x0, eps, a: _weighted(x0, eps, a, 1 - a),
        ),
        Mistake(
            "The noise's factor lacks its square root.",
            lambda x0, eps, a: _weighted(x0, eps, a.sqrt(), 1 - a),
        ),
        Mistake(
            "1 - sqrt(alpha_bar) is not sqrt(1 - alpha_bar): the two variances must add up to 1, not the factors.",
            lambda x0, eps, a: _weighted(x0, eps, a.sqrt(), 1 - a.sqrt()),
        ),
        Mistake(
            "Picture and noise are swapped: with alpha_bar near 1 the picture should be almost clean.",
            lambda x0, eps, a: _weighted(x0, eps, (1 - a).sqrt(), a.sqrt()),
        ),
        Mistake(
            "alpha_bar (B,) was multiplied along the width: PyTorch lines shapes up from the right. Give it three "
            "more axes of length 1 at its end.",
            lambda x0, eps, a: a.sqrt() * x0 + (1 - a).sqrt() * eps,
        ),
        Mistake(
            "You draw noise of your own; it is given, as `eps`, because a loss will ask for it again.",
            lambda x0, eps, a: q_sample(x0, torch.randn_like(eps), a),
        ),
    ),
)


def _q_inputs(rng: Generator, *shape: int) -> tuple[Tensor, Tensor, Tensor]:
    return normal(rng, *shape), normal(rng, *shape), uniform(rng, shape[0], low=0.04, high=0.96)


# 01.snr


def snr(alpha_bar: Tensor) -> Tensor:
    return alpha_bar / (1 - alpha_bar)


SNR = Item(
    "01.snr",
    title="The signal-to-noise ratio",
    why="Two schedules that look different can be the same one in this number; loss weights and samplers use it too.",
    kind="implement",
    points=2,
    difficulty=1,
    minutes=5,
    answer=snr,
    draw=lambda rng: [
        Case("alpha_bar = 0.9, 0.5, 0.1, 0.01", (torch.tensor([0.9, 0.5, 0.1, 0.01]),)),
        *(
            Case(f"{n} numbers alpha_bar", (uniform(rng, n, low=0.01, high=0.99),))
            for n in (1, *different(rng, 3, 2, 9))
        ),
    ],
    others={
        "odds": lambda a: 1 / (1 / a.double() - 1),
        "logit": lambda a: torch.logit(a).exp(),
    },
    hints=(
        "A ratio of two variances: the picture's and the noise's, both inside x_t.",
        "x_t = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) eps. Square the two factors.",
        "At alpha_bar = 0.5 it is 1.",
    ),
    mistakes=(
        Mistake(
            "That is the ratio of the factors; the SNR is one of variances, their squares.",
            lambda a: (a / (1 - a)).sqrt(),
        ),
        Mistake("That is noise over signal: upside down.", lambda a: (1 - a) / a),
        Mistake("That is the logarithm of the SNR.", lambda a: torch.log(a / (1 - a))),
        Mistake("alpha_bar alone is the signal's share; divide it by the noise's.", lambda a: a.clone()),
    ),
)

# 01.recover_x0


def recover_x0(x_t: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    return (x_t - (1 - alpha_bar).sqrt() * eps) / alpha_bar.sqrt()


RECOVER_X0 = Item(
    "01.recover_x0",
    title="The way back, if the noise is known",
    why="A network that has guessed the noise has guessed the picture; every sampler takes this step.",
    kind="implement",
    points=3,
    difficulty=1,
    minutes=8,
    answer=recover_x0,
    draw=lambda rng: _shares(rng, "alpha_bar", (0.8, 0.1), 0.2, 0.7),
    others={
        "as a ratio of noise": lambda x_t, eps, a: x_t / a**0.5 - (1 / a - 1) ** 0.5 * eps,
        "float64": lambda x_t, eps, a: (x_t.double() - eps.double() * (1 - a) ** 0.5) * a**-0.5,
    },
    hints=(
        "Take x_t = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) eps, and solve it for x0.",
        "First take the noise away, then undo the fading.",
        "Undoing the fading is dividing by the factor that x0 was multiplied with.",
    ),
    mistakes=(
        Mistake(
            "The noise is taken away, but the picture stays faded: divide by what x0 was multiplied with.",
            lambda x_t, eps, a: x_t - (1 - a) ** 0.5 * eps,
        ),
        Mistake(
            "You divide by alpha_bar; x0 was multiplied by its square root.",
            lambda x_t, eps, a: (x_t - (1 - a) ** 0.5 * eps) / a,
        ),
        Mistake(
            "The sign: noise was added, so it is taken away.", lambda x_t, eps, a: (x_t + (1 - a) ** 0.5 * eps) / a**0.5
        ),
        Mistake(
            "Only x_t is divided: the whole difference has to be.",
            lambda x_t, eps, a: x_t / a**0.5 - (1 - a) ** 0.5 * eps,
        ),
        Mistake(
            "The square roots are missing: alpha_bar is a share of the variance, and factors are roots of shares.",
            lambda x_t, eps, a: (x_t - (1 - a) * eps) / a,
        ),
    ),
)

# 01.scaled_linear: working code with one planted mistake


def scaled_linear(steps: int, beta_start: float, beta_end: float) -> Tensor:
    beta = torch.linspace(beta_start**0.5, beta_end**0.5, steps) ** 2
    return torch.cumprod(1 - beta, dim=0)


def scaled_linear_unsquared(steps: int, beta_start: float, beta_end: float) -> Tensor:
    beta = torch.linspace(beta_start**0.5, beta_end**0.5, steps)
    return torch.cumprod(1 - beta, dim=0)


SCALED_LINEAR = Item(
    "01.scaled_linear",
    title="Find the mistake: Stable Diffusion's schedule",
    why="With the other schedule, published weights still run, and draw grey mush: nothing warns you.",
    kind="debug",
    points=3,
    difficulty=2,
    minutes=10,
    answer=scaled_linear,
    draw=_schedules,
    noise=1e-5,  # a product of a thousand numbers
    others={
        "float64": lambda n, a, b: (1 - torch.linspace(a**0.5, b**0.5, n, dtype=torch.float64).square()).cumprod(0),
        "logarithms": lambda n, a, b: torch.log1p(-(torch.linspace(a**0.5, b**0.5, n) ** 2)).cumsum(0).exp(),
    },
    hints=(
        "Print the first and the last beta. Are they what the arguments say?",
        "The square roots of the ends are right: it is the root of beta that rises linearly.",
        "After `linspace` you hold sqrt(beta). What gives beta?",
    ),
    mistakes=(
        Mistake("The mistake is still there: look at the first and the last beta.", scaled_linear_unsquared),
        Mistake(
            "Without the roots it is the plain linear schedule; Stable Diffusion's is another one.",
            alpha_bar,
        ),
        Mistake(
            "The ends are squared; it is their roots between which you go in equal strides.",
            lambda n, a, b: torch.cumprod(1 - torch.linspace(a**2, b**2, n).sqrt(), dim=0),
        ),
    ),
)

# 01.even_time and 01.left_at_the_end: predict, run, explain

EVEN_TIME = Item(
    "01.even_time",
    title="When is half of it noise?",
    why="It tells at which of its 1000 times a model decides on shapes, and at which it only polishes.",
    kind="investigate",
    points=3,
    difficulty=2,
    minutes=10,
    answer=float((scaled_linear(*SD) > 0.5).sum()),
    rtol=0.004,  # the neighbouring step counts
    others={"a whole number": int((scaled_linear(*SD) > 0.5).sum()), "a tensor": (scaled_linear(*SD) > 0.5).sum()},
    hints=(
        "SNR = 1 is where alpha_bar crosses one half. Predict first: half way, at 500?",
        "Count the entries of alpha_bar that are still above 0.5.",
        "Use `scaled_linear(1000, 0.00085, 0.012)`, Stable Diffusion's own, not the linear one.",
    ),
    mistakes=(
        Mistake(
            "That is where the linear schedule crosses; Stable Diffusion's holds on to the picture for longer.",
            float((alpha_bar(*SD) > 0.5).sum()),
        ),
        Mistake("It is not half way: betas grow, and what is kept is a product. Count it.", 500),
        Mistake(
            "There sqrt(alpha_bar), the picture's factor, is one half; the SNR asks for alpha_bar itself.",
            int((scaled_linear(*SD).sqrt() > 0.5).sum()),
        ),
    ),
)

_LEFT = float(snr(scaled_linear(*SD)[-1]))

LEFT_AT_THE_END = Item(
    "01.left_at_the_end",
    title="What is left when all should be noise",
    why="What is left tells the network the picture's mean brightness: why it never draws a black night.",
    kind="investigate",
    points=3,
    difficulty=2,
    minutes=8,
    answer=_LEFT,
    rtol=0.02,
    others={"rounded": round(_LEFT, 5), "a tensor": torch.tensor(_LEFT)},
    hints=(
        "The last of the 1000 times has the index 999.",
        "Compute alpha_bar there with Stable Diffusion's schedule, then the SNR.",
        "It is less than one hundredth and more than one thousandth; zero is what it should have been.",
    ),
    mistakes=(
        Mistake("It is small, but not zero: that is the point of this question.", 0.0),
        Mistake("That is the linear schedule's; Stable Diffusion's leaves more.", float(snr(alpha_bar(*SD)[-1]))),
        Mistake("That is the square root of the SNR: the ratio of the factors, not of the variances.", _LEFT**0.5),
        Mistake(
            "That is the noise left, as a share of the variance; what is asked for is signal over noise.",
            1 - float(scaled_linear(*SD)[-1]),
        ),
    ),
)

ITEMS = (ALPHA_BAR, ONE_STEP, Q_SAMPLE, SNR, RECOVER_X0, SCALED_LINEAR, EVEN_TIME, LEFT_AT_THE_END)
