"""CUDA graphs without a GPU: launches on the second device are written down, and done again at a replay.

What is recorded is bound to its tensors as a CUDA graph is to its addresses, and knows nothing of the Python code
around: a number that Python decided, or a tensor that it put in another one's place, stays as it was at the recording.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from second_device import Launch, SecondDevice


class Graph:
    """Stands in for `torch.cuda.CUDAGraph`."""

    def __init__(self) -> None:
        self.tape: list[Launch] = []

    def replay(self) -> None:
        """All launches again."""
        for launch in self.tape:
            launch.again()


class Stream:
    """Stands in for `torch.cuda.Stream`: there is no queue here to wait for."""

    def wait_stream(self, other: "Stream") -> None:
        """Nothing is under way."""


def stand_in(monkeypatch: pytest.MonkeyPatch, mode: SecondDevice) -> None:
    """Let `torch.cuda` record what is launched on the second device."""

    @contextmanager
    def graph(made: Graph) -> Iterator[None]:
        mode.tape = made.tape
        try:
            yield
        finally:
            mode.tape = None

    @contextmanager
    def stream(_: Stream) -> Iterator[None]:
        yield

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    monkeypatch.setattr(torch.cuda, "stream", stream)
