"""From a network to a denoiser: noisy sample in, estimate of the clean one out, whatever the network predicts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from einops import rearrange, repeat
from torch import Tensor

from ldm_edu.conditioning import Conditioning
from ldm_edu.config import Prediction
from ldm_edu.models.unet import ContextStates, TimeStates, UNet
from ldm_edu.prediction import to_x0
from ldm_edu.schedule import Level


class Denoiser(Protocol):
    """All that a sampler asks of a model."""

    def __call__(self, x: Tensor, level: Level) -> Tensor:
        """The estimate of x0 (B, ...) for a noisy ``x`` (B, ...) at a 0-d ``level``."""
        ...


@dataclass(frozen=True)
class _Prepared:
    """What stays the same over the steps of a run, for a batch of one size."""

    cond: Conditioning
    contexts: ContextStates | None
    times: dict[float, TimeStates]  # by time


class NetworkDenoiser:
    """A U-Net with its condition, as a `Denoiser`.

    The keys and values of the context, and the time embeddings of ``levels``, are computed at the first call and kept:
    after a change of the weights, make a new denoiser. No gradients are recorded.

    Parameters
    ----------
    unet : the network; it runs in the type of its own weights, the sample keeps its type.
    prediction : what the network was trained to predict.
    cond : for as many pictures as ``x`` will hold, or for one, which then holds for all. Its ``concat`` is laid beside
        ``x`` (inpainting), its ``vector`` added to the time embedding.
    levels : the levels of the run, if they are known beforehand.
    """

    def __init__(
        self, unet: UNet, prediction: Prediction, cond: Conditioning, levels: Sequence[Level] | None = None
    ) -> None:
        self.unet, self.prediction, self.cond = unet, prediction, cond
        self.levels = list(levels or [])
        self._prepared: tuple[int, _Prepared] | None = None

    @torch.no_grad()
    def __call__(self, x: Tensor, level: Level) -> Tensor:
        """The estimate of x0 for ``x`` (B, C, H, W) at a 0-d level: (B, C, H, W).

        Raises
        ------
        ValueError
            if the condition is for another number of pictures, or a shape does not fit the network.
        """
        if self._prepared is None or self._prepared[0] != len(x):
            self._prepared = len(x), self._prepare(len(x))
        known = self._prepared[1]
        times = known.times.get(float(level.t))
        if times is None:
            (times,) = self._times([level], known.cond).values()
        inputs = x if known.cond.concat is None else torch.cat([x, known.cond.concat.to(x)], dim=1)
        out = self.unet(inputs.to(self._weight.dtype), times=times, contexts=known.contexts)
        return to_x0(self.prediction, out.to(x.dtype), x, level)

    @property
    def _weight(self) -> Tensor:
        return self.unet.conv_in.weight

    def _prepare(self, size: int) -> _Prepared:
        cond = for_batch(self.cond, size)
        contexts = None
        if cond.context is not None:
            contexts = self.unet.context_states(cond.context.to(self._weight))
        noisy = [level for level in self.levels if level.sigma > 0]  # at the clean end nobody asks
        return _Prepared(cond, contexts, self._times(noisy, cond))

    def _times(self, levels: Sequence[Level], cond: Conditioning) -> dict[float, TimeStates]:
        """The time embeddings of all levels in one batch; without a vector, one row serves every picture."""
        if not levels:
            return {}
        count, vector = len(levels), cond.vector
        t = torch.stack([level.t for level in levels]).to(self._weight.device, torch.float32)  # (levels,)
        if vector is not None:
            t = repeat(t, "s -> (s b)", b=len(vector))
            vector = repeat(vector.to(self._weight), "b d -> (s b) d", s=count)
        shifts = [rearrange(shift, "(s b) c -> s b c", s=count) for shift in self.unet.time_states(t, vector)]
        return {float(level.t): [shift[s] for shift in shifts] for s, level in enumerate(levels)}


def for_batch(cond: Conditioning, size: int) -> Conditioning:
    """The condition for ``size`` pictures: as it is, or one that holds for all repeated.

    Raises
    ------
    ValueError
        if it is for another number of pictures.
    """
    if len(cond) in (0, size):
        return cond
    if len(cond) != 1:
        raise ValueError(f"conditions for {len(cond)} pictures do not fit a batch of {size}; give one each, or one")
    return cond.repeat(size)
