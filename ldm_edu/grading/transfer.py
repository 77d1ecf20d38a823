"""What passes between the grader and the process that runs a learner's code: inputs one way, outcomes the other.

Inputs come from the grader and travel by pickle. So does a function that an item hands in (a small network, say): with
its code and with no more of its module than the names it uses, so that nothing leads back to the answer.

Outcomes come from a process that anybody's code has run in: JSON, of which nothing is executed, within limits.
"""

import base64
import builtins
import io
import json
import marshal
import math
import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import Field, fields
from importlib import import_module
from types import CellType, CodeType, FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor

from ldm_edu.grading.compare import kind
from ldm_edu.grading.outcome import Outcome

ITEMS = "ldm_edu.grading.items"
LARGEST = 16 * 2**20  # bytes of outcomes
FIELDS = fields(Outcome)
DTYPES = {str(dtype): dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)}


def pack(value: Any) -> bytes:
    """Anything that an item's case holds."""
    file = io.BytesIO()
    _Packer(file).dump(value)
    return file.getvalue()


def unpack(content: bytes) -> Any:
    """What `pack` was given. Only for what the grader itself has packed: unpickling may run code."""
    return _Unpickler(io.BytesIO(content)).load()


class _Packer(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, ModuleType):
            return import_module, (value.__name__,)
        if isinstance(value, FunctionType) and value.__module__.startswith(ITEMS):
            held = [cell.cell_contents for cell in value.__closure__ or ()]
            used = {name: value.__globals__[name] for name in set(names(value.__code__)) & set(value.__globals__)}
            return function, (marshal.dumps(value.__code__), used, value.__defaults__, held)
        return NotImplemented


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        return function if (module, name) == (function.__module__, "function") else super().find_class(module, name)


def function(code: bytes, used: dict[str, Any], defaults: tuple[Any, ...] | None, held: list[Any]) -> FunctionType:
    """A function from its parts."""
    cells = tuple(CellType(value) for value in held)
    return FunctionType(marshal.loads(code), used | {"__builtins__": builtins}, None, defaults, cells)


def names(code: CodeType) -> Iterator[str]:
    """The global names that a function, and the functions inside it, may look up."""
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from names(inner)


def plain(value: Any) -> Any:
    """A value as plain tensors, numbers, words, lists and dictionaries; anything else as a description of it."""
    if isinstance(value, Tensor):
        with torch._C.DisableTorchFunctionSubclass():
            if value.layout != torch.strided or value.is_quantized:
                return {"<kind>": kind(value)}
            return Tensor.detach(value).as_subclass(Tensor).cpu().clone()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):  # as a plain number or word: a subclass may answer to a comparison as it likes
        return int.__pos__(value)
    if isinstance(value, float):
        return float.__pos__(value)
    if isinstance(value, str):
        return str.__str__(value)
    if type(value).__module__ == "numpy" and hasattr(value, "dtype"):
        return plain(value.tolist() if value.dtype.kind in "USO" else torch.as_tensor(value))
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, Sequence):
        return [plain(part) for part in value]
    return {"<kind>": "..." if value is Ellipsis else kind(value)}


def encode(outcomes: Sequence[Outcome]) -> bytes:
    """Outcomes with `plain` values as JSON, a tensor by its bytes.

    Raises
    ------
    ValueError
        if they take more than `LARGEST` bytes, or hold what JSON cannot.
    """
    found = [{field.name: _jsonable(getattr(outcome, field.name)) for field in FIELDS} for outcome in outcomes]
    content = json.dumps(found).encode()
    if len(content) > LARGEST:
        raise ValueError(f"the answers take more than {LARGEST // 2**20} MiB")
    return content


def decode(content: bytes) -> list[Outcome]:
    """What `encode` was given; nothing in it is executed.

    Raises
    ------
    ValueError
        if it is anything else.
    """
    try:
        return [Outcome(**{field.name: _field(field, kept) for field in FIELDS}) for kept in json.loads(content)]
    except Exception as error:
        raise ValueError(f"the answers could not be read back ({type(error).__name__})") from error


def _field(field: Field[Any], kept: dict[str, Any]) -> Any:
    value = _value(kept[field.name])
    if isinstance(field.default, tuple):  # JSON knows lists only
        return tuple(value)
    if field.name != "value" and type(value) is not type(field.default):
        raise TypeError(field.name)
    return value


def _jsonable(value: Any) -> Any:
    if isinstance(value, Tensor):
        if value.numel() * value.element_size() > LARGEST:
            raise ValueError(f"the answers take more than {LARGEST // 2**20} MiB")
        content = value.detach().resolve_conj().resolve_neg().reshape(-1).view(torch.uint8).numpy().tobytes()
        return {"<tensor>": [str(value.dtype), list(value.shape), base64.b64encode(content).decode()]}
    if isinstance(value, list | tuple):
        return [_jsonable(part) for part in value]
    return {key: _jsonable(part) for key, part in value.items()} if isinstance(value, dict) else value


def _value(value: Any) -> Any:
    if isinstance(value, list):
        return [_value(part) for part in value]
    if isinstance(value, int) and abs(value) >= 2**63:
        return math.copysign(math.inf, value)  # no tensor holds it
    if not isinstance(value, dict):
        return value
    if list(value) == ["<kind>"]:
        return Ellipsis if value["<kind>"] == "..." else object()
    if list(value) == ["<tensor>"]:
        return _tensor(*value["<tensor>"])
    return {key: _value(part) for key, part in value.items()}


def _tensor(dtype: str, shape: list[int], content: str) -> Tensor:
    numbers = bytearray(base64.b64decode(content))
    if len(shape) > 64 or math.prod(shape) * DTYPES[dtype].itemsize != len(numbers):
        raise ValueError("a tensor of another size than its bytes")
    return torch.frombuffer(numbers, dtype=DTYPES[dtype]).reshape(shape) if numbers else torch.empty(shape)
