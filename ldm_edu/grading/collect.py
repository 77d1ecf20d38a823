"""The part of grading that runs beside the learner's code: it calls the answer and writes down what came, no more.

What was expected stays in the process that grades, and the items with it: this process is handed the inputs of one item
after the other, once all cells have run. So nothing that a notebook does to this module, or to anything else in its
own process, can make a wrong answer right.
"""

import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ldm_edu import grading
from ldm_edu.grading.compare import kind
from ldm_edu.grading.confine import limit, refuse
from ldm_edu.grading.guard import Outcome, run
from ldm_edu.grading.parcel import ITEMS, unpack

LARGEST = 64 * 2**20  # bytes of answers that are read back


def prepare(memory: int) -> None:
    """Before any cell of the learner's: limits, no items, nothing shown, `check` and `hint` that do nothing."""
    import IPython

    IPython.get_ipython().display_pub.publish = quiet  # pictures are not looked at, and may be any size
    for name in ("check", "hint"):
        setattr(grading, name, quiet)
    for name in (ITEMS, "ldm_edu.grading.interactive", "ldm_edu.grading.verdict"):
        sys.modules[name] = None  # type: ignore[assignment]  # importing it fails from now on
    limit(memory, LARGEST)
    refuse()


def quiet(*_: Any, **__: Any) -> None:
    """While grading, `check`, `hint` and `display` do nothing: the grader asks for itself."""


def collect(name: str, namespace: Mapping[str, Any], inputs: str, outcomes: str) -> None:
    """Call the answer of that name on the packed ``inputs``, a file, and write what came to the file ``outcomes``."""
    if name not in namespace:
        return
    cases = unpack(Path(inputs).read_bytes())
    came = [run(namespace[name], args, finish=plain) for args in cases]
    file = io.BytesIO()
    torch.save([(o.value, o.error[:2000], list(o.borrowed), o.changed, list(o.gradients)) for o in came], file)
    Path(outcomes).write_bytes(file.getvalue())


def plain(value: Any) -> Any:
    """A value as plain tensors, numbers, words, lists and dictionaries; anything else as a description of it."""
    if isinstance(value, Tensor):
        with torch._C.DisableTorchFunctionSubclass():
            return Tensor.detach(value).as_subclass(Tensor).cpu().clone()
    if value is None or type(value) in (bool, int, float, str):
        return value
    if type(value).__module__ == "numpy" and hasattr(value, "dtype"):
        return plain(value.tolist() if value.dtype.kind in "USO" else torch.as_tensor(value))
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
            Outcome(_odd(value), str(error), tuple(map(str, borrowed)), bool(changed), tuple(gradients))
            for value, error, borrowed, changed, gradients in kept
        ]
    except Exception as error:
        raise ValueError(f"the answers could not be read back ({type(error).__name__})") from error


def _odd(value: Any) -> Any:
    if isinstance(value, dict) and list(value) == ["<kind>"]:
        return Ellipsis if value["<kind>"] == "..." else object()
    return value
