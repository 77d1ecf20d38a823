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
# # Exercises 06 · Guidance
#
# Seven items for [lesson 06](../notebooks/06_guidance.ipynb). Each stands on its own: leave one out and come back.
# Write with torch (and einops, where you like); `ldm_edu` itself may be looked at, but not called.

# %%
from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor

from ldm_edu.grading import check, hint

# %% [markdown] item="06.drop_condition"
# Guidance needs a network that draws with a caption and without. One network learns both when a share of the captions
# is replaced by the blank one in training (Ho and Salimans 2022, algorithm 1). `u` holds a random number from 0 to 1
# for each picture; where it is below `share`, that picture's caption is dropped.


# %% solution="06.drop_condition"
def drop_condition(context: Tensor, blank: Tensor, u: Tensor, share: float) -> Tensor:
    """Contexts (B, L, D), some of them ``blank`` (L, D); ``u`` is (B,)."""
    ### BEGIN SOLUTION
    return torch.where(rearrange(u < share, "b -> b 1 1"), blank, context)  # (B, L, D)
    ### END SOLUTION


# %% [markdown] item="06.cfg"
# The formula of the whole lesson: from what the network predicts without the prompt and with it, go further the same
# way. Scale 1 is no guidance.


# %% solution="06.cfg"
def cfg(cond: Tensor, uncond: Tensor, scale: float) -> Tensor:
    """The guided prediction, (...) like both."""
    ### BEGIN SOLUTION
    return uncond + scale * (cond - uncond)
    ### END SOLUTION


# %% [markdown] item="06.one_call"
# Both predictions come from one network, so ask it once, about a batch of twice the size. `network(x, t, context)`
# takes (B, C, H, W), (B,) and (B, L, D). Here it refuses to be asked twice.


# %% solution="06.one_call"
def one_call(
    network: Callable[[Tensor, Tensor, Tensor], Tensor],
    x: Tensor,
    t: Tensor,
    cond: Tensor,
    uncond: Tensor,
    scale: float,
) -> Tensor:
    """The guided prediction (B, C, H, W), with one call of ``network``."""
    ### BEGIN SOLUTION
    both = network(torch.cat([x, x]), torch.cat([t, t]), torch.cat([cond, uncond]))  # (2 B, C, H, W)
    with_prompt, without = both.chunk(2)
    return without + scale * (with_prompt - without)
    ### END SOLUTION


# %% [markdown] item="06.rescale"
# At large scales colours burn: the guided prediction spreads further than any real one. Give it back the spread of the
# conditional prediction, and mix the result with the guided one (Lin et al. 2023, equations 15 and 16).


# %% solution="06.rescale"
def rescale(cond: Tensor, guided: Tensor, phi: float) -> Tensor:
    """The rescaled prediction (B, C, H, W). ``phi`` = 0: the guided one as it is; 1: all of the rescaling."""
    ### BEGIN SOLUTION
    factor = cond.std(dim=(1, 2, 3), keepdim=True) / guided.std(dim=(1, 2, 3), keepdim=True)  # (B, 1, 1, 1)
    return phi * factor * guided + (1 - phi) * guided
    ### END SOLUTION


# %% [markdown] item="06.scale_at"
# Guidance hurts variety where noise is high and does nothing where it is low, so it may be kept to the middle of the
# run (Kynkäänniemi et al. 2024). This function gives the scale to use where sigma / alpha is `ratio`. With it, pictures
# forget their prompt. Correct it.


# %% solution="06.scale_at"
def scale_at(ratio: float, scale: float, low: float, high: float) -> float:
    """The guidance scale where sigma / alpha is ``ratio``: on in (low, high], off elsewhere."""
    return scale if low < ratio <= high else 0.0


### BEGIN SOLUTION
def scale_at(ratio: float, scale: float, low: float, high: float) -> float:
    """The guidance scale where sigma / alpha is ``ratio``: on in (low, high], off elsewhere."""
    return scale if low < ratio <= high else 1.0


### END SOLUTION

# %% [markdown] item="06.same_as_w"
# The paper writes `(1 + w) cond - w uncond`, Stable Diffusion's code `uncond + scale (cond - uncond)`. Which scale does
# the same as w = 3?

# %% solution="06.same_as_w"
same_as_w = ...
### BEGIN SOLUTION
same_as_w = 3 + 1
### END SOLUTION

# %% [markdown] item="06.overshoot"
# In one dimension: all data is N(0, 1), what the prompt asks for is N(1, 1). For two bells of one width, and not in
# general (lesson 06), guidance at scale 3 draws from p(x) (p(x|c) / p(x))^3, up to a constant. What is the mean of
# that? Predict; then compute it, on paper or on a grid of x.

# %% solution="06.overshoot"
overshoot = ...
### BEGIN SOLUTION
grid = torch.linspace(-10, 12, 4001)
log_p, log_p_given = -(grid**2) / 2, -((grid - 1) ** 2) / 2
weight = torch.softmax(log_p + 3 * (log_p_given - log_p), dim=0)
overshoot = float((weight * grid).sum())
### END SOLUTION

# %% [markdown]
# From a terminal, `ldm-edu grade exercises/06_guidance.ipynb` grades the whole notebook, and `ldm-edu progress` shows
# how far you have come.
