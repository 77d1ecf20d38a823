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
# # 01 · Forward noising
#
# **The question.** How do you destroy a picture so gently that a network can learn the way back?
#
# You build the *forward process*: a thousand small steps from a picture to noise. Nothing is learned in this lesson,
# and every formula can be checked to the last digit. All later lessons stand on it.
#
# **After this lesson you can**
#
# - write the noise schedule of a diffusion model in three lines, and one step of noising in one;
# - jump to any of the thousand steps at once, and say why that is the same as walking there;
# - tell the schedules *linear*, *scaled linear*, *cosine* and *rectified flow* apart by what they do to a picture;
# - say what a signal-to-noise ratio is, how much of it the published schedules leave at the end, and why Stable
#   Diffusion's pictures are therefore of medium brightness.
#
# **You need** lesson 00, and what mean and variance are.
#
# **Time**: less than a minute of computing on two processor cores, three quarters of an hour of reading and playing.

# %% [markdown]
# ## Something to destroy
#
# Four emoji on white. A picture is a block of numbers from -1 (black) to 1 (white); the clean picture is called $x_0$.

# %%
import torch

from ldm_edu.datasets import background, composite, emoji_tensors
from ldm_edu.viz import sheet

names = ["cat face, noto style", "red apple, 3d style", "penguin, firefox style", "fish, 3d style"]
data = emoji_tensors(starter=True)
rgba = data.rgba[[data.captions.index(name) for name in names]]
x0 = composite(rgba, background("white", len(names)))  # (4, 3, 64, 64) in [-1, 1]
sheet(x0, names, alt="Four clean pictures on white: a yellow cat face, a red apple, a penguin, a blue fish.")

# %% [markdown]
# ## One step
#
# The smallest harm that you can do to a picture: add a little noise, independent in every number. Written out, the step
# from $x_{t-1}$ to $x_t$ shrinks the picture a little and adds noise of variance $\beta_t$:
#
# $$x_t = \sqrt{1 - \beta_t}\; x_{t-1} + \sqrt{\beta_t}\; \epsilon, \qquad \epsilon \sim \mathcal{N}(0, 1)$$
#
# The same as a distribution: $q(x_t \mid x_{t-1}) = \mathcal{N}(\sqrt{1 - \beta_t}\, x_{t-1},\, \beta_t)$ (Ho et al.
# 2020, equation 2).


# %%
def one_step(x, beta, eps):
    """One step of the chain: shrink, then add noise of variance beta."""
    return (1 - beta).sqrt() * x + beta.sqrt() * eps


# %% [markdown]
# Why shrink? Variances of independent numbers add up. Without shrinking, the numbers would grow and grow, and a network
# would have to work with inputs of another size at every step. With it, a variance of 1 stays 1. How large a step is,
# says the *schedule*, here a straight line:

# %%
beta = torch.linspace(0.00085, 0.012, 1000, dtype=torch.float64)  # (1000,) the linear schedule, all there is to it
alpha = 1 - beta  # what a step keeps of the variance
alpha_bar = torch.cumprod(alpha, dim=0)  # what all steps so far keep of it

shrunk, added = 1.0, 1.0
for b in beta.tolist():
    shrunk = (1 - b) * shrunk + b  # the variance after one more step
    added = added + b
print(f"variance after 1000 steps: {shrunk:.6f} with shrinking, {added:.2f} without")

# %% [markdown]
# A thousand steps, from $\beta = 0.00085$ to $0.012$: even the largest one replaces little more than one hundredth of
# the variance. Take them all, one after the other.

# %%
generator = torch.Generator().manual_seed(1)
shown = [0, 50, 100, 200, 400, 700, 999]
kept = {}
x = x0.double()
for t in range(1000):
    x = one_step(x, beta[t], torch.randn(x.shape, generator=generator, dtype=torch.float64))
    if t in shown:
        kept[t] = x

# %%
from ldm_edu.viz import matrix

walked = torch.stack([kept[t] for t in shown], dim=1)  # (4, 7, 3, 64, 64)
matrix(
    walked[:2].flatten(0, 1).float(),  # (2 * 7, 3, 64, 64)
    rows=names[:2],
    columns=[f"t = {t}" for t in shown],
    alt="A cat face and an apple in seven states from t = 0 to t = 999: grain at first, then the picture fades away in "
    "coloured noise; at the end nothing of it is seen.",
)

# %% [markdown]
# **What to see.** First the fine lines go, then the shapes, last the large areas of colour. At the end you see noise
# and nothing else. Keep that *you see* in mind: there is a surprise in it, further below.
#
# ## All steps in one
#
# Training needs pictures at random times, and nobody wants to take 700 steps for each of them. Put two steps together:
#
# $$x_2 = \sqrt{\alpha_2}\left(\sqrt{\alpha_1}\, x_0 + \sqrt{\beta_1}\, \epsilon_1\right) + \sqrt{\beta_2}\, \epsilon_2
#      = \sqrt{\alpha_1 \alpha_2}\; x_0 + \sqrt{\alpha_2 \beta_1}\, \epsilon_1 + \sqrt{\beta_2}\, \epsilon_2$$
#
# with $\alpha_t = 1 - \beta_t$. A sum of normal numbers is normal again, so the two noises act like one, of variance
#
# $$\alpha_2 \beta_1 + \beta_2 = \alpha_2 (1 - \alpha_1) + 1 - \alpha_2 = 1 - \alpha_1 \alpha_2 .$$
#
# The same holds for any number of steps, with $\bar\alpha_t = \alpha_1 \alpha_2 \cdots \alpha_t$:
#
# $$q(x_t \mid x_0): \qquad x_t = \sqrt{\bar\alpha_t}\; x_0 + \sqrt{1 - \bar\alpha_t}\; \epsilon$$
#
# (Ho et al. 2020, equation 4.) Is it really the same? Check the factors first: walk all steps with two numbers, the
# factor of $x_0$ and the variance of the noise.

# %%
factor, variance = torch.tensor(1.0, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64)
factors, variances = [], []
for t in range(1000):
    factor, variance = alpha[t].sqrt() * factor, alpha[t] * variance + beta[t]
    factors.append(factor)
    variances.append(variance)

worst = max(
    (torch.stack(factors) - alpha_bar.sqrt()).abs().max(), (torch.stack(variances) - (1 - alpha_bar)).abs().max()
)
print(f"largest difference between the walk and the formula, over all t: {worst:.1e}")
assert worst < 1e-12, "the iterated chain and the closed form should have the same factors"

# %% [markdown]
# They agree to rounding. The cell above drew one chain; the formula must hold for the *distribution* of chains. So run
# many thousands of chains, and compare their mean and variance at several times. Twelve numbers of the real pictures
# are enough to start from. Of each measured number we know the *standard error*: how far chance alone moves it,
# typically.

# %%
runs = 20_000
start = x0[:, :, 36, 20].flatten()  # (12,) red, green and blue of one pixel of each picture
generator = torch.Generator().manual_seed(2)
x = start.expand(runs, -1)  # (runs, 12)
measured = {}
for t in range(1000):
    x = one_step(x, beta[t].float(), torch.randn(x.shape, generator=generator))
    if t in shown:
        measured[t] = (x.double().mean(dim=0), x.double().var(dim=0))

# %%
from ldm_edu.viz import Table

rows, off = [], []
for t, (mean, var) in measured.items():
    true_mean, true_var = alpha_bar[t].sqrt() * start.double(), 1 - alpha_bar[t]
    se_mean, se_var = (true_var / runs).sqrt(), true_var * (2 / (runs - 1)) ** 0.5  # of normal numbers
    z = torch.cat([(mean - true_mean) / se_mean, (var - true_var) / se_var])  # (24,) in standard errors
    off.append(z)
    row = (f"{true_mean[0]:.4f}", f"{mean[0]:.4f} ± {se_mean:.4f}", f"{true_var:.5f}", f"{var[0]:.5f} ± {se_var:.5f}")
    rows.append((str(t), *row, f"{z.abs().max():.1f}"))
off = torch.cat(off)
print(f"{len(off)} comparisons; root mean square distance {off.square().mean().sqrt():.2f} standard errors")
assert off.abs().max() < 5, "the chain's mean and variance should be those of the closed form"
Table(
    ("t", "mean, formula", "mean of the chains", "variance, formula", "of the chains", "farthest, in std. errors"),
    tuple(rows),
)

# %% [markdown]
# The columns in the middle are the first of the twelve numbers; the last column is the farthest of all twenty-four. A
# right formula is missed by about one standard error, and now and then by three. That is what you see: **a thousand
# steps are one step**.
#
# ## The package's version
#
# `ldm_edu.schedule` holds the same. A schedule gives a `Level` for a time: the two factors of the closed form, named
# `level.alpha` for $\sqrt{\bar\alpha_t}$ and `level.sigma` for $\sqrt{1 - \bar\alpha_t}$. (Two habits to know. Above,
# as in Ho et al., $\alpha_t$ was $1 - \beta_t$; other papers, and the package, write $\alpha$ for the factor of the
# picture, $\sqrt{\bar\alpha_t}$, and from here on it is that. And papers count steps from 1, code from 0: at `t = 0`
# one step has been taken.)

# %%
from ldm_edu import schedule
from ldm_edu.config import ScheduleConfig

linear = schedule.make_schedule(ScheduleConfig(kind="linear", beta_start=0.00085, beta_end=0.012))
times = torch.arange(1000)
torch.testing.assert_close(linear.alpha_bar, alpha_bar)
torch.testing.assert_close(linear.level(times).alpha, alpha_bar.sqrt())
torch.testing.assert_close(linear.level(times).sigma, (1 - alpha_bar).sqrt())


def noised(x0, t, eps):
    """The closed form, for a batch of pictures (B, 3, H, W) and one time."""
    return alpha_bar[t].sqrt() * x0 + (1 - alpha_bar[t]).sqrt() * eps


eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(3))
for t in shown:
    torch.testing.assert_close(noised(x0, t, eps), schedule.add_noise(x0, eps, linear.level(t)))

# a batch in training: every picture at its own time
t = torch.tensor([10, 300, 600, 999])
each = torch.cat([noised(x0[i : i + 1], t[i], eps[i : i + 1]) for i in range(4)])
torch.testing.assert_close(each, schedule.add_noise(x0, eps, linear.level(t)))
print("the package agrees, for all 1000 times")

# %% [markdown]
# ## Why gently?
#
# One step would do, if destroying were all: $\beta = 1$ leaves pure noise at once. But the network is to walk *back*,
# one step at a time: from $x_t$ to a plausible $x_{t-1}$. Which $x_{t-1}$ are plausible? That is a distribution, and
# the network says only where its middle is. That is enough if the distribution is a single bump of known width, a
# normal one. It is not enough if there are two bumps: the middle between them is nowhere.
#
# Look at the simplest world: one pixel, black or white with equal chance, and some noise already. Take one more step of
# size $\beta$, and ask (Bayes' rule, no network) what the pixel was before.

# %%
u = torch.linspace(-4, 4, 801, dtype=torch.float64)  # values of the pixel, 0.01 apart


def bell(x, mean, variance):
    return torch.exp(-((x - mean) ** 2) / (2 * variance)) / (2 * torch.pi * variance) ** 0.5


before = (bell(u, -(0.9**0.5), 0.1) + bell(u, 0.9**0.5, 0.1)) / 2  # (801,) x_{t-1}: alpha_bar is 0.9, variance 0.1


def way_back(step):
    """How likely each x_{t-1} (columns) is, once x_t (rows) is known; the mean and the variance of each row."""
    joint = before * bell(u[:, None], (1 - step) ** 0.5 * u, step)  # (801, 801): x_t, x_{t-1}
    after = joint.sum(dim=1) * 0.01  # (801,) how likely each x_t is
    posterior = joint / after.clamp(min=1e-300)[:, None]
    mean = (posterior * u).sum(dim=1) * 0.01
    return posterior, after, mean, (posterior * u**2).sum(dim=1) * 0.01 - mean**2


for step in (0.002, 0.01, 0.1, 0.5, 0.9):
    posterior, after, mean, var = way_back(step)
    normal = bell(u, mean[:, None], var.clamp(min=1e-12)[:, None])
    differs = (posterior - normal).abs().sum(dim=1) * 0.01 / 2  # (801,) share of the probability in another place
    print(f"beta = {step:<5}: {(after * differs).sum() * 0.01:6.1%} of the way back is not normal")

# %%
from matplotlib.figure import Figure

# The course's colours and fonts, and `drawing`, which adds words for those who cannot see. Skip such cells as you like.
from ldm_edu.viz.style import INK, NETWORK, NOISE, SIGNAL, SOFT, TEXT, drawing, look

with look():
    figure = Figure(figsize=(7.6, 2.5), layout="constrained")
    for axes, step in zip(figure.subplots(1, 3, sharex=True), (0.01, 0.1, 0.8)):
        posterior, _, mean, var = way_back(step)
        row = 410  # x_t = 0.1
        axes.fill_between(u, before / before.max(), color=SOFT, alpha=0.25, linewidth=0)
        axes.plot(u, posterior[row] / posterior[row].max(), color=SIGNAL)
        axes.plot(u, bell(u, mean[row], var[row]) / posterior[row].max(), color=NOISE, linestyle=(0, (4, 2)))
        axes.set(title=f"β = {step}", xlabel="value of the pixel before", xlim=(-2, 2), yticks=[])
    figure.axes[0].set_ylabel("density (scaled)")
    bumps = drawing(
        figure,
        "Three plots of where a pixel came from, for steps of beta 0.01, 0.1 and 0.8. With 0.01 the true curve is one "
        "narrow bump and the normal curve lies on it. With 0.1 a second, smaller bump appears; with 0.8 there are two "
        "high ones, at black and white, and the normal curve has its top between them.",
    )
bumps

# %% [markdown]
# **What to see.** Grey: what the pixel may be in general. Blue line: what it may have been, given that it is 0.1 after
# the step. Dashed: the normal distribution with the same mean and width. After a small step the two are one; after a
# large one the pixel was black or white, and the dashed curve says *grey, probably*. The numbers above say the same of
# all values, not only 0.1. This is the reason for a thousand steps: **small steps have a simple way back**
# (Sohl-Dickstein et al. 2015, section 2.2).
#
# ## What Stable Diffusion does
#
# Stable Diffusion has the same end points, 0.00085 and 0.012, and its code calls the schedule "linear". But it draws
# the line in $\sqrt\beta$, and squares it. The Diffusers library calls this `scaled_linear`, and so does this course.

# %%
beta_scaled = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
alpha_bar_scaled = torch.cumprod(1 - beta_scaled, dim=0)

scaled = schedule.make_schedule(ScheduleConfig(kind="scaled_linear", beta_start=0.00085, beta_end=0.012))
torch.testing.assert_close(scaled.alpha_bar, alpha_bar_scaled)
print(f"beta in the middle: {beta[500]:.5f} linear, {beta_scaled[500]:.5f} scaled linear")

# %% [markdown]
# And the third that you meet often. Nichol and Dhariwal (2021, equation 17) do not choose $\beta$ but the outcome: let
# $\bar\alpha$ fall like a squared cosine, and compute the steps that lead there. The last one would be $\beta = 1$;
# they stop at 0.999.

# %%
u_t = torch.arange(1001, dtype=torch.float64) / 1000  # time, from 0 to 1
f = torch.cos((u_t + 0.008) / 1.008 * torch.pi / 2) ** 2
beta_cosine = (1 - f[1:] / f[:-1]).clamp(max=0.999)
alpha_bar_cosine = torch.cumprod(1 - beta_cosine, dim=0)

cosine = schedule.make_schedule(ScheduleConfig(kind="cosine"))
torch.testing.assert_close(cosine.alpha_bar, alpha_bar_cosine)

# %% [markdown]
# To compare schedules, look at the *signal-to-noise ratio*, SNR: the variance of the signal over that of the noise,
#
# $$\text{SNR}(t) = \frac{\bar\alpha_t}{1 - \bar\alpha_t}$$
#
# for data of variance 1 (Kingma et al. 2021, equation 2). At SNR 1, picture and noise are equally strong.

# %%
ho = schedule.linear(beta_start=0.0001, beta_end=0.02)  # the range of the first paper, Ho et al. 2020
kinds = {"linear": linear, "scaled_linear": scaled, "cosine": cosine, "Ho et al.": ho}
lines = dict(zip(kinds, [(SIGNAL, "-"), (NOISE, (0, (5, 2))), (TEXT, (0, (1, 1))), (NETWORK, (0, (6, 2, 1, 2)))]))
snr = {name: kind.alpha_bar / (1 - kind.alpha_bar) for name, kind in kinds.items()}
for name, kind in kinds.items():
    torch.testing.assert_close(kind.level(times).snr, snr[name])

with look():
    figure = Figure(figsize=(7.6, 2.9), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, kind in kinds.items():
        color, dashes = lines[name]
        left.plot(kind.alpha_bar, color=color, linestyle=dashes, label=name)
        right.plot(snr[name], color=color, linestyle=dashes)
    left.set(xlabel="time t (steps)", ylabel=r"$\bar\alpha_t$ (no unit)")
    right.set(xlabel="time t (steps)", ylabel="SNR (ratio, log scale)", yscale="log", ylim=(1e-5, 1e4))
    left.legend(fontsize=8.5)
    curves = drawing(
        figure,
        "Left: alpha_bar over time for four schedules, all from 1 down to nearly 0; cosine stays high longest, the one "
        "of Ho et al. falls first. Right: their signal-to-noise ratios, from above 1000 down; at t = 999 scaled linear "
        "ends highest, at about 0.005, cosine falls out of the picture.",
    )
curves

# %%
at = [0, 100, 250, 500, 750, 999]
Table(("SNR", *(f"t = {t}" for t in at)), tuple((name, *(f"{s[t]:.2g}" for t in at)) for name, s in snr.items()))

# %% [markdown]
# **What to see.** In the middle, scaled linear has more signal left than linear: its steps are smaller for longer.
# Cosine is gentle in the middle and harsh at its very end. The schedule of the first paper is done early. And no
# curve reaches zero. Now the same in pictures, with the same noise everywhere.

# %%
few = [100, 250, 500, 750, 999]
three = ["linear", "scaled_linear", "cosine"]
pictures = torch.cat([schedule.add_noise(x0[2:3], eps[2:3], kinds[name].level(t)) for name in three for t in few])
matrix(
    pictures,
    rows=["linear", "scaled linear", "cosine"],
    columns=[f"t = {t}" for t in few],
    alt="A penguin under three schedules at five times. At t = 500 it is just seen with linear, better with scaled "
    "linear, clearly with cosine. At t = 999 all three show noise only.",
)

# %% [markdown]
# **What to see.** Compare the column $t = 500$: the three schedules are three speeds on the same road. At $t = 999$ all
# three look the same: noise.
#
# ## What is left at the end
#
# They are not the same. Lin et al. (2023, table 1) printed how much signal the schedules in use leave at the last
# step. Here are their numbers, and ours.

# %%
published = {
    "Ho et al.": (4.035993e-05, 0.006353),
    "cosine": (2.428735e-09, 4.928220e-05),
    "scaled_linear": (0.004682, 0.068265),
}
rows = []
for name, kind in kinds.items():
    root = float(kind.level(999).alpha)  # sqrt(alpha_bar)
    low = int((snr[name] < 0.01).sum())
    theirs = published.get(name)
    if theirs:
        assert abs(float(snr[name][999]) / theirs[0] - 1) < 1e-3 and abs(root / theirs[1] - 1) < 1e-3
    paper = f"{theirs[0]:.4g}" if theirs else "not in the paper"
    rows.append((name, f"{snr[name][999]:.4g}", paper, f"{root:.3g}", str(int((snr[name] > 1).sum())), str(low)))
header = (
    "schedule",
    "SNR at t = 999",
    "Lin et al. 2023",
    "picture's factor there",
    "SNR below 1 from t =",
    "times with SNR < 0.01",
)
Table(header, tuple(rows))

# %% [markdown]
# The claim holds: not one of them ends in pure noise. In Stable Diffusion's schedule (`scaled_linear`) nearly 7 percent
# of the picture's amplitude is still there at the last step, more than in any of the others. The last column tells the
# other side: a schedule that ends in noise early wastes the network's time there. It is what Nichol and Dhariwal found
# in the linear schedule of Ho et al., and why they made the cosine.
#
# Can 7 percent under so much noise matter? Take the three plainest pictures: all black, all grey, all white. Noise them
# up to $t = 999$ and look.

# %%
flat = torch.tensor([-1.0, 0.0, 1.0])[:, None, None, None].expand(-1, 3, 64, 64)  # (3, 3, 64, 64)
noise = torch.randn(flat.shape, generator=torch.Generator().manual_seed(4))
end = scaled.level(999)
x_end = schedule.add_noise(flat, noise, end)

numbers = flat[0].numel()
error = float(end.sigma) / numbers**0.5  # the standard error of a mean of so many noisy numbers
for name, mean in zip(["black", "grey", "white"], x_end.mean(dim=(1, 2, 3)).tolist()):
    print(f"{name:5}: mean of {numbers} numbers {mean:+.4f}, that is {mean / error:+.1f} standard errors from zero")
print(f"expected for white: {float(end.alpha):+.4f}, that is {float(end.alpha) / error:+.1f} standard errors")
print(f"the same in a channel of Stable Diffusion's latent, 64 by 64 numbers: {float(end.alpha / end.sigma) * 64:+.1f}")
sheet(
    x_end, ["black at t = 999", "grey at t = 999", "white at t = 999"], alt="Three pictures of noise, alike to the eye."
)

# %% [markdown]
# **What to see.** Three times noise, alike at a glance. Their *mean* tells them apart. Noise is independent from pixel
# to pixel and averages out, brightness is common to all pixels and does not. Seven standard errors are no accident:
# a network that adds up its input reads the brightness of the clean picture from "pure noise".
#
# How sure is that reading? Many noises, three schedules. (The mean of a sum is the sum of the means, so noising the
# mean is enough.)

# %%
means = torch.randn(2000, 1, generator=torch.Generator().manual_seed(5)) / numbers**0.5  # (2000, 1) means of noises
brightness = torch.tensor([-1.0, 0.0, 1.0])
with look():
    figure = Figure(figsize=(7.6, 2.5), layout="constrained")
    for axes, name in zip(figure.subplots(1, 3, sharex=True, sharey=True), ("scaled_linear", "linear", "cosine")):
        last = kinds[name].level(999)
        seen = schedule.add_noise(brightness.expand(2000, 3), means.expand(-1, 3), last)  # (2000, 3)
        guess = ((seen[..., None] - last.alpha * brightness).abs()).argmin(dim=-1)  # the nearest of the three
        right = float((guess == torch.arange(3)).float().mean())
        print(f"{name:13}: black, grey or white told from the mean alone, right in {right:.1%}")
        for column, (color, style) in enumerate([(INK, ":"), (SOFT, "--"), (NOISE, "-")]):
            words = ["black", "grey", "white"][column]
            axes.hist(
                seen[:, column],
                40,
                range=(-0.11, 0.11),
                histtype="step",
                color=color,
                linestyle=style,
                lw=1.6,
                label=words,
            )
        axes.set(title=name, xlabel="mean of $x_{999}$")
    figure.axes[0].set_ylabel("count, of 2000 noises")
    figure.axes[2].legend(fontsize=8, loc="upper left", borderpad=0, handlelength=1.4)
    told = drawing(
        figure,
        "Histograms of the mean of x_999 for black, grey and white pictures. Scaled linear: three separate bells. "
        "Linear: three bells that touch. Cosine: the three lie on top of each other.",
    )
told

# %% [markdown]
# **What to see.** With Stable Diffusion's schedule the three bells stand apart: the last step still says how bright the
# picture was. With cosine they are one.
#
# ## Why the pictures are of medium brightness
#
# In training, then, the network meets at $t = 999$ only samples whose mean tells the truth, and learns to believe it.
# To draw a new picture you start it with pure noise instead, and the mean of pure noise is about zero. The network
# reads that as a message: *this picture is of medium brightness*. Lin et al. (2023) found this to be why Stable
# Diffusion can hardly draw pictures that are very bright or very dark.
#
# You can compute it, without any training. Take a world in which a picture is one flat grey, any of 41 from black to
# white, all equally frequent. There the best possible network is a formula: Bayes' rule again. All a sample says about
# its grey is its mean, so one number a picture is enough, with noise that is $\sqrt{12288}$ times smaller.

# %%
from itertools import pairwise

greys = torch.linspace(-1, 1, 41, dtype=torch.float64)


def best_guess(x, level):
    """The best estimate of the clean brightness, from the mean x (B, 1) of a sample's 12288 numbers."""
    miss = (x - level.alpha * greys) / level.sigma  # (B, 41), in standard deviations of one number's noise
    likely = torch.softmax(-numbers / 2 * miss**2, dim=1)  # (B, 41)
    return likely @ greys[:, None]  # (B, 1)


def walk_back(x, stops):
    """From noise to picture: guess the picture, infer the noise, mix both again with a little less noise."""
    for now, then in pairwise(stops):
        guess = best_guess(x, now)
        noise = (x - now.alpha * guess) / now.sigma
        x = then.alpha * guess + then.sigma * noise
    return x


# %% [markdown]
# Those five lines are a *sampler*, DDIM (lesson 07 builds them all). Run it with all thousand steps, so that nothing
# is lost there, from two starts: from real pictures that were noised up to $t = 999$ as in training, and from pure
# noise.

# %%
from ldm_edu import ddim

world = greys.repeat(25)[:, None]  # (1025, 1) what real pictures look like: every grey 25 times
pure = torch.randn(world.shape, generator=torch.Generator().manual_seed(6), dtype=torch.float64) / numbers**0.5
flow = schedule.make_schedule(ScheduleConfig(kind="flow"))  # explained in a moment
drawn, rows = {}, [("real pictures", f"{world.std():.2f}", "")]
for name, kind in {"scaled_linear": scaled, "linear": linear, "cosine": cosine, "flow": flow}.items():
    stops = schedule.levels(kind, 1000)
    drawn[name] = walk_back(pure, stops)
    truthful = walk_back(schedule.add_noise(world, pure, kind.level(kind.last)), stops)
    rows.append((name, f"{drawn[name].std():.2f}", f"{truthful.std():.2f}"))

*_, last_step = ddim(best_guess, pure, schedule.levels(scaled, 1000))
torch.testing.assert_close(last_step.x, drawn["scaled_linear"])
assert drawn["scaled_linear"].std() < 0.3 * world.std() and drawn["cosine"].std() > 0.9 * world.std()
Table(("spread of the brightness (std. deviation)", "started from pure noise", "from a noised picture"), tuple(rows))

# %%
with look():
    figure = Figure(figsize=(7.6, 2.3), layout="constrained")
    panels = {
        "real pictures": world,
        "scaled_linear": drawn["scaled_linear"],
        "cosine": drawn["cosine"],
        "flow": drawn["flow"],
    }
    for axes, (name, values) in zip(figure.subplots(1, 4, sharey=True), panels.items()):
        axes.hist(values[:, 0], 41, range=(-1.025, 1.025), color=SIGNAL if name == "real pictures" else NOISE)
        axes.set(title=name, xlabel="brightness", xticks=[-1, 0, 1])
    figure.axes[0].set_ylabel("pictures of 1025")
    dull = drawing(
        figure,
        "Histograms of brightness from black to white. Real pictures: flat. Drawn with scaled linear from noise: a "
        "narrow bell about medium grey. Drawn with cosine and with flow: nearly flat, like the real ones.",
    )
dull

# %% [markdown]
# **What to see.** The same perfect network, the same noise. With `scaled_linear` nothing bright and nothing dark is
# ever drawn from pure noise, though in this world black and white are as frequent as any grey; from a truthful start it
# draws them all. So the fault is not in the network but in the last step of the schedule. Where the SNR ends at zero,
# or nearly, it is gone.
#
# Lin et al. (2023) shift and stretch the schedule until the last SNR is exactly 0. A network that predicts the noise
# then has nothing to do at that step (all of it is noise), so they let it predict something else; lesson 02 has the
# choices.
#
# ## Another road: rectified flow
#
# Newer models (Stable Diffusion 3, for one) take the plainest mixture there is, a straight line from picture to noise:
#
# $$x_t = (1 - t)\, x_0 + t\, \epsilon, \qquad 0 \le t \le 1$$
#
# (Liu et al. 2022; Lipman et al. 2022.) At $t = 1$ the picture's factor is 0 exactly. The package counts its time in
# thousandths, so that a network is told the same kind of number.

# %%
for thousandth in (0, 1, 250, 500, 1000):
    t = thousandth / 1000
    mixed = (1 - t) * x0 + t * eps
    torch.testing.assert_close(mixed, schedule.add_noise(x0, eps, flow.level(thousandth)))
print(f"SNR at the end: {float(flow.level(1000).snr):g}")

# %% [markdown]
# Is it really another road? Find the time at which scaled linear has the same ratio of noise to picture, and compare
# the samples. (`level.ratio` is $\sigma / \alpha$, and `schedule.time(ratio)` the time at which a schedule has it.)

# %%
on_flow = flow.level(600)
on_scaled = scaled.level(scaled.time(on_flow.ratio[None])[0])
one, other = schedule.add_noise(x0, eps, on_flow), schedule.add_noise(x0, eps, on_scaled)
torch.testing.assert_close(one / on_flow.alpha, other / on_scaled.alpha, rtol=1e-4, atol=1e-4)
print(
    f"flow at t = 600 is scaled linear at t = {float(on_scaled.t):.0f}, "
    f"times {float(on_flow.alpha / on_scaled.alpha):.3f}"
)

# %% [markdown]
# Up to a factor they are the same sample: **every schedule is the same road at another speed**, with the volume turned
# up or down. What differs is how much of the training and of the drawing is spent where, and whether the road reaches
# its end.
#
# ## Play
#
# Choose a schedule, then click on the slider and use the arrow keys. Without a mouse: Tab goes from one to the other,
# Space opens the list of schedules, and Enter chooses. (On a page where nothing runs you see a table.)

# %%
from ldm_edu.viz import noising

noising(
    x0[0],
    {"linear": linear, "scaled_linear": scaled, "cosine": cosine, "flow": flow},
    title="A cat, a schedule, a time",
)

# %% [markdown]
# **Try it.** For each schedule, find the time at which you lose the whiskers, then the eyes, then the cat. Read the SNR
# there: is it the same for all schedules? Then go to the last time and switch between schedules.

# %% [markdown]
# ## Recap
#
# - One step: $x_t = \sqrt{1 - \beta_t}\, x_{t-1} + \sqrt{\beta_t}\, \epsilon$. Shrinking keeps the variance at 1.
# - All steps in one: $x_t = \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1 - \bar\alpha_t}\, \epsilon$, with $\bar\alpha_t$ the
#   product of all $1 - \beta$. In the package: `add_noise(x0, eps, schedule.level(t))`.
# - Small steps, because only they have a way back that is a single bump.
# - Stable Diffusion's "linear" is linear in $\sqrt\beta$. Cosine and flow are other speeds on the same road.
# - The common schedules do not end in pure noise. Drawing starts there all the same, so a network that learned to trust
#   the rest of the signal draws medium brightness.

# %% [markdown]
# ## Check yourself

# %% tags=["hide-input"]
from ldm_edu.viz import quiz
from ldm_edu.viz.quiz import Choice, Question

quiz(
    Question(
        "You need x_700 of a picture for training. How many times do you draw noise?",
        [
            Choice(
                "701 times, once a step", "It would be right, but it is not needed: independent noises add up to one."
            ),
            Choice("Once", "The closed form mixes x_0 with one noise, by two factors known in advance.", right=True),
            Choice("Never: x_700 follows from x_0", "Only its distribution does. Another noise, another sample."),
        ],
    ),
    Question(
        "Why is the picture shrunk in each step?",
        [
            Choice(
                "So that the variance stays at 1", "Variances add; shrinking makes room for what is added.", right=True
            ),
            Choice("So that it takes less memory", "It has as many numbers as before; only their values are smaller."),
            Choice("To make the way back unique", "It is not: the noise is unknown, so many pictures are possible."),
        ],
    ),
    Question(
        "At t = 999 of `scaled_linear` you see nothing of a white picture. Is anything left of it?",
        [
            Choice("No, noise is all there is", "The factor is about 0.07, and the mean over all pixels shows it."),
            Choice(
                "Yes, mostly its brightness",
                "What all pixels have in common survives averaging: the mean lies many standard errors from zero.",
                right=True,
            ),
            Choice(
                "Yes, mostly its fine lines", "They go first: few pixels share them, so no averaging brings them back."
            ),
        ],
    ),
    Question(
        "What would cure the medium brightness?",
        [
            Choice(
                "A larger network", "The network in our small world was perfect, and drew medium greys all the same."
            ),
            Choice("More steps of the sampler", "We took all thousand of them."),
            Choice("A schedule whose last SNR is zero", "Then training and drawing start from the same.", right=True),
            Choice("Another seed", "The mean of any pure noise lies near zero."),
        ],
    ),
    Question(
        "Two schedules have the same SNR, one at t = 300, the other at t = 520. How do their samples differ?",
        [
            Choice("The one at t = 520 is noisier", "t is only a clock; the SNR says how noisy a sample is."),
            Choice(
                "By a common factor at most", "Same ratio of picture to noise: the same sample, scaled.", right=True
            ),
            Choice("They have nothing in common", "Both are mixtures of the same picture and the same noise."),
        ],
    ),
)

# %% [markdown]
# ## Go on
#
# The papers, in the order of this lesson:
#
# - Sohl-Dickstein et al. 2015, *Deep Unsupervised Learning using Nonequilibrium Thermodynamics* ([arXiv
#   1503.03585](https://arxiv.org/abs/1503.03585)), section 2: the chain and why its steps are small.
# - Ho, Jain and Abbeel 2020, *Denoising Diffusion Probabilistic Models* ([arXiv
#   2006.11239](https://arxiv.org/abs/2006.11239)), equations 2 and 4, section 4: the linear schedule.
# - Nichol and Dhariwal 2021, *Improved Denoising Diffusion Probabilistic Models* ([arXiv
#   2102.09672](https://arxiv.org/abs/2102.09672)), section 3.2: cosine.
# - Kingma et al. 2021, *Variational Diffusion Models* ([arXiv 2107.00630](https://arxiv.org/abs/2107.00630)), sections
#   3 and 5: SNR, and why only it matters.
# - Rombach et al. 2022, *High-Resolution Image Synthesis with Latent Diffusion Models* ([arXiv
#   2112.10752](https://arxiv.org/abs/2112.10752)): what Stable Diffusion is.
# - Lin et al. 2023, *Common Diffusion Noise Schedules and Sample Steps are Flawed* ([arXiv
#   2305.08891](https://arxiv.org/abs/2305.08891)), sections 2 and 3.
# - Liu et al. 2022, *Flow Straight and Fast* ([arXiv 2209.03003](https://arxiv.org/abs/2209.03003)), and Lipman et al.
#   2022, *Flow Matching for Generative Modeling* ([arXiv 2210.02747](https://arxiv.org/abs/2210.02747)).
#
# Exercises: [exercises/01_forward_noising.ipynb](../exercises/01_forward_noising.ipynb); each item answers at once.
#
# Next, a network learns to say which part of a sample is noise: [lesson 02](02_noise_predictor.ipynb).
