"""From a network to a denoiser: noisy sample in, estimate of the clean one out, whatever the network predicts."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from ldm_edu.condition import Conditioning, for_batch
from ldm_edu.config import Prediction
from ldm_edu.models.network import Network, weight_of
from ldm_edu.prediction import network_input, to_x0
from ldm_edu.schedule import Level


class Denoiser(Protocol):
    """All that a sampler asks of a model."""

    def __call__(self, x: Tensor, level: Level) -> Tensor:
        """The estimate of x0 (B, ...) for a noisy ``x`` (B, ...) at a 0-d ``level``."""
        ...


class NetworkDenoiser:
    """A network with its condition, as a `Denoiser`.

    What the network needs that does not depend on the sample (`Network.prepare`) is computed for all of ``levels`` at
    the first call and kept: after a change of the weights, make a new denoiser. No gradients are recorded.

    Parameters
    ----------
    network : a U-Net, a transformer or your own; it runs in the type of its own weights, the sample keeps its type.
    prediction : what the network was trained to predict.
    cond : for as many pictures as ``x`` will hold, or for one, which then holds for all.
    levels : the levels of the run, if they are known beforehand.
    """

    def __init__(
        self, network: Network, prediction: Prediction, cond: Conditioning, levels: Sequence[Level] | None = None
    ) -> None:
        self.network, self.prediction, self.cond = network, prediction, cond
        self.levels = list(levels or [])
        self._prepared: tuple[int, dict[float, Any]] | None = None  # for a batch of one size: by time

    @torch.no_grad()
    def __call__(self, x: Tensor, level: Level) -> Tensor:
        """The estimate of x0 for ``x`` (B, C, H, W) at a 0-d level: (B, C, H, W).

        Raises
        ------
        ValueError
            if the condition is for another number of pictures, or a shape does not fit the network.
        """
        seen = network_input(self.prediction, x, level).to(weight_of(self.network).dtype)
        out = self.network.step(seen, self._at(level, len(x)))  # (B, C, H, W)
        return to_x0(self.prediction, out.to(x.dtype), x, level)

    def _at(self, level: Level, size: int) -> Any:
        """What the network needs at a level for a batch of ``size`` pictures."""
        if self._prepared is None or self._prepared[0] != size:
            noisy = [each for each in self.levels if each.sigma > 0]  # nobody asks at the clean end
            self._prepared = size, self._prepare(noisy, size) if noisy else {}
        known = self._prepared[1]
        t = float(level.t)
        return known[t] if t in known else self._prepare([level], size)[t]

    def _prepare(self, levels: Sequence[Level], size: int) -> dict[float, Any]:
        weight = weight_of(self.network)
        cond = for_batch(self.cond, size).to(weight.device, weight.dtype)
        times = torch.stack([level.t for level in levels]).to(weight.device, torch.float32)  # (levels,)
        return dict(zip([float(level.t) for level in levels], self.network.prepare(cond, times), strict=True))
