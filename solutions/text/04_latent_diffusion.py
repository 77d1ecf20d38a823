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
# # Exercises 04 · Latent diffusion
#
# Seven items for [lesson 04](../notebooks/04_latent_diffusion.ipynb). Each stands on its own: leave one out and come
# back. Write with torch (and einops, where you like); `ldm_edu` itself may be looked at, but not called.

# %%
import torch
from torch import Tensor

from ldm_edu.grading import check, hint

# %% [markdown] item="04.to_unit"
# An encoder's latents have a mean and a spread of their own. Before a diffusion model sees them they get mean 0 and
# standard deviation 1, with a `shift` and a `scale` measured once.


# %% solution="04.to_unit"
def to_unit(z: Tensor, scale: float, shift: float) -> Tensor:
    """Raw latents ``z`` (B, C, h, w) as a diffusion model takes them."""
    ### BEGIN SOLUTION
    return (z - shift) * scale
    ### END SOLUTION


# %% [markdown] item="04.times"
# If the times of a batch are drawn one by one, a small batch may see only noisy ones, and the loss jumps about. Spread
# them (after Kingma et al. 2021, who draw one random number for all of them): picture `i` of `n` draws its time from
# the `i`-th of `n` equal strips, at the place `u[i]` inside it.


# %% solution="04.times"
def times(u: Tensor, steps: int) -> Tensor:
    """Whole times from 0 to ``steps - 1``, one a picture, for random numbers ``u`` (B,) in [0, 1)."""
    ### BEGIN SOLUTION
    n = len(u)
    return ((torch.arange(n) + u) / n * steps).long()  # (B,)
    ### END SOLUTION


# %% [markdown] item="04.ema"
# Training jitters; the average of the last weights does not. Write one update of that moving average. Leave the inputs
# as they are.


# %% solution="04.ema"
def ema(average: Tensor, weights: Tensor, decay: float) -> Tensor:
    """The new average, (...) like both."""
    ### BEGIN SOLUTION
    return decay * average + (1 - decay) * weights
    ### END SOLUTION


# %% [markdown] item="04.weight"
# Where there is little noise, a noise predictor's error is largest, and most of it cannot be removed (lesson 02):
# unweighted, these times take most of training. Write the min-SNR weight of Hang et al. 2023 (section 3.4) for a
# network that predicts the noise.


# %% solution="04.weight"
def weight(snr: Tensor, gamma: float) -> Tensor:
    """The weight of each squared error, (B,), at signal-to-noise ratios (B,)."""
    ### BEGIN SOLUTION
    return snr.clamp(max=gamma) / snr
    ### END SOLUTION


# %% [markdown] item="04.cached"
# The latents of all pictures are computed once and kept. This function picks some rows and noises them. The first epoch
# trains well; later the samples turn to porridge. Correct it.


# %% solution="04.cached"
def cached(latents: Tensor, rows: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    """Noisy latents (B, C, h, w) of the ``rows`` (B,) of a cache (N, C, h, w); ``alpha_bar`` is (B,)."""
    kept = alpha_bar[:, None, None, None]
    latents[rows] = kept.sqrt() * latents[rows] + (1 - kept).sqrt() * eps
    return latents[rows]


### BEGIN SOLUTION
def cached(latents: Tensor, rows: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    """Noisy latents (B, C, h, w) of the ``rows`` (B,) of a cache (N, C, h, w); ``alpha_bar`` is (B,)."""
    kept = alpha_bar[:, None, None, None]
    return kept.sqrt() * latents[rows] + (1 - kept).sqrt() * eps


### END SOLUTION

# %% [markdown] item="04.convolutions"
# Take one convolution of a U-Net, with the same channels in and out, once on a picture and once on a latent of factor
# f = 8. How many times less work is it on the latent?

# %% solution="04.convolutions"
convolutions = ...
### BEGIN SOLUTION
convolutions = (512 * 512) / (64 * 64)
### END SOLUTION

# %% [markdown] item="04.attention"
# And self-attention over all places, where every place looks at every other: how many times fewer pairs are there?

# %% solution="04.attention"
attention = ...
### BEGIN SOLUTION
attention = (512 * 512) ** 2 / (64 * 64) ** 2
### END SOLUTION

# %% [markdown]
# From a terminal, `ldm-edu grade exercises/04_latent_diffusion.ipynb` grades the whole notebook, and `ldm-edu progress`
# shows how far you have come.
