"""Are the shipped files the committed ones? Their sha256 sums, in the format of ``sha256sum``."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from ldm_edu.files import atomic_write_text

NAME = "SHA256SUMS"


def record(folder: Path) -> dict[str, str]:
    """Write ``folder/SHA256SUMS``: one line a file below ``folder``, hidden files and texts (.md) left out.

    Returns
    -------
    the sum of every file, by its path relative to ``folder``.

    Raises
    ------
    SaveError
        if the list cannot be written.
    """
    sums = {path.relative_to(folder).as_posix(): _sha256(path) for path in _files(folder)}
    atomic_write_text(folder / NAME, "".join(f"{value}  {name}\n" for name, value in sums.items()))
    return sums


def verify(folder: Path) -> dict[str, str]:
    """What is wrong with the files that ``folder/SHA256SUMS`` lists: path -> "missing" or "changed"; empty if nothing.

    Raises
    ------
    FileNotFoundError
        if there is no such list.
    ValueError
        if a line of it cannot be read.
    """
    wrong = {}
    for name, expected in listed(folder).items():
        path = folder / name
        if not path.is_file():
            wrong[name] = "missing"
        elif _sha256(path) != expected:
            wrong[name] = "changed"
    return wrong


def listed(folder: Path) -> dict[str, str]:
    """The sums that ``folder/SHA256SUMS`` gives, by path. Raises as `verify` does."""
    file = folder / NAME
    if not file.is_file():
        raise FileNotFoundError(
            f"{file} is missing: restore it with `git checkout`, or `ldm-edu data --record` it anew."
        )
    sums = {}
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        value, gap, name = line.partition("  ")
        if not gap or len(value) != 64:
            raise ValueError(f"{file}, line {number} is not a sum and a name: restore the file with `git checkout`.")
        sums[name] = value
    return sums


def fingerprint(path: Path, files: Iterable[Path] | None = None) -> str:
    """The first ten digits of the sha256 sum of a checkpoint: which weights a picture was drawn with.

    Of one file it is the file's own, as those who share checkpoints write it; of a folder, that of the list of its
    files of weights with their sums.

    Parameters
    ----------
    files
        those of a folder that are loaded; None: the .safetensors files directly in it. What training keeps below it,
        states and caches, are no weights of the model.
    """
    if path.is_file():
        return _sha256(path)[:10]
    weights = sorted(path.glob("[!.]*.safetensors") if files is None else files)
    lines = "".join(f"{_sha256(file)}  {file.relative_to(path).as_posix()}\n" for file in weights)
    return hashlib.sha256(lines.encode()).hexdigest()[:10]


def _files(folder: Path) -> list[Path]:
    below = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".md" and path.name != NAME)
    return sorted(path for path in below if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
