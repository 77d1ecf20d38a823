"""CTRL-C in a training: it waits until the step is whole, since half of one cannot be resumed; then that step is saved.

A second CTRL-C does not wait. What is on the disk then is the state before, which saving leaves whole.
"""

import signal
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch.distributed as dist


class Interrupted(KeyboardInterrupt):
    """CTRL-C, after all that was done has been saved; ``step`` is the last step of it."""

    def __init__(self, step: int) -> None:
        super().__init__(step)
        self.step = step


@contextmanager
def held_back() -> Iterator[Callable[[], None]]:
    """Hold a first CTRL-C back while a block runs; what it gives is to be called afterwards, and lets it come.

    Nothing is held back where a program has its own way with CTRL-C, outside the main thread, which never sees one, and
    in one process of many: the others would wait for it.
    """
    came: list[int] = []

    def hold(number: int, frame: FrameType | None) -> None:
        if came:
            raise KeyboardInterrupt
        came.append(number)

    def let_it_come() -> None:
        if came:
            raise KeyboardInterrupt

    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not (usual and alone() and threading.current_thread() is threading.main_thread()):
        yield let_it_come
        return
    signal.signal(signal.SIGINT, hold)
    try:
        yield let_it_come
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def reaching(training: Generator[Any, None, None]) -> Iterator[None]:
    """A CTRL-C that meets the caller between two steps reaches the training too, so that it saves what it has done.

    Raises
    ------
    Interrupted
        if it has.
    """
    try:
        yield
    except Interrupted:
        raise
    except KeyboardInterrupt as interrupt:
        training.throw(interrupt)
        raise


def alone() -> bool:
    """Whether this process trains by itself; several save together or not at all."""
    return not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1
