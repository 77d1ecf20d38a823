# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 04 · Latent diffusion
#
# **The question.** Why diffuse latents and not pixels?
#
# You have a network that tells noise from picture (lesson 02) and an autoencoder that makes pictures small (lesson 03).
# Here you put one behind the other. That is the whole of *latent diffusion*: the U-Net learns and draws in the
# autoencoder's space, and the decoder is called once, at the end.
#
# **After this lesson you can**
#
# - encode a set of pictures once, bring the latents to variance 1, and keep them;
# - write the training step of latent diffusion, and the loop that draws, from memory;
# - say what stays the same between a pixel model and a latent model, and what does not;
# - measure what the latents buy at equal training time, and what they cost: the ceiling of the decoder.
#
# **You need** lessons 01 to 03.
#
# **Time**: about four minutes of computing (most of it two trainings of a minute and a half each, in turn on one
# processor core), half an hour of reading and playing.

# %% [markdown]
# ## The pictures, encoded once
#
# Animals, plants and food from the emoji set, in one style, on white. A small set, so that a little training can show
# something.

# %%
import torch

from ldm_edu import LatentDiffusion
from ldm_edu.datasets.emoji import STYLES, emoji_tensors
from ldm_edu.evaluate.emoji import on_white

data = emoji_tensors("train", starter=True)
images = on_white(data.rgba[data.styles == STYLES.index("twemoji")])  # (N, 3, 64, 64) in [-1, 1]

shipped = LatentDiffusion.from_pretrained("emoji")
autoencoder = shipped.autoencoder
with torch.no_grad():
    z = torch.cat([autoencoder.encode(part).mode for part in images.split(16)])  # (N, 4, 16, 16)

print(f"{len(images)} pictures of {images[0].numel()} numbers, latents of {z[0].numel()}: a twelfth")
assert images[0].numel() == 12 * z[0].numel()

# %% [markdown]
# The autoencoder is trained already and does not change any more, so neither do the latents. One pass over the pictures
# is enough for all of the training to come.
#
# **Scale and shift.** The forward process of lesson 01 adds noise of variance 1 and counts on data of about variance 1.
# Pixels from -1 to 1 are near that by agreement. Latents have whatever variance the encoder gave them, so one number
# is subtracted and one multiplied (Rombach et al. 2022, appendix G, divide theirs by their standard deviation):
#
# $$x_0 = (z - \text{shift}) \cdot \text{scale}$$

# %%
shift, scale = float(z.mean()), float(1 / z.std())
latents = (z - shift) * scale  # the cache: all that training will see

print(f"raw: mean {float(z.mean()):.2f}, standard deviation {float(z.std()):.2f}; shift {shift:.3f}, scale {scale:.3f}")
print(f"now: mean {float(latents.mean()):.2f}, standard deviation {float(latents.std()):.2f}")

# %% [markdown]
# The package keeps the two numbers in the autoencoder's configuration. Put yours there; its `encode` must then give
# your latents.

# %%
from dataclasses import replace

autoencoder.config = replace(autoencoder.config, shift=shift, scale=scale)
torch.testing.assert_close(shipped.encode(images[:8]), latents[:8], rtol=1e-3, atol=1e-3)

decoded = torch.cat([shipped.decode(part) for part in latents.split(16)])  # (N, 3, 64, 64)

# %%
from ldm_edu.viz import matrix

matrix(
    torch.cat([images[:6], decoded[:6]]),
    rows=["picture", "decoded latent"],
    columns=[str(i) for i in range(6)],
    alt="Six emoji, and below each the same one encoded and decoded: a little softer.",
)

# %% [markdown]
# **What to see.** The lower row is the best that a latent model can draw: whatever its U-Net learns, the decoder has
# the last word. Below you measure how far from the real pictures that is.

# %% [markdown]
# ## One U-Net, two spaces
#
# The same class with the same widths, for pixels and for latents. Only the first and the last convolution differ: three
# channels or four. Neither has a prompt: `context_dim=None` leaves the cross-attention out.

# %%
from ldm_edu.config import UNetConfig
from ldm_edu.models.unet import UNet


def make_unet(channels: int) -> UNet:
    torch.manual_seed(0)
    config = UNetConfig(
        in_channels=channels,
        out_channels=channels,
        channels=32,
        mults=(1, 2, 2),
        blocks=1,
        depth=(0, 0, 1),
        context_dim=None,
        heads=4,
        groups=8,
    )
    return UNet(config).to(memory_format=torch.channels_last)  # convolutions are quicker so


pixel_unet, latent_unet = make_unet(3), make_unet(4)
sizes = [sum(p.numel() for p in unet.parameters()) for unet in (pixel_unet, latent_unet)]
print(f"pixels: {sizes[0]:,} parameters; latents: {sizes[1]:,}")
assert abs(sizes[0] - sizes[1]) < 0.01 * sizes[0]

# %% [markdown]
# ## The training step
#
# Take clean data, draw a time and noise for each, mix them, and ask the network. What it is asked for is *v*, a mixture
# of noise and data (Salimans and Ho 2022, section 4):
#
# $$x_t = \alpha_t x_0 + \sigma_t \epsilon, \qquad v = \alpha_t \epsilon - \sigma_t x_0$$
#
# From $v$ both parts can be found, at every time. The function does not know whether it is given pixels or latents.

# %%
from einops import rearrange
from torch import Tensor

from ldm_edu.config import ScheduleConfig
from ldm_edu.schedule import make_schedule

alpha_bar = make_schedule(ScheduleConfig()).alpha_bar  # (1000,), lesson 01


def training_loss(unet: UNet, x0: Tensor, rng: torch.Generator) -> Tensor:
    t = torch.randint(1000, (len(x0),), generator=rng)  # (B,)
    eps = torch.randn(x0.shape, generator=rng)
    alpha, sigma = alpha_bar[t].sqrt().float(), (1 - alpha_bar[t]).sqrt().float()  # (B,)
    alpha, sigma = rearrange(alpha, "b -> b 1 1 1"), rearrange(sigma, "b -> b 1 1 1")
    x = (alpha * x0 + sigma * eps).to(memory_format=torch.channels_last)
    v = alpha * eps - sigma * x0
    out = unet(x, t)
    return (out.float() - v).square().mean()


# %% [markdown]
# The same step by the package's functions, on the same latents, times and noise:

# %%
import ldm_edu.prediction
import ldm_edu.schedule
import ldm_edu.training.losses

schedule = ldm_edu.schedule.make_schedule(ScheduleConfig())
with torch.no_grad():
    for unet, x0 in ((latent_unet, latents[:4]), (pixel_unet, images[:4])):
        mine = training_loss(unet, x0, torch.Generator().manual_seed(1))

        rng = torch.Generator().manual_seed(1)
        t, eps = torch.randint(1000, (4,), generator=rng), torch.randn(x0.shape, generator=rng)
        level = schedule.level(t)
        out = unet(ldm_edu.schedule.add_noise(x0, eps, level), t)
        wanted = ldm_edu.prediction.target("v", x0, eps, level)
        theirs = ldm_edu.training.losses.diffusion_loss("v", out, wanted, level, gamma=None).mean()
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
        print(f"{x0.shape[1]} channels: {float(mine):.4f} = {float(theirs):.4f}")

# %% [markdown]
# ## The loop that draws
#
# From noise down, step by step. From $v$ follow the estimates of data and noise, and these are mixed anew for the next,
# lower level: DDIM (Song et al. 2021, equation 12). At the end, and only there, the decoder.

# %%
from collections.abc import Iterator
from itertools import pairwise

from ldm_edu import Step, levels


@torch.no_grad()
def draw(unet: UNet, noise: Tensor, steps: int = 10) -> Iterator[Step]:
    x = noise
    for index, (now, then) in enumerate(pairwise(levels(schedule, steps))):
        v = unet(x, now.t.float()).float()
        x0 = now.alpha * x - now.sigma * v
        eps = now.sigma * x + now.alpha * v
        x = then.alpha * x0 + then.sigma * eps
        yield Step(index, x, x0, then)


# %% [markdown]
# Is it the package's? Its `LatentDiffusion` takes any parts: give it your U-Net and the autoencoder, or, for pixels,
# none. Here the networks are untrained still, and both ways must draw the same nonsense.

# %%
from ldm_edu import UNetPreset, ddim, initial_noise

both = {"size": 64, "text": None, "prediction": "v"}
pixel_preset = UNetPreset(name="pixels", unet=pixel_unet.config, autoencoder=None, **both)
latent_preset = UNetPreset(name="latents", unet=latent_unet.config, autoencoder=autoencoder.config, **both)
pixel_model = LatentDiffusion(pixel_preset, {"unet": pixel_unet})
latent_model = LatentDiffusion(latent_preset, {"unet": latent_unet, "autoencoder": autoencoder})

for model in (pixel_model, latent_model):
    *_, mine = draw(model.unet, initial_noise([1, 2], model.latent_shape()), steps=4)
    *_, theirs = model.generate([""], seeds=[1, 2], steps=4, sampler=ddim)
    torch.testing.assert_close(mine.x, theirs.x, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(model.decode(mine.x), model.decode(theirs.x), rtol=1e-2, atol=1e-2)

# %% [markdown]
# ## The same time for each
#
# Now the race. Both models get the same pictures, the same batch, the same learning rate and **the same time**. Time is
# processor time here: the seconds that one core works for this program. Another program that keeps it busy makes the
# race last longer, and changes nothing about who is ahead. (One core, because two would wait for each other between the
# small layers, and waiting is billed too.) Whoever has had less time takes the next step. The learning rate falls to
# zero in the second half of the time. `autocast` computes the heavy parts with 16 bits a number, on processors that
# have instructions for it.

# %%
import time
from dataclasses import dataclass, field

from ldm_edu.kernels.precision import autocast

SECONDS, BATCH, LEARNING_RATE = 95.0, 16, 1e-3
torch.set_num_threads(1)


@dataclass
class Run:
    model: LatentDiffusion
    cache: Tensor  # (N, C, h, w): pixels or latents
    rng: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(1))
    steps: int = 0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.AdamW(self.model.unet.parameters(), LEARNING_RATE, betas=(0.9, 0.99), fused=True)


def step(run: Run) -> None:
    start = time.process_time()
    x0 = run.cache[torch.randint(len(run.cache), (BATCH,), generator=run.rng)]
    with autocast("cpu"):
        loss = training_loss(run.model.unet, x0, run.rng)
    run.optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(run.model.unet.parameters(), 1.0)
    for group in run.optimizer.param_groups:
        group["lr"] = LEARNING_RATE * min(1.0, (run.steps + 1) / 20, 2 * max(0.0, 1 - run.seconds / SECONDS))
    run.optimizer.step()
    run.steps += 1
    run.seconds += time.process_time() - start


# %%
pixels, in_latents = Run(pixel_model, images), Run(latent_model, latents)
runs = {"pixels": pixels, "latents": in_latents}
for run in runs.values():
    run.model.unet.train()
while min(run.seconds for run in runs.values()) < SECONDS:
    step(min(runs.values(), key=lambda run: run.seconds))
for name, run in runs.items():
    run.model.unet.eval()
    print(f"{name}: {run.steps} steps of {BATCH} pictures in {run.seconds:.0f} seconds of processor time")

# %% [markdown]
# The step is the same code with almost the same number of weights. But a convolution is paid for every place where it
# is applied: 64 x 64 of them, or 16 x 16.
#
# Draw with both, as many pictures as there are real ones, sixteen at a time, and take the time, decoder included. The
# two take turns here too.

# %%
COUNT = len(images)
drawn = {name: [] for name in runs}
drawing_seconds = dict.fromkeys(runs, 0.0)
for seeds in torch.arange(COUNT).split(16):
    for name, run in runs.items():
        start = time.process_time()
        with autocast("cpu"):
            *_, last = draw(run.model.unet, initial_noise(seeds.tolist(), run.model.latent_shape()))
        drawn[name].append(run.model.decode(last.x))
        drawing_seconds[name] += time.process_time() - start
drawn = {name: torch.cat(parts) for name, parts in drawn.items()}  # each (COUNT, 3, 64, 64)

matrix(
    torch.cat([pictures[:7] for pictures in drawn.values()]),
    rows=["pixel model", "latent model"],
    columns=[f"seed {seed}" for seed in range(7)],
)

# %% [markdown]
# **What to see.** Equal time, unequal numbers of steps. Look at the background first: is it white? Then look for a
# closed outline, and then for a thing you could name. Neither row is good: a minute and a half is not much.

# %% [markdown]
# ## The claim
#
# Rombach et al. 2022 (section 4.5, table 6) compare pixel and latent models on inpainting, filling a hole in a
# photograph. They report a *speed-up of at least 2.7 times* and a better FID *by a factor of at least 1.6*. The last
# columns of the table below are theirs: the pixel model LDM-1 and the latent model LDM-4 (KL) at 256 pixels. Their FID
# is taken after six epochs of each model, for which the pixel model needed 2.7 times as long; ours is taken at equal
# time. So the last row compares related things, not the same one.
#
# FID is a Fréchet distance: describe each set of pictures by the mean and the covariance of a classifier's
# features, and measure how far apart the two normal distributions are. 0 is the same. Ours looks through the
# project's own judge, a small network trained on emoji, so **its numbers cannot be compared with published FIDs**; only
# their ratio stands beside the paper's.

# %%
from ldm_edu.classifiers import load_classifier
from ldm_edu.evaluate.frechet import frechet_distance, gaussian
from ldm_edu.evaluate.judge import judge_pictures

judge = load_classifier("judge").model
reference = gaussian(judge_pictures(judge, images).features)


def distance(pictures: Tensor) -> float:
    return frechet_distance(gaussian(judge_pictures(judge, pictures).features), reference)


distances = {name: distance(pictures) for name, pictures in drawn.items()}
ceiling = distance(decoded)  # the real pictures, encoded and decoded

everything = on_white(data.rgba)  # all six styles: enough for two sets
order = torch.randperm(len(everything), generator=torch.Generator().manual_seed(0))[: 2 * COUNT]
one, other = (gaussian(judge_pictures(judge, everything[part]).features) for part in order.split(COUNT))
by_chance = frechet_distance(one, other)  # two sets of real pictures that have none in common

# %% [markdown]
# First the distance itself, by hand, to know what it is: the squared distance of the means, plus the traces of both
# covariances, minus twice the trace of the root of their product.

# %%
a, b = (judge_pictures(judge, pictures).features.double() for pictures in (decoded, images))
mean_gap = (a.mean(0) - b.mean(0)).square().sum()
cov_a, cov_b = a.T.cov(), b.T.cov()  # (D, D)
roots = torch.linalg.eigvals(cov_a @ cov_b).real.clamp(min=0).sqrt()  # eigenvalues of the product's root
by_hand = float(mean_gap + cov_a.trace() + cov_b.trace() - 2 * roots.sum())
assert abs(by_hand - ceiling) < 0.02 * ceiling + 0.05, (by_hand, ceiling)
print(f"{by_hand:.2f} = {ceiling:.2f}")

# %%
from ldm_edu.viz import Table

training = {name: run.steps * BATCH / run.seconds for name, run in runs.items()}
sampling = {name: COUNT / drawing_seconds[name] for name in runs}
faster, faster_drawing = (rate["latents"] / rate["pixels"] for rate in (training, sampling))
better = distances["pixels"] / distances["latents"]

paper = {"training": (0.11, 0.32), "drawing": (0.26, 0.97), "distance": (24.74, 15.21)}  # LDM-1 and LDM-4 (KL)
ours = {"training": training, "drawing": sampling, "distance": distances}
ratios = {"training": faster, "drawing": faster_drawing, "distance": better}
words = {name: f"{name}, pictures a second" for name in ("training", "drawing")} | {"distance": "Fréchet distance"}

rows = [("U-Net's parameters", f"{sizes[0]:,}", f"{sizes[1]:,}", f"{sizes[1] / sizes[0]:.2f}", "", "", "")]
for name, theirs in paper.items():
    mine = (*(f"{value:.1f}" for value in ours[name].values()), f"{ratios[name]:.1f}")
    rows.append((words[name], *mine, *map(str, theirs), f"{max(theirs) / min(theirs):.1f}"))
Table(("", "pixels", "latents", "ratio", "paper: pixels", "latents", "ratio"), tuple(rows))

# %%
print(f"training: {faster:.1f} times as many pictures a second; 2.7 is {'' if faster >= 2.7 else 'not '}reached")
print(f"drawing: {faster_drawing:.1f} times as many; 2.7 is {'' if faster_drawing >= 2.7 else 'not '}reached")
print(f"distance at equal time: {better:.1f} times smaller; 1.6 is {'' if better >= 1.6 else 'not '}reached")
print(f"the ceiling: the real pictures are at 0, encoded and decoded they are at {ceiling:.1f}")
print(f"the ruler: two sets of {COUNT} other real pictures, drawn at random, are {by_chance:.1f} apart")

# %% [markdown]
# **How to read it.** Seconds are processor seconds on the left and seconds of a graphics card on the right; distances
# are by two different judges. Compare the ratios. The real pictures are at 0, for they are the set that is compared
# with; encoded and decoded they are a little further. That is the price of the latents, which no training of the U-Net
# can win back. A pixel model does not pay it: with enough time it could overtake the other.
#
# The last line is the ruler. Sets of so few *real* pictures are that far apart by chance alone: their covariance has
# more numbers than there are pictures to tell them. New pictures as good as real ones would come out near that line and
# not near 0, and what is added to both rows makes their ratio smaller than it would be with thousands of pictures.
#
# Four things the table leaves out:
#
# - The autoencoder was trained before, for longer than the race. It is trained once and serves every model after it;
#   for one model only, its time belongs to the account. It has also seen these very pictures.
# - The latent model had many more looks at each picture. That is not unfair, it is the point: time is what is equal.
# - Both have the same layers. A pixel model of another build, with more levels for instance, might do better than
#   this one.
# - A minute and a half is the start of a training. How the ratio goes on with more time, this lesson does not say.

# %% [markdown]
# ## Play
#
# Both runs from noise, one slider. Click on it and use the arrow keys. (On a page where nothing runs you see strips.)

# %%
from ldm_edu.viz import compare, explore

explorers = []
for name, run in runs.items():
    with autocast("cpu"):
        steps = list(draw(run.model.unet, initial_noise([3], run.model.latent_shape())))
    decode = None if name == "pixels" else run.model.decode
    explorers.append(explore(steps, decode, title=f"{name}, seed 3"))
compare(*explorers)

# %% [markdown]
# **What to see.** Compare the samples at the first steps. In pixels each point of the noise is its own; decoded from
# latents it comes in patches, because the decoder makes something picture-like even of noise. Smooth areas and fine
# detail are the decoder's work, and the latent U-Net never has to learn them; the other one does.
#
# **Try it.** Give both ten minutes (`SECONDS = 600.0`) and see whether the ratio grows or shrinks.

# %% [markdown]
# ## Recap
#
# - Encode once, shift and scale to variance 1, keep: `latents = (z - shift) * scale`.
# - The training step and the drawing loop are those of pixel diffusion, word for word. Only the tensors are smaller.
# - Here a latent has a twelfth of a picture's numbers and a sixteenth of its places; the work of a step falls with the
#   places.
# - At equal time the latent model sees several times as many pictures. The table says what that was worth here.
# - The decoder sets a ceiling. What the autoencoder loses, no U-Net brings back.

# %% [markdown]
# ## Check yourself

# %% tags=["hide-input"]
from ldm_edu.viz import quiz
from ldm_edu.viz.quiz import Choice, Question

quiz(
    Question(
        "How often is the decoder called while one picture is drawn in 10 steps?",
        [
            Choice("Ten times, once a step", "Only a film strip does that, for your eyes. The loop stays in latents."),
            Choice("Once", "After the last step, on the last sample.", right=True),
            Choice("Never", "Then you would have a block of 4 x 16 x 16 numbers and no picture."),
        ],
    ),
    Question(
        "Both U-Nets have about the same number of parameters. Why is a step on latents so much quicker?",
        [
            Choice(
                "The latent U-Net has fewer layers", "It has the same layers; only the first and last differ a bit."
            ),
            Choice(
                "A convolution is computed at every place, and there are a sixteenth as many places",
                "Parameters count how many weights there are, not how often each is used.",
                right=True,
            ),
            Choice("Latents hold whole numbers", "They are floating-point numbers like any others."),
        ],
    ),
    Question(
        "You forget scale and shift, and your raw latents have a standard deviation of 5. What happens?",
        [
            Choice(
                "Nothing, the network adapts", "It can adapt its weights, but not what the schedule does to the data."
            ),
            Choice("The decoder fails", "The decoder wants raw latents; it never sees the scaled ones."),
            Choice(
                "The noise is too weak for the data at every time, and drawing starts where training never was",
                "At the last time a sample still holds much signal, while drawing starts from pure noise.",
                right=True,
            ),
        ],
    ),
    Question(
        "You train the latent U-Net a hundred times longer. What can it not get below?",
        [
            Choice("The pixel model's distance", "It may be below that after a minute and a half already."),
            Choice(
                "About the distance of real pictures that were encoded and decoded",
                "All it draws goes through the decoder.",
                right=True,
            ),
            Choice("Zero, which it reaches in the end", "Its pictures come out of a decoder that loses detail."),
        ],
    ),
)

# %% [markdown]
# ## Go on
#
# - Rombach et al. 2022, *High-Resolution Image Synthesis with Latent Diffusion Models* ([arXiv
#   2112.10752](https://arxiv.org/abs/2112.10752)): section 3 is this lesson, section 4.1 asks how small latents should
#   be, section 4.5 and table 6 have the claim.
# - Vahdat, Kreis and Kautz 2021, *Score-based Generative Modeling in Latent Space* ([arXiv
#   2106.05931](https://arxiv.org/abs/2106.05931)): the autoencoder and the diffusion trained together.
# - Heusel et al. 2017, *GANs Trained by a Two Time-Scale Update Rule* ([arXiv
#   1706.08500](https://arxiv.org/abs/1706.08500)), equation 6: the distance.
# - Salimans and Ho 2022, *Progressive Distillation for Fast Sampling of Diffusion Models* ([arXiv
#   2202.00512](https://arxiv.org/abs/2202.00512)), section 4: predicting v.
#
# Exercises: [exercises/04_latent_diffusion.ipynb](../exercises/04_latent_diffusion.ipynb); each item answers at once.
#
# This model draws what it likes. Next you tell it what you want: [lesson 05](05_text.ipynb).
