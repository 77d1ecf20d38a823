"""What a training may write where: no other model is replaced, no other run is gone on with, no two write at once."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from ldm_edu.checkpoint.io import load_tensors, save_tensors
from ldm_edu.classifiers import save_classifier
from ldm_edu.config import ClassifierConfig
from ldm_edu.families import SHAPES, TOY
from ldm_edu.model import LatentDiffusion
from ldm_edu.models.classifier import Classifier
from ldm_edu.training.guard import origin, same_settings, writing


def train(*words: str | Path) -> str:
    """What ``ldm-edu train`` refused, or nothing where it went well."""
    from typer.testing import CliRunner

    from ldm_edu.cli import app

    result = CliRunner().invoke(app, ["train", *map(str, words), "--sheet-every", "0"])
    assert result.exit_code in (0, 1), result.output
    assert result.exception is None or isinstance(result.exception, ValueError), result.exception
    return str(result.exception or "")


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    LatentDiffusion.from_preset(SHAPES).save(folder)
    return folder


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A finished toy model, of which no run is kept."""
    LatentDiffusion.from_preset(TOY).save(tmp_path / "toy")
    return tmp_path / "toy"


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    model = Classifier(ClassifierConfig(concepts=2, styles=1, channels=8, mults=(1, 1)))
    save_classifier(tmp_path / "judge", model, ["apple", "pear"], ["flat"])
    return tmp_path / "judge"


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("vae --preset toy", "made for the preset shapes, not toy"),
        ("decoder --preset toy", "made for the preset shapes, not toy"),
        ("clip --preset toy", "made for the preset shapes, not toy"),
        ("unet --preset toy", "made for the preset shapes, not toy"),
        ("unet --preset toy --data pictures --parts toy", "made for the preset shapes, not toy"),
        ("unet --preset fashion", "made for the preset shapes, not fashion"),
        ("classifier --preset perceptual", "holds a model (shapes), not a classifier; give another --out"),
        ("vae --preset shapes", "was trained on the autoencoder that is there; give another --out"),
    ],
)
def test_another_model_is_not_replaced(shapes: Path, command: str, reason: str) -> None:
    before = contents(shapes)
    assert reason in train(*command.split(), "--steps", "2", "--out", shapes)
    assert contents(shapes) == before


def test_a_text_encoder_is_not_replaced_under_its_unet(toy: Path) -> None:
    assert "was trained on the text encoder that is there" in train("clip", "--preset", "toy", "--out", toy)


def test_a_classifier_is_replaced_by_none_but_its_like(classifier: Path, tmp_path: Path) -> None:
    before = contents(classifier)
    for command in ("vae --preset toy", "unet --preset fashion", "unet --preset toy --data . --parts toy"):
        assert "holds a classifier, not a model of the preset" in train(*command.split(), "--out", classifier)
    assert "classifier of another size" in train("classifier", "--preset", "judge", "--out", classifier)
    assert contents(classifier) == before
    (classifier / "config.json").write_text("{")
    assert "config.json cannot be read" in train("classifier", "--preset", "judge", "--out", classifier)


@pytest.mark.slow
def test_a_finished_model_is_trained_again_by_the_same_commands(tmp_path: Path) -> None:
    networks = ("vae", "decoder", "clip", "unet")  # the order of `make weights`
    commands = [[network, "--preset", "toy", "--steps", "2", "--out", tmp_path] for network in networks]
    for command in [*commands, *commands]:  # the second time each goes on from its own state, at its end
        assert train(*command) == ""
    (tmp_path / "training" / "vae" / "state.safetensors").unlink()
    assert "the U-Net in" in train(*commands[0])


def toy_vae(out: Path, *words: str) -> str:
    return train("vae", "--preset", "toy", "--out", out, "--batch", "2", *words)


@pytest.mark.slow
def test_a_run_is_resumed_with_its_settings_only(tmp_path: Path) -> None:
    assert toy_vae(tmp_path, "--steps", "2") == ""
    wanted = "lr was 0.001, not 0.5; seed was 1, not 9. Give the same to resume it, or another --out"
    assert wanted in toy_vae(tmp_path, "--steps", "3", "--lr", "0.5", "--seed", "9")
    assert "batch was 2, not 4" in train("vae", "--preset", "toy", "--out", tmp_path, "--batch", "4")
    assert toy_vae(tmp_path, "--steps", "3") == ""  # more of it


def test_a_run_of_an_older_version_is_taken_as_it_is(tmp_path: Path) -> None:
    assert toy_vae(tmp_path, "--steps", "1") == ""
    path = tmp_path / "training" / "vae" / "run.json"
    told = json.loads(path.read_text())
    path.unlink()
    assert toy_vae(tmp_path, "--steps", "1") == ""
    assert json.loads(path.read_text()) == told
    path.write_text(json.dumps({name: value for name, value in told.items() if name != "preset"}))
    assert toy_vae(tmp_path, "--steps", "1") == ""
    assert json.loads(path.read_text()) == told
    path.write_text("[]")
    assert "run.json cannot be read (it holds []); remove it" in toy_vae(tmp_path, "--steps", "1")


def test_fewer_steps_than_were_done_are_refused_and_as_many_are_not(tmp_path: Path) -> None:
    assert toy_vae(tmp_path, "--steps", "3") == ""
    before = contents(tmp_path)
    assert "has done 3 steps already; give --steps above 3, or another --out" in toy_vae(tmp_path, "--steps", "2")
    exported = tmp_path / "autoencoder.safetensors"
    exported.unlink()
    assert toy_vae(tmp_path, "--steps", "3") == ""
    assert contents(tmp_path)[str(exported)] == before[str(exported)]


@pytest.mark.slow
def test_a_run_that_began_with_other_weights_is_not_started_from_these(toy: Path, tmp_path: Path) -> None:
    LatentDiffusion.from_preset(TOY, seed=1).save(tmp_path / "one")
    LatentDiffusion.from_preset(TOY, seed=2).save(tmp_path / "two")
    unet = ["unet", "--preset", "toy", "--out", toy, "--batch", "2", "--lr", "1e-4", "--seed", "5", "--steps", "1"]
    assert train(*unet, "--start", tmp_path / "one") == ""
    assert train(*unet, "--start", tmp_path / "one") == ""
    assert "start was weights" in train(*unet, "--start", tmp_path / "two")
    refused = train(*unet)
    assert "start was weights" in refused and "not random weights" in refused
    (toy / "training" / "unet" / "state.safetensors").unlink()
    assert train(*unet, "--start", toy) == ""
    assert train(*unet, "--start", toy) == ""  # though the weights there are others now


def test_the_origin_of_a_unet_depends_on_its_weights(tmp_path: Path) -> None:
    a, b = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    assert origin(None, tmp_path, a) == "random weights"
    assert origin(tmp_path / "x", tmp_path, a) == origin(tmp_path / "y", tmp_path, a) != origin("x", tmp_path, b)


def test_settings_that_are_tuples_come_back_the_same(tmp_path: Path) -> None:
    from ldm_edu.training.guard import settings
    from ldm_edu.training.recipes import CLASSIFIERS

    told = settings(CLASSIFIERS["judge"])
    (tmp_path / "state.safetensors").touch()
    same_settings(tmp_path, told)
    same_settings(tmp_path, told)
    assert "steps" not in told


@pytest.mark.skipif(sys.platform == "win32", reason="files are not locked there")
def test_two_trainings_do_not_write_to_one_folder(toy: Path, tmp_path: Path) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("nothing")
    vae, unet = tmp_path / "out" / "training" / "vae", toy / "training" / "unet"
    with writing(vae), writing(unet):
        assert f"another training is writing to {vae}; wait for it, or give another --out" in toy_vae(tmp_path / "out")
        own = ["unet", "--preset", "toy", "--data", tmp_path, "--out", toy]
        assert f"another training is writing to {unet}" in train(*own, "--steps", "1", "--batch", "2")
        assert {path.name for path in (tmp_path / "out").rglob("*")} == {"training", "vae", ".lock"}
    assert toy_vae(tmp_path / "out", "--steps", "1") == ""


KEEPS = """
import sys, time
from pathlib import Path
from ldm_edu.training.guard import writing
with writing(Path(sys.argv[1])):
    print("writing", flush=True)
    time.sleep(60)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="files are not locked there")
def test_a_killed_training_keeps_nobody_out(tmp_path: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", KEEPS, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None and other.stdout.readline()
    with pytest.raises(ValueError, match="another training is writing"), writing(tmp_path):
        pass
    os.kill(other.pid, signal.SIGKILL)
    other.wait()
    other.stdout.close()
    with writing(tmp_path):
        pass


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["unet", "--size", "32"], "--size needs --data"),
        (["unet", "--micro", "1"], "--micro needs --data"),
        (["vae", "--parts", "emoji"], "--parts needs --data"),
        (["unet", "--cache", "there"], "--cache needs --data"),
        (["unet", "--parallel", "fsdp"], "--parallel needs --data"),
        (["clip", "--precision", "bf16"], "--precision needs --data"),
        (["unet", "--recompute"], "--recompute needs --data"),
        (["unet", "--wandb"], "--wandb needs --data"),
        (["unet", "--perceptual", "judge"], "--perceptual is for vae and decoder, not for unet; leave it out"),
        (["clip", "--perceptual", "judge"], "--perceptual is for vae and decoder, not for clip"),
        (["unet", "--data", ".", "--perceptual", "judge"], "--perceptual is for vae and decoder"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(tmp_path: Path, words: list[str], reason: str) -> None:
    assert reason in train(*words, "--preset", "toy", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def other_weights(out: Path, part: str) -> None:
    """Replace a part by one with other weights."""
    LatentDiffusion.from_preset(TOY, seed=7).save(out.parent / "seven")
    shutil.copy(out.parent / "seven" / f"{part}.safetensors", out)


@pytest.mark.slow
def test_an_unfinished_unet_goes_on_over_the_same_parts_only(toy: Path, tmp_path: Path) -> None:
    unet = ["unet", "--preset", "toy", "--out", toy, "--batch", "2", "--steps"]
    assert train(*unet, "1") == ""
    kept = {part: (toy / f"{part}.safetensors").read_bytes() for part in ("autoencoder", "text")}
    for part, named in (("autoencoder", "latent encoder was"), ("text", "text encoder was")):
        other_weights(toy, part)
        assert named in train(*unet, "2")
        (toy / f"{part}.safetensors").write_bytes(kept[part])
    weights = load_tensors(toy, "autoencoder")
    save_tensors(toy, "autoencoder", {k: v + 1 if k.startswith("decoder") else v for k, v in weights.items()})
    assert train(*unet, "2") == ""  # no latent depends on the decoder


@pytest.mark.slow
def test_an_unfinished_decoder_goes_on_over_the_same_encoder_only(toy: Path) -> None:
    decoder = ["decoder", "--preset", "toy", "--out", toy, "--batch", "2", "--steps"]
    assert train(*decoder, "1") == "" and train(*decoder, "2") == ""
    other_weights(toy, "autoencoder")
    assert "latent encoder was" in train(*decoder, "3")


@pytest.mark.slow
def test_a_copied_data_folder_is_the_same_data(toy: Path, tmp_path: Path) -> None:
    data, copy = tmp_path / "data", tmp_path / "copy"
    data.mkdir()
    for i in range(3):
        Image.new("RGB", (20, 20), (40 * i, 0, 0)).save(data / f"{i}.png")
        (data / f"{i}.txt").write_text(f"number {i}")
    own = ["unet", "--preset", "toy", "--parts", toy, "--out", tmp_path / "out", "--batch", "2"]
    assert train(*own, "--data", data, "--steps", "1") == ""
    shutil.copytree(data, copy, copy_function=shutil.copyfile)  # with other times of change
    for path in copy.iterdir():
        os.utime(path, (1, 1))
    assert train(*own, "--data", copy, "--steps", "2") == ""
    shutil.rmtree(tmp_path / "out" / "cache")
    assert train(*own, "--data", copy, "--steps", "3") == ""
    Image.new("RGB", (20, 20), (41, 0, 0)).save(copy / "1.png")
    assert "other contents of the pictures" in train(*own, "--data", copy, "--steps", "3")


def test_a_run_of_an_older_version_goes_on_with_a_word(tmp_path: Path) -> None:
    said: list[str] = []
    same_settings(tmp_path, {"lr": 1.0}, tell=said.append)
    (tmp_path / "state.safetensors").touch()
    same_settings(tmp_path, {"lr": 1.0}, tell=said.append)
    assert said == []
    same_settings(tmp_path, {"lr": 1.0, "text encoder": "a"}, tell=said.append)
    assert [sentence.removeprefix(str(tmp_path)) for sentence in said] == [
        " was begun by an older version, which did not note text encoder; taken as it is now"
    ]
    same_settings(tmp_path, {"lr": 1.0, "text encoder": "a"}, tell=said.append)
    assert len(said) == 1
