"""What a denoiser and a trainer ask of a network: the one protocol that a U-Net, a transformer or your own fulfil."""

from collections.abc import Iterator
from itertools import chain
from typing import Any, Protocol

from torch import Tensor, nn

from ldm_edu.condition import Conditioning


class Network(Protocol):
    """A network that reads a noisy sample, a time and a condition, and predicts eps, x0, v or flow.

    Whatever a network needs that does not depend on the sample (time embeddings, keys and values of a text) can be
    computed once for a whole run: `prepare`. `step` is then the part that every step of a sampler pays for.
    """

    @property
    def channels(self) -> int:
        """Channels of the sample, and of the prediction. A learned variance is the network's own business."""
        ...

    @property
    def multiple(self) -> int:
        """The sides of the sample must be multiples of this number."""
        ...

    def __call__(self, x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        """The prediction (B, C, H, W) for ``x`` (B, C, H, W) at times ``t`` (B,): training, lessons."""
        ...

    def prepare(self, cond: Conditioning, times: Tensor) -> list[Any]:
        """All that does not depend on ``x``, for each of ``times`` (S,): a list of S values for `step`."""
        ...

    def step(self, x: Tensor, prepared: Any) -> Tensor:
        """The prediction (B, C, H, W) for ``x`` (B, C, H, W), given one of the values that `prepare` returned."""
        ...

    def blocks(self) -> Iterator[nn.Module]:
        """The blocks that repeat, in the order of the forward pass: sharded training and recomputing wrap them."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """The weights; `torch.nn.Module` has this method."""
        ...

    def buffers(self) -> Iterator[Tensor]:
        """Tensors that are not learned; `torch.nn.Module` has this method."""
        ...


def weight_of(network: Network) -> Tensor:
    """A weight of the network: its device and floating type are those in which the network computes."""
    tensors = chain(network.parameters(), network.buffers())  # a packed network's weights are buffers
    return next(tensor for tensor in tensors if tensor.is_floating_point())
