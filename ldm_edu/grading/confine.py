"""Limits of the process that runs a learner's notebook, and what it may not do there.

These are not walls. Whoever can type the right answer can copy it from ``solutions/``, and that is less work than to
get past them. They are there so that an accident stays small, and so that marks have to be worked, or typed, for.
"""

import gc
import os
import sys
import warnings
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import torch

PACKAGE = Path(__file__).resolve().parent.parent
GRADING = f"{PACKAGE / 'grading'}{os.sep}"
STARTS = (
    "os.fork",
    "os.forkpty",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "subprocess.Popen",
    "pty.spawn",
)
STOPS = ("os.kill", "os.killpg", "resource.setrlimit", "resource.prlimit")
MOVES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class RefusedError(PermissionError):
    """Something that an answer does not need and a grader does not want."""


class BorrowedError(PermissionError):
    """An answer calls the package for what it should do itself."""


def limit(memory: int, file: int) -> None:
    """Set the limits of this process, once and for all: bytes of memory (address space) and of a file it writes."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_FSIZE, (file, file))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    torch.set_num_threads(1)


def refuse() -> None:
    """From now on: no new process, no signal to another, no reading of answers, no writing into the course's files.

    By an audit hook (PEP 578), which stays until the process ends.
    """
    course = f"{PACKAGE.parent}{os.sep}"
    answers = tuple(f"{folder}{os.sep}" for folder in (PACKAGE / "grading" / "items", PACKAGE.parent / "solutions"))
    starts, stops, moves, writes, refused = STARTS, STOPS, MOVES, WRITES, RefusedError  # not to be changed from outside
    real, decode = os.path.realpath, os.fsdecode

    def inside(path: object, folders: tuple[str, ...]) -> bool:
        return isinstance(path, str | bytes) and f"{real(decode(path))}{os.sep}".startswith(folders)

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = args
            if inside(path, answers):
                raise refused("the answers are not to be read while grading")
            if isinstance(flags, int) and flags & writes and inside(path, (course,)):
                raise refused("the course's own files are not to be changed while grading")
        elif event in moves:
            if any(inside(path, (course,)) for path in args):
                raise refused("the course's own files are not to be changed while grading")
        elif event.startswith(starts):
            raise refused(f"{event} starts another process, which is not allowed while grading")
        elif event in stops:
            raise refused(f"{event} is not allowed while grading")

    sys.addaudithook(hook)


def disarm_package() -> None:
    """Make every function of the package that is alive here refuse to work, whatever name or thread calls it."""
    stub = _not_yours.__code__
    gc.unfreeze()
    for function in gc.get_objects():
        if type(function) is FunctionType and _to_disarm(function.__code__, stub):
            code = function.__code__
            with warnings.catch_warnings():  # that a generator becomes a plain function
                warnings.simplefilter("ignore")
                function.__code__ = stub.replace(
                    co_name=code.co_name,
                    co_qualname=code.co_qualname,
                    co_filename=code.co_filename,
                    co_freevars=code.co_freevars,
                )


def _to_disarm(code: CodeType, stub: CodeType) -> bool:
    """Whether it is to be: code of the package, and not of what grades."""
    file = code.co_filename
    return file.startswith(f"{PACKAGE}{os.sep}") and not file.startswith(GRADING) and code.co_code != stub.co_code


def _not_yours(*_: Any, **__: Any) -> None:
    from sys import _getframe  # in here: this code will run with the names of another module

    from ldm_edu.grading.confine import BorrowedError

    frame = _getframe()
    raise BorrowedError(f"{frame.f_globals['__name__']}.{frame.f_code.co_qualname}")
