"""Numbers as vectors: the sinusoidal features of a time step or of a place in a picture, and a small MLP."""

import math

import torch
from einops import repeat
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


def position_embedding(rows: Tensor, columns: Tensor, width: int) -> Tensor:
    """Sinusoidal features of the places of a grid: the first half of the width says the column, the second the row.

    Feature ``i`` of the first half of each half is ``sin(place * 10000 ** (-i / quarter))``; the cosines follow. (The
    order of DiT's published weights: Peebles and Xie 2023, after Vaswani et al. 2017, section 3.5.)

    Parameters
    ----------
    rows, columns : (H,) and (W,) the places along both sides, fractional ones too.
    width : number of features, a multiple of 4.

    Returns
    -------
    (H * W, width) float32, row by row; computed in float64.
    """
    quarter = width // 4
    exponent = torch.arange(quarter, dtype=torch.float64, device=rows.device) / quarter
    frequencies = 1.0 / 10_000.0**exponent  # (quarter,)
    x, y = columns.double()[:, None] * frequencies, rows.double()[:, None] * frequencies  # (W, quarter), (H, quarter)
    x = torch.cat([x.sin(), x.cos()], dim=1).float()  # (W, width / 2)
    y = torch.cat([y.sin(), y.cos()], dim=1).float()  # (H, width / 2)
    by_column = repeat(x, "w d -> (h w) d", h=len(rows))  # (H W, width / 2)
    by_row = repeat(y, "h d -> (h w) d", w=len(columns))  # (H W, width / 2)
    return torch.cat([by_column, by_row], dim=1)  # (H W, width)


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
