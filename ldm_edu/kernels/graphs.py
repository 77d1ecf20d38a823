"""CUDA graphs: the launches of a network are recorded once and replayed, so that the CPU need not keep up with the GPU.

A small batch leaves a big GPU waiting for its next kernel: a guided step of Stable Diffusion launches about a thousand.
(Not timed on a GPU yet: `ldm-edu bench gpu` does that. What it draws is tested with stand-ins for the graphs.)
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map_only

WARM_UP = 3  # calls before recording, in which libraries choose their kernels and ask for memory


def record_launches(network: nn.Module, method: str = "forward") -> None:
    """Let a network on a GPU replay its kernels from now on; one recording for each set of shapes it is called with.

    For drawing only: no gradients, no hooks inside, and the weights must stay where they are. On a CPU nothing changes.

    Parameters
    ----------
    method
        what is replayed: "step" of a network that predicts noise, "forward" of another.
    """
    setattr(network, method, _Replayed(getattr(network, method)))


class _Replayed:
    """A function of tensors, in arguments of any nesting, whose launches are recorded."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.function = function
        self.recordings: dict[object, _Recording] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        leaves, layout = tree_flatten((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        if torch.is_grad_enabled() or not tensors or not tensors[0].is_cuda:
            return self.function(*args, **kwargs)
        key = (str(layout), tuple((tensor.shape, tensor.stride(), tensor.dtype) for tensor in tensors))
        if key not in self.recordings:
            self.recordings[key] = _Recording(self.function, args, kwargs)
        return self.recordings[key].replay(tensors)


class _Recording:
    """The kernels of one call: they read the tensors ``inputs`` and write ``out``, at the same addresses every time."""

    def __init__(self, function: Callable[..., Tensor], args: Any, kwargs: Any) -> None:
        args, kwargs = tree_map_only(Tensor, torch.clone, (args, kwargs))
        self.inputs = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                function(*args, **kwargs)
        torch.cuda.current_stream().wait_stream(aside)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.out = function(*args, **kwargs)

    def replay(self, tensors: list[Tensor]) -> Tensor:
        """The result for other values of the same shapes."""
        torch._foreach_copy_(self.inputs, tensors)
        self.graph.replay()
        return self.out.clone()  # the next replay writes over it
