"""The training loop: a generator of records that can be killed at any moment and resumed to the same weights.

Nothing random is carried from step to step. Each step draws its batch, its noise and its time steps from a generator
seeded by (seed, step); so the state on disk is the weights, the optimisers' moments and the number of steps, and a
resumed run repeats the unbroken one bit for bit (on the same machine with the same number of threads).
"""

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from ldm_edu.files import atomic_write
from ldm_edu.training.interrupt import Interrupted, alone, held_back

STATE = "state.safetensors"  # in the folder of a run, as `save_state` writes it


class Task(Protocol):
    """One thing to learn: networks, their optimisers, and what one step does."""

    modules: dict[str, nn.Module]
    optimizers: dict[str, torch.optim.Optimizer]

    def step(self, step: int, progress: float, rng: torch.Generator) -> dict[str, float]:
        """One update; returns named numbers. ``progress`` runs from 0 to 1 over the run."""
        ...


@dataclass(frozen=True)
class Record:
    """What one step of training reports."""

    step: int  # steps done, from 1
    values: dict[str, float]
    seconds: float  # of this step


@dataclass(frozen=True)
class Store:
    """How a run's state is kept: ``save(task, folder, step)``, and ``load(task, folder)`` that returns the step."""

    save: Callable[[Task, Path, int], None]
    load: Callable[[Task, Path], int]


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
    store: "Store | None" = None,
) -> Generator[Record, None, None]:
    """Train ``task`` up to ``steps`` steps in all, resuming from ``folder`` where it holds a state.

    The state is saved every ``save_every`` steps and at the end, beside the old one and then renamed over it: a run
    killed while saving resumes from the state before. Wrap the generator to watch it: nothing is printed here.
    ``store`` says how; left out, as one file by `save_state` and `load_state`.

    Raises
    ------
    ValueError
        if the state in ``folder`` is beyond ``steps``; or if a loss is not finite, naming the step and the last that
        was saved, which is untouched.
    Interrupted
        at CTRL-C, when the last whole step has been saved; `reaching` brings one here that meets the caller.
    SaveError
        if the state cannot be written.
    """
    store = store or Store(save_state, load_state)
    saved = store.load(task, folder) if folder else 0
    if saved > steps:
        raise ValueError(f"{folder} has done {saved} steps already; give --steps above {saved}, or another --out")
    for step in range(saved, steps):
        with held_back() as let_it_come:
            began = time.perf_counter()
            values = task.step(step, step / steps, rng_for(seed, step))
            _refuse_infinite(values, step + 1, saved)
            if folder and ((step + 1) % save_every == 0 or step + 1 == steps):
                store.save(task, folder, step + 1)
                saved = step + 1
        try:
            yield Record(step + 1, values, time.perf_counter() - began)
            let_it_come()
        except KeyboardInterrupt:
            if folder is None or not alone():
                raise
            if saved <= step:
                store.save(task, folder, step + 1)
            raise Interrupted(step + 1) from None


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


def save_state(task: Task, folder: Path, step: int) -> None:
    """Write the whole state of a run, weights and optimisers, as one safetensors file."""
    tensors: dict[str, Tensor] = {}
    for name, module in task.modules.items():
        tensors |= {f"module/{name}/{key}": value.contiguous() for key, value in module.state_dict().items()}
    for name, optimizer in task.optimizers.items():
        for index, moments in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{name}/{index}/{key}": value.contiguous() for key, value in moments.items()}
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(
        folder / STATE,
        lambda path: safetensors.torch.save_file(tensors, path, metadata={"step": str(step)}),
    )


def load_state(task: Task, folder: Path) -> int:
    """Restore what `save_state` wrote; returns the number of steps done, 0 where nothing was saved.

    Raises
    ------
    ValueError
        if the file is damaged or belongs to another task, naming the remedy; the task is as it was then.
    """
    path = folder / STATE
    if not path.exists():
        return 0
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            step = int(file.metadata()["step"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        parts = {name: _below(f"module/{name}/", tensors) for name in task.modules}
        for name, module in task.modules.items():
            _check_fit(name, module, parts[name])
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is damaged or was saved by another task or preset ({error}); give another --out folder, or remove "
            "that file to start anew"
        ) from error
    for name, module in task.modules.items():
        module.load_state_dict(parts[name])
    for name, optimizer in task.optimizers.items():
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in _below(f"optimizer/{name}/", tensors).items():
            index, moment = key.split("/")
            state.setdefault(int(index), {})[moment] = _laid_out_as(parameters[int(index)], value)
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return step


def _laid_out_as(parameter: Tensor, moment: Tensor) -> Tensor:
    """A moment with the strides of its weight: fused AdamW pairs the two by their place in memory, not by their index.

    A state is saved contiguous, whereas the weights of convolutions are channels-last.
    """
    return torch.empty_like(parameter).copy_(moment) if moment.shape == parameter.shape else moment


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with ``prefix``, without it."""
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _check_fit(name: str, module: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Whether ``tensors`` are those of a module; only the first that is not is named, not some hundred."""
    wanted = module.state_dict()
    for key, value in wanted.items():
        if key not in tensors:
            raise ValueError(f"it has no {name}/{key}")
        if tensors[key].shape != value.shape:
            raise ValueError(f"{name}/{key} has shape {tuple(tensors[key].shape)}, not {tuple(value.shape)}")
    if unknown := next((key for key in tensors if key not in wanted), None):
        raise ValueError(f"{name}/{unknown} is unknown")
