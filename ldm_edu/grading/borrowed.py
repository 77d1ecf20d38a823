"""An answer that lets a library do the work: seen while it runs, and before that made to fail.

This is a reminder of what an item asks for, not a wall: whoever copies a library's text is not seen, and a text copied
from ``solutions/`` is not either.
"""

import gc
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any

PACKAGE = Path(__file__).resolve().parent.parent
LIBRARIES = ("diffusers", "transformers")
ENGINE = f"{Path(__file__).resolve().parent}{os.sep}"  # `check` and `display` in an answer cost nothing ...
ITEMS = f"{ENGINE}items{os.sep}"  # ... but the answers do


@cache
def folders() -> tuple[str, ...]:
    """The folders, each with its last separator, of this package and of the other libraries of models."""
    found = [spec.origin for name in LIBRARIES if (spec := find_spec(name)) and spec.origin]
    return tuple(f"{folder}{os.sep}" for folder in (PACKAGE, *(Path(origin).parent for origin in found)))


def lends(file: str) -> bool:
    """Whether functions of this source file do work that an item asks for."""
    return file.startswith(folders()) and (not file.startswith(ENGINE) or file.startswith(ITEMS))


@contextmanager
def watched(borrowed: dict[str, None], given: set[CodeType]) -> Iterator[None]:
    """Collect the names of the library functions that are entered; ``given`` are handed in by the item itself."""
    before = sys.getprofile()
    sys.setprofile(_watcher(borrowed, given))
    try:
        yield
    finally:
        sys.setprofile(before)


def _watcher(borrowed: dict[str, None], given: set[CodeType]) -> Callable[[FrameType, str, Any], None]:
    inside: list[FrameType] = []  # a function that the item handed in may call what it likes

    def watch(frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            if frame.f_code in given or (frame.f_code.co_name == "<module>" and lends(frame.f_code.co_filename)):
                inside.append(frame)  # an import runs a module, and calls nothing on the answer's behalf
            elif not inside and lends(frame.f_code.co_filename):
                borrowed[f"{frame.f_globals.get('__name__', '?')}.{frame.f_code.co_qualname}"] = None
        elif event == "return" and inside and inside[-1] is frame:
            inside.pop()

    return watch


def disarm() -> None:
    """Make every such function that is alive in this process refuse to work, whatever name or thread calls it."""
    stub = _not_yours.__code__
    gc.unfreeze()
    for function in gc.get_objects():
        if type(function) is FunctionType and function.__code__.co_code != stub.co_code:
            code = function.__code__
            if lends(code.co_filename):
                with warnings.catch_warnings():  # that a generator becomes a plain function
                    warnings.simplefilter("ignore")
                    function.__code__ = stub.replace(
                        co_name=code.co_name,
                        co_qualname=code.co_qualname,
                        co_filename=code.co_filename,
                        co_freevars=code.co_freevars,
                    )


def _not_yours(*_: Any, **__: Any) -> None:
    from sys import _getframe  # in here, as the error's class: this code will run with the names of another module

    frame = _getframe()
    raise type("BorrowedError", (PermissionError,), {})(f"{frame.f_globals['__name__']}.{frame.f_code.co_qualname}")
