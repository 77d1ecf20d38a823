"""Read committed parquet files as ``datasets.Dataset``: from memory, with no cache folder and no network."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from datasets import Dataset

PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])  # how ``datasets`` stores an encoded picture


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


def with_picture_column(table: pa.Table, pictures: Sequence[dict[str, Any]]) -> pa.Table:
    """The table with a first column "image" of encoded pictures {"bytes": ..., "path": ...}."""
    return table.add_column(0, "image", pa.array(pictures, PICTURE))


def as_dataset(table: pa.Table) -> "Dataset":
    """A table as a ``datasets.Dataset`` whose columns of encoded pictures read as Pillow pictures."""
    from datasets import Dataset, Features, Image  # here, because it takes seconds and tensors do without
    from datasets.table import InMemoryTable

    features = Features.from_arrow_schema(table.schema)
    features.update({field.name: Image() for field in table.schema if field.type == PICTURE})
    metadata = {"huggingface": json.dumps({"info": {"features": features.to_dict()}})}
    return Dataset(InMemoryTable(table.replace_schema_metadata(metadata)))
