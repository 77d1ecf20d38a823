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
# # 02 · The noise predictor
#
# **The question.** How does a network learn to see noise?
#
# Lesson 01 destroyed pictures. Now a network learns the way back. It is shown a noisy sample and the time, and says
# which part of the sample is noise. You build it twice: first for points in the plane, where the best possible answer
# is known exactly, then as a U-Net for pictures of clothes, which you train here and draw with.
#
# **After this lesson you can**
#
# - say what the best possible noise predictor is, and why even its loss is not zero;
# - write the training loop of a diffusion model in a dozen lines;
# - build a U-Net from a time embedding, residual blocks and attention, and say what each is for;
# - turn a prediction of noise into one of the clean picture or of $v$, and back;
# - tell from a table of losses whether your model is learning, and draw pictures with it, step by step.
#
# **You need** lesson 01: $x_t = \alpha_t\, x_0 + \sigma_t\, \epsilon$, and what the signal-to-noise ratio is.
#
# **Time**: about two minutes of computing on two processor cores, an hour of reading and playing.

# %% [markdown]
# ## A world where the answer is known
#
# Take points in the plane instead of pictures. They come in three round clouds: a *mixture of Gaussians*. Cloud $k$ has
# the share $w_k$ of the points, its middle is $\mu_k$, its standard deviation $s_k$.

# %%
import torch

from ldm_edu.evaluate import mixture

w = torch.tensor([0.3, 0.3, 0.4])
mu = torch.tensor([[-1.2, -0.6], [1.2, -0.6], [0.0, 1.2]])  # (3, 2)
s = torch.tensor([0.15, 0.3, 0.2])
world = mixture.GaussianMixture(w, mu, s)
points = world.sample(4000, torch.Generator().manual_seed(0))  # (4000, 2), what plays the part of pictures

# %% [markdown]
# A point is noised, and you see only the result $x$. What was the clean point? You cannot know, but there is a best
# guess: the guess with the smallest mean squared error is the *mean* of all clean points that may have become this $x$,
# each as heavy as it is likely, $\mathbb{E}[x_0 \mid x]$. Here it can be computed:
#
# - A noised cloud is a cloud: its middle is $\alpha\mu_k$, its variance $\alpha^2 s_k^2 + \sigma^2$.
# - If $x$ comes from cloud $k$, its clean point is at $\mu_k$, moved towards $x$ by a share of the distance:
#   $\mu_k + \frac{\alpha s_k^2}{\alpha^2 s_k^2 + \sigma^2}\,(x - \alpha\mu_k)$.
# - Which cloud? Bayes' rule: cloud $k$ with a probability in proportion to
#   $w_k\, \mathcal{N}(x;\, \alpha\mu_k,\, \alpha^2 s_k^2 + \sigma^2)$.


# %%
def best_x0(x, alpha, sigma):
    """E[x0 | x] for points x (B, 2)."""
    variance = alpha**2 * s**2 + sigma**2  # (3,)
    away = x[:, None, :] - alpha * mu  # (B, 3, 2)
    density = torch.exp(-away.square().sum(-1) / (2 * variance)) / variance  # (B, 3), up to a constant
    share = w * density / (w * density).sum(dim=1, keepdim=True)  # (B, 3)
    guess = mu + (alpha * s**2 / variance)[:, None] * away  # (B, 3, 2)
    return (share[:, :, None] * guess).sum(dim=1)  # (B, 2)


def best_eps(x, alpha, sigma):
    """The best guess of the noise: what is left when the best guess of the clean point is taken away."""
    return (x - alpha * best_x0(x, alpha, sigma)) / sigma


# %%
from ldm_edu import schedule
from ldm_edu.config import ScheduleConfig

road = schedule.make_schedule(ScheduleConfig())  # scaled linear, 1000 times, as in lesson 01
eps = torch.randn(points.shape, generator=torch.Generator().manual_seed(1))
for t in (10, 100, 300, 600, 999):
    level = road.level(float(t))
    x = schedule.add_noise(points, eps, level)
    torch.testing.assert_close(best_x0(x, level.alpha, level.sigma), world(x, level), rtol=1e-4, atol=1e-4)
print("your best denoiser and the package's give the same answer")

# %% [markdown]
# ## How good is the best?
#
# The loss of a noise predictor is its mean squared error, $\lVert \epsilon - \hat\epsilon(x_t, t) \rVert^2$ (Ho et al.
# 2020, equation 14). Saying "no noise" every time costs 1, the variance of the noise. What does the best predictor pay?

# %%
times = torch.arange(25, 1000, 50)  # 20 times
many = world.sample(20_000, torch.Generator().manual_seed(2))
noise = torch.randn(many.shape, generator=torch.Generator().manual_seed(3))


def loss_at(predict, t):
    """Mean squared error of a noise predictor at one time, on 20,000 points."""
    level = road.level(float(t))
    x = schedule.add_noise(many, noise, level)
    return (predict(x, level) - noise).square().mean()


best = torch.stack([loss_at(lambda x, level: best_eps(x, level.alpha, level.sigma), t) for t in times])
for t, loss in list(zip(times, best))[::4]:
    print(f"t = {int(t):3}: the best possible loss is {loss:.3f}")

# %% [markdown]
# Not zero, and not the same at all times. With much noise (large $t$) the sample *is* noise, nearly, and the loss is
# small: nothing is easier than to see it. With little noise even the best predictor misses much of it, since it cannot
# tell a small noise from a point that lies a little off. That is no fault: no network can do better.
# **A loss only means something beside the best possible loss at the same time.**
#
# One formula to check this by. For a single cloud the best loss is the share of the picture in what you see,
# $\alpha^2 s^2 / (\alpha^2 s^2 + \sigma^2)$:

# %%
level = road.level(100.0)
narrow = 0.2 * torch.randn(20_000, 2, generator=torch.Generator().manual_seed(4))  # one cloud at the origin
x = schedule.add_noise(narrow, noise, level)
guess = level.sigma / (level.alpha**2 * 0.2**2 + level.sigma**2) * x
formula = float(level.alpha**2 * 0.2**2 / (level.alpha**2 * 0.2**2 + level.sigma**2))
measured = float((guess - noise).square().mean())
print(f"one cloud, t = 100: formula {formula:.4f}, measured {measured:.4f}")
assert abs(formula - measured) < 0.02, "the formula should give the measured loss"

# %% [markdown]
# ## Telling a network the time
#
# One network serves all times, so it must be told $t$. A single number from 0 to 999 is a poor input: the network would
# have to carve a thousand cases out of one axis. Give it many clocks instead, from fast to slow: cosines and sines of
# $t$ at frequencies that fall from 1 to nearly $1/10000$ (Vaswani et al. 2017, section 3.5).

# %%
import math

from ldm_edu.nn import attention, embeddings, resnet


def time_embedding(t, width):
    """(B,) times to (B, width) features: half cosines, half sines."""
    half = width // 2
    frequency = torch.exp(-math.log(10_000) * torch.arange(half) / half)  # (half,)
    angle = t[:, None].float() * frequency  # (B, half)
    return torch.cat([angle.cos(), angle.sin()], dim=1)  # (B, width)


t = torch.tensor([0.0, 1.0, 10.5, 999.0])
torch.testing.assert_close(time_embedding(t, 32), embeddings.timestep_embedding(t, 32))

# %% [markdown]
# ## A dozen lines of training
#
# The network: three layers, 2 numbers and 32 clocks in, 2 numbers out. The loop is all of diffusion training. Draw
# clean points, draw times, draw noise, mix, ask, compare, learn (Ho et al. 2020, algorithm 1).

# %%
from torch import nn

torch.manual_seed(0)
mlp = nn.Sequential(nn.Linear(34, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, 2))
optimizer = torch.optim.Adam(mlp.parameters(), lr=2e-3)
falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, total_iters=2500)
generator = torch.Generator().manual_seed(5)

for step in range(2500):
    x0 = world.sample(512, generator)  # (512, 2)
    t = torch.randint(1000, (512,), generator=generator)
    eps = torch.randn(x0.shape, generator=generator)
    x = schedule.add_noise(x0, eps, road.level(t))
    guess = mlp(torch.cat([x, time_embedding(t, 32)], dim=1))
    loss = (guess - eps).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    falling.step()

# %% [markdown]
# Does it reach the optimum? The same points and the same noise for both:


# %%
@torch.no_grad()
def learned_eps(x, level):
    return mlp(torch.cat([x, time_embedding(level.t.expand(len(x)), 32)], dim=1))


learned = torch.stack([loss_at(learned_eps, t) for t in times])
excess = learned - best
print(f"above the optimum: {excess.mean():.4f} on average, {excess.max():.4f} at the worst time")
assert excess.min() > -0.01, "nobody beats the best predictor"
assert excess.mean() < 0.04, "the network should come close to the optimum"

# %%
from matplotlib.figure import Figure

from ldm_edu.viz.style import NETWORK, NOISE, SIGNAL, SOFT, drawing, look

with look():
    figure = Figure(figsize=(7.2, 3.0), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(times, best, color=SIGNAL, label="best possible")
    axes.plot(times, learned, "o", ms=5, color=NETWORK, label="the trained network")
    axes.axhline(1.0, color=SOFT, linestyle=(0, (2, 2)), label='always "no noise"')
    axes.set(xlabel="time t (steps of the forward process)", ylabel="mean squared error", ylim=(0, 1.1))
    axes.legend(loc="center right", fontsize=9)
    curves = drawing(
        figure,
        "The loss over time. The best possible loss is highest at small t, dips, has a hump near t = 270, and falls to "
        "nearly 0 at t = 999; the dots of the trained network lie on it.",
    )
curves

# %% [markdown]
# **What to see.** The dots lie on the line, and even follow its hump: that is where the clouds begin to overlap, and a
# point may have come from either of two. A network that is only told to predict noise finds, at every time, nearly the
# best answer that there is: this is the claim behind all that follows, and the cell above measured it. Looking at one
# mean over all times would have told you little: most of that number is there for the best predictor too.
#
# What does it believe? Arrows from noisy points to where the network takes the clean ones to be:

# %%
with look():
    figure = Figure(figsize=(7.6, 3.0), layout="constrained")
    for axes, t in zip(figure.subplots(1, 3, sharex=True, sharey=True), (100, 400, 800)):
        level = road.level(float(t))
        x = schedule.add_noise(many[:60], noise[:60], level)
        to = (x - level.sigma * learned_eps(x, level)) / level.alpha
        axes.plot(*points[:800].T, ".", ms=2, color=SOFT, alpha=0.3)
        axes.quiver(*x.T, *(to - x).T, angles="xy", scale_units="xy", scale=1, width=0.005, color=NETWORK)
        axes.plot(*to.T, "o", ms=3, color=SIGNAL)
        axes.set(title=f"t = {t}", xlabel="first coordinate", xlim=(-3, 3), ylim=(-3, 3), aspect="equal")
    figure.axes[0].set_ylabel("second coordinate")
    arrows = drawing(
        figure,
        "Three plots of arrows from noisy points to the guessed clean ones. At t = 100 they are short and end in the "
        "three clouds; at t = 400 many end between clouds; at t = 800 all end close to the common middle.",
    )
arrows

# %% [markdown]
# **What to see.** Grey: the clean points. With little noise nearly each arrow ends in a cloud. With much noise the
# clouds cannot be told apart, and the guess is their common middle, a place where no point is. That is why the first
# estimates in lesson 00 were so soft.

# %% [markdown]
# ## Three ways to say the same
#
# A network may predict the noise $\epsilon$, the clean sample $x_0$, or $v = \alpha\,\epsilon - \sigma\, x_0$ (Salimans
# and Ho 2022, section 4). Since $x_t = \alpha x_0 + \sigma\epsilon$ is known, any of them gives the others:
#
# $$\hat x_0 = \frac{x_t - \sigma\hat\epsilon}{\alpha} = \alpha\, x_t - \sigma\,\hat v$$

# %%
from ldm_edu import prediction

t = torch.tensor([20, 400, 700, 999])
level = road.level(t)
a, b = (f.float()[:, None, None, None] for f in (level.alpha, level.sigma))  # (4, 1, 1, 1)
generator = torch.Generator().manual_seed(6)
x0, eps = (torch.randn(4, 1, 8, 8, generator=generator) for _ in range(2))
x = a * x0 + b * eps

said = {"eps": eps, "x0": x0, "v": a * eps - b * x0}
means = {"eps": lambda out: (x - b * out) / a, "x0": lambda out: out, "v": lambda out: a * x - b * out}
for kind in said:
    torch.testing.assert_close(said[kind], prediction.target(kind, x0, eps, level))
    torch.testing.assert_close(means[kind](said[kind]), prediction.to_x0(kind, said[kind], x, level))
    torch.testing.assert_close(means[kind](said[kind]), x0, rtol=1e-3, atol=1e-4)

# %% [markdown]
# The same for a perfect network. A real one errs, and then it matters *where the error is counted*. An error of
# $\epsilon$ is an error of $x_0$ times $\alpha / \sigma$; squared, that is the signal-to-noise ratio:
#
# $$\lVert \epsilon - \hat\epsilon \rVert^2 = \text{SNR}(t)\, \lVert x_0 - \hat x_0 \rVert^2$$
#
# So each choice is the same loss with another weight on each time. *Min-SNR* (Hang et al. 2023) sets the weight on
# purpose: $\min(\text{SNR}, 5)$, so that the nearly clean times do not drown the others.

# %%
from ldm_edu.training import losses

wrong = eps + 0.1 * torch.randn(eps.shape, generator=generator)  # a noise prediction with errors
in_eps = (wrong - eps).square().mean(dim=(1, 2, 3))  # (4,) one loss a picture
in_x0 = (means["eps"](wrong) - x0).square().mean(dim=(1, 2, 3))  # (4,)
snr = (level.alpha / level.sigma).square().float()
torch.testing.assert_close(in_eps, snr * in_x0, rtol=1e-3, atol=1e-5)
torch.testing.assert_close(in_eps, losses.diffusion_loss("eps", wrong, eps, level, gamma=None))
weighted = snr.clamp(max=5.0) * in_x0
torch.testing.assert_close(weighted, losses.diffusion_loss("eps", wrong, eps, level), rtol=1e-3, atol=1e-5)
for i in range(4):
    print(f"t = {int(t[i]):3}: SNR {snr[i]:10.4f}, a loss of 0.01 in eps is one of {0.01 / snr[i]:.5f} in x0")

# %% [markdown]
# At $t = 999$ a tiny error of the noise is a large one of the picture. A noise predictor therefore starts a run with
# grainy estimates; you will see them. The models of lesson 00 predict $v$, which is well-behaved at both ends. This
# lesson predicts noise, as the first paper did.

# %% [markdown]
# ## From points to pictures: the U-Net
#
# A picture of 28 by 28 pixels has 784 numbers, and a layer that connects all with all would learn nothing about
# neighbours. The network for pictures is made of convolutions. Three things are special.
#
# **The residual block knows the time.** It adds to its input a correction: norm, SiLU, convolution, twice. Between the
# two, the time enters as one number a channel, added to all pixels.

# %%
from torch.nn.functional import gelu, interpolate, silu


class ResBlock(nn.Module):
    def __init__(self, channels_in, channels_out, groups, time_width):
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.time_proj = nn.Linear(time_width, channels_out)
        self.norm2 = nn.GroupNorm(groups, channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        same = channels_in == channels_out
        self.skip = nn.Identity() if same else nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x, time):  # (B, channels_in, H, W), (B, time_width)
        h = self.conv1(silu(self.norm1(x)))
        h = h + self.time_proj(silu(time))[:, :, None, None]
        h = self.conv2(silu(self.norm2(h)))
        return self.skip(x) + h  # (B, channels_out, H, W)


def filled(module, seed=0):
    """The same module with random numbers everywhere: fresh ones hold zeros, which would hide differences."""
    generator = torch.Generator().manual_seed(seed)
    for p in module.parameters():
        nn.init.normal_(p, std=0.15, generator=generator)
    return module


theirs = filled(resnet.ResBlock(16, 32, groups=4, eps=1e-5, time_width=64))
ours = ResBlock(16, 32, groups=4, time_width=64)
ours.load_state_dict(theirs.state_dict())  # the same names, so the same weights fit
x, time = torch.randn(2, 16, 7, 7), torch.randn(2, 64)
torch.testing.assert_close(ours(x, time), theirs(x, theirs.shift(time)))

# %% [markdown]
# **Attention lets distant pixels talk.** A convolution sees its neighbours only; that a left sleeve goes with a right
# one is far apart. In attention every pixel asks a question (*query* $q$), offers a label (*key* $k$) and an answer
# (*value* $v$), and takes the mean of all answers, weighted by how well the labels fit its question:
#
# $$\text{softmax}\left(\frac{q k^\top}{\sqrt d}\right) v$$
#
# (Vaswani et al. 2017, equation 1.) Several *heads* do so side by side, each with its share of the channels.

# %%
from einops import rearrange


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.to_out = nn.Linear(width, width)

    def forward(self, x):  # (B, N, width): N pixels in a row
        q, k, v = (rearrange(f(x), "b n (h d) -> b h n d", h=self.heads) for f in (self.to_q, self.to_k, self.to_v))
        scores = q @ rearrange(k, "b h l d -> b h d l") / q.shape[-1] ** 0.5  # (B, heads, N, N)
        return self.to_out(rearrange(scores.softmax(dim=-1) @ v, "b h n d -> b n (h d)"))


theirs = filled(attention.Attention(32, heads=2, head_dim=16))
ours = Attention(32, heads=2)
ours.load_state_dict(theirs.state_dict())
x = torch.randn(2, 49, 32)
torch.testing.assert_close(ours(x), theirs(x))

# %% [markdown]
# In the U-Net, attention comes with a small network for each pixel, and both only *add* to what is there. Attention
# over $N$ pixels compares $N^2$ pairs, so it stands where the picture is smallest. The small network is *gated*: half
# of its numbers decide how much of the other half passes. (A `norm2` comes in lesson 05: it belongs to the attention
# that reads text.)


# %%
class Layer(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.norm1, self.norm3 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.self_attention = Attention(width, heads)
        self.feed_forward = nn.ModuleDict({"proj": nn.Linear(width, 8 * width), "out": nn.Linear(4 * width, width)})

    def forward(self, x):  # (B, N, width)
        x = x + self.self_attention(self.norm1(x))
        value, gate = self.feed_forward["proj"](self.norm3(x)).chunk(2, dim=-1)
        return x + self.feed_forward["out"](value * gelu(gate))


class Transformer(nn.Module):
    def __init__(self, width, heads, groups):
        super().__init__()
        self.norm = nn.GroupNorm(groups, width, eps=1e-6)
        self.proj_in, self.proj_out = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)
        self.layers = nn.ModuleList([Layer(width, heads)])

    def forward(self, x):  # (B, width, H, W)
        h = rearrange(self.proj_in(self.norm(x)), "b c h w -> b (h w) c")
        h = rearrange(self.layers[0](h), "b (h w) c -> b c h w", w=x.shape[-1])
        return x + self.proj_out(h)


size = {"context_dim": None, "linear_proj": False, "groups": 4}
theirs = filled(attention.SpatialTransformer(32, 2, 16, 1, **size))
ours = Transformer(32, 2, groups=4)
ours.load_state_dict(theirs.state_dict())
x = torch.randn(2, 32, 7, 7)
torch.testing.assert_close(ours(x), theirs(x, None))

# %% [markdown]
# **The U shape.** Down: 28, 14, 7 pixels a side, so that a few convolutions see the whole picture. Up again: 7, 14, 28,
# and on each level the maps from the way down are laid beside the ones from below. Those *skips* carry the exact place
# of every pixel, which the way through the bottom loses, and noise is all exact places.
#
# For our pictures of clothes, with 16, 32 and 32 channels on the three levels:
#
# | side | on the way down, each result kept as a skip | on the way up: from below + skip, to |
# |--:|---|---|
# | 28 | convolution to 16; block, 16 | blocks, 32 + 16 to 16 and 16 + 16 to 16; convolution to 1 |
# | 14 | halved; block, 16 to 32 | blocks, 32 + 32 to 32 and 32 + 16 to 32; doubled |
# | 7 | halved; block with attention, 32 | two blocks in the middle; with attention, twice 32 + 32 to 32; doubled |
#
# The preset says it in a few fields: `channels` times `mults` are the widths, `blocks` stand on each level of the way
# down (and one more on the way up), `depth` puts attention on the smallest level only, `groups` is for the norms.

# %%
from ldm_edu.families import FASHION

FASHION.unet


# %%
class Stage(nn.Module):
    def __init__(self, c, channels_in, channels_out, depth):
        super().__init__()
        self.res = ResBlock(channels_in, channels_out, c.groups, 4 * c.channels)
        self.transformer = Transformer(channels_out, c.heads, c.groups) if depth else nn.Identity()

    def forward(self, x, time):
        return self.transformer(self.res(x, time))


def two_layers(width_in, width):
    return nn.ModuleDict({"linear1": nn.Linear(width_in, width), "linear2": nn.Linear(width, width)})


def level(c, sizes, depth, conv=None):
    """The stages of one picture size, and the way to the next: half as large, twice as large, or (None) no change."""
    stages = nn.ModuleList([Stage(c, *size, depth) for size in sizes])
    return nn.ModuleDict({"stages": stages, "resample": nn.ModuleDict({"conv": conv} if conv else {})})


def way_down(c, one, two, three):
    half = [nn.Conv2d(width, width, 3, stride=2, padding=1) for width in (one, two)]
    return [level(c, [(one, one)], 0, half[0]), level(c, [(one, two)], 0, half[1]), level(c, [(two, three)], 1)]


def way_up(c, one, two, three):  # a + b channels: a from below, b from the skip
    twice = [nn.Conv2d(width, width, 3, padding=1) for width in (three, two)]
    return [
        level(c, [(three + three, three), (three + two, three)], 1, twice[0]),
        level(c, [(three + two, two), (two + one, two)], 0, twice[1]),
        level(c, [(two + one, one), (one + one, one)], 0),
    ]


# %% [markdown]
# Put together: time and class go in once, every map of the way down is kept, and the way up takes them back in the
# opposite order.


# %%
class SmallUNet(nn.Module):
    """Three levels of one block each on the way down, two each on the way up."""

    def __init__(self, c):
        super().__init__()
        widths = [c.channels * m for m in c.mults]
        self.channels = c.channels
        self.time_mlp = two_layers(c.channels, 4 * widths[0])
        self.vector_mlp = two_layers(c.vector_dim, 4 * widths[0])
        self.conv_in = nn.Conv2d(c.in_channels, widths[0], 3, padding=1)
        self.down = nn.ModuleList(way_down(c, *widths))
        self.mid = nn.ModuleList([Stage(c, widths[-1], widths[-1], 0) for _ in range(2)])
        self.up = nn.ModuleList(way_up(c, *widths))
        self.norm_out = nn.GroupNorm(c.groups, widths[0])
        self.conv_out = nn.Conv2d(widths[0], c.out_channels, 3, padding=1)

    def forward(self, x, t, cond):
        time = 0
        for mlp, features in ((self.time_mlp, time_embedding(t, self.channels)), (self.vector_mlp, cond.vector)):
            time = time + mlp["linear2"](silu(mlp["linear1"](features)))
        h = self.conv_in(x)
        skips = [h]
        for level in self.down:
            h = level["stages"][0](h, time)
            skips.append(h)
            if "conv" in level["resample"]:
                h = level["resample"]["conv"](h)
                skips.append(h)
        for stage in self.mid:
            h = stage(h, time)
        for level in self.up:
            for stage in level["stages"]:
                h = stage(torch.cat([h, skips.pop()], dim=1), time)
            if "conv" in level["resample"]:
                h = level["resample"]["conv"](interpolate(h, scale_factor=2.0))
        return self.conv_out(silu(self.norm_out(h)))


# %% [markdown]
# A `Conditioning` holds all that says what a picture is to show. Here it is a `vector`, which names the class of
# clothes: one of ten learned rows of numbers, or a row of zeros for "any". The vector takes the same way into the
# network as the time. Is this network the package's U-Net?

# %%
from ldm_edu.condition import Conditioning
from ldm_edu.models import unet

theirs, ours = filled(unet.UNet(FASHION.unet)), SmallUNet(FASHION.unet)
ours.load_state_dict(theirs.state_dict())
x, t, cond = torch.randn(2, 1, 28, 28), torch.tensor([30.0, 900.0]), Conditioning(vector=torch.randn(2, 16))
with torch.no_grad():
    torch.testing.assert_close(ours(x, t, cond), theirs(x, t, cond), rtol=1e-4, atol=1e-4)
print(f"{sum(p.numel() for p in ours.parameters()):,} parameters, and the same answer as the package's U-Net")

# %% [markdown]
# ## Train it
#
# Fashion-MNIST: 28 by 28 grey pictures of ten kinds of clothes (Xiao, Rasul and Vollgraf 2017); this course ships 8,000
# to train with. The package's loop is the one that you wrote above, plus what you would add: an averaged copy of the
# weights, mixed precision, times spread evenly over the batch. `train` is a generator: you see every step. This is the
# long cell of the lesson: about a minute.

# %%
from ldm_edu.datasets.fashion import FASHION_CLASSES, fashion_tensors
from ldm_edu.training.bands import held_out_pictures, short_recipe
from ldm_edu.training.loop import train
from ldm_edu.training.runs import pixels_parts, pixels_task

data = fashion_tensors("train")
recipe = short_recipe()  # the shipped model's recipe, cut short
task = pixels_task(FASHION, recipe, data, torch.device("cpu"))
records = list(train(task, steps=recipe.steps, seed=recipe.seed))
mine = pixels_parts(task, FASHION)  # the averaged networks
print(f"{recipe.steps} steps of {recipe.batch} pictures; loss {records[-1].values['loss']:.3f}")

# %% [markdown]
# A single loss jumps about with the batch and says little, as you know by now. Split it by noise level, on pictures
# that the network was never shown:


# %%
@torch.no_grad()
def per_level(networks, times, pictures):
    """Mean squared error of the noise at some times, of pictures with their labels."""
    eps = torch.randn(pictures.images.shape, generator=torch.Generator().manual_seed(0))
    cond = networks["classes"](pictures.labels.tolist())
    found = []
    for t in times:
        level = road.level(float(t))
        x = schedule.add_noise(pictures.images, eps, level)
        out = networks["unet"](x, level.t.float().expand(len(x)), cond)
        found.append((out - eps).square().mean())
    return torch.stack(found)


from ldm_edu.training.levels import TIMES, loss_per_level

held_out = held_out_pictures()
now = per_level(mine, TIMES, held_out)
same = loss_per_level(mine["unet"], mine["classes"](held_out.labels.tolist()), task.schedule, held_out.images)
torch.testing.assert_close(now, same, rtol=1e-2, atol=1e-4)

# %% [markdown]
# ## Is my model learning?
#
# For pictures nobody knows the best possible loss. But you can know what is *usual*. Beside the shipped checkpoint lies
# a file of losses from repeated trainings with other seeds, made by the command that the cell prints. The band goes
# from the lowest to the highest of the repeats, and 15 % further on both sides, for other machines and seeds.

# %%
import json

from ldm_edu import data_dir
from ldm_edu.viz import Table

usual = json.loads((data_dir() / "checkpoints" / "fashion" / "bands.json").read_text())
after = usual["steps"][str(recipe.steps)]
low, high = torch.tensor(after["low"]) / 1.15, torch.tensor(after["high"]) * 1.15

with torch.no_grad():  # a bug on purpose: the time is told as a share from 0 to 1
    deaf = {"unet": lambda x, t, cond: mine["unet"](x, t / 1000, cond)}
    broken = per_level(deaf | {"classes": mine["classes"]}, TIMES, held_out)


def verdict(loss, i):
    return "too high" if loss > high[i] else "too low" if loss < low[i] else "usual"


rows = [
    (
        str(t),
        f"{low[i]:.3f} to {high[i]:.3f}",
        f"{now[i]:.3f}",
        verdict(now[i], i),
        f"{broken[i]:.3f}",
        verdict(broken[i], i),
    )
    for i, t in enumerate(TIMES)
]
print(usual["command"])
Table(("t", f"usual after {recipe.steps} steps", "yours", "", "with a bug: told t / 1000", ""), tuple(rows))

# %%
inside = int(((now >= low) & (now <= high)).sum())
print(
    f"{inside} of {len(TIMES)} noise levels are in the band; with the bug, {int(((broken >= low) & (broken <= high)).sum())}"
)
assert now.mean() < 1.5 * torch.tensor(after["high"]).mean(), "the training should come out as usual"
assert broken.mean() > now.mean(), "a network that is told a wrong time should do worse"

# %% [markdown]
# **How to use it.** Compare level by level, not the mean. All levels at 1: nothing is learned, or the noise is not the
# noise that was added. Too high, and the more so the larger $t$ is, as in the last column: look at how the time gets
# into the network. *Too low* is a bug too: the network sees something that it should not. The same table after fewer
# steps, in the file:

# %%
marks = [int(mark) for mark in usual["steps"]]
middle = {mark: torch.tensor(usual["steps"][str(mark)]["repeats"]).mean(dim=0) for mark in marks}
with look():
    figure = Figure(figsize=(7.2, 3.2), layout="constrained")
    axes = figure.add_subplot()
    for mark, style in zip(marks, ((0, (1, 2)), (0, (5, 2)), "-")):
        axes.plot(TIMES, middle[mark], linestyle=style, color=NOISE, label=f"usual after {mark} steps")
    axes.fill_between(TIMES, low, high, color=NOISE, alpha=0.15, linewidth=0)
    axes.plot(TIMES, now, "o", color=NETWORK, label=f"yours after {recipe.steps}")
    axes.plot(TIMES, broken, "x", color=SOFT, label="yours, told t / 1000")
    axes.set(xlabel="time t (steps of the forward process)", ylabel="mean squared error of the noise", yscale="log")
    axes.legend(fontsize=8.5, ncols=2)
    progress = drawing(
        figure,
        "The loss per noise level after three numbers of steps, on a logarithmic axis. It falls with the time t and "
        "with training. Your dots lie in the shaded band; the crosses of the broken network lie above it, the more so "
        "the larger t is.",
    )
progress

# %% [markdown]
# **What to see.** Large $t$ is learned first and best: a sample that is nearly all noise only has to be repeated. The
# left end comes down slowly, and as with the clouds it will never reach zero.

# %% [markdown]
# ## Draw with it
#
# Now use the predictor, a small step at a time. *Ancestral sampling* draws $x_{t-1}$ from what the forward chain
# allows, if $\hat x_0$ were the truth (Ho et al. 2020, equations 6 and 7):
#
# $$x_{t-1} = \frac{\sqrt{\bar\alpha_{t-1}}\,\beta_t}{1 - \bar\alpha_t}\, \hat x_0
#   + \frac{\sqrt{1 - \beta_t}\,(1 - \bar\alpha_{t-1})}{1 - \bar\alpha_t}\, x_t
#   + \sqrt{\frac{1 - \bar\alpha_{t-1}}{1 - \bar\alpha_t}\, \beta_t}\;\, z, \qquad z \sim \mathcal{N}(0, 1)$$
#
# It goes a part of the way towards the estimate and adds fresh noise, less than it took away. Steps may also be longer
# than one: then $\beta_t$ is $1 - \bar\alpha_t / \bar\alpha_\text{next}$.

# %%
from itertools import pairwise


@torch.no_grad()
def ancestral(unet, cond, x, stops, rng):
    """From noise x to pictures; yields the sample after every step and the estimate that led to it."""
    for now, nxt in pairwise(stops):
        eps = unet(x, now.t.float().expand(len(x)), cond)
        x0 = (x - now.sigma * eps) / now.alpha
        here, there = now.alpha**2, nxt.alpha**2  # alpha_bar of this level and of the next
        beta = 1 - here / there
        mean = there.sqrt() * beta / (1 - here) * x0 + (1 - beta).sqrt() * (1 - there) / (1 - here) * x
        x = mean + ((1 - there) / (1 - here) * beta).sqrt() * rng.normal(x)
        yield x, x0


# %% [markdown]
# The shipped model `fashion` is the same network, trained by the same code for longer:
# `ldm-edu train unet --preset fashion`. Does your sampler walk the package's path, if both get the same noise?

# %%
from ldm_edu import LatentDiffusion, Rng, initial_noise, levels, samplers

shipped = LatentDiffusion.from_pretrained("fashion")
labels, seeds = [0, 1, 7, 9], [1, 2, 3, 4]
start, stops = initial_noise(seeds, shipped.latent_shape()), levels(shipped.schedule, 25)
cond = shipped.condition(labels)
package = samplers.ddpm(shipped.denoiser(cond), start, stops, rng=Rng(seeds))
for (x, x0), step in zip(ancestral(shipped.unet, cond, start, stops, Rng(seeds)), package):
    torch.testing.assert_close(x, step.x, rtol=1e-3, atol=2e-3)
    torch.testing.assert_close(x0, step.x0, rtol=1e-3, atol=2e-3)
print("the same path, step by step")

# %% [markdown]
# Real pictures, yours, and the shipped model's: one of each class, the first seeds, nobody picked the best. A hundred
# steps.

# %%
from ldm_edu.viz import matrix

classes = list(range(10))
stops = levels(shipped.schedule, 100)
start = initial_noise(classes, shipped.latent_shape())
real = torch.stack([data.images[data.labels == label][0] for label in classes])  # (10, 1, 28, 28)
drawn = {}
for name, networks in (("yours", mine), ("shipped", shipped.networks)):
    cond = networks["classes"](classes)
    for x, x0 in ancestral(networks["unet"], cond, start, stops, Rng(classes)):
        pass
    drawn[name] = x
matrix(
    torch.cat([real, drawn["yours"], drawn["shipped"]]),
    rows=["real", "yours", "shipped"],
    columns=[name.replace(" ", "\n") for name in FASHION_CLASSES],
    alt="Ten kinds of clothes in three rows: real pictures, pictures of the short training, which are rough, and of the "
    "shipped model.",
)

# %% [markdown]
# **What to see.** A minute of training is enough to tell trousers, shoes and bags apart; dress, coat and shirt are not
# yet. Edges are ragged and much is missing. The shipped model had five times as many steps, and nothing else is
# different. Neither is finished; the card `data/checkpoints/fashion/README.md` says what the shipped model was given.

# %%
after_long = per_level(shipped.networks, TIMES, held_out)
Table(
    ("t", "yours", "shipped", "shipped / yours"),
    tuple((str(t), f"{a:.4f}", f"{b:.4f}", f"{b / a:.2f}") for t, a, b in zip(TIMES, now, after_long)),
)

# %% [markdown]
# **What to see.** Small differences of the loss are large ones of the pictures. Remember that from the clouds: most of
# what is left at small $t$ is there for the best predictor too.
#
# ## Watch it work

# %%
from ldm_edu.viz import film_strip

steps = list(
    samplers.ddpm(shipped.denoiser(shipped.condition([9])), initial_noise([9], (1, 28, 28)), stops, rng=Rng([9]))
)
film_strip(steps)

# %% [markdown]
# **What to see.** Above the sample, below the estimate $\hat x_0$. The first estimates are a grainy blur, since a noise
# predictor's error is blown up there; then comes a shape. The sample itself shows nothing until late.
#
# Now step through it. Click on the slider and use the arrow keys. (On a page where nothing runs you see the strip.)

# %%
from ldm_edu.viz import explore

name = "trousers"
run = shipped.generate([FASHION_CLASSES.index(name)], seeds=[5], steps=40, guidance=1.0, sampler=samplers.ddpm)
explore(run, title=name)

# %% [markdown]
# **Try it.** Change `name` to another class. Find the step at which you could have said which class it is. Then set
# `guidance=3.0`: lesson 06 explains what that does.

# %% [markdown]
# ## Recap
#
# - The best answer to "what is the noise?" is a mean over everything that is possible; its loss is not zero and depends
#   on the time. A network that is trained on the plain squared error comes close to it.
# - One training step: draw $x_0$, $t$, $\epsilon$; mix; ask; compare.
# - $\epsilon$, $x_0$ and $v$ are three ways to say the same. They differ in how errors at each time are weighted.
# - The U-Net: the time as clocks, residual blocks that add it, attention where the picture is small, skips for places.
# - Judge a training by its loss per noise level, beside what is usual.
# - Ancestral sampling: part of the way to $\hat x_0$, plus a little fresh noise, again and again.

# %% [markdown]
# ## Check yourself

# %% tags=["hide-input"]
from ldm_edu.viz import quiz
from ldm_edu.viz.quiz import Choice, Question

quiz(
    Question(
        "Your noise predictor's loss at t = 50 is ten times that at t = 950. What do you do?",
        [
            Choice(
                "Train longer, until it is as small at t = 50",
                "No training can do that: a little noise cannot be told from a picture that is a little different.",
            ),
            Choice(
                "Compare with the usual loss at the same time",
                "A loss means something only beside the best possible, or a usual one, at the same noise level.",
                right=True,
            ),
            Choice(
                "Leave small times out of the training",
                "The sampler asks the network there too, at the end of every run.",
            ),
        ],
    ),
    Question(
        "Why is the estimated clean picture blurred when there is much noise?",
        [
            Choice(
                "The mean of many possible pictures has the smallest squared error",
                "The arrows at t = 800 show it: they end in the middle of all clouds, where no point is.",
                right=True,
            ),
            Choice(
                "The network has too few parameters", "The best denoiser of the clouds is exact, and does the same."
            ),
            Choice(
                "The convolutions blur it",
                "The skips carry every exact place. The answer is blurred because the question is open.",
            ),
        ],
    ),
    Question(
        "What are the skips of the U-Net for?",
        [
            Choice("They save computing time", "They make the layers on the way up wider, which costs time."),
            Choice("They tell the network the time", "The time enters through the residual blocks."),
            Choice(
                "They carry the exact places past the small levels",
                "Noise is different in every pixel, and the lowest level here has only 7 by 7 of them.",
                right=True,
            ),
        ],
    ),
    Question(
        "You predict v instead of noise and leave the rest. What changes for a perfect network?",
        [
            Choice(
                "Nothing",
                "Each can be computed from the other. Only a network that errs is changed: the same error weighs differently at each time.",
                right=True,
            ),
            Choice("The pictures become sharper", "A perfect answer said in other words is the same answer."),
            Choice(
                "The sampler needs another noise schedule",
                "The sampler asks for an estimate of the clean picture, whatever the network predicts.",
            ),
        ],
    ),
)

# %% [markdown]
# ## Go on
#
# - Ho, Jain and Abbeel 2020, *Denoising Diffusion Probabilistic Models* ([arXiv
#   2006.11239](https://arxiv.org/abs/2006.11239)), equations 6, 7 and 14, algorithms 1 and 2, appendix B: the loss, the
#   sampler and the network.
# - Vincent 2011, *A Connection Between Score Matching and Denoising Autoencoders*, Neural Computation 23: why seeing
#   noise is knowing the distribution.
# - Ronneberger, Fischer and Brox 2015, *U-Net* ([arXiv 1505.04597](https://arxiv.org/abs/1505.04597)), section 2.
# - Vaswani et al. 2017, *Attention Is All You Need* ([arXiv 1706.03762](https://arxiv.org/abs/1706.03762)), sections
#   3.2 and 3.5.
# - Salimans and Ho 2022, *Progressive Distillation* ([arXiv 2202.00512](https://arxiv.org/abs/2202.00512)), section 4:
#   $v$ and the weights.
# - Hang et al. 2023, *Efficient Diffusion Training via Min-SNR Weighting Strategy* ([arXiv
#   2303.09556](https://arxiv.org/abs/2303.09556)), section 3.4.
# - Xiao, Rasul and Vollgraf 2017, *Fashion-MNIST* ([arXiv 1708.07747](https://arxiv.org/abs/1708.07747)).
#
# Exercises: [exercises/02_noise_predictor.ipynb](../exercises/02_noise_predictor.ipynb); each item answers at once.
#
# A U-Net on pixels gets slow when pictures get large. Next: make pictures small, without losing much, [lesson
# 03](03_autoencoder.ipynb).
