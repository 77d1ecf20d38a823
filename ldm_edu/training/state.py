"""The state of a run on disk: weights, the optimisers' moments and the number of steps, as one safetensors file.

A state is validated before any of it is used. torch itself takes moments of another shape than their weight, and then
writes outside their memory.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from ldm_edu.files import atomic_write
from ldm_edu.training.fingerprints import checksum

STATE = "state.safetensors"  # in the folder of a run
MOMENTS = ("exp_avg", "exp_avg_sq")  # of AdamW (Loshchilov and Hutter 2019), beside the parameter's number of updates
Kinds = Mapping[str, tuple[tuple[int, ...], torch.dtype]]  # name -> shape and dtype


class Task(Protocol):
    """One thing to learn: networks, their optimisers (AdamW), and what one step does."""

    modules: dict[str, nn.Module]
    optimizers: dict[str, torch.optim.Optimizer]

    def step(self, step: int, progress: float, rng: torch.Generator) -> dict[str, float]:
        """One update; returns named numbers. ``progress`` runs from 0 to 1 over the run."""
        ...


@dataclass(frozen=True)
class Store:
    """How a run's state is kept: ``save(task, folder, step)``, and ``load(task, folder)`` that returns the step."""

    save: Callable[[Task, Path, int], None]
    load: Callable[[Task, Path], int]


def save_state(task: Task, folder: Path, step: int) -> None:
    """Write the whole state of a run, weights and optimisers, as one safetensors file.

    Raises
    ------
    ValueError
        if numbers in it are not finite; the state before it is untouched.
    SaveError
        if the disk refuses; the same holds.
    """
    tensors = {name: value.contiguous() for name, value in weights(task).items()}
    for name, optimizer in task.optimizers.items():
        for index, moments in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{name}/{index}/{key}": value.contiguous() for key, value in moments.items()}
    refuse_broken(tensors, step)
    metadata = {"step": str(step), "checksum": checksum(tensors, note=str(step))}
    atomic_write(folder / STATE, partial(safetensors.torch.save_file, tensors, metadata=metadata))


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
        step, tensors = _read(path, task)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise ValueError(
            f"{path} is damaged or was saved by another task or preset ({error}); give another --out folder, or remove "
            "that file to start anew"
        ) from error
    for name, module in task.modules.items():
        module.load_state_dict(_below(f"module/{name}/", tensors))
    for name, optimizer in task.optimizers.items():
        state: dict[int, dict[str, Tensor]] = {}
        for index, parameter in enumerate(_parameters(optimizer)):
            if moments := _below(f"optimizer/{name}/{index}/", tensors):
                state[index] = {key: _laid_out_as(parameter, moment) for key, moment in moments.items()}
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return step


ONE_FILE = Store(save_state, load_state)  # the whole state as one safetensors file


def weights(task: Task) -> dict[str, Tensor]:
    """Every weight and buffer of a task's networks by its name in a state."""
    return {
        f"module/{name}/{key}": value
        for name, module in task.modules.items()
        for key, value in module.state_dict().items()
    }


def kinds(tensors: Mapping[str, Any]) -> Kinds:
    """The shapes and dtypes of some tensors."""
    return {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}


def check_kinds(found: Kinds, wanted: Kinds) -> None:
    """Whether what a state holds is what a task needs; only the first that is not is named, not some hundred.

    Raises
    ------
    ValueError
        if a tensor is missing, unknown, or of another shape or dtype.
    """
    for name, (shape, dtype) in wanted.items():
        if name not in found:
            raise ValueError(f"it has no {name}")
        if found[name][0] != shape:
            raise ValueError(f"{name} has shape {found[name][0]}, not {shape}")
        if found[name][1] != dtype:
            raise ValueError(f"{name} holds {found[name][1]}, not {dtype}")
    if unknown := next((name for name in found if name not in wanted), None):
        raise ValueError(f"{unknown[:80]!r} is unknown")


def check_values(tensors: Mapping[str, Tensor], step: int) -> None:
    """Whether the numbers of a state after ``step`` steps can be those of a training.

    Raises
    ------
    ValueError
        if a number is not finite, a square is negative, or a parameter had more updates than there were steps.
    """
    for name, tensor in tensors.items():
        kind = name.rsplit("/", 1)[-1] if name.startswith("optimizer/") else "weight"
        if not tensor.isfinite().all():
            raise ValueError(f"{name} is not finite")
        if (kind == "exp_avg_sq" or not tensor.is_floating_point()) and tensor.numel() and tensor.min() < 0:
            raise ValueError(f"{name} is negative")
        if kind == "step" and float(tensor) not in range(step + 1):
            raise ValueError(f"{name} is {float(tensor):g}, not a number of updates in {step} steps")


def refuse_broken(tensors: Mapping[str, Tensor], step: int) -> None:
    """A state that could not be loaded must not take the place of one that can.

    Raises
    ------
    ValueError
        as `check_values`, with what to do.
    """
    try:
        check_values(tensors, step)
    except ValueError as error:
        advice = "the state saved before it is kept; start again in another --out with a lower --lr"
        raise ValueError(f"the state after step {step} was not saved, since {error}: {advice}") from error


def check_step(step: object) -> int:
    """The number of steps that a state says were done, as an integer or as the digits of one.

    Raises
    ------
    ValueError
        if it is not a whole number from 1 to 999,999,999.
    """
    if isinstance(step, bool) or not re.fullmatch(r"[1-9][0-9]{0,8}", str(step)[:10]):
        raise ValueError(f"its step is {str(step)[:20]!r}, which is not a whole number of steps")
    return int(str(step))


def _read(path: Path, task: Task) -> tuple[int, dict[str, Tensor]]:
    """The step and the tensors of a state, validated; only tensors that fit are read."""
    if not path.is_file():
        raise ValueError("it is not a file")
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        step, names = check_step(metadata.get("step")), set(file.keys())
        wanted = {**kinds(weights(task)), **_moment_kinds(task, names)}
        check_kinds({name: _kind_in(file, name, wanted) for name in file.keys()}, wanted)  # noqa: SIM118 (not a dict)
        tensors = {name: file.get_tensor(name) for name in wanted}
    check_values(tensors, step)
    if "checksum" in metadata and metadata["checksum"] != checksum(tensors, note=str(step)):  # older states have none
        raise ValueError("its numbers do not have its checksum")
    return step, tensors


def _kind_in(file: Any, name: str, wanted: Kinds) -> tuple[tuple[int, ...], torch.dtype]:
    """Shape and dtype of a tensor in a file; of one that is not wanted, nothing is read."""
    shape = tuple(file.get_slice(name).get_shape())
    if name not in wanted or shape != wanted[name][0]:
        return shape, torch.float32
    return shape, file.get_tensor(name).dtype


def _moment_kinds(task: Task, names: set[str]) -> Kinds:
    """What is to be saved of the optimisers: all moments of those that have begun, and some wait for their turn."""
    found: dict[str, tuple[tuple[int, ...], torch.dtype]] = {}
    for name, optimizer in task.optimizers.items():
        if not any(key.startswith(f"optimizer/{name}/") for key in names):
            continue
        for index, parameter in enumerate(_parameters(optimizer)):
            if parameter.requires_grad:
                at = f"optimizer/{name}/{index}"
                found[f"{at}/step"] = ((), torch.float32)
                found |= {f"{at}/{moment}": (tuple(parameter.shape), parameter.dtype) for moment in MOMENTS}
    return found


def _parameters(optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    """The parameters of an optimiser in the order of their indices in its state."""
    for group in optimizer.param_groups:
        yield from group["params"]


def _laid_out_as(parameter: Tensor, moment: Tensor) -> Tensor:
    """A moment with the strides of its weight: fused AdamW pairs the two by their place in memory, not by their index.

    A state is saved contiguous, whereas the weights of convolutions are channels-last.
    """
    return torch.empty_like(parameter).copy_(moment) if moment.shape == parameter.shape else moment.clone()


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with ``prefix``, without it."""
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
