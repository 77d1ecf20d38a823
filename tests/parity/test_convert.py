"""``ldm-edu convert``: bit for bit there and back, and what it writes is what diffusers reads."""

import dataclasses
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from ldm_edu import LatentDiffusion, ddim, initial_noise, levels
from ldm_edu.checkpoint.open import open_checkpoint
from ldm_edu.config import Preset, UNetConfig
from ldm_edu.convert import convert_checkpoint
from ldm_edu.families import TOY
from ldm_edu.files import SaveError
from ldm_edu.guidance import cfg
from ldm_edu.layouts.pair import Format
from ldm_edu.weights.errors import CheckpointError

diffusers = pytest.importorskip("diffusers")
pytestmark = [pytest.mark.slow, pytest.mark.parity]

EPS = dataclasses.replace(TOY, prediction="eps")


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model, every weight of it random, in full precision."""
    folder = tmp_path_factory.mktemp("convert") / "toy"
    model, rng = LatentDiffusion.from_preset(EPS), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in model.networks.values():
            for weight in module.parameters():
                weight.add_(0.1 * torch.randn(weight.shape, generator=rng))
    model.save(folder, dtype=torch.float32)
    return folder


def convert(source: Path, out: Path, to: Format, dtype: torch.dtype | None = None) -> Path:
    convert_checkpoint(open_checkpoint(source), out, to, dtype=dtype)
    return out


def tensors(path: Path) -> dict[str, Tensor]:
    """All numbers of a checkpoint, whatever its layout, by file and name."""
    files = [path] if path.is_file() else sorted(path.rglob("*.safetensors"))
    found = {}
    for file in files:
        where = "" if path.is_file() else str(file.relative_to(path))
        found |= {f"{where}:{name}": tensor for name, tensor in safetensors.torch.load_file(file).items()}
    return found


def same(a: Path, b: Path) -> bool:
    left, right = tensors(a), tensors(b)
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype and torch.equal(left[name], right[name]) for name in left
    )


def test_round_trips_are_bitwise_equal(tmp_path: Path, toy: Path) -> None:
    one = convert(toy, tmp_path / "one.safetensors", "original")
    folder = convert(one, tmp_path / "folder", "diffusers")
    again = convert(folder, tmp_path / "again.safetensors", "original")
    ours = convert(again, tmp_path / "ours", "ldm-edu")
    folder_again = convert(ours, tmp_path / "folder2", "diffusers")
    assert same(one, again) and same(folder, folder_again) and same(toy, ours)
    assert [open_checkpoint(path).preset for path in (one, folder, again, ours)] == [EPS] * 4
    model = LatentDiffusion.from_pretrained(toy)
    for path in (one, folder, again, ours):
        other = LatentDiffusion.from_pretrained(path)
        for name, module in model.networks.items():
            state = other.networks[name].state_dict()
            assert all(torch.equal(tensor, state[key]) for key, tensor in module.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_goes_round_too(tmp_path: Path, toy: Path, dtype: torch.dtype) -> None:
    half = convert(toy, tmp_path / "half.safetensors", "original", dtype)
    full = tensors(convert(toy, tmp_path / "full.safetensors", "original"))
    assert all(torch.equal(tensor, full[name].to(dtype)) for name, tensor in tensors(half).items())
    folder = convert(half, tmp_path / "folder", "diffusers")
    assert same(half, convert(folder, tmp_path / "again.safetensors", "original"))


@pytest.mark.slow
def test_both_layouts_are_read_by_diffusers(tmp_path: Path, toy: Path) -> None:
    """Its own conversion of the single file gives the folder's numbers; its pipeline draws what ours draws."""
    one, folder = convert(toy, tmp_path / "one.safetensors", "original"), convert(toy, tmp_path / "folder", "diffusers")
    quiet = {"local_files_only": True, "safety_checker": None}
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(folder, **quiet)
    single = diffusers.StableDiffusionPipeline.from_single_file(str(one), config=str(folder), **quiet)
    for part in ("unet", "vae", "text_encoder"):
        a, b = getattr(theirs, part).state_dict(), getattr(single, part).state_dict()
        assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)

    model = LatentDiffusion.from_pretrained(folder)
    assert model.tokenizer is not None
    prompt = "a red apple, 3d style!"
    ids = theirs.tokenizer(prompt, padding="max_length", max_length=16, truncation=True, return_tensors="pt").input_ids
    assert torch.equal(ids, model.tokenizer([prompt]))

    noise = initial_noise([3], model.latent_shape())
    theirs.scheduler = diffusers.DDIMScheduler.from_config(theirs.scheduler.config, set_alpha_to_one=False)
    theirs.set_progress_bar_config(disable=True)
    wanted = theirs(
        prompt, num_inference_steps=3, guidance_scale=7.5, latents=noise, height=16, width=16, output_type="latent"
    ).images
    run = levels(model.schedule, 3, "leading", "first")
    guided = cfg(model.denoiser(model.condition([prompt])), model.denoiser(model.condition([""])), 7.5)
    *_, last = ddim(guided, noise, run)
    torch.testing.assert_close(last.x, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_the_shift_of_the_latents_is_folded_into_the_autoencoder(tmp_path: Path, toy: Path) -> None:
    """diffusers knows no shift: its autoencoder and its scale alone give the same latents and pictures as ours."""
    ours = LatentDiffusion.from_pretrained(toy)
    config = dataclasses.replace(ours.preset.autoencoder, scale=0.7, shift=-0.4)  # type: ignore[attr-defined]
    ours.autoencoder.config = config
    LatentDiffusion(dataclasses.replace(ours.preset, autoencoder=config), ours.networks).save(  # type: ignore[call-arg]
        tmp_path / "shifted", dtype=torch.float32
    )
    folder = convert(tmp_path / "shifted", tmp_path / "theirs", "diffusers")
    theirs = diffusers.AutoencoderKL.from_pretrained(folder / "vae")
    again = LatentDiffusion.from_pretrained(folder)
    assert again.preset.autoencoder.shift == 0 and theirs.config.scaling_factor == 0.7  # type: ignore[attr-defined]
    images, latents = torch.rand(2, 3, 16, 16) * 2 - 1, torch.randn(2, 4, 8, 8)
    with torch.no_grad():
        encoded = theirs.encode(images).latent_dist.mean * theirs.config.scaling_factor
        decoded = theirs.decode(latents / theirs.config.scaling_factor).sample.clamp(-1, 1)
    for model in (ours, again):
        assert (model.encode(images) - encoded).abs().max() < 1e-5
        assert (model.decode(latents) - decoded).abs().max() < 1e-5


def test_variants_keep_their_pipeline(tmp_path: Path) -> None:
    for channels, pipeline in {
        9: "StableDiffusionInpaintPipeline",
        8: "StableDiffusionInstructPix2PixPipeline",
    }.items():
        preset = dataclasses.replace(
            EPS, unet=dataclasses.replace(EPS.unet, in_channels=channels, beside="mask" if channels == 9 else "picture")
        )
        LatentDiffusion.from_preset(preset).save(tmp_path / f"{channels}", dtype=torch.float32)
        folder = convert(tmp_path / f"{channels}", tmp_path / f"{channels} theirs", "diffusers")
        loaded = diffusers.DiffusionPipeline.from_pretrained(folder, local_files_only=True, safety_checker=None)
        assert type(loaded).__name__ == pipeline
        assert same(tmp_path / f"{channels}", convert(folder, tmp_path / f"{channels} again", "ldm-edu"))


def test_nothing_is_overwritten(tmp_path: Path, toy: Path) -> None:
    file, folder = tmp_path / "mine.safetensors", tmp_path / "mine"
    file.write_text("precious")
    folder.mkdir()
    (folder / "notes.txt").write_text("precious")
    for out, to in ((file, "original"), (folder, "diffusers"), (folder, "ldm-edu"), (toy, "ldm-edu")):
        with pytest.raises(CheckpointError, match="is there already, and is not overwritten"):
            convert(toy, out, to)  # type: ignore[arg-type]
    assert file.read_text() == (folder / "notes.txt").read_text() == "precious" and len(list(folder.iterdir())) == 1


def test_a_disk_that_fills_up_leaves_nothing(tmp_path: Path, toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise safetensors.SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    for out, to in ((tmp_path / "a.safetensors", "original"), (tmp_path / "b", "diffusers")):
        with pytest.raises(SaveError, match="the disk is full"):
            convert(toy, out, to)  # type: ignore[arg-type]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    "change, to, words",
    [
        ({"text": None, "unet": UNetConfig(
            channels=16, mults=(1, 2), blocks=1, depth=(0, 1), context_dim=None, heads=2, groups=8
        )}, "diffusers", "no text encoder"),
        ({"schedule": dataclasses.replace(TOY.schedule, kind="flow")}, "diffusers", "flow schedule"),
        ({"unet": dataclasses.replace(TOY.unet, vector_dim=8), "classes": 3}, "original", "'classes'"),
    ],
    ids=["no text", "flow", "classes"],
)  # fmt: skip
def test_what_a_layout_cannot_hold_is_refused(tmp_path: Path, change: dict, to: Format, words: str) -> None:
    preset: Preset = dataclasses.replace(EPS, **change)
    LatentDiffusion.from_preset(preset).save(tmp_path / "mine")
    out = tmp_path / ("out.safetensors" if to == "original" else "out")
    with pytest.raises(CheckpointError, match=words):
        convert(tmp_path / "mine", out, to)
    assert not out.exists()


def test_a_shape_of_another_model_is_refused(tmp_path: Path, toy: Path) -> None:
    one = convert(toy, tmp_path / "one.safetensors", "original")
    file = safetensors.torch.load_file(one)
    with safetensors.safe_open(one, framework="pt") as opened:
        metadata = opened.metadata()
    file["model.diffusion_model.input_blocks.0.0.weight"] = torch.zeros(32, 5, 3, 3)
    safetensors.torch.save_file(file, tmp_path / "odd.safetensors", metadata)
    with pytest.raises(CheckpointError, match=r"conv_in\.weight has shape \(32, 5, 3, 3\)"):
        convert(tmp_path / "odd.safetensors", tmp_path / "out", "ldm-edu")
