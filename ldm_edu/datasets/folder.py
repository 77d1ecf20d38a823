"""A person's own captioned pictures: a folder of files, or a data set of the library `datasets`.

A folder follows the convention of `datasets`' imagefolder: pictures in any depth, their captions in ``metadata.jsonl``
(one ``{"file_name": "a.png", "text": "a red apple"}`` a line) or in a text file beside each picture, ``a.txt``. Nothing
is decoded until it is asked for. Hidden files, whose names or folders' names begin with a dot, are left out.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
TEXT = "utf-8-sig"  # UTF-8, with the byte order mark that Windows' editors begin it with, or without
CAPTIONS = ("text", "caption")  # columns of captions, the first that there is
WHITE = (255, 255, 255)
_WITH_EXIF = ("JPEG", "WEBP", "TIFF")  # a PNG would have to be decoded to its end
_TURNED = (5, 6, 7, 8)  # EXIF orientations that exchange width and height


@dataclass(frozen=True)
class CaptionedPictures:
    """Pictures, each with its caption; picture ``i`` is opened only when asked for."""

    names: Sequence[str]  # for messages: a path or a row
    captions: Sequence[str]
    fingerprint: str  # changes when the content of a picture or a caption does
    open: Callable[[int], Image.Image]  # lazy: only the header is read

    def size(self, i: int) -> tuple[int, int]:
        """Width and height of picture ``i`` as it is to be seen, from its header alone.

        Raises
        ------
        ValueError
            if it cannot be read.
        """
        with self._named(i), self.open(i) as image:
            width, height = image.size
            turned = image.format in _WITH_EXIF and image.getexif().get(0x0112) in _TURNED
            return (height, width) if turned else (width, height)

    def rgb(self, i: int) -> Image.Image:
        """Picture ``i``, upright, in RGB; what is transparent becomes white.

        Raises
        ------
        ValueError
            if it cannot be read.
        """
        with self._named(i), self.open(i) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.has_transparency_data:
                rgba = upright.convert("RGBA")
                upright = Image.alpha_composite(Image.new("RGBA", rgba.size, (*WHITE, 255)), rgba)
            return upright.convert("RGB")

    @contextmanager
    def _named(self, i: int) -> Any:
        try:
            yield
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # what Pillow raises
            raise ValueError(
                f"{self.names[i]} cannot be read as a picture ({error}); remove it and its caption, or save it anew"
            ) from error


def read_pictures(source: str | Path) -> CaptionedPictures:
    """The captioned pictures of a folder, of a data set saved by `datasets`, or of one on the Hugging Face hub.

    Parameters
    ----------
    source
        a folder; or a data set's name, which is looked for in `datasets`' own cache, and on the hub when online.

    Raises
    ------
    ValueError
        if there is no such thing, a picture has no caption, or a caption no picture; with what to do.
    """
    folder = Path(source).expanduser()
    if not folder.is_dir():
        return _from_dataset(_load_by_name(str(source)), str(source))
    if (folder / "dataset_info.json").is_file() or (folder / "dataset_dict.json").is_file():
        import datasets

        return _from_dataset(datasets.load_from_disk(str(folder)), str(folder))
    return _from_folder(folder)


def _from_folder(folder: Path) -> CaptionedPictures:
    files = sorted(path for path in _seen(folder, "*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not files:
        raise ValueError(f"{folder} holds no picture ({', '.join(SUFFIXES)}); check the path")
    listed = _listed_captions(folder)
    if lost := sorted(str(path) for path in listed.keys() - set(files)):
        raise ValueError(f"metadata.jsonl lists {_first(lost)}, which {_are(lost)} not there; mend its file_name")
    captions = {path: listed[path] if path in listed else _beside(path) for path in files}
    if bare := [path.relative_to(folder).as_posix() for path, caption in captions.items() if caption is None]:
        raise ValueError(
            f"{len(bare)} of {len(files)} pictures in {folder} have no caption: {_first(bare)}. Write each into a text "
            f"file beside its picture ({Path(bare[0]).with_suffix('.txt')}), or all into metadata.jsonl, a line each: "
            f'{{"file_name": "{bare[0]}", "text": "..."}}'
        )
    rows = [(path.relative_to(folder).as_posix(), _content(path), str(captions[path])) for path in files]
    return CaptionedPictures(
        [str(path) for path in files],
        [caption for _, _, caption in rows],
        digest(part for row in rows for part in row),
        lambda i: Image.open(files[i]),
    )


def _content(path: Path) -> str:
    """A fingerprint of a file's bytes: a copy has another time of change, and is the same picture."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _seen(folder: Path, pattern: str) -> Iterator[Path]:
    """The files in any depth that fit, but for hidden ones: macOS puts a ``._a.png`` beside a picture ``a.png``."""
    for path in folder.rglob(pattern):
        if not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path


def _listed_captions(folder: Path) -> dict[Path, str]:
    found: dict[Path, str] = {}
    for table in sorted(_seen(folder, "metadata.jsonl")):
        for number, line in enumerate(table.read_text(encoding=TEXT).splitlines(), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                caption = next(row[column] for column in CAPTIONS if column in row)
                found[table.parent / row["file_name"]] = str(caption).strip()
            except (ValueError, TypeError, KeyError, StopIteration) as error:
                raise ValueError(
                    f'line {number} of {table} is not of the form {{"file_name": "a.png", "text": "..."}}: {line[:80]}'
                ) from error
    return found


def _beside(picture: Path) -> str | None:
    text = picture.with_suffix(".txt")
    try:
        return text.read_text(encoding=TEXT).strip() if text.is_file() else None
    except UnicodeDecodeError as error:
        raise ValueError(f"{text} is not a text in UTF-8 ({error}); save it anew as one") from error


def _load_by_name(name: str) -> Any:
    import datasets

    try:
        return datasets.load_dataset(name)
    except Exception as error:  # many kinds: offline, unknown, private, gone
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ValueError(
            f"{name!r} is no folder, and no data set of that name could be loaded ({reason}). Give a folder of "
            "pictures, or one that datasets' save_to_disk wrote; one of the hub must be fetched once while online"
        ) from error


def _from_dataset(found: Any, source: str) -> CaptionedPictures:
    import datasets

    if isinstance(found, dict):
        if "train" not in found and len(found) != 1:
            raise ValueError(
                f"{source} has the splits {', '.join(found)}, none of them train; save the one to train on"
            )
        found = found["train"] if "train" in found else next(iter(found.values()))
    images = [name for name, kind in found.features.items() if isinstance(kind, datasets.Image)]
    captions = [name for name in CAPTIONS if name in found.features]
    if not images or not captions:
        raise ValueError(
            f"{source} has the columns {', '.join(found.features)}; needed are one of pictures (datasets.Image) and "
            f"one of captions, named {' or '.join(CAPTIONS)}: rename_column does that"
        )
    if not len(found):
        raise ValueError(f"{source} is empty; give a data set with pictures")
    pictures = found.select_columns([images[0]]).cast_column(images[0], datasets.Image(decode=False))
    texts = list(found[captions[0]])
    bare = [i for i, text in enumerate(texts) if not isinstance(text, str)]
    if bare:
        raise ValueError(f"{len(bare)} of {len(texts)} rows of {source} have no caption, the first is row {bare[0]}")

    def open_row(i: int) -> Image.Image:
        value = pictures[i][images[0]]
        return Image.open(BytesIO(value["bytes"]) if value["bytes"] is not None else value["path"])

    return CaptionedPictures(
        [f"row {i} of {source}" for i in range(len(texts))],
        [text.strip() for text in texts],
        digest([found._fingerprint, images[0], captions[0]]),
        open_row,
    )


def digest(parts: Iterable[str | bytes]) -> str:
    """A fingerprint of some texts or bytes, in their order: 32 hexadecimal digits of SHA-256."""
    state = hashlib.sha256()
    for part in parts:
        data = os.fsencode(part) if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "little") + data)
    return state.hexdigest()[:32]


def _first(names: Sequence[str], shown: int = 3) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def _are(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"
