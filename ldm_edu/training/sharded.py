"""The state of a run as a folder of shards: each process writes its share, any number of processes reads them back.

``step-000500/`` holds safetensors files of `torch.distributed.checkpoint`, which know the place of every shard in its
tensor, and ``state.json``, written last. A folder is made beside and renamed when whole, so a run killed at any moment
resumes from the newest whole one. Nothing is pickled.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from ldm_edu.files import SaveError, atomic_write_text, read_json
from ldm_edu.training.parallel import is_main, local, wait
from ldm_edu.training.state import (
    MOMENTS,
    Store,
    Task,
    check_kinds,
    check_step,
    check_values,
    kinds,
    refuse_broken,
    weights,
)

FORMAT = "ldm-edu-shards/1"
FILE_BYTES = 2**30  # of a whole tensor's bytes; a process's share of it is smaller
KEPT = 2  # the newest states: one to resume from, one in case its disk block turns out to be bad


def state_tensors(task: Task) -> dict[str, Tensor]:
    """Every tensor of a run's state by its name, the optimiser's moments by that of their parameter.

    The tensors are those of the task itself, moments made where no step has been done: loading writes into them.
    """
    tensors = weights(task)
    for name, optimizer in task.optimizers.items():
        for key, parameter in task.modules[name].named_parameters():
            state = optimizer.state[parameter]
            if not state:
                state["step"] = torch.zeros((), device=parameter.device)
                state |= {moment: torch.zeros_like(parameter) for moment in MOMENTS}
            tensors |= {f"optimizer/{name}/{key}/{moment}": value for moment, value in state.items()}
    return tensors


def save_sharded(task: Task, folder: Path, step: int) -> None:
    """Write the state after ``step`` steps; all processes call it together. Older states but one are removed.

    Raises
    ------
    ValueError
        if numbers in it are not finite; the states before it are untouched.
    SaveError
        in every process, if any of them could not write; the same holds.
    """
    tensors = {name: value.contiguous() for name, value in state_tensors(task).items()}
    refuse_broken({name: local(tensor) for name, tensor in tensors.items()}, step)
    whole = folder / f"step-{step:06}"
    part = folder / f".step-{step:06}.part"
    if is_main():
        with _sentence(whole):
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
    wait()
    with _sentence(whole), _quiet():
        writer = HuggingFaceStorageWriter(str(part), _files(tensors), save_distributed=True)
        save(tensors, storage_writer=writer)
    if is_main():
        with _sentence(whole):
            shards = sorted(part.glob("*.safetensors"))
            files = {path.name: path.stat().st_size for path in shards}
            told = {"format": FORMAT, "step": step, "files": files, "sha256": {p.name: _sha256(p) for p in shards}}
            atomic_write_text(part / "state.json", json.dumps(told) + "\n")
            shutil.rmtree(whole, ignore_errors=True)
            os.replace(part, whole)
            for old in whole_states(folder)[:-KEPT]:
                (old / "state.json").unlink()  # first, so that what is left of a killed removal is not a whole state
                shutil.rmtree(old)
    wait()


def _files(tensors: dict[str, Tensor]) -> dict[str, int]:
    """Which file each tensor goes to, from 1: a file is put together in memory, so none may be too large."""
    numbers: dict[str, int] = {}
    number, room = 1, FILE_BYTES
    for name, tensor in tensors.items():
        room -= tensor.numel() * tensor.element_size()
        if room < 0 and numbers:
            number, room = number + 1, FILE_BYTES
        numbers[name] = number
    return numbers


def load_sharded(task: Task, folder: Path) -> int:
    """Restore the newest whole state, whatever number of processes wrote it; returns its step, 0 where there is none.

    Raises
    ------
    ValueError
        if it is damaged or belongs to another task, naming the remedy.
    """
    states = whole_states(folder)
    if not states:
        return 0
    path = states[-1]
    remedy = (
        f"remove that folder to go on from the state before, {states[-2].name}"
        if len(states) > 1
        else ("remove that folder to start anew")
    )
    try:
        step = _check_files(path)
        tensors, reader = state_tensors(task), HuggingFaceStorageReader(str(path))
        found = {
            name: (tuple(there.size), there.properties.dtype)
            for name, there in reader.read_metadata().state_dict_metadata.items()
            if isinstance(there, TensorStorageMetadata)
        }
        check_kinds(found, kinds(tensors))
        with _quiet():
            load(tensors, storage_reader=reader)
        check_values({name: local(tensor) for name, tensor in tensors.items()}, step)
        return step
    except (CheckpointException, SafetensorError, OSError, ValueError, LookupError, TypeError) as error:
        causes = error.failures.values() if isinstance(error, CheckpointException) else [error]
        reason = next(iter(causes), error)
        cause = str(reason[0] if isinstance(reason, tuple) else reason).strip().splitlines()[0]
        raise ValueError(f"{path} is damaged or was saved by another task or preset ({cause}); {remedy}") from error


def _check_files(path: Path) -> int:
    """The step of a state, when all of its files are there as they were written."""
    told = read_json(path / "state.json")
    if not isinstance(told, dict) or told.get("format") != FORMAT:
        raise ValueError(f"its format is {_word(told.get('format') if isinstance(told, dict) else told)}, not {FORMAT}")
    step, files = check_step(told.get("step")), told.get("files")
    if path.name != f"step-{step:06}":
        raise ValueError(f"state.json is that of step {step}")
    sums = told.get("sha256", {})  # states of older versions have none
    if not isinstance(files, dict) or not isinstance(sums, dict) or (sums and sums.keys() != files.keys()):
        raise ValueError("state.json does not list its files")
    if files.keys() != {shard.name for shard in path.glob("*.safetensors")}:
        raise ValueError("its files are not those that state.json lists")
    for name, size in files.items():
        if (path / name).stat().st_size != size:
            raise ValueError(f"{name} is missing or cut short")
        if sums and _sha256(path / name) != sums[name]:
            raise ValueError(f"{name} does not have its checksum")
    return step


def _word(value: Any) -> str:
    return repr(value)[:40]


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def whole_weights(module: nn.Module) -> dict[str, Tensor]:
    """The whole weights of a module that may be sharded, on the CPU; in other processes than the main one: none.

    All processes call it together.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return {name: value for name, value in get_model_state_dict(module, options=options).items() if is_main()}  # type: ignore[misc]


SHARDS = Store(save_sharded, load_sharded)


def whole_states(folder: Path) -> list[Path]:
    """The folders of whole states in the folder of a run, oldest first."""
    return [path for path in _states(folder) if (path / "state.json").is_file()]


def remove_halves(folder: Path) -> None:
    """Remove what a run that was killed while it saved has left: states half written, or half removed."""
    for path in [*folder.glob(".step-*.part"), *_states(folder)]:
        if path.name.startswith(".") or not (path / "state.json").exists():
            shutil.rmtree(path, ignore_errors=True)


def _states(folder: Path) -> list[Path]:
    """The folders of states, whole or not, in the order of their steps."""
    found = {path: re.fullmatch(r"step-(\d{6,9})", path.name) for path in folder.glob("step-*") if path.is_dir()}
    return sorted((path for path, name in found.items() if name), key=lambda path: int(path.name[5:]))


@contextlib.contextmanager
def _sentence(path: Path) -> Iterator[None]:
    """What a disk refuses, as one sentence; `torch.distributed.checkpoint` wraps it in an error of its own."""
    try:
        yield
    except SaveError:
        raise
    except (OSError, CheckpointException) as error:
        causes = [cause for cause, _ in error.failures.values()] if isinstance(error, CheckpointException) else [error]
        refused = next((cause for cause in causes if isinstance(cause, OSError)), None)
        if refused is None:
            raise
        full = refused.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = "the disk is full. Free some space" if full else f"{refused.strerror or refused}. Check the disk"
        raise SaveError(refused.errno, f"{path} was not saved: {reason} and start again.") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the warning that one process saves alone: it is meant."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.distributed is disabled.*")
        yield
