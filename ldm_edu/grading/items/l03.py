"""Lesson 03, the autoencoder: the items, their right answers and the mistakes that are recognised."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ldm_edu.grading.draw import different, normal, number
from ldm_edu.grading.item import Case, Item, Mistake

# 03.kl


def kl(mean: Tensor, logvar: Tensor) -> Tensor:
    return 0.5 * (mean**2 + logvar.exp() - 1 - logvar).sum(dim=(1, 2, 3))


def kl_by_torch(mean: Tensor, logvar: Tensor) -> Tensor:
    normal = torch.distributions.Normal
    q, p = normal(mean, (0.5 * logvar).exp()), normal(torch.zeros_like(mean), torch.ones_like(mean))
    return torch.distributions.kl_divergence(q, p).flatten(1).sum(1)


def _posteriors(rng: Generator) -> list[Case]:
    shapes = [(3, 4, 2, 2), (1, 4, 2, 2), *(tuple(different(rng, 4, 2, 7)) for _ in range(3))]
    spreads = [(0.7, 0.0), (1.0, -3.0), *((number(rng, 0.5, 1.0), number(rng, -2.0, 0.5)) for _ in range(3))]
    return [
        Case(
            f"posteriors {shape}",
            (
                (2 * normal(rng, *shape)).requires_grad_(),
                (spread * normal(rng, *shape) + middle).requires_grad_(),
            ),
        )
        for shape, (spread, middle) in zip(shapes, spreads, strict=True)
    ]


KL = Item(
    "03.kl",
    title="The price of a latent",
    why="Without this term latents spread without bound, and there is nothing that a diffusion model could start from.",
    kind="implement",
    points=4,
    difficulty=2,
    minutes=12,
    answer=kl,
    draw=_posteriors,
    others={
        "torch.distributions": kl_by_torch,
        "float64, another order": lambda m, v: (
            -0.5 * (1 + v.double() - m.double() ** 2 - v.double().exp()).flatten(1).sum(1)
        ),
    },
    hints=(
        "For one number: half of (mean^2 + variance - 1 - log variance). It is 0 for mean 0 and variance 1.",
        "`logvar` is the logarithm of the variance: the variance is exp(logvar).",
        "Sum over everything but the batch: one number a picture.",
    ),
    mistakes=(
        Mistake("The factor one half is missing.", lambda m, v: (m**2 + v.exp() - 1 - v).sum(dim=(1, 2, 3))),
        Mistake(
            "The sign: a KL divergence is never negative.",
            lambda m, v: 0.5 * (1 + v - m**2 - v.exp()).sum(dim=(1, 2, 3)),
        ),
        Mistake(
            "A mean over the latent instead of its sum: a posterior's KL adds up over independent numbers.",
            lambda m, v: 0.5 * (m**2 + v.exp() - 1 - v).mean(dim=(1, 2, 3)),
        ),
        Mistake(
            "You took logvar for the logarithm of the standard deviation.",
            lambda m, v: 0.5 * (m**2 + (2 * v).exp() - 1 - 2 * v).sum(dim=(1, 2, 3)),
        ),
        Mistake(
            "One number for the whole batch; what is asked for is one a picture, (B,).",
            lambda m, v: 0.5 * (m**2 + v.exp() - 1 - v).sum(),
        ),
    ),
)

# 03.sample


def sample(mean: Tensor, logvar: Tensor, eps: Tensor) -> Tensor:
    return mean + torch.exp(0.5 * logvar) * eps


SAMPLE = Item(
    "03.sample",
    title="A sample that gradients pass through",
    why="Gradients have to reach the encoder through a random draw; this trick is what made such models trainable.",
    kind="implement",
    points=2,
    difficulty=1,
    minutes=6,
    answer=sample,
    draw=lambda rng: [
        Case(case.words, (*case.args, normal(rng, *case.args[0].shape)))  # and standard normal noise
        for case in _posteriors(rng)
    ],
    others={
        "a root": lambda m, v, e: torch.addcmul(m, v.exp().sqrt(), e),
        "float64": lambda m, v, e: m.double() + e.double() * v.double().div(2).exp(),
    },
    hints=(
        "Mean plus standard deviation times standard normal noise.",
        "The standard deviation is the square root of the variance exp(logvar).",
        "sqrt(exp(a)) = exp(a / 2).",
    ),
    mistakes=(
        Mistake("You multiply by the variance; noise is scaled by its square root.", lambda m, v, e: m + v.exp() * e),
        Mistake("You multiply by the logarithm of the variance.", lambda m, v, e: m + v * e),
        Mistake("The noise is not scaled at all.", lambda m, v, e: m + e),
        Mistake("Without noise that is the most likely latent, not a sample.", lambda m, v, e: m.clone()),
        Mistake(
            "You draw noise of your own; the noise is given, as `eps`.",
            lambda m, v, e: sample(m, v, torch.randn_like(m)),
        ),
        Mistake(
            "The numbers are right, but no gradient reaches mean and logvar: the encoder could not learn from it.",
            torch.no_grad()(sample),
        ),
    ),
)

# 03.psnr


def psnr(x: Tensor, y: Tensor) -> Tensor:
    return 10 * torch.log10(4 / (x - y).square().mean(dim=(1, 2, 3)))


def _pictures(rng: Generator) -> list[Case]:
    sizes = [(2, 4, 4), (1, 5, 3), *(tuple(different(rng, 3, 2, 7)) for _ in range(3))]
    return [
        Case(
            f"{b} pairs of pictures ({b}, 3, {h}, {w})",
            ((x := normal(rng, b, 3, h, w)).tanh(), (x + number(rng, 0.05, 0.5) * normal(rng, b, 3, h, w)).tanh()),
        )
        for b, h, w in sizes
    ]


PSNR = Item(
    "03.psnr",
    title="How far is the decoded picture?",
    why="It is the ceiling of everything built on the latents: no diffusion model draws what the decoder cannot.",
    kind="implement",
    points=3,
    difficulty=2,
    minutes=8,
    answer=psnr,
    draw=_pictures,
    others={
        "from the root": lambda x, y: 20 * torch.log10(2 / (x - y).flatten(1).norm(dim=1) * (x[0].numel()) ** 0.5),
        "float64": lambda x, y: -10 * ((x.double() - y.double()) ** 2).mean((1, 2, 3)).div(4).log10(),
    },
    hints=(
        "PSNR = 10 log10(peak^2 / mean squared error), in decibels, one number a picture.",
        "The peak is the largest possible difference. Pictures here run from -1 to 1.",
        "So it is 10 log10(4 / mean squared error).",
    ),
    mistakes=(
        Mistake(
            "Your peak is 1. Pictures from -1 to 1 have a peak of 2: six decibels more.",
            lambda x, y: 10 * torch.log10(1 / (x - y).square().mean(dim=(1, 2, 3))),
        ),
        Mistake(
            "The natural logarithm: decibels are ten times the logarithm to base ten.",
            lambda x, y: 10 * torch.log(4 / (x - y).square().mean(dim=(1, 2, 3))),
        ),
        Mistake(
            "Your peak is 255, as for bytes; these pictures run from -1 to 1.",
            lambda x, y: 10 * torch.log10(255**2 / (x - y).square().mean(dim=(1, 2, 3))),
        ),
        Mistake(
            "One number for the batch; what is asked for is one a picture, (B,).",
            lambda x, y: 10 * torch.log10(4 / (x - y).square().mean()),
        ),
    ),
)

# 03.scale_factor


def scale_factor(latents: Tensor) -> Tensor:
    return 1 / latents.std()


def _latents(rng: Generator) -> list[Case]:
    shapes = [(64, 4, 8, 8), *((n, c, h, w) for n, c, h, w in [(50, *different(rng, 3, 5, 9)) for _ in range(3)])]
    spreads = [(5.49, 2.0), *((number(rng, 0.2, 8.0), number(rng, 1.0, 4.0)) for _ in range(3))]
    return [
        Case(
            f"latents {shape}",
            (spread * (normal(rng, *shape) + middle / 3 * torch.arange(shape[1]).view(-1, 1, 1)),),
        )
        for shape, (spread, middle) in zip(shapes, spreads, strict=True)
    ]


SCALE_FACTOR = Item(
    "03.scale_factor",
    title="Where 0.18215 comes from",
    why="Without this number the noise is too weak, or too strong, at every time of the schedule.",
    kind="implement",
    points=2,
    difficulty=1,
    minutes=6,
    answer=scale_factor,
    draw=_latents,
    rtol=4e-4,  # of thousands of numbers: whether the squares are divided by n or by n - 1
    others={
        "from the variance, a float": lambda z: float(z.var()) ** -0.5,
        "by hand": lambda z: (z - z.mean()).square().mean().rsqrt(),
    },
    hints=(
        "One number for all latents, by which they are multiplied, so that their standard deviation becomes 1.",
        "Over the whole batch, all channels and all places together (Rombach et al. 2022, appendix G).",
        "What do you multiply a standard deviation of 5.49 by to get 1?",
    ),
    mistakes=(
        Mistake("That is the standard deviation; the factor is what makes it 1.", lambda z: z.std()),
        Mistake("You divided by the variance; a factor acts on the standard deviation.", lambda z: 1 / z.var()),
        Mistake(
            "One factor a channel; Stable Diffusion has a single one for all.",
            lambda z: 1 / z.transpose(0, 1).flatten(1).std(dim=1),
        ),
        Mistake(
            "That is one over the root mean square, in which the latents' mean counts; take it away first.",
            lambda z: 1 / z.square().mean().sqrt(),
        ),
    ),
)

# 03.hinge_loss


def hinge_loss(real: Tensor, fake: Tensor) -> Tensor:
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


def _patches(rng: Generator) -> list[Case]:
    def logits(*shape: int) -> Tensor:
        return (1.5 * normal(rng, *shape)).requires_grad_()

    sure = torch.full((1, 1, 2, 2), 3.0)
    shapes = [(2, 1, 4, 4), *((b, 1, h, w) for b, h, w in [different(rng, 3, 2, 7) for _ in range(3)])]
    return [
        Case("a discriminator that is right everywhere", (sure.clone().requires_grad_(), (-sure).requires_grad_())),
        *(Case(f"patches {shape}", (logits(*shape), logits(*shape))) for shape in shapes),
    ]


HINGE_LOSS = Item(
    "03.hinge_loss",
    title="What the discriminator learns",
    why="Squared errors alone give blurred pictures; the discriminator is what makes them sharp.",
    kind="implement",
    points=3,
    difficulty=2,
    minutes=8,
    answer=hinge_loss,
    draw=_patches,
    others={
        "clamped": lambda r, f: ((1 - r).clamp(min=0).mean() + (1 + f).clamp(min=0).mean()) / 2,
        "maximum, float64": lambda r, f: (
            torch.cat([1 - r.double(), 1 + f.double()]).maximum(torch.zeros(1, dtype=torch.float64)).mean()
        ),
    },
    hints=(
        "Logits of real patches should be above 1, of decoded ones below -1; beyond that there is nothing to gain.",
        "max(0, 1 - real) is 0 from 1 on. What is its mirror image for the decoded ones?",
        "The mean of the two means: half of mean(relu(1 - real)) + mean(relu(1 + fake)).",
    ),
    mistakes=(
        Mistake(
            "Real and decoded are exchanged: yours rewards taking decoded pictures for real.",
            lambda r, f: 0.5 * (F.relu(1 + r).mean() + F.relu(1 - f).mean()),
        ),
        Mistake("The factor one half is missing.", lambda r, f: F.relu(1 - r).mean() + F.relu(1 + f).mean()),
        Mistake(
            "Without the hinge (the maximum with 0) it can be lowered for ever.",
            lambda r, f: 0.5 * ((1 - r).mean() + (1 + f).mean()),
        ),
        Mistake(
            "That is the logistic loss, of another kind of GAN; the hinge is flat from 1 on.",
            lambda r, f: 0.5 * (F.softplus(-r).mean() + F.softplus(f).mean()),
        ),
    ),
)

# 03.decode: working code with one planted mistake


Network = Callable[[Tensor], Tensor]


def a_decoder(rng: Generator) -> Network:
    """Stands for a decoder: bent, so that a wrong scale shows."""
    bend = number(rng, 0.5, 2.0)

    def decoder(z: Tensor) -> Tensor:
        return torch.tanh(bend * z) + 0.1 * z

    return decoder


def decode(decoder: Network, latents: Tensor, scale: float, shift: float) -> Tensor:
    return decoder(latents / scale + shift)


def _scaled(rng: Generator) -> list[Case]:
    small = [((2, 4, 4, 4), 0.276, 0.231), ((2, 4, 4, 4), 0.18215, 0.0)]
    drawn = [(tuple(different(rng, 4, 2, 7)), number(rng, 0.3, 3.0), number(rng, -0.8, -0.2)) for _ in range(3)]
    return [
        Case(f"latents {shape}, scale {scale}, shift {shift}", (a_decoder(rng), normal(rng, *shape), scale, shift))
        for shape, scale, shift in small + drawn
    ]


DECODE = Item(
    "03.decode",
    title="Find the mistake: washed-out pictures",
    why="An easy mistake with Stable Diffusion's weights, and no error message tells you of it.",
    kind="debug",
    points=3,
    difficulty=2,
    minutes=10,
    answer=decode,
    draw=_scaled,
    others={
        "one fraction": lambda decoder, z, scale, shift: decoder((z + shift * scale) / scale),
        "named steps": lambda decoder, z, scale, shift: decoder(torch.add(z.mul(1 / scale), shift)),
    },
    hints=(
        "Encoding ended with latents = (z - shift) * scale. Decoding starts by undoing that.",
        "Undo the last thing first.",
        "z = latents / scale + shift.",
    ),
    mistakes=(
        Mistake(
            "The mistake is still there: the latents are made smaller once more, where they should grow again.",
            lambda decoder, z, scale, shift: decoder(z * scale + shift),
        ),
        Mistake("The scale is undone, the shift is forgotten.", lambda decoder, z, scale, shift: decoder(z / scale)),
        Mistake(
            "In the wrong order: the shift was taken away before scaling, so it comes back after unscaling.",
            lambda decoder, z, scale, shift: decoder((z + shift) / scale),
        ),
        Mistake("The shift was taken away, so it is added back.", lambda d, z, scale, shift: d(z / scale - shift)),
    ),
)

# 03.compression: predict, run, explain

COMPRESSION = Item(
    "03.compression",
    title="Forty-eight times smaller?",
    why="It is where the speed of latent diffusion comes from, and what the decoder has to make up again.",
    kind="investigate",
    points=2,
    difficulty=1,
    minutes=5,
    answer=48.0,
    others={"an int": 48, "a tensor": torch.tensor(48.0)},
    hints=(
        "Count the numbers in the picture and in the latent.",
        "512 x 512 pixels of 3 colours; the latent is 8 times narrower and lower, and has 4 channels.",
        "(512 * 512 * 3) / (64 * 64 * 4).",
    ),
    mistakes=(
        Mistake("That counts places alone; a pixel has 3 colours, a latent place 4 channels.", 64),
        Mistake("The factor 8 acts on the width and on the height.", 6),
        Mistake("That is the factor of one side.", 8),
        Mistake("Upside down: the picture has more numbers than the latent.", 1 / 48),
    ),
)

_FLAT = 10 * math.log10(4 / (2 / math.sqrt(12)) ** 2)

UNIFORM_PSNR = Item(
    "03.grey_psnr",
    title="The decibels of a grey guess",
    why="A scale needs a zero: below this number, a decoder is worse than none.",
    kind="investigate",
    points=3,
    difficulty=2,
    minutes=10,
    answer=_FLAT,
    rtol=0.01,
    others={"measured": round(_FLAT, 1), "by hand": 10 * math.log10(12)},
    hints=(
        "Every pixel value is drawn evenly from -1 to 1, and the answer is grey, 0. What is the mean squared error?",
        "The variance of an even spread from -1 to 1 is 1/3: measure it with torch.rand.",
        "PSNR = 10 log10(4 / mean squared error).",
    ),
    mistakes=(
        Mistake("The peak is 2, not 1: pictures run from -1 to 1.", 10 * math.log10(3)),
        Mistake("The mean squared error is less than 1: most values are nearer to grey than 1.", 10 * math.log10(4)),
        Mistake("A grey picture is wrong, but not infinitely: it has some decibels.", 0.0),
    ),
)

ITEMS = (KL, SAMPLE, PSNR, SCALE_FACTOR, HINGE_LOSS, DECODE, COMPRESSION, UNIFORM_PSNR)
