"""The command line, run as a person runs it: on a small model in a folder, with good and with bad arguments."""

import json
import re
import subprocess
import sys
import typing
from pathlib import Path

import numpy as np
import pytest
from command import randomized_toy, refused, run
from PIL import Image, ImageSequence

from ldm_edu import SAMPLERS
from ldm_edu.config import SamplerName, Spacing
from ldm_edu.config import Spacing as LibrarySpacing
from ldm_edu.families import TOY
from ldm_edu.training import plan as training_plan


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return randomized_toy(tmp_path_factory.mktemp("checkpoints") / "toy")


def test_choices_are_those_of_the_library() -> None:
    assert set(typing.get_args(SamplerName)) == set(SAMPLERS)
    assert set(typing.get_args(Spacing)) == set(typing.get_args(LibrarySpacing))


def test_help_names_every_command() -> None:
    done = subprocess.run([sys.executable, "-m", "ldm_edu", "--help"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    for command in ("generate", "train", "evaluate", "inspect", "convert", "verify", "data", "bench"):
        assert re.search(rf"^  {command} ", done.stdout, re.M), command


def test_version() -> None:
    assert re.fullmatch(r"ldm-edu \d+\.\d+\.\d+\n", run("--version").stdout)


@pytest.mark.parametrize(
    "arguments",
    [("nonsense",), ("generate",), ("generate", "a", "--sampler", "magic"), ("generate", "a", "--steps", "many")],
    ids=" ".join,
)
def test_wrong_usage_is_explained(arguments: tuple[str, ...]) -> None:
    assert "Usage:" in refused(run(*arguments))


def test_generate_writes_a_sheet_and_a_film(tmp_path: Path, toy: Path) -> None:
    prompts = ["red apple, 3d style", "a blue fish, flat style"]
    options = ["--model", toy, "--steps", "3", "--seed", "7", "--out", "a/sheet.png", "--film", "a/film.gif"]
    done = run("generate", *prompts, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["film.gif", "sheet.png"]
    with Image.open(tmp_path / "a" / "sheet.png") as sheet, Image.open(tmp_path / "a" / "film.gif") as film:
        assert sheet.width > 2 * 192
        assert film.size == sheet.size
        assert 2 <= len(list(ImageSequence.Iterator(film))) <= 4  # three estimates and the picture; equal ones merge


def pictures(sheet: Path, count: int) -> list[np.ndarray]:
    """The pictures of a sheet of one row, without their captions."""
    with Image.open(sheet) as page:
        values = np.asarray(page.convert("RGB"))
    return [values[8:200, 8 + i * 200 : 200 + i * 200] for i in range(count)]


def test_a_picture_depends_on_its_prompt_and_seed_alone(tmp_path: Path, toy: Path) -> None:
    common = ["--model", toy, "--steps", "2"]
    run("generate", "a", "b", *common, "--seed", "3", "--count", "2", "--out", tmp_path / "four.png")
    run("generate", "b", *common, "--seed", "4", "--out", tmp_path / "one.png")
    four, (one,) = pictures(tmp_path / "four.png", 4), pictures(tmp_path / "one.png", 1)
    assert np.abs(four[3].astype(int) - one).max() <= 1  # "b" with seed 4; a batch rounds differently
    assert np.abs(four[2].astype(int) - one).max() > 1  # "b" with seed 3


def test_samplers_and_settings_change_the_picture(tmp_path: Path, toy: Path) -> None:
    variants = [[], ["--sampler", "ddpm"], ["--guidance", "1"], ["--negative", "b"], ["--spacing", "leading"]]
    seen = []
    for i, variant in enumerate(variants):
        done = run("generate", "a", "--model", toy, "--steps", "3", *variant, "--out", tmp_path / f"{i}.png")
        assert done.returncode == 0, done.stderr
        seen.append((tmp_path / f"{i}.png").read_bytes())
    assert len(set(seen)) == len(variants)


def test_size_in_pixels(tmp_path: Path, toy: Path) -> None:
    run("generate", "", "--model", toy, "--steps", "1", "--size", "96", "--out", tmp_path / "big.png")
    with Image.open(tmp_path / "big.png") as sheet:
        assert sheet.width == 8 + 192 + 8
    assert "multiples of 4" in refused(run("generate", "a", "--model", toy, "--size", "18"))


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--steps", "0"], "0"),
        (["--steps", "1001"], "1001"),
        (["--guidance", "nan"], "nan"),
        (["--guidance", "inf"], "inf"),
        (["--out", "sheet.txt"], ".png"),
        (["--film", "film.mp4"], ".gif"),
        (["--seed", "-1"], "--seed"),
        (["--seed", "9" * 23], "'--seed'"),
        (["--seed", str(2**32)], "'--seed'"),
        (["--count", "0"], "--count"),
        (["--model", "nowhere"], "nowhere"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_is_refused_in_a_sentence(tmp_path: Path, toy: Path, options: list[str], word: str) -> None:
    model = [] if "--model" in options else ["--model", str(toy)]
    assert word in refused(run("generate", "a", *model, *options, cwd=tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_long_prompt_is_drawn_with_a_warning(tmp_path: Path, toy: Path) -> None:
    long = "red apple " * 2000 + "the end"
    done = run("generate", long, "🍎 苹果 \u202e", "", "--model", toy, "--steps", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("is not read") == 1
    assert len(done.stderr) < 500
    assert (tmp_path / "sheet.png").is_file()


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path, toy: Path) -> None:
    (tmp_path / "file").write_text("")
    message = refused(run("generate", "a", "--model", toy, "--steps", "1", "--out", tmp_path / "file" / "sheet.png"))
    assert message.startswith("ldm-edu: ") and "sheet.png cannot be saved" in message


def test_a_damaged_checkpoint_is_refused(tmp_path: Path, toy: Path) -> None:
    copy = tmp_path / "damaged"
    copy.mkdir()
    for path in toy.iterdir():
        (copy / path.name).write_bytes(path.read_bytes()[:-100] if path.name.startswith("unet") else path.read_bytes())
    assert "unet" in refused(run("generate", "a", "--model", copy))


def test_inspect_prints_stable_diffusion_part_by_part() -> None:
    lines = run("inspect", "sd15").stdout.partition("\n\n")[2].splitlines()
    table = dict(line.rsplit(maxsplit=1) for line in lines)
    assert table["U-Net"] == "859,520,964"
    assert (table["  conv_in"], table["  time"], table["  mid"]) == ("11,840", "2,050,560", "97,038,080")
    assert (table["autoencoder"], table["text encoder"]) == ("83,653,863", "123,060,480")
    assert table["total"] == f"{859_520_964 + 83_653_863 + 123_060_480:,}"
    assert len({len(line) for line in lines}) == 1, "the numbers do not line up"


def test_inspect_reads_a_folder(toy: Path) -> None:
    done = run("inspect", toy)
    assert done.returncode == 0 and done.stdout.startswith(run("inspect", "toy").stdout)
    assert f"{toy}: toy, a folder of ldm-edu" in done.stdout and "whole: nothing is missing" in done.stdout
    assert re.search(r"^unet +\d+ +985,444  bfloat16$", done.stdout, re.M)
    assert "toy" in refused(run("inspect", "tot"))


def test_data_finds_a_changed_file_and_a_missing_folder(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.bin").write_bytes(b"a")
    assert "--record" in refused(run("data", LDM_EDU_DATA=str(tmp_path)))
    assert run("data", "--record", LDM_EDU_DATA=str(tmp_path)).returncode == 0
    assert "all 1 files" in run("data", LDM_EDU_DATA=str(tmp_path)).stdout
    (tmp_path / "set" / "a.bin").write_bytes(b"b")
    done = run("data", LDM_EDU_DATA=str(tmp_path))
    assert done.returncode == 1
    assert "set/a.bin is changed" in done.stderr
    assert "LDM_EDU_DATA" in refused(run("data", LDM_EDU_DATA=str(tmp_path / "nowhere")))


def test_evaluate_refuses_a_model_without_test_splits(toy: Path) -> None:
    assert "toy" in refused(run("evaluate", toy))


def test_evaluate_refuses_what_it_would_not_use_or_could_not_write(tmp_path: Path) -> None:
    for option, value in {"--judge": "nowhere", "--sheet": str(tmp_path / "s.png")}.items():
        quick = ["--count", "1", "--steps", "1"]
        assert f"{option} is for emoji models" in refused(run("evaluate", "shapes", *quick, option, value))
    assert "should end in .png" in refused(run("evaluate", "nowhere", "--sheet", tmp_path / "s.txt"))
    (tmp_path / "file").write_text("in the way")
    for option, name in {"--sheet": "s.png", "--out": "a.json"}.items():
        assert "cannot be saved" in refused(run("evaluate", "nowhere", option, tmp_path / "file" / name))
    assert "'--seed'" in refused(run("evaluate", "nowhere", "--seed", str(2**32)))


def test_plan_refuses_to_train_on_nothing() -> None:
    for gpus in ("0", "-4"):
        assert "--gpus" in refused(run("plan", "--preset", "toy", "--gpus", gpus))
    for call in (
        lambda: training_plan.step(TOY, 16, 8, 0, "ddp", training_plan.Machine(), utilisation=0.5),
        lambda: training_plan.exchange(TOY, 0, "ddp", training_plan.Machine()),
        lambda: training_plan.failures(TOY, -4, training_plan.Machine()),
    ):
        with pytest.raises(ValueError, match=r"gpus=(0|-4) trains nothing"):
            call()


def test_progress_and_grade_of_a_place_that_is_not_there(tmp_path: Path) -> None:
    for command in ("progress", "grade"):
        assert f"no notebook at {tmp_path}" in refused(run(command, tmp_path / "nowhere" / "x"))
    assert run("progress", tmp_path).returncode == 0
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "01.ipynb").write_text("{}")
    for option in ("--json", "--gradescope"):
        assert "cannot be saved" in refused(run("grade", tmp_path, option, tmp_path / "file" / "a.json"))


@pytest.mark.slow
def test_bench_prints_a_table_and_writes_its_numbers(tmp_path: Path, toy: Path) -> None:
    done = run("bench", "train-step", "--preset", "toy", "--batch", "2", "--rounds", "1", "--out", tmp_path / "a.json")
    assert done.returncode == 0, done.stderr
    assert "| diffusers" in done.stdout
    written = json.loads((tmp_path / "a.json").read_text())
    assert written["settings"] == {"preset": "toy", "batch": 2, "rounds": 1}
    assert written["command"].startswith("ldm-edu bench train-step --preset toy")
    done = run("bench", "generate", "--model", toy, "--steps", "1", "--rounds", "1")
    assert done.returncode == 0, done.stderr
    assert "from process start" in done.stdout
