"""Read committed parquet files as ``datasets.Dataset``: from memory, with no cache folder and no network."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset
from datasets.table import InMemoryTable


def read_tables(paths: Sequence[Path]) -> pa.Table:
    """The rows of some parquet files of one schema, in the order given.

    Raises
    ------
    FileNotFoundError
        if a file is missing or the list is empty; the message says how to get the files back.
    """
    missing = [str(path) for path in paths if not path.is_file()]
    if missing or not paths:
        raise FileNotFoundError(
            f"Missing data file: {', '.join(missing) or 'no parquet file at all'}. The data are committed with the "
            "project: restore them with `git checkout -- data`, or rebuild them with `make data`."
        )
    return pa.concat_tables([pq.read_table(path) for path in paths])


def as_dataset(table: pa.Table) -> Dataset:
    """A table as a ``datasets.Dataset``; a column stored with the ``Image`` feature gives Pillow pictures."""
    return Dataset(InMemoryTable(table))
