"""What must work on a GPU, tried on a second device that `second_device` makes out of the CPU.

Not collected by itself: `test_second_device.py` runs it in a process of its own.
"""

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import second_device
import torch
from PIL import Image
from randomized import randomized_model, toy_with
from second_device import NAME, SecondDevice
from second_device_graphs import stand_in
from torch import Tensor
from typer.testing import CliRunner

from ldm_edu.attention_maps import watch_attention
from ldm_edu.cli import app
from ldm_edu.config import Preset
from ldm_edu.editing import Edit
from ldm_edu.evaluate import bench_gpu
from ldm_edu.families import FASHION, TOY
from ldm_edu.guidance import cfg, interval, rescale
from ldm_edu.model import LatentDiffusion
from ldm_edu.samplers import SAMPLERS, dpmpp_2m, initial_noise
from ldm_edu.schedule import add_noise, levels
from ldm_edu.training import recipes, runs
from ldm_edu.training.diffusion import Share
from ldm_edu.training.loop import train
from ldm_edu.training.parallel import Precision
from ldm_edu.training.parts import load_parts
from ldm_edu.training.runs import Run
from ldm_edu.training.scale_run import How, cached, scale_run

NEAR = {"rtol": 0, "atol": 2e-4}  # sums are taken in another order where attention has no kernel of its own


@pytest.fixture(autouse=True, scope="session")
def _known() -> None:
    second_device.install()  # not at the import: whoever looks for doctests in this file imports it


@pytest.fixture(autouse=True)
def second() -> Iterator[SecondDevice]:
    with SecondDevice() as mode:
        yield mode


def elsewhere() -> torch.device:
    return torch.device(NAME, 0)


def both(preset: Preset) -> tuple[LatentDiffusion, LatentDiffusion]:
    """The same model here and there."""
    return randomized_model(preset), randomized_model(preset).to(NAME)


def picture(side: int = 16, n: int = 1) -> Tensor:
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


def same(draw: Callable[[LatentDiffusion], Tensor], preset: Preset = TOY) -> None:
    """Whether both models draw the same, each where it is."""
    here, there = both(preset)
    wanted, got = draw(here), draw(there)
    assert got.device == elsewhere() and wanted.device.type == "cpu"
    assert wanted.std() > 0.01
    torch.testing.assert_close(got.cpu(), wanted, **NEAR)


# --- the device itself: what a GPU refuses must be refused here, or nothing below says anything ---------------------


def test_two_devices_do_not_meet() -> None:
    here, there = torch.ones(3), torch.ones(3, device=NAME)
    for mix in (
        lambda: here + there,
        lambda: there.mul_(here),
        lambda: torch.cat([here, there]),
        lambda: there @ here,
        lambda: torch.where(here > 0, there, there),
        lambda: torch.nn.functional.mse_loss(there, here),
        lambda: torch.nn.Linear(3, 3)(there),
    ):
        with pytest.raises(RuntimeError, match="two devices"):
            mix()
    with pytest.raises(RuntimeError, match="generator"):
        torch.randn(3, device=NAME, generator=torch.Generator())
    with pytest.raises(RuntimeError, match="not supported"):
        there.numpy()
    assert (there + torch.tensor(1.0)).device == elsewhere()  # numbers and indices may
    assert there[torch.tensor([0, 2])].device == elsewhere()


def test_looking_at_a_number_is_a_wait(second: SecondDevice) -> None:
    there = torch.ones(3, device=NAME)
    there = there * 2 + 1
    assert not second.waits
    assert float(there.sum()) == 9
    assert there.cpu().device.type == "cpu"
    assert second.waits.total() == 2


# --- drawing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler(name: str) -> None:
    def draw(model: LatentDiffusion) -> Tensor:
        *_, last = model.generate(["a", "b"], seeds=[1, 2], steps=4, sampler=SAMPLERS[name])
        return model.decode(last.x)

    same(draw)


def test_a_step_of_the_network_never_waits(second: SecondDevice) -> None:
    """What a CUDA graph records must not come back to the CPU, and numbers must not be sent there in between."""
    _, model = both(TOY)
    run = levels(model.schedule, 4)
    guided = cfg(model.denoiser(model.condition(["a"]), run), model.denoiser(model.condition([""]), run), 5.0)
    x = initial_noise([1], model.latent_shape()).to(NAME)
    guided(x, run[0])  # the first prepares
    second.waits.clear()
    for level in run[:-1]:
        guided(x, level)
    assert not second.waits


TWICE = ("heun", "dpm2", "dpm2_ancestral", "dpmpp_2s_ancestral", "dpmpp_sde")  # evaluations a step, but for the last


def test_a_step_of_every_sampler_waits_only_to_see_that_its_numbers_are_finite(second: SecondDevice) -> None:
    _, model = both(TOY)
    for name, sampler in SAMPLERS.items():
        run = model.generate(["a"], seeds=[1], steps=4, sampler=sampler)
        next(run)
        second.waits.clear()
        steps = len(list(run))
        evaluations = 2 * steps - 1 if name in TWICE else steps
        sent = 2 * steps if name == "dpmpp_sde" else steps  # the fresh noise of the stochastic samplers
        sent += evaluations - steps  # the time of a level halfway
        assert second.waits.pop("from the CPU", 0) <= sent, name
        assert second.waits == {"_local_scalar_dense": 2 * evaluations}, name


@pytest.mark.parametrize("how", ["rescale", "interval"])
def test_guidance(how: str) -> None:
    def draw(model: LatentDiffusion) -> Tensor:
        run = levels(model.schedule, 4)
        towards = model.denoiser(model.condition(["(a:1.3) and more"]), run)
        away = model.denoiser(model.condition(["b"]), run)
        guided = cfg(towards, away, 5.0)
        guided = rescale(guided, 0.7) if how == "rescale" else interval(guided, towards, 0.5, 5.0)
        *_, last = dpmpp_2m(guided, initial_noise([1], model.latent_shape()).to(model.device), run)
        return last.x

    same(draw)


def test_a_long_prompt_and_a_blank_one() -> None:
    same(lambda model: model.condition([40 * "a long prompt ", ""]).context)


@pytest.mark.parametrize("channels", [4, 8, 9])
@pytest.mark.parametrize("masked", [False, True])
def test_edits(channels: int, masked: bool) -> None:
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 8:] = 1
    edit = Edit(picture(), strength=0.7, mask=mask if masked else None)

    def draw(model: LatentDiffusion) -> Tensor:
        *_, last = model.generate(["a"], seeds=[1, 2], steps=4, edit=edit)
        return edit.paste(model.decode(last.x))

    same(draw, toy_with(channels))


def test_outpainting() -> None:
    def draw(model: LatentDiffusion) -> Tensor:
        *_, last = model.generate(["a"], steps=3, edit=Edit.outpaint(picture(), left=8, right=8))
        return last.x

    same(draw)


def test_drawing_needs_no_float64_there(second: SecondDevice) -> None:
    """Apple's GPU, where networks run by default too, has none."""
    second.float64 = False
    with pytest.raises(TypeError, match="float64"):
        torch.zeros(2, dtype=torch.float64, device=elsewhere())
    model = randomized_model(TOY).to(NAME)
    edit = Edit(picture(), mask=torch.linspace(0, 1, 16).expand(1, 1, 16, 16))
    for sampler in (SAMPLERS["ddim"], dpmpp_2m):
        *_, last = model.generate(["a (b:1.3)"], steps=3, sampler=sampler, edit=edit)
        assert model.decode(last.x).device == elsewhere()


def test_there_and_back_whole_and_in_tiles() -> None:
    large = picture(96)
    same(lambda model: model.decode(model.encode(large)))
    same(lambda model: model.decode(model.encode(large, tile=64), tile=64))


def test_classes_and_pixels() -> None:
    def draw(model: LatentDiffusion) -> Tensor:
        *_, last = model.generate([3, 7], seeds=[1, 2], steps=3)
        return model.decode(last.x)

    same(draw, FASHION)


def test_attention_maps() -> None:
    def draw(model: LatentDiffusion) -> Tensor:
        with watch_attention(model.unet) as maps:
            list(model.generate(["a"], steps=2))
        return maps.average()

    here, there = both(TOY)
    torch.testing.assert_close(draw(there), draw(here), **NEAR)


def test_saved_and_loaded(tmp_path: Path) -> None:
    here, there = both(TOY)
    there.save(tmp_path / "there", dtype=torch.float32)
    back = LatentDiffusion.from_pretrained(tmp_path / "there", device=NAME)
    assert back.device == elsewhere()
    for name, tensor in LatentDiffusion.from_pretrained(tmp_path / "there").unet.state_dict().items():
        assert torch.equal(tensor, here.unet.state_dict()[name])
        assert torch.equal(tensor, back.unet.state_dict()[name].cpu())


def test_training_by_hand() -> None:
    """The loop of lesson 04, as a reader would write it for a GPU."""
    _, model = both(TOY)
    x0, eps = (torch.randn(2, 4, 8, 8).to(NAME) for _ in range(2))
    t = torch.tensor([100, 900])
    x = add_noise(x0, eps, model.schedule.level(t).to(NAME))
    cond = model.condition(["a", "b"])
    loss = (model.unet(x, t.to(NAME), cond) - eps).square().mean()
    loss.backward()
    assert model.unet.conv_in.weight.grad is not None and model.unet.conv_in.weight.grad.device == elsewhere()


# --- recorded launches ----------------------------------------------------------------------------------------------


def test_a_recording_is_deaf_to_what_python_decides(second: SecondDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, second)
    x, factor, graph = torch.ones(3, device=NAME), 2.0, torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = (x * factor).add_(1)
    x.fill_(5.0)
    factor = 3.0
    graph.replay()
    assert out.tolist() == [11.0] * 3
    with torch.cuda.graph(torch.cuda.CUDAGraph()), pytest.raises(RuntimeError, match="while its launches are recorded"):
        float(x.sum())


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_replayed_network_draws_the_same(name: str, second: SecondDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, second)

    def draw(model: LatentDiffusion, seeds: list[int]) -> Tensor:
        *_, last = model.generate(["a"], seeds=seeds, steps=4, sampler=SAMPLERS[name])
        return model.decode(last.x).cpu()

    plain, replayed = (randomized_model(TOY).to(NAME) for _ in range(2))
    assert replayed.autoencoder is not None
    for network, method in ((replayed.unet, "step"), (replayed.autoencoder.decoder, "forward")):
        bench_gpu.ready(network, method, compiled=False)
    orders = ([1], [2], [1, 2], [3])  # the third has another shape
    for seeds in orders:
        torch.testing.assert_close(draw(replayed, seeds), draw(plain, seeds), **NEAR)
    assert len(replayed.unet.step.recordings) == 2  # type: ignore[attr-defined]


# --- pages and pictures ---------------------------------------------------------------------------------------------


def test_what_the_lessons_show() -> None:
    from ldm_edu.viz import channels, compare, explore, film_strip, gallery, matrix, noising, sheet
    from ldm_edu.viz.attention import explore_words, heat_strip
    from ldm_edu.viz.walk import walk

    _, model = both(TOY)
    runs_ = [list(model.generate(["a"], seeds=[seed], steps=3)) for seed in (1, 2)]
    images = model.decode(torch.cat([run[-1].x for run in runs_]))
    heat = torch.rand(2, 3, 16, 16, device=NAME)
    shown = [
        explore(runs_[0], model.decode),
        compare(*(explore(run, model.decode, title=str(i)) for i, run in enumerate(runs_))),
        film_strip(runs_[0], model.decode),
        sheet(images, ["a", "b"]),
        matrix(images, ["row"], ["a", "b"]),
        channels(runs_[0][-1].x[0]),
        gallery({"1": images, "2": images}, ["a", "b"], name="scale"),
        noising(images[0], {"linear": model.schedule}),
        walk(images, ["a", "b"]),
        heat_strip(images, heat, ["a", "b", "c"]),
        explore_words(images, heat, ["a", "b", "c"]),
    ]
    for each in shown:
        data, _ = each._repr_mimebundle_()
        assert data


# --- training -------------------------------------------------------------------------------------------------------


def trained(run: Run, folder: Path) -> list[dict[str, float]]:
    records = [record.values for record in train(run.task, steps=run.steps, seed=run.seed, folder=folder, save_every=2)]
    run.export()
    return records


def test_every_network_learns_there_as_here(tmp_path: Path) -> None:
    """The parts of the toy model, one after the other; in float32 there, since here it is so too."""
    losses = {}
    for device in (torch.device("cpu"), elsewhere()):
        folder = tmp_path / device.type
        vae, clip, unet, decoder = (
            dataclasses.replace(table["toy"], steps=2)
            for table in (recipes.AUTOENCODERS, recipes.CLIPS, recipes.UNETS, recipes.DECODERS)
        )
        classifier = dataclasses.replace(recipes.CLASSIFIERS["perceptual"], steps=1, batch=4)
        made = [
            trained(runs.classifier_run(classifier, folder / "judge", device), folder / "a"),
            trained(runs.autoencoder_run(TOY, vae, folder, device, perceptual=folder / "judge"), folder / "b"),
            trained(runs.decoder_run(TOY, decoder, folder, device, perceptual=folder / "judge"), folder / "c"),
            trained(runs.clip_run(TOY, clip, folder, device), folder / "d"),
            trained(runs.unet_run(TOY, unet, folder, device), folder / "e"),
            trained(runs.unet_run(TOY, unet, folder, device, start=folder), folder / "f"),
            trained(runs.unet_run(TOY, dataclasses.replace(unet, joint_text=True), folder, device), folder / "g"),
            trained(
                runs.pixels_run(FASHION, dataclasses.replace(recipes.UNETS["fashion"], steps=2), folder / "f2", device),
                folder / "h",
            ),
        ]
        losses[device.type] = made
        assert len(trained(runs.unet_run(TOY, dataclasses.replace(unet, steps=4), folder, device), folder / "e")) == 2
    for here, there in zip(losses["cpu"], losses[NAME], strict=True):
        for ours, theirs in zip(here, there, strict=True):
            assert ours == pytest.approx(theirs, rel=0.05, abs=0.01)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_own_pictures(precision: Precision, tmp_path: Path) -> None:
    """What ``ldm-edu train unet --data`` does, from the cache to the checkpoint."""
    (tmp_path / "pictures").mkdir()
    for i in range(6):
        picture = Image.new("RGB", (16, 24) if i % 3 else (16, 16), (40 * i, 90, 20))
        picture.save(tmp_path / "pictures" / f"{i}.png")
        (tmp_path / "pictures" / f"{i}.txt").write_text(f"colour {i}")
    randomized_model(TOY).save(tmp_path / "parts")
    share = Share(4, micro=2)
    recipe = dataclasses.replace(recipes.UNETS["toy"], steps=3, batch=4)
    losses = {}
    for device in (torch.device("cpu"), elsewhere()):
        out = tmp_path / device.type
        parts = load_parts(tmp_path / "parts", TOY, device)
        cache = cached(tmp_path / "pictures", out / "cache", parts, share, size=16)
        how = {"size": 16, "precision": precision, "device": device}
        run = scale_run(parts, recipe, cache, out, out / "state", How(share), **how)  # type: ignore[arg-type]
        losses[device.type] = [record.values["loss"] for record in train(run.task, steps=run.steps, seed=run.seed)]
        run.export()
        assert LatentDiffusion.from_pretrained(out).device.type == "cpu"
    assert losses["cpu"] == pytest.approx(losses[NAME], rel=0.05)


def test_what_measures_a_gpu(second: SecondDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the compiler."""
    pytest.importorskip("diffusers")
    stand_in(monkeypatch, second)
    monkeypatch.setattr(bench_gpu, "OUR_COMPILER", {"disable": True})
    monkeypatch.setattr(bench_gpu, "THEIR_COMPILERS", {name: {"disable": True} for name in bench_gpu.THEIR_COMPILERS})
    sections = list(bench_gpu.bench_gpu(TOY, "all", size=16, rounds=1, device=NAME, matrix=64))
    assert len(sections) == 6


# --- the command line -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["shapes", "fashion"])
def test_generate(model: str, tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    prompt = {"shapes": "a small red circle", "fashion": "3"}[model]
    command(["generate", prompt, "--model", model, "--device", NAME, "--steps", "2", "--out", str(out)])
    assert out.is_file()


@pytest.mark.parametrize("model", ["shapes", "emoji"])
def test_evaluate(model: str, tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    command(["evaluate", model, "--device", NAME, "--count", "4", "--steps", "2", "--out", str(record)])
    assert json.loads(record.read_text())["sections"]


def command(words: list[str]) -> None:
    done = CliRunner().invoke(app, words)
    if done.exception:
        raise done.exception
