"""Which time a network is told in training: that of the level which it sees, as in sampling, whatever the schedule."""

import dataclasses
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
from ldm_edu.training.loop import rng_for
from ldm_edu.training.parallel import shard
from ldm_edu.training.recipes import UNetRecipe
from ldm_edu.training.scale import ScaledTask, Share
from ldm_edu.training.tasks import BaseTask, DiffusionBatch, DiffusionTask

FLOW = ScheduleConfig(kind="flow", steps=4, shift=3.0)
RECIPE = UNetRecipe(steps=4, batch=64, lr=1e-3)


def on_random_latents(schedule: ScheduleConfig) -> DiffusionTask:
    def batches(rng: torch.Generator, n: int, progress: float) -> DiffusionBatch:
        return DiffusionBatch(
            torch.randn(n, 4, 4, 4, generator=rng), Conditioning(torch.randn(n, 3, 32, generator=rng))
        )

    kind = "flow" if schedule is FLOW else "eps"
    return DiffusionTask(UNet(TOY.unet), make_schedule(schedule), kind, batches, RECIPE)


class NoCache(Cache):
    """Random latents, and text states that say nothing."""

    def __init__(self) -> None:
        self._texts, self._members = torch.zeros(8, dtype=torch.long), [torch.arange(8)]

    def latents(self, bucket: int, rows: object) -> Tensor:
        return torch.randn(len(rows), 4, 4, 4)  # type: ignore[arg-type]

    def states(self, captions: object) -> Tensor:
        return torch.zeros(len(captions), 3, 32)  # type: ignore[arg-type]


def on_a_cache(schedule: ScheduleConfig) -> ScaledTask:
    preset = dataclasses.replace(TOY, schedule=schedule, prediction="flow" if schedule is FLOW else "eps")
    order = Order([8], batch=64, steps=4, seed=1)
    return ScaledTask(UNet(TOY.unet), preset, NoCache(), order, RECIPE, Share(64), precision="fp32")


def seen(task: DiffusionTask | ScaledTask, monkeypatch: pytest.MonkeyPatch) -> tuple[Tensor, Tensor, NoiseSchedule]:
    """The times that one step draws, and those that it tells the network."""
    drawn, told = [], []
    schedule, level = task.schedule, task.schedule.level
    monkeypatch.setattr(schedule, "level", lambda t: (drawn.append(t), level(t))[1])
    task.model.register_forward_pre_hook(lambda module, args: told.append(args[1]))
    task.step(0, 0.0, rng_for(1, 0))
    return torch.as_tensor(drawn[0]), told[0], schedule


@pytest.mark.parametrize("make", [on_random_latents, on_a_cache])
def test_a_shifted_flow_tells_the_shifted_time(make: type[BaseTask], monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, told, schedule = seen(make(FLOW), monkeypatch)  # type: ignore[arg-type,call-arg]
    assert set(drawn.tolist()) == {1, 2, 3, 4}  # from the first time to the last
    assert torch.equal(told, schedule.level(drawn).t.float())
    assert not torch.equal(told, drawn.float())
    assert told.dtype == torch.float32


@pytest.mark.parametrize("make", [on_random_latents, on_a_cache])
def test_a_chain_tells_the_times_that_it_draws(make: type[BaseTask], monkeypatch: pytest.MonkeyPatch) -> None:
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
            model(torch.randn(2, 4, 8, 8), torch.tensor([997.0, 999.0]), torch.randn(2, 3, 32))
    finally:
        dist.destroy_process_group()
    assert told[0].tolist() == [997.0, 999.0]  # in bfloat16 both are 1000
