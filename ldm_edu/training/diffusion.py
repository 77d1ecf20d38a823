"""Diffusion training: predict the noise in noisy samples, in one process or in many, from memory or from a cache."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from ldm_edu.condition import UNCONDITIONAL, Conditioning
from ldm_edu.config import Prediction
from ldm_edu.kernels.precision import quick_bfloat16
from ldm_edu.models.network import Network, weight_of
from ldm_edu.prediction import network_input, target
from ldm_edu.schedule import NoiseSchedule, add_noise
from ldm_edu.training.ema import Ema
from ldm_edu.training.losses import diffusion_loss
from ldm_edu.training.parallel import Precision, Way, checkpoint_blocks, gathering_gradients, parallelize, total
from ldm_edu.training.recipes import UNetRecipe
from ldm_edu.training.tasks import BaseTask


@dataclass(frozen=True)
class DiffusionBatch:
    """Clean samples, and the condition that belongs to each."""

    x0: Tensor  # (B, C, h, w)
    cond: Conditioning = UNCONDITIONAL


@dataclass(frozen=True)
class Noised:
    """One micro-batch: what the network is shown, and what noise the network is to find."""

    x0: Tensor  # (b, C, h, w)
    cond: Conditioning
    t: Tensor  # (b,) the schedule's times; the network reads those of their levels
    eps: Tensor  # (b, C, h, w)
    places: range  # of the pictures in the whole batch of the step; times rise with the place


class Source(Protocol):
    """Where the micro-batches of a step come from."""

    def __call__(self, step: int, progress: float, rng: torch.Generator) -> Iterator[Noised]:
        """This process's micro-batches of a step, one after another."""
        ...


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

    @property
    def turns(self) -> int:
        """Micro-batches a step in this process."""
        return self.own // (self.micro or self.own)


class DiffusionTask(BaseTask):
    """Predict the noise (or v, x0, flow) in noisy samples (Ho et al. 2020, algorithm 1).

    Conditions are dropped by the source, for classifier-free guidance (Ho and Salimans 2022, algorithm 1). Gradients of
    micro-batches are added up and exchanged between processes once a step.

    Parameters
    ----------
    network
        on its device; it is wrapped for ``share.world`` processes as ``way`` says.
    source
        `whole_batches` of data in memory, or `ldm_edu.training.cached.CachedBatches`.
    encoder
        a text encoder that is trained along (Rombach et al. 2022), or a table of classes.
    share
        which part of a batch is this process's; None: all of it.
    precision
        None: bfloat16 where the processor is quicker so.
    recompute
        gradient checkpointing: less memory for a third more computing.

    Raises
    ------
    ValueError
        if the network predicts a variance too, which this loss does not train.
    """

    def __init__(
        self,
        network: Network,
        schedule: NoiseSchedule,
        prediction: Prediction,
        source: Source,
        recipe: UNetRecipe,
        *,
        encoder: nn.Module | None = None,
        share: Share | None = None,
        way: Way = "ddp",
        precision: Precision | None = None,
        recompute: bool = False,
    ) -> None:
        _refuse_learned_variance(network)
        model: nn.Module = network  # type: ignore[assignment]
        self.model, self.schedule, self.prediction = model, schedule, prediction
        self.source, self.recipe, self.share = source, recipe, share or Share(recipe.batch)
        device = weight_of(network).device
        self.bf16 = quick_bfloat16(device.type) if precision is None else precision == "bf16"
        learned: nn.Module = nn.ModuleDict({"unet": model, "text": encoder}) if encoder else model
        self.learned, self.ema = learned, Ema(learned, recipe.ema_decay)
        if recompute:
            checkpoint_blocks(model)
        kind: Precision = "bf16" if self.bf16 else "fp32"
        self.called = parallelize(model, way, device, kind, per_node=self.share.per_node)
        if way == "fsdp":
            parallelize(self.ema.model, way, device, kind, per_node=self.share.per_node)
        self._setup({"unet": learned}, recipe.lr, weight_decay=0.01, decay=recipe.decay, warmup=recipe.warmup)
        self.device, self.modules["ema"] = device, self.ema

    def step(self, step: int, progress: float, rng: torch.Generator) -> dict[str, float]:
        """One update on a batch of all processes together."""
        self.optimizers["unet"].zero_grad()
        sums = torch.zeros(2, 3, device=self.device)  # of the losses and of their number, a third of the times each
        for turn, part in enumerate(self.source(step, progress, rng)):
            x0, eps = part.x0.to(self.device), part.eps.to(self.device)
            level = self.schedule.level(part.t).to(self.device)
            x = network_input(self.prediction, add_noise(x0, eps, level), level)
            wanted = target(self.prediction, x0, eps, level)  # (b, C, h, w)
            with gathering_gradients(self.called, last=turn == self.share.turns - 1):
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                    t = level.t.to(self.device, torch.float32)  # (b,)
                    out = self.called(x.to(memory_format=torch.channels_last), t, part.cond.to(self.device))
                recipe = self.recipe
                each = diffusion_loss(self.prediction, out, wanted, level, recipe.gamma, recipe.floor)  # (b,)
                (each.sum() / self.share.own).backward()  # processes average: together the mean over the batch
            third = torch.tensor([3 * place // self.share.batch for place in part.places], device=self.device)
            sums.index_add_(1, third, torch.stack([each.detach(), torch.ones_like(each)]))
        self._descend("unet", step, progress)
        self.ema.update(self.learned)
        losses, counts = total(sums).tolist()
        values = {"loss": sum(losses) / self.share.batch}
        names = ("loss_clean", "loss_middle", "loss_noise")
        return values | {n: loss / count for n, loss, count in zip(names, losses, counts, strict=True) if count}


def whole_batches(
    draw: Callable[[torch.Generator, int, float], DiffusionBatch], batch: int, schedule: NoiseSchedule
) -> Source:
    """Batches of data in memory, each in one piece.

    Times are spread evenly over the batch (Kingma et al. 2021, appendix I.1), which lowers the variance of the loss.

    Parameters
    ----------
    draw
        ``draw(rng, batch, progress)`` gives clean samples and their conditions.
    """

    def source(step: int, progress: float, rng: torch.Generator) -> Iterator[Noised]:
        drawn = draw(rng, batch, progress)
        n = len(drawn.x0)
        u = (torch.arange(n) + torch.rand(n, generator=rng)) / n  # stratified in [0, 1)
        t = schedule.first + (u * schedule.steps).long()  # (B,)
        yield Noised(drawn.x0, drawn.cond, t, torch.randn(drawn.x0.shape, generator=rng), range(n))

    return source


def _refuse_learned_variance(network: Network) -> None:
    if getattr(getattr(network, "config", None), "learned_variance", False):
        raise ValueError(
            "this network predicts a variance too, which this training does not teach; build the network with "
            "learned_variance=False"
        )
