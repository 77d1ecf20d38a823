"""``ldm-edu inspect`` of files: what they are, their parts, what is missing or unexpected; ``convert`` beside it."""

import json
import re
from pathlib import Path

import pytest
import safetensors.torch
import torch
from command import randomized_toy, refused, run
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from ldm_edu.checkpoint.single_file import averaged_name
from ldm_edu.paths import checkpoints_dir

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return randomized_toy(tmp_path_factory.mktemp("checkpoints") / "toy")


@pytest.fixture(scope="module")
def one(toy: Path) -> Path:
    """The same in one file."""
    path = toy.parent / "one.safetensors"
    assert run("convert", toy, path, "--to", "original").returncode == 0
    return path


def edited(one: Path, path: Path, add: dict[str, Tensor] | None = None, drop: str = " ") -> Path:
    """The file with tensors more and tensors less, its notes kept."""
    with safetensors.safe_open(one, framework="pt") as file:
        notes = file.metadata()
    tensors = {name: tensor for name, tensor in safetensors.torch.load_file(one).items() if drop not in name}
    safetensors.torch.save_file(tensors | (add or {}), path, notes)
    return path


def row(stdout: str, name: str) -> list[str]:
    return next(line for line in stdout.splitlines() if line.startswith(name))[len(name) :].split()


def test_a_whole_file(one: Path, tmp_path: Path) -> None:
    positions = "cond_stage_model.transformer.text_model.embeddings.position_ids"
    spare = {"alphas_cumprod": torch.zeros(3), positions: torch.ones(1)}
    done = run("inspect", edited(one, tmp_path / "a.safetensors", spare))
    assert done.returncode == 0 and "toy, one file, the original layout" in done.stdout
    assert row(done.stdout, "unet") == ["208", "985,444", "bfloat16"]
    assert row(done.stdout, "autoencoder")[1] == "167,959" and row(done.stdout, "text ")[1] == "46,048"
    assert "left out, since drawing does not need it: 2 tensors (alphas_cumprod, cond_stage_model" in done.stdout
    assert done.stdout.endswith("whole: nothing is missing, nothing unexpected\n")


def test_a_folder_of_diffusers_and_types_of_numbers(toy: Path, tmp_path: Path) -> None:
    for dtype in ("float16", "float32", "bfloat16"):
        folder = tmp_path / dtype
        assert run("convert", toy, folder, "--to", "diffusers", "--dtype", dtype).returncode == 0
        done = run("inspect", folder)
        assert done.returncode == 0 and f"{folder}: toy, a diffusers folder" in done.stdout
        assert row(done.stdout, "unet") == ["208", "985,444", dtype]


def test_what_is_missing_and_unexpected_is_named(one: Path, tmp_path: Path) -> None:
    add = {
        "model.diffusion_model.extra.weight": torch.zeros(3), "embedding_manager.x": torch.zeros(1),
        "first_stage_model.quant_conv.weight": torch.zeros(4, 4, 1, 1),
    }  # fmt: skip
    done = run("inspect", edited(one, tmp_path / "a.safetensors", add, drop="model.diffusion_model.out."))
    assert done.returncode == 1
    assert "missing in unet: 4 of 208 tensors (out.0.bias, out.0.weight, out.2.bias, out.2.weight)" in done.stdout
    assert "unexpected in unet: 1 of 208 tensors (extra.weight)" in done.stdout
    assert "left out, outside every network: 1 tensors (embedding_manager.x)" in done.stdout
    assert "quant.weight has shape (4, 4, 1, 1), the model needs (8, 8, 1, 1)" in done.stdout
    assert done.stdout.endswith("cannot be loaded as it is\n")
    assert "4 of 208 tensors missing" in refused(run("generate", "a", "--model", tmp_path / "a.safetensors"))


def test_two_copies_of_the_unet(one: Path, tmp_path: Path) -> None:
    prefix = "model.diffusion_model."
    unet = {n: t for n, t in safetensors.torch.load_file(one).items() if n.startswith(prefix)}
    averaged = {f"model_ema.{averaged_name(n.removeprefix(prefix))}": t * 2 for n, t in unet.items()}
    path = edited(one, tmp_path / "both.safetensors", averaged | {"model_ema.decay": torch.ones(1)})
    done = run("inspect", path)
    assert done.returncode == 0 and "say --weights ema to draw" in done.stdout
    assert row(done.stdout, "unet (last)") == row(done.stdout, "unet (ema)") == ["208", "985,444", "bfloat16"]
    chosen = run("inspect", path, "--weights", "ema").stdout  # the other copy is left out
    assert "drawing does not need it: 209 tensors" in chosen and row(chosen, "unet") == ["208", "985,444", "bfloat16"]
    assert "holds the U-Net twice" in refused(run("convert", path, tmp_path / "out", "--to", "ldm-edu"))
    assert "holds the U-Net twice" in refused(run("generate", "a", "--model", path))
    pictures = []
    for weights, factor in {"ema": 2, "last": 1}.items():
        drawn = tmp_path / f"{weights}.png"
        draw = ["--model", path, "--steps", "1", "--out", drawn]
        assert run("generate", "a", *draw, "--weights", weights).returncode == 0
        pictures.append(drawn.read_bytes())
        out = tmp_path / weights
        assert run("convert", path, out, "--to", "ldm-edu", "--weights", weights).returncode == 0
        bias = safetensors.torch.load_file(out / "unet.safetensors")["conv_out.bias"]
        assert torch.equal(bias, unet[prefix + "out.2.bias"] * factor)
        assert f"copy            {weights}" in run("inspect", drawn).stdout
    assert pictures[0] != pictures[1]


UNET = "model.diffusion_model"
OTHERS = {
    "Stable Diffusion XL": {"conditioner.embedders.1.model.x": (1,), f"{UNET}.label_emb.0.0.weight": (1,)},
    "Stable Diffusion 2.x": {"cond_stage_model.model.transformer.x": (1,), f"{UNET}.out.0.bias": (1,)},
    "text states of width 99": {f"{UNET}.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (8, 99)},
    "Stable Diffusion 3": {f"{UNET}.joint_blocks.0.x": (1,)},
    "a LoRA": {"lora_unet_down_blocks_0.alpha": (1,)},
    "a ControlNet": {"control_model.input_blocks.0.0.weight": (1,)},
    "a single network, diffusers' U-Net": {"down_blocks.0.resnets.0.time_emb_proj.weight": (1,)},
    "a layout that is not known": {"layer.weight": (1,)},
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_models_are_called_by_their_name(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    safetensors.torch.save_file({name: torch.zeros(shape) for name, shape in OTHERS[kind].items()}, path)
    done = run("inspect", path)
    first = next(iter(OTHERS[kind])).split(".")[0]
    assert done.returncode == 1 and kind in done.stdout and re.search(rf"^{first} +\d", done.stdout, re.M)
    assert kind in refused(run("generate", "a", "--model", path))


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    assert "neither a preset" in refused(run("inspect", "tot"))
    assert "there is no checkpoint" in refused(run("inspect", "nowhere/at/all"))
    assert "holds no checkpoint" in refused(run("inspect", tmp_path))
    (tmp_path / "model_index.json").write_text("{}")
    assert "download the model again" in refused(run("inspect", tmp_path))


def test_a_network_that_reads_more_than_it_diffuses() -> None:
    for name, more in {"sd15_inpaint": "mask", "sd15_pix2pix": "picture"}.items():
        said = run("inspect", name).stdout
        assert f"diffuses  latents 4 x 64 x 64, and reads a {more} besides\n" in said
    assert "diffuses  latents 4 x 64 x 64\n" in run("inspect", "sd15").stdout


def test_a_model_whose_unet_is_not_trained_yet(tmp_path: Path, toy: Path) -> None:
    for path in toy.iterdir():
        if not path.name.startswith("unet"):
            (tmp_path / path.name).write_bytes(path.read_bytes())
    for arguments in (["inspect", tmp_path], ["generate", "a", "--model", tmp_path]):
        said = run(*arguments)
        assert said.returncode == 2 and "Traceback" not in said.stderr
        assert f"not trained yet: ldm-edu train unet --preset toy --out {tmp_path}" in said.stderr
    for name in ("autoencoder", "text"):
        (tmp_path / f"{name}.safetensors").unlink()
    assert "copy the checkpoint again" in run("inspect", tmp_path).stderr  # a config alone is no folder of ours


def test_a_classifier_is_called_one() -> None:
    for name in ("judge", checkpoints_dir() / "judge"):
        done = run("inspect", name)
        assert done.returncode == 0
        assert f"{checkpoints_dir() / 'judge'}: a classifier of 1,386 concepts and 6 styles" in done.stdout
        assert "2,392,464 parameters" in done.stdout
    said = refused(run("generate", "a", "--model", checkpoints_dir() / "judge"))
    assert "describes a 'classifier', which draws nothing" in said


# --- what a picture of somebody else's says -------------------------------------------------------------------------


def picture_that_says(path: Path, text: str) -> Path:
    notes = PngInfo()
    notes.add_itxt("ldm-edu", text)
    Image.new("RGB", (8, 8)).save(path, pnginfo=notes)
    return path


@pytest.mark.parametrize(
    "text", ['{"pictures":[1]}', '{"pictures":{"a":1}}', '"abc"', "null", "[]", "[[1,2]]", "7", "{", "[" * 100_000]
)
def test_a_picture_whose_notes_nobody_could_have_meant(tmp_path: Path, text: str) -> None:
    said = refused(run("inspect", picture_that_says(tmp_path / "a.png", text)))
    assert "says of how it was drawn" in said and len(said.splitlines()) == 1


def test_a_picture_whose_notes_a_terminal_would_obey(tmp_path: Path) -> None:
    evil = "\x1b]0;title\x07red\nmodel           forged\r\u202e"
    about = {"prompt": evil, "seed": 1, evil: evil, "pictures": [{evil: evil}, {"prompt": "苹果 é"}]}
    done = run("inspect", picture_that_says(tmp_path / "a.png", json.dumps(about)))
    assert done.returncode == 0
    assert all(line.isprintable() for line in done.stdout.splitlines()) and "\r" not in done.stdout
    assert "\nmodel " not in done.stdout and "prompt          苹果 é\n" in done.stdout


@pytest.mark.parametrize("out, to", [("out", "original"), ("out.safetensors", "diffusers"), ("out.ckpt", "original")])
def test_an_output_that_does_not_fit_the_layout(toy: Path, tmp_path: Path, out: str, to: str) -> None:
    assert "NAME.safetensors" in refused(run("convert", toy, tmp_path / out, "--to", to))
    assert list(tmp_path.iterdir()) == []
