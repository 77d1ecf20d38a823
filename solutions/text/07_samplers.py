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
# # Exercises 07 · Fast samplers
#
# Eight items for [lesson 07](../notebooks/07_samplers.ipynb). Each stands on its own: leave one out and come back.
# Write with torch (and einops, where you like); `ldm_edu` itself may be looked at, but not called.

# %%
import math
from collections.abc import Callable

import torch
from torch import Tensor

from ldm_edu.grading import check, hint

# %% [markdown] item="07.ddim_step"
# DDIM without noise (Song et al. 2021, equation 12): guess the clean picture, then noise it again to the next level,
# with the very noise that was predicted. `now` and `nxt` are `alpha_bar` at both levels.


# %% solution="07.ddim_step"
def ddim_step(x: Tensor, eps: Tensor, now: float, nxt: float) -> Tensor:
    """The sample at the next, less noisy level: (...) like ``x``."""
    ### BEGIN SOLUTION
    x0 = (x - (1 - now) ** 0.5 * eps) / now**0.5
    return nxt**0.5 * x0 + (1 - nxt) ** 0.5 * eps
    ### END SOLUTION


# %% [markdown] item="07.euler_step"
# Divide everything by sqrt(alpha_bar) and the picture no longer fades: x = x0 + sigma eps. Then sampling is the
# equation dx / d sigma = eps (Karras et al. 2022, equation 1). Take one step of Euler's method, given the estimate of
# `x0`.


# %% solution="07.euler_step"
def euler_step(x: Tensor, x0: Tensor, sigma: float, sigma_next: float) -> Tensor:
    """The sample at ``sigma_next``, less than ``sigma``: (...) like ``x``."""
    ### BEGIN SOLUTION
    eps = (x - x0) / sigma
    return x + (sigma_next - sigma) * eps
    ### END SOLUTION


# %% [markdown] item="07.heun_step"
# Heun's method looks ahead: an Euler step, the slope there, and then the real step along the mean of both slopes
# (Karras et al. 2022, algorithm 1). `denoise(x, sigma)` gives the estimate of x0; `sigma_next` is not 0 here.


# %% solution="07.heun_step"
def heun_step(denoise: Callable[[Tensor, float], Tensor], x: Tensor, sigma: float, sigma_next: float) -> Tensor:
    """The sample at ``sigma_next``: (...) like ``x``."""
    ### BEGIN SOLUTION
    slope = (x - denoise(x, sigma)) / sigma
    ahead = x + (sigma_next - sigma) * slope
    slope_ahead = (ahead - denoise(ahead, sigma_next)) / sigma_next
    return x + (sigma_next - sigma) * (slope + slope_ahead) / 2
    ### END SOLUTION


# %% [markdown] item="07.dpm_step"
# DPM-Solver++ 2M gets second order from one evaluation a step: it remembers the estimate before. In the time
# lambda = -log sigma the two estimates make a line; follow it half a step ahead and use that as x0 (Lu et al. 2022b,
# algorithm 2). Samples are x = x0 + sigma eps, as in the items above.


# %% solution="07.dpm_step"
def dpm_step(x: Tensor, x0: Tensor, x0_before: Tensor, sigmas: list[float]) -> Tensor:
    """The sample at the last of three sigmas: of the step before, of this one, and of the next."""
    ### BEGIN SOLUTION
    before, now, nxt = (-math.log(sigma) for sigma in sigmas)
    h, r = nxt - now, (now - before) / (nxt - now)
    ahead = x0 + (x0 - x0_before) / (2 * r)
    return math.exp(-h) * x + (1 - math.exp(-h)) * ahead
    ### END SOLUTION


# %% [markdown] item="07.trailing"
# A model knows 1000 times; a run visits a few of them. `trailing` spacing starts at the noisiest and ends one stride
# above nothing (Lin et al. 2023, table 2): 10 of 1000 are 999, 899, ..., 99. The stride is `total / steps`, whole or
# not; round each time to the nearest whole number.


# %% solution="07.trailing"
def trailing(steps: int, total: int) -> list[int]:
    """The times of a run, falling; ``steps`` is at most ``total``."""
    ### BEGIN SOLUTION
    return [round(total * (steps - i) / steps) - 1 for i in range(steps)]
    ### END SOLUTION


# %% [markdown] item="07.eta_sigma"
# Between DDIM and DDPM there is a dial, eta: how much fresh noise a step adds. This function gives the standard
# deviation of that noise; its pictures come out grainy. Correct it. (`now` and `nxt` are `alpha_bar`, and `nxt` is the
# larger one.)


# %% solution="07.eta_sigma"
def eta_sigma(now: float, nxt: float, eta: float) -> float:
    """The standard deviation of the fresh noise of one step."""
    return eta * (1 - now / nxt) ** 0.5


### BEGIN SOLUTION
def eta_sigma(now: float, nxt: float, eta: float) -> float:
    """The standard deviation of the fresh noise of one step."""
    return eta * ((1 - nxt) / (1 - now)) ** 0.5 * (1 - now / nxt) ** 0.5


### END SOLUTION

# %% [markdown] item="07.order"
# A sampler's end point was compared with the exact one: with 10 steps the error was 0.0803, with 20 steps 0.0201, with
# 40 steps 0.0050. Of which order is it?

# %% solution="07.order"
order = ...
### BEGIN SOLUTION
order = math.log2(0.0803 / 0.0050) / 2
### END SOLUTION

# %% [markdown] item="07.evaluations"
# How many evaluations of the network does Heun's method make in 20 steps, if the last of them leads to sigma = 0?

# %% solution="07.evaluations"
evaluations = ...
### BEGIN SOLUTION
evaluations = 19 * 2 + 1
### END SOLUTION

# %% [markdown]
# From a terminal, `ldm-edu grade exercises/07_samplers.ipynb` grades the whole notebook, and `ldm-edu progress` shows
# how far you have come.
