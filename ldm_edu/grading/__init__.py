"""Exercises: what is asked, what counts as right, and which mistake a wrong answer shows.

In an exercise notebook:

    from ldm_edu.grading import check, hint

    hint("01.q_sample")              # opens the next of three hints
    check("01.q_sample", q_sample)   # passed, or what was expected, what came, on which input

``ldm-edu grade`` judges the same notebooks from outside, by the same items. Names are imported when they are first
used: the process in which a learner's notebook is graded never loads the items, nor their answers.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ldm_edu.grading.interactive import CheckFailed as CheckFailed
    from ldm_edu.grading.interactive import check as check
    from ldm_edu.grading.interactive import hint as hint

__all__ = ["CheckFailed", "check", "hint"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'ldm_edu.grading' has no name {name!r}; it has {', '.join(__all__)}")
    from ldm_edu.extras import extras

    with extras():
        from ldm_edu.grading import interactive

    value = globals()[name] = getattr(interactive, name)
    return value
