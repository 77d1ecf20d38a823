"""Execute a learner's notebook in a process of its own, under limits, and collect what its answers do.

A cell, or an answer, that stops the kernel (an endless loop, an exit, too much memory) is left out and the rest is run
again in a new one: what it costs is its own item.
"""

import logging
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

from ldm_edu.grading.collect import read
from ldm_edu.grading.guard import Outcome
from ldm_edu.grading.item import Item

KEPT = 2000  # characters of an error message


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

    ``errors`` : what code cells raised, by their place in the notebook.
    """

    outcomes: dict[str, list[Outcome]] = field(default_factory=dict)
    trouble: dict[str, str] = field(default_factory=dict)
    errors: dict[int, str] = field(default_factory=dict)


class _Stopped(Exception):  # noqa: N818 (the kernel has gone; the words say why)
    pass


def run(cells: Sequence[tuple[int, str]], items: Sequence[Item], limits: Limits) -> Collected:
    """Execute code cells (place, source) in their order, then call the answers to ``items``."""
    done, skipped = Collected(), set[int]()
    deadline = time.monotonic() + limits.notebook
    with tempfile.TemporaryDirectory(prefix="ldm-edu-grade-") as folder:
        while time.monotonic() < deadline:
            guilty: int | str | None = None
            try:
                with _kernel(Path(folder), limits) as execute:
                    for place, source in cells:
                        if place not in skipped:
                            guilty = place
                            if error := execute(source, limits.cell):
                                done.errors[place] = error
                    for item in items:
                        if item.id not in done.outcomes and item.id not in done.trouble:
                            guilty = item.id
                            _collect(item, execute, Path(folder), limits, done)
                return done
            except _Stopped as stop:
                if isinstance(guilty, int):
                    skipped.add(guilty)
                    done.errors[guilty] = str(stop)
                elif guilty is not None:
                    done.trouble[guilty] = str(stop)
                else:
                    raise
    for item in items:
        if item.id not in done.outcomes:
            done.trouble.setdefault(item.id, f"no time was left: a notebook gets {limits.notebook:.0f} seconds")
    return done


def _collect(item: Item, execute: Any, folder: Path, limits: Limits, done: Collected) -> None:
    path = folder / f"{item.grade_id}.pt"
    path.unlink(missing_ok=True)
    call = f"from ldm_edu.grading.collect import collect as _c; _c({item.id!r}, globals(), {str(path)!r})"
    error = execute(call, limits.answer)
    try:
        done.outcomes[item.id] = read(path)
    except ValueError as missing:
        done.trouble[item.id] = error or str(missing)


@contextmanager
def _kernel(folder: Path, limits: Limits) -> Iterator[Any]:
    """A new kernel in ``folder``; gives a function that executes a source and returns what it raised, or ""."""
    notebook = nbformat.v4.new_notebook()
    logging.getLogger("traitlets").setLevel(logging.CRITICAL)  # nbclient would report every cell that fails
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        store_widget_state=False,
        shutdown_kernel="immediate",
        extra_arguments=["--log-level=CRITICAL", f"--IPKernelApp.outstream_class={__package__}.stream.CappedStream"],
    )

    def execute(source: str, seconds: float) -> str:
        cell = nbformat.v4.new_code_cell(source)
        notebook.cells = [cell]
        client.timeout = max(1, round(seconds))
        try:
            client.execute_cell(cell, 0)
        except CellExecutionError as error:
            return f"{error.ename}: {error.evalue}"[:KEPT]
        except CellTimeoutError:
            raise _Stopped(
                f"it ran for more than {seconds:.0f} seconds and was stopped: is there an endless loop?"
            ) from None
        except DeadKernelError:
            raise _Stopped("it ended the whole notebook (an exit, or no memory left)") from None
        return ""

    with client.setup_kernel():
        prepare = f"from ldm_edu.grading.collect import limit as _l; _l({limits.memory}); del _l"
        if error := execute(prepare, 120.0):
            raise RuntimeError(f"the grader's own kernel does not work: {error}")
        yield execute
