"""Exercises: what is asked, what counts as right, and which mistake a wrong answer shows.

In an exercise notebook:

    from ldm_edu.grading import check, hint

    hint("01.q_sample")              # opens the next of three hints
    check("01.q_sample", q_sample)   # passed, or what was expected, what came, on which input

``ldm-edu grade`` judges the same notebooks from outside, by the same items.
"""

from ldm_edu.grading.interactive import CheckFailed, check, hint

__all__ = ["CheckFailed", "check", "hint"]
