"""The noise predictor as a transformer over patches: DiT (Peebles and Xie 2023), from a toy to the 675 million of XL/2.

Read it top to bottom: the noisy latent is cut into patches, each patch becomes a token, every block lets the tokens
look at each other, and the last layer turns each token back into its patch. All blocks have the same width, and no
skips join distant ones. The time and the class reach a block through its norms alone: they say by how much the
normalised tokens are scaled and shifted, and how much of what a block computes is added (adaLN-Zero, figure 3).
"""

from collections.abc import Iterator, Sequence

import torch
from einops import rearrange
from torch import Tensor, nn

from ldm_edu.condition import Conditioning
from ldm_edu.config import DiTConfig
from ldm_edu.nn.attention import Attention
from ldm_edu.nn.embeddings import EmbeddingMLP, position_embedding, timestep_embedding

FREQUENCIES = 256  # width of the sinusoidal features of a time


class AdaLN(nn.Module):
    """What the condition says to one block: ``parts`` vectors a picture. All zeros at the start of training."""

    def __init__(self, width: int, parts: int) -> None:
        super().__init__()
        self.parts = parts
        self.act = nn.SiLU()
        self.linear = _zero(nn.Linear(width, parts * width))

    def forward(self, c: Tensor) -> Sequence[Tensor]:
        """(B, width) -> ``parts`` of (B, 1, width): the same for every token."""
        return rearrange(self.linear(self.act(c)), "b (parts d) -> parts b 1 d", parts=self.parts).unbind()


class Block(nn.Module):
    """Self-attention, then an MLP, each behind a modulated norm and added back through a gate (figure 3, adaLN-Zero).

    The gates are zero at the start of training: a new block is the identity.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.modulation = AdaLN(width, parts=6)
        self.norm1 = _norm(width)
        self.attention = Attention(width, heads, width // heads, bias=True)
        self.norm2 = _norm(width)
        up, down = _xavier(nn.Linear(width, 4 * width)), _xavier(nn.Linear(4 * width, width))
        self.mlp = nn.Sequential(up, nn.GELU(approximate="tanh"), down)
        for reads in (self.attention.to_q, self.attention.to_k, self.attention.to_v):
            _xavier(reads, gain=2**-0.5)  # as one map to queries, keys and values, which is three times as high
        _xavier(self.attention.to_out)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Tokens (B, N, width) and a condition (B, width) -> (B, N, width)."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(c)  # each (B, 1, width)
        x = x + gate1 * self.attention(modulate(self.norm1(x), shift1, scale1))
        return x + gate2 * self.mlp(modulate(self.norm2(x), shift2, scale2))


class FinalLayer(nn.Module):
    """The tokens back to their patches, behind a modulated norm. Its output is 0 at the start of training."""

    def __init__(self, width: int, patch_values: int) -> None:
        super().__init__()
        self.modulation = AdaLN(width, parts=2)
        self.norm = _norm(width)
        self.linear = _zero(nn.Linear(width, patch_values))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Tokens (B, N, width) and a condition (B, width) -> (B, N, patch_values)."""
        shift, scale = self.modulation(c)  # each (B, 1, width)
        return self.linear(modulate(self.norm(x), shift, scale))


class DiT(nn.Module):
    """Predicts the noise in a noisy latent, given the time step and a class (Peebles and Xie 2023, section 3.2).

    Built from `DiTConfig`; the default is DiT-XL/2: 674,834,720 parameters. The positions of the patches are fixed and
    computed for the grid at hand, so the weights fit any height and width that are multiples of the patch.

    The condition is ``vector`` (B, classes + 1), a one-hot vector of the class; the last entry is the null class, which
    stands for no class. The vector times the table of labels is the class's row of that table. A mixture of classes is
    a mixture of rows.
    """

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        width, patch = config.width, config.patch
        self.patch = nn.Conv2d(config.channels, width, kernel_size=patch, stride=patch)
        self.time_mlp = EmbeddingMLP(FREQUENCIES, width)
        self.labels = nn.Parameter(torch.empty(config.classes + 1, width))
        layers = [Block(width, config.heads) for _ in range(config.depth)]
        self.layers: Sequence[Block] = nn.ModuleList(layers)  # type: ignore[assignment]
        self.final = FinalLayer(width, patch * patch * config.out_channels)

        nn.init.xavier_uniform_(rearrange(self.patch.weight.detach(), "d c p q -> d (c p q)"))  # as a linear map's
        for small in (self.labels, self.time_mlp.linear1.weight, self.time_mlp.linear2.weight):
            nn.init.normal_(small, std=0.02)
        for bias in (self.patch.bias, self.time_mlp.linear1.bias, self.time_mlp.linear2.bias):
            nn.init.zeros_(bias)  # type: ignore[arg-type]

    @property
    def channels(self) -> int:
        """Channels of the sample; a learned variance is not among them."""
        return self.config.channels

    @property
    def multiple(self) -> int:
        """The sides of a sample are multiples of the patch."""
        return self.config.patch

    def blocks(self) -> Iterator[nn.Module]:
        """The blocks, in the order of the forward pass."""
        return iter(self.layers)

    def forward(self, x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        """The whole output for ``x`` (B, C, H, W) at times ``t`` (B,): (B, C, H, W), or (B, 2 C, H, W).

        With a learned variance the first C channels are the noise and the last C place the log variance of the step
        between its bounds (Nichol and Dhariwal 2021, equation 15).

        Raises
        ------
        ValueError
            if a size does not fit, or the condition is not a ``vector`` of classes and nothing else.
        """
        return self._predict(x, self._time(t) + self._label(cond))

    def prepare(self, cond: Conditioning, times: Tensor) -> list[Tensor]:
        """The embedding (B, width) of the condition at each of ``times`` (S,): a list of S.

        What the blocks make of an embedding is not kept: 250 steps of DiT-XL would take 190 MB a picture.
        """
        label = self._label(cond)  # (B, width)
        return [time + label for time in self._time(times)]

    def step(self, x: Tensor, prepared: Tensor) -> Tensor:
        """The noise (B, C, H, W) in ``x`` (B, C, H, W); a learned variance is left out: samplers bring their own."""
        return self._predict(x, prepared)[:, : self.channels]

    def _time(self, t: Tensor) -> Tensor:
        """Times (B,) -> (B, width)."""
        return self.time_mlp(timestep_embedding(t, FREQUENCIES).to(self.labels.dtype))

    def _label(self, cond: Conditioning) -> Tensor:
        """The vector (B, classes + 1) of a condition -> (B, width)."""
        rows = len(self.labels)
        if cond.vector is None or cond.vector.shape[1] != rows or cond.context is not None or cond.concat is not None:
            raise ValueError(
                f"a DiT of {self.config.classes} classes reads one vector (B, {rows}) a picture and nothing else: pass "
                "the one-hot vectors of the classes, the last entry for no class"
            )
        return cond.vector.to(self.labels) @ self.labels

    def _predict(self, x: Tensor, c: Tensor) -> Tensor:
        """A sample (B, C, H, W) and its embedding c (B, width) -> (B, out_channels, H, W)."""
        self._check(x)
        x = self.patch(x)  # (B, width, h, w), a pixel a patch
        h, w = x.shape[-2:]
        x = rearrange(x, "b d h w -> b (h w) d") + self._positions(h, w)  # (B, N, width), N = h w tokens
        for layer in self.layers:
            x = layer(x, c)  # (B, N, width)
        x = self.final(x, c)  # (B, N, patch patch out_channels)
        p = self.config.patch
        return rearrange(x, "b (h w) (p q c) -> b c (h p) (w q)", h=h, w=w, p=p, q=p)  # (B, out_channels, H, W)

    def _positions(self, h: int, w: int) -> Tensor:
        """The positions (h w, width) of a grid of patches, stretched to the range that the network was trained on."""
        grid, device = self.config.grid, self.labels.device
        rows = torch.arange(h, device=device) * (grid / h)  # (h,)
        columns = torch.arange(w, device=device) * (grid / w)  # (w,)
        return position_embedding(rows, columns, self.config.width).to(self.labels.dtype)  # (h w, width)

    def _check(self, x: Tensor) -> None:
        if x.ndim != 4 or x.shape[1] != self.channels:
            raise ValueError(f"expected x of shape (B, {self.channels}, H, W), not {tuple(x.shape)}")
        if x.shape[2] % self.multiple or x.shape[3] % self.multiple:
            raise ValueError(
                f"the sides of x must be multiples of the patch, {self.multiple}, not {x.shape[2]} x {x.shape[3]}"
            )


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Normalised tokens (B, N, width), scaled and shifted by the condition's (B, 1, width): adaptive layer norm."""
    return x * (1 + scale) + shift


def _norm(width: int) -> nn.LayerNorm:
    """A layer norm without weights of its own: its scale and shift come from the condition."""
    return nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)


def _zero(linear: nn.Linear) -> nn.Linear:
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def _xavier(linear: nn.Linear, gain: float = 1.0) -> nn.Linear:
    nn.init.xavier_uniform_(linear.weight, gain)
    nn.init.zeros_(linear.bias)
    return linear
