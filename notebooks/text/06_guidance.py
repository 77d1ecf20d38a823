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
# # 06 · Guidance
#
# **The question.** How do you make the picture follow the words more closely, and what does that cost?
#
# You build *classifier-free guidance*: one line of code that asks the network twice, with the words and without, and
# goes further in the direction of the difference. Nearly every picture that Stable Diffusion draws is made with it.
# Then you build its three companions (negative prompts, rescaling, the guidance interval), and measure what it gives
# and what it takes.
#
# **After this lesson you can**
#
# - train one network to answer with and without a prompt, by dropping a tenth of the prompts;
# - write guidance as an extrapolation, and say which classifier is hidden in it;
# - show on a distribution that you know exactly why a large scale overshoots;
# - build a negative prompt, rescaled guidance and a guidance interval, and say what each is for;
# - choose a scale for a model from measured alignment, diversity and clipping, instead of from habit.
#
# **You need** lessons 00 to 02, and lesson 05 for what a condition is.
#
# **Time**: about two minutes of computing on two processor cores, three quarters of an hour of reading and playing.

# %% [markdown]
# ## One network, two answers
#
# Guidance needs two estimates of the clean picture: one that knows the words and one that does not. Two networks would
# cost twice the training. Ho and Salimans (2022, algorithm 1) train one: each time a picture is shown, its caption is
# replaced by the blank one with probability 10 %. That is all.
#
# Here it is on drawn shapes, with the text encoder of a small model that was trained so.

# %%
import torch

from ldm_edu import LatentDiffusion
from ldm_edu.datasets.shapes import shapes_tensors

shapes = LatentDiffusion.from_pretrained("shapes")
data = shapes_tensors("train", 256)
states = shapes.condition([*data.captions, ""]).context  # (257, tokens, width), the blank caption last


def training_batch(rng, n, drop):
    """Pictures with the states of their captions, some of which are blank."""
    rows = torch.randint(256, (n,), generator=rng)
    dropped = torch.rand(n, generator=rng) < drop
    return data.images[rows], states[torch.where(dropped, 256, rows)], dropped


images, context, dropped = training_batch(torch.Generator().manual_seed(0), 4000, drop=0.1)
print(f"without a caption: {dropped.float().mean():.1%} of {len(dropped)}")
assert abs(dropped.float().mean() - 0.1) < 0.02

# %% [markdown]
# The caption is dropped as a whole, and what takes its place is the empty prompt's states, the very tensor that is
# asked for when drawing. The package's training does the same:

# %%
from ldm_edu.training import sources

captioned = sources.Captioned(
    base=torch.arange(256),
    variants=1,
    rgba=None,
    drawn=data.images,
    colours=torch.ones(256, 3),
    captions=data.captions,
    starter=torch.arange(256),
)
draw_batch = sources.diffusion_batches(
    shapes.preset,
    captioned,
    data.images,
    shapes.text,
    drop=0.1,
    joint=False,  # the text encoder is kept as it is
)
theirs = draw_batch(torch.Generator().manual_seed(0), 4000, 0.0)
torch.testing.assert_close(theirs.cond.context, context, rtol=1e-4, atol=1e-4)

# %% [markdown]
# ## A world where the best answer is known
#
# Before the formula meets pictures, it meets points in a plane. They come from four round heaps; two make the class
# *left*, two the class *right*, and the classes overlap. For heaps of this kind the best possible denoiser can be
# written down (`GaussianMixture`), so whatever goes wrong now is not the fault of a network.

# %%
from ldm_edu.evaluate.mixture import GaussianMixture

means = torch.tensor([[-1.0, 0.9], [-0.5, -0.9], [1.0, -0.9], [0.5, 0.9]], dtype=torch.float64)
stds = torch.full((4,), 0.5, dtype=torch.float64)
everything = GaussianMixture(torch.full((4,), 0.25, dtype=torch.float64), means, stds)  # the blank condition
left = GaussianMixture(torch.full((2,), 0.5, dtype=torch.float64), means[:2], stds[:2])  # the class asked for


def log_class(x, level):
    """log p(left | x) by Bayes: half of all points are left."""
    return left.log_density(x, level) + torch.tensor(0.5).log() - everything.log_density(x, level)


# %% [markdown]
# Now the formula. Write $\hat x_0^{c}$ for the estimate that knows the condition and $\hat x_0^{\varnothing}$ for the
# blank one. Guidance with scale $s$ goes along the line through both, $s$ times as far (Ho and Salimans 2022, equation
# 6; they write $w$ for $s - 1$):
#
# $$\hat x_0 = \hat x_0^{\varnothing} + s\,(\hat x_0^{c} - \hat x_0^{\varnothing})$$
#
# At $s = 1$ the blank cancels: no guidance, as in Stable Diffusion's way of counting. Between 0 and 1 it is a mean,
# beyond 1 an *extrapolation*.
#
# What is the direction? Bayes says $\log p(c \mid x) = \log p(x \mid c) - \log p(x) + \text{const}$, and a denoiser
# tells the gradient of a log density: $\hat x_0 = (x + \sigma^2 \nabla \log p(x)) / \alpha$. So the difference of the
# two estimates is the gradient of a *classifier*, $\sigma^2/\alpha \cdot \nabla \log p(c \mid x)$, that nobody
# trained. It is implied by the two answers. Check it: differentiate the classifier, and compare.

# %%
from ldm_edu import guidance
from ldm_edu.schedule import scaled_linear


def extrapolate(x0_cond, x0_blank, scale):
    return x0_blank + scale * (x0_cond - x0_blank)


schedule = scaled_linear()
level = schedule.level(400)
x = torch.randn(100, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
(gradient,) = torch.autograd.grad(log_class(x, level).sum(), x)
x = x.detach()
with_class, without = left(x, level), everything(x, level)
slope = torch.func.grad(lambda x: everything.log_density(x, level).sum())(x)
torch.testing.assert_close(without, (x + level.sigma**2 * slope) / level.alpha)
torch.testing.assert_close(with_class - without, level.sigma**2 / level.alpha * gradient)

ours = extrapolate(with_class, without, 3.0)
torch.testing.assert_close(ours, guidance.cfg(left, everything, 3.0)(x, level))
torch.testing.assert_close(guidance.cfg(left, everything, 1.0)(x, level), with_class)  # scale 1: no guidance

# %% [markdown]
# So guidance climbs the hill where "this is *left*" becomes more certain. Draw two thousand points at three scales and
# measure: how certain the exact classifier is of the class, how wide the points lie, and where their middle is. (The
# last column follows below.)

# %%
from ldm_edu import dpmpp_2m, levels
from ldm_edu.viz import Table

clean = schedule.clean()
start = torch.randn(2000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
real = left.sample(2000, torch.Generator().manual_seed(2))
anywhere = everything.sample(100_000, torch.Generator().manual_seed(3))
share = log_class(anywhere, clean).exp()  # p(left | x)

points, rows = {}, [("real", real, float("nan"))]
for scale in (1.0, 3.0, 8.0):
    *_, last = dpmpp_2m(guidance.cfg(left, everything, scale), start, levels(schedule, 50))
    points[scale] = last.x
    promised = (share**scale @ anywhere[:, 0] / (share**scale).sum()).item()
    rows.append((f"guidance {scale:g}", last.x, promised))


def describe(name, x, promised):
    numbers = (log_class(x, clean).exp().mean(), x[:, 0].std(), x[:, 0].mean())
    return name, *(f"{number:.3f}" for number in numbers), "" if promised != promised else f"{promised:.3f}"


Table(
    ("points", "probability of left", "spread across", "middle across", "middle promised"),
    tuple(describe(*row) for row in rows),
)

# %%
from matplotlib.figure import Figure

from ldm_edu.viz.style import NETWORK, NOISE, SIGNAL, TEXT, drawing, look

with look():
    figure = Figure(figsize=(9.4, 2.9), layout="constrained")
    panels = figure.subplots(1, 4, sharex=True, sharey=True)
    for axes, (name, x) in zip(panels, [("real points", real), *((f"guidance {s:g}", x) for s, x in points.items())]):
        axes.plot(*anywhere[:600].T, "x", ms=3, color=NOISE, alpha=0.35, label="all points, real")
        axes.plot(*x[:600].T, "o", ms=2.5, color=SIGNAL, alpha=0.6, label="class left")
        axes.set(title=name, xlabel="across (no unit)", xlim=(-3.3, 2.8), ylim=(-2.8, 3.6), aspect="equal")
    panels[0].set_ylabel("up (no unit)")
    panels[-1].legend(loc="upper right", fontsize=7.5, markerscale=2, framealpha=0.9, frameon=True)
    scatter = drawing(
        figure,
        "Four clouds of points over the faint cloud of all real points. Real and guidance 1: two heaps on the left. "
        "Guidance 3: both are narrower and further left. Guidance 8: thin, and beyond the edge of the real cloud.",
    )
scatter

# %%
probability = {scale: float(log_class(x, clean).exp().mean()) for scale, x in points.items()}
width = {scale: float(x[:, 0].std()) for scale, x in points.items()}
middle = {scale: float(x[:, 0].mean()) for scale, x in points.items()}
assert probability[1.0] < probability[3.0] < probability[8.0], "guidance makes the class more certain"
assert width[1.0] > width[3.0] > width[8.0], "and the points more alike"
assert middle[8.0] < real[:, 0].mean() - 3 * 0.25, "and moves them out of the place where the data lie"

# %% [markdown]
# **What to see.** At scale 1 the points are those of the class. At 3 nearly all doubt about the class is gone, and a
# good part of the spread with it. At 8 there was nothing left to gain, yet the points went on, to the left of where
# any real point of the class is common. They *overshoot*.
#
# Is that what the formula promises? One might read it as drawing from $p(x)\,p(c \mid x)^s$: real points, weighted by
# how surely they are of the class. The last column is the middle of that distribution, and it stays among the data.
# Guidance lands further out, since the sharpening is applied to every noisy distribution on the way, which is not the
# same as sharpening the last one and noising it (Bradley and Nakkiran 2024). Guidance is a good habit, not a sampler
# of anything that you could name. In pictures, the place beyond the data is burnt colours and hard edges.

# %% [markdown]
# ## Two answers in one call
#
# Now pictures. The emoji model of lesson 00, a noisy sample, and the two conditions: twice the network. A processor is
# faster with one batch of two than with two batches of one, so both go in together.

# %%
from ldm_edu.condition import Conditioning

model = LatentDiffusion.from_pretrained("emoji")
cond, blank = model.condition(["red apple, 3d style"]), model.condition([""])
level = model.schedule.level(600)
x = torch.randn(1, *model.latent_shape(), generator=torch.Generator().manual_seed(7))

x0_cond, x0_blank = model.denoiser(cond)(x, level), model.denoiser(blank)(x, level)  # two calls

both = model.denoiser(Conditioning.cat([cond, blank]))
batched_cond, batched_blank = both(torch.cat([x, x]), level).chunk(2)  # one call

torch.testing.assert_close(batched_cond, x0_cond, rtol=1e-3, atol=1e-4)
torch.testing.assert_close(batched_blank, x0_blank, rtol=1e-3, atol=1e-4)
plain = guidance.cfg(model.denoiser(cond), model.denoiser(blank), 5.0)  # the package joins the two by itself
torch.testing.assert_close(extrapolate(x0_cond, x0_blank, 5.0), plain(x, level), rtol=1e-3, atol=1e-3)

# %% [markdown]
# The papers guide the noise $\hat\epsilon$, the package guides $\hat x_0$. For one sample the two are a straight line
# of each other, so extrapolating the one extrapolates the other:

# %%
from ldm_edu.prediction import to_eps

eps = extrapolate(to_eps(x0_cond, x, level), to_eps(x0_blank, x, level), 5.0)
torch.testing.assert_close((x - level.sigma * eps) / level.alpha, plain(x, level), rtol=1e-3, atol=1e-3)

# %% [markdown]
# ## Not that
#
# The blank condition is what guidance moves *away* from. Nobody says it must be blank. Put a prompt there and you have
# a **negative prompt**: the picture moves from it towards the prompt.

# %%
from ldm_edu import initial_noise

STEPS = 10
run = levels(model.schedule, STEPS)


def draw(model, denoise, seeds):
    """The last latents of a short run, one a seed."""
    *_, last = dpmpp_2m(denoise, initial_noise(seeds, model.latent_shape()), levels(model.schedule, STEPS))
    return last.x


def away_from(prompts, negatives, scale):
    towards, away = model.denoiser(model.condition(prompts), run), model.denoiser(model.condition(negatives), run)
    return lambda x, level: extrapolate(towards(x, level), away(x, level), scale)


prompts = ["bird", "bird", "apple, 3d style", "apple, 3d style"]
negatives = ["", "blue bird", "", "red apple, 3d style"]
pictures = draw(model, away_from(prompts, negatives, 3.0), [3] * 4)
*_, last = model.generate(["bird"], seeds=[3], steps=STEPS, guidance=3.0, negative="blue bird")
torch.testing.assert_close(pictures[1:2], last.x, rtol=1e-2, atol=1e-2)

# %%
from ldm_edu.viz import sheet

sheet(model.decode(pictures), [f"{p}, not: {n or '(blank)'}" for p, n in zip(prompts, negatives)])

# %% [markdown]
# **What to see.** Each pair has the same noise and the same prompt; only what it moves away from differs. The bird
# leaves blue for the colours opposite to it, paper included, and pays with its shape; the apple loses what was red in
# it. A negative prompt pushes, it does not forbid: it is a direction, like all of guidance.

# %% [markdown]
# ## What does a scale cost? The measurement
#
# The claim of the literature (Ho and Salimans 2022, section 4): a larger scale buys fidelity to the condition
# and pays with diversity. Measure it. Twelve prompts that the emoji model was never trained on as a pair of thing and
# style, four seeds each, seven scales. For each scale:
#
# - **alignment**: does an independent *judge*, a classifier that took no part in training, name the right thing (out
#   of all those that the model was trained on) and the right style (of six)?
# - **CLIP score**: the cosine between prompt and picture in the small CLIP that was trained for this model. Its text
#   half is the model's own text encoder, so it is no independent witness; the judge is.
# - **diversity**: the mean distance between the judge's features of pictures with the same prompt and other seeds;
# - **clipping**: the share of numbers that the decoder sends beyond the range of a pixel by more than 0.05.

# %%
from einops import rearrange

from ldm_edu.checkpoint.find import find_checkpoint
from ldm_edu.checkpoint.io import load_tensors
from ldm_edu.classifiers import load_classifier
from ldm_edu.datasets.emoji import emoji_tensors
from ldm_edu.evaluate.emoji import on_white
from ldm_edu.evaluate.judge import judge_pictures, judge_score
from ldm_edu.models.clip import CLIP

judge = load_classifier("judge").model
clip = CLIP(model.preset.text, model.preset.vision, model.preset.embed_dim).eval()
folder = find_checkpoint("emoji")
weights = load_tensors(folder, "clip")
for tower in ("text", "vision"):
    weights |= {f"{tower}.{name}": tensor for name, tensor in load_tensors(folder, tower).items()}
clip.load_state_dict(weights)

pairs, trained = emoji_tensors("pairs", starter=True), emoji_tensors("train", starter=True)
among = torch.cat([trained.concepts, pairs.concepts]).unique().tolist()
picked = torch.arange(len(pairs.captions))[::4]  # every fourth, so that nobody picked the best
SEEDS = [0, 1, 2, 3]
captions = [pairs.captions[i] for i in picked]
wanted = picked.repeat_interleave(len(SEEDS))  # (prompts * seeds,) each prompt once a seed


# %%
def unclipped(latents):
    """What the decoder says before values outside [-1, 1] are cut off."""
    config = model.autoencoder.config
    with torch.no_grad():
        return model.autoencoder.decode(latents / config.scale + config.shift)


def clipped(latents):
    return float((unclipped(latents).abs() > 1.05).float().mean())


def spread(features, seeds):
    """The mean distance between two pictures of one prompt: (prompts * seeds, D) -> a number."""
    groups = rearrange(features, "(p s) d -> p s d", s=seeds)
    return float(torch.cdist(groups, groups).sum() / (len(groups) * seeds * (seeds - 1)))


def measure(latents, rows, seeds):
    images = model.decode(latents)
    verdicts = judge_pictures(judge, images)
    score = judge_score(verdicts, pairs.concepts[rows], pairs.styles[rows], among=among)
    tokens = model.tokenizer([pairs.captions[i] for i in rows])
    with torch.no_grad():
        cosine = (clip.encode_text(tokens) * clip.encode_image(images)).sum(dim=1).mean()
    diversity = spread(verdicts.features, seeds) if seeds > 1 else float("nan")
    return {
        "thing": score.top1,
        "style": score.style,
        "clip": float(cosine),
        "diversity": diversity,
        "clipped": clipped(latents),
    }


# %% [markdown]
# This is the long cell of the lesson: about a minute.

# %%
SCALES = [1.0, 1.5, 2.0, 3.0, 5.0, 8.0, 15.0]
prompts = [caption for caption in captions for _ in SEEDS]
towards, away = model.denoiser(model.condition(prompts), run), model.denoiser(blank, run)

drawn, measured = {}, {}
for scale in SCALES:
    drawn[scale] = draw(model, guidance.cfg(towards, away, scale), SEEDS * len(captions))
    measured[scale] = measure(drawn[scale], wanted, len(SEEDS))
reference = measure(model.encode(on_white(pairs.rgba[picked])), picked, 1)  # real pictures through the autoencoder


# %%
def row(name, m):
    diversity = f"{m['diversity']:.1f}" if m["diversity"] == m["diversity"] else ""
    return name, f"{m['thing']:.0%}", f"{m['style']:.0%}", f"{m['clip']:.2f}", diversity, f"{m['clipped']:.1%}"


Table(
    ("guidance", "right thing", "right style", "CLIP score", "diversity", "clipped"),
    (*(row(f"{scale:g}", m) for scale, m in measured.items()), row("real, decoded", reference)),
)

# %% [markdown]
# Forty-eight pictures a scale are few. The *binomial standard error* of a share $p$ of $n$ pictures is
# $\sqrt{p(1 - p)/n}$; the bars below show it. (It takes the pictures as independent. Four seeds of one prompt are not
# quite, so the truth is wider still.) Two points whose bars overlap are not told apart by this measurement.


# %%
def binomial_error(p, n):
    return (p * (1 - p) / n) ** 0.5


def over_scale(axes, scales, values, style, color, label, errors=None):
    axes.errorbar(scales, values, yerr=errors, fmt=style, color=color, capsize=3, ms=4.5, label=label)
    axes.set(xscale="log", xlabel="guidance scale (1: none)")
    axes.set_xticks(scales, [f"{scale:g}" for scale in scales], minor=False)
    axes.set_xticks([], minor=True)


def column(name):
    return [measured[scale][name] for scale in SCALES]


with look():
    figure = Figure(figsize=(9.4, 2.9), layout="constrained")
    one, two, three = figure.subplots(1, 3)
    for name, style, color in (("thing", "o-", SIGNAL), ("style", "s--", NOISE)):
        errors = [100 * binomial_error(p, len(prompts)) for p in column(name)]
        over_scale(one, SCALES, [100 * p for p in column(name)], style, color, f"right {name}", errors)
    one.set(title="alignment", ylabel="named rightly (% of pictures)", ylim=(0, 105))
    one.legend(fontsize=8)
    over_scale(two, SCALES, column("diversity"), "o-", NETWORK, "diversity")
    two.set(title="diversity", ylabel="distance in judge's features")
    two.set_ylim(bottom=0)
    over_scale(three, SCALES, [100 * p for p in column("clipped")], "o-", NETWORK, "clipped")
    three.set(title="clipping", ylabel="numbers out of range (%)")
    curves = drawing(
        figure,
        "Three plots over the guidance scale from 1 to 15. Alignment: shares of right things and right styles with "
        "error bars. Diversity: distance between pictures of one prompt. Clipping: numbers out of range.",
    )
curves

# %%
assert measured[8.0]["diversity"] < measured[1.0]["diversity"], "guidance makes pictures of a prompt more alike"
assert measured[15.0]["clipped"] > 2 * measured[1.0]["clipped"], "a very large scale leaves the range of pixels"

# %% [markdown]
# **What to see.** Diversity is highest without guidance and falls with the first steps of the scale: that half of the
# claim is here. (At the far right it rises again. Burnt pictures are not varied; each is damaged in its own way, and
# the judge's features count that as a difference.) The other half, alignment, is a tale of two words.
# The *thing* is named rightly without guidance already, holds up to 3, may suffer at 5 and surely does at 8, as the
# clipping takes over. The *style* needs help: it rises beyond its error bars, and stays up where the thing falls.
#
# So for this model a scale of 2 or 3 is right: most of the style won, none of the thing lost. At 5, a usual number for
# large models (and this package's default, with which lesson 05 drew), you may pay already. A good scale is a property
# of a model, of its captions, and of what you want from them: measure it, do not copy it.
#
# Note the CLIP score, too. Its peak lies no lower than that of real pictures, for it is scored by the very text encoder
# that the model listens to. A score that takes part in the drawing cannot be the referee.

# %% [markdown]
# ## The same question, asked of a program
#
# A judge may err. In the world of drawn shapes a program reads the picture and says word by word whether the caption
# is true: colour, shape, size, relation (*left of*, *above* ...). A picture with too few or too many things has every
# word wrong. Twenty-four captions of the test split, two seeds each.

# %%
from ldm_edu.datasets.shapes_check import KINDS, caption_accuracy

test = shapes_tensors("test", 24, seed=5)
asked = [caption for caption in test.captions for _ in range(2)]
toward, blank_shapes = shapes.denoiser(shapes.condition(asked)), shapes.denoiser(shapes.condition([""]))

scored, shapes_drawn, apart = {}, {}, {}
for scale in SCALES:
    latents = draw(shapes, guidance.cfg(toward, blank_shapes, scale), [0, 1] * 24)
    shapes_drawn[scale] = shapes.decode(latents)
    scored[scale] = caption_accuracy(shapes_drawn[scale], asked)
    first, second = rearrange(shapes_drawn[scale], "(p s) c h w -> s p (c h w)", s=2)
    apart[scale] = float((first - second).square().mean().sqrt())  # two seeds of one caption, pixel by pixel

related = sum(" a " in caption for caption in asked)
numbers = {kind: related if kind == "relation" else len(asked) for kind in (*KINDS, "all")}


def with_error(kind, score):
    p, n = getattr(score, kind), numbers[kind]
    return f"{p:.0%} ± {binomial_error(p, n):.0%}"


Table(
    ("guidance", *KINDS, "all words", "two seeds apart"),
    tuple(
        (f"{s:g}", *(with_error(kind, score) for kind in (*KINDS, "all")), f"{apart[s]:.2f}")
        for s, score in scored.items()
    ),
)

# %%
turned = [caption_accuracy(test.images.rot90(turns, (2, 3)), test.captions).relation for turns in range(4)]
chance = sum(turned) / 4
print(f"relation by chance (the true pictures, in all four quarter turns): {chance:.0%}")
assert max(scored[s].colour for s in (2.0, 3.0, 5.0)) > 0.5, "colours should follow the words"

with look():
    figure = Figure(figsize=(9.4, 2.9), layout="constrained")
    one, two = figure.subplots(1, 2, width_ratios=(3, 2))
    looks = (("o-", SIGNAL), ("s--", NOISE), ("^-.", TEXT), ("d:", NETWORK))
    for kind, (style, color) in zip(KINDS, looks):
        shares = [getattr(scored[s], kind) for s in SCALES]
        errors = [100 * binomial_error(p, numbers[kind]) for p in shares]
        over_scale(one, SCALES, [100 * p for p in shares], style, color, kind, errors)
    one.axhline(100 * chance, color=NETWORK, lw=1, ls=":", label="relation by chance")
    one.set(title="words that came true", ylabel="share (% of pictures)", ylim=(0, 105))
    one.legend(fontsize=8, ncols=2, loc="center left", bbox_to_anchor=(0.0, 0.59))
    over_scale(two, SCALES, list(apart.values()), "o-", NETWORK, "apart")
    two.set(title="two seeds of one caption", ylabel="distance in pixels (r.m.s.)", ylim=(0, 1.1 * max(apart.values())))
    words_curve = drawing(
        figure,
        "Two plots over the guidance scale. Left: share of true words for size, colour, shape and relation, with error "
        "bars. Right: how far two seeds of one caption lie apart.",
    )
words_curve

# %% [markdown]
# **What to see.** Size, colour and shape are right nearly always without guidance. There is nothing left to win, and
# from 5 on much to lose: the extrapolated latents leave the range that the decoder knows, colours turn into others, and
# things fall to pieces.
#
# The **relation** is what this model is least sure of. Which of two things stands where it has begun to learn, and no
# more: without guidance its dot lies a little above the line of chance, and from there it rises up to 5, one slow step
# after another. Do the bars of 1 and 5 overlap? Then believe the line, if at all, and no single step. The model's card
# says the same of more pictures: at scale 3 the relation is right in 41 % of 220, where chance is a quarter. Guidance
# makes the difference between two answers larger; where the words make little difference, there is little to enlarge.
#
# (How does a program know which thing is which when the colours are wrong? By the words that are left. If they leave two
# ways, the relation has to be true both ways. An earlier version of it chose the better of the two, and the relation
# seemed to rise most just where the colours broke. A measure deserves as much mistrust as a model.)
#
# The right plot is a warning. In pixels, two seeds do not come closer: the same things still stand in other places,
# and harsher colours are further apart. How much diversity is lost depends on the eyes that you measure it with.

# %%
from ldm_edu.viz import matrix

chosen = [0, 2, 4, 6]
matrix(
    torch.stack([shapes_drawn[s][chosen] for s in SCALES], dim=1).flatten(0, 1),
    rows=[asked[i].replace("a ", "") for i in chosen],
    columns=[f"guidance\n{s:g}" for s in SCALES],
)

# %% [markdown]
# **What to see.** Up to 3 the things and their colours hold, from 5 on they break. Look at the words *left of* and
# *below*: in these rows with two things they are wrong from the first column on, and no scale turns them round.
#
# ## Repair one: rescaling
#
# The extrapolation makes the numbers larger: the guided output has a larger spread than the network ever learned to
# give. Lin et al. (2023, section 3.4, equations 15 and 16) give it back the spread of the unguided one. In what the
# network predicts, here $v = \alpha\epsilon - \sigma x_0$:
#
# $$v_{\text{matched}} = v_{\text{guided}} \cdot \frac{\text{std}(v_{c})}{\text{std}(v_{\text{guided}})}, \qquad
# v = \phi\, v_{\text{matched}} + (1 - \phi)\, v_{\text{guided}}$$
#
# The standard deviation is taken over all numbers of one picture; they use $\phi = 0.7$.


# %%
def to_v(x0, x, level):
    return level.alpha * to_eps(x0, x, level) - level.sigma * x0


def rescaled(x0_cond, x0_guided, x, level, phi):
    v_cond, v_guided = to_v(x0_cond, x, level), to_v(x0_guided, x, level)
    ratio = v_cond.std(dim=(1, 2, 3), keepdim=True) / v_guided.std(dim=(1, 2, 3), keepdim=True)  # (B, 1, 1, 1)
    v = phi * v_guided * ratio + (1 - phi) * v_guided
    return level.alpha * x - level.sigma * v  # back to x0, since alpha^2 + sigma^2 = 1


v_cond, v_guided = to_v(x0_cond, x, level), to_v(plain(x, level), x, level)
print(f"spread of v: {v_cond.std():.2f} unguided, {v_guided.std():.2f} guided")
ours = rescaled(x0_cond, plain(x, level), x, level, phi=0.7)
torch.testing.assert_close(ours, guidance.rescale(plain, 0.7, "v")(x, level), rtol=1e-3, atol=1e-3)

# %% [markdown]
# ## Repair two: only in the middle
#
# Kynkäänniemi et al. (2024, section 3) ask *when* guidance is good for anything. At high noise it decides too early
# and takes away variety; at low noise the picture is settled, and it does next to nothing. So guide in an interval of
# the noise level $\sigma/\alpha$ only, and save half of the work elsewhere. They report a record FID on ImageNet at
# 512 pixels, 1.40 instead of 1.81.


# %%
def in_interval(x, level, scale, low, high):
    if low < level.sigma / level.alpha <= high:
        return extrapolate(model.denoiser(cond)(x, level), model.denoiser(blank)(x, level), scale)
    return model.denoiser(cond)(x, level)


theirs = guidance.interval(plain, model.denoiser(cond), low=0.5, high=4.0)
for t in (100, 600, 950):  # below, inside, above
    at = model.schedule.level(t)
    torch.testing.assert_close(in_interval(x, at, 5.0, 0.5, 4.0), theirs(x, at), rtol=1e-3, atol=1e-3)
guided_stops = sum(bool(0.5 < stop.ratio <= 4.0) for stop in run[:-1])
print(f"{guided_stops} of {STEPS} steps are guided, so the network runs {STEPS + guided_stops} times, not {2 * STEPS}")

# %% [markdown]
# Both at a scale that is too large, 10, for four of the prompts. The number beside each row is its clipping, as
# measured above.

# %%
four = captions[::3]
towards, away = model.denoiser(model.condition(four), run), model.denoiser(blank, run)
strong = guidance.cfg(towards, away, 10.0)
ways = {
    "plain": strong,
    "rescaled": guidance.rescale(strong, 0.7, model.preset.prediction),
    "interval": guidance.interval(strong, towards, 0.5, 4.0),
    "unguided": towards,
}
outcome = {name: draw(model, denoise, [0] * 4) for name, denoise in ways.items()}
excess = {name: clipped(latents) for name, latents in outcome.items()}
matrix(
    torch.cat([model.decode(latents) for latents in outcome.values()]),
    rows=[f"{name}: {excess[name]:.1%} clipped" for name in outcome],
    columns=[caption.replace(", ", ",\n") for caption in four],
)

# %%
assert excess["rescaled"] < excess["plain"], "rescaling should keep more numbers in range"

# %% [markdown]
# **What to see.** Rescaling brings the clipping down, and leaves spots: it repairs the size of the numbers, not their
# direction. The interval leaves the first and the last steps alone; outlines are smoother, and it saved part of the
# work. The lowest row is a reminder: for this model the best repair of scale 10 is a smaller scale. Both repairs are
# for models that need a large one.

# %% [markdown]
# ## Play
#
# The pictures of the measurement, one seed of five prompts. Move the slider with the arrow keys. (On a page where
# nothing runs you see all of them as a table.)

# %%
from ldm_edu.viz import gallery

first = torch.arange(5) * len(SEEDS)  # the first seed of five prompts
gallery(
    {f"{scale:g}": model.decode(drawn[scale][first]) for scale in SCALES},
    [prompts[i] for i in first],
    name="guidance",
    title="Five prompts that were never trained",
)

# %% [markdown]
# **Try it.** For each prompt, choose the scale that you like best, before you look at the number. Is it the same for
# all prompts? Is it where the judge's curve is highest?

# %% [markdown]
# ## Recap
#
# - Drop a tenth of the captions in training, and one network answers with and without words.
# - $\hat x_0 = \hat x_0^{\varnothing} + s\,(\hat x_0^{c} - \hat x_0^{\varnothing})$. The difference is the gradient of
#   a classifier that nobody trained. Scale 1 is no guidance; the paper's $w$ is $s - 1$.
# - Even with a perfect denoiser a large scale overshoots: narrower than the class, and outside of it.
# - The blank may be any prompt: then it is a negative prompt, a direction to leave.
# - Rescaling gives the output its spread back; an interval guides only where it helps. Neither adds information.
# - Guidance strengthens what a model knows. A relation that it never learned, no scale will bring out.

# %% [markdown]
# ## Check yourself

# %% tags=["hide-input"]
from ldm_edu.viz import quiz
from ldm_edu.viz.quiz import Choice, Question

quiz(
    Question(
        "A model was trained without ever dropping a caption. You guide it with scale 5. What do you get?",
        [
            Choice("The same as with dropping", "No. The blank estimate is then an answer to a question never asked."),
            Choice(
                "Something unreliable: the blank estimate was never trained",
                "Yes. The difference is no longer the gradient of a classifier, since one of its terms is arbitrary.",
                right=True,
            ),
            Choice("An error", "No. The empty prompt has states like any other, so the code runs."),
        ],
    ),
    Question(
        "A paper says w = 4. Which scale do you give to `cfg`?",
        [
            Choice("3", "No. The scale is larger than w: at w = 0 it is 1."),
            Choice("4", "No. With w = 0 the paper is unguided, and here that is scale 1."),
            Choice("5", "Yes. The scale is w + 1.", right=True),
        ],
    ),
    Question(
        "In the plane, with the exact denoiser, scale 8 leaves the data. Why?",
        [
            Choice("The sampler takes too few steps", "No. Fifty steps are plenty here; at scale 1 the points fit."),
            Choice(
                "Every noisy distribution on the way is sharpened, not only the last",
                "Yes. The pushes add up, and no distribution of real points is reached at the end.",
                right=True,
            ),
            Choice("The network was not trained long enough", "No. There is no network: the denoiser is exact."),
        ],
    ),
    Question(
        "Two scales differ by 4 percentage points in accuracy, on 48 pictures each. What do you conclude?",
        [
            Choice("The higher one is better", "No. The standard error at 48 pictures is up to 7 points."),
            Choice("Both are the same", "No. Not told apart is not the same as equal."),
            Choice("Nothing yet: draw more pictures", "Yes. Four times as many halve the error.", right=True),
        ],
    ),
)

# %% [markdown]
# ## Go on
#
# - Ho and Salimans 2022, *Classifier-Free Diffusion Guidance* ([arXiv 2207.12598](https://arxiv.org/abs/2207.12598)),
#   algorithm 1, equation 6, section 4.
# - Dhariwal and Nichol 2021, *Diffusion Models Beat GANs on Image Synthesis* ([arXiv
#   2105.05233](https://arxiv.org/abs/2105.05233)), section 4: guidance with a classifier that was trained.
# - Lin et al. 2023, *Common Diffusion Noise Schedules and Sample Steps are Flawed* ([arXiv
#   2305.08891](https://arxiv.org/abs/2305.08891)), section 3.4.
# - Kynkäänniemi et al. 2024, *Applying Guidance in a Limited Interval Improves Sample and Distribution Quality in
#   Diffusion Models* ([arXiv 2404.07724](https://arxiv.org/abs/2404.07724)), section 3.
# - Bradley and Nakkiran 2024, *Classifier-Free Guidance is a Predictor-Corrector* ([arXiv
#   2408.09000](https://arxiv.org/abs/2408.09000)): what guidance does not sample from.
#
# Exercises: [exercises/06_guidance.ipynb](../exercises/06_guidance.ipynb); each item answers at once.
#
# Until now a sampler was given. Next you build several, and count what they cost: [lesson 07](07_samplers.ipynb).
