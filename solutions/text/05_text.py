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
# # Exercises 05 · Text: CLIP and cross-attention
#
# Seven items for [lesson 05](../notebooks/05_text.ipynb). Each stands on its own: leave one out and come back. Write
# with torch (and einops, where you like); `ldm_edu` itself may be looked at, but not called.

# %%
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ldm_edu.grading import check, hint

# %% [markdown] item="05.merge"
# A byte-pair tokenizer starts from single characters and joins pairs, one rule of its list after the other. Write one
# such step: every occurrence of the pair, from left to right, becomes one part.


# %% solution="05.merge"
def merge(parts: list[str], pair: tuple[str, str]) -> list[str]:
    """The parts with every occurrence of ``pair`` joined."""
    ### BEGIN SOLUTION
    merged = []
    place = 0
    while place < len(parts):
        if tuple(parts[place : place + 2]) == pair:
            merged.append(pair[0] + pair[1])
            place += 2
        else:
            merged.append(parts[place])
            place += 1
    return merged
    ### END SOLUTION


# %% [markdown] item="05.causal_attention"
# In CLIP's text tower a token sees itself and the tokens before it (Radford et al. 2021, section 2.4). Write attention
# (Vaswani et al. 2017, equation 1) with that mask.


# %% solution="05.causal_attention"
def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Queries, keys and values (B, heads, L, d) to (B, heads, L, d)."""
    ### BEGIN SOLUTION
    scores = q @ rearrange(k, "b h l d -> b h d l") * q.shape[-1] ** -0.5  # (B, heads, L, L)
    future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)  # (L, L)
    return scores.masked_fill(future, float("-inf")).softmax(dim=-1) @ v
    ### END SOLUTION


# %% [markdown] item="05.cross_attention"
# Cross-attention (Rombach et al. 2022, section 3.3): every pixel of a feature map asks, the tokens of the
# prompt answer. The three matrices are given, without biases; return the heads side by side, before any output matrix.


# %% solution="05.cross_attention"
def cross_attention(x: Tensor, context: Tensor, to_q: Tensor, to_k: Tensor, to_v: Tensor, heads: int) -> Tensor:
    """Pixels (B, N, D) and text states (B, L, C) to (B, N, heads * d); ``to_q`` is (D, heads * d), the others (C, ..)."""
    ### BEGIN SOLUTION
    q = rearrange(x @ to_q, "b n (h d) -> b h n d", h=heads)
    k = rearrange(context @ to_k, "b l (h d) -> b h l d", h=heads)
    v = rearrange(context @ to_v, "b l (h d) -> b h l d", h=heads)
    weights = torch.softmax(q @ rearrange(k, "b h l d -> b h d l") * q.shape[-1] ** -0.5, dim=-1)  # (B, h, N, L)
    return rearrange(weights @ v, "b h n d -> b n (h d)")
    ### END SOLUTION


# %% [markdown] item="05.contrastive"
# CLIP learns from pairs: in a batch of N pictures and N texts, each must find its own among N (Radford et al. 2021,
# figure 3). The vectors have length 1 already; `scale` is one over the temperature.


# %% solution="05.contrastive"
def contrastive(image: Tensor, text: Tensor, scale: float) -> Tensor:
    """The loss, 0-d; both inputs are (N, D), and row i of one belongs to row i of the other."""
    ### BEGIN SOLUTION
    logits = scale * image @ rearrange(text, "n d -> d n")  # (N, N)
    labels = torch.arange(len(image))
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
    ### END SOLUTION


# %% [markdown] item="05.end_state"
# One vector stands for a whole text: the state of its end token. Texts are padded to one length with more end tokens.
# With this function all texts come out exactly alike, and retrieval is no better than chance. Correct it.


# %% solution="05.end_state"
def end_state(states: Tensor, tokens: Tensor, end: int) -> Tensor:
    """The state (B, D) that has read the whole text; states are (B, L, D), tokens (B, L)."""
    return states[:, 0]


### BEGIN SOLUTION
def end_state(states: Tensor, tokens: Tensor, end: int) -> Tensor:
    """The state (B, D) that has read the whole text; states are (B, L, D), tokens (B, L)."""
    place = (tokens == end).int().argmax(dim=1)  # (B,) the first end token; the others are padding
    return states[torch.arange(len(states)), place]


### END SOLUTION

# %% [markdown] item="05.context_numbers"
# The whole of a prompt, for Stable Diffusion 1.5's U-Net, is a tensor of text states. How many numbers does it hold?

# %% solution="05.context_numbers"
context_numbers = ...
### BEGIN SOLUTION
context_numbers = 77 * 768
### END SOLUTION

# %% [markdown] item="05.guessing"
# You train a CLIP with batches of 128 pairs. At which loss does an untrained one start, if it finds all texts equally
# likely for every picture?

# %% solution="05.guessing"
guessing = ...
### BEGIN SOLUTION
guessing = float(F.cross_entropy(torch.zeros(128, 128), torch.arange(128)))
### END SOLUTION

# %% [markdown]
# From a terminal, `ldm-edu grade exercises/05_text.ipynb` grades the whole notebook, and `ldm-edu progress` shows how
# far you have come.
