"""Run a learner's function on an input, and notice when it lets a library do the work that the item asks for."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch
from torch import Tensor

from ldm_edu.grading.inputs import copied, gradients, same

PACKAGE = str(Path(__file__).resolve().parent.parent) + "/"
LIBRARIES = ("/diffusers/", "/transformers/")


@dataclass(frozen=True)
class Outcome:
    """What came of one case.

    ``value`` : what the function returned. ``error`` : the name and the words of what it raised, or "". ``borrowed`` :
    the functions of this package, or of another library of models, that it called. ``changed`` : it wrote into its
    input. ``gradients`` : of the value, one for each input that asks for a gradient; None where none arrives.
    """

    value: Any = None
    error: str = ""
    borrowed: tuple[str, ...] = ()
    changed: bool = False
    gradients: tuple[Tensor | None, ...] = ()


def as_it_is(value: Any) -> Any:
    """The value."""
    return value


def run(
    function: Any, args: tuple[Any, ...], *, ours: bool = False, finish: Callable[[Any], Any] = as_it_is
) -> Outcome:
    """Call ``function`` on copies of ``args``; whatever it raises becomes part of the outcome.

    An answer that is no function, a number say, is its own outcome. ``ours``: an answer of the course, which is not
    watched for what it calls. ``finish`` is applied to what came, under the same watch: a value may be lazy.
    """
    if not callable(function):
        return Outcome(value=finish(function))
    given = copied(args)
    borrowed: dict[str, None] = {}
    own = {a.__code__ for a in (finish, gradients, *args) if hasattr(a, "__code__")}
    watch = nullcontext() if ours else watched(borrowed, own)
    try:
        with torch.random.fork_rng(devices=[]), watch:
            torch.default_generator.seed()  # an answer that draws numbers for itself draws others each time
            value = function(*given)
            slopes = gradients(value, args)
            value = finish(value)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return Outcome(error=f"{type(error).__name__}: {error}{_place(error, function)}", borrowed=tuple(borrowed))
    return Outcome(value, borrowed=tuple(borrowed), changed=not same(args, given), gradients=slopes)


def _place(error: BaseException, function: Any) -> str:
    """Where in the function's own file it was raised, as far as that is known."""
    file = getattr(getattr(function, "__code__", None), "co_filename", "")
    found = ""
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if code.co_filename == file:
            found = f" (in line {trace.tb_lineno - code.co_firstlineno + 1} of `{code.co_name}`)"
        trace = trace.tb_next
    return found


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
            file = frame.f_code.co_filename
            if frame.f_code in given or (frame.f_code.co_name == "<module>" and file.startswith(PACKAGE)):
                inside.append(frame)  # an import runs a module, and calls nothing on the answer's behalf
            elif not inside and file != __file__ and (file.startswith(PACKAGE) or any(p in file for p in LIBRARIES)):
                borrowed[f"{frame.f_globals.get('__name__', '?')}.{frame.f_code.co_qualname}"] = None
        elif event == "return" and inside and inside[-1] is frame:
            inside.pop()

    return watch
