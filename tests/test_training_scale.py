"""Training on own pictures, in one process: micro-batches, recomputing, bfloat16, state, and clear refusals."""

import dataclasses
import errno
import json
import os
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.distributed.checkpoint import filesystem

from ldm_edu.checkpoint.open import open_checkpoint
from ldm_edu.convert import convert_checkpoint
from ldm_edu.families import EMOJI, FASHION, TOY
from ldm_edu.files import SaveError
from ldm_edu.layouts.pair import Format
from ldm_edu.model import LatentDiffusion
from ldm_edu.training.diffusion import Share
from ldm_edu.training.loop import train
from ldm_edu.training.parts import Parts, load_parts
from ldm_edu.training.recipes import UNetRecipe
from ldm_edu.training.runs import Run
from ldm_edu.training.scale_run import How, cached, scale_run
from ldm_edu.training.sharded import SHARDS, load_sharded, save_sharded, state_tensors, whole_states
from ldm_edu.weights.errors import CheckpointError

pytestmark = pytest.mark.slow

RECIPE = UNetRecipe(steps=6, batch=8, lr=1e-3, warmup=2, ema_decay=0.9, seed=3)
CPU = torch.device("cpu")


def write_pictures(folder: Path, count: int = 12) -> Path:
    """Squares and strips of one colour each, with captions that name it."""
    folder.mkdir()
    for i in range(count):
        size = (24, 16) if i % 3 == 1 else (16, 16)
        Image.new("RGB", size, (20 * i, 255 - 20 * i, 90)).save(folder / f"{i:02}.png")
        (folder / f"{i:02}.txt").write_text(f"a field of colour {i % 5}")
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, and the toy's parts with weights that were drawn."""
    folder = tmp_path_factory.mktemp("scale")
    write_pictures(folder / "pictures")
    LatentDiffusion.from_preset(TOY).save(folder / "parts")
    return folder


def parts_of(home: Path) -> Parts:
    return load_parts(home / "parts", TOY, CPU)


def a_run(home: Path, out: Path, recipe: UNetRecipe = RECIPE, *, micro: int | None = None, **how: bool | str) -> Run:
    share = Share(recipe.batch, micro=micro)
    parts = parts_of(home)
    cache = cached(home / "pictures", home / "cache", parts, share, size=16)
    precision = how.pop("precision", "fp32")
    return scale_run(
        parts,
        recipe,
        cache,
        out,
        out / "training" / "unet",
        How(share, **how),
        size=16,
        precision=precision,  # type: ignore[arg-type]
    )


def losses(run: Run, folder: Path | None = None, **options: int) -> list[float]:
    return [
        r.values["loss"]
        for r in train(run.task, steps=run.steps, seed=run.seed, folder=folder, store=SHARDS, **options)
    ]


def gradients(run: Run) -> dict[str, Tensor]:
    from ldm_edu.training.loop import rng_for

    run.task.step(0, 0.0, rng_for(3, 0))
    return {name: p.grad.clone() for name, p in run.task.modules["unet"].named_parameters() if p.grad is not None}


@pytest.mark.parametrize("micro", [1, 2, 4])
def test_micro_batches_add_up_to_the_batch(home: Path, tmp_path: Path, micro: int) -> None:
    whole = gradients(a_run(home, tmp_path / "whole"))
    parts = gradients(a_run(home, tmp_path / "parts", micro=micro))
    assert whole.keys() == parts.keys()
    scale = max(float(g.abs().max()) for g in whole.values())
    assert scale > 0
    for name in whole:  # float32 sums in another order
        assert torch.allclose(parts[name], whole[name], rtol=1e-4, atol=1e-6 * scale), name


def test_recomputing_gives_the_same_gradients(home: Path, tmp_path: Path) -> None:
    plain, recomputed = a_run(home, tmp_path / "plain"), a_run(home, tmp_path / "recomputed", recompute=True)
    wanted, got = gradients(plain), gradients(recomputed)
    assert got.keys() == wanted.keys()
    for name in wanted:
        assert torch.equal(got[name], wanted[name]), name


def test_recomputing_keeps_less() -> None:
    from ldm_edu.condition import Conditioning
    from ldm_edu.models.unet import UNet
    from ldm_edu.training.parallel import checkpoint_blocks

    def kept(recompute: bool) -> int:
        model = UNet(TOY.unet)
        if recompute:
            checkpoint_blocks(model)
        sizes: dict[int, int] = {}
        count = lambda t: sizes.__setitem__(t.data_ptr(), t.nbytes)  # noqa: E731
        with torch.autograd.graph.saved_tensors_hooks(lambda t: (count(t), t)[1], lambda t: t):
            model(torch.randn(4, 4, 8, 8), torch.arange(4), Conditioning(torch.randn(4, 16, 32)))
        return sum(sizes.values())

    assert kept(True) < 0.6 * kept(False)


def test_bfloat16_follows_float32(home: Path, tmp_path: Path) -> None:
    full = losses(a_run(home, tmp_path / "full"))
    half = losses(a_run(home, tmp_path / "half", precision="bf16"))
    assert half != full
    assert half == pytest.approx(full, rel=0.03)  # bfloat16 has steps of 0.8 %


def test_a_step_learns(home: Path, tmp_path: Path) -> None:
    curve = losses(a_run(home, tmp_path, dataclasses.replace(RECIPE, steps=80, lr=3e-3)))
    assert sum(curve[-20:]) < 0.8 * sum(curve[:20])


def test_a_resumed_run_goes_on_as_the_unbroken_one(home: Path, tmp_path: Path) -> None:
    unbroken = a_run(home, tmp_path / "unbroken")
    wanted = losses(unbroken)
    folder = tmp_path / "broken" / "training" / "unet"
    first = a_run(home, tmp_path / "broken")
    for record in train(first.task, steps=6, seed=3, folder=folder, save_every=2, store=SHARDS):
        if record.step == 5:
            break
    assert [path.name for path in whole_states(folder)] == ["step-000002", "step-000004"]
    resumed = a_run(home, tmp_path / "broken")
    assert losses(resumed, folder, save_every=2) == wanted[4:]
    for name, tensor in state_tensors(unbroken.task).items():
        assert torch.equal(tensor, state_tensors(resumed.task)[name]), name
    assert [path.name for path in whole_states(folder)] == ["step-000004", "step-000006"]  # the oldest is gone


def test_the_export_draws_and_reads_back(home: Path, tmp_path: Path) -> None:
    run = a_run(home, tmp_path)
    losses(run)
    run.export()
    model = LatentDiffusion.from_pretrained(tmp_path)
    *_, last = model.generate(["a field of colour 1"], steps=2, size=(12, 20))
    assert model.decode(last.x).shape == (1, 3, 12, 20)
    averaged = dict(run.task.modules["ema"].model.named_parameters())  # type: ignore[union-attr]
    assert torch.equal(model.unet.conv_in.weight, averaged["conv_in.weight"].bfloat16().float())
    assert torch.equal(model.autoencoder.quant.weight, parts_of(home).autoencoder.quant.weight)  # type: ignore[union-attr]


def test_other_settings_are_refused_and_named(home: Path, tmp_path: Path) -> None:
    state = tmp_path / "training" / "unet"
    losses(a_run(home, tmp_path, dataclasses.replace(RECIPE, steps=1)), state)
    a_run(home, tmp_path, micro=2)  # may change
    with pytest.raises(ValueError, match=r"batch was 8, not 4; lr was 0\.001, not 0\.002.*--out"):
        a_run(home, tmp_path, dataclasses.replace(RECIPE, batch=4, lr=2e-3))
    with pytest.raises(ValueError, match="precision was fp32, not bf16"):
        a_run(home, tmp_path, precision="bf16")


def test_a_state_cut_short_is_refused_and_the_one_before_it_serves(home: Path, tmp_path: Path) -> None:
    state = tmp_path / "training" / "unet"
    losses(a_run(home, tmp_path), state, save_every=3)
    newest = whole_states(state)[-1]
    shard = next(newest.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-100])
    run = a_run(home, tmp_path)
    with pytest.raises(
        ValueError, match=r"step-000006 is damaged .*cut short.* go on from the state before, step-000003"
    ):
        load_sharded(run.task, state)
    for path in newest.iterdir():
        path.unlink()
    newest.rmdir()
    assert load_sharded(run.task, state) == 3


def test_a_state_of_another_model_is_refused(home: Path, tmp_path: Path) -> None:
    run = a_run(home, tmp_path)
    save_sharded(run.task, tmp_path / "states", 1)
    other = a_run(home, tmp_path / "other")
    other.task.modules["unet"] = torch.nn.Linear(3, 2)
    with pytest.raises(ValueError, match="another task or preset"):
        load_sharded(other.task, tmp_path / "states")


def test_a_full_disk_keeps_the_state_before(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = a_run(home, tmp_path)
    save_sharded(run.task, tmp_path / "states", 1)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(filesystem.os, "fsync", full)
        with pytest.raises(SaveError, match="step-000002 was not saved: the disk is full"):
            save_sharded(run.task, tmp_path / "states", 2)
    assert load_sharded(run.task, tmp_path / "states") == 1
    save_sharded(run.task, tmp_path / "states", 2)
    assert sorted(path.name for path in (tmp_path / "states").iterdir()) == ["step-000001", "step-000002"]


def test_nothing_is_pickled(home: Path, tmp_path: Path) -> None:
    save_sharded(a_run(home, tmp_path).task, tmp_path / "states", 1)
    folder = tmp_path / "states" / "step-000001"
    assert {path.suffix for path in folder.iterdir()} == {".safetensors", ".json"}
    told = json.loads((folder / "state.json").read_text())
    assert told["step"] == 1 and set(told["files"]) == {path.name for path in folder.glob("*.safetensors")}


def test_one_picture_alone_can_be_learned(home: Path, tmp_path: Path) -> None:
    write_pictures(tmp_path / "one", count=1)
    share = Share(RECIPE.batch)
    parts = parts_of(home)
    cache = cached(tmp_path / "one", tmp_path / "cache", parts, share, size=16)
    assert cache.index.counts == [1]
    run = scale_run(parts, RECIPE, cache, tmp_path, tmp_path / "state", How(share), size=16)
    assert len(losses(run)) == 6


def test_a_finished_cache_serves_without_its_pictures(home: Path, tmp_path: Path) -> None:
    write_pictures(tmp_path / "pictures")
    share, parts = Share(8), parts_of(home)
    made = cached(tmp_path / "pictures", tmp_path / "cache", parts, share, size=16)
    for path in (tmp_path / "pictures").iterdir():
        path.unlink()
    again = cached(tmp_path / "cache", tmp_path / "unused", parts, share, size=16)
    assert torch.equal(again.latents(0, [0, 1]), made.latents(0, [0, 1]))
    other = LatentDiffusion.from_preset(TOY, seed=1)
    other.save(tmp_path / "other")
    with pytest.raises(ValueError, match=r"other weights \(latent encoder, text encoder\)"):
        cached(tmp_path / "cache", tmp_path / "unused", load_parts(tmp_path / "other", TOY, CPU), share, size=16)


def test_the_parts_must_be_those_of_the_preset(home: Path) -> None:
    with pytest.raises(CheckpointError, match="made for the preset toy, not emoji: autoencoder, text differ"):
        load_parts(home / "parts", EMOJI, CPU)
    with pytest.raises(CheckpointError, match="fashion has no autoencoder or no text encoder"):
        load_parts(home / "parts", FASHION, CPU)


@pytest.mark.parametrize("layout", ["diffusers", "original"])
def test_published_layouts_give_the_parts_and_the_start(home: Path, tmp_path: Path, layout: Format) -> None:
    out = tmp_path / ("sd.safetensors" if layout == "original" else "sd")
    convert_checkpoint(open_checkpoint(home / "parts"), out, layout)
    ours, theirs = parts_of(home), load_parts(out, TOY, CPU)
    for name in ("autoencoder", "text"):
        wanted = getattr(ours, name).state_dict()
        got = getattr(theirs, name).state_dict()
        assert [key for key in wanted if not torch.equal(got[key], wanted[key])] == []
    before = out.read_bytes() if out.is_file() else b""
    share = Share(RECIPE.batch)
    cache = cached(home / "pictures", tmp_path / "cache", theirs, share, size=16)
    run = scale_run(theirs, RECIPE, cache, tmp_path, tmp_path / "state", How(share), size=16, start=out)
    trained = LatentDiffusion.from_pretrained(home / "parts").unet.state_dict()
    assert [k for k, v in run.task.modules["unet"].state_dict().items() if not torch.equal(v, trained[k])] == []
    losses(run)
    assert (out.read_bytes() if out.is_file() else b"") == before  # what is mapped from a file is not trained


def test_runs_with_and_without_own_pictures_do_not_mix(home: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from ldm_edu.cli import app

    state = tmp_path / "training" / "unet"
    save_sharded(a_run(home, tmp_path).task, state, 1)
    result = CliRunner().invoke(app, ["train", "unet", "--preset", "toy", "--out", str(tmp_path)])
    assert isinstance(result.exception, ValueError) and "holds a run with --data" in str(result.exception)
    (tmp_path / "other" / "training" / "unet").mkdir(parents=True)
    (tmp_path / "other" / "training" / "unet" / "state.safetensors").touch()
    with pytest.raises(ValueError, match="holds a run without --data"):
        a_run(home, tmp_path / "other")


def test_data_is_for_the_unet_and_needs_parts(home: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from ldm_edu.cli import app

    data = ["--preset", "toy", "--data", str(home / "pictures"), "--out", str(tmp_path)]
    result = CliRunner().invoke(app, ["train", "unet", *data])
    assert "name a checkpoint that does with --parts" in str(result.exception)
    result = CliRunner().invoke(app, ["train", "vae", "--preset", "toy", "--data", str(home / "pictures")])
    assert "--data is for the unet" in str(result.exception)


def test_the_places_of_all_processes_are_those_of_one() -> None:
    for world, micro in ((1, None), (1, 2), (2, None), (2, 3), (4, 1), (3, 2)):
        shares = [Share(12, rank, world, micro) for rank in range(world)]
        places = [place for share in shares for part in share.micro_batches() for place in part]
        assert sorted(places) == list(range(12))
        assert {len(part) for share in shares for part in share.micro_batches()} == {micro or 12 // world}


def test_a_batch_that_cannot_be_shared_names_those_that_can() -> None:
    with pytest.raises(ValueError, match=r"batch of 8 cannot be shared by 3 processes; give --batch 6 or 9"):
        Share(8, 0, 3)
    with pytest.raises(
        ValueError, match=r"8 cannot .* 2 processes with 3 pictures at once in each; give --batch 6 or 12"
    ):
        Share(8, 0, 2, 3)
    with pytest.raises(ValueError, match=r"give --batch 4$"):
        Share(2, 0, 4)
