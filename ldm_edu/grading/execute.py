"""Execute a learner's notebook in a process of its own, under limits, and collect what its answers do.

A cell, or an answer, that stops the process (an endless loop, an exit, too much memory) is left out and the rest is run
again in a new one: what it costs is its own item.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from ldm_edu.grading.item import Item
from ldm_edu.grading.outcome import Outcome
from ldm_edu.grading.session import Session, Stopped, session
from ldm_edu.grading.transfer import decode, pack


@dataclass(frozen=True)
class Limits:
    """Seconds for a cell, for the calls of one answer, and for a notebook; bytes of memory."""

    cell: float = 20.0
    answer: float = 10.0
    notebook: float = 240.0
    memory: int = 12 * 2**30


@dataclass
class Collected:
    """``outcomes`` of the answers that could be called; for the others, ``trouble`` says why not.

    ``disturbed`` : items among them that may have come to it through the cell of another.
    ``errors`` : what code cells raised, by their place in the notebook.
    """

    outcomes: dict[str, list[Outcome]] = field(default_factory=dict)
    trouble: dict[str, str] = field(default_factory=dict)
    disturbed: set[str] = field(default_factory=set)
    errors: dict[int, str] = field(default_factory=dict)


def run(cells: Sequence[tuple[int, str]], items: Sequence[Item], limits: Limits, *, isolated: bool) -> Collected:
    """Execute code cells (place, source) in their order, then call the answers to ``items``.

    ``isolated`` : in a sandbox.
    """
    done, skipped = Collected(), set[int]()
    deadline = time.monotonic() + limits.notebook
    while time.monotonic() < deadline:
        left = [item for item in items if item.id not in done.outcomes and item.id not in done.trouble]
        if not left:
            return done
        guilty: int | Item = -1  # who is at work when the process stops
        try:
            with session(limits.memory, isolated=isolated) as worker:
                for place, source in cells:
                    if place not in skipped and time.monotonic() < deadline:
                        guilty = place
                        if error := worker.ask(limits.cell, "cell", source).decode(errors="replace"):
                            done.errors[place] = error
                guilty = left[0]
                worker.ask(limits.answer, "disarm")
                for item in left:
                    if time.monotonic() < deadline:
                        guilty = item
                        _collect(item, worker, limits, done)
        except Stopped as stop:
            if isinstance(guilty, Item):
                done.trouble[guilty.id] = str(stop)
                if stop.died:
                    done.disturbed.add(guilty.id)
            else:
                skipped.add(guilty)
                done.errors[guilty] = str(stop)
    for item in items:
        if item.id not in done.outcomes:
            done.trouble.setdefault(item.id, f"no time was left: a notebook gets {limits.notebook:.0f} seconds")
    return done


def _collect(item: Item, worker: Session, limits: Limits, done: Collected) -> None:
    reply = worker.ask(limits.answer, "answer", item.name, pack([case.args for case in item.cases()]))
    try:
        if not reply.startswith(b"["):
            raise ValueError(reply.decode(errors="replace"))
        done.outcomes[item.id] = decode(reply)
    except ValueError as error:
        done.trouble[item.id] = str(error)
        done.disturbed.add(item.id)
