"""Files of weights opened without being read: views, copies, odd places, and how much memory loading takes."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

from ldm_edu.weights.errors import CheckpointError
from ldm_edu.weights.mapped import WeightFile, open_weights


def written(path: Path, **tensors: torch.Tensor) -> WeightFile:
    safetensors.torch.save_file(tensors, path)
    return open_weights(path)


def rss_file(path: Path) -> int:
    """Bytes of a file that this process holds in memory."""
    found, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0]:
            inside = line.endswith(str(path))
        elif inside and line.startswith("Rss:"):
            found += 1024 * int(line.split()[1])
    return found


def test_what_fits_is_a_view_and_what_does_not_a_copy(tmp_path: Path) -> None:
    a = torch.randn(64, 32, 3, 3)
    file = written(tmp_path / "a.safetensors", a=a, n=torch.arange(5))
    view, again = file.read("a"), file.read("a", dtype=torch.float32)
    assert view.data_ptr() == again.data_ptr() and torch.equal(view, a)
    half = file.read("a", dtype=torch.float16)
    assert torch.equal(half, a.half()) and file.read("n", dtype=torch.float16).dtype == torch.int64
    last = file.read("a", channels_last=True)
    assert last.is_contiguous(memory_format=torch.channels_last) and torch.equal(last, a)


def test_writing_to_a_view_leaves_the_file(tmp_path: Path) -> None:
    file = written(tmp_path / "a.safetensors", a=torch.ones(1000))
    file.read("a").zero_()
    assert torch.equal(open_weights(tmp_path / "a.safetensors").read("a"), torch.ones(1000))


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="only Linux tells what a process holds")
def test_pages_of_what_was_converted_are_given_back(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    file = written(path, a=torch.ones(2**20), b=torch.ones(2**20))
    assert file.read("a").sum() == 2**20
    held = rss_file(path)
    assert held >= 2**22
    assert file.read("b", dtype=torch.bfloat16).sum() == 2**20
    assert rss_file(path) < held + 2**18
    assert file.read("b").sum() == 2**20  # read anew from the file


def test_numbers_at_odd_places(tmp_path: Path) -> None:
    header = json.dumps({
        "a": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]},
        "b": {"dtype": "F32", "shape": [2, 2], "data_offsets": [3, 19]},
        "c": {"dtype": "F16", "shape": [0, 4], "data_offsets": [19, 19]},
        "d": {"dtype": "F32", "shape": [], "data_offsets": [19, 23]},
    }).encode()  # fmt: skip
    numbers = bytes([1, 2, 3]) + struct.pack("<5f", 1, 2, 3, 4, 5)
    path = tmp_path / "odd.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + numbers)
    file = open_weights(path)
    assert file.read("b").tolist() == [[1, 2], [3, 4]] and file.read("d") == 5 and file.read("c").shape == (0, 4)


def test_views_of_one_memory_in_a_pickle(tmp_path: Path) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    content = {"whole": base, "column": base[:, 2], "turned": base.T, "end": base[3:], "note": "text", "n": 3}
    torch.save(content, tmp_path / "a.ckpt")
    file = open_weights(tmp_path / "a.ckpt")
    for name in ("whole", "column", "turned", "end"):
        assert torch.equal(file.read(name), content[name]) and file.read(name).is_contiguous()  # type: ignore[arg-type]
    assert file.tensors.keys() == {"whole", "column", "turned", "end"}


def test_a_pickle_of_an_old_pytorch_says_how_to_convert_it(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(3)}, tmp_path / "a.ckpt", _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"PyTorch 1\.5 or older"):
        open_weights(tmp_path / "a.ckpt")


PEAK = """
import json, re, struct, sys, torch
from pathlib import Path
from ldm_edu.build import build_on_meta
from ldm_edu.checkpoint.fill import pairs_of
from ldm_edu.checkpoint.single_file import NOTE
from ldm_edu.families import SD15, family_of
from ldm_edu.config import to_dict
from ldm_edu.model import LatentDiffusion
import dataclasses

def peak():  # not getrusage's, which starts at what the process that started this one had
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

path, stored, wanted = Path(sys.argv[1]), sys.argv[2], getattr(torch, sys.argv[3])
preset = dataclasses.replace(
    SD15,
    name="medium",
    unet=dataclasses.replace(SD15.unet, channels=160),
    autoencoder=dataclasses.replace(SD15.autoencoder, channels=64),
    text=dataclasses.replace(SD15.text, layers=1),
)
size = {"F32": 4, "F16": 2}[stored]
header, end = {"__metadata__": {NOTE: json.dumps(to_dict(preset))}}, 0
networks = build_on_meta(preset)
for part in family_of(preset).parts_of(preset):
    state = networks[part.name].state_dict()
    for pair in pairs_of(part, preset, "original"):
        shape = [*state[pair.ours].shape, *([1, 1] if pair.conv else [])]
        header[part.prefix + pair.theirs] = {
            "dtype": stored, "shape": shape, "data_offsets": [end, end + size * torch.Size(shape).numel()]
        }
        end += size * torch.Size(shape).numel()
text = json.dumps(header).encode()
text += b" " * (-len(text) % 8 + int(sys.argv[5]))  # as files are written today, or one byte off, as in 2022
with open(path, "wb") as file:  # zeros that take no room on the disk, yet do in memory
    file.write(struct.pack("<Q", len(text)) + text)
    file.truncate(8 + len(text) + end)

LatentDiffusion.from_pretrained(sys.argv[4])  # everything that is loaded once
before = peak()
model = LatentDiffusion.from_pretrained(path, dtype=wanted)
loaded = sum(p.nbytes for module in model.networks.values() for p in module.parameters())
print(loaded, peak() - before)
if len(sys.argv) > 6:
    model.save(Path(sys.argv[6]), dtype=wanted)
    print(loaded, peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is counted otherwise elsewhere")
@pytest.mark.parametrize(
    "stored, wanted, off",
    [("F32", "float32", 0), ("F32", "bfloat16", 1), ("F16", "float16", 0)],
)
def test_loading_takes_no_more_memory_than_the_weights(tmp_path: Path, stored: str, wanted: str, off: int) -> None:
    """At most 1.15 times what was loaded, which is some hundred million bytes so that little else can hide in it."""
    from ldm_edu import TOY, LatentDiffusion

    LatentDiffusion.from_preset(TOY).save(tmp_path / "toy")
    arguments = [str(tmp_path / "sd.safetensors"), stored, wanted, str(tmp_path / "toy"), str(off)]
    if wanted == "bfloat16":
        arguments.append(str(tmp_path / "saved"))
    done = subprocess.run(
        [sys.executable, "-c", PEAK, *arguments], capture_output=True, text=True, timeout=300, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        loaded, peak = map(int, line.split())
        assert loaded > 3e8
        assert peak <= 1.15 * loaded, f"{peak / loaded:.2f}"
