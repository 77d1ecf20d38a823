"""``ldm-edu generate`` from pictures, in all sizes, and what the PNG then says of itself."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from command import randomized_toy, refused, run
from PIL import Image

from ldm_edu.checksums import fingerprint
from ldm_edu.cli.edits import parse_border, parse_size
from ldm_edu.families import FASHION
from ldm_edu.model import LatentDiffusion
from ldm_edu.pictures import read_metadata

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return randomized_toy(tmp_path_factory.mktemp("checkpoints") / "toy")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a photo of 16 x 16, a mask of its right half, and files that do not fit."""
    values = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "photo.png")
    Image.fromarray(values).resize((300, 200)).save(tmp_path / "large.jpg")
    mask = Image.new("L", (16, 16), 0)
    mask.paste(255, (8, 0, 16, 16))
    mask.save(tmp_path / "mask.png")
    Image.new("L", (16, 16), 0).save(tmp_path / "black.png")
    Image.new("L", (8, 16), 255).save(tmp_path / "other.png")
    (tmp_path / "text.png").write_text("no picture")
    return tmp_path


def drawn(place: Path, toy: Path, *arguments: str) -> np.ndarray:
    """The picture by itself, (H, W, 3)."""
    done = run("generate", "red apple", "--model", toy, "--steps", "4", "--out", "out", *arguments, cwd=place)
    assert done.returncode == 0, done.stderr
    with Image.open(place / "out" / "red-apple-0.png") as picture:
        return np.asarray(picture).astype(int)


def photo(place: Path) -> np.ndarray:
    return np.asarray(Image.open(place / "photo.png")).astype(int)


def test_image_to_image(place: Path, toy: Path) -> None:
    alone = drawn(place, toy)
    half, full = drawn(place, toy, "--init", "photo.png"), drawn(place, toy, "--init", "photo.png", "--strength", "1")
    assert half.shape == (16, 16, 3) and np.abs(half - alone).mean() > 1
    assert np.abs(full - alone).max() <= 1


def test_inpainting_leaves_what_the_mask_leaves(place: Path, toy: Path) -> None:
    painted = drawn(place, toy, "--init", "photo.png", "--mask", "mask.png")
    assert np.array_equal(painted[:, :8], photo(place)[:, :8])
    assert np.abs(painted[:, 8:] - photo(place)[:, 8:]).mean() > 1


def test_outpainting(place: Path, toy: Path) -> None:
    wide = drawn(place, toy, "--init", "photo.png", "--outpaint", "4,0,8,0")
    assert wide.shape == (16, 28, 3) and np.array_equal(wide[:, 4:20], photo(place))
    assert drawn(place, toy, "--init", "photo.png", "--outpaint", "4", "--size", "12x8").shape == (16, 20, 3)


def test_a_photo_of_another_size_is_taken_at_one_that_can_be_drawn(place: Path, toy: Path) -> None:
    done = run("generate", "a", "--model", toy, "--steps", "2", "--init", "large.jpg", "--out", "out", cwd=place)
    assert "large.jpg: 300 x 200, taken at 20 x 12" in done.stderr
    with Image.open(place / "out" / "a-0.png") as picture:
        assert picture.size == (20, 12)
    assert drawn(place, toy, "--init", "large.jpg", "--size", "8x24").shape == (24, 8, 3)


def test_a_film_of_an_edit_has_the_steps_that_were_left(place: Path, toy: Path) -> None:
    drawn(place, toy, "--init", "photo.png", "--strength", "0.5", "--film", "film.gif")
    with Image.open(place / "film.gif") as film:
        assert film.n_frames <= 3  # type: ignore[attr-defined]


def test_sizes_tiles_and_types(place: Path, toy: Path) -> None:
    whole = drawn(place, toy, "--size", "24x16")
    assert whole.shape == (16, 24, 3)
    assert drawn(place, toy, "--size", "24x16", "--tile", "8").shape == (16, 24, 3)
    half = drawn(place, toy, "--size", "24x16", "--dtype", "bfloat16", "--device", "cpu")
    assert 0 < np.abs(half - whole).mean() < 20


def test_pictures_in_a_folder_are_as_they_were_drawn_and_named(place: Path, toy: Path) -> None:
    prompts = ["(Red:1.3) apple, [3D]!", "a", "a", "苹果", "w" * 300]
    run("generate", *prompts, "--model", toy, "--steps", "1", "--count", "2", "--out", "many", cwd=place)
    names = sorted(path.name for path in (place / "many").iterdir())
    wanted = ["a-0-2.png", "a-0.png", "a-1-2.png", "a-1.png", "苹果-0.png", "苹果-1.png"]
    assert names == sorted(
        [*wanted, "red-apple-3d-0.png", "red-apple-3d-1.png", f"{'w' * 40}-0.png", f"{'w' * 40}-1.png"]
    )
    assert all(Image.open(path).size == (16, 16) for path in (place / "many").iterdir())


def in_folder(place: Path, toy: Path, *prompts: str, seed: int = 0) -> list[str]:
    """The names in a folder of pictures, after those of these prompts were drawn into it."""
    how = ["--model", toy, "--steps", "1", "--seed", str(seed), "--out", "many"]
    assert run("generate", *prompts, *how, cwd=place).returncode == 0
    return sorted(path.name for path in (place / "many").iterdir())


def test_names_are_words_in_any_script(place: Path, toy: Path) -> None:
    names = in_folder(place, toy, "яблоко", "(рыба:1.3), синяя", "सेब", "تفاح", "e\u0301te\u0301", "🍎", "../x", "")
    wanted = ["яблоко-0.png", "рыба-синяя-0.png", "सेब-0.png", "تفاح-0.png", "été-0.png"]
    assert names == sorted([*wanted, "picture-0.png", "picture-0-2.png", "x-0.png"])


def test_another_prompts_picture_is_never_written_over(place: Path, toy: Path) -> None:
    long = "w" * 40
    in_folder(place, toy, "🍎", f"{long} red")
    names = in_folder(place, toy, "🐟", f"{long} blue")
    assert names == ["picture-0-2.png", "picture-0.png", f"{long}-0-2.png", f"{long}-0.png"]
    prompts = {read_metadata(path)["prompt"] for path in (place / "many").iterdir()}
    assert prompts == {"🍎", "🐟", f"{long} red", f"{long} blue"}
    assert in_folder(place, toy, "🐟", "🍎", f"{long} blue") == names  # the same again: in the same files
    (place / "many" / "a-0.png").write_text("somebody's own")
    (place / "many" / "b-0.png").mkdir()
    assert {"a-0-2.png", "b-0-2.png"} <= set(in_folder(place, toy, "a", "b"))
    assert (place / "many" / "a-0.png").read_text() == "somebody's own"


def test_a_folder_may_be_called_like_a_file(place: Path, toy: Path) -> None:
    for name in ("v1.5", "foo.png"):
        (place / name).mkdir()
        assert run("generate", "a", "--model", toy, "--steps", "1", "--out", name, cwd=place).returncode == 0
        assert [path.name for path in (place / name).iterdir()] == ["a-0.png"]


def test_what_a_class_model_steers_away_from_is_a_number_too(place: Path) -> None:
    LatentDiffusion.from_preset(FASHION).save(place / "classes")
    how = ["--model", place / "classes", "--steps", "1", "--size", "16"]
    for negative in ("5", ""):
        done = run("generate", "3", *how, "--negative", negative, "--out", f"not{negative}.png", cwd=place)
        assert done.returncode == 0, done.stderr
    assert read_metadata(place / "not5.png")["negative"] == "5"
    assert "'shoes' is not a class" in refused(run("generate", "3", *how, "--negative", "shoes", cwd=place))


def test_a_single_large_picture_is_written_without_a_frame(place: Path, toy: Path) -> None:
    run("generate", "a", "--model", toy, "--steps", "1", "--size", "192x64", "--out", "a.png", cwd=place)
    with Image.open(place / "a.png") as picture:
        assert picture.size == (192, 64)


def test_networks_that_are_told_of_the_picture(place: Path) -> None:
    filler, editor = randomized_toy(place / "filler", 9), randomized_toy(place / "editor", 8)
    painted = drawn(place, filler, "--init", "photo.png", "--mask", "mask.png")
    assert np.array_equal(painted[:, :8], photo(place)[:, :8])
    assert drawn(place, filler).shape == (16, 16, 3)  # without a picture it paints the whole
    weak, strong = (drawn(place, editor, "--init", "photo.png", "--image-guidance", g) for g in ("1", "3"))
    assert np.abs(weak - strong).max() > 1
    about = read_metadata(place / "out" / "red-apple-0.png")
    assert about["strength"] == 1.0 and about["image_guidance"] == 3.0
    assert "--init" in refused(run("generate", "a", "--model", editor, cwd=place))


# --- prompts --------------------------------------------------------------------------------------------------------


def test_long_prompts_and_weights_count(place: Path, toy: Path) -> None:
    prompts = ["a b", "a (b:1.5)", "a b " * 20, "a b " * 20 + "c"]
    run("generate", *prompts, "--model", toy, "--steps", "2", "--out", "out", cwd=place)
    seen = [np.asarray(Image.open(path)).astype(int) for path in (place / "out").iterdir()]
    assert len(seen) == 4
    assert all(np.abs(x - y).max() > 0 for i, x in enumerate(seen) for y in seen[:i])


def test_notation_that_is_not_supported_is_said(place: Path, toy: Path) -> None:
    prompts = ["a cat AND a dog", "[cat:dog:0.5]", "<lora:style:0.8> a cat", "a cat BREAK a dog"]
    options = ("--steps", "1", "--guidance", "1", "--negative", "ugly", "--sampler", "dpmpp_2s_ancestral")
    done = run("generate", *prompts, "--model", toy, "--out", "out", *options, cwd=place)
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("ldm-edu: ")]
    assert len(said) == 5
    for line, words in zip(said, ("AND", "[cat:dog:0.5]", "<lora:style:0.8>", "BREAK", "'ugly'"), strict=True):
        assert words in line


def test_a_picture_does_not_depend_on_how_long_its_neighbours_prompts_are(place: Path, toy: Path) -> None:
    run("generate", "red apple", "b " * 30, "c " * 60, "d", "--model", toy, "--steps", "4", "--out", "many", cwd=place)
    with Image.open(place / "many" / "red-apple-0.png") as picture:
        assert np.abs(np.asarray(picture).astype(int) - drawn(place, toy)).max() <= 1


# --- what the picture says ------------------------------------------------------------------------------------------


def test_a_picture_says_what_it_was_drawn_from(place: Path, toy: Path) -> None:
    options = ["--init", "photo.png", "--mask", "mask.png", "--seed", "0", "--guidance", "3", "--negative", "blue"]
    drawn(place, toy, *options)
    about = read_metadata(place / "out" / "red-apple-0.png")
    wanted = {"prompt": "red apple", "seed": 0, "model": str(toy), "weights": fingerprint(toy), "steps": 4}
    wanted |= {"guidance": 3.0, "negative": "blue", "size": "16x16", "init": "photo.png", "mask": "mask.png"}
    assert wanted.items() <= about.items() and about["strength"] == 1.0
    said = run("inspect", place / "out" / "red-apple-0.png").stdout
    assert "prompt          red apple\nseed            0\n" in said and f"weights         {fingerprint(toy)}" in said


def test_a_sheet_says_it_of_every_picture(place: Path, toy: Path) -> None:
    run("generate", "a", "b", "--model", toy, "--steps", "1", "--count", "2", "--out", "sheet.png", cwd=place)
    about = read_metadata(place / "sheet.png")
    assert about["pictures"] == [{"prompt": p, "seed": s} for p in "ab" for s in (0, 1)]
    assert run("inspect", place / "sheet.png").stdout.count("prompt ") == 4


def test_other_weights_have_another_fingerprint(tmp_path: Path, toy: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in toy.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    assert fingerprint(copy) == fingerprint(toy) and len(fingerprint(toy)) == 10
    (copy / "text.safetensors").write_bytes(b"other")
    assert fingerprint(copy) != fingerprint(toy)
    assert fingerprint(copy / "text.safetensors") == "d9298a10d1"  # printf other | sha256sum


def test_what_training_keeps_beside_the_weights_changes_no_fingerprint(tmp_path: Path, toy: Path) -> None:
    copy = shutil.copytree(toy, tmp_path / "copy")
    for name in ("training/unet/state.safetensors", "cache/latents-00001.safetensors"):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(b"no weights of the model")
    assert fingerprint(copy) == fingerprint(toy)


def test_the_fingerprint_of_a_diffusers_folder_is_that_of_the_files_that_are_loaded(tmp_path: Path, toy: Path) -> None:
    folder = tmp_path / "theirs"
    assert run("convert", toy, folder, "--to", "diffusers").returncode == 0
    (weights,) = (folder / "unet").glob("*.safetensors")
    before = said_of(folder)
    (folder / "safety_checker").mkdir()
    for other in (folder / "safety_checker" / "model.safetensors", weights.with_suffix(".fp16.safetensors")):
        shutil.copy(weights, other)
    assert said_of(folder) == before
    shutil.copy(weights, weights.with_suffix(".non_ema.safetensors"))
    assert said_of(folder, "--weights", "ema") == before != said_of(folder, "--weights", "last")


def said_of(model: Path, *options: str) -> str:
    """The fingerprint in a picture of a model."""
    out = model.parent / "a.png"
    assert run("generate", "a", "--model", model, "--steps", "1", "--out", out, *options).returncode == 0
    return str(read_metadata(out)["weights"])


def test_a_picture_that_says_nothing(place: Path) -> None:
    assert "does not say" in refused(run("inspect", place / "photo.png"))
    assert "cannot be read" in refused(run("inspect", place / "text.png"))
    assert "no picture" in refused(run("inspect", place / "nowhere.png"))


# --- what cannot be -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, words",
    [
        ("--strength 0.5", "give --init"),
        ("--mask mask.png", "give --init"),
        ("--outpaint 8", "give --init"),
        ("--init nowhere.png", "no picture 'nowhere.png'"),
        ("--init text.png", "cannot be read as a picture"),
        ("--init photo.png --mask other.png", "8 x 16 and 'photo.png' 16 x 16"),
        ("--init photo.png --mask black.png", "black everywhere"),
        ("--init photo.png --mask nowhere.png", "nowhere.png"),
        ("--init photo.png --mask mask.png --outpaint 8", "give one of them"),
        ("--init photo.png --strength 0", "strength=0.0"),
        ("--init photo.png --strength -1", "strength=-1.0"),
        ("--init photo.png --strength 1.5", "strength=1.5"),
        ("--init photo.png --strength nan", "strength=nan"),
        ("--init photo.png --outpaint 0", "no border"),
        ("--init photo.png --outpaint 1,2", "no border"),
        ("--init photo.png --outpaint -8", "no border"),
        ("--init photo.png --outpaint 5", "nearest are 24 and 28"),
        ("--init photo.png --size 18", "nearest are 16 and 20"),
        ("--size 18x16", "side of 18 pixels"),
        ("--size large", "'large' is no size"),
        ("--size 16x", "'16x' is no size"),
        ("--size 0", "side of 0 pixels"),
        ("--tile 3", "tile=3 must be a multiple of 2"),
        ("--dtype float16 --device cpu", "bfloat16"),
        ("--device abacus", "abacus"),
        ("--out a.jpg", "should end in .png"),
        ("--image-guidance 2", "give --init"),
        ("--image-guidance 2 --init photo.png", "toy does not: leave it out"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(place: Path, toy: Path, options: str, words: str) -> None:
    before = sorted(place.iterdir())
    said = refused(run("generate", "a", "--model", toy, "--steps", "1", *options.split(), cwd=place))
    assert words in said and len(said.strip().splitlines()) == 1, said
    assert sorted(place.iterdir()) == before


@pytest.mark.parametrize("options", ["--out file/a.png", "--out file", "--film file/a.gif", "--film folder.gif"])
def test_a_place_that_cannot_be_written_is_found_before_anything_is_drawn(
    place: Path, toy: Path, monkeypatch: pytest.MonkeyPatch, options: str
) -> None:
    (place / "file").write_text("in the way")
    (place / "folder.gif").mkdir()
    before = sorted(place.iterdir())
    monkeypatch.setattr(LatentDiffusion, "generate", lambda *_, **__: pytest.fail("drawn for nothing"))
    said = refused(run("generate", "a", "--model", toy, *options.split(), cwd=place))
    assert "cannot be saved" in said and "[Errno" not in said
    assert sorted(place.iterdir()) == before


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: not enough memory: you tried to"),
    ],
    ids=["gpu", "cpu"],
)
def test_too_little_memory_is_said_in_a_sentence(
    place: Path, toy: Path, monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    def full(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(LatentDiffusion, "decode", full)
    assert "not enough memory on cpu" in refused(run("generate", "a", "--model", toy, "--steps", "1", cwd=place))


def test_sizes_and_borders_as_people_write_them() -> None:
    assert [parse_size(text) for text in ("64", "768x512", " 768 X 512 ", "8×16")] == [
        (64, 64),
        (512, 768),
        (512, 768),
        (16, 8),
    ]
    assert parse_border(" 1, 2,3 ,4") == (1, 2, 3, 4)


def test_the_list_says_what_the_emoji_model_knows() -> None:
    from ldm_edu.datasets.vocabulary import vocabulary

    words = vocabulary()
    best, others = words.index("elephant"), words.index("rocket")
    assert best < words.index("less well") < others < words.index("twemoji style") < words.index("an orange background")
    assert run("generate", "--list").stdout.strip() == words
