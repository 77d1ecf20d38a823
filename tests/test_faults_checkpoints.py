"""Hostile and damaged checkpoints: refused in one sentence, no code run, nothing overwritten, no memory eaten."""

import json
import pickle
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from command import Done, randomized_toy, run

from ldm_edu.checkpoint.fill import pairs_of
from ldm_edu.families import SD15, family_of
from ldm_edu.weights.errors import printable

pytestmark = pytest.mark.slow  # each takes a blink; there are more than two hundred

PREFIXES = {part.name: part.prefix for part in family_of(SD15).parts}
COMMANDS = ("inspect", "convert", "generate")
Make = Callable[[Path, Path], Path]  # the folder to write in, a sound file to spoil -> the hostile file


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model in one file."""
    place = tmp_path_factory.mktemp("sound")
    done = run("convert", randomized_toy(place / "toy"), place / "one.safetensors", "--to", "original")
    assert done.returncode == 0, done.stderr
    return place / "one.safetensors"


def refusal(command: str, file: Path, place: Path) -> str:
    """What a command says of a file that it refuses; nothing may be written, nothing that is there may change."""
    out = place / "precious.safetensors"
    out.write_text("precious")
    arguments = {
        "inspect": ("inspect", file),
        "convert": ("convert", file, place / "new" / "out", "--to", "diffusers"),
        "generate": ("generate", "a", "--model", file, "--steps", "1", "--out", place / "new.png"),
    }
    before = sorted(place.rglob("*"))
    done = run(*arguments[command])
    assert sorted(place.rglob("*")) == before and out.read_text() == "precious"
    return sentence(done)


def sentence(done: Done) -> str:
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stdout + done.stderr and "Warning" not in done.stderr
    if done.returncode == 1:  # inspect, of a file that is sound and no model
        assert "cannot be loaded" in done.stdout
        return done.stdout
    assert done.stdout == "" and done.stderr.startswith("ldm-edu: ") and done.stderr.count("\n") == 1
    return done.stderr


# --- pickles ----------------------------------------------------------------------------------------------------------


class Bomb:
    """Unpickling this makes a file: the tests look whether it is there."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return (Path.touch, (self.path,))


def by_torch(content: Any, path: Path) -> None:
    torch.save(content, path)


def by_protocol(number: int) -> Callable[[Any, Path], None]:
    return lambda content, path: path.write_bytes(pickle.dumps(content, protocol=number)) and None


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("write", [by_torch, *map(by_protocol, (0, 2, 4, 5))], ids=["torch", "0", "2", "4", "5"])
@pytest.mark.parametrize("name", ["sd.ckpt", "sd.safetensors", "sd.bin"])
def test_a_pickle_that_would_run_code(
    tmp_path: Path, command: str, write: Callable[[Any, Path], None], name: str
) -> None:
    bomb = tmp_path / "went off"
    write({"state_dict": {"model.diffusion_model.out.0.bias": Bomb(bomb)}}, tmp_path / name)
    said = refusal(command, tmp_path / name, tmp_path)
    assert not bomb.exists()
    assert name in said and any(words in said for words in ("pickle", "damaged", "no safetensors"))


def test_the_name_that_a_pickle_asks_for_is_told(tmp_path: Path) -> None:
    torch.save({"state_dict": Bomb(tmp_path / "x")}, tmp_path / "sd.ckpt")
    assert "asks for more than weights (for getattr)" in refusal("inspect", tmp_path / "sd.ckpt", tmp_path)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_pickle_within_a_diffusers_folder(tmp_path: Path, sound: Path, command: str) -> None:
    folder = tmp_path / "theirs"
    assert run("convert", sound.parent / "toy", folder, "--to", "diffusers").returncode == 0
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.unlink()
    torch.save({"conv_in.weight": Bomb(tmp_path / "went off")}, weights.with_suffix(".bin"))
    assert "pickle" in refusal(command, folder, tmp_path)
    assert not (tmp_path / "went off").exists()


@pytest.mark.parametrize("content", [None, [], {}, {"a": 1}, {"state_dict": {}}, torch.zeros(3)], ids=repr)
def test_a_pickle_without_weights(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "sd.ckpt")
    assert "holds no weights" in refusal("generate", tmp_path / "sd.ckpt", tmp_path)


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, -1])
def test_a_pickle_cut_short(tmp_path: Path, sound: Path, keep: float) -> None:
    path = tmp_path / "sd.ckpt"
    torch.save(safetensors.torch.load_file(sound), path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep) if isinstance(keep, float) else keep])
    assert "damaged" in refusal("generate", path, tmp_path)


# --- headers that lie -------------------------------------------------------------------------------------------------


def with_header(path: Path, header: bytes, numbers: bytes = b"", length: int | None = None) -> Path:
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + numbers)
    return path


def tensor(start: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


A = "model.diffusion_model.input_blocks.0.0.weight"
B = "model.diffusion_model.input_blocks.0.0.bias"
LIES: dict[str, tuple[Any, int | None]] = {  # a header, and the length that the file claims for it
    "length of an exabyte": ({A: tensor(0, 16, [4])}, 1 << 60),
    "length of everything": ({A: tensor(0, 16, [4])}, (1 << 64) - 1),
    "length beyond the end": ({A: tensor(0, 16, [4])}, 5000),
    "length of zero": ({A: tensor(0, 16, [4])}, 0),
    "offsets past the end": ({A: tensor(0, 4 << 30, [1 << 30])}, None),
    "offsets below zero": ({A: tensor(-16, 0, [4])}, None),
    "offsets reversed": ({A: tensor(16, 0, [4])}, None),
    "overlapping": ({A: tensor(0, 16, [4]), B: tensor(0, 16, [4])}, None),
    "with a hole": ({A: tensor(0, 4, [1]), B: tensor(12, 16, [1])}, None),
    "shape and offsets at odds": ({A: tensor(0, 16, [5])}, None),
    "shape that overflows": ({A: tensor(0, 16, [1 << 62, 1 << 62])}, None),
    "shape below zero": ({A: tensor(0, 16, [-4])}, None),
    "unknown type": ({A: tensor(0, 16, [4], "F128")}, None),
    "a type nobody runs in": ({A: tensor(0, 16, [16], "F8_E4M3")}, None),
    "a list": ([1, 2], None),
    "no offsets": ({A: {"dtype": "F32", "shape": [4]}}, None),
    "notes that are no text": ({"__metadata__": {"a": 1}, A: tensor(0, 16, [4])}, None),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("lie", LIES)
def test_a_header_that_lies(tmp_path: Path, command: str, lie: str) -> None:
    header, length = LIES[lie]
    file = with_header(tmp_path / "sd.safetensors", json.dumps(header).encode(), bytes(16), length)
    said = refusal(command, file, tmp_path)
    assert "sd.safetensors" in said and any(w in said for w in ("damaged", "cut short", "no safetensors", "a type"))


def test_a_header_nested_without_end(tmp_path: Path) -> None:
    file = with_header(tmp_path / "sd.safetensors", b'{"a":' + b"[" * 100_000)
    assert "sd.safetensors cannot be read" in refusal("inspect", file, tmp_path)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_a_name_that_a_terminal_would_obey(tmp_path: Path, command: str, suffix: str) -> None:
    path, content = tmp_path / f"sd{suffix}", {"conv\x1b[2J\nldm-edu: all is well": torch.zeros(1)}
    if suffix == ".ckpt":
        torch.save(content, path)
    else:
        safetensors.torch.save_file(content, path)
    said = refusal(command, path, tmp_path)
    assert "\x1b" not in said and r"\x1b[2J\nldm-edu" in said


def test_a_name_given_twice(tmp_path: Path) -> None:
    one = json.dumps({A: tensor(0, 16, [4])}).encode()[1:-1]
    refusal("generate", with_header(tmp_path / "sd.safetensors", b"{" + one + b"," + one + b"}", bytes(16)), tmp_path)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("keep", [0, 7, 8, 100, 0.5, -1])
def test_a_file_cut_short(tmp_path: Path, sound: Path, command: str, keep: float) -> None:
    data = sound.read_bytes()
    (tmp_path / "sd.safetensors").write_bytes(data[: int(len(data) * keep) if isinstance(keep, float) else keep])
    assert "cut short" in refusal(command, tmp_path / "sd.safetensors", tmp_path)


# --- large files with nothing in them ---------------------------------------------------------------------------------

TEN_GB = 10 * 10**9


def zeros(path: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(TEN_GB)


def one_large_tensor(path: Path) -> None:
    with_header(path, json.dumps({A: tensor(0, TEN_GB, [TEN_GB // 4])}).encode())
    with open(path, "rb+") as file:
        file.truncate(path.stat().st_size + TEN_GB)


def a_large_header(path: Path) -> None:
    with_header(path, b"", length=TEN_GB - 8)
    with open(path, "rb+") as file:
        file.truncate(TEN_GB)


TRY_ALL = """
import re, sys
from pathlib import Path
from ldm_edu.cli import main
out, *files = sys.argv[1:]
for file in files:
    for command in (["inspect", file], ["convert", file, out, "--to", "diffusers"]):
        sys.argv = ["ldm-edu", *command]
        try:
            main()
        except SystemExit as ended:
            assert ended.code in (1, 2)
print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is told otherwise elsewhere")
def test_ten_gigabytes_of_nothing(tmp_path: Path) -> None:
    """Refused without being read: the process stays below a gigabyte, most of which is PyTorch."""
    files = []
    for write in (zeros, one_large_tensor, a_large_header):
        for suffix in (".safetensors", ".ckpt"):
            files.append(tmp_path / f"{write.__name__}{suffix}")
            write(files[-1])
    done = subprocess.run(
        [sys.executable, "-c", TRY_ALL, str(tmp_path / "out"), *map(str, files)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert all(str(file) in done.stdout + done.stderr for file in files)
    assert 10**5 < int(done.stdout.split()[-1]) < 10**6  # KiB
    assert not (tmp_path / "out").exists()


# --- other models, and numbers that are none --------------------------------------------------------------------------


def header_of_stable_diffusion(path: Path, change: dict[str, list[int]]) -> None:
    """All names of Stable Diffusion 1.5 with the shapes of one number each, some of them changed."""
    header: dict[str, Any] = {}
    for part in family_of(SD15).parts_of(SD15):
        for pair in pairs_of(part, SD15, "original"):
            name = f"{part.prefix}{pair.theirs}"
            shape = change.get(name, [1, 768] if name.endswith("attn2.to_k.weight") else [1])
            start = len(header) and list(header.values())[-1]["data_offsets"][1]
            header[name] = tensor(start, start + 4 * torch.Size(shape).numel(), shape)
    with_header(path, json.dumps(header).encode(), bytes(list(header.values())[-1]["data_offsets"][1]))


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    "kind, add",
    [
        ("Stable Diffusion XL", "conditioner.embedders.1.model.ln_final.weight"),
        ("Stable Diffusion XL", "model.diffusion_model.label_emb.0.0.weight"),
        ("Stable Diffusion 2.x", "cond_stage_model.model.ln_final.weight"),
        ("Stable Diffusion 3", "model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight"),
        ("FLUX", "double_blocks.0.img_attn.qkv.weight"),
    ],
)
def test_another_model_given_as_1_5(tmp_path: Path, sound: Path, command: str, kind: str, add: str) -> None:
    file = safetensors.torch.load_file(sound) | {add: torch.zeros(1)}
    safetensors.torch.save_file(file, tmp_path / "sd.safetensors")
    assert kind in refusal(command, tmp_path / "sd.safetensors", tmp_path)


@pytest.mark.parametrize("width, kind", [(1024, "Stable Diffusion 2.x"), (2048, "Stable Diffusion XL")])
def test_another_model_is_told_by_the_width_of_its_text(tmp_path: Path, width: int, kind: str) -> None:
    path = tmp_path / "sd.safetensors"
    name = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    header_of_stable_diffusion(path, {name: [1, width]})
    assert kind in refusal("generate", path, tmp_path)


def test_the_right_names_with_the_wrong_shapes(tmp_path: Path) -> None:
    path = tmp_path / "sd.safetensors"
    header_of_stable_diffusion(path, {})
    for command in COMMANDS:
        assert "has shape (1,), the model needs" in refusal(command, path, tmp_path)


@pytest.mark.parametrize("pipeline", ["StableDiffusion3Pipeline", "FluxPipeline", "x\x1b[2J"])
def test_a_folder_of_another_model(tmp_path: Path, pipeline: str) -> None:
    folder = tmp_path / "theirs"
    (folder / "unet").mkdir(parents=True)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": pipeline}))
    for command in COMMANDS:
        said = refusal(command, folder, tmp_path)
        assert f"is of {printable(pipeline)}, and folders are read of" in said


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("part", PREFIXES)
@pytest.mark.parametrize("command", ["convert", "generate"])
def test_weights_that_are_no_numbers(tmp_path: Path, sound: Path, command: str, part: str, value: float) -> None:
    with safetensors.safe_open(sound, framework="pt") as opened:
        notes = opened.metadata()
    file = safetensors.torch.load_file(sound)
    name = max((name for name in file if name.startswith(PREFIXES[part])), key=lambda name: file[name].numel())
    file[name].view(-1)[file[name].numel() // 2] = value
    safetensors.torch.save_file(file, tmp_path / "sd.safetensors", notes)
    assert "NaN or infinite weights in " in refusal(command, tmp_path / "sd.safetensors", tmp_path)


def test_numbers_too_large_for_half_precision(tmp_path: Path, sound: Path) -> None:
    file = {name: tensor.float() for name, tensor in safetensors.torch.load_file(sound).items()}
    file["model.diffusion_model.out.2.bias"][0] = 1e6
    with safetensors.safe_open(sound, framework="pt") as opened:
        safetensors.torch.save_file(file, tmp_path / "sd.safetensors", opened.metadata())
    out = tmp_path / "half.safetensors"
    done = run("convert", tmp_path / "sd.safetensors", out, "--to", "original", "--dtype", "float16")
    assert "infinite" in sentence(done) and not out.exists()


@pytest.mark.parametrize(
    "note",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"name": 3}',
        json.dumps({"name": "x", "size": 8, "unet": {"mults": "many"}}),
        "[" * 100_000,
    ],
    ids=lambda note: note[:20],
)
def test_notes_that_describe_no_model(tmp_path: Path, sound: Path, note: str) -> None:
    file = safetensors.torch.load_file(sound)
    safetensors.torch.save_file(file, tmp_path / "sd.safetensors", {"ldm_edu.preset": note})
    for command in COMMANDS:
        assert "describes no model" in refusal(command, tmp_path / "sd.safetensors", tmp_path)


@pytest.mark.parametrize(
    "path, value",
    [
        ("unet.blocks", 10**6), ("unet.blocks", 10**12), ("unet.blocks", -1), ("unet.blocks", "many"),
        ("unet.blocks", 1.5), ("unet.depth", [10**6, 10**6]), ("unet.mults", [1, "a"]), ("unet.mults", []),
        ("unet.channels", 0), ("unet.groups", 0), ("unet.heads", 0), ("unet.heads", [2]), ("text.layers", 10**6),
        ("text.layers", None), ("text.heads", 3), ("text.vocab", 3), ("autoencoder.channels", True),
        ("autoencoder.scale", "large"), ("schedule.kind", "wild"), ("schedule.steps", -1), ("prediction", "luck"),
        ("name", 3), ("autoencoder", 7), ("unet", None),
    ],
    ids=str,
)  # fmt: skip
def test_a_config_that_no_model_has(tmp_path: Path, sound: Path, path: str, value: Any) -> None:
    """As the note of a single file, and as the config of a folder of our own."""
    folder = tmp_path / "ours"
    shutil.copytree(sound.parent / "toy", folder)
    config = json.loads((folder / "config.json").read_text())
    *outer, last = path.split(".")
    inner = config[outer[0]] if outer else config
    inner[last] = value
    (folder / "config.json").write_text(json.dumps(config))
    del config["format"]
    file = tmp_path / "sd.safetensors"
    safetensors.torch.save_file(safetensors.torch.load_file(sound), file, {"ldm_edu.preset": json.dumps(config)})
    for place in (folder, file):
        refusal("generate", place, tmp_path)
        refusal("convert", place, tmp_path)


@pytest.mark.parametrize(
    "part, change",
    [
        ("unet", {"layers_per_block": 10**7}), ("unet", {"layers_per_block": "two"}), ("unet", {"in_channels": None}),
        ("unet", {"block_out_channels": [0, 0]}), ("unet", {"norm_num_groups": 0}), ("unet", {"sample_size": "x"}),
        ("unet", {"transformer_layers_per_block": [1]}), ("vae", {"latent_channels": "4"}),
        ("vae", {"scaling_factor": []}),
        ("text_encoder", {"num_hidden_layers": 10**7}), ("text_encoder", {"vocab_size": 1.5}),
        ("scheduler", {"num_train_timesteps": "many"}), ("scheduler", {"beta_start": None}),
    ],
    ids=str,
)  # fmt: skip
def test_a_diffusers_config_that_no_model_has(tmp_path: Path, sound: Path, part: str, change: dict[str, Any]) -> None:
    folder = tmp_path / "theirs"
    assert run("convert", sound.parent / "toy", folder, "--to", "diffusers").returncode == 0
    path = folder / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    if change == {"sample_size": "x"}:  # then the usual size is taken
        assert run("inspect", folder).returncode == 0
    else:
        refusal("generate", folder, tmp_path)
