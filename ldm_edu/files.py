"""Writing a file so that a reader sees the old one or the new one, and never half of either.

What is being written stands in a hidden folder beside its place, ``.NAME.PROCESS.part``: the library that writes it may
make files of its own there. A process that is killed leaves the folder behind; `remove_leftovers` knows it by its name.
"""

import contextlib
import errno
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError


class SaveError(OSError):
    """A file could not be written. What stood at its path before, if anything, is untouched."""

    def __str__(self) -> str:
        """The sentence alone: an `OSError` would put its number before it, which stays in ``errno``."""
        return super().__str__() if self.strerror is None else str(self.strerror)


def atomic_write(path: Path, write: Callable[[Path], None]) -> None:
    """Call ``write`` on a path of the same name in a folder beside ``path``, then rename the result into place.

    The folder is made if need be. The bytes are on the disk before the rename, so a crash at any moment leaves either
    the old file or the whole new one.

    Parameters
    ----------
    path
        where the file is to end up.
    write
        writes the file at the path that it is given, which has the same name as ``path``.

    Raises
    ------
    SaveError
        if the file system refuses (full, read-only, no such place), with the remedy. An error of ``write`` that is
        not an `OSError` passes through unchanged. In both cases nothing new is left on the disk.
    """
    atomic_write_all({Path(path): write})


def atomic_write_all(writes: Mapping[Path, Callable[[Path], None]]) -> None:
    """`atomic_write` for files that belong together: none is renamed into place before all are written.

    Raises
    ------
    SaveError
        as `atomic_write`; then every file is still the old one.
    """
    beside = {path: _part(path) / path.name for path in writes}
    path = Path()
    made: list[Path] = []  # folders that were not there before, the inner ones first
    try:
        for path, write in writes.items():
            made = [*_make_folder(path.parent), *made]
            _refuse_folder(path)
            beside[path].parent.mkdir(exist_ok=True)
            _call(write, beside[path])
            _flush(beside[path])
            _permit(beside[path])
        for path in writes:
            os.replace(beside[path], path)
        made = []  # they hold something now
    except OSError as error:
        raise SaveError(error.errno, f"{path} was not saved: {_remedy(error, path)}") from error
    finally:
        for part in beside.values():
            shutil.rmtree(part.parent, ignore_errors=True)
        _remove_folders(made)


def check_writable(path: Path) -> None:
    """Whether `atomic_write` could write a file at ``path``, asked before the work whose result it is to hold.

    A file is made beside it, in folders that are made if need be; all of it is removed again.

    Raises
    ------
    SaveError
        if the file system refuses, with the remedy.
    """
    part = _part(path)
    made: list[Path] = []
    try:
        made = _make_folder(path.parent)
        _refuse_folder(path)
        part.mkdir(exist_ok=True)
        _write_bytes(part / path.name, b"")
    except OSError as error:
        raise SaveError(error.errno, f"{path} cannot be saved: {_remedy(error, path)}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
        _remove_folders(made)


def atomic_write_bytes(path: Path, data: bytes) -> None:
    """`atomic_write` for bytes already in memory."""
    atomic_write(path, lambda beside: _write_bytes(beside, data))


def atomic_write_text(path: Path, text: str) -> None:
    """`atomic_write` for text, as UTF-8 with Unix line ends on every system."""
    atomic_write_bytes(path, text.encode())


def remove_leftovers(folder: Path) -> None:
    """Remove what writes into ``folder`` have left there whose processes were killed; those under way stay."""
    for path in folder.glob(".*.part"):
        named = re.fullmatch(r"\..+\.(\d{1,9})\.part", path.name)
        if named and path.is_dir() and not path.is_symlink() and not _writes(int(named[1])):
            shutil.rmtree(path, ignore_errors=True)


def _writes(process: int) -> bool:
    """Whether a process may be writing at this moment; this one is not: it is about to begin."""
    if process == os.getpid():  # in a container, every process may have the number of the one before
        return False
    if sys.platform == "win32":  # where there is no asking without harm
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True


def _part(path: Path) -> Path:
    """The folder in which a file is written; in the same folder as its place, since a rename cannot cross disks."""
    return path.with_name(f".{path.name}.{os.getpid()}.part")


def read_json(path: Path) -> Any:
    """What a JSON file holds; NaN and infinity, which JSON does not have, are refused.

    Raises
    ------
    OSError
        if it cannot be read.
    ValueError
        if it is not JSON, or so deeply nested that reading would end in a crash.
    """
    try:
        return json.loads(path.read_bytes(), parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number of JSON")


def _make_folder(folder: Path) -> list[Path]:
    """Make a folder and those around it; tell which of them are new, the inner ones first."""
    new = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return new


def _remove_folders(made: list[Path]) -> None:
    for folder in made:
        with contextlib.suppress(OSError):  # something else is in it by now
            folder.rmdir()


def _refuse_folder(path: Path) -> None:
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))


def _write_bytes(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)


def _call(write: Callable[[Path], None], path: Path) -> None:
    """Call ``write``. Safetensors reports what the disk said as text; here it is the system's error again."""
    try:
        write(path)
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error


def _flush(path: Path) -> None:
    with open(path, "rb+") as file:  # a full disk can show up only here
        os.fsync(file.fileno())


def _permit(path: Path) -> None:
    """Give a file the permissions of any new file: safetensors makes its own so that nobody else may read them."""
    masked = os.umask(0)  # there is no way to read it but to set it
    os.umask(masked)
    path.chmod(0o666 & ~masked)


def _remedy(error: OSError, path: Path) -> str:
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return "the disk is full. Free some space, or choose a folder on another disk."
        case errno.EROFS:
            return "its file system is read-only. Choose a folder that you can write to."
        case errno.EACCES | errno.EPERM:
            return f"writing in {path.parent} is not permitted. Change the folder's permissions, or choose another."
        case errno.ENOTDIR | errno.EEXIST:
            return f"{path.parent} is not a folder. Move the file that is in the way, or choose another folder."
        case errno.EISDIR:
            return "a folder of that name is in the way. Move it, or choose another name."
        case _:
            return f"{error.strerror or error}. Check the path and the disk, then try again."
