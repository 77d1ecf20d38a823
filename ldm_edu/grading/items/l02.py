"""Lesson 02, the noise predictor: the items, their right answers and the mistakes that are recognised."""

import math
from collections.abc import Callable

import torch
from einops import rearrange
from torch import Generator, Tensor

from ldm_edu.grading.draw import different, normal, number, uniform, whole
from ldm_edu.grading.item import Case, Item, Mistake

# 02.time_embedding


def time_embedding(t: Tensor, width: int) -> Tensor:
    half = width // 2
    frequency = torch.exp(-math.log(10_000) * torch.arange(half) / half)  # (half,)
    angle = rearrange(t, "b -> b 1") * frequency  # (B, half)
    return torch.cat([angle.cos(), angle.sin()], dim=1)  # (B, width)


def time_embedding_as_powers(t: Tensor, width: int) -> Tensor:
    i = torch.arange(width // 2, dtype=torch.float64)
    angle = torch.outer(t.double(), 10_000.0 ** (-2 * i / width))
    return torch.hstack([torch.cos(angle), torch.sin(angle)])


def time_embedding_as_a_phase(t: Tensor, width: int) -> Tensor:
    i = torch.arange(width // 2).repeat(2)
    phase = torch.where(torch.arange(width) < width // 2, math.pi / 2, 0.0)
    return torch.sin(t[:, None] * 10_000.0 ** (-i / (width // 2)) + phase)


def _waves(t: Tensor, exponent: Tensor) -> Tensor:
    angle = t[:, None] * 10_000.0**-exponent
    return torch.cat([angle.cos(), angle.sin()], dim=1)


def _angles(t: Tensor, width: int) -> Tensor:
    half = width // 2
    return t[:, None] * torch.exp(-math.log(10_000) * torch.arange(half) / half)


def _some_times(rng: Generator) -> list[Case]:
    drawn = [(whole(rng, 2, 6), 2 * half) for half in different(rng, 3, 2, 40)]
    return [
        Case("t = 0, 1, 10, 500 and a width of 8", (torch.tensor([0.0, 1.0, 10.0, 500.0]), 8)),
        Case("t = 3, 999 and a width of 64", (torch.tensor([3.0, 999.0]), 64)),
        *(Case(f"{n} times and a width of {width}", (uniform(rng, n, high=999.0), width)) for n, width in drawn),
    ]


TIME_EMBEDDING = Item(
    "02.time_embedding",
    title="A number as a vector",
    why="It is how nearly all diffusion models are told the time; published weights need it in just this order.",
    kind="implement",
    points=4,
    difficulty=2,
    minutes=15,
    answer=time_embedding,
    draw=_some_times,
    noise=5e-4,  # an angle of 999 has few digits left behind its point
    others={"powers in float64": time_embedding_as_powers, "one sine with a phase": time_embedding_as_a_phase},
    hints=(
        "Half of the features are cosines, half are sines, of the same angles: t times a frequency.",
        "The frequencies fall from 1 towards 1/10000 in equal ratios: 10000 ** (-i / half) for i = 0 ... half - 1.",
        "Make the angles (B, half) from t (B, 1) and the frequencies (half,), then concatenate along dim 1.",
    ),
    mistakes=(
        Mistake(
            "The sines come first in yours. Transformers do it that way; Stable Diffusion has the cosines first.",
            lambda t, width: torch.cat([_angles(t, width).sin(), _angles(t, width).cos()], dim=1),
        ),
        Mistake(
            "You interleave cosine and sine; here the first half are all cosines, the second half all sines.",
            lambda t, width: torch.stack([_angles(t, width).cos(), _angles(t, width).sin()], dim=2).flatten(1),
        ),
        Mistake(
            "Your slowest frequency is exactly 1/10000: the exponent is i / half, not i / (half - 1).",
            lambda t, width: _waves(t, torch.arange(width // 2) / (width // 2 - 1)),
        ),
        Mistake(
            "Your frequencies fall twice as fast: the exponent runs over half the width, not over the width.",
            lambda t, width: _waves(t, 2 * torch.arange(width // 2) / (width // 2)),
        ),
        Mistake(
            "Your frequencies fall half as fast: the exponent is i / half, not i / width.",
            lambda t, width: _waves(t, torch.arange(width // 2) / width),
        ),
        Mistake(
            "You divide the time by 1000. The waves are made for the steps' own numbers, 0 to 999.",
            lambda t, width: time_embedding(t / 1000, width),
        ),
    ),
)

# 02.noise_loss

Network = Callable[[Tensor, Tensor], Tensor]


def noise_loss(network: Network, x0: Tensor, eps: Tensor, t: Tensor, alpha_bar: Tensor) -> Tensor:
    kept = rearrange(alpha_bar, "b -> b 1 1 1")
    x_t = kept.sqrt() * x0 + (1 - kept).sqrt() * eps
    return (network(x_t, t) - eps).square().mean()


def noise_loss_by_torch(network: Network, x0: Tensor, eps: Tensor, t: Tensor, alpha_bar: Tensor) -> Tensor:
    signal, noise = (f[:, None, None, None] for f in (alpha_bar**0.5, (1 - alpha_bar) ** 0.5))
    return torch.nn.functional.mse_loss(network(signal * x0 + noise * eps, t), eps)


def noise_loss_picture_by_picture(
    network: Network, x0: Tensor, eps: Tensor, t: Tensor, alpha_bar: Tensor
) -> list[float] | Tensor:
    x_t = torch.einsum("b,bchw->bchw", alpha_bar.sqrt(), x0) + torch.einsum("b,bchw->bchw", (1 - alpha_bar).sqrt(), eps)
    return ((network(x_t, t) - eps) ** 2).mean(dim=(1, 2, 3)).mean()


def _noised(x0: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    return alpha_bar.sqrt().view(-1, 1, 1, 1) * x0 + (1 - alpha_bar).sqrt().view(-1, 1, 1, 1) * eps


def a_network(rng: Generator) -> Network:
    """Stands for a network: its answer depends on both inputs and on a weight that wants to learn."""
    weight = (1 + 0.5 * uniform(rng, 1)).requires_grad_()

    def network(x: Tensor, t: Tensor) -> Tensor:
        return torch.tanh(weight * x) * (1 + t.view(-1, 1, 1, 1) / 1000)

    return network


def _batches(rng: Generator) -> list[Case]:
    shapes = [(3, 2, 4, 4), (1, 3, 5, 5), *(tuple(different(rng, 4, 2, 7)) for _ in range(3))]
    return [
        Case(
            f"pictures {shape}",
            (
                a_network(rng),
                normal(rng, *shape),
                normal(rng, *shape),
                torch.tensor([whole(rng, 10, 999) for _ in range(shape[0])]),
                uniform(rng, shape[0], low=0.05, high=0.95),
            ),
        )
        for shape in shapes
    ]


NOISE_LOSS = Item(
    "02.noise_loss",
    title="The loss of a training step",
    why="Stable Diffusion's loss is this one; the models of lessons 00 and 04 ask for v instead of the noise.",
    kind="implement",
    points=4,
    difficulty=2,
    minutes=10,
    answer=noise_loss,
    draw=_batches,
    others={"torch's own mse": noise_loss_by_torch, "picture by picture": noise_loss_picture_by_picture},
    hints=(
        "Three lines: make x_t, ask the network, compare with what it should have said.",
        "The network is asked about x_t and t, never about x0; it should have said eps.",
        "The mean of the squared differences, over everything (Ho et al. 2020, equation 14).",
    ),
    mistakes=(
        Mistake(
            "You compare with x0. This network predicts the noise.",
            lambda network, x0, eps, t, a: (network(_noised(x0, eps, a), t) - x0).square().mean(),
        ),
        Mistake(
            "You show the network the clean picture; it must find the noise in x_t.",
            lambda network, x0, eps, t, a: (network(x0, t) - eps).square().mean(),
        ),
        Mistake(
            "A sum instead of a mean: the loss would grow with the size of pictures and batch.",
            lambda network, x0, eps, t, a: (network(_noised(x0, eps, a), t) - eps).square().sum(),
        ),
        Mistake(
            "Absolute instead of squared differences.",
            lambda network, x0, eps, t, a: (network(_noised(x0, eps, a), t) - eps).abs().mean(),
        ),
        Mistake(
            "The square roots are missing where you make x_t.",
            lambda network, x0, eps, t, a: (
                (network(a.view(-1, 1, 1, 1) * x0 + (1 - a).view(-1, 1, 1, 1) * eps, t) - eps).square().mean()
            ),
        ),
        Mistake(
            "You take the root at the end; the loss is the mean squared error itself.",
            lambda *inputs: noise_loss(*inputs).sqrt(),
        ),
        Mistake(
            "You look alpha_bar up at t; here it is looked up already, one number for each picture.",
            lambda network, x0, eps, t, a: noise_loss(network, x0, eps, t, a[t]),
        ),
        Mistake(
            "The number is right, but it is cut off from the network: `.item()`, `float(...)`, `.detach()` or "
            "`torch.no_grad()` leave no gradient, and nothing is learned.",
            torch.no_grad()(noise_loss),
        ),
    ),
)

# 02.v_target, 02.x0_from_v


def v_target(x0: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    return alpha_bar.sqrt() * eps - (1 - alpha_bar).sqrt() * x0


def _pairs(rng: Generator) -> list[Case]:
    """Two tensors of one shape and an alpha_bar, 0-d, so that `.sqrt()` and `** 0.5` both work."""
    small = [((2, 3, 4, 4), 0.7), ((2, 3, 4, 4), 0.05)]
    drawn = [(tuple(different(rng, n, 2, 7)), number(rng, 0.1, 0.9)) for n in (4, 3, 1)]
    return [
        Case(f"tensors {shape}, alpha_bar = {share}", (normal(rng, *shape), normal(rng, *shape), torch.tensor(share)))
        for shape, share in small + drawn
    ]


V_TARGET = Item(
    "02.v_target",
    title="Predict v instead",
    why="A model trained on it can start from noise alone and needs few steps; Stable Diffusion 2 is one.",
    kind="implement",
    points=2,
    difficulty=2,
    minutes=8,
    answer=v_target,
    draw=_pairs,
    others={
        "an angle": lambda x0, eps, a: torch.cos(torch.acos(a**0.5)) * eps - math.sin(math.acos(a**0.5)) * x0,
        "float64": lambda x0, eps, a: a**0.5 * eps.double() - (1 - a) ** 0.5 * x0.double(),
    },
    hints=(
        "With alpha = sqrt(alpha_bar) and sigma = sqrt(1 - alpha_bar), x_t turns from x0 to eps as an angle grows.",
        "v is the direction of that turn: the derivative of cos(phi) x0 + sin(phi) eps.",
        "v = alpha eps - sigma x0 (Salimans and Ho 2022, section 4).",
    ),
    mistakes=(
        Mistake(
            "The sign between the two is wrong: that is x_t with its parts exchanged.",
            lambda x0, eps, a: a**0.5 * eps + (1 - a) ** 0.5 * x0,
        ),
        Mistake(
            "The factors are exchanged: near the clean end (alpha_bar near 1) v is almost eps.",
            lambda x0, eps, a: (1 - a) ** 0.5 * eps - a**0.5 * x0,
        ),
        Mistake(
            "Upside down: yours is -v, which turns from noise to picture.",
            lambda x0, eps, a: (1 - a) ** 0.5 * x0 - a**0.5 * eps,
        ),
        Mistake("The square roots are missing.", lambda x0, eps, a: a * eps - (1 - a) * x0),
        Mistake(
            "eps - x0 is the target of rectified flow; v weighs the two by the noise level.",
            lambda x0, eps, a: eps - x0,
        ),
    ),
)


def x0_from_v(x_t: Tensor, v: Tensor, alpha_bar: Tensor) -> Tensor:
    return alpha_bar.sqrt() * x_t - (1 - alpha_bar).sqrt() * v


X0_FROM_V = Item(
    "02.x0_from_v",
    title="From v back to the picture",
    why="A sampler wants a picture, whatever the network was trained to predict.",
    kind="implement",
    points=2,
    difficulty=2,
    minutes=8,
    answer=x0_from_v,
    draw=_pairs,
    others={
        "through eps": lambda x, v, a: (x - (1 - a) ** 0.5 * ((1 - a) ** 0.5 * x + a**0.5 * v)) / a**0.5,
        "float64": lambda x, v, a: a**0.5 * x.double() - (1 - a) ** 0.5 * v.double(),
    },
    hints=(
        "Two lines are known: x_t = alpha x0 + sigma eps, and v = alpha eps - sigma x0. Get rid of eps.",
        "Multiply the first by alpha, the second by sigma, subtract; alpha^2 + sigma^2 = 1.",
        "Nothing is divided: that is why v works where alpha is almost 0.",
    ),
    mistakes=(
        Mistake(
            "That is the formula for eps; the prediction is v.",
            lambda x, v, a: (x - (1 - a) ** 0.5 * v) / a**0.5,
        ),
        Mistake("The sign: v points away from the picture.", lambda x, v, a: a**0.5 * x + (1 - a) ** 0.5 * v),
        Mistake("That gives eps, the other half of x_t.", lambda x, v, a: (1 - a) ** 0.5 * x + a**0.5 * v),
        Mistake("The square roots are missing.", lambda x, v, a: a * x - (1 - a) * v),
    ),
)

# 02.posterior


def posterior(x_t: Tensor, x0: Tensor, now: float, nxt: float) -> tuple[Tensor, float]:
    alpha = now / nxt  # what this one step keeps
    beta = 1 - alpha
    mean = nxt**0.5 * beta / (1 - now) * x0 + alpha**0.5 * (1 - nxt) / (1 - now) * x_t
    return mean, (1 - nxt) / (1 - now) * beta


def posterior_by_precisions(x_t: Tensor, x0: Tensor, now: float, nxt: float) -> tuple[Tensor, float]:
    if nxt == 1.0:
        return x0.clone(), 0.0
    alpha = now / nxt
    precision = 1 / (1 - nxt) + alpha / (1 - alpha)
    mean = (nxt**0.5 / (1 - nxt) * x0 + alpha**0.5 / (1 - alpha) * x_t) / precision
    return mean, 1 / precision


def _levels(rng: Generator) -> list[Case]:
    small = [((2, 3, 4, 4), 0.5, 0.6), ((2, 3, 4, 4), 0.02, 0.03), ((8,), 0.99, 1.0)]
    drawn = [(tuple(different(rng, n, 2, 7)), number(rng, 0.05, 0.5), number(rng, 0.55, 0.95)) for n in (4, 2, 1)]
    return [
        Case(
            f"tensors {shape}, alpha_bar {now} now and {nxt} next", (normal(rng, *shape), normal(rng, *shape), now, nxt)
        )
        for shape, now, nxt in small + drawn
    ]


def _posterior_of(
    mean: Callable[[Tensor, Tensor, float, float], Tensor], variance: Callable[[float, float], float]
) -> Callable[[Tensor, Tensor, float, float], tuple[Tensor, float]]:
    return lambda x_t, x0, now, nxt: (mean(x_t, x0, now, nxt), variance(now, nxt))


POSTERIOR = Item(
    "02.posterior",
    title="One step back, if the picture were known",
    why="It is the step that DDPM sampling repeats a thousand times, and the source of every faster one.",
    kind="implement",
    points=5,
    difficulty=3,
    minutes=20,
    answer=posterior,
    draw=_levels,
    others={
        "two precisions": posterior_by_precisions,
        "float64 tensors": lambda x_t, x0, now, nxt: posterior(x_t.double(), x0.double(), now, nxt),
    },
    hints=(
        "Ho et al. 2020, equation 7: a mean of x0 and x_t, and a variance. `now / nxt` is this step's alpha.",
        "The variance is (1 - nxt) / (1 - now) times beta: at the last step, where nxt = 1, it is 0.",
        "In the mean, x0 has the factor sqrt(nxt) beta / (1 - now), x_t has sqrt(alpha) (1 - nxt) / (1 - now).",
    ),
    mistakes=(
        Mistake(
            "The variance is beta itself, the other choice of Ho et al. (section 3.2): noise would be added even at "
            "the last step.",
            _posterior_of(lambda *a: posterior(*a)[0], lambda now, nxt: 1 - now / nxt),
        ),
        Mistake(
            "That is the standard deviation; what is asked for is the variance.",
            _posterior_of(
                lambda *a: posterior(*a)[0],
                lambda now, nxt: posterior(torch.ones(1), torch.ones(1), now, nxt)[1] ** 0.5,
            ),
        ),
        Mistake(
            "You took alpha_bar for alpha: this one step keeps `now / nxt`, not `now`.",
            _posterior_of(
                lambda x, x0, now, nxt: nxt**0.5 * (1 - now) / (1 - now) * x0 + now**0.5 * (1 - nxt) / (1 - now) * x,
                lambda now, nxt: (1 - nxt) / (1 - now) * (1 - now),
            ),
        ),
        Mistake(
            "The two factors are exchanged: at the last step the mean must be x0.",
            _posterior_of(
                lambda x, x0, now, nxt: posterior(x0, x, now, nxt)[0],
                lambda now, nxt: (1 - nxt) / (1 - now) * (1 - now / nxt),
            ),
        ),
        Mistake(
            "`now` and `nxt` are exchanged: `nxt` is the level nearer to the picture, and the larger of the two.",
            lambda x, x0, now, nxt: posterior(x, x0, nxt, now),
        ),
        Mistake(
            "The mean alone came back; the variance is asked for too, as in `return mean, variance`.",
            lambda *inputs: posterior(*inputs)[0],
        ),
    ),
)

# 02.add_time: working code with one planted mistake


def add_time(h: Tensor, shift: Tensor) -> Tensor:
    return h + rearrange(shift, "b c -> b c 1 1")


ADD_TIME = Item(
    "02.add_time",
    title="Find the mistake: pictures that talk to each other",
    why="A mistake that mixes a batch hides in training: the loss still falls. Only a test with two pictures shows it.",
    kind="debug",
    points=3,
    difficulty=2,
    minutes=10,
    answer=add_time,
    draw=lambda rng: [
        Case(
            f"feature maps {shape} and shifts {shape[:2]}",
            (normal(rng, *shape, gradient=True), normal(rng, *shape[:2], gradient=True)),
        )
        for shape in ((2, 3, 4, 4), (3, 3, 3, 3), *(tuple(different(rng, 4, 2, 7)) for _ in range(3)))
    ],
    others={
        "None axes": lambda h, shift: shift[:, :, None, None] + h,
        "expanded": lambda h, shift: h + shift.reshape(*shift.shape, 1, 1).expand_as(h),
    },
    hints=(
        "Give it a batch of two with very different shifts. Does each picture get its own?",
        "Somewhere the batch axis is lost.",
        "A shift (B, C) needs two axes of length 1 at its end, no mean.",
    ),
    mistakes=(
        Mistake(
            "The mistake is still there: every picture gets the mean shift of the batch.",
            lambda h, shift: h + rearrange(shift.mean(dim=0), "c -> 1 c 1 1"),
        ),
        Mistake(
            "Every picture now gets the first picture's shift.",
            lambda h, shift: h + rearrange(shift[0], "c -> 1 c 1 1"),
        ),
        Mistake(
            "Every channel of a picture now gets the same shift: the channel axis is lost instead.",
            lambda h, shift: h + rearrange(shift.mean(dim=1), "b -> b 1 1 1"),
        ),
        Mistake("Added, not multiplied.", lambda h, shift: h * shift[:, :, None, None]),
    ),
)

# 02.silent_loss and 02.x0_error: predict, run, explain

SILENT_LOSS = Item(
    "02.silent_loss",
    title="The loss of a network that says nothing",
    why="Is 0.9 a good loss? You need the number that a network gets for knowing nothing.",
    kind="investigate",
    points=2,
    difficulty=1,
    minutes=5,
    answer=1.0,
    rtol=0.06,
    others={"measured": 0.98, "a tensor": torch.tensor(1.01)},
    hints=(
        "It always predicts 0. What is the mean of eps squared?",
        "Draw a million normal numbers and take the mean of their squares.",
        "eps has variance 1 and mean 0.",
    ),
    mistakes=(
        Mistake("Only a network that finds all of the noise gets 0.", 0.0),
        Mistake("That would be the loss if eps had half the variance; it is standard normal.", 0.5),
        Mistake("That is the loss of a network that answers with other noise of the same kind: two variances.", 2.0),
        Mistake("That is the mean of |eps|; the loss squares.", (2 / math.pi) ** 0.5),
    ),
)

_LAST = float((1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2).log().sum().exp())

X0_ERROR = Item(
    "02.x0_error",
    title="A small error of the noise, a large one of the picture",
    why="It is the reason why many models predict v or x0, and why the first steps of a sampler look wild.",
    kind="investigate",
    points=3,
    difficulty=3,
    minutes=12,
    answer=0.1 * ((1 - _LAST) / _LAST) ** 0.5,
    rtol=0.03,
    others={
        "rounded": round(0.1 * ((1 - _LAST) / _LAST) ** 0.5, 2),
        "by the ratio": 0.1 / (_LAST / (1 - _LAST)) ** 0.5,
    },
    hints=(
        "x0 = (x_t - sigma eps) / alpha: by which factor does an error of eps turn into one of x0?",
        "The factor is sigma / alpha, with sigma = sqrt(1 - alpha_bar) and alpha = sqrt(alpha_bar).",
        "At index 999 of Stable Diffusion's schedule that factor is between 10 and 20.",
    ),
    mistakes=(
        Mistake("It does not stay the same: the picture is the small part of x_t, and is divided by alpha.", 0.1),
        Mistake("You divided by the SNR; the error goes with its square root.", 0.1 * (1 - _LAST) / _LAST),
        Mistake(
            "Upside down: at high noise the picture's error is larger, not smaller.", 0.1 * (_LAST / (1 - _LAST)) ** 0.5
        ),
    ),
)

ITEMS = (TIME_EMBEDDING, NOISE_LOSS, V_TARGET, X0_FROM_V, POSTERIOR, ADD_TIME, SILENT_LOSS, X0_ERROR)
