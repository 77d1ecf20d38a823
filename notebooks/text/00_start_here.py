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
# # 00 · Start here
#
# **The question.** How can a program draw a picture that nobody has drawn, from a few words?
#
# This course builds such a program: *latent diffusion*, the method behind Stable Diffusion. In this lesson you build
# nothing yet. You use the finished thing, trained by this project on 64-pixel emoji, and look at every part of it while
# it works.
#
# **After this lesson you can**
#
# - draw pictures from prompts, and say what the seed, the guidance scale and the number of steps do;
# - type the whole way from prompt to picture in ten lines, and name the part that each line calls;
# - read a film strip of a run: what the sample is, what the model guesses, and how the noise goes away;
# - say what a model of this size cannot do, and why.
#
# **You need** Python and a little PyTorch: what a tensor is and what its shape says. No GPU, no internet connection.
#
# **Time**: one to two minutes of computing on two processor cores, half an hour of reading and playing.
#
# Run the cells from top to bottom (Shift + Enter runs one and goes to the next).

# %% [markdown]
# ## Is everything here?

# %%
from ldm_edu.viz import environment

environment()

# %% [markdown]
# Every line should say *fine* or *not needed*. Where one does not, it says what to do.

# %% [markdown]
# ## Your first picture
#
# Load the model, ask for a red apple, and decode the last step into pixels. A *seed* is the number that the random
# noise is made from: the same prompt with the same seed gives the same picture, on any machine (up to rounding).

# %%
from ldm_edu import LatentDiffusion
from ldm_edu.viz import sheet

model = LatentDiffusion.from_pretrained("emoji")
prompt = "red apple, 3d style"

*_, last = model.generate([prompt], seeds=[7])  # 20 steps; only the last one is kept here
apple = model.decode(last.x)
sheet(apple, [prompt])

# %% [markdown]
# This apple was not looked up and not pasted together. Twenty times in a row, a network looked at random numbers and
# said which part of them is noise. What you see is what was left.
#
# More prompts, drawn together. A prompt has the form *what it is, some style*; the styles are those of six sets of
# emoji: 3d, flat, noto, blob, twemoji and firefox.

# %%
prompts = [
    "dog face, noto style",
    "pizza, flat style",
    "sunflower, twemoji style",
    "cat face, blob style",
    "mushroom, 3d style",
    "owl, noto style",
    "carrot, flat style",
    "panda, firefox style",
]
*_, last = model.generate(prompts, seeds=[7] * len(prompts))
sheet(model.decode(last.x), prompts)

# %% [markdown]
# **What to see.** Colour and shape follow the words. Details are soft: the whole model takes no more room on the disk
# than ten photos from a phone, and a picture has only 64 by 64 pixels.

# %% [markdown]
# ## The map
#
# This is what just happened. Each number is the lesson that builds the part.

# %%
from ldm_edu.viz import system_map

system_map(model.preset, prompt=prompt, drawn=apple[0])

# %% [markdown]
# **How to read it.** The *autoencoder* is the pair of encoder and decoder: it squeezes a picture into a small block of
# numbers, a *latent*, and back. The *U-Net* is the network that tells noise from picture; it works on latents only,
# which is what makes the method cheap. It is told two more things: the words, through *cross-attention*, and how much
# noise there is, by the *schedule*. *Guidance* asks it twice, with the prompt and without, and goes further in the
# direction of the difference. The *sampler* decides how far to trust the answer at each step.

# %% [markdown]
# ## Line by line
#
# Now type the same way yourself. First the words. The *tokenizer* cuts the prompt into tokens, numbered pieces of
# words; the *text encoder* turns each token into a row of numbers that knows its neighbours.

# %%
from ldm_edu.viz import Table

cond = model.condition([prompt])  # prompt -> tokens -> context
blank = model.condition([""])  # the empty prompt: the same shape, nothing said

tokens = model.tokenizer.encode(prompt)
pieces = [model.tokenizer.decode([token]) for token in tokens]
Table(("token", "reads"), tuple((str(token), piece) for token, piece in zip(tokens, pieces)))

# %%
cond.context.shape, blank.context.shape  # (pictures, tokens with padding, numbers a token)

# %% [markdown]
# A *denoiser* is a function: noisy sample in, estimate of the clean sample out. You make one that knows the prompt and
# one that does not, and join them with classifier-free guidance, `cfg`:
#
# $$\hat{x}_0 = \hat{x}_0^{\text{blank}} + s \cdot \left(\hat{x}_0^{\text{prompt}} - \hat{x}_0^{\text{blank}}\right)$$
#
# With the scale $s = 1$ the blank cancels out and the prompt's estimate remains. A larger $s$ follows the prompt
# harder.

# %%
from ldm_edu import cfg

guided = cfg(model.denoiser(cond), model.denoiser(blank), scale=5.0)

# %% [markdown]
# Next, the start: noise, and nothing else. A latent of this model has four channels of 16 by 16 numbers.

# %%
from ldm_edu import initial_noise
from ldm_edu.viz import channels

noise = initial_noise([7], model.latent_shape())
channels(noise[0])

# %% [markdown]
# **What to see.** Nothing: each number is drawn by itself from a normal distribution with mean 0 and variance 1.
#
# The *schedule* says how signal and noise are mixed at every time $t$ from 0 (clean) to 999 (noise):
# $x_t = \alpha_t\, x_0 + \sigma_t\, \epsilon$. A run stops at a few of the thousand times only.

# %%
from ldm_edu import levels
from ldm_edu.viz import schedule_curve

stops = levels(model.schedule, 20)
schedule_curve(model.schedule, stops[:-1])

# %% [markdown]
# **What to see.** On the left $\sigma$ is 1 and nearly all is noise; on the right $\alpha$ is 1 and nearly all is
# picture. The dots are the twenty levels at which this run asks the network. (After the last one it goes to no noise at
# all.)
#
# Both formulas, put into numbers by hand: noise the apple's latent to the tenth stop, ask with and without the prompt,
# and extrapolate. The functions that you have just made must say the same.

# %%
import torch

from ldm_edu.schedule import add_noise

stop, latent = stops[9], model.encode(apple)
x_t = stop.alpha * latent + stop.sigma * noise
torch.testing.assert_close(x_t, add_noise(latent, noise, stop))

with_prompt, without = model.denoiser(cond)(x_t, stop), model.denoiser(blank)(x_t, stop)
torch.testing.assert_close(without + 5.0 * (with_prompt - without), guided(x_t, stop), rtol=1e-3, atol=1e-3)
print(f"t = {float(stop.t):.0f}: alpha = {float(stop.alpha):.3f}, sigma = {float(stop.sigma):.3f}; the same by hand")

# %% [markdown]
# Now the loop itself. `dpmpp_2m` is a sampler; it gives you every step, so you can watch.

# %%
from ldm_edu import dpmpp_2m

steps = []
for step in dpmpp_2m(guided, noise, stops):
    steps.append(step)  # step.x: the sample after the step; step.x0: the estimate that led there

image = model.decode(step.x)

level = 2 / 255  # pixels run from -1 to 1 in 255 levels
assert (image - apple).abs().max() < level, "your ten lines and model.generate should draw the same apple"

# %% [markdown]
# The last line is a test: what you typed drew the same picture as `model.generate` above; no pixel differs by as much
# as one of its 255 levels. Every lesson ends a construction in this way.

# %% [markdown]
# ## One run, step by step

# %%
from ldm_edu.viz import film_strip

film_strip(steps, model.decode)

# %% [markdown]
# **What to see.** Upper row: the sample as the four channels of its latent. Middle row: the same sample, decoded.
# Lower row: what the model takes the clean picture to be. That estimate is there from the first step on, soft,
# because so much noise leaves many pictures possible and the network answers with their mean. It gets its outline early
# and its details late, while the sample itself still looks like noise for half of the run.
#
# Now go through a run yourself. `explore` takes any run, even one that is still to be taken: here it is the generator
# that `model.generate` returns. Click on the slider, then use the arrow keys. (On a page where nothing runs you see the
# run as a film strip.)

# %%
from ldm_edu.viz import explore

name = "sunflower, twemoji style"
run = explore(model.generate([name], seeds=[3], guidance=5.0), model.decode, title=name, guidance=5.0)
run

# %% [markdown]
# **Try it.** Find the step after which you know what it will be. Read its signal-to-noise ratio below the slider. Then
# look at the sample itself at that step: would you have known? To keep the run: `run.save_gif("run.gif")` writes it as
# a moving picture, `run.film.save("run.png")` as the strip.

# %% [markdown]
# ## What changes the picture
#
# **The seed.** It chooses one picture out of those that fit. How much choice there is depends on the words and on the
# guidance scale.

# %%
from ldm_edu.viz import matrix

seeds = [1, 2, 3, 4, 5]
*_, firm = model.generate(["mushroom, flat style"], seeds=seeds, guidance=5.0)
*_, free = model.generate(["bird"], seeds=seeds, guidance=1.0)
pictures = torch.cat([model.decode(firm.x), model.decode(free.x)])
matrix(
    pictures,
    rows=["mushroom, flat style, guided", "bird, not guided"],
    columns=[f"seed {seed}" for seed in seeds],
)

# %% [markdown]
# **What to see.** Five times nearly the same mushroom, and five different things, birds at best by a beak or a leg. The
# training set holds exactly one picture called "mushroom, flat style": with so narrow a prompt, guided, the model gives
# back what it remembers of it. It was shown six birds, one a style, and a prompt without a style leaves open which.
#
# **Guidance.** Each row below starts from its own noise; only the scale $s$ changes along it.

# %%
scales = [0.0, 1.0, 2.0, 5.0, 10.0]
seeds = [7, 8]
rows = []
for scale in scales:
    *_, last = model.generate([prompt], seeds=seeds, guidance=scale)
    rows.append(model.decode(last.x))
pictures = torch.stack(rows, dim=1).flatten(0, 1)  # (seed, scale, 3, 64, 64) -> (seed * scale, 3, 64, 64)
matrix(pictures, rows=[f"seed {seed}" for seed in seeds], columns=[f"s = {scale:g}" for scale in scales])

# %% [markdown]
# **What to see.** $s = 0$ leaves the prompt out, and anything may come. At $s = 1$ there is an apple already, pale
# and soft, and the two differ. With a larger scale contrast and gloss grow, and the seeds come to look alike. At 10 the
# colours are burnt and the edges hard: the formula above then leaves the region of pictures that the model knows. Which
# scale is best depends on the model and on what you want; lesson 06 measures it.
#
# **The style**, a word in the prompt.

# %%
styles = ["3d", "flat", "noto", "blob", "twemoji", "firefox"]
concepts = ["fish", "dog face"]
prompts = [f"{concept}, {style} style" for concept in concepts for style in styles]
*_, last = model.generate(prompts, seeds=[7] * len(prompts))
matrix(model.decode(last.x), rows=concepts, columns=styles)

# %% [markdown]
# **What to see.** One noise, six hands: the word in the prompt sets outline, shading and palette.
#
# **The background**, more words. In training the pictures stood on coloured paper now and then, and the captions said
# so.

# %%
colours = ["yellow", "green", "blue", "purple", "pink"]
prompts = [f"{prompt}, on a {colour} background" for colour in colours]
*_, last = model.generate(prompts, seeds=[7] * len(prompts))
matrix(model.decode(last.x), rows=[prompt], columns=[f"on a {colour}\nbackground" for colour in colours])

# %% [markdown]
# **What to see.** The paper changes, and the apple with it a little: the words are not independent of each other.

# %% [markdown]
# ## Without a prompt
#
# The blank prompt is a condition like any other. Alone, it makes the model *unconditional*: it draws anything it knows.
# No other code is needed, since blank, class and text all travel as the same `Conditioning`.

# %%
nothing = model.denoiser(model.condition([""]))
for step in dpmpp_2m(nothing, initial_noise(range(8), model.latent_shape()), stops):
    pass
sheet(model.decode(step.x), [f"blank, seed {seed}" for seed in range(8)])

# %% [markdown]
# **What to see.** Emoji-like things, few of them good. Without words the model must choose the subject too, and with no
# second estimate there is no guidance to make the choice firm.

# %% [markdown]
# ## What it can do, and what it cannot
#
# Some pairs of a thing and a style were kept out of its training. It knows the lion, it knows the 3d style, but it has
# never seen the lion in 3d style. These are eight of the 47 such pairs, every sixth, so that nobody picked the best.

# %%
from ldm_edu.datasets.emoji import emoji

never_seen = list(emoji("pairs", starter=True)["caption"])[::6]
*_, last = model.generate(never_seen, seeds=[7] * len(never_seen))
sheet(model.decode(last.x), never_seen)

# %% [markdown]
# **What to see.** You recognise most of the things, so the model did not only learn pictures by heart. It hits the
# style less often. How often? An independent judge, a classifier that took no part in training the model, was asked
# about 250 such pictures, drawn at guidance scale 3: what is it, out of 160 things, and in which of the six styles? The
# model's card, `data/checkpoints/emoji/README.md`, names the command that measured it; this is its record.

# %%
import json

from ldm_edu import data_dir

record = json.loads((data_dir() / "benchmarks" / "evaluate-emoji.json").read_text())
judged = next(part for part in record["sections"] if part["title"].startswith("Text to image, (concept, style)"))
columns = ["real", "real, new to the judge", "chance"]
percent = [[f["value"], *(f["beside"].get(column) for column in columns)] for f in judged["figures"]]
names = ["the thing", "the thing, in five guesses", "the style"]
Table(
    ("the judge is right about", "drawn", *columns),
    tuple((name, *("" if p is None else f"{p:.1%}" for p in row)) for name, row in zip(names, percent)),
)

# %% [markdown]
# Real pictures of these things the judge knows by heart, so most of what is missing in the first two lines is probably
# the model's own. The third line needs a second look. Show the judge real pictures of things that it has never seen,
# and it names their style no more often than the third column says: six hands are not so far apart in 64 by 64 pixels.
# A picture that the model has just drawn is new to the judge as well. So that column is what to compare with, not the
# second.
#
# Now four prompts that are too hard.

# %%
hard = [
    "a blue apple, 3d style",
    "a cat riding a bicycle, flat style",
    "the word HELLO, noto style",
    "ein roter Apfel, 3d style",
]
*_, last = model.generate(hard, seeds=[7] * len(hard))
sheet(model.decode(last.x), hard)

# %% [markdown]
# **What to see.** The model fails, and you can say why:
#
# - It knows each thing in its usual colour, and the word *blue* from backgrounds. So the paper turns blue, and
#   the apple is lost.
# - Its captions name one thing at a time. Nothing taught it *riding*, or where two things go.
# - It learned its words from these captions alone: no letters inside pictures, no other language.
# - It knows 64 by 64 pixels, and its decoder loses fine lines before diffusion even starts (lesson 03).
#
# How much did it see, and how large is it? Count.

# %%
from ldm_edu import SD15
from ldm_edu.counts import parameter_counts

seen = emoji("train", starter=True)  # animals, plants and food: what it was shown most
print(f"{len(seen)} pictures of {len(set(seen['concept']))} things")

ours, theirs = parameter_counts(model.preset), parameter_counts(SD15)
parts = ["U-Net", "autoencoder", "text encoder"]
millions = [[f"{sum(counts[part].values()) / 1e6:.1f}" for counts in (ours, theirs)] for part in parts]
Table(("millions of parameters", "this model", "Stable Diffusion 1.5"), tuple((p, *m) for p, m in zip(parts, millions)))

# %% [markdown]
# Stable Diffusion is made of the same parts, of the same classes even: only the numbers in the configuration are
# larger. It was trained on pictures from a collection of about two billion.

# %% [markdown]
# ## Recap
#
# - A latent diffusion model draws by removing noise from a small block of numbers, and decodes it once at the end.
# - The reading line: `condition` → `denoiser` → `cfg` → `for step in dpmpp_2m(...)` → `decode`.
# - Every step holds a sample $x_t$ and an estimate $\hat{x}_0$ of the clean picture. The estimate starts as a mean of
#   many pictures and ends as one.
# - Seed: which picture. Guidance scale: how firmly it follows the words, and how little the seed then matters. Style and
#   background: words like any others.
# - A small model trained on few pictures remembers them; asked for a new combination, it can still put one together.
# - The blank condition gives unconditional pictures, and is the other half of guidance.

# %% [markdown]
# ## Check yourself

# %% tags=["hide-input"]
from ldm_edu.viz import quiz
from ldm_edu.viz.quiz import Choice, Question

quiz(
    Question(
        "You draw the same prompt with the same seed, once alone and once among eight others. What do you get?",
        [
            Choice(
                "Two different pictures, since the batch is different",
                "Each picture draws its noise from its own seed, so its neighbours cannot change it. If the noise of "
                "the whole batch came from one generator, as in some libraries, this would be right.",
            ),
            Choice(
                "The same picture twice",
                "Prompt, seed, steps, sampler and guidance decide the picture. The batch does not; try it.",
                right=True,
            ),
            Choice(
                "It depends on the guidance scale",
                "The scale changes the picture, but it changes both in the same way.",
            ),
        ],
    ),
    Question(
        "What does the U-Net see at one step?",
        [
            Choice(
                "The noisy 64 by 64 picture",
                "It never sees pixels: the sample is a latent of 4 by 16 by 16 numbers. The film strip decodes it for "
                "your eyes only.",
            ),
            Choice(
                "The noisy latent, the noise level, and the prompt's states",
                "Three inputs, and from them it tells noise from picture.",
                right=True,
            ),
            Choice(
                "The noisy latent and the estimate of the step before",
                "The network remembers nothing between steps. The sampler may: `dpmpp_2m` keeps the last estimate to "
                "take a better step.",
            ),
        ],
    ),
    Question(
        "Why is the estimate of the first step so blurred?",
        [
            Choice(
                "The decoder needs a few steps to warm up",
                "The decoder has no memory, and the last estimate goes through the same one.",
            ),
            Choice(
                "The model was not trained long enough",
                "The best possible model does the same: from almost pure noise, very many pictures are possible.",
            ),
            Choice(
                "It is the mean of all the pictures that may be hidden in the noise",
                "The estimate with the smallest squared error is the mean, and a mean of many pictures is blurred. "
                "With less noise fewer remain possible. Lesson 02 shows this where the best estimate is known.",
                right=True,
            ),
        ],
    ),
    Question(
        "With guidance scale s = 1, what part does the blank prompt play?",
        [
            Choice(
                "None",
                "In the formula the two blank terms cancel, and what is left is the prompt's own estimate.",
                right=True,
            ),
            Choice("Half: the mean of both is taken", "That would be s = 0.5. Put numbers into the formula."),
            Choice("All: the prompt is left out", "That is s = 0, the first column of the table above."),
        ],
    ),
)

# %% [markdown]
# ## Go on
#
# - Rombach et al. 2022, *High-Resolution Image Synthesis with Latent Diffusion Models*
#   ([arXiv 2112.10752](https://arxiv.org/abs/2112.10752)): figure 3 is the map above, sections 3.1 to 3.3 its parts.
# - Ho, Jain and Abbeel 2020, *Denoising Diffusion Probabilistic Models*
#   ([arXiv 2006.11239](https://arxiv.org/abs/2006.11239)), equation 4: mixing picture and noise.
# - Ho and Salimans 2022, *Classifier-Free Diffusion Guidance* ([arXiv 2207.12598](https://arxiv.org/abs/2207.12598)),
#   equation 6: guidance.
#
# Lesson 01 starts where the map says *add noise*: you build the schedule, and learn why a thousand small steps can be
# taken in one: [01 · Forward noising](01_forward_noising.ipynb). Every lesson from there on has a notebook of
# exercises, which answer at once; the first is
# [exercises/01_forward_noising.ipynb](../exercises/01_forward_noising.ipynb).
#
# Before you go, change things here. Ask for your own prompts, take 3 steps instead of 20, or another sampler:
# `from ldm_edu import ddim`. From the shell, `ldm-edu generate --help` does the same.
