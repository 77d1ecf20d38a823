"""The part of grading that runs beside the learner's code: it calls the answer and writes down what came, no more.

What was expected stays in the process that grades. So nothing that a notebook does to this module, or to anything else
in its own process, can make a wrong answer right.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ldm_edu.grading.compare import kind
from ldm_edu.grading.guard import Outcome
from ldm_edu.grading.items import ITEMS
from ldm_edu.grading.verdict import outcomes

GIB = 2**30
LARGEST = 64 * 2**20  # bytes of answers that are read back
FORBIDDEN = (
    "os.fork",
    "os.forkpty",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "subprocess.Popen",
    "pty.spawn",
)


class RefusedError(PermissionError):
    """Something that an answer does not need and a grader does not want."""


def limit(memory: int = 12 * GIB, file: int = LARGEST) -> None:
    """Set the limits of this process, once and for all: memory (address space), files, no new processes."""
    import resource
    import sys

    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_FSIZE, (file, file))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def refuse(event: str, _: object) -> None:
        if event in FORBIDDEN:
            raise RefusedError(f"{event} starts another process, which is not allowed while grading")

    sys.addaudithook(refuse)
    torch.set_num_threads(1)


def collect(item_id: str, namespace: Mapping[str, Any], path: str) -> None:
    """Call the answer to an item on its inputs and write the outcomes to ``path``."""
    item = ITEMS[item_id]
    if item.name not in namespace:
        return
    kept = [(plain(o.value), o.error[:2000], list(o.borrowed), o.changed) for o in outcomes(item, namespace[item.name])]
    file = io.BytesIO()
    torch.save(kept, file)
    Path(path).write_bytes(file.getvalue())


def plain(value: Any) -> Any:
    """A value as plain tensors, numbers, words, lists and dictionaries; anything else as a description of it."""
    if isinstance(value, Tensor):
        return value.detach().cpu().clone().as_subclass(Tensor)
    if value is None or type(value) in (bool, int, float, str):
        return value
    if type(value).__module__ == "numpy":
        return plain(torch.as_tensor(value))
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, Sequence):
        return [plain(part) for part in value]
    return {"<kind>": "..." if value is Ellipsis else kind(value)}


def read(path: Path) -> list[Outcome]:
    """What `collect` wrote; nothing in the file is executed.

    Raises
    ------
    ValueError
        if there is no such file, or it holds something else.
    """
    if not path.is_file():
        raise ValueError("nothing of that name was defined")
    if path.stat().st_size > LARGEST:
        raise ValueError(f"the answers take more than {LARGEST // 2**20} MiB")
    try:
        kept = torch.load(path, weights_only=True)
        return [
            Outcome(_odd(value), str(error), tuple(map(str, borrowed)), bool(changed))
            for value, error, borrowed, changed in kept
        ]
    except Exception as error:
        raise ValueError(f"the answers could not be read back ({type(error).__name__})") from error


def _odd(value: Any) -> Any:
    if isinstance(value, dict) and list(value) == ["<kind>"]:
        return Ellipsis if value["<kind>"] == "..." else object()
    return value
