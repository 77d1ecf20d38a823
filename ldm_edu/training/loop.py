"""The training loop: a generator of records that can be killed at any moment and resumed to the same weights.

Nothing random is carried from step to step. Each step draws its batch, its noise and its time steps from a generator
seeded by (seed, step); so the state on disk is the weights, the optimisers' moments and the number of steps, and a
resumed run repeats the unbroken one bit for bit (on the same machine with the same number of threads).
"""

import signal
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import torch

from ldm_edu.training.interrupt import Interrupted, alone, held_back, saving
from ldm_edu.training.state import ONE_FILE, Store, Task


@dataclass(frozen=True)
class Record:
    """What one step of training reports."""

    step: int  # steps done, from 1
    values: dict[str, float]
    seconds: float  # of this step


def rng_for(seed: int, step: int) -> torch.Generator:
    """The generator of one step of one run; neighbouring steps and seeds share nothing."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step * 7_919 + 12_345) % (2**63 - 1))


def train(
    task: Task,
    *,
    steps: int,
    seed: int,
    folder: Path | None = None,
    save_every: int = 500,
    store: Store = ONE_FILE,
) -> Generator[Record, None, None]:
    """Train ``task`` up to ``steps`` steps in all, resuming from ``folder`` where it holds a state.

    The state is saved every ``save_every`` steps and at the end, beside the old one and then renamed over it: a run
    killed while saving resumes from the state before. Wrap the generator to watch it: nothing is printed here.
    ``store`` says how; left out, as one file.

    Raises
    ------
    ValueError
        if the state in ``folder`` is beyond ``steps``; or if a loss is not finite, naming the step and the last that
        was saved, which is untouched.
    Interrupted
        at CTRL-C, SIGTERM or SIGHUP, when the last whole step has been saved; `reaching` brings those here that meet
        the caller.
    SaveError
        if the state cannot be written.
    """
    saved = store.load(task, folder) if folder else 0
    if saved > steps:
        raise ValueError(f"{folder} has done {saved} steps already; give --steps above {saved}, or another --out")
    done, midway = saved, False  # midway: what the task holds is not the state after a step
    try:
        for step in range(saved, steps):
            with held_back() as let_it_come:
                midway, began = True, time.perf_counter()
                values = task.step(step, step / steps, rng_for(seed, step))
                _refuse_infinite(values, step + 1, saved)
                if folder and ((step + 1) % save_every == 0 or step + 1 == steps):
                    store.save(task, folder, step + 1)
                    saved = step + 1
                midway, done = False, step + 1
            yield Record(done, values, time.perf_counter() - began)
            let_it_come()
    except KeyboardInterrupt as interrupt:
        if folder is None or midway or not alone():
            raise
        if saved < done:
            with saving():
                store.save(task, folder, done)
        raise Interrupted(done, getattr(interrupt, "number", signal.SIGINT)) from None


def _refuse_infinite(values: dict[str, float], step: int, saved: int) -> None:
    """A resumed run would see the same batches again, and break again: only another run can help."""
    if broken := [name for name, value in values.items() if not abs(value) < float("inf")]:
        last = f"the last saved step is {saved}" if saved else "no step was saved"
        raise ValueError(
            f"{', '.join(broken)} became nan or infinite at step {step}, and {last}; start anew in another --out with "
            "a lower --lr"
        )


def trapezoid(progress: float, step: int, warmup: int = 60, decay: float = 0.25) -> float:
    """Learning-rate factor: up over ``warmup`` steps, flat, then down to 0 over the last ``decay`` of the run.

    A flat middle lets a run be lengthened later: resume from a state saved before the fall (Hu et al. 2024, 4.2).
    A ``decay`` of 0 never falls.
    """
    return min(1.0, (step + 1) / warmup, max(0.0, (1.0 - progress) / decay) if decay else 1.0)
