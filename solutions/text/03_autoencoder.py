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
# # Exercises 03 · The autoencoder
#
# Eight items for [lesson 03](../notebooks/03_autoencoder.ipynb). Each stands on its own: leave one out and come back.
# Write with torch (and einops, where you like); `ldm_edu` itself may be looked at, but not called.

# %%
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ldm_edu.grading import check, hint

# %% [markdown] item="03.kl"
# The encoder answers with a Gaussian for every latent number: a `mean`, and the logarithm of the variance, `logvar`.
# The KL divergence to the standard normal is what keeps latents small and smooth (Kingma and Welling 2014, appendix B).
# Return it for each picture, in nats.


# %% solution="03.kl"
def kl(mean: Tensor, logvar: Tensor) -> Tensor:
    """The divergence of each picture's posterior, (B,); both inputs are (B, C, h, w)."""
    ### BEGIN SOLUTION
    return 0.5 * (mean**2 + logvar.exp() - 1 - logvar).sum(dim=(1, 2, 3))  # (B,)
    ### END SOLUTION


# %% [markdown] item="03.sample"
# Drawing a random number stops gradients; scaling one that was drawn before does not. Sample the posterior by that
# trick (Kingma and Welling 2014, section 2.4). `eps` is standard normal noise.


# %% solution="03.sample"
def sample(mean: Tensor, logvar: Tensor, eps: Tensor) -> Tensor:
    """A latent from the posterior: all four are (B, C, h, w)."""
    ### BEGIN SOLUTION
    return mean + torch.exp(0.5 * logvar) * eps
    ### END SOLUTION


# %% [markdown] item="03.psnr"
# The peak signal-to-noise ratio says in decibels how close two pictures are; 30 is good, at 40 the difference is hard
# to see. Pictures in this course run from -1 to 1.


# %% solution="03.psnr"
def psnr(x: Tensor, y: Tensor) -> Tensor:
    """Decibels of each pair of pictures, (B,); both inputs are (B, 3, H, W)."""
    ### BEGIN SOLUTION
    return 10 * torch.log10(4 / (x - y).square().mean(dim=(1, 2, 3)))  # (B,)
    ### END SOLUTION


# %% [markdown] item="03.scale_factor"
# A diffusion model's schedule supposes data of variance 1; an autoencoder's latents have any. Stable Diffusion
# multiplies its latents by 0.18215. Write the function that finds such a number from a batch of latents (Rombach et al.
# 2022, appendix G).


# %% solution="03.scale_factor"
def scale_factor(latents: Tensor) -> Tensor:
    """The factor that gives latents (N, C, h, w) a standard deviation of 1: one number."""
    ### BEGIN SOLUTION
    return 1 / latents.std()
    ### END SOLUTION


# %% [markdown] item="03.hinge_loss"
# A discriminator looks at patches, and gives each a logit: high for real, low for decoded. Its own loss is a hinge (Lim
# and Ye 2017): once a patch is safely on its side, it teaches nothing more. Take the mean over the patches of each
# kind, and then the mean of the two.


# %% solution="03.hinge_loss"
def hinge_loss(real: Tensor, fake: Tensor) -> Tensor:
    """The discriminator's loss, 0-d, from its logits of real and of decoded patches, each (B, 1, h, w)."""
    ### BEGIN SOLUTION
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())
    ### END SOLUTION


# %% [markdown] item="03.decode"
# Encoding ended with `latents = (z - shift) * scale`. This function brings them back and decodes. Its pictures come out
# washed-out and grey: correct it.


# %% solution="03.decode"
def decode(decoder: Callable[[Tensor], Tensor], latents: Tensor, scale: float, shift: float) -> Tensor:
    """Pictures of scaled latents (B, C, h, w)."""
    return decoder(latents * scale + shift)


### BEGIN SOLUTION
def decode(decoder: Callable[[Tensor], Tensor], latents: Tensor, scale: float, shift: float) -> Tensor:
    """Pictures of scaled latents (B, C, h, w)."""
    return decoder(latents / scale + shift)


### END SOLUTION

# %% [markdown] item="03.compression"
# Stable Diffusion turns a picture of 512 x 512 pixels into a latent that is 8 times narrower, 8 times lower, and has 4
# channels. How many numbers of the picture are there for one of the latent?

# %% solution="03.compression"
compression = ...
### BEGIN SOLUTION
compression = (512 * 512 * 3) / (64 * 64 * 4)
### END SOLUTION

# %% [markdown] item="03.grey_psnr"
# Before you are proud of your autoencoder's decibels, know those of a guess. Pictures whose values are spread evenly
# from -1 to 1 are all "decoded" as flat grey, 0. What is the PSNR? Predict, then measure with `torch.rand`.

# %% solution="03.grey_psnr"
grey_psnr = ...
### BEGIN SOLUTION
pixels = 2 * torch.rand(1_000_000, generator=torch.Generator().manual_seed(0)) - 1
grey_psnr = float(10 * torch.log10(4 / pixels.square().mean()))
### END SOLUTION

# %% [markdown]
# From a terminal, `ldm-edu grade exercises/03_autoencoder.ipynb` grades the whole notebook, and `ldm-edu progress`
# shows how far you have come.
