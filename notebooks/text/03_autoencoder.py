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
# # 03 · The autoencoder
#
# **The question.** How small can a picture be made before a program can no longer draw it back?
#
# Diffusion in pixels is slow: every step touches every pixel. A *latent* diffusion model first squeezes the picture
# into a small block of numbers, works there, and draws the picture back once, at the end. Here you build the part that
# squeezes and draws back, and you measure what it loses.
#
# **After this lesson you can**
#
# - build a variational autoencoder from residual blocks, and say what each of its losses is for;
# - compute the KL term in closed form, and check it by drawing samples;
# - read a curve of rate against distortion, and name the ceiling that it sets for every model built on top;
# - compute a model's latent scale factor, and explain Stable Diffusion's 0.18215;
# - decode a picture larger than memory in tiles without seams.
#
# **You need** lesson 00. Lesson 01 helps, but nothing here depends on it.
#
# **Time**: one to two minutes of computing on two processor cores, an hour of reading and playing.

# %% [markdown]
# ## The pictures
#
# Whole *concepts* (a kangaroo, in all its styles) were kept out of training. All that is measured below is measured on
# these, on white paper: pictures that no network here has seen.

# %%
import torch
from einops import rearrange, reduce

from ldm_edu.datasets.backgrounds import background, composite
from ldm_edu.datasets.emoji import emoji_tensors
from ldm_edu.viz import sheet

torch.manual_seed(0)
unseen = emoji_tensors("concepts")
every = torch.linspace(0, len(unseen.captions) - 1, 64).long()  # 64 of them, evenly spread: nobody picked the best
held_out = composite(unseen.rgba[every], background("white", len(every)))  # (64, 3, 64, 64) in [-1, 1]
names = [unseen.captions[i] for i in every]
sheet(held_out[:8], names[:8], alt=f"Eight real pictures on white: {'; '.join(names[:8])}.")

# %% [markdown]
# ## A baseline without training
#
# Cut the picture into squares of $f$ by $f$ pixels, and keep 4 numbers of each square. Which four? If encoder and
# decoder are both *linear*, the best answer is known: the four directions in which squares differ most, their
# *principal components*. No other linear pair has a smaller squared error.
#
# At factor $f$ a latent has $4/f^2$ numbers a pixel; the picture itself has 3.

# %%
from ldm_edu.evaluate.psnr import psnr, psnr_score

shown = emoji_tensors("train").rgba[::16]
training = composite(shown, background("white", len(shown)))  # (N, 3, 64, 64)


def squares(x: torch.Tensor, f: int) -> torch.Tensor:
    """(B, 3, H, W) -> (B * h * w, 3 * f * f)."""
    return rearrange(x, "b c (h p) (w q) -> (b h w) (c p q)", p=f, q=f)


def linear_autoencoder(f: int):
    """The best linear way there and back with 4 numbers a square."""
    rows = squares(training, f)
    mean = rows.mean(0)
    _, directions = torch.linalg.eigh((rows - mean).T @ (rows - mean))  # columns, smallest variance first
    keep = directions[:, -4:]  # (3 f f, 4)

    def restore(x: torch.Tensor) -> torch.Tensor:
        back = (squares(x, f) - mean) @ keep @ keep.T + mean
        side = x.shape[-1] // f
        return rearrange(back, "(b h w) (c p q) -> b c (h p) (w q)", h=side, w=side, p=f, q=f)

    return restore


factors = [2, 4, 8, 16]
linear = {f: linear_autoencoder(f) for f in factors}

# %% [markdown]
# The measure is the *peak signal-to-noise ratio*, $\text{PSNR} = 10 \log_{10}(\text{peak}^2 / \text{MSE})$ in decibel.
# Pixels run from -1 to 1, so the peak is 2. Ten decibel more mean a tenth of the squared error. Write it yourself and
# compare.

# %%
blurred = linear[4](held_out).clamp(-1, 1)
error = reduce((blurred - held_out).double() ** 2, "b c h w -> b", "mean")
mine = 10 * torch.log10(2**2 / error)  # (64,)
torch.testing.assert_close(mine, psnr(blurred, held_out))

linear_score = {f: psnr_score(linear[f], held_out).mean for f in factors}
print({f"f = {f}": f"{score:.1f} dB" for f, score in linear_score.items()})
assert linear_score[2] > linear_score[4] > linear_score[8] > linear_score[16]

# %% [markdown]
# Every doubling of $f$ keeps a quarter of the numbers, and costs decibels. A network is not linear and sees beyond the
# square. Now you build one.

# %% [markdown]
# ## The encoder
#
# A *residual block* adds a correction to its input: normalise, bend (SiLU), convolve, twice. Where it has nothing to
# say it adds zero, so that dozens in a row still train.

# %%
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    """x + correction(x): (B, c_in, H, W) -> (B, c_out, H, W)."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(1, c_in, eps=1e-6)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.norm2 = nn.GroupNorm(1, c_out, eps=1e-6)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.skip = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        return self.skip(x) + self.conv2(F.silu(self.norm2(h)))


class Half(nn.Module):
    """Half as wide: (B, c, H, W) -> (B, c, H/2, W/2)."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c, c, 3, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


# %% [markdown]
# The encoder for $f = 8$ is a chain: blocks that halve the width three times, a *middle* that also lets every position
# look at every other (attention, lesson 02), and a last convolution to 8 channels. Why 8, if a latent has 4? You will
# see in a moment. The decoder is the same chain backwards.

# %%
from ldm_edu.models.autoencoder import Middle


class Twice(nn.Module):
    """Twice as wide: (B, c, H, W) -> (B, c, 2H, 2W)."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c, c, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def ending(c: int, out: int) -> list[nn.Module]:
    return [nn.GroupNorm(1, c, eps=1e-6), nn.SiLU(), nn.Conv2d(c, out, 3, padding=1)]


def small_encoder() -> nn.Sequential:
    """(B, 3, H, W) -> (B, 8, H/8, W/8)."""
    down = [Block(4, 8), Half(8), Block(8, 8), Half(8), Block(8, 16), Half(16), Block(16, 16)]
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), *down, Middle(16, 1), *ending(16, 8))


def small_decoder() -> nn.Sequential:
    """(B, 4, h, w) -> (B, 3, 8h, 8w)."""
    up = [Block(16, 16), Block(16, 16), Twice(16), Block(16, 16), Block(16, 16), Twice(16)]
    up += [Block(16, 8), Block(8, 8), Twice(8), Block(8, 8), Block(8, 8)]
    return nn.Sequential(nn.Conv2d(4, 16, 3, padding=1), Middle(16, 1), *up, *ending(8, 3))


# %% [markdown]
# Is it the package's? Give both the same weights and the same pictures; the weights are random, which tests the most.
# (The package has one more convolution at each end of the latent, of one pixel: `quant` and `post_quant`.)

# %%
from ldm_edu.models.autoencoder import AutoencoderKL
from ldm_edu.training.compress import CONFIGS

torch.manual_seed(8)
package = AutoencoderKL(CONFIGS[8]).requires_grad_(False)
for part in (package.encoder, package.decoder):
    for parameter in part.parameters():
        nn.init.normal_(parameter, std=0.15)


def with_weights_of(source: nn.Module, mine: nn.Module) -> nn.Module:
    """Tensor by tensor, in order; the shapes must agree."""
    weights = source.state_dict().values()
    mine.load_state_dict(dict(zip(mine.state_dict(), weights, strict=True)))
    return mine.requires_grad_(False)


encoder = with_weights_of(package.encoder, small_encoder())
decoder = with_weights_of(package.decoder, small_decoder())

eight = encoder(held_out[:4])  # (4, 8, 8, 8)
torch.testing.assert_close(eight, package.encoder(held_out[:4]), rtol=1e-4, atol=1e-4)
z = torch.randn(2, 4, 8, 8)
torch.testing.assert_close(decoder(z), package.decoder(z), rtol=1e-4, atol=1e-4)

# %% [markdown]
# ## A cloud instead of a point
#
# The eight channels are two times four. For every latent number the encoder gives a mean $\mu$ and the logarithm of a
# variance, $\log \sigma^2$: a small normal distribution, the *posterior* $q(z \mid x)$. In training the decoder gets a
# sample of it,
#
# $$z = \mu + \sigma \, \epsilon, \qquad \epsilon \sim \mathcal{N}(0, 1).$$
#
# That is the *reparametrisation*: the chance is all in $\epsilon$, so gradients flow through $\mu$ and $\sigma$. Since
# the decoder never knows which point of the cloud it gets, neighbours in latent space must decode to similar pictures.

# %%
mean, logvar = package.quant(eight).chunk(2, dim=1)  # each (4, 4, 8, 8)
noise = torch.randn(mean.shape)
sample = mean + torch.exp(0.5 * logvar) * noise

posterior = package.encode(held_out[:4])
torch.testing.assert_close(mean, posterior.mean, rtol=1e-4, atol=1e-4)
torch.testing.assert_close(sample, posterior.sample(noise), rtol=1e-4, atol=1e-4)

# %% [markdown]
# What stops the encoder from making the clouds so small and so far apart that they are points again? A price. The KL
# divergence from $q$ to the standard normal is the number of *nats* (bits times $\ln 2$) that the posterior says more
# than nothing; for two normal distributions it has a closed form:
#
# $$\mathrm{KL} = \tfrac12 \sum \left(\mu^2 + \sigma^2 - 1 - \log \sigma^2\right).$$
#
# You can check it without believing it: it is the mean of $\log q(z) - \log p(z)$ over samples $z$ of $q$.

# %%
kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).sum(dim=(1, 2, 3))  # (4,), in nats
torch.testing.assert_close(kl, posterior.kl(), rtol=1e-4, atol=1e-2)

q = torch.distributions.Normal(mean, torch.exp(0.5 * logvar))
p = torch.distributions.Normal(0.0, 1.0)
draws = q.sample((1000,))  # (1000, 4, 4, 8, 8)
estimate = (q.log_prob(draws) - p.log_prob(draws)).sum(dim=(2, 3, 4)).mean(0)  # (4,)
torch.testing.assert_close(estimate, kl, rtol=0.03, atol=1.0)
print("closed form:", [f"{value:.1f}" for value in kl], " by sampling:", [f"{value:.1f}" for value in estimate])

# %% [markdown]
# The weight of this price is tiny here (0.0001 a pixel value; Stable Diffusion's is 0.000001): the autoencoder is to
# keep the picture, and only to keep its latents in a bounded, smooth cloud.

# %% [markdown]
# ## Three more losses
#
# **L1**, the mean absolute difference, decides colours and places. It has a weakness. Where the decoder cannot know on
# which of several pixels a line lies, the answer with the smallest expected L1 is the *median* over the possibilities.
# Compute it: sixteen copies of one picture, each shifted a little, all equally likely.

# %%
from ldm_edu.viz import matrix

heart = held_out[5:6]
shifts = [(i, j) for i in (-3, -1, 1, 3) for j in (-3, -1, 1, 3)]
possible = torch.cat([torch.roll(heart, shift, dims=(2, 3)) for shift in shifts])  # (16, 3, 64, 64)
median = possible.median(dim=0, keepdim=True).values  # the best answer by L1


def expected_l1(x: torch.Tensor) -> float:
    return float((x - possible).abs().mean())


one_guess = min(expected_l1(guess[None]) for guess in possible)
print(f"expected L1: the median {expected_l1(median):.4f}, the best sharp guess {one_guess:.4f}")
assert expected_l1(median) < one_guess
matrix(
    torch.cat([heart, possible[:1], median]),
    rows=[names[5]],
    columns=["original", "one possibility", "L1's best answer"],
)

# %% [markdown]
# **What to see.** L1 prefers a picture whose fine parts are gone to any sharp picture that may be a few pixels off.
# That is blur, and it is *optimal*: more training does not cure it. So two losses ask another question.
#
# **The perceptual loss** compares pictures in the feature maps of a classifier: not the same pixels, but the same
# edges and textures. At every position the features are scaled to length 1, then their squared differences are summed.

# %%
from ldm_edu.classifiers import load_classifier
from ldm_edu.training import losses

classifier = load_classifier("perceptual").model.requires_grad_(False)


def unit(features: torch.Tensor) -> torch.Tensor:
    return features / features.norm(dim=1, keepdim=True).clamp(min=1e-12)


def perceptual(images: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    maps = zip(classifier.maps(images), classifier.maps(reference), strict=True)
    return torch.stack([(unit(a) - unit(b)).square().sum(dim=1).mean() for a, b in maps]).mean()


soft = linear[8](held_out[:8])
mine = perceptual(soft, held_out[:8])
torch.testing.assert_close(mine, losses.perceptual_loss(classifier, soft, held_out[:8]))
print(f"perceptual distance of the linear f = 8 copies: {mine:.3f}; of the originals: 0")

# %% [markdown]
# **The adversarial loss** lets a second network judge. A *patch discriminator* says of every patch whether it is real
# or decoded; it is trained with the *hinge* loss, which asks for more than 1 on real patches and less than -1 on
# decoded ones. The autoencoder is rewarded where it is fooled.

# %%
from ldm_edu.models.discriminator import PatchDiscriminator


def hinge(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


torch.manual_seed(3)
judge = PatchDiscriminator(channels=16)
optimizer = torch.optim.AdamW(judge.parameters(), 2e-3)
rng = torch.Generator().manual_seed(3)
for _ in range(40):
    real = training[torch.randint(len(training), (8,), generator=rng)]
    loss = hinge(judge(real), judge(linear[8](real)))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

with torch.no_grad():
    real, fake = judge(held_out[:16]), judge(linear[8](held_out[:16]))  # (16, 1, 16, 16) logits, one a patch
torch.testing.assert_close(hinge(real, fake), losses.discriminator_loss(real, fake))
print(f"mean logit of real patches {real.mean():.2f}, of decoded ones {fake.mean():.2f}")
assert real.mean() > fake.mean()

# %% [markdown]
# After forty steps it tells decoded patches from real ones by their blur, on pictures it has never seen. An autoencoder
# trained against it must draw edges that could be real, even where it does not know the right ones. The finished emoji
# model was trained with all four terms.

# %% [markdown]
# ## Train one
#
# The lines above make an autoencoder; a few more train it. Yours starts from random weights and learns $f = 8$ on
# cuttings of the training pictures, on random backgrounds: 1,200 steps with L1 and KL, half a minute.

# %%
from ldm_edu.training.compress import cuttings

torch.manual_seed(1)
yours = nn.ModuleDict({"encoder": small_encoder(), "decoder": small_decoder()})
STEPS = 1200
optimizer = torch.optim.AdamW(yours.parameters(), 4e-3)
falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, total_iters=STEPS)
draw = cuttings(32)
history = []
for step in range(STEPS):
    rng = torch.Generator().manual_seed(step)
    x = draw(rng, 8)  # (8, 3, 32, 32)
    mean, logvar = yours["encoder"](x).chunk(2, dim=1)
    logvar = logvar - 6.0  # clouds start small: exp(-6 / 2) = 0.05 wide
    z = mean + torch.exp(0.5 * logvar) * torch.randn(mean.shape, generator=rng)
    l1 = (yours["decoder"](z) - x).abs().mean()
    kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).sum(dim=(1, 2, 3)).mean() / x[0].numel()
    optimizer.zero_grad()
    (l1 + 1e-4 * kl).backward()
    nn.utils.clip_grad_norm_(yours.parameters(), 1.0)
    optimizer.step()
    falling.step()
    history.append((float(l1.detach()), float(kl.detach())))

# %%
from matplotlib.figure import Figure

from ldm_edu.viz.style import NETWORK, NOISE, SIGNAL, TEXT, drawing, look

with look():
    figure = Figure(figsize=(7.2, 2.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, place, name, colour in (
        (left, 0, "L1 (half the pixel range)", SIGNAL),
        (right, 1, "KL (nats a pixel value)", NOISE),
    ):
        axes.plot(range(1, len(history) + 1), [pair[place] for pair in history], color=colour, lw=0.6)
        axes.set(xlabel="training step", ylabel=name, ylim=(0, None))
curves = drawing(
    figure, alt="Two curves over the training steps: L1 falls, unevenly, to about half; KL of the latents rises."
)
first = sum(pair[0] for pair in history[:50]) / 50
last = sum(pair[0] for pair in history[-50:]) / 50
print(f"L1, mean of the first 50 steps {first:.3f}, of the last 50 {last:.3f}")
assert last < 0.7 * first
curves

# %% [markdown]
# **What to see.** L1 falls, and goes up and down with what each batch happens to hold. KL rises at first: that is what
# the encoder pays for telling more, and it pays as long as the decoder makes use of it. L1 is not at its end yet. What
# is missing is width and patience: the emoji model's recipe (`ldm_edu.training.recipes`) has these lines, wider layers,
# larger batches, the two other losses and several times the steps.

# %% [markdown]
# ## Rate against distortion
#
# Now the measurement. The *rate* is how much a latent may say: in numbers a pixel, and in KL bits a pixel. The
# *distortion* is what is lost, measured as PSNR on the 64 unseen pictures. Four ways to compress stand side by side:
#
# - the best **linear** code, at every $f$;
# - four **small networks** of about one size, 65,000 parameters, that differ in $f$. They come with the course, trained
#   like yours, at half your learning rate for 3,000 steps: `python -m ldm_edu.training.compress`;
# - **yours**, at $f = 8$;
# - the **emoji model**'s own autoencoder, at $f = 4$: forty times as many parameters, and over an hour of training.
#
# A linear code becomes a cloud too: scale each of its numbers to variance 1, and blur it by $\sigma = 0.05$, the width
# at which the networks start. Then the same formula gives its KL.

# %%
import math

from ldm_edu import LatentDiffusion
from ldm_edu.models.autoencoder import Posterior
from ldm_edu.training.compress import load_compress
from ldm_edu.viz import Table

emoji_model = LatentDiffusion.from_pretrained("emoji").autoencoder


def bits_a_pixel(posterior: Posterior) -> float:
    return float(posterior.kl().mean()) / (64 * 64 * math.log(2))


def linear_bits(f: int) -> float:
    """KL bits a pixel of a linear code whose numbers have variance 1 on the training pictures."""
    rows = squares(training, f)
    values, directions = torch.linalg.eigh(torch.cov(rows.T))
    code = (squares(held_out, f) - rows.mean(0)) @ directions[:, -4:] / values[-4:].sqrt()
    code = rearrange(code, "(b h w) c -> b c h w", b=len(held_out), h=64 // f)
    return bits_a_pixel(Posterior(code, torch.full_like(code, 2 * math.log(0.05))))


def measure(encode, decode):
    """KL bits a pixel and the PSNR of each of the 64 pictures, for a way to encode and one to decode."""
    with torch.no_grad():
        posterior = encode(held_out)
        decoded = decode(posterior.mode).clamp(-1, 1)
    return bits_a_pixel(posterior), psnr(decoded, held_out), decoded


def your_encoder(x: torch.Tensor) -> Posterior:
    mean, logvar = yours["encoder"](x).chunk(2, dim=1)
    return Posterior(mean, logvar - 6.0)


points = {"linear": {f: (linear_bits(f), linear_score[f]) for f in factors}, "small network": {}}
for f in factors:
    network = load_compress(f)
    bits, scores, _ = measure(network.encode, network.decode)
    points["small network"][f] = bits, float(scores.mean())
bits, scores, _ = measure(your_encoder, yours["decoder"])
points["yours"] = {8: (bits, float(scores.mean()))}
bits, scores, decoded = measure(emoji_model.encode, emoji_model.decode)  # used again below
emoji_score = float(scores.mean())
points["emoji model"] = {4: (bits, emoji_score)}

rows = [
    (name, str(f), f"{4 / f**2:.4f}", f"{bits:.3f}", f"{score:.1f}")
    for name, found in points.items()
    for f, (bits, score) in found.items()
]
Table(("autoencoder", "f", "numbers a pixel", "KL bits a pixel", "PSNR, dB"), tuple(rows))

# %%
looks = {
    "linear": ("s--", NOISE, 6),
    "small network": ("o-", SIGNAL, 6),
    "yours": ("^", TEXT, 8),
    "emoji model": ("*", NETWORK, 13),
}
with look():
    figure = Figure(figsize=(7.4, 3.3), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for name, found in points.items():
        mark, colour, size = looks[name]
        heights = [score for _, score in found.values()]
        left.plot([4 / f**2 for f in found], heights, mark, ms=size, color=colour, label=name)
        right.plot([bits for bits, _ in found.values()], heights, mark, ms=size, color=colour)
    left.set(xscale="log", xlabel="latent numbers a pixel", ylabel="PSNR, unseen concepts (dB)", xlim=(0.01, 2.0))
    right.set(xscale="log", xlabel="KL bits a pixel")
    left.set_xticks([4 / f**2 for f in factors], [f"{4 / f**2:.2g}\nf = {f}" for f in factors])
    left.minorticks_off()
    left.legend(loc="upper left", fontsize=9)
assert emoji_score > linear_score[4] + 2, "a well trained network should beat the best linear one at the same rate"
words = "; ".join(
    f"{name}, f = {f}: {score:.1f} dB" for name, found in points.items() for f, (_, score) in found.items()
)
drawing(figure, alt=f"PSNR against rate, rising to the right in both plots. {words}.")

# %% [markdown]
# **What to see.** Every step to the left keeps a quarter of the numbers and costs decibels, whatever the method: less
# rate, more distortion. The small networks and yours end about where the linear codes do, a little above or
# below: half a minute to two minutes of training bring them level with what linear algebra gives for nothing. The star
# stands far above at the *same* number of latent values: width and patience, and more said with each number (right
# plot). Rombach et al. (2022, section 4.1) train diffusion models on latents of $f$ = 1 to 32 and find 4 to 16 a good
# balance: small factors leave the diffusion model slow, large ones lose too much.
#
# The ceiling is the point of this lesson. A diffusion model on these latents can at best draw the *right* latent.
# Then the decoder draws it, and what the decoder cannot draw, nobody gets.

# %% [markdown]
# ## What no diffusion model can repair

# %%
worst = scores.argsort()[:5]  # the five that lose most
difference = (decoded - held_out).abs().mean(dim=1, keepdim=True)[worst]  # (5, 1, 64, 64), from 0 to 2
errors = (1 - 4 * difference).clamp(-1, 1).expand(-1, 3, -1, -1)  # white: none; black: half the range or more
pictures = torch.cat([held_out[worst], decoded[worst], errors])
labels = [f"{scores[i]:.1f} dB" for i in worst]
matrix(
    pictures,
    rows=["original", "decoded", "error map"],
    columns=labels,
    alt=(
        "The five held-out pictures that lose most, each above its decoded copy and a map of the error, which is dark "
        f"along thin lines and edges: {'; '.join(names[i] for i in worst)}."
    ),
)

# %% [markdown]
# **What to see.** The five worst of the 64. The error is not everywhere: it sits on edges, thin lines, small eyes and
# letters, the things that are smaller than a latent position. Now count it: is the error larger where the picture has
# edges?

# %%
flat = F.pad((held_out.diff(dim=-1).abs()).amax(1), (0, 1)) + F.pad(held_out.diff(dim=-2).abs().amax(1), (0, 0, 0, 1))
edges = flat > 0.5  # (64, 64, 64): neighbours differ by a quarter of the range
missed = (decoded - held_out).abs().mean(1)
print(f"mean error on edges {missed[edges].mean():.3f}, elsewhere {missed[~edges].mean():.3f}")
assert missed[edges].mean() > 2 * missed[~edges].mean()

# %% [markdown]
# ## The scale factor
#
# A diffusion model mixes latents with noise of variance 1, so the latents should have variance 1 too. Raw ones do not:
# the KL price is too small to make them. So they are measured once, and shifted and scaled:
# $\text{latents} = (z - \text{shift}) \cdot \text{scale}$ with $\text{scale} = 1 / \text{std}$.

# %%
from ldm_edu.training import sources

with torch.no_grad():
    raw = torch.cat([emoji_model.encode(part).mode for part in training[::2].split(64)])
shift = raw.mean().item()
scale = 1 / (raw - shift).std().item()
torch.testing.assert_close((scale, shift), sources.measure_scale(raw))

config = emoji_model.config
print(f"measured: scale {scale:.3f}, shift {shift:.3f}; in the model's config: {config.scale}, {config.shift}")
assert abs(scale / config.scale - 1) < 0.1 and abs(shift - config.shift) < 0.4

# %% [markdown]
# Stable Diffusion's famous 0.18215 is the same thing: one divided by the standard deviation of its autoencoder's
# latents, measured on the first batch of its training (Rombach et al. 2022, appendix G), without a shift.

# %%
print(f"its latents had a standard deviation of {1 / 0.18215:.2f}")

# %% [markdown]
# ## A picture larger than memory
#
# A decoder's memory grows with the picture. So cut the *latent* into tiles and decode one at a time. Neighbouring tiles
# overlap, and each fades into the next: a weight rises from 0 to 1 over the overlap, and sums are divided by the sum of
# the weights.

# %%
import ldm_edu.tiling


def fade(length: int, overlap: int) -> torch.Tensor:
    """(length,): the distance to the nearer end of the tile, in overlaps, at most 1."""
    to_end = torch.minimum(torch.arange(length) + 0.5, length - torch.arange(length) - 0.5)
    return (to_end / overlap).clamp(max=1) if overlap else torch.ones(length)


def tiled(decode, z: torch.Tensor, tile: int, overlap: int, f: int = 4) -> torch.Tensor:
    side = z.shape[-1]
    places = [*range(0, side - tile, tile - overlap), side - tile]
    total, weights = torch.zeros(len(z), 3, side * f, side * f), torch.zeros(side * f, side * f)
    weight = torch.outer(fade(tile * f, overlap * f), fade(tile * f, overlap * f))
    for i in places:
        for j in places:
            piece = decode(z[..., i : i + tile, j : j + tile])
            total[..., f * i : f * (i + tile), f * j : f * (j + tile)] += weight * piece
            weights[f * i : f * (i + tile), f * j : f * (j + tile)] += weight
    return total / weights


poster = rearrange(held_out[:4], "(r c) k h w -> 1 k (r h) (c w)", r=2)  # (1, 3, 128, 128)
poster = F.interpolate(poster, scale_factor=1.5, mode="bilinear").clamp(-1, 1)  # (1, 3, 192, 192)
with torch.no_grad():
    z = emoji_model.encode(poster).mode  # (1, 4, 48, 48)
    whole = emoji_model.decode(z)
    hard, faded = (tiled(emoji_model.decode, z, 16, overlap) for overlap in (0, 6))
    theirs = ldm_edu.tiling.decode_tiled(emoji_model.decode, z, 16, 6)
torch.testing.assert_close(faded, theirs, rtol=1e-4, atol=1e-4)

agree = [psnr(x, whole.clamp(-1, 1)).item() for x in (hard, faded)]
print(f"against decoding it whole: without overlap {agree[0]:.1f} dB, with {agree[1]:.1f} dB")
assert agree[1] > agree[0]

# %%
ways = (whole, hard, faded)
gaps = [(1 - 8 * (x - whole).abs().mean(1, keepdim=True)).clamp(-1, 1).expand(-1, 3, -1, -1) for x in ways]
matrix(
    torch.cat([*ways, *gaps]),
    rows=["decoded", "difference\nto the whole"],
    columns=["whole", "tiles,\nno overlap", "tiles,\nfeathered"],
)

# %% [markdown]
# **What to see.** The lower row shows the difference to the whole, eight times magnified: white is none. Without an
# overlap it has straight edges where two tiles meet: seams. With one, what remains is soft. It does not vanish: group
# norm and attention look at the whole tile, so a tile decoded alone never knows all that the whole picture knows.

# %% [markdown]
# ## Play: a walk in latent space
#
# Encode two unseen pictures, go from one latent to the other in a straight line, and decode on the way. Drag the
# slider, or use the arrow keys.

# %%
from ldm_edu.viz.walk import walk

a, b = 5, 20
with torch.no_grad():
    here, there = emoji_model.encode(held_out[[a, b]]).mode.split(1)  # each (1, 4, 16, 16)
    shares = torch.linspace(0, 1, 13).view(-1, 1, 1, 1)
    way = emoji_model.decode((1 - shares) * here + shares * there)
walk(way, [f"{share:.0%} of the way" for share in shares.flatten()], title=f"From {names[a]} to {names[b]}")

# %% [markdown]
# **What to see.** The halfway picture is a double exposure with some edges redrawn, and nothing new in between. The
# latent is a small, smooth *picture*, not a list of meanings. Meaning is the diffusion model's business.
#
# See for yourself: the four channels of the first latent, scaled.

# %%
from ldm_edu.viz import channels

channels(((here - config.shift) * config.scale)[0])

# %% [markdown]
# **What to see.** You recognise the heart or its stars in every channel: each is a different mix of brightness and
# colours.
#
# **Try it.** Change `a` and `b`. Mix the *pixels* instead: `walk((1 - shares) * held_out[a] + shares * held_out[b],
# [f"{share:.0%}" for share in shares.flatten()])`; what is different? Set one channel of `here` to its mean and decode
# it: what did that channel carry?

# %% [markdown]
# ## Recap
#
# - An autoencoder maps a picture to a latent of $4/f^2$ numbers a pixel and back.
# - A variational one gives a cloud: mean and variance. The reparametrisation lets gradients through; the KL term is the
#   price of telling, in nats, and it has a closed form.
# - L1 alone blurs, and rightly so; the perceptual and the adversarial loss ask for edges that could be real.
# - Rate against distortion: fewer numbers, more loss. The decoder's ceiling holds for all that is built on the latents.
# - The scale factor is one over the standard deviation of the latents, and nothing more.
# - Tiles with a fade decode a picture of any size.

# %% [markdown]
# ## Check yourself

# %% tags=["hide-input"]
from ldm_edu.viz.quiz import Choice, Question, quiz

quiz(
    Question(
        "At f = 8 with 4 channels, how many numbers stand for a 64 by 64 picture?",
        [
            Choice("64", "That is one channel: 8 by 8 positions. There are four channels."),
            Choice("256", "64 / 8 = 8 positions a side, 8 * 8 * 4 = 256, of 12,288 in the picture.", right=True),
            Choice("1,024", "That is f = 4: 16 * 16 * 4."),
        ],
    ),
    Question(
        "Why is noise added to the latent in training?",
        [
            Choice("So that diffusion can start from it", "The diffusion model adds its own noise, later."),
            Choice(
                "So that neighbouring latents decode to similar pictures",
                "The decoder must cope with any point of the cloud, so the space becomes smooth.",
                right=True,
            ),
            Choice("So that the file becomes smaller", "Nothing is written to a file here; noise does not compress."),
        ],
    ),
    Question(
        "A model draws smeared eyes. Its autoencoder smears the eyes of real pictures too. What helps?",
        [
            Choice("More sampling steps", "They bring you nearer to the right latent, and that one decodes smeared."),
            Choice("A larger guidance scale", "It chooses another latent; the decoder stays the same."),
            Choice("A better autoencoder", "The ceiling is the decoder's. Only it can be raised.", right=True),
        ],
    ),
    Question(
        "Latents have a standard deviation of 2 and a mean of 0. What is the scale factor?",
        [
            Choice("0.5", "One over the standard deviation: scaled latents have a variance of 1.", right=True),
            Choice("2", "That would make the standard deviation 4."),
            Choice("0.25", "One over the variance; the scale multiplies the latents themselves, not their squares."),
        ],
    ),
)

# %% [markdown]
# ## Go on
#
# - Rombach et al. 2022, *High-Resolution Image Synthesis with Latent Diffusion Models*, sections 3.1 and 4.1 and
#   appendix G ([arXiv 2112.10752](https://arxiv.org/abs/2112.10752)): the autoencoder, the choice of $f$, the scale.
# - Kingma and Welling 2014, *Auto-Encoding Variational Bayes*, section 2.4 and appendix B ([arXiv
#   1312.6114](https://arxiv.org/abs/1312.6114)): the reparametrisation and the KL term.
# - Zhang et al. 2018 ([arXiv 1801.03924](https://arxiv.org/abs/1801.03924)), equation 1: the perceptual distance. Isola
#   et al. 2017 ([arXiv 1611.07004](https://arxiv.org/abs/1611.07004)), section 3.2.2: the patch discriminator.
#
# Exercises: [exercises/03_autoencoder.ipynb](../exercises/03_autoencoder.ipynb); each item answers at once.
#
# Next: [lesson 04, latent diffusion](04_latent_diffusion.ipynb), where a model learns to draw these latents.
