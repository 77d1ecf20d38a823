"""Which time a network is told in training: that of the level which it sees, as in sampling, whatever the schedule."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh

from ldm_edu.condition import Conditioning
from ldm_edu.config import ScheduleConfig
from ldm_edu.families import TOY
from ldm_edu.models import unet as module
from ldm_edu.models.unet import UNet
from ldm_edu.schedule import NoiseSchedule, make_schedule
from ldm_edu.training.buckets import Order
from ldm_edu.training.cache import Cache
from ldm_edu.training.cached import CachedBatches
from ldm_edu.training.diffusion import DiffusionBatch, DiffusionTask, Share, whole_batches
from ldm_edu.training.loop import rng_for
from ldm_edu.training.parallel import shard
from ldm_edu.training.recipes import UNetRecipe

FLOW = ScheduleConfig(kind="flow", steps=4, shift=3.0)
Make = Callable[[ScheduleConfig], DiffusionTask]
RECIPE = UNetRecipe(steps=4, batch=64, lr=1e-3)


def on_random_latents(schedule: ScheduleConfig) -> DiffusionTask:
    def batches(rng: torch.Generator, n: int, progress: float) -> DiffusionBatch:
        return DiffusionBatch(
            torch.randn(n, 4, 4, 4, generator=rng), Conditioning(torch.randn(n, 3, 32, generator=rng))
        )

    kind = "flow" if schedule is FLOW else "eps"
    process = make_schedule(schedule)
    return DiffusionTask(UNet(TOY.unet), process, kind, whole_batches(batches, RECIPE.batch, process), RECIPE)


class NoCache(Cache):
    """Random latents, and text states that say nothing."""

    def __init__(self) -> None:
        self._texts, self._members = torch.zeros(8, dtype=torch.long), [torch.arange(8)]

    def latents(self, bucket: int, rows: object) -> Tensor:
        return torch.randn(len(rows), 4, 4, 4)  # type: ignore[arg-type]

    def states(self, captions: object) -> Tensor:
        return torch.zeros(len(captions), 3, 32)  # type: ignore[arg-type]


def on_a_cache(schedule: ScheduleConfig) -> DiffusionTask:
    order, process = Order([8], batch=64, steps=4, seed=1), make_schedule(schedule)
    source = CachedBatches(NoCache(), order, process, Share(64), RECIPE.drop)
    return DiffusionTask(UNet(TOY.unet), process, "flow" if schedule is FLOW else "eps", source, RECIPE)


def seen(task: DiffusionTask, monkeypatch: pytest.MonkeyPatch) -> tuple[Tensor, Tensor, NoiseSchedule]:
    """The times that one step draws, and those that it tells the network."""
    drawn, told = [], []
    schedule, level = task.schedule, task.schedule.level
    monkeypatch.setattr(schedule, "level", lambda t: (drawn.append(t), level(t))[1])
    task.model.register_forward_pre_hook(lambda module, args: told.append(args[1]))
    task.step(0, 0.0, rng_for(1, 0))
    return torch.as_tensor(drawn[0]), told[0], schedule


@pytest.mark.parametrize("make", [on_random_latents, on_a_cache])
def test_a_shifted_flow_tells_the_shifted_time(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, told, schedule = seen(make(FLOW), monkeypatch)  # type: ignore[arg-type,call-arg]
    assert set(drawn.tolist()) == {1, 2, 3, 4}  # from the first time to the last
    assert torch.equal(told, schedule.level(drawn).t.float())
    assert not torch.equal(told, drawn.float())
    assert told.dtype == torch.float32


@pytest.mark.parametrize("make", [on_random_latents, on_a_cache])
def test_a_chain_tells_the_times_that_it_draws(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, told, _ = seen(make(TOY.schedule), monkeypatch)  # type: ignore[arg-type,call-arg]
    assert torch.equal(told, drawn.float()) and 0 <= int(drawn.min()) <= 15 and 984 <= int(drawn.max()) <= 999
    embedding = module.timestep_embedding
    assert torch.equal(embedding(told, 32), embedding(drawn, 32))  # fractions are new, whole times as they were


def test_shares_of_the_weights_in_bfloat16_are_told_whole_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []
    embedding = module.timestep_embedding
    monkeypatch.setattr(module, "timestep_embedding", lambda t, width: (told.append(t), embedding(t, width))[1])
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    try:
        model: nn.Module = UNet(TOY.unet)
        shard(model, init_device_mesh("cpu", (1,)), "bf16")  # type: ignore[arg-type]
        with torch.autocast("cpu", torch.bfloat16):
            model(torch.randn(2, 4, 8, 8), torch.tensor([997.0, 999.0]), Conditioning(torch.randn(2, 3, 32)))
    finally:
        dist.destroy_process_group()
    assert told[0].tolist() == [997.0, 999.0]  # in bfloat16 both are 1000
