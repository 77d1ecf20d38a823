"""A person's own captioned pictures: a folder of files, or a data set of the library `datasets`.

A folder follows the convention of `datasets`' imagefolder: pictures in any depth, their captions in ``metadata.jsonl``
(one ``{"file_name": "a.png", "text": "a red apple"}`` a line) or in a text file next to each picture, ``a.txt`` or
``a.caption``. A caption may be a list of strings: then the picture is learned once with each of them. Nothing is
decoded until it is asked for. Hidden files, whose names or folders' names begin with a dot, are left out, and so are
files that are neither pictures nor captions; a picture or a caption is never left out without a word.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ldm_edu.datasets.captions import Captions, folder_captions
from ldm_edu.datasets.rows import is_saved, load_rows
from ldm_edu.datasets.walk import training_files
from ldm_edu.pictures import Source, open_picture, picture_size


@dataclass(frozen=True)
class CaptionedPictures:
    """Pictures, each with one caption; picture ``i`` is opened only when asked for."""

    names: Sequence[str]  # for messages: a path or a row
    captions: Sequence[str]
    fingerprint: str  # of what is in the files: it changes when a picture or a caption does, not when they are copied
    source: Callable[[int], Source]

    def size(self, i: int) -> tuple[int, int]:
        """Width and height of picture ``i`` as it is to be seen, from its head alone.

        Raises
        ------
        ValueError
            if it cannot be read.
        """
        return picture_size(self.source(i), self.names[i])

    def rgb(self, i: int) -> Image.Image:
        """Picture ``i``, upright, in RGB; what is transparent becomes white.

        Raises
        ------
        ValueError
            if it cannot be read.
        """
        return open_picture(self.source(i), self.names[i])


def read_pictures(source: str | Path) -> CaptionedPictures:
    """The captioned pictures of a folder, of a data set saved by `datasets`, or of one on the Hugging Face hub.

    Every file is read once, for the fingerprint: a gigabyte takes about a second, and more where the disk is slower.

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
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is not a folder: give the folder that the pictures are in")
    if not folder.is_dir() or is_saved(folder):
        return _captioned(*load_rows(str(source)))
    files = training_files(folder)
    captions = folder_captions(folder, files)
    paths = list(files.pictures.values())
    return _captioned([str(path) for path in paths], [captions[name] for name in files.pictures], paths.__getitem__)


def _captioned(
    names: Sequence[str], captions: Sequence[Captions], source: Callable[[int], Source]
) -> CaptionedPictures:
    """Pictures with any number of captions each as pairs of one picture and one caption."""
    contents = [_content(source(i)) for i in range(len(names))]
    pairs = [(i, caption) for i, several in enumerate(captions) for caption in several]
    return CaptionedPictures(
        [names[i] for i, _ in pairs],
        [caption for _, caption in pairs],
        digest(part for i, caption in pairs for part in (contents[i], caption)),
        lambda pair: source(pairs[pair][0]),
    )


def _content(source: Source) -> bytes:
    """SHA-256 of a picture's file."""
    if isinstance(source, bytes):
        return hashlib.sha256(source).digest()
    with open(source, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def digest(parts: Iterable[str | bytes]) -> str:
    """A fingerprint of some texts or bytes, in their order: 32 hexadecimal digits of SHA-256."""
    state = hashlib.sha256()
    for part in parts:
        data = os.fsencode(part) if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "little") + data)
    return state.hexdigest()[:32]
