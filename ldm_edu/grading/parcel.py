"""Inputs of an item, packed for a process that does not have the item.

Tensors, numbers, lists and words travel by pickle. So does a function that an item hands in (a small network, say):
with its code and with no more of its module than the names it uses, so that nothing leads back to the answer.
"""

import builtins
import io
import marshal
import pickle
from collections.abc import Iterator
from importlib import import_module
from types import CellType, CodeType, FunctionType, ModuleType
from typing import Any

ITEMS = "ldm_edu.grading.items"


def pack(value: Any) -> bytes:
    """Anything that an item's case holds."""
    file = io.BytesIO()
    _Packer(file).dump(value)
    return file.getvalue()


def unpack(content: bytes) -> Any:
    """What `pack` was given. Only for what the grader itself has packed: unpickling may run code."""
    return pickle.loads(content)


class _Packer(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, ModuleType):
            return import_module, (value.__name__,)
        if isinstance(value, FunctionType) and value.__module__.startswith(ITEMS):
            held = [cell.cell_contents for cell in value.__closure__ or ()]
            used = {name: value.__globals__[name] for name in set(names(value.__code__)) & set(value.__globals__)}
            return function, (marshal.dumps(value.__code__), used, value.__defaults__, held)
        return NotImplemented


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
