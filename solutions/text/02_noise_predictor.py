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
# # Exercises 02 · The noise predictor
#
# Eight items for [lesson 02](../notebooks/02_noise_predictor.ipynb). Each stands on its own: leave one out and come
# back. Write with torch (and einops, where you like); `ldm_edu` itself may be looked at, but not called.

# %%
from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor

from ldm_edu.grading import check, hint

# %% [markdown] item="02.time_embedding"
# A network needs to know how noisy its input is. One number is a weak signal; a vector of waves is a strong one
# (Vaswani et al. 2017, section 3.5; Ho et al. 2020, appendix B). With `half = width // 2`, feature `i` of the first
# half is `cos(t * 10000 ** (-i / half))`, and the second half holds the sines of the same angles.


# %% solution="02.time_embedding"
def time_embedding(t: Tensor, width: int) -> Tensor:
    """Times (B,) as vectors (B, width); the width is even."""
    ### BEGIN SOLUTION
    half = width // 2
    frequency = 10_000.0 ** (-torch.arange(half) / half)  # (half,)
    angle = rearrange(t, "b -> b 1") * frequency  # (B, half)
    return torch.cat([angle.cos(), angle.sin()], dim=1)  # (B, width)
    ### END SOLUTION


# %% [markdown] item="02.noise_loss"
# The whole of training, in three lines (Ho et al. 2020, algorithm 1 and equation 14): noise the pictures, ask the
# network, compare. `network(x, t)` takes noisy pictures (B, C, H, W) and times (B,), and predicts the noise.
# `alpha_bar` is looked up already: one number for each picture.


# %% solution="02.noise_loss"
def noise_loss(
    network: Callable[[Tensor, Tensor], Tensor], x0: Tensor, eps: Tensor, t: Tensor, alpha_bar: Tensor
) -> Tensor:
    """The mean squared error, 0-d. ``x0`` and ``eps`` are (B, C, H, W); ``t`` and ``alpha_bar`` are (B,)."""
    ### BEGIN SOLUTION
    kept = rearrange(alpha_bar, "b -> b 1 1 1")
    x_t = kept.sqrt() * x0 + (1 - kept).sqrt() * eps
    return (network(x_t, t) - eps).square().mean()
    ### END SOLUTION


# %% [markdown] item="02.v_target"
# Near pure noise `eps` is all there is to see, and predicting it says nothing of the picture. `v` (Salimans and Ho
# 2022, section 4) asks for the noise where the picture shows and for the picture where the noise does.


# %% solution="02.v_target"
def v_target(x0: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    """What a network that predicts v should say: (...) like ``x0`` and ``eps``; ``alpha_bar`` is 0-d."""
    ### BEGIN SOLUTION
    return alpha_bar.sqrt() * eps - (1 - alpha_bar).sqrt() * x0
    ### END SOLUTION


# %% [markdown] item="02.x0_from_v"
# And the way back: the clean picture that a prediction of `v` implies.


# %% solution="02.x0_from_v"
def x0_from_v(x_t: Tensor, v: Tensor, alpha_bar: Tensor) -> Tensor:
    """The clean picture: (...) like ``x_t`` and ``v``; ``alpha_bar`` is 0-d."""
    ### BEGIN SOLUTION
    return alpha_bar.sqrt() * x_t - (1 - alpha_bar).sqrt() * v
    ### END SOLUTION


# %% [markdown] item="02.posterior"
# Ancestral sampling goes back one step of the chain: given `x_t` and (an estimate of) `x0`, where is the sample one
# step nearer to the picture? It is a Gaussian; return its mean and its variance (Ho et al. 2020, equations 6 and 7).
# `now` is `alpha_bar` where `x_t` is, `nxt` where sampling goes next: one step nearer to the picture, and larger.


# %% solution="02.posterior"
def posterior(x_t: Tensor, x0: Tensor, now: float, nxt: float) -> tuple[Tensor, float]:
    """The mean, (...) like ``x_t``, and the variance of the next sample."""
    ### BEGIN SOLUTION
    alpha = now / nxt  # what this one step keeps
    beta = 1 - alpha
    mean = nxt**0.5 * beta / (1 - now) * x0 + alpha**0.5 * (1 - nxt) / (1 - now) * x_t
    return mean, (1 - nxt) / (1 - now) * beta
    ### END SOLUTION


# %% [markdown] item="02.add_time"
# Inside a residual block the time step shifts every channel: `h` holds the feature maps (B, C, H, W), `shift` one
# number for each picture and channel (B, C). This code trains, slowly and badly, and what a picture becomes depends on
# the others in its batch. Correct it.


# %% solution="02.add_time"
def add_time(h: Tensor, shift: Tensor) -> Tensor:
    """Feature maps with the time step's shift, (B, C, H, W)."""
    return h + rearrange(shift.mean(dim=0), "c -> 1 c 1 1")


### BEGIN SOLUTION
def add_time(h: Tensor, shift: Tensor) -> Tensor:
    """Feature maps with the time step's shift, (B, C, H, W)."""
    return h + rearrange(shift, "b c -> b c 1 1")


### END SOLUTION

# %% [markdown] item="02.silent_loss"
# Your loss curve starts somewhere. A network that predicts noise, but always answers 0: what is its loss? A curve that
# stays there has learned nothing yet.

# %% solution="02.silent_loss"
silent_loss = ...
### BEGIN SOLUTION
silent_loss = float(torch.randn(1_000_000, generator=torch.Generator().manual_seed(0)).square().mean())
### END SOLUTION

# %% [markdown] item="02.x0_error"
# At index 999 of Stable Diffusion's schedule (1000 steps, sqrt(beta) linear from sqrt(0.00085) to sqrt(0.012)) a
# network predicts the noise with a root mean squared error of 0.1. How large is the error of the picture it implies?
# Guess first.

# %% solution="02.x0_error"
x0_error = ...
### BEGIN SOLUTION
sd_beta = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
last = float(torch.cumprod(1 - sd_beta, dim=0)[-1])
x0_error = 0.1 * ((1 - last) / last) ** 0.5
### END SOLUTION

# %% [markdown]
# From a terminal, `ldm-edu grade exercises/02_noise_predictor.ipynb` grades the whole notebook, and `ldm-edu progress`
# shows how far you have come.
