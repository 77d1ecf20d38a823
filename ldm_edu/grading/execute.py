"""Execute a learner's notebook in a process of its own, under limits, and collect what its answers do.

A cell, or an answer, that stops the kernel (an endless loop, an exit, too much memory) is left out and the rest is run
again in a new one: what it costs is its own item.
"""

import logging
import secrets
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
import zmq
from jupyter_client.asynchronous.client import AsyncKernelClient
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

from ldm_edu.grading.collect import read
from ldm_edu.grading.guard import Outcome
from ldm_edu.grading.item import Item
from ldm_edu.grading.parcel import pack
from ldm_edu.grading.processes import counted

KEPT = 2000  # characters of an error message
MESSAGE = 16 * 2**20  # bytes of one message from a kernel; at a longer one the connection ends


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


class _Stopped(Exception):  # noqa: N818 (the kernel has gone; the words say why)
    """``died`` : by itself, so that it may have been the work of a cell before."""

    def __init__(self, words: str, *, died: bool = False) -> None:
        super().__init__(words)
        self.died = died


class _Client(AsyncKernelClient):
    """A client that takes no message larger than `MESSAGE`."""

    def _context_default(self) -> Any:
        context = super()._context_default()
        context.setsockopt(zmq.MAXMSGSIZE, MESSAGE)
        return context


def run(cells: Sequence[tuple[int, str]], items: Sequence[Item], limits: Limits) -> Collected:
    """Execute code cells (place, source) in their order, then call the answers to ``items``."""
    done, skipped = Collected(), set[int]()
    deadline = time.monotonic() + limits.notebook
    with tempfile.TemporaryDirectory(prefix="ldm-edu-grade-") as folder:
        while time.monotonic() < deadline:
            guilty: int | str | None = None
            left = [item for item in items if item.id not in done.outcomes and item.id not in done.trouble]
            if not left:
                return done
            try:
                with _kernel(Path(folder), limits) as execute:
                    for place, source in cells:
                        if place not in skipped and time.monotonic() < deadline:
                            guilty = place
                            if error := execute(source, limits.cell):
                                done.errors[place] = error
                    guilty = left[0].id
                    execute("import ldm_edu.grading.confine as _c; _c.disarm_package()", limits.answer)
                    for item in left:
                        if time.monotonic() < deadline:
                            guilty = item.id
                            _collect(item, execute, Path(folder), limits, done)
            except _Stopped as stop:
                if isinstance(guilty, int):
                    skipped.add(guilty)
                    done.errors[guilty] = str(stop)
                elif guilty is not None:
                    done.trouble[guilty] = str(stop)
                    if stop.died:
                        done.disturbed.add(guilty)
                else:
                    raise
    for item in items:
        if item.id not in done.outcomes:
            done.trouble.setdefault(item.id, f"no time was left: a notebook gets {limits.notebook:.0f} seconds")
    return done


def _collect(item: Item, execute: Any, folder: Path, limits: Limits, done: Collected) -> None:
    # Names that a notebook cannot know: it has no file of its own ready in their place.
    inputs, outcomes = (folder / f"{secrets.token_hex(8)}.{kind}" for kind in ("inputs", "outcomes"))
    inputs.write_bytes(pack([case.args for case in item.cases()]))
    call = f"_c.collect({item.name!r}, globals(), {str(inputs)!r}, {str(outcomes)!r})"
    error = execute(f"import ldm_edu.grading.collect as _c; {call}", limits.answer)
    try:
        done.outcomes[item.id] = read(outcomes)
    except ValueError as missing:
        done.trouble[item.id] = error or str(missing)
        done.disturbed.add(item.id)


@contextmanager
def _kernel(folder: Path, limits: Limits) -> Iterator[Any]:
    """A new kernel in ``folder``; gives a function that executes a source and returns what it raised, or ""."""
    notebook = nbformat.v4.new_notebook()
    for name in ("traitlets", "asyncio"):  # nbclient would report every cell that fails, and what it left waiting
        logging.getLogger(name).setLevel(logging.CRITICAL)
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        store_widget_state=False,
        shutdown_kernel="immediate",
        extra_arguments=[
            "--log-level=CRITICAL",
            "--InteractiveShell.ast_node_interactivity=none",  # the value of a cell's last line is not shown
            f"--IPKernelApp.outstream_class={__package__}.stream.CappedStream",
        ],
    )
    client.create_kernel_manager().client_factory = _Client

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
            if crowded.is_set():
                raise _Stopped("it started one process after the other, and was stopped", died=True) from None
            raise _Stopped("it ended the whole notebook (an exit, or no memory left)", died=True) from None
        return ""

    unseen = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}  # what passes by Python's own streams
    with client.setup_kernel(**unseen), counted(_process(client)) as crowded:
        prepare = f"import ldm_edu.grading.collect as _c; _c.prepare({limits.memory}); del _c"
        if error := execute(prepare, 120.0):
            raise RuntimeError(f"the grader's own kernel does not work: {error}")
        yield execute


def _process(client: NotebookClient) -> int:
    """The number of a running kernel's process."""
    manager: Any = client.km
    return int(manager.provisioner.pid)
