"""What a training run of a preset would take: operations, memory, traffic, days, money, and what failures cost.

Everything here is arithmetic on counts of the real networks (built without memory for their numbers) and on the figures
of a `Machine`, which are data sheets and published reports, not measurements of ours. `plan_report` makes tables of it.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from ldm_edu.condition import Conditioning
from ldm_edu.config import UNetPreset
from ldm_edu.models.clip import TextEncoder
from ldm_edu.models.unet import UNet
from ldm_edu.training.parallel import Way, checkpoint_blocks

GB = 1e9
PASSES = 3  # forward, and backward to the inputs and to the weights
STATE = {"weights": 4, "moments": 8, "average": 4}  # bytes a parameter, float32, as a state on disk has them
GRADIENT = 4
PUBLISHED = {256: 237_000, 512: 194_000 + 515_000 + 595_000}  # size: steps, by the model cards of 1-1, 1-2 and 1-5


@dataclass(frozen=True)
class Machine:
    """A node of a cluster, and what it costs."""

    gpu: str = "A100 40 GB"
    flops: float = 312e12  # bfloat16, dense, by NVIDIA's data sheet
    memory: float = 40 * GB
    per_node: int = 8
    link: float = 300 * GB  # bytes a second of one GPU within the node (NVLink 3, one direction)
    fabric: float = 50 * GB  # bytes a second of a node to the others (400 Gbit/s, as AWS gives its A100 nodes)
    disk: float = 2 * GB  # bytes a second to shared storage: an assumption
    hours_between_failures: float = 16_384 * 54 * 24 / 419  # of one GPU (Grattafiori et al. 2024, section 3.3.4)
    restart: float = 600.0  # seconds to notice, restart and read the state: an assumption
    price: float = 2.0  # dollars a GPU hour (MosaicML 2023: 79,000 hours for less than 160,000 dollars)


@dataclass(frozen=True)
class Counts:
    """What one training picture costs at one size."""

    flops: float  # of a step: forward and backward
    activations: float  # bytes kept for the backward pass
    recomputed: float  # the same with gradient checkpointing
    latents: int  # bytes in the cache
    text: int  # bytes of one caption's states in the cache
    text_flops: float  # of the text encoder, once


@dataclass(frozen=True)
class Step:
    """One step of a batch on some GPUs, in seconds."""

    own: int  # pictures a GPU
    micro: int  # of these at once; 0: not even one fits
    compute: float
    exchange: float  # of gradients, most of it hidden behind the backward pass

    @property
    def seconds(self) -> float:
        """The exchange runs beside the backward pass of the last micro-batch; what is longer than it is added."""
        last = self.micro / self.own if self.micro else 1.0
        return self.compute + max(0.0, self.exchange - last * self.compute * (PASSES - 1) / PASSES)


@dataclass(frozen=True)
class Failures:
    """How often a cluster fails, and what saving as often as is best then costs."""

    between: float  # seconds from one failure of any GPU to the next
    saving: float  # seconds a state takes
    every: float  # seconds between saved states
    lost: float  # share of all time: saving, work done twice, restarts


@lru_cache
def parameters(preset: UNetPreset) -> int:
    """Of the U-Net."""
    with torch.device("meta"):
        return sum(p.numel() for p in UNet(preset.unet).parameters())


@lru_cache
def counts(preset: UNetPreset, size: int) -> Counts:
    """Counted by running the networks on tensors without numbers.

    Activations are those of PyTorch's CPU kernels under bfloat16 autocast; a GPU's keep norms in float32 and so more.

    Raises
    ------
    ValueError
        if the preset has no latents or no text.
    """
    if preset.autoencoder is None or preset.text is None:
        raise ValueError(f"{preset.name} has no cached latents or no text; choose toy, shapes, emoji or sd15")
    config, text = preset.unet, preset.text
    side = size // preset.autoencoder.factor
    with torch.device("meta"), FlopCounterMode(display=False) as flops, torch.no_grad():
        UNet(config)(*_inputs(preset, 1, side))
    with torch.device("meta"), FlopCounterMode(display=False) as of_text, torch.no_grad():
        TextEncoder(text)(torch.zeros(1, text.length, dtype=torch.long))
    kept = [[_saved_bytes(preset, n, side, recompute) for n in (1, 2)] for recompute in (False, True)]
    plain, recomputed = (float(two - one) for one, two in kept)  # one more picture: bfloat16 copies of weights fall out
    return Counts(
        flops=PASSES * flops.get_total_flops(),
        activations=plain,
        recomputed=recomputed,
        latents=2 * config.in_channels * side * side,
        text=2 * text.length * text.width,
        text_flops=of_text.get_total_flops(),
    )


def _inputs(preset: UNetPreset, n: int, side: int) -> tuple[torch.Tensor, torch.Tensor, Conditioning]:
    assert preset.text is not None
    channels = preset.unet.in_channels
    context = torch.empty(n, preset.text.length, preset.text.width)
    return torch.empty(n, channels, side, side), torch.empty(n), Conditioning(context=context)


def _saved_bytes(preset: UNetPreset, n: int, side: int, recompute: bool) -> int:
    """What a forward pass keeps for the backward pass, the parameters themselves not counted."""
    found: dict[int, int] = {}
    alive = []  # a freed block's number could be given to another

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        block = tensor.untyped_storage()
        found[block._cdata] = block.nbytes()
        alive.append(tensor)
        return tensor

    with FakeTensorMode():
        model = UNet(preset.unet)
        if recompute:
            checkpoint_blocks(model)
        own = {p.untyped_storage()._cdata for p in model.parameters()}
        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16),
        ):
            model(*_inputs(preset, n, side))
    return sum(size for block, size in found.items() if block not in own)


def resident(preset: UNetPreset, way: Way, machine: Machine) -> float:
    """Bytes in each GPU before any activation: weights, gradients, moments, average, and bfloat16 copies of weights."""
    shares = machine.per_node if way == "fsdp" else 1
    return parameters(preset) * ((sum(STATE.values()) + GRADIENT) / shares + 2)


def exchange(preset: UNetPreset, gpus: int, way: Way, machine: Machine) -> float:
    """Seconds in which all GPUs have one another's gradients, and with FSDP the weights twice; as rings need them.

    Raises
    ------
    ValueError
        if there is no GPU.
    """
    _refuse_no_gpu(gpus)
    count, nodes = parameters(preset), -(-gpus // machine.per_node)
    inside = min(gpus, machine.per_node)
    across = 2 * (nodes - 1) / nodes * GRADIENT * count / machine.fabric
    if way == "ddp":
        return max(across, 2 * (inside - 1) / inside * GRADIENT * count / machine.link)
    moved = 2 * 2 + GRADIENT  # bfloat16 weights gathered forward and backward; float32 gradients scattered
    return across + moved * (inside - 1) / inside * count / machine.link


def step(
    preset: UNetPreset, size: int, batch: int, gpus: int, way: Way, machine: Machine, *, utilisation: float
) -> Step:
    """One step of ``batch`` pictures; ``utilisation`` is the share of the GPU's peak that the U-Net reaches.

    Raises
    ------
    ValueError
        if there is no GPU, or the batch cannot be shared evenly.
    """
    _refuse_no_gpu(gpus)
    if batch % gpus:
        raise ValueError(f"a batch of {batch} cannot be shared by {gpus} GPUs; give a number that divides it")
    own, each = batch // gpus, counts(preset, size)
    free = 0.9 * machine.memory - resident(preset, way, machine)  # a tenth for the allocator and the libraries
    fits = int(free // each.activations)
    micro = max((n for n in range(1, own + 1) if own % n == 0 and n <= fits), default=0)
    seconds = own * each.flops / (machine.flops * utilisation)
    return Step(own, micro, seconds, exchange(preset, gpus, way, machine))


def failures(preset: UNetPreset, gpus: int, machine: Machine) -> Failures:
    """Saving as often as costs least: every sqrt(2 saving between) seconds (Young 1974).

    Raises
    ------
    ValueError
        if there is no GPU.
    """
    _refuse_no_gpu(gpus)
    between = machine.hours_between_failures * 3600 / gpus
    saving = parameters(preset) * sum(STATE.values()) / machine.disk
    every = math.sqrt(2 * saving * between)
    return Failures(between, saving, every, saving / every + (every / 2 + machine.restart) / between)


def _refuse_no_gpu(gpus: int) -> None:
    if gpus < 1:
        raise ValueError(f"gpus={gpus} trains nothing; give at least 1")
