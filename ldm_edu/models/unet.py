"""The noise predictor: the U-Net of latent diffusion, from a toy of a million parameters to Stable Diffusion's 860.

Read it top to bottom as a table: ``conv_in``, levels ``down``, a middle, levels ``up`` that take the maps of the way
down beside their own, ``conv_out``. What does not change from step to step, the keys and values of the text and the
time embeddings of a known list of steps, is computed once (`UNet.prepare`).
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from ldm_edu.condition import UNCONDITIONAL, Conditioning
from ldm_edu.config import UNetConfig
from ldm_edu.nn.attention import KeyValue, SpatialTransformer
from ldm_edu.nn.embeddings import EmbeddingMLP, timestep_embedding
from ldm_edu.nn.norm import GroupNorm
from ldm_edu.nn.resample import Downsample, Upsample
from ldm_edu.nn.resnet import ResBlock

TimeStates = list[Tensor]  # one shift (B, C) for each residual block, in the order of the forward pass
ContextStates = list[KeyValue]  # one pair for each transformer layer, in the order of the forward pass


class Prepared(NamedTuple):
    """All that one step needs besides the noisy sample. The batch of each tensor is the sample's, or 1."""

    times: TimeStates
    contexts: ContextStates | None
    concat: Tensor | None  # (B, C', H, W) concatenated with the sample


class Stage(nn.Module):
    """A residual block and, where ``depth`` is not 0, a spatial transformer."""

    def __init__(self, config: UNetConfig, channels_in: int, channels_out: int, depth: int) -> None:
        super().__init__()
        self.res = ResBlock(channels_in, channels_out, groups=config.groups, eps=1e-5, time_width=4 * config.channels)
        self.transformer = _transformer(config, channels_out, depth) if depth else None

    def forward(self, x: Tensor, shifts: Iterator[Tensor], contexts: Iterator[KeyValue] | None) -> Tensor:
        """(B, channels_in, H, W) -> (B, channels_out, H, W)."""
        return _transform(self.transformer, self.res(x, next(shifts)), contexts)


class Resolution(nn.Module):
    """The stages of one resolution, and the way to the next: a `Downsample`, an `Upsample`, or nothing."""

    def __init__(self, stages: list[Stage], resample: nn.Module) -> None:
        super().__init__()
        self.stages: Sequence[Stage] = nn.ModuleList(stages)  # type: ignore[assignment]
        self.resample = resample


class UNet(nn.Module):
    """Predicts the noise in a noisy picture or latent, given the time step and a condition.

    (Ho et al. 2020, appendix B; Rombach et al. 2022, section 3.3.) Built from `UNetConfig`; with the preset ``sd15``
    it is the one of Stable Diffusion 1.5: 859,520,964 parameters.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        time_width = 4 * config.channels
        widths = [config.channels * m for m in config.mults]

        self.time_mlp = EmbeddingMLP(config.channels, time_width)
        self.vector_mlp = EmbeddingMLP(config.vector_dim, time_width) if config.vector_dim else None
        self.conv_in = nn.Conv2d(config.in_channels, config.channels, 3, padding=1)

        skips = [config.channels]  # widths of the maps that the way up will take from the way down
        down: list[Resolution] = []
        for i, (width, depth) in enumerate(zip(widths, config.depth, strict=True)):
            ins = [widths[i - 1] if i else config.channels] + [width] * (config.blocks - 1)
            last = i == len(widths) - 1
            stages = [Stage(config, c, width, depth) for c in ins]
            down.append(Resolution(stages, nn.Identity() if last else Downsample(width)))
            skips += [width] * (config.blocks + (0 if last else 1))

        mid = [Stage(config, widths[-1], widths[-1], config.mid_depth), Stage(config, widths[-1], widths[-1], 0)]

        up: list[Resolution] = []
        current = widths[-1]
        for i, (width, depth) in reversed(list(enumerate(zip(widths, config.depth, strict=True)))):
            ins = [c + skips.pop() for c in [current] + [width] * config.blocks]
            stages = [Stage(config, c, width, depth) for c in ins]
            up.append(Resolution(stages, Upsample(width) if i else nn.Identity()))
            current = width

        self.down: Sequence[Resolution] = nn.ModuleList(down)  # type: ignore[assignment]
        self.mid: Sequence[Stage] = nn.ModuleList(mid)  # type: ignore[assignment]
        self.up: Sequence[Resolution] = nn.ModuleList(up)  # type: ignore[assignment]
        self.norm_out = GroupNorm(config.groups, config.channels, eps=1e-5)
        self.conv_out = nn.Conv2d(config.channels, config.out_channels, 3, padding=1)

    def stages(self) -> Iterator[Stage]:
        """Every stage, in the order of the forward pass."""
        for level in self.down:
            yield from level.stages
        yield from self.mid
        for level in self.up:
            yield from level.stages

    @property
    def channels(self) -> int:
        """Channels of the noisy sample."""
        return self.config.channels_of_sample

    @property
    def multiple(self) -> int:
        """The sides of the sample are multiples of this number: the lowest level is so many times smaller."""
        return self.config.factor

    def blocks(self) -> Iterator[nn.Module]:
        """Every stage, in the order of the forward pass."""
        return self.stages()

    def time_states(self, t: Tensor, vector: Tensor | None = None) -> TimeStates:
        """The shift of every residual block for the time steps ``t`` (B,) and a ``vector`` (B, vector_dim).

        Raises
        ------
        ValueError
            if the network was built for a vector and none is given, or the other way round.
        """
        embedding = self.time_mlp(timestep_embedding(t, self.config.channels).to(self.conv_in.weight.dtype))  # (B, D)
        if self.vector_mlp is not None:
            if vector is None:
                raise ValueError("this U-Net was built with vector_dim: pass a vector (B, vector_dim), zeros for blank")
            embedding = embedding + self.vector_mlp(vector.to(embedding.dtype))
        elif vector is not None:
            raise ValueError("this U-Net was built without vector_dim: it cannot read a vector; leave the vector out")
        return [stage.res.shift(embedding) for stage in self.stages()]  # each (B, C)

    def context_states(self, context: Tensor) -> ContextStates:
        """Keys and values of the context (B, L, context_dim) for every cross-attention."""
        layers = [
            layer for stage in self.stages() if stage.transformer is not None for layer in stage.transformer.layers
        ]
        return [layer.cross_attention.keys_values(context) for layer in layers]  # type: ignore[operator,union-attr]

    def prepare(self, cond: Conditioning, times: Tensor) -> list[Prepared]:
        """All that does not depend on the sample, for each of ``times`` (S,).

        Without a vector, one row of the time states serves every picture.

        Raises
        ------
        ValueError
            if the condition is not one that the network was built for.
        """
        self._check_condition(cond)
        contexts = None if cond.context is None else self.context_states(cond.context)
        t, vector, count = times, cond.vector, len(times)
        if vector is not None:
            t = repeat(t, "s -> (s b)", b=len(vector))
            vector = repeat(vector, "b d -> (s b) d", s=count)
        shifts = [rearrange(shift, "(s b) c -> s b c", s=count) for shift in self.time_states(t, vector)]
        return [Prepared([shift[s] for shift in shifts], contexts, cond.concat) for s in range(count)]

    def forward(self, x: Tensor, t: Tensor, cond: Conditioning = UNCONDITIONAL) -> Tensor:
        """The prediction for a noisy ``x``.

        Parameters
        ----------
        x : (B, C, H, W); H and W multiples of ``multiple``.
        t : (B,) or 0-d time steps, 0 to 999, fractional ones too.
        cond : its ``context`` (B, L, context_dim) are the text states, its ``vector`` (B, vector_dim) is added to the
            time embedding, its ``concat`` (B, C', H, W) is concatenated with ``x``.

        Returns
        -------
        (B, out_channels, H, W), what the model was trained to predict: eps, x0, v or flow.

        Raises
        ------
        ValueError
            if a size does not fit, or the condition is not one that the network was built for.
        """
        self._check_condition(cond)
        times = self.time_states(t.expand(x.shape[0]) if t.ndim == 0 else t, cond.vector)
        contexts = None if cond.context is None else self.context_states(cond.context)
        return self.step(x, Prepared(times, contexts, cond.concat))

    def step(self, x: Tensor, prepared: Prepared) -> Tensor:
        """The prediction (B, out_channels, H, W) for ``x`` (B, C, H, W), given one of the values of `prepare`."""
        if prepared.concat is not None:
            x = torch.cat([x, prepared.concat.to(x)], dim=1)  # (B, in_channels, H, W)
        self._check_sample(x)
        shift, keys = iter(prepared.times), iter(prepared.contexts) if prepared.contexts else None

        h = self.conv_in(x)  # (B, channels, H, W)
        skips = [h]
        for level in self.down:
            for stage in level.stages:
                h = stage(h, shift, keys)  # (B, width, h, w)
                skips.append(h)
            if isinstance(level.resample, Downsample):
                h = level.resample(h)  # (B, width, h/2, w/2)
                skips.append(h)
        for stage in self.mid:
            h = stage(h, shift, keys)  # (B, width, h, w)
        for level in self.up:
            for stage in level.stages:
                h = stage(torch.cat([h, skips.pop()], dim=1), shift, keys)  # (B, width, h, w)
            h = level.resample(h)  # (B, width, 2 h, 2 w)
        return self.conv_out(F.silu(self.norm_out(h)))  # (B, out_channels, H, W)

    def _check_sample(self, x: Tensor) -> None:
        channels, factor = self.config.in_channels, self.config.factor
        if x.ndim != 4 or x.shape[1] != channels:
            raise ValueError(f"expected x of shape (B, {channels}, H, W), not {tuple(x.shape)}")
        if x.shape[2] % factor or x.shape[3] % factor:
            raise ValueError(f"the sides of x must be multiples of {factor}, not {x.shape[2]} x {x.shape[3]}")

    def _check_condition(self, cond: Conditioning) -> None:
        width = self.config.context_dim
        if not isinstance(cond, Conditioning):
            raise ValueError(f"expected a Conditioning, not {type(cond).__name__}: pass Conditioning(context=...)")
        if not width and cond.context is not None:
            raise ValueError("this U-Net was built without context_dim: it cannot read a context; leave that out")
        if width and cond.context is None:
            raise ValueError(f"this U-Net reads a context (B, L, {width}); pass one, a blank prompt's if none")


def _transformer(config: UNetConfig, channels: int, depth: int) -> SpatialTransformer:
    heads = config.heads or channels // (config.head_dim or 1)
    return SpatialTransformer(
        channels,
        heads,
        channels // heads,
        depth,
        context_dim=config.context_dim,
        linear_proj=config.linear_proj,
        groups=config.groups,
    )


def _transform(transformer: SpatialTransformer | None, x: Tensor, contexts: Iterator[KeyValue] | None) -> Tensor:
    if transformer is None:
        return x
    pairs = [next(contexts) for _ in transformer.layers] if contexts is not None else None
    return transformer(x, pairs)
