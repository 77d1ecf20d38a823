"""No more processes than a notebook needs: a fork bomb is seen from outside, and put out.

A limit on the number of processes (RLIMIT_NPROC) does not bind the superuser and counts all that a user runs, so the
grader counts those of one notebook itself: its kernel leads a session of its own, and what it starts belongs to it.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

MANY = 4  # processes beside the kernel
EVERY = 0.05  # seconds from one count to the next


def family(kernel: int) -> set[int]:
    """The living of a kernel's session, and its descendants wherever they went; without the kernel itself."""
    found = set[int]()
    with suppress(psutil.Error):
        found |= {child.pid for child in psutil.Process(kernel).children(recursive=True)}
    for pid in psutil.pids():
        with suppress(ProcessLookupError, PermissionError):
            if os.getsid(pid) == kernel:
                found.add(pid)
    return {pid for pid in found - {kernel} if _alive(pid)}


def end(kernel: int, *, itself: bool) -> None:
    """End a kernel's family: first all are stopped, so that none goes on starting others, then all are ended."""
    stopped = set[int]()
    while True:
        new = {pid for pid in family(kernel) | ({kernel} if itself else set()) if pid not in stopped}
        if not new:
            break
        for pid in new:
            _send(pid, signal.SIGSTOP)
        stopped |= new
    for pid in stopped:
        _send(pid, signal.SIGKILL)


@contextmanager
def counted(kernel: int) -> Iterator[threading.Event]:
    """Watch a kernel's family. The event is set, and all of it is ended, when it grows over `MANY`."""
    crowded, over = threading.Event(), threading.Event()

    def watch() -> None:
        while not over.wait(EVERY):
            if len(family(kernel)) > MANY:
                crowded.set()
                end(kernel, itself=True)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield crowded
    finally:
        over.set()
        thread.join()
        end(kernel, itself=False)


def _alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _send(pid: int, sign: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, sign)
