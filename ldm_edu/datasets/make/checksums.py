"""The checksums of the shipped data files, in the format of ``sha256sum``."""

import hashlib
from pathlib import Path

FOLDERS = ("emoji", "fashion_mnist", "licences", "tokenizer")
FILE = "SHA256SUMS"


def checksums(data: Path) -> str:
    """One line a file, ``<sha256>  <path below data>``, sorted by path. Checkpoints carry their own."""
    files = sorted(path for folder in FOLDERS for path in (data / folder).rglob("*") if path.is_file())
    return "".join(f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(data).as_posix()}\n" for p in files)
