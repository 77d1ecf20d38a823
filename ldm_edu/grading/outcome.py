"""What a learner's function does on an input: the value it returns or the error it raises, and what else it did."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ldm_edu.grading.borrowed import watched
from ldm_edu.grading.inputs import copied, gradients, same


@dataclass(frozen=True)
class Outcome:
    """What an answer did on one case.

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
    watched for what it calls. ``finish`` is applied to the value, under the same watch: a value may be lazy.
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
        return Outcome(error=f"{described(error)}{_place(error, function)}", borrowed=tuple(borrowed))
    return Outcome(value, borrowed=tuple(borrowed), changed=not same(args, given), gradients=slopes)


def described(error: BaseException, limit: int = 2000) -> str:
    """An exception's name and its words, at most ``limit`` characters of them; the words may fail too."""
    try:
        return f"{type(error).__name__}: {error}"[:limit]
    except BaseException:
        return f"{type(error).__name__}: its words cannot be shown"


def printable(text: str, limit: int = 2000) -> str:
    """A text of a learner's on one line: signs that a terminal would obey are spelt out, and it has an end."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:limit])


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
