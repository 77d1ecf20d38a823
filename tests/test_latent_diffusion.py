"""The whole system on random weights: the reading line, saving and loading, odd prompts, odd sizes."""

import dataclasses
import errno
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from randomized import randomized_model

from ldm_edu.checkpoint.find import shipped_checkpoints
from ldm_edu.config import Preset, ScheduleConfig, UNetConfig, UNetPreset
from ldm_edu.families import TOY
from ldm_edu.files import SaveError
from ldm_edu.guidance import cfg
from ldm_edu.model import LatentDiffusion
from ldm_edu.samplers import SAMPLERS, ddpm, dpmpp_2m, initial_noise
from ldm_edu.schedule import levels
from ldm_edu.weights.errors import CheckpointError

PIXELS = UNetPreset(
    name="pixels",
    size=8,
    unet=UNetConfig(
        in_channels=3, out_channels=3, channels=16, mults=(1, 2), blocks=1, depth=(0, 0), mid_depth=0,
        context_dim=None, heads=2, groups=8,
    ),
    autoencoder=None,
    text=None,
)  # fmt: skip
CLASSES = dataclasses.replace(
    PIXELS, name="classes", unet=dataclasses.replace(PIXELS.unet, vector_dim=16), classes=10, prediction="v"
)


@pytest.fixture(scope="module")
def toy() -> LatentDiffusion:
    return randomized_model(TOY)


def draw(model: LatentDiffusion, prompts: list, **how) -> torch.Tensor:  # type: ignore[no-untyped-def]
    *_, last = model.generate(prompts, **({"steps": 2} | how))
    return last.x


# --- the reading line -----------------------------------------------------------------------------------------------


def test_generate_is_the_reading_line(toy: LatentDiffusion) -> None:
    cond, blank = toy.condition(["red apple", "blue fish"]), toy.condition([""])
    guided = cfg(toy.denoiser(cond), toy.denoiser(blank), 3.0)
    noise = initial_noise([5, 9], toy.latent_shape())
    by_hand = list(dpmpp_2m(guided, noise, levels(toy.schedule, 3)))
    at_once = list(toy.generate(["red apple", "blue fish"], seeds=[5, 9], steps=3, guidance=3.0))
    assert [step.index for step in at_once] == [0, 1, 2]
    for a, b in zip(by_hand, at_once, strict=True):
        torch.testing.assert_close(a.x, b.x)
        torch.testing.assert_close(a.x0, b.x0)


def test_pictures_are_pictures(toy: LatentDiffusion) -> None:
    image = toy.decode(100 * draw(toy, ["red apple"]))
    assert image.shape == (1, 3, 16, 16) and image.dtype == torch.float32
    assert image.min() >= -1 and image.max() <= 1
    assert not image.requires_grad


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_picture_depends_on_its_prompt_and_its_seed_alone(toy: LatentDiffusion, sampler: str) -> None:
    how = {"steps": 3, "sampler": SAMPLERS[sampler]}
    many = draw(toy, ["red apple", "blue fish", "漢"], seeds=[3, 4, 5], **how)
    alone = draw(toy, ["blue fish"], seeds=[4], **how)
    torch.testing.assert_close(many[1:2], alone, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(many[0], many[1])
    assert not torch.allclose(draw(toy, ["blue fish"], seeds=[7], **how), alone)
    assert not torch.allclose(draw(toy, ["red apple"], seeds=[4], **how), alone)


def test_one_prompt_serves_all_seeds(toy: LatentDiffusion) -> None:
    torch.testing.assert_close(
        draw(toy, ["a"], seeds=[1, 2]), draw(toy, ["a", "a"], seeds=[1, 2]), rtol=1e-4, atol=1e-5
    )


def test_seeds_count_up_from_zero_by_themselves(toy: LatentDiffusion) -> None:
    assert torch.equal(draw(toy, ["a", "b"]), draw(toy, ["a", "b"], seeds=[0, 1]))


def test_a_negative_prompt_is_another_blank(toy: LatentDiffusion) -> None:
    plain, negative = draw(toy, ["a"]), draw(toy, ["a"], negative="blue fish")
    assert torch.equal(plain, draw(toy, ["a"], negative=""))
    assert not torch.allclose(plain, negative)
    assert torch.equal(draw(toy, ["a"], guidance=1.0), draw(toy, ["a"], guidance=1.0, negative="blue fish"))


def test_encoding_undoes_the_scale_of_decoding(toy: LatentDiffusion) -> None:
    assert TOY.autoencoder
    scaled = dataclasses.replace(TOY.autoencoder, scale=0.5, shift=0.25)
    model = LatentDiffusion.from_preset(dataclasses.replace(TOY, autoencoder=scaled))
    assert toy.autoencoder and model.autoencoder
    model.autoencoder.load_state_dict(toy.autoencoder.state_dict())
    images = torch.randn(2, 3, 16, 16).clamp(-1, 1)
    z = toy.encode(images)
    assert z.shape == (2, *toy.latent_shape()) and not z.requires_grad
    torch.testing.assert_close(model.encode(images), (z - 0.25) * 0.5)
    torch.testing.assert_close(model.decode(model.encode(images)), toy.decode(z))


def test_random_weights_depend_on_the_seed_alone() -> None:
    state = torch.get_rng_state()
    a, b, c = (LatentDiffusion.from_preset(TOY, seed=seed).unet.conv_in.weight for seed in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert torch.equal(torch.get_rng_state(), state)


# --- other kinds of model -------------------------------------------------------------------------------------------


def test_pixels_without_any_condition() -> None:
    model = LatentDiffusion.from_preset(PIXELS)
    assert len(model.condition(["", ""])) == 0 and model.tokenizer is None
    x = draw(model, ["", ""], guidance=5.0)
    assert x.shape == (2, 3, 8, 8)
    assert torch.equal(model.encode(x), x) and torch.equal(model.decode(x), x.clamp(-1, 1))
    with pytest.raises(ValueError, match="unconditional"):
        model.condition(["red apple"])


def test_classes_and_their_blank() -> None:
    model = randomized_model(CLASSES)
    nothing = draw(model, ["", None], seeds=[1, 1])
    assert torch.equal(nothing[0], nothing[1])
    some = draw(model, [3, 3, 4], seeds=[1, 1, 1])
    torch.testing.assert_close(some[0], some[1])
    assert not torch.allclose(some[0], some[2]) and not torch.allclose(some[0], nothing[0])
    for label in (10, -1, "three"):
        with pytest.raises(ValueError, match="0 to 9"):
            model.condition([label])


def test_classes_need_a_network_that_listens() -> None:
    with pytest.raises(ValueError, match="vector_dim"):
        LatentDiffusion.from_preset(dataclasses.replace(PIXELS, classes=10))


def test_a_rectified_flow() -> None:
    preset = dataclasses.replace(PIXELS, schedule=ScheduleConfig(kind="flow"), prediction="flow")
    assert draw(LatentDiffusion.from_preset(preset), [""], sampler=SAMPLERS["euler"]).isfinite().all()


def test_half_precision_networks_give_full_precision_pictures(toy: LatentDiffusion) -> None:
    model = randomized_model(TOY).to(dtype=torch.bfloat16)
    images = model.decode(draw(model, ["red apple"]))
    assert images.dtype == torch.float32
    assert model.encode(images).dtype == torch.float32
    difference = (images - toy.decode(draw(toy, ["red apple"]))).abs()  # a single value may be rounded far off
    assert difference.mean() < 0.03 and difference.max() < 0.3, (difference.mean(), difference.max())


# --- saving and loading ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", [TOY, PIXELS, CLASSES], ids=lambda p: p.name)
def test_what_is_saved_is_loaded(tmp_path: Path, preset: Preset) -> None:
    model = randomized_model(preset)
    model.save(tmp_path / "mine", dtype=torch.float32)
    again = LatentDiffusion.from_pretrained(tmp_path / "mine")
    assert again.preset == preset and again.networks.keys() == model.networks.keys()
    prompt = 3 if preset.classes else "red apple" if preset.text else ""
    torch.testing.assert_close(draw(again, [prompt]), draw(model, [prompt]), rtol=1e-4, atol=1e-5)
    assert not any(module.training for module in again.networks.values())


def test_loading_sets_every_weight(tmp_path: Path, toy: LatentDiffusion) -> None:
    toy.save(tmp_path, dtype=torch.float32)
    for seed in (1, 2):
        torch.manual_seed(seed)
        again = LatentDiffusion.from_pretrained(tmp_path)
        for name, module in again.networks.items():
            wanted = toy.networks[name].state_dict()
            assert all(torch.equal(tensor, wanted[key]) for key, tensor in module.state_dict().items())


def test_shipped_checkpoints_are_found_by_name(
    tmp_path: Path, toy: LatentDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LDM_EDU_DATA", str(tmp_path))
    with pytest.raises(CheckpointError, match="None is shipped"):
        LatentDiffusion.from_pretrained("apples")
    toy.save(tmp_path / "checkpoints" / "apples")
    (tmp_path / "checkpoints" / "classifier").mkdir()
    (tmp_path / "checkpoints" / "note.txt").write_text("not a folder")
    assert LatentDiffusion.from_pretrained("apples").preset == TOY
    with pytest.raises(CheckpointError, match=r"there is no checkpoint 'pears'\. Shipped are apples; or"):
        LatentDiffusion.from_pretrained("pears")


def test_a_folder_called_like_a_shipped_checkpoint(
    tmp_path: Path, toy: LatentDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LDM_EDU_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    toy.save(tmp_path / "data" / "checkpoints" / "apples")
    other = dataclasses.replace(TOY, name="other")
    LatentDiffusion(other, toy.networks).save("apples")
    assert LatentDiffusion.from_pretrained("apples").preset.name == "toy"
    assert LatentDiffusion.from_pretrained("./apples").preset.name == "other"
    assert LatentDiffusion.from_pretrained(Path("apples")).preset.name == "other"


@pytest.mark.parametrize("name", sorted(shipped_checkpoints()))
def test_shipped_checkpoints_draw(name: str) -> None:
    model = LatentDiffusion.from_pretrained(name)
    image = model.decode(draw(model, [3] if model.preset.classes else ["a red apple"]))
    channels = model.preset.autoencoder.in_channels if model.preset.autoencoder else model.preset.unet.in_channels
    assert image.shape == (1, channels, model.preset.size, model.preset.size) and image.isfinite().all()


def test_files_that_are_no_folder_are_refused(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "sd.ckpt")
    with pytest.raises(CheckpointError, match="holds no weights"):
        LatentDiffusion.from_pretrained(tmp_path / "sd.ckpt")
    with pytest.raises(CheckpointError, match="no checkpoint"):
        LatentDiffusion.from_pretrained("nowhere/sd.ckpt")
    (tmp_path / "unet.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="cut short"):
        LatentDiffusion.from_pretrained(tmp_path / "unet.safetensors")


def test_another_preset_than_expected_is_refused(tmp_path: Path, toy: LatentDiffusion) -> None:
    toy.save(tmp_path)
    assert LatentDiffusion.from_pretrained(tmp_path, preset=TOY).preset == TOY
    with pytest.raises(CheckpointError, match="another preset, toy"):
        LatentDiffusion.from_pretrained(tmp_path, preset=dataclasses.replace(TOY, size=32))


@pytest.mark.parametrize("part", ["unet", "autoencoder", "text"])
def test_a_part_that_is_missing_or_another_s_is_named(tmp_path: Path, toy: LatentDiffusion, part: str) -> None:
    toy.save(tmp_path)
    path = tmp_path / f"{part}.safetensors"
    path.write_bytes((tmp_path / ("text" if part == "unet" else "unet")).with_suffix(".safetensors").read_bytes())
    with pytest.raises(CheckpointError, match=rf"the {part} of .*another preset, or for another part"):
        LatentDiffusion.from_pretrained(tmp_path)
    path.unlink()
    with pytest.raises(CheckpointError, match=rf"has no {part}\.safetensors"):
        LatentDiffusion.from_pretrained(tmp_path)


def test_a_full_disk_leaves_the_older_checkpoint(
    tmp_path: Path, toy: LatentDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy.save(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(self: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(SaveError, match="the disk is full"):
        LatentDiffusion.from_preset(TOY, seed=1).save(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


# --- odd prompts, odd numbers, odd sizes ----------------------------------------------------------------------------


PROMPTS = {
    "empty": "",
    "blank": " \n",
    "enormous": "red apple " * 100_000,
    "one word": "x" * 1_000_000,
    "german": "ein roter Apfel",
    "chinese": "红苹果",
    "arabic": "تفاحة",
    "emoji": "🍎",
    "joined emoji": "👩🏽‍🚀🏳️‍🌈",
    "null": "\x00",
    "surrogate": "\ud800",
    "end": "<|endoftext|>",
    "starts": "<|startoftext|>" * 50,
}


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
def test_any_prompt_draws_a_picture(toy: LatentDiffusion, prompt: str) -> None:
    assert toy.decode(draw(toy, [prompt], negative=prompt[::-1][:50])).isfinite().all()


def test_a_prompt_by_itself_is_refused(toy: LatentDiffusion) -> None:
    with pytest.raises(TypeError, match="list"):
        toy.condition("red apple")
    with pytest.raises(ValueError, match="must be a text, not 3"):
        toy.condition([3])


@pytest.mark.parametrize(
    "how, words",
    [
        ({"guidance": math.nan}, "nan"),
        ({"guidance": math.inf}, "inf"),
        ({"steps": 0}, "steps=0"),
        ({"steps": 1001}, "1 to 1000"),
        ({"steps": -1}, "steps=-1"),
        ({"seeds": [1, 2, 3]}, "2 prompts and 3 seeds"),
        ({"seeds": [-1, 0]}, "seed=-1"),
        ({"spacing": "even"}, "even"),
        ({"size": 18}, "nearest are 16 and 20"),
    ],
)
def test_impossible_requests_are_refused_at_the_call(toy: LatentDiffusion, how: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        toy.generate(["a", "b"], **how)


def test_no_prompts_at_all(toy: LatentDiffusion) -> None:
    with pytest.raises(ValueError, match="empty"):
        toy.generate([])


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_as_many_steps_as_asked_for(toy: LatentDiffusion, steps: int) -> None:
    run = list(toy.generate(["a"], steps=steps, guidance=1.0))
    assert len(run) == steps and run[-1].level.sigma == 0
    torch.testing.assert_close(run[-1].x, run[-1].x0)


@pytest.mark.slow
def test_a_thousand_steps(toy: LatentDiffusion) -> None:
    assert len(list(toy.generate(["a"], steps=1000, guidance=1.0, sampler=ddpm))) == 1000


def test_sizes(toy: LatentDiffusion) -> None:
    assert toy.latent_shape() == (4, 8, 8)
    assert toy.latent_shape(20) == (4, 10, 10)
    assert toy.latent_shape((4, 40)) == (4, 2, 20)
    assert toy.decode(draw(toy, ["a"], size=(24, 8))).shape == (1, 3, 24, 8)


@pytest.mark.parametrize(
    "size, words",
    [
        (1, "nearest is 4"),
        (0, "nearest is 4"),
        (-8, "side of -8 pixels"),
        (17, "nearest are 16 and 20"),
        ((16, 30), "side of 30 .* 28 and 32"),
    ],
)
def test_sizes_that_do_not_fit(toy: LatentDiffusion, size: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        toy.latent_shape(size)


def test_pictures_that_do_not_fit(toy: LatentDiffusion) -> None:
    with pytest.raises(ValueError, match="multiples of 2"):
        toy.encode(torch.zeros(1, 3, 15, 16))


def test_a_large_picture_goes_in_tiles_and_a_large_batch_in_slices(toy: LatentDiffusion) -> None:
    z = torch.randn(5, *toy.latent_shape(32), generator=torch.Generator().manual_seed(0))
    images = toy.decode(z)
    torch.testing.assert_close(toy.decode(z, tile=32), images)  # one at a time
    torch.testing.assert_close(toy.encode(images, tile=32), toy.encode(images))
    tiled = toy.decode(z[:1], tile=16)
    assert tiled.shape == (1, 3, 32, 32) and 0 < (tiled - images[:1]).abs().mean() < 0.2
    assert toy.encode(images, tile=16).shape == z.shape
    for tile in (0, 2, 7, -16):
        with pytest.raises(ValueError, match=f"tile={tile} must be a multiple of 2"):
            toy.decode(z, tile=tile)


def test_a_batch_of_nothing(toy: LatentDiffusion) -> None:
    assert toy.decode(torch.zeros(0, 4, 8, 8)).shape == (0, 3, 16, 16)


def test_one_prompt_by_itself_is_refused(toy: LatentDiffusion) -> None:
    with pytest.raises(TypeError, match=r"pass a list of prompts, \['red apple'\]"):
        toy.generate("red apple", seeds=[7])


def test_what_are_no_latents_is_refused(toy: LatentDiffusion) -> None:
    for latents in (torch.zeros(4, 8, 8), torch.zeros(1, 3, 16, 16)):
        with pytest.raises(ValueError, match=r"expected latents \(B, 4, h, w\)"):
            toy.decode(latents)


def test_a_size_may_come_from_another_library(toy: LatentDiffusion) -> None:
    assert toy.latent_shape(np.int64(16)) == (4, 8, 8)  # type: ignore[arg-type]
