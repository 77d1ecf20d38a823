"""The training loop: killed and resumed to the same weights, refusing what it cannot use; the tasks learn."""

from pathlib import Path

import pytest
import torch
from torch import nn

from ldm_edu.condition import Conditioning
from ldm_edu.families import TOY
from ldm_edu.models.unet import UNet
from ldm_edu.schedule import make_schedule
from ldm_edu.training.diffusion import DiffusionBatch, DiffusionTask, whole_batches
from ldm_edu.training.ema import Ema
from ldm_edu.training.loop import rng_for, train, trapezoid
from ldm_edu.training.recipes import UNetRecipe
from ldm_edu.training.state import load_state


def toy_task(lr: float = 1e-3) -> DiffusionTask:
    """A toy U-Net on random latents that depend on the step's generator alone."""
    torch.manual_seed(0)
    model = UNet(TOY.unet)

    def batches(rng: torch.Generator, n: int, progress: float) -> DiffusionBatch:
        return DiffusionBatch(
            torch.randn(n, 4, 8, 8, generator=rng), Conditioning(torch.randn(n, 3, 32, generator=rng))
        )

    schedule = make_schedule(TOY.schedule)
    recipe = UNetRecipe(steps=40, batch=4, lr=lr, decay=0.25, ema_decay=0.9, floor=0.0)
    return DiffusionTask(model, schedule, "v", whole_batches(batches, recipe.batch, schedule), recipe)


def weights(task: DiffusionTask) -> dict[str, torch.Tensor]:
    return {f"{name}.{k}": v.clone() for name, m in task.modules.items() for k, v in m.state_dict().items()}


def assert_equal(got: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert got.keys() == wanted.keys()
    assert [k for k in wanted if not torch.equal(got[k], wanted[k])] == []


def test_resumed_run_equals_the_unbroken_one_bit_for_bit(tmp_path: Path) -> None:
    unbroken = toy_task()
    list(train(unbroken, steps=6, seed=5))
    first = toy_task()
    for record in train(first, steps=6, seed=5, folder=tmp_path, save_every=2):
        if record.step == 5:  # saved after 4; steps 5 and 6 are done again
            break
    resumed = toy_task()
    assert [r.step for r in train(resumed, steps=6, seed=5, folder=tmp_path, save_every=2)] == [5, 6]
    assert_equal(weights(resumed), weights(unbroken))


def test_another_seed_gives_other_weights() -> None:
    a, b = toy_task(), toy_task()
    list(train(a, steps=1, seed=1))
    list(train(b, steps=1, seed=2))
    assert not torch.equal(a.model.conv_in.weight, b.model.conv_in.weight)


def test_a_damaged_state_is_refused_and_kept(tmp_path: Path) -> None:
    list(train(toy_task(), steps=1, seed=1, folder=tmp_path))
    path = tmp_path / "state.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    before = path.read_bytes()
    with pytest.raises(ValueError, match="damaged"):
        list(train(toy_task(), steps=2, seed=1, folder=tmp_path))
    assert path.read_bytes() == before


def test_a_state_of_another_preset_is_refused(tmp_path: Path) -> None:
    list(train(toy_task(), steps=1, seed=1, folder=tmp_path))
    other = toy_task()
    other.modules = {"unet": nn.Linear(2, 2)}
    with pytest.raises(ValueError, match="another task or preset") as refused:
        load_state(other, tmp_path)
    assert "(it has no module/unet/weight)" in str(refused.value) and len(str(refused.value)) < 300  # the first of many


def test_a_state_that_does_not_fit_changes_nothing(tmp_path: Path) -> None:
    saved, other = toy_task(), toy_task()
    list(train(saved, steps=1, seed=1, folder=tmp_path))
    other.ema.model.conv_in = nn.Conv2d(4, 8, 3)  # type: ignore[union-attr]
    before = weights(other)
    with pytest.raises(
        ValueError, match=r"\(module/ema/model\.conv_in\.weight has shape \(32, 4, 3, 3\), not \(8, 4, 3, 3\)\)"
    ):
        load_state(other, tmp_path)
    assert_equal(weights(other), before)
    other.ema.model.conv_in = None  # type: ignore[union-attr]
    with pytest.raises(ValueError, match=r"\('module/ema/model\.conv_in\.\w+' is unknown\)"):
        load_state(other, tmp_path)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_state(tmp_path: Path) -> None:
    task = toy_task()
    list(train(task, steps=2, seed=1, folder=tmp_path))
    before = (tmp_path / "state.safetensors").read_bytes()
    task.model.conv_in.weight.data.fill_(float("nan"))

    class Broken:
        modules, optimizers = task.modules, task.optimizers

        def step(self, step: int, progress: float, rng: torch.Generator) -> dict[str, float]:
            return {"loss": float("nan")}

    advice = "start anew in another --out with a lower --lr"
    with pytest.raises(ValueError, match=f"loss became nan .* at step 3, and the last saved step is 2; {advice}"):
        list(train(Broken(), steps=4, seed=1, folder=tmp_path))
    assert (tmp_path / "state.safetensors").read_bytes() == before
    with pytest.raises(ValueError, match=f"at step 1, and no step was saved; {advice}"):
        list(train(Broken(), steps=4, seed=1))


def test_a_state_beyond_the_last_step_is_refused(tmp_path: Path) -> None:
    list(train(toy_task(), steps=2, seed=1, folder=tmp_path))
    assert list(train(toy_task(), steps=2, seed=1, folder=tmp_path)) == []
    with pytest.raises(ValueError, match="has done 2 steps already; give --steps above 2, or another --out"):
        list(train(toy_task(), steps=1, seed=1, folder=tmp_path))


@pytest.mark.slow
def test_the_diffusion_task_learns() -> None:
    torch.manual_seed(0)
    task = toy_task(lr=3e-3)
    fixed = torch.randn(4, 4, 8, 8)
    batch = DiffusionBatch(fixed, Conditioning(torch.zeros(4, 3, 32)))
    task.source = whole_batches(lambda rng, n, progress: batch, 4, task.schedule)
    losses = [r.values["loss"] for r in train(task, steps=120, seed=1)]
    assert sum(losses[-20:]) < 0.5 * sum(losses[:20])


def test_steps_draw_different_numbers_and_runs_the_same() -> None:
    draws = [torch.rand(4, generator=rng_for(seed, step)) for seed in (1, 2) for step in (0, 1)]
    assert len({tuple(d.tolist()) for d in draws}) == 4
    assert torch.equal(draws[0], torch.rand(4, generator=rng_for(1, 0)))


def test_trapezoid_rises_stays_and_falls() -> None:
    factors = [trapezoid(step / 1000, step) for step in range(1000)]
    assert factors[0] < 0.05 and factors[100] == factors[700] == 1.0 and factors[-1] < 0.01


def test_ema_follows_fast_at_first_and_then_slowly() -> None:
    model = nn.Linear(1, 1, bias=False)
    ema = Ema(model, decay=0.9)
    model.weight.data.fill_(1.0)
    ema.model.weight.data.fill_(0.0)  # type: ignore[union-attr, operator]
    ema.update(model)
    assert ema.model.weight.item() == pytest.approx(0.9)  # type: ignore[union-attr, operator]  # decay 1/10
    ema.updates.fill_(10_000)
    ema.model.weight.data.fill_(0.0)  # type: ignore[union-attr, operator]
    ema.update(model)
    assert ema.model.weight.item() == pytest.approx(0.1)  # type: ignore[union-attr, operator]
