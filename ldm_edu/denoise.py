"""From a network to a denoiser: noisy sample in, estimate of the clean one out, whatever the network predicts."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from ldm_edu.condition import Conditioning, as_long_as_each_other, for_batch
from ldm_edu.config import Prediction
from ldm_edu.models.network import Network, weight_of
from ldm_edu.prediction import network_input, to_x0
from ldm_edu.schedule import Level


class Denoiser(Protocol):
    """All that a sampler asks of a model."""

    def __call__(self, x: Tensor, level: Level) -> Tensor:
        """The estimate of x0 (B, ...) for a noisy ``x`` (B, ...) at a 0-d ``level``."""
        ...


@runtime_checkable
class Joinable(Denoiser, Protocol):
    """A `Denoiser` that guidance may run together with others, as one batch."""

    def joined(self, others: Sequence[Denoiser], size: int) -> Denoiser | None:
        """A denoiser of a batch of ``size`` pictures for this one, then ``size`` for each of ``others``.

        None where they cannot be one batch; then each is asked by itself.
        """
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

    def joined(self, others: Sequence[Denoiser], size: int) -> "NetworkDenoiser | None":
        """As `Joinable`: for denoisers of the same network, whose conditions have the same shapes."""
        networks = [each for each in (self, *others) if type(each) is NetworkDenoiser]  # a subclass does otherwise
        if len(networks) <= len(others):
            return None
        if any(each.network is not self.network or each.prediction != self.prediction for each in networks):
            return None
        conds = as_long_as_each_other([for_batch(each.cond, size) for each in networks])
        if any(_shapes(cond) != _shapes(conds[0]) for cond in conds):
            return None
        levels = next((each.levels for each in networks if each.levels), None)
        return NetworkDenoiser(self.network, self.prediction, Conditioning.cat(conds), levels)

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


def _shapes(cond: Conditioning) -> list[torch.Size | None]:
    parts = (getattr(cond, field.name) for field in fields(cond))
    return [None if part is None else part.shape[1:] for part in parts]
