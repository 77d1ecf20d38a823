"""The files of a training folder: pictures, captions, tables of captions, and what must not be passed over."""

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ldm_edu.pictures.kinds import HEAD, SUFFIXES, misnamed, unread
from ldm_edu.pictures.reading import LARGEST_FILE

CAPTION_SUFFIXES = (".txt", ".caption")
TABLE = "metadata.jsonl"
_OTHER_TABLES = ("metadata.csv", "metadata.parquet")
_TRAIN = {"train", "training"}
_HELD_OUT = {"val", "valid", "validation", "dev", "test", "testing", "eval", "evaluation"}


@dataclass(frozen=True)
class Files:
    """What a training folder holds, each by `key`."""

    pictures: dict[str, Path]
    texts: list[Path]  # captions, each to stand beside its picture
    tables: list[Path]  # metadata.jsonl, in any depth


def training_files(folder: Path) -> Files:
    """The pictures and captions in any depth, through links too; hidden files and folders are left out.

    Raises
    ------
    ValueError
        if a picture would be left out or learned twice without a word: it is of a format that is not read, a link leads
        nowhere or to a folder that is there already, or train and test stand side by side.
    """
    files = _visible(folder)
    pictures: dict[str, Path] = {}
    for path in files:
        if path.suffix.lower() in SUFFIXES:
            same = pictures.setdefault(key(path, folder), path)
            if same != path:
                raise ValueError(f"{folder} has two pictures whose names look alike, {key(path, folder)}: rename one")
    texts = [path for path in files if path.suffix.lower() in CAPTION_SUFFIXES]
    tables = [path for path in files if path.name == TABLE]
    _refuse_unread(folder, [path for path in files if path not in {*pictures.values(), *texts, *tables}])
    for path in pictures.values():
        if path.stat().st_size > LARGEST_FILE:
            raise ValueError(f"{path} is larger than 1 GiB, the most that is read of a picture: scale it down")
    if not pictures:
        raise ValueError(f"{folder} holds no picture ({', '.join(SUFFIXES)}); check the path")
    _refuse_splits(folder, pictures.values())
    return Files(pictures, texts, tables)


def key(path: Path, folder: Path) -> str:
    """The name of a file inside a folder, in one spelling: macOS writes an accent as a character of its own.

    >>> key(Path("data/cafe\\u0301.png"), Path("data")) == "caf\\u00e9.png"
    True
    """
    return unicodedata.normalize("NFC", path.relative_to(folder).as_posix())


def first(names: Sequence[str], shown: int = 3) -> str:
    """Some names for a message: the first few, and how many more there are."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def _visible(folder: Path) -> list[Path]:
    """All regular files but hidden ones: macOS puts a ``._a.png`` next to a picture ``a.png``."""
    found: list[Path] = []
    reached: dict[tuple[int, int], Path] = {}
    waiting = [folder]
    while waiting:
        inside = waiting.pop()
        status = inside.stat()
        same = reached.setdefault((status.st_dev, status.st_ino), inside)
        if same != inside:
            raise ValueError(
                f"{inside} and {same} are the same folder by a link, so that its pictures would be learned twice: "
                "remove the link"
            )
        for path in sorted(inside.iterdir()):
            if path.name.startswith("."):
                continue
            if path.is_dir():
                waiting.append(path)
            elif path.is_file():
                found.append(path)
            else:
                what = "a link to what is not there" if path.is_symlink() else "a pipe, a socket or a device"
                raise ValueError(f"{path} is {what}: remove it from the pictures")
    return sorted(found, key=lambda path: key(path, folder))


def _refuse_unread(folder: Path, others: Sequence[Path]) -> None:
    """Files that hold pictures and are not read must not be passed over."""
    for path in others:
        if path.name.lower() in _OTHER_TABLES:
            raise ValueError(f"{path} holds captions, and {TABLE} alone is read: write them there, a line each")
    found = []
    for path in others:
        with open(path, "rb") as file:
            head = file.read(HEAD)
        if what := unread(path.name, head):
            found.append((key(path, folder), *what))
        elif misnamed(path.name, head):
            found.append((key(path, folder), "a picture", "end its name as its format is called, such as .png"))
    if found:
        name, kind, remedy = found[0]
        more = f", and so are {first([name for name, *_ in found[1:]])}" if found[1:] else ""
        raise ValueError(
            f"{name} in {folder} is {kind} that would be left out{more}: {remedy}, or move it out of the folder"
        )


def _refuse_splits(folder: Path, pictures: Iterable[Path]) -> None:
    """Pictures that were set apart for a test must not be learned."""
    inside = defaultdict(set)  # the folders with pictures in each folder
    for path in pictures:
        parts = path.relative_to(folder).parts
        for depth in range(len(parts) - 1):
            inside[folder.joinpath(*parts[:depth])].add(parts[depth])
    for parent, names in inside.items():
        train = sorted(name for name in names if name.lower() in _TRAIN)
        held_out = sorted(name for name in names if name.lower() in _HELD_OUT)
        if train and held_out:
            raise ValueError(
                f"{parent} has pictures to learn from and others set apart ({', '.join(train + held_out)}): give "
                f"{parent / train[0]} to learn from those alone"
            )
