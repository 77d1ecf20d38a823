"""Files made to harm, at the size at which they do: refused in one sentence, within bounds of memory."""

import errno
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch

from ldm_edu.checkpoint.open import open_checkpoint
from ldm_edu.codec import LatentCodec, PixelCodec
from ldm_edu.config import AutoencoderConfig
from ldm_edu.convert import convert_checkpoint
from ldm_edu.families import TOY
from ldm_edu.model import LatentDiffusion
from ldm_edu.models.autoencoder import AutoencoderKL
from ldm_edu.weights.errors import CheckpointError, printable
from ldm_edu.weights.mapped import open_weights
from ldm_edu.weights.untrusted import MAX_HEADER, MAX_PICKLE, Inert, load_pickle, read_json

LISTS = b"\x80\x02(" + b"]" * (MAX_PICKLE - 100) + b"t."  # a pickle of as many lists as may be


def archive(path: Path, content: bytes, how: int = zipfile.ZIP_STORED) -> Path:
    """What torch.save writes, around a pickle of our own."""
    with zipfile.ZipFile(path, "w", how) as file:
        file.writestr("archive/data.pkl", content)
        file.writestr("archive/version", "3\n")
    return path


def header(path: Path, text: bytes) -> Path:
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    return path


def many_entries(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for i in range(120_000):
            file.writestr(f"archive/data/{i}", b"")
    return path


def many_tensors(n: int) -> bytes:
    entry = b'"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
    return b"{" + b",".join(entry % i for i in range(n)) + b"}"


HOSTILE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "zip bomb": (lambda p: archive(p / "a.ckpt", bytes(2**27), zipfile.ZIP_DEFLATED), "is compressed"),
    "many lists": (lambda p: archive(p / "a.ckpt", LISTS), "holds no weights"),
    "large pickle": (lambda p: archive(p / "a.ckpt", bytes(MAX_PICKLE + 1)), "besides its weights"),
    "many entries": (lambda p: many_entries(p / "a.ckpt"), "damaged|more than"),
    "ten terabytes": (
        lambda p: archive(p / "a.ckpt", b"\x80\x02cbuiltins\nbytearray\n\x8a\x06" + bytes(5) + b"\x09\x85R."),
        "is damaged",
    ),
    "large header": (lambda p: header(p / "a.safetensors", b" " * (MAX_HEADER + 1)), "header claims 16,777,217"),
    "many tensors": (lambda p: header(p / "a.safetensors", many_tensors(250_000)), "holds 250,000 tensors"),
}
OPEN = """
import re, sys
from pathlib import Path
from ldm_edu.weights.errors import CheckpointError
from ldm_edu.weights.mapped import open_weights
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
before = peak()
try:
    open_weights(Path(sys.argv[1]))
except CheckpointError as error:
    print(peak() - before, error)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is told otherwise elsewhere")
@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_weights_take_no_memory(tmp_path: Path, kind: str) -> None:
    write, words = HOSTILE[kind]
    command = [sys.executable, "-c", OPEN, str(write(tmp_path))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    kilobytes, _, sentence = done.stdout.partition(" ")
    assert int(kilobytes) < 10**6 and "Traceback" not in done.stderr
    with pytest.raises(CheckpointError, match=words):
        raise CheckpointError(sentence)


@pytest.mark.parametrize(
    "text, words",
    [
        (b"[" * 10**6, "nested too deeply"),
        (b'{"a":' * 10**5, "nested too deeply"),
        (b'{"a": ' + b"9" * 400 + b"}", "a number of 400 digits"),
        (b'{"a": 1e400}', "not a finite number"),
        (b'{"a": NaN}', "not a finite number"),
        (b'{"a": -Infinity}', "not a finite number"),
        (b"[1]", "not an object"),
        (b" " * (8 * 2**20 + 1), "larger than"),
        (b"\xff\xfe", "not a readable config"),
    ],
    ids=range(9),
)
def test_json_that_no_config_is(tmp_path: Path, text: bytes, words: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(text)
    with pytest.raises(CheckpointError, match=words) as caught:
        read_json(path)
    assert str(path) in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in folders here")
def test_pipes_and_devices_are_not_waited_for(tmp_path: Path) -> None:
    for name in ("a.safetensors", "a.ckpt", "config.json"):
        os.mkfifo(tmp_path / name)
    for read in (open_weights, open_checkpoint):
        for place in (tmp_path / "a.safetensors", tmp_path / "a.ckpt", Path("/dev/zero")):
            with pytest.raises(CheckpointError, match="is a pipe or a device"):
                read(place)  # type: ignore[operator]
    with pytest.raises(CheckpointError, match="is a pipe or a device"):
        read_json(tmp_path / "config.json")
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        open_checkpoint(tmp_path)


def test_texts_in_the_place_of_a_model_are_called_what_they_are(tmp_path: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4265380512\n"
    for name in ("a.safetensors", "a.ckpt", "a.bin"):
        for text, words in ((pointer, "Git LFS pointer.*git lfs pull"), ("\n<!DOCTYPE html><html>", "is a web page")):
            (tmp_path / name).write_text(text)
            with pytest.raises(CheckpointError, match=words):
                open_weights(tmp_path / name)


@pytest.mark.parametrize("call", [b"cposix\nsystem\n", b"csubprocess\nrun\n", b"cbuiltins\neval\n", b"cio\nopen\n"])
def test_a_function_of_the_system_is_refused_by_name(tmp_path: Path, call: bytes) -> None:
    path = archive(tmp_path / "a.ckpt", b"\x80\x02" + call + b"X\x04\x00\x00\x00true\x85R.")
    with pytest.raises(CheckpointError, match=f"asks for more than weights .for .*{call.split()[1].decode()}"):
        load_pickle(path)


def test_another_name_is_never_looked_up(tmp_path: Path) -> None:
    """Not even one that could be imported: here pytest's own way to end a run."""
    path = archive(tmp_path / "a.ckpt", b"\x80\x02cpytest\nexit\nX\x03\x00\x00\x00now\x85R.")
    assert isinstance(load_pickle(path), Inert)


def test_sparse_tensors_are_named(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.eye(3).to_sparse()}}, tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match="holds a as a sparse"):
        open_weights(tmp_path / "a.ckpt")
    archive(tmp_path / "b.ckpt", pickle.dumps({"a": 1}, 4))
    with pytest.raises(CheckpointError, match=r"damaged|no weights"):
        open_weights(tmp_path / "b.ckpt")


def test_names_are_shown_short_and_printable(tmp_path: Path) -> None:
    assert printable("a\x1b[2J\x00\u202e") == r"a\x1b[2J\x00\u202e"
    safetensors.torch.save_file({"x" * 10**6: torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(tmp_path / "a.safetensors")
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("scale", [0.0, float("nan"), float("inf")])
def test_a_scale_that_no_latents_have(scale: float) -> None:
    with pytest.raises(ValueError, match=r"scale=.*choose a finite number other than 0"):
        AutoencoderConfig(scale=scale)


def test_a_black_picture_is_a_sentence() -> None:
    autoencoder = AutoencoderKL(TOY.autoencoder).eval()  # type: ignore[arg-type]
    codec, latents = LatentCodec(autoencoder), torch.randn(1, 4, 4, 4)
    codec.decode(latents)
    latents[0, 0, 0, 0] = float("nan")
    for any_codec in (codec, PixelCodec()):
        with pytest.raises(ValueError, match=r"not finite.*--dtype"):
            any_codec.decode(latents)
    autoencoder.decoder.conv_out.bias.data[1] = float("inf")
    with pytest.raises(ValueError, match=r"the autoencoder gave numbers .* in float32.*--vae"):
        codec.decode(torch.randn(1, 4, 4, 4))


def test_tied_weights_are_converted(tmp_path: Path) -> None:
    """Two names for one tensor in a pickle, and one tensor that is a part of another."""
    model = LatentDiffusion.from_preset(TOY)
    model.save(tmp_path / "toy", dtype=torch.float32)
    convert_checkpoint(open_checkpoint(tmp_path / "toy"), tmp_path / "one.safetensors", "original")
    weights = safetensors.torch.load_file(tmp_path / "one.safetensors")
    biases = [name for name in weights if name.endswith("in_layers.0.bias")]
    for name in biases[1:]:
        if weights[name].shape <= weights[biases[0]].shape:
            weights[name] = weights[biases[0]][: len(weights[name])]
    torch.save({"state_dict": weights}, tmp_path / "tied.bin")
    found = open_checkpoint(tmp_path / "tied.bin", preset=TOY)
    for to, out in (("original", "again.safetensors"), ("diffusers", "folder"), ("ldm-edu", "ours")):
        convert_checkpoint(found, tmp_path / out, to)  # type: ignore[arg-type]
    again = safetensors.torch.load_file(tmp_path / "again.safetensors")
    assert all(torch.equal(again[name], tensor) for name, tensor in weights.items())


def test_an_error_of_the_disk_has_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({}))

    def broken(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("ldm_edu.weights.untrusted.refuse_stand_in", lambda path: None)
    monkeypatch.setattr("builtins.open", broken)
    with pytest.raises(CheckpointError, match=r"cannot be read \(Input/output error\); check the path"):
        read_json(path)
