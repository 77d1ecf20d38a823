"""CTRL-C, SIGTERM and SIGHUP in a training: the step is finished, since half of one cannot be resumed, and saved.

SIGTERM is what SLURM, Kubernetes, ``docker stop`` and rented machines send some seconds before they kill; SIGHUP comes
when a terminal is closed. A second CTRL-C does not wait. What is on the disk then is the state before, which saving
leaves whole. A second SIGTERM or SIGHUP changes nothing: several senders may mean the same.
"""

import signal
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch.distributed as dist

# SIGHUP is unknown to Windows
ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Ending(KeyboardInterrupt):
    """A signal that ends a program, as what CTRL-C raises; ``number`` is the signal's."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Interrupted(Ending):
    """A signal, after all that was done has been saved; ``step`` is the last step of it."""

    def __init__(self, step: int, number: int = signal.SIGINT) -> None:
        super().__init__(number)
        self.step = step


@contextmanager
def held_back() -> Iterator[Callable[[], None]]:
    """Hold signals back while a block runs; what it gives is to be called afterwards, and lets the first come.

    A second CTRL-C does not wait. Nothing is held back where a program has its own way with a signal, outside the main
    thread, which never sees one, and in one process of many: the others would wait for it.
    """
    came: list[int] = []

    def hold(number: int) -> None:
        if came and number == signal.SIGINT:
            raise KeyboardInterrupt
        came.append(number)

    def let_it_come() -> None:
        if came:
            raise Ending(came[0])

    with _handled(hold):
        yield let_it_come


@contextmanager
def saving() -> Iterator[None]:
    """Save after a first signal: CTRL-C is a second one, and ends the block at once; other signals change nothing."""

    def hold(number: int) -> None:
        if number == signal.SIGINT:
            raise KeyboardInterrupt

    with _handled(hold):
        yield


@contextmanager
def reaching(training: Generator[Any, None, None]) -> Iterator[None]:
    """A signal that meets the caller between two steps reaches the training too, so that it saves what it has done.

    Raises
    ------
    Interrupted
        if it has.
    """
    came: list[int] = []

    def end(number: int) -> None:
        if not came or number == signal.SIGINT:
            came.append(number)
            raise Ending(number)

    with _handled(end):
        try:
            yield
        except Interrupted:
            raise
        except KeyboardInterrupt as interrupt:
            training.throw(interrupt)
            raise


@dataclass(frozen=True)
class _Handler:
    """A handler of this module, which another of this module may replace for a while."""

    act: Callable[[int], None]

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.act(number)


@contextmanager
def _handled(act: Callable[[int], None]) -> Iterator[None]:
    """Meet the signals that end a program with ``act``, but for those that it treats in another way than usual.

    ``nohup`` ignores SIGHUP, for one; that stays.
    """
    handlers = {number: signal.getsignal(number) for number in ENDING}
    usual = {
        number: before
        for number, before in handlers.items()
        if before in (signal.SIG_DFL, signal.default_int_handler) or isinstance(before, _Handler)
    }
    if not (alone() and threading.current_thread() is threading.main_thread()):
        usual = {}
    try:
        for number in usual:
            signal.signal(number, _Handler(act))
        yield
    finally:
        for number, before in usual.items():
            signal.signal(number, before)


def alone() -> bool:
    """Whether this process trains by itself; several save together or not at all."""
    return not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1
