"""Checkpoint folders: what is saved is loaded, what is damaged is refused, what fails leaves the old one."""

import errno
import json
import os
import pickle
import re
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from ldm_edu.checkpoint.io import has_part, load_preset, load_tensors, save_checkpoint, save_tensors
from ldm_edu.checkpoint.open import open_checkpoint
from ldm_edu.families import EMOJI, FASHION, PRESETS, SHAPES, TOY
from ldm_edu.files import SaveError
from ldm_edu.weights.errors import CheckpointError, refuse_pickle
from ldm_edu.weights.fit import load_into
from ldm_edu.weights.mapped import open_weights


def some_tensors(seed: int = 0, count: int = 8) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return {f"layer.{i}.weight": torch.randn(16, 16, generator=rng) for i in range(count)}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


# --- what is saved is loaded ----------------------------------------------------------------------------------------


def test_a_part_comes_back_as_bfloat16_would_have_it(tmp_path: Path) -> None:
    tensors = some_tensors() | {"steps": torch.tensor([3, 1 << 40])}
    save_tensors(tmp_path, "unet", tensors)
    back = load_tensors(tmp_path, "unet")
    assert names(tmp_path) == ["unet.safetensors"]
    assert same(back, {k: v.bfloat16().float() if v.is_floating_point() else v for k, v in tensors.items()})
    assert {t.dtype for t in open_weights(tmp_path / "unet.safetensors").tensors.values()} == {
        torch.bfloat16,
        torch.int64,
    }


def test_a_part_comes_back_exactly_as_float32(tmp_path: Path) -> None:
    tensors = some_tensors()
    save_tensors(tmp_path, "unet", tensors, dtype=torch.float32)
    assert same(load_tensors(tmp_path, "unet"), tensors)
    assert load_tensors(tmp_path, "unet", dtype=torch.float64)["layer.0.weight"].dtype == torch.float64


def test_transposed_and_shared_tensors_are_saved_too(tmp_path: Path) -> None:
    base = torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last)
    tensors = {"a": base, "b": base.transpose(0, 1), "c": base}
    save_tensors(tmp_path, "unet", tensors, dtype=torch.float32)
    assert same(load_tensors(tmp_path, "unet"), tensors)


def test_saving_leaves_the_tensors_alone(tmp_path: Path) -> None:
    tensors, before = some_tensors(), some_tensors()
    save_tensors(tmp_path, "unet", tensors)
    assert same(tensors, before)


def test_large_parts_are_split_into_numbered_files(tmp_path: Path) -> None:
    tensors = some_tensors()  # 512 bytes each in bfloat16
    save_tensors(tmp_path, "unet", tensors, shard_bytes=1200)
    assert names(tmp_path) == [f"unet-0000{i}-of-00004.safetensors" for i in (1, 2, 3, 4)]
    assert load_tensors(tmp_path, "unet").keys() == tensors.keys()


def test_a_tensor_larger_than_a_file_may_be_has_one_to_itself(tmp_path: Path) -> None:
    save_tensors(tmp_path, "unet", some_tensors(count=3), shard_bytes=10)
    assert len(names(tmp_path)) == 3
    assert len(load_tensors(tmp_path, "unet")) == 3


def test_files_of_an_earlier_saving_do_not_stay(tmp_path: Path) -> None:
    save_tensors(tmp_path, "text", some_tensors())
    for shard_bytes in (1200, 600, 10**6):
        save_tensors(tmp_path, "unet", some_tensors(), shard_bytes=shard_bytes)
        assert len(load_tensors(tmp_path, "unet")) == 8
    assert names(tmp_path) == ["text.safetensors", "unet.safetensors"]


def test_the_same_weights_make_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        save_checkpoint(tmp_path / folder, TOY, {"unet": some_tensors()})
    assert (tmp_path / "a/unet.safetensors").read_bytes() == (tmp_path / "b/unet.safetensors").read_bytes()


@pytest.mark.parametrize("preset", PRESETS.values(), ids=lambda p: p.name)
def test_presets_come_back(tmp_path: Path, preset) -> None:  # type: ignore[no-untyped-def]
    save_checkpoint(tmp_path, preset, {"unet": some_tensors()})
    assert load_preset(tmp_path) == preset
    assert json.loads((tmp_path / "config.json").read_text())["format"] == "ldm-edu/1"
    assert has_part(tmp_path, "unet") and not has_part(tmp_path, "text")


def test_a_preset_is_the_saved_one_but_for_the_measured_scale(tmp_path: Path) -> None:
    assert EMOJI.autoencoder is not None
    measured = replace(EMOJI, autoencoder=replace(EMOJI.autoencoder, scale=0.7, shift=-0.1))
    save_checkpoint(tmp_path, measured, {part: some_tensors() for part in ("unet", "autoencoder", "text")})
    assert open_checkpoint(tmp_path, preset=EMOJI).preset == measured
    wider = replace(EMOJI, size=128, unet=replace(EMOJI.unet, channels=EMOJI.unet.channels * 2))
    channels = f"unet.channels ({EMOJI.unet.channels}, not {2 * EMOJI.unet.channels})"
    with pytest.raises(CheckpointError, match=re.escape(f"differs in size (64, not 128), {channels}; leave")):
        open_checkpoint(tmp_path, preset=wider)
    with pytest.raises(CheckpointError, match=r"saved with another preset, emoji: it differs in .* more; leave"):
        open_checkpoint(tmp_path, preset=FASHION)


# --- what is damaged is refused -------------------------------------------------------------------------------------


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def huge_header(data: bytes) -> bytes:
    return struct.pack("<Q", 1 << 60) + data[8:]


def shape_changed(data: bytes) -> bytes:
    return data.replace(b"[16,16]", b"[16,17]", 1)


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut in half": (cut, "cut short"),
    "last byte gone": (lambda data: data[:-1], "cut short: [0-9]+ bytes of [0-9]+"),
    "cut within the header": (lambda data: data[:100], "cut short"),
    "cut within the length": (lambda data: data[:5], "cut short"),
    "empty": (lambda data: b"", "cut short"),
    "bytes added": (lambda data: data + b"x", "damaged"),
    "header too long": (huge_header, "cut short, or no safetensors"),
    "header too short": (lambda data: struct.pack("<Q", 12) + data[8:], "damaged"),
    "header of zero": (lambda data: struct.pack("<Q", 0) + data[8:], "damaged"),
    "shape and size at odds": (shape_changed, "damaged"),
    "header no JSON": (lambda data: data[:8] + data[8:].replace(b":", b"!", 3), "damaged"),
    "header a list": (lambda data: struct.pack("<Q", 2) + b"[]", "damaged"),
    "a page of text": (lambda data: b"<!DOCTYPE html><html>404 not found</html>", "a web page"),
    "zeros": (lambda data: bytes(len(data)), "damaged"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_files_are_refused(tmp_path: Path, damage: str) -> None:
    save_tensors(tmp_path, "unet", some_tensors())
    path = tmp_path / "unet.safetensors"
    change, words = DAMAGE[damage]
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(CheckpointError, match=words) as caught:
        load_tensors(tmp_path, "unet")
    assert str(path) in str(caught.value) and "again" in str(caught.value)


class Bomb:
    """Unpickling this makes a file: the tests look whether it is there."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize(
    "name", ["model.ckpt", "model.pt", "pytorch_model.bin", "model.pth", "model.pkl", "x.safetensors"]
)
@pytest.mark.parametrize("how", ["torch", "protocol 2", "protocol 4", "protocol 5"])
def test_pickles_are_never_opened(tmp_path: Path, name: str, how: str) -> None:
    path, bomb = tmp_path / name, tmp_path / "went off"
    if how == "torch":
        torch.save({"state_dict": Bomb(bomb)}, path)
    else:
        path.write_bytes(pickle.dumps({"state_dict": Bomb(bomb)}, protocol=int(how[-1])))
    with pytest.raises(CheckpointError, match="pickle"):
        open_weights(path)
    assert not bomb.exists()


def test_a_folder_of_pickles_says_so(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "unet.bin")
    with pytest.raises(CheckpointError, match=r"no config\.json.*unet\.bin is a pickle"):
        load_preset(tmp_path)
    with pytest.raises(CheckpointError, match=r"no unet\.safetensors.*unet\.bin is a pickle"):
        load_tensors(tmp_path, "unet")


@pytest.mark.parametrize("length", [0x280, 0x380, 0x480, 0x580, 0x10280])
def test_no_length_of_header_looks_like_a_pickle(tmp_path: Path, length: int) -> None:
    path = tmp_path / "unet.safetensors"
    for padding in range(length):
        data = safetensors.torch.save({"a": torch.zeros(1)}, metadata={"note": "x" * (length - 120 + padding)})
        if data[:8] == struct.pack("<Q", length):
            break
    else:
        pytest.fail("no such header could be made")
    path.write_bytes(data)
    refuse_pickle(path)
    assert open_weights(path).read("a") == 0


def test_missing_and_mixed_files_are_named(tmp_path: Path) -> None:
    save_tensors(tmp_path, "unet", some_tensors(), shard_bytes=1200)
    keep = (tmp_path / "unet-00003-of-00004.safetensors").read_bytes()
    (tmp_path / "unet-00003-of-00004.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"lacks unet-00003-of-00004\.safetensors of 4 files"):
        load_tensors(tmp_path, "unet")
    (tmp_path / "unet-00001-of-00002.safetensors").write_bytes(keep)
    with pytest.raises(CheckpointError, match="mixes two savings"):
        load_tensors(tmp_path, "unet")


def test_a_tensor_in_two_files_is_refused(tmp_path: Path) -> None:
    save_tensors(tmp_path, "unet", some_tensors(), shard_bytes=2200)
    shutil.copy(tmp_path / "unet-00001-of-00002.safetensors", tmp_path / "unet-00002-of-00002.safetensors")
    with pytest.raises(CheckpointError, match="repeats"):
        load_tensors(tmp_path, "unet")


def test_folders_that_are_no_checkpoint_are_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(CheckpointError, match="holds no checkpoint"):
            load_preset(folder)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda c: {**c, "format": "ldm-edu/9"}, "another version"),
        (lambda c: {k: v for k, v in c.items() if k != "format"}, "format None"),
        (lambda c: {**c, "colour": 1}, "no field colour"),
        (lambda c: {**c, "name": "\x1b]0;title\x07"}, r"name is '\\x1b\]0;title\\x07'"),
        (lambda c: {**c, "\x1b[2J": 1}, r"no field '\\x1b\[2J'"),
        (lambda c: {k: v for k, v in c.items() if k != "unet"}, "lacks the field unet"),
        (lambda c: {**c, "unet": {**c["unet"], "groups": 7}}, "groups=7"),
        (lambda c: {**c, "unet": 3}, "describes no model"),
        (lambda c: [1], "not a readable config"),
    ],
)
def test_configs_that_describe_no_model_are_refused(tmp_path: Path, change, words: str) -> None:  # type: ignore[no-untyped-def]
    save_checkpoint(tmp_path, TOY, {})
    path = tmp_path / "config.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(CheckpointError, match=words):
        load_preset(tmp_path)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b'{"a": 1'])
def test_configs_that_are_no_json_are_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "config.json").write_bytes(data)
    with pytest.raises(CheckpointError, match="not a readable config"):
        load_preset(tmp_path)


# --- weights that do not fit ----------------------------------------------------------------------------------------


@pytest.fixture
def model() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))


def edited(model: nn.Module, **changes: Tensor | None) -> dict[str, Tensor]:
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name, tensor in changes.items():
        key = name.replace("__", ".")
        if tensor is None:
            del tensors[key]
        else:
            tensors[key] = tensor
    return tensors


@pytest.mark.parametrize("missing", ["_0__weight", "_1__bias"])
def test_missing_weights_are_named(model: nn.Module, missing: str) -> None:
    tensors = edited(model, **{missing[1:]: None})
    with pytest.raises(CheckpointError, match=r"the unet: 1 of 4 tensors missing: \d\.\w+\. .*another preset"):
        load_into(model, tensors, "the unet")


@pytest.mark.parametrize(
    "key, value, words",
    [
        ("2__weight", torch.zeros(1), r"1 tensors not of this model: 2\.weight"),
        ("0__weight", torch.zeros(4, 4), r"0\.weight has shape \(4, 4\), the model needs \(4, 3\)"),
        ("0__weight", torch.zeros(3, 4), r"has shape \(3, 4\)"),
        ("1__bias", torch.zeros(4, dtype=torch.int64), "int64"),
        ("1__bias", torch.tensor([0, 0, float("nan"), 0]), r"NaN .* in 1\.bias"),
        ("1__bias", torch.tensor([0, 0, float("inf"), 0]), "diverged"),
    ],
)
def test_weights_that_do_not_fit_are_refused_and_change_nothing(
    model: nn.Module, key: str, value: Tensor, words: str
) -> None:
    before = edited(model)
    with pytest.raises(CheckpointError, match=words):
        load_into(model, edited(model, **{key: value}), "the unet")
    assert same(dict(model.state_dict()), before)


def test_weights_of_another_preset_are_refused(tmp_path: Path) -> None:
    from ldm_edu.models.clip import TextEncoder

    assert EMOJI.text and SHAPES.text
    with torch.device("meta"):
        emoji = TextEncoder(EMOJI.text)
    save_checkpoint(tmp_path, SHAPES, {"text": TextEncoder(SHAPES.text).state_dict()})
    with pytest.raises(CheckpointError, match="another preset"):
        load_into(emoji, load_tensors(tmp_path, "text"), "the text encoder")


def test_weights_are_copied_into_a_module_and_become_one_of_meta(model: nn.Module) -> None:
    tensors = {name: torch.randn_like(tensor) for name, tensor in model.state_dict().items()}
    first = next(model.parameters())
    load_into(model, tensors, "the unet")
    assert next(model.parameters()) is first  # an optimiser that knows it still does
    with torch.device("meta"):
        empty = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    load_into(empty, tensors, "the unet")
    assert same(dict(model.state_dict()), tensors) and same(dict(empty.state_dict()), tensors)
    assert all(p.requires_grad for p in empty.parameters())


# --- what fails leaves the old one ----------------------------------------------------------------------------------


def checkpoint_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("allowed", range(5))
def test_a_disk_that_fills_up_while_saving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: int) -> None:
    parts = {"unet": some_tensors(1), "text": some_tensors(2)}
    save_checkpoint(tmp_path, TOY, parts, shard_bytes=2200)
    before = checkpoint_bytes(tmp_path)
    assert len(before) == 5
    written = 0
    write_bytes = Path.write_bytes

    def fills_up(self: Path, data: bytes) -> int:
        nonlocal written
        if written == allowed:
            write_bytes(self, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        written += 1
        return write_bytes(self, data)

    def save_file(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
        try:
            path.write_bytes(safetensors.torch.save(tensors, metadata))
        except OSError as error:  # as the library says it
            raise safetensors.SafetensorError(f"I/O error: {error.strerror} (os error {error.errno})") from error

    monkeypatch.setattr(Path, "write_bytes", fills_up)
    monkeypatch.setattr(safetensors.torch, "save_file", save_file)
    with pytest.raises(SaveError, match="the disk is full"):
        save_checkpoint(tmp_path, EMOJI, {name: some_tensors(9) for name in parts}, shard_bytes=2200)
    assert checkpoint_bytes(tmp_path) == before


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 64 KiB, where we may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if shutil.which("mount") is None:
        pytest.skip("no mount command")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("mounting a file system is not permitted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_really_full_and_a_really_read_only_disk(small_disk: Path) -> None:
    save_checkpoint(small_disk, TOY, {"unet": some_tensors()})
    before = checkpoint_bytes(small_disk)
    with pytest.raises(SaveError, match="full"):
        save_checkpoint(small_disk, TOY, {"unet": some_tensors(1), "text": some_tensors(2, count=200)})
    assert checkpoint_bytes(small_disk) == before
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(SaveError, match="read-only"):
        save_checkpoint(small_disk, TOY, {"unet": some_tensors(1)})
    assert checkpoint_bytes(small_disk) == before


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SaveError, match="not a folder"):
        save_tensors(tmp_path / "file", "unet", some_tensors())
