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
# # Exercises 08 · Stable Diffusion
#
# Eight items for [lesson 08](../notebooks/08_stable_diffusion.ipynb). Each stands on its own: leave one out and come
# back. Write with torch (and einops, where you like); `ldm_edu` itself may be looked at, but not called.

# %%
import math

import torch
from torch import Tensor

from ldm_edu.grading import check, hint

# %% [markdown] item="08.our_name"
# The first release of Stable Diffusion numbers all blocks of the way down in one row: `input_blocks.0` is the first
# convolution; then come, for each of four levels, two blocks and a downsampler (the last level has none). Inside a
# block, `.0` is the residual block, with the layers `in_layers.0` and `.2`, `emb_layers.1`, `out_layers.0` and `.3`,
# and `skip_connection`. Here they are called `norm1` and `conv1`, `time_proj`, `norm2` and `conv2`, and `skip`.
#
# Translate the name of a tensor of a residual block: `input_blocks.1.0.in_layers.2.weight` is
# `down.0.stages.0.res.conv1.weight`, the first block of level 0.


# %% solution="08.our_name"
def our_name(name: str) -> str:
    """``down.LEVEL.stages.PLACE.res.LAYER.weight`` (or ``.bias``) for ``input_blocks.NUMBER.0.LAYER.weight``."""
    ### BEGIN SOLUTION
    parts = {
        "in_layers.0": "norm1",
        "in_layers.2": "conv1",
        "emb_layers.1": "time_proj",
        "out_layers.0": "norm2",
        "out_layers.3": "conv2",
        "skip_connection": "skip",
    }
    _, number, _, rest = name.split(".", 3)
    layer, kind = rest.rsplit(".", 1)
    level, place = divmod(int(number) - 1, 3)
    return f"down.{level}.stages.{place}.res.{parts[layer]}.{kind}"
    ### END SOLUTION


# %% [markdown] item="08.transformer_parameters"
# Count the parameters of one spatial transformer with `c` channels, layer by layer: a group norm; a projection in (`c`
# to `c`); a layer norm and self-attention; a layer norm and cross-attention to a context of width `context`; a layer
# norm and a gated feed-forward layer (GEGLU) with `4 c` hidden values; a projection out (`c` to `c`). Queries, keys and
# values have no bias, every other linear layer has one, every norm has a weight and a bias (Rombach et al. 2022,
# appendix E.2). With 320 channels and a context of 768 it is 2,546,240.


# %% solution="08.transformer_parameters"
def transformer_parameters(channels: int, context: int) -> int:
    """How many numbers are learned in one spatial transformer."""
    ### BEGIN SOLUTION
    c = channels
    norms = 4 * 2 * c
    projections = 2 * (c * c + c)
    self_attention = 3 * c * c + (c * c + c)
    cross_attention = c * c + 2 * context * c + (c * c + c)
    feed_forward = (c * 8 * c + 8 * c) + (4 * c * c + c)
    return norms + projections + self_attention + cross_attention + feed_forward
    ### END SOLUTION


# %% [markdown] item="08.first_step"
# Image to image (Meng et al. 2022, SDEdit) noises a given picture to some level and runs the rest of the sampler. With
# a `strength` of 0.6, six tenths of the steps are left to go, rounded down to whole ones, and never less than one.
# Return the index of the first step of them: 0 at strength 1, and 21 of 50 at strength 0.58, where 29 are left.


# %% solution="08.first_step"
def first_step(steps: int, strength: float) -> int:
    """Which of ``steps`` steps the run begins with; ``strength`` lies in (0, 1]."""
    ### BEGIN SOLUTION
    left = math.floor(strength * steps + 1e-6)  # 0.58 * 50 is a little less than 29
    return steps - max(1, left)
    ### END SOLUTION


# %% [markdown] item="08.windows"
# The text encoder reads 77 tokens: a start, up to 75 of the prompt, and ends up to the 77th. Cut a longer prompt into
# windows of 75 tokens, each with a start and ends of its own; their states are laid one after the other, and
# cross-attention takes any number. An empty prompt has one window.


# %% solution="08.windows"
def windows(tokens: list[int], start: int, end: int) -> Tensor:
    """The windows of a prompt's tokens, (n, 77) whole numbers."""
    ### BEGIN SOLUTION
    rows = [tokens[i : i + 75] for i in range(0, max(1, len(tokens)), 75)]
    return torch.tensor([[start, *row, *[end] * (76 - len(row))] for row in rows])  # (n, 77)
    ### END SOLUTION


# %% [markdown] item="08.step_time"
# A step of the network does so many floating point operations (`flops`) and moves so many bytes between memory and chip
# (`moved`): at the least, every weight once. The machine does `peak` operations and moves `bandwidth` bytes a second,
# both at the same time. What is the shortest time a step can take (Williams et al. 2009)?


# %% solution="08.step_time"
def step_time(flops: float, moved: float, peak: float, bandwidth: float) -> float:
    """The lower bound of a step's time, in seconds."""
    ### BEGIN SOLUTION
    return max(flops / peak, moved / bandwidth)
    ### END SOLUTION


# %% [markdown] item="08.mean_gradient"
# A batch of 2048 pictures does not fit into memory, so its gradient is the mean over many small batches. This function
# forms that mean of gradients in bfloat16. With 4 of them it is right, with 1000 it is far too small. Correct it; the
# result may have any type.


# %% solution="08.mean_gradient"
def mean_gradient(gradients: Tensor) -> Tensor:
    """The mean (...) of gradients (N, ...), which are in bfloat16."""
    total = torch.zeros_like(gradients[0])
    for gradient in gradients:
        total = total + gradient
    return total / len(gradients)


### BEGIN SOLUTION
def mean_gradient(gradients: Tensor) -> Tensor:
    """The mean (...) of gradients (N, ...), which are in bfloat16."""
    total = torch.zeros_like(gradients[0], dtype=torch.float32)
    for gradient in gradients:
        total = total + gradient
    return total / len(gradients)


### END SOLUTION

# %% [markdown] item="08.attention_share"
# The U-Net has 859,520,964 parameters. Which share of them is in its spatial transformers, as a fraction of 1? There
# are 16 of them, with a context of width 768: two a level on the way down at 320, 640 and 1280 channels, one in the
# middle at 1280, three a level on the way up at 1280, 640 and 320. Guess first: less than a third, or more than a half?

# %% solution="08.attention_share"
attention_share = ...
### BEGIN SOLUTION
channels = torch.tensor([320] * 5 + [640] * 5 + [1280] * 6, dtype=torch.float64)
attention_share = float((20 * channels**2 + (2 * 768 + 21) * channels).sum() / 859_520_964)
### END SOLUTION

# %% [markdown] item="08.gpu_hours"
# Suppose a model is trained for 600,000 steps with batches of 2048 pictures of 256 pixels, and one GPU gets through 137
# such pictures a second. How many GPU-hours is that, however many GPUs share the work?

# %% solution="08.gpu_hours"
gpu_hours = ...
### BEGIN SOLUTION
gpu_hours = 600_000 * 2048 / 137 / 3600
### END SOLUTION

# %% [markdown]
# From a terminal, `ldm-edu grade exercises/08_stable_diffusion.ipynb` grades the whole notebook, and `ldm-edu progress`
# shows how far you have come.
