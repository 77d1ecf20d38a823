"""A changed or missing data file is found, and the list in the checkout is up to date."""

from pathlib import Path

import pytest

from ldm_edu.checksums import NAME, listed, record, verify
from ldm_edu.paths import data_dir


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.parquet").write_bytes(b"a" * 100_000)
    (tmp_path / "b.json").write_text("{}")
    (tmp_path / "README.md").write_text("may be edited")
    (tmp_path / ".hidden").write_text("")
    record(tmp_path)
    return tmp_path


def test_whole_files_pass_and_texts_are_not_listed(folder: Path) -> None:
    assert list(listed(folder)) == ["b.json", "set/a.parquet"]
    assert verify(folder) == {}
    (folder / "README.md").write_text("edited")
    assert verify(folder) == {}


def test_changed_and_missing_files_are_named(folder: Path) -> None:
    data = bytearray((folder / "set" / "a.parquet").read_bytes())
    data[50_000] ^= 1
    (folder / "set" / "a.parquet").write_bytes(data)
    (folder / "b.json").unlink()
    assert verify(folder) == {"set/a.parquet": "changed", "b.json": "missing"}


def test_a_list_that_is_missing_or_damaged_is_refused(folder: Path) -> None:
    (folder / NAME).write_text("abc  b.json\n")
    with pytest.raises(ValueError, match="line 1"):
        verify(folder)
    (folder / NAME).unlink()
    with pytest.raises(FileNotFoundError, match="--record"):
        verify(folder)


def test_the_shipped_files_are_the_listed_ones(tmp_path: Path) -> None:
    folder = data_dir()
    assert verify(folder) == {}
    for path in folder.rglob("*"):  # the same names as a fresh list would have
        if path.is_file() and path.name != NAME:
            copy = tmp_path / path.relative_to(folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.symlink_to(path)
    assert list(record(tmp_path)) == list(listed(folder)), "run `ldm-edu data --record`"
