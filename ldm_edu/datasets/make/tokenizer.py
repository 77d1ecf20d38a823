"""Take CLIP's byte-pair vocabulary, and the licence that it comes under, out of the package that carries it."""

import zipfile
from pathlib import Path

from ldm_edu.datasets.make.sources import OPEN_CLIP, download

VOCABULARY = "bpe_simple_vocab_16e6.txt.gz"


def build(folder: Path, downloads: Path) -> Path:
    """Write ``folder/bpe_simple_vocab_16e6.txt.gz``."""
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(download(OPEN_CLIP, downloads)) as wheel:
        (folder / VOCABULARY).write_bytes(wheel.read(f"open_clip/{VOCABULARY}"))
    return folder / VOCABULARY
