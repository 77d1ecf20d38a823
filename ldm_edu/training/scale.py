"""The U-Net on a cache of latents, in one process or in many: the same batch, the same noise, the same curve.

A step's batch is fixed by (seed, step) and has ``batch`` pictures whatever the number of processes: each takes its
share of the places, in micro-batches that fit its memory. Every place has a random state of its own, drawn from the
step's generator, so a process draws only what its places need and still sees what one process alone would see.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm_edu.condition import Conditioning
from ldm_edu.config import UNetPreset
from ldm_edu.models.unet import UNet
from ldm_edu.prediction import network_input, target
from ldm_edu.schedule import add_noise, make_schedule
from ldm_edu.training.buckets import Order
from ldm_edu.training.cache import BLANK, Cache
from ldm_edu.training.ema import Ema
from ldm_edu.training.losses import diffusion_loss
from ldm_edu.training.parallel import Precision, Way, checkpoint_blocks, gathering_gradients, parallelize, total
from ldm_edu.training.recipes import UNetRecipe
from ldm_edu.training.tasks import BaseTask


@dataclass(frozen=True)
class Share:
    """Which places of a batch are this process's, and how many it computes at once."""

    batch: int  # pictures a step, over all processes
    rank: int = 0
    world: int = 1  # processes
    micro: int | None = None  # pictures at once in one process; None: its whole share
    per_node: int = 1  # processes on one machine

    def __post_init__(self) -> None:
        """Check that the batch can be shared out evenly.

        Raises
        ------
        ValueError
            if not, with batches that can.
        """
        part = self.world * (self.micro or 1)
        if self.batch % part or self.batch < part:
            near = sorted({max(part, self.batch // part * part), (self.batch // part + 1) * part})
            at_once = f" with {self.micro} pictures at once in each" if self.micro else ""
            raise ValueError(
                f"a batch of {self.batch} cannot be shared by {self.world} processes{at_once}; give --batch "
                f"{' or '.join(map(str, near))}"
            )

    @property
    def own(self) -> int:
        """Pictures a step in this process."""
        return self.batch // self.world

    def micro_batches(self) -> Iterator[range]:
        """The places of this process, a micro-batch at a time; its own are every ``world``-th run of ``micro``."""
        size = self.micro or self.own
        for turn in range(self.own // size):
            first = (turn * self.world + self.rank) * size
            yield range(first, first + size)


@dataclass(frozen=True)
class Placed:
    """One micro-batch: what the network is to be told, and what it is to undo."""

    x0: Tensor  # (b, C, h, w)
    cond: Conditioning
    t: Tensor  # (b,) the schedule's times; the network is told those of their levels
    eps: Tensor  # (b, C, h, w)


class ScaledTask(BaseTask):
    """Predict the noise in cached latents (Ho et al. 2020, algorithm 1), in any number of processes.

    Gradients of micro-batches are added up and exchanged once a step. Times are spread evenly over the whole batch
    (Kingma et al. 2021, appendix I.1).

    Parameters
    ----------
    model
        the U-Net on its device; it is wrapped for ``share.world`` processes as ``way`` says.
    ema
        its averaged copy.
    """

    def __init__(
        self,
        model: UNet,
        preset: UNetPreset,
        cache: Cache,
        order: Order,
        recipe: UNetRecipe,
        share: Share,
        *,
        way: Way = "ddp",
        precision: Precision = "bf16",
        recompute: bool = False,
    ) -> None:
        self.preset, self.cache, self.order, self.recipe, self.share = preset, cache, order, recipe, share
        self.schedule, self.bf16 = make_schedule(preset.schedule), precision == "bf16"
        self.model, self.ema = model, Ema(model, recipe.ema_decay)
        device = model.conv_in.weight.device
        if recompute:
            checkpoint_blocks(model)
        self.called = parallelize(model, way, device, precision, per_node=share.per_node)
        if way == "fsdp":
            parallelize(self.average, way, device, precision, per_node=share.per_node)
        self._setup({"unet": model}, recipe.lr, weight_decay=0.01, decay=recipe.decay, warmup=recipe.warmup)
        self.device = device
        self.modules["ema"] = self.ema

    @property
    def average(self) -> UNet:
        """The averaged U-Net, from which samples are drawn."""
        averaged: UNet = self.ema.model  # type: ignore[assignment]
        return averaged

    def step(self, step: int, progress: float, rng: torch.Generator) -> dict[str, float]:
        """One update on a batch of all processes together."""
        batch, kind = self.share.batch, self.preset.prediction
        seeds = torch.randint(2**62, (batch,), generator=rng).tolist()
        self.optimizers["unet"].zero_grad()
        sums = torch.zeros(2, 3, device=self.device)  # of the losses and of their number, a third of the times each
        parts = list(self.share.micro_batches())
        for turn, places in enumerate(parts):
            placed = self._place(step, places, [seeds[place] for place in places])
            level = self.schedule.level(placed.t).to(self.device)
            x = add_noise(placed.x0, placed.eps, level).to(memory_format=torch.channels_last)
            wanted = target(kind, placed.x0, placed.eps, level)
            with gathering_gradients(self.called, last=turn == len(parts) - 1):
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                    seen = network_input(kind, x, level)
                    out = self.called(seen, level.t.to(self.device, torch.float32), placed.cond)
                each = diffusion_loss(kind, out, wanted, level, self.recipe.gamma, self.recipe.floor)  # (b,)
                (each.sum() / self.share.own).backward()  # processes average: together the mean over the batch
            third = torch.tensor([3 * place // batch for place in places], device=self.device)
            sums.index_add_(1, third, torch.stack([each.detach(), torch.ones_like(each)]))
        self._descend("unet", step, progress)
        self.ema.update(self.model)
        losses, counts = total(sums).tolist()
        values = {"loss": sum(losses) / batch}
        names = ("loss_clean", "loss_middle", "loss_noise")
        return values | {n: loss / count for n, loss, count in zip(names, losses, counts, strict=True) if count}

    def _place(self, step: int, places: range, seeds: list[int]) -> Placed:
        bucket, rows = self.order.at(step)
        rows = rows[places.start : places.stop]
        x0 = self.cache.latents(bucket, rows)
        captions = self.cache.captions(bucket, rows).tolist()
        texts, times, noise = [], [], []
        for place, caption, seed in zip(places, captions, seeds, strict=True):
            rng = torch.Generator().manual_seed(seed)
            drop, u = torch.rand(2, generator=rng).tolist()
            texts.append(BLANK if drop < self.recipe.drop else caption)
            times.append(self.schedule.first + int((place + u) / self.share.batch * self.schedule.steps))
            noise.append(torch.randn(x0.shape[1:], generator=rng))
        context = self.cache.states(texts)
        return Placed(
            x0.to(self.device),
            Conditioning(context=context.to(self.device)),
            torch.tensor(times),
            torch.stack(noise).to(self.device),
        )
