"""Files that anybody may have made: looked at before they are read, so that none costs more than its weights do.

Everything here bounds what a reader takes in: only plain files are opened, JSON has a largest size and a largest
number, a header and a pickle have a largest size, and an archive is as large as the numbers in it. A reader of weights
calls these functions first, and stays simple itself.
"""

import json
import struct
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ldm_edu.weights.errors import CheckpointError, printable

MAX_JSON = 8 * 2**20  # bytes of a config or an index; SDXL's largest index has 0.2 MiB
MAX_DIGITS = 40  # of a number in JSON
MAX_HEADER = 16 * 2**20  # bytes of a safetensors header; SDXL's has 0.3 MiB
MAX_PICKLE = 3 * 2**20  # bytes of the objects in a pickle, without the numbers of its tensors; 1.5 has 0.2 MiB
MAX_ENTRIES = 100_000  # tensors in one file
_HEAD = 512  # bytes by which a kind of file is told

# Names of Python's own library that a pickle may ask for: they hold values. Any other name of that library is refused.
_VALUES = {
    "argparse.Namespace", "builtins.dict", "builtins.frozenset", "builtins.list", "builtins.object", "builtins.slice",
    "builtins.tuple", "collections.defaultdict", "collections.deque", "copyreg._reconstructor", "datetime.date",
    "datetime.datetime", "datetime.timedelta", "decimal.Decimal", "fractions.Fraction", "pathlib.Path",
    "pathlib.PosixPath", "pathlib.PurePosixPath", "pathlib.WindowsPath", "types.SimpleNamespace", "typing.Any",
    "uuid.UUID",
}  # fmt: skip


# --- any file ---------------------------------------------------------------------------------------------------------


def refuse_special(path: Path) -> None:
    """Refuse what is neither a file nor a folder: a pipe would be waited for, and a device never ends.

    Raises
    ------
    CheckpointError
        if ``path`` is a pipe, a device or a socket.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise CheckpointError(f"{path} is a pipe or a device, not a file; give the path of a file on the disk.")


def refuse_stand_in(path: Path) -> None:
    """Refuse a text that stands where a model should be: a pointer of Git LFS, or a web page.

    Raises
    ------
    CheckpointError
        naming which of both it is, with how to get the model itself.
    """
    refuse_special(path)
    if not path.is_file():
        return
    with open(path, "rb") as file:
        head = file.read(_HEAD).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"{path} is a Git LFS pointer, a short text in the place of the model; fetch the model with `git lfs pull` "
            "in its repository, or download the file itself."
        )
    if head.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise CheckpointError(
            f"{path} is a web page that was saved under a model's name; download the file itself again, perhaps after "
            "you have logged in or accepted the model's terms."
        )


# --- JSON -------------------------------------------------------------------------------------------------------------


def read_json(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises
    ------
    CheckpointError
        if there is no such file, or it is too large, too deeply nested, damaged, or no object.
    """
    refuse_stand_in(path)
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_JSON + 1)
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read ({error.strerror}); check the path, or download the model again, whole."
        ) from error
    if len(data) > MAX_JSON:
        raise CheckpointError(f"{path} is larger than {MAX_JSON:,} bytes, as no config is; download the model again.")
    try:
        return parse_json(data)
    except ValueError as error:
        raise CheckpointError(f"{path} is not a readable config ({error}); download the model again.") from error


def parse_json(text: str | bytes) -> dict[str, Any]:
    """The object that a JSON text describes; every number in it is finite and of a reasonable length.

    Raises
    ------
    ValueError
        if it describes none.
    """
    try:
        values = json.loads(text, parse_int=_whole, parse_float=_finite, parse_constant=_finite)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(values, dict):
        raise ValueError("it is not an object")
    return values


def _whole(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"it has a number of {len(digits)} digits")
    return int(digits)


def _finite(digits: str) -> float:
    number = float(digits)
    if number - number != 0:  # neither infinite nor NaN
        raise ValueError(f"{printable(digits)} is not a finite number")
    return number


# --- safetensors ------------------------------------------------------------------------------------------------------


def refuse_large_header(path: Path) -> None:
    """Refuse a safetensors file whose header is larger than that of any model, before the header is read.

    Raises
    ------
    CheckpointError
        naming the size; a file that is shorter than its header is left to the reader.
    """
    if not path.is_file():
        return
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
    if MAX_HEADER < size <= path.stat().st_size - 8:
        raise CheckpointError(
            f"{path} cannot be read: its header claims {size:,} bytes, more than any model's has, so it is damaged. "
            "Copy or download it again."
        )


# --- pickles ----------------------------------------------------------------------------------------------------------


class Inert:
    """What stands for any object of a pickle that is neither a tensor nor a plain value: it holds and does nothing."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, _: Any) -> None: ...

    def __setitem__(self, _: Any, __: Any) -> None: ...


def load_pickle(path: Path) -> Any:
    """What a file of ``torch.save`` holds, with tensors on the ``meta`` device, whose numbers stay in the file.

    PyTorch's reader of weights alone reads it. Other objects that a training leaves beside the weights (a callback, the
    arguments, a number of NumPy's) become `Inert` things, whatever they are called: no class and no function of the
    file's choosing is ever looked up.

    Raises
    ------
    CheckpointError
        if the file asks for a function of the system's, is larger inside than outside, is damaged, or is not of
        PyTorch 1.6 or newer.
    """
    refuse_stand_in(path)
    if not zipfile.is_zipfile(path):
        _refuse_bare_pickle(path)
    _refuse_bomb(path)
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        if active := sorted(name for name in names if _is_active(name)):
            raise CheckpointError(_asks_for(path, active[0].removeprefix("builtins.")))
        with torch.serialization.safe_globals([(Inert, name) for name in names]):
            return torch.load(path, map_location="meta", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # a damaged or hostile pickle fails in as many ways as there are operations
        raise CheckpointError(f"{path} is damaged, or no file of PyTorch's. Copy or download it again.") from error


def _is_active(name: str) -> bool:
    """Whether a name belongs to Python's own library, and not to the part of it that holds values."""
    own = name.partition(".")[0]
    return own in sys.stdlib_module_names | {"builtins", "__builtin__"} and name not in _VALUES


def _asks_for(path: Path, name: str) -> str:
    return (
        f"{path} is a pickle that asks for more than weights (for {printable(name)}), and a pickle can run any "
        "program, so it was not opened. Take the .safetensors file of the same model."
    )


def _refuse_bare_pickle(path: Path) -> None:
    """Say why a file that is not an archive is not read: it is of an old PyTorch, of something else, or damaged."""
    with open(path, "rb") as file:
        head = file.read(_HEAD)
    if head.startswith(b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."):  # the number that older versions began with
        raise CheckpointError(
            f"{path} is of PyTorch 1.5 or older, which cannot be read piece by piece. Take the .safetensors file of "
            "the same model; or convert it: "
            "safetensors.torch.save_file(torch.load(path, weights_only=True), 'model.safetensors')."
        )
    raise CheckpointError(
        f"{path} is damaged, or a pickle of something else than PyTorch's weights. Copy or download it again; or take "
        "the .safetensors file of the same model."
    )


def _refuse_bomb(path: Path) -> None:
    """Refuse an archive that is larger inside than outside, or of more entries than a model has tensors."""
    try:
        if _directory(path) > MAX_ENTRIES:
            raise CheckpointError(
                f"{path} holds more than {MAX_ENTRIES:,} entries, as no model does. Take another file."
            )
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, struct.error, OSError, ValueError, NotImplementedError) as error:
        raise CheckpointError(f"{path} is damaged, or no file of PyTorch's. Copy or download it again.") from error
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise CheckpointError(
                f"{path} is compressed, which PyTorch's files never are, and could unpack to any size. Take the "
                ".safetensors file of the same model."
            )
        if "/data/" not in entry.filename and entry.file_size > MAX_PICKLE:
            raise CheckpointError(
                f"{path} holds {entry.file_size:,} bytes besides its weights, more than any model does. Take the "
                ".safetensors file of the same model."
            )


def _directory(path: Path) -> int:
    """The most entries that the list at the end of a zip archive can hold, by its size, whatever the archive claims."""
    with open(path, "rb") as file:
        size = path.stat().st_size
        file.seek(max(0, size - 2**16 - 22))
        end = file.read()
        at = end.rfind(b"PK\x05\x06")
        listed = int(struct.unpack("<L", end[at + 12 : at + 16])[0])
        locator = end[max(0, at - 20) : at]
        if locator.startswith(b"PK\x06\x07"):  # the sizes of an archive of more than 4 GB stand in a record of its own
            file.seek(struct.unpack("<Q", locator[8:16])[0])
            record = file.read(56)
            listed = max(listed if listed != 2**32 - 1 else 0, struct.unpack("<Q", record[40:48])[0])
    return listed // 46  # the least that an entry takes


def tensors_in(content: Any) -> dict[str, Any]:
    """The tensors of a pickle's content by their names, which may be a few levels down: {} if there are none.

    Of an average over training and the last step's weights, the average is taken: it draws better.
    """
    for found in _levels(content):
        tensors = {
            name: value for name, value in found.items() if isinstance(name, str) and isinstance(value, torch.Tensor)
        }
        if tensors:
            wrapped = all(name.startswith("module.") for name in tensors)  # by data-parallel training
            return {name.removeprefix("module."): tensor for name, tensor in tensors.items()} if wrapped else tensors
    return {}


def _levels(content: Any, deepest: int = 5) -> Iterator[dict[Any, Any]]:
    """The dictionaries that may hold the weights, the likeliest first."""
    if isinstance(content, dict) and deepest:
        for name in ("state_dict", "ema", "model_ema", "model", "module", "model_state_dict"):
            yield from _levels(content.get(name), deepest - 1)
        yield content
