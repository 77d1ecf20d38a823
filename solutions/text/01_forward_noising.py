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
# # Exercises 01 · Forward noising
#
# Eight items for [lesson 01](../notebooks/01_forward_noising.ipynb). Each stands on its own: leave one out and come
# back. Write with torch (and einops, where you like); `ldm_edu` itself may be looked at, but not called.
#
# Under each item are two cells: `hint(...)` opens the next of three hints, `check(...)` tries your answer at once. Any
# right answer counts: other operations, another order, float64.

# %%
import torch
from einops import rearrange
from torch import Tensor

from ldm_edu.grading import check, hint

# %% [markdown] item="01.alpha_bar"
# In step `t` a chain of noising steps keeps the share `1 - beta[t]` of the picture's variance. Write the function that
# returns `alpha_bar`, the share that is left after each step, for betas that rise linearly from `beta_start` to
# `beta_end`, both ends included (Ho et al. 2020, section 2 and equation 4).


# %% solution="01.alpha_bar"
def alpha_bar(steps: int, beta_start: float, beta_end: float) -> Tensor:
    """The share of the picture's variance left after 1, 2, ... steps: (steps,)."""
    ### BEGIN SOLUTION
    beta = torch.linspace(beta_start, beta_end, steps)  # (steps,)
    return torch.cumprod(1 - beta, dim=0)  # (steps,)
    ### END SOLUTION


# %% [markdown] item="01.one_step"
# One step of the chain: fade `x` a little and add a little noise, so that a picture of variance 1 stays one of
# variance 1 (Ho et al. 2020, equation 2). `beta` is one number, as a tensor.


# %% solution="01.one_step"
def one_step(x: Tensor, eps: Tensor, beta: Tensor) -> Tensor:
    """The next, noisier x: (...) like ``x``; ``eps`` is standard normal noise of that shape, ``beta`` is 0-d."""
    ### BEGIN SOLUTION
    return (1 - beta).sqrt() * x + beta.sqrt() * eps
    ### END SOLUTION


# %% [markdown] item="01.q_sample"
# All steps up to a time at once (Ho et al. 2020, equation 4). Each picture of the batch has its own noise level.


# %% solution="01.q_sample"
def q_sample(x0: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    """Noisy pictures (B, C, H, W) from clean ones and noise, both (B, C, H, W), and ``alpha_bar`` (B,)."""
    ### BEGIN SOLUTION
    kept = rearrange(alpha_bar, "b -> b 1 1 1")
    return kept.sqrt() * x0 + (1 - kept).sqrt() * eps
    ### END SOLUTION


# %% [markdown] item="01.snr"
# How much picture is there for how much noise? The ratio of the two variances inside a noisy sample (Kingma et al.
# 2021, equation 2) is the time that samplers really live in.


# %% solution="01.snr"
def snr(alpha_bar: Tensor) -> Tensor:
    """The signal-to-noise ratio at each ``alpha_bar`` (N,): (N,)."""
    ### BEGIN SOLUTION
    return alpha_bar / (1 - alpha_bar)
    ### END SOLUTION


# %% [markdown] item="01.recover_x0"
# Write the way back, from a noisy sample and the noise in it to the clean picture (Ho et al. 2020, below equation 8).


# %% solution="01.recover_x0"
def recover_x0(x_t: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    """The clean picture inside ``x_t``, given its noise: (...) like ``x_t``; ``alpha_bar`` is 0-d."""
    ### BEGIN SOLUTION
    return (x_t - (1 - alpha_bar).sqrt() * eps) / alpha_bar.sqrt()
    ### END SOLUTION


# %% [markdown] item="01.scaled_linear"
# This function should return `alpha_bar` of Stable Diffusion's own schedule, where the *square root* of beta rises
# linearly. It runs, and its numbers fall from 1 towards 0 as they should. They are wrong all the same: correct it.


# %% solution="01.scaled_linear"
def scaled_linear(steps: int, beta_start: float, beta_end: float) -> Tensor:
    """The share of the picture's variance left after 1, 2, ... steps: (steps,)."""
    beta = torch.linspace(beta_start**0.5, beta_end**0.5, steps)
    return torch.cumprod(1 - beta, dim=0)


### BEGIN SOLUTION
def scaled_linear(steps: int, beta_start: float, beta_end: float) -> Tensor:
    """The share of the picture's variance left after 1, 2, ... steps: (steps,)."""
    beta = torch.linspace(beta_start**0.5, beta_end**0.5, steps) ** 2
    return torch.cumprod(1 - beta, dim=0)


### END SOLUTION

# %% [markdown] item="01.even_time"
# Stable Diffusion's schedule again: 1000 steps, 0.00085 to 0.012, the square root of beta rising linearly. After how
# many steps does the noise outweigh the picture: how many of the 1000 entries of `alpha_bar` are still above one half?
# Write down your guess first. Then compute it.

# %% solution="01.even_time"
even_time = ...
### BEGIN SOLUTION
sd_beta = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
even_time = int((torch.cumprod(1 - sd_beta, dim=0) > 0.5).sum())
### END SOLUTION

# %% [markdown] item="01.left_at_the_end"
# The last entry should be pure noise. What signal-to-noise ratio is left there, at index 999 of Stable Diffusion's
# schedule? (Lin et al. 2023, section 3.1, tell what follows from its not being zero.)

# %% solution="01.left_at_the_end"
left_at_the_end = ...
### BEGIN SOLUTION
sd_alpha_bar = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, dim=0)
left_at_the_end = float(sd_alpha_bar[-1] / (1 - sd_alpha_bar[-1]))
### END SOLUTION

# %% [markdown]
# From a terminal, `ldm-edu grade exercises/01_forward_noising.ipynb` grades the whole notebook, and `ldm-edu progress`
# shows how far you have come.
