"""Cut a subset out of Fashion-MNIST: of each file, the first so many pictures of every class, in the file's order."""

import gzip
import io
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from ldm_edu.datasets.fashion import FASHION_CLASSES
from ldm_edu.datasets.make.sources import FASHION_MNIST, download
from ldm_edu.datasets.tables import with_picture_column

PARTS = {"train": ("train", 800), "test": ("t10k", 200)}  # split: (name of the original files, pictures a class)


def build(folder: Path, downloads: Path) -> list[Path]:
    """Write ``folder/train.parquet`` and ``folder/test.parquet``."""
    folder.mkdir(parents=True, exist_ok=True)
    files = _deb_files(download(FASHION_MNIST, downloads))
    written = []
    for split, (stem, a_class) in PARTS.items():
        images = _idx(files[f"{stem}-images-idx3-ubyte.gz"])  # (N, 28, 28)
        labels = _idx(files[f"{stem}-labels-idx1-ubyte.gz"])  # (N,)
        places = [np.flatnonzero(labels == label)[:a_class] for label in range(len(FASHION_CLASSES))]
        chosen = np.sort(np.concatenate(places))
        table = pa.table(
            {"label": labels[chosen].astype(np.int64), "name": [FASHION_CLASSES[labels[place]] for place in chosen]}
        )
        pictures = [{"bytes": _png(images[place]), "path": f"{split}-{place:05d}.png"} for place in chosen]
        path = folder / f"{split}.parquet"
        pq.write_table(with_picture_column(table, pictures), path, compression="zstd")
        written.append(path)
    return written


def _png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", optimize=True)
    return out.getvalue()


def _idx(gzipped: bytes) -> np.ndarray:
    """An IDX file of bytes: two zeros, the type, the number of axes, each axis as a big-endian int32, the values."""
    data = gzip.decompress(gzipped)
    axes = data[3]
    shape = np.frombuffer(data, ">i4", axes, 4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * axes).reshape(shape)


def _deb_files(archive: Path) -> dict[str, bytes]:
    """The files inside a Debian package by their base names. Reads the outer `ar` format, to do without dpkg."""
    data, offset = archive.read_bytes(), 8  # after the magic "!<arch>\n"
    while offset < len(data):
        name, length = data[offset : offset + 16].strip(b" /"), int(data[offset + 48 : offset + 58])
        body = data[offset + 60 : offset + 60 + length]
        if name.startswith(b"data.tar"):
            with tarfile.open(fileobj=io.BytesIO(body)) as tar:
                opened = ((member, tar.extractfile(member)) for member in tar)
                return {Path(member.name).name: file.read() for member, file in opened if file is not None}
        offset += 60 + length + length % 2  # members start at even offsets
    raise RuntimeError(f"{archive} holds no data.tar: it is not a Debian package.")
