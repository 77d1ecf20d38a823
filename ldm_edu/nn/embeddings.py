"""A time step as a vector: sinusoidal features, then a small MLP."""

import math

import torch
from torch import Tensor, nn


def timestep_embedding(t: Tensor, width: int, max_period: float = 10_000.0) -> Tensor:
    """Sinusoidal features of the time steps (Vaswani et al. 2017, section 3.5, as used by Ho et al. 2020, appendix B).

    Feature ``i`` of the first half is ``cos(t * max_period ** (-i / half))``; the second half holds the sines.

    Parameters
    ----------
    t : (B,) time steps, fractional ones too.
    width : number of features, even.

    Returns
    -------
    (B, width) float32, whatever the type of ``t``: in bfloat16 the steps 997 and 999 would be the same number.
    """
    if width % 2:
        raise ValueError(f"the width of a time embedding must be even, not {width}: half are cosines, half sines")
    half = width // 2
    exponent = torch.arange(half, dtype=torch.float32, device=t.device) / half
    frequencies = torch.exp(-math.log(max_period) * exponent)  # (half,)
    angles = t.float()[:, None] * frequencies[None, :]  # (B, half)
    return torch.cat([angles.cos(), angles.sin()], dim=1)  # (B, width)


class EmbeddingMLP(nn.Module):
    """Linear, SiLU, linear: turns sinusoidal features or a condition vector into the embedding every block sees."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(width_in, width)
        self.act = nn.SiLU()
        self.linear2 = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width_in) -> (B, width)."""
        return self.linear2(self.act(self.linear1(x)))
