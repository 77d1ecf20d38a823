"""The captions of pictures: a line each in ``metadata.jsonl``, or a text file with each picture."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ldm_edu.datasets.walk import CAPTION_SUFFIXES, TABLE, Files, first, key

TEXT = "utf-8-sig"  # UTF-8, with the byte order mark that Windows' editors begin it with, or without
COLUMNS = ("text", "caption")  # that hold captions
LONGEST = 2**20  # bytes of a text file that is a caption
_FORM = '{"file_name": "a.png", "text": "..."}'

Captions = tuple[str, ...]  # of one picture, each different


def folder_captions(folder: Path, files: Files) -> dict[str, Captions]:
    """The captions of every picture of a folder, by the picture's `key`.

    Raises
    ------
    ValueError
        if a picture has none, or two that contradict one another; if a caption has no picture; or if one is not a text.
    """
    listed = _listed(folder, files)
    owners: dict[str, list[str]] = {}  # the pictures that a text file may be beside
    for name in files.pictures:
        owners.setdefault(_stem(name), []).append(name)
    captions = {name: found for name, (found, _) in listed.items()}
    alone = []
    for path in files.texts:
        named = owners.get(_stem(key(path, folder)), [])
        if not named:
            alone.append(key(path, folder))
        if len(named) > 1:
            raise ValueError(
                f"{path} would be the caption of {len(named)} pictures, {first(named)}: give each a name of its own"
            )
        for name in named:
            text = (_text(path, LONGEST).strip(),)
            if captions.setdefault(name, text) != text:
                raise ValueError(f"{name} in {folder} has two captions, one of them in {path}: keep one of the two")
    if alone:
        raise ValueError(
            f"{len(alone)} captions in {folder} have no picture: {first(alone)}. Put each next to its picture, under "
            "the same name, or move it out of the folder"
        )
    if bare := [name for name in files.pictures if name not in captions]:
        beside = Path(bare[0]).with_suffix(CAPTION_SUFFIXES[0]).as_posix()
        row = json.dumps({"file_name": bare[0], "text": "..."}, ensure_ascii=False)
        raise ValueError(
            f"{len(bare)} of {len(files.pictures)} pictures in {folder} have no caption: {first(bare)}. Write each "
            f"into a text file next to its picture ({beside}), or all into {TABLE}, a line each: {row}"
        )
    return captions


def row_captions(row: Mapping[str, Any], where: str) -> Captions:
    """The captions in a row: a string, or a list of strings, each of which is learned.

    >>> row_captions({"text": ["a cat ", "a kitten"]}, "line 1")
    ('a cat', 'a kitten')

    Raises
    ------
    ValueError
        if there is none, or one that is not a text; ``where`` says in which row.
    """
    columns = [column for column in COLUMNS if column in row]
    if len(columns) != 1:
        have = f"both {' and '.join(COLUMNS)}" if columns else f"neither {' nor '.join(COLUMNS)}"
        raise ValueError(f"{where} has {have}; keep one of them, with the caption")
    value = row[columns[0]]
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, (list, tuple)) or not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError(
            f"{where} has no caption in {columns[0]!r}, but {json.dumps(value, default=str)[:80]}: a caption is a "
            "string, or a list of strings"
        )
    for text in texts:
        if text.encode(errors="replace").decode() != text:
            raise ValueError(f"the caption of {where} holds half a character (a surrogate by itself): write it again")
    return tuple(dict.fromkeys(text.strip() for text in texts))


def _listed(folder: Path, files: Files) -> dict[str, tuple[Captions, str]]:
    """The captions in the tables by the pictures' keys, each with the line that it is from."""
    found: dict[str, tuple[Captions, str]] = {}
    lost = []
    for table in files.tables:
        for number, line in enumerate(_text(table).split("\n"), 1):  # JSON Lines end there alone, not at U+2028
            if not line.strip():
                continue
            where = f"line {number} of {table}"
            name, captions = _row(line, where, table.parent, folder)
            if name in found:
                raise ValueError(
                    f"{where} lists {name} again, after {found[name][1]}: keep one of the two; several captions of one "
                    "picture are a list of strings"
                )
            found[name] = captions, where
            if name not in files.pictures:
                lost.append(name)
    if lost:
        there = [name for name in lost if (folder / name).exists()]
        if there:
            raise ValueError(
                f"{found[there[0]][1]} lists {there[0]}, which is there and is not read as a picture: save it as a PNG "
                "whose name does not begin with a dot"
            )
        are = "is" if len(lost) == 1 else "are"
        raise ValueError(f"{found[lost[0]][1]} lists {first(sorted(lost))}, which {are} not there; mend its file_name")
    return found


def _row(line: str, where: str, inside: Path, folder: Path) -> tuple[str, Captions]:
    """A line of a table as the key of its picture and the captions."""
    try:
        row = json.loads(line)
        name = row["file_name"]
        path = Path(os.path.normpath(inside.relative_to(folder) / name))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"{where} is not of the form {_FORM}: {line[:80]}") from error
    if path.is_absolute() or path.parts[0] == os.pardir:
        raise ValueError(f"{where} lists {name}: give the path of a picture in {folder}, from {inside} on")
    return key(folder / path, folder), row_captions(row, where)


def _stem(name: str) -> str:
    """A picture's key, or a text's, without the ending in which the two differ."""
    return Path(name).with_suffix("").as_posix()


def _text(path: Path, longest: int | None = None) -> str:
    if longest is not None and path.stat().st_size > longest:
        raise ValueError(f"{path} has {path.stat().st_size} bytes, and a caption at most {longest}: shorten it")
    try:
        return path.read_bytes().decode(TEXT)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text in UTF-8 ({error}); save it again as one") from error
