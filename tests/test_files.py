"""Atomic writes: the old file or the new one, whatever goes wrong."""

import errno
import os
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors import SafetensorError

from ldm_edu import files
from ldm_edu.checksums import fingerprint
from ldm_edu.files import (
    SaveError,
    atomic_write,
    atomic_write_all,
    atomic_write_bytes,
    atomic_write_text,
    check_writable,
    read_json,
    remove_leftovers,
)


def test_writes_a_new_file_and_makes_its_folder(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "er" / "file.txt"
    atomic_write_text(target, "one\ntwo é")
    assert target.read_bytes() == "one\ntwo é".encode()
    assert os.listdir(target.parent) == ["file.txt"]


def test_replaces_an_old_file(tmp_path: Path) -> None:
    target = tmp_path / "file.bin"
    target.write_bytes(b"old and long")
    atomic_write_bytes(target, b"new")
    assert target.read_bytes() == b"new"


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "file.bin"
    target.write_bytes(b"old")

    def write(beside: Path) -> None:
        beside.write_bytes(b"half")
        assert target.read_bytes() == b"old"
        assert (beside.parent.parent, beside.name) == (target.parent, "file.bin")
        beside.write_bytes(b"whole")

    atomic_write(target, write)
    assert target.read_bytes() == b"whole"


@pytest.mark.parametrize(
    "code, word",
    [(errno.ENOSPC, "full"), (errno.EROFS, "read-only"), (errno.EACCES, "not permitted"), (errno.EIO, "Check")],
)
def test_an_error_of_the_disk_leaves_the_old_file(tmp_path: Path, code: int, word: str) -> None:
    target = tmp_path / "file.bin"
    target.write_bytes(b"old")

    def write(beside: Path) -> None:
        beside.write_bytes(b"half")
        raise OSError(code, os.strerror(code))

    with pytest.raises(SaveError, match=word) as caught:
        atomic_write(target, write)
    assert caught.value.errno == code and str(target) in str(caught.value)
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file.bin"]


def test_a_disk_that_is_found_full_only_when_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(SaveError, match="full"):
        atomic_write_bytes(tmp_path / "file.bin", b"new")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("error", [ValueError("a bug"), KeyboardInterrupt()])
def test_other_errors_pass_through_and_leave_nothing(tmp_path: Path, error: BaseException) -> None:
    def write(beside: Path) -> None:
        beside.write_bytes(b"half")
        raise error

    with pytest.raises(type(error)):
        atomic_write(tmp_path / "file.bin", write)
    assert os.listdir(tmp_path) == []


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SaveError, match="not a folder"):
        atomic_write_text(tmp_path / "file" / "inner.txt", "text")


def test_a_folder_where_the_file_should_be(tmp_path: Path) -> None:
    (tmp_path / "name").mkdir()
    with pytest.raises(SaveError, match="folder of that name"):
        atomic_write_text(tmp_path / "name", "text")
    assert os.listdir(tmp_path) == ["name"]


def test_files_that_belong_together_change_together(tmp_path: Path) -> None:
    first, second = tmp_path / "first.bin", tmp_path / "second.bin"
    first.write_bytes(b"old")

    def fails(beside: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(SaveError, match=r"second\.bin was not saved: the disk is full"):
        atomic_write_all({first: lambda beside: _write(beside, b"new"), second: fails})
    assert first.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["first.bin"]
    atomic_write_all({path: lambda beside: _write(beside, b"new") for path in (first, second)})
    assert first.read_bytes() == second.read_bytes() == b"new"


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


LEAVES = """
import os, signal, sys
from pathlib import Path
from ldm_edu.files import atomic_write
def write(beside):
    beside.write_bytes(bytes(9))
    (beside.parent / ".tmpX4e5Yz").touch()  # as safetensors names what it has not renamed yet
    os.kill(os.getpid(), signal.SIGKILL)
atomic_write(Path(sys.argv[1]) / "unet.safetensors", write)
"""


@pytest.mark.skipif(os.name != "posix", reason="processes are killed in another way there")
def test_what_a_killed_process_left_is_removed_and_what_is_under_way_stays(tmp_path: Path) -> None:
    for _ in range(2):
        assert subprocess.run([sys.executable, "-c", LEAVES, str(tmp_path)]).returncode == -signal.SIGKILL
    assert len(list(tmp_path.glob(".unet.safetensors.*.part"))) == 2
    assert fingerprint(tmp_path) == fingerprint(tmp_path / "nothing")  # half a file is not weights
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    mine = [".notes.part", ".a.x.part", "b.1.part"]  # not of this form: whose they are, nobody knows
    for name in (*mine, f".c.{other.pid}.part", f".d.{os.getpid()}.part"):
        (tmp_path / name).mkdir()
    (tmp_path / ".e.1.part").touch()
    remove_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted([*mine, f".c.{other.pid}.part", ".e.1.part"])
    other.communicate(b"")
    remove_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted([*mine, ".e.1.part"])
    remove_leftovers(tmp_path / "nothing")


@pytest.mark.parametrize("text, words", [("{", "Expecting"), ("[" * 100_000, "too deeply"), ("[NaN]", "NaN is not")])
def test_json_that_is_none_is_a_sentence(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=words):
        read_json(tmp_path / "a.json")


def test_an_error_of_saving_is_its_sentence_and_keeps_its_number() -> None:
    error = SaveError(errno.ENOSPC, "a.png was not saved: the disk is full.")
    assert str(error) == "a.png was not saved: the disk is full." and error.errno == errno.ENOSPC
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert str(SaveError("by itself")) == "by itself"


def test_a_place_is_tried_and_nothing_is_left_there(tmp_path: Path) -> None:
    (tmp_path / "old.png").write_text("old")
    for name in ("old.png", "new.png", "new/folder/a.png"):
        check_writable(tmp_path / name)
    assert os.listdir(tmp_path) == ["old.png"] and (tmp_path / "old.png").read_text() == "old"


@pytest.mark.parametrize("name, words", [("file/a/b.png", "not a folder"), ("folder", "folder of that name")])
def test_a_place_that_cannot_be_written_is_refused_as_writing_would_be(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SaveError, match=rf"{name} cannot be saved: .*{words}") as caught:
        check_writable(tmp_path / name)
    assert caught.value.errno and sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(SaveError, match="not permitted"):
            atomic_write_text(tmp_path / "file.txt", "text")
    finally:
        tmp_path.chmod(0o700)


@pytest.fixture
def small_disk(tmp_path: Path):  # type: ignore[no-untyped-def]
    """A real file system of 64 KiB that can be filled and remounted read-only, where we may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if shutil.which("mount") is None:
        pytest.skip("no mount command")
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True)
    if made.returncode:
        pytest.skip("mounting a file system is not permitted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_really_full_disk(small_disk: Path) -> None:
    target = small_disk / "file.bin"
    atomic_write_bytes(target, b"old")
    with pytest.raises(SaveError, match="full"):
        atomic_write_bytes(target, bytes(200_000))
    assert target.read_bytes() == b"old"
    assert os.listdir(small_disk) == ["file.bin"]


def test_a_really_full_disk_found_by_safetensors(small_disk: Path) -> None:
    target = small_disk / "file.safetensors"
    atomic_write_bytes(target, b"old")
    with pytest.raises(SaveError, match="full"):
        atomic_write(target, lambda beside: safetensors.torch.save_file({"a": torch.zeros(50_000)}, beside))
    assert target.read_bytes() == b"old"
    assert os.listdir(small_disk) == ["file.safetensors"]


def test_what_safetensors_refuses_for_another_reason(tmp_path: Path) -> None:
    def refuses(beside: Path) -> None:
        raise SafetensorError("Error while serializing: no tensors of this kind")

    with pytest.raises(SafetensorError, match="no tensors"):
        atomic_write(tmp_path / "file.safetensors", refuses)


def test_a_really_read_only_disk(small_disk: Path) -> None:
    target = small_disk / "file.bin"
    atomic_write_bytes(target, b"old")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(SaveError, match="read-only"):
        check_writable(target)
    with pytest.raises(SaveError, match="read-only"):
        atomic_write_bytes(target, b"new")
    assert target.read_bytes() == b"old"


def test_folders_that_were_made_for_nothing_are_removed(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()

    def fail(beside: Path) -> None:
        raise ValueError("no")

    for write in (fail, lambda beside: None):  # the second writes no file, which is an error of the system
        paths = [tmp_path / "new" / "a" / "b", tmp_path / "new" / "c", tmp_path / "old" / "d"]
        with pytest.raises((ValueError, SaveError)):
            atomic_write_all({paths[0]: Path.touch, paths[1]: Path.touch, paths[2]: write})
        assert [path.name for path in tmp_path.rglob("*")] == ["old"]


@pytest.mark.skipif(os.name != "posix", reason="permissions as POSIX has them")
def test_others_may_read_a_checkpoint_as_they_may_any_new_file(tmp_path: Path) -> None:
    target = tmp_path / "weights.safetensors"
    before = os.umask(0o027)
    try:
        atomic_write(target, lambda beside: safetensors.torch.save_file({"a": torch.ones(1)}, beside))
    finally:
        os.umask(before)
    assert target.stat().st_mode & 0o777 == 0o640
