"""How quick a step of drawing is on a CPU: against `diffusers`, and at growing sizes.

A guided step is one run of the U-Net on two copies of the latents, the mix of both estimates, and a move of DDIM.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ldm_edu.condition import Conditioning
from ldm_edu.config import UNetConfig, UNetPreset
from ldm_edu.denoise import NetworkDenoiser
from ldm_edu.evaluate.bench import AGREE, OURS, best_clock, diffusers_unet, time_in_turn
from ldm_edu.evaluate.bench_samplers import their_scheduler
from ldm_edu.evaluate.record import Figure, Section
from ldm_edu.guidance import cfg
from ldm_edu.kernels.packed import pack
from ldm_edu.kernels.precision import quick_bfloat16
from ldm_edu.layouts.pair import convert
from ldm_edu.layouts.unet import unet_pairs
from ldm_edu.models.unet import UNet
from ldm_edu.samplers import ddim, initial_noise
from ldm_edu.schedule import levels, make_schedule

STEPS, GUIDANCE = 20, 7.5
SAME, DEFAULT = "diffusers, bfloat16 channels last", "diffusers, default float32"


def bench_step(preset: UNetPreset, *, size: int, rounds: int, seed: int = 0) -> Section:
    """Our guided step in bfloat16 against that of `diffusers`, in the same type and layout and as it comes.

    Before anything is timed, both must give the same latents in float32, and ours in bfloat16 must be as near to those
    as theirs.

    Raises
    ------
    ValueError
        if the preset does not draw from prompts alone, or not at that size; if `diffusers` is not installed, the preset
        has no counterpart there, or the outputs differ.
    """
    check_step(preset, size)
    torch.manual_seed(seed)
    x, contexts = step_inputs(preset, size, seed)
    plain = diffusers_unet(preset.unet).eval()
    halved = {name: tensor.bfloat16() for name, tensor in plain.state_dict().items()}
    tuned, ours = their_unet(preset.unet, halved), our_unet(preset.unet, halved)
    del halved
    pack(ours)

    actions = {
        OURS: guided_step(ours, preset, x, contexts),
        SAME: their_guided_step(tuned, preset, x, contexts),
        DEFAULT: their_guided_step(plain, preset, x, contexts),
    }
    wanted = actions[DEFAULT]()
    apart = {name: difference(step(), wanted) for name, step in actions.items()}
    exact = our_unet(preset.unet, plain.state_dict())
    apart["float32"] = difference(guided_step(exact, preset, x, contexts)(), wanted)
    del exact
    if apart["float32"] > AGREE or apart[OURS] > 2 * apart[SAME] + AGREE:
        raise ValueError(f"the latents after a step differ too much, by these shares of their scale: {apart}")

    clock, clock_name = best_clock()
    seconds = time_in_turn(actions, rounds, clock)
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    once = statistics.median(time_in_turn({"": lambda: prepare(ours, preset, contexts)}, rounds, clock)[""])
    return Section(
        f"A guided step of {preset.name} at {size} px",
        OURS,
        [
            Figure("median step", 1000 * medians[OURS], rounds, {n: 1000 * medians[n] for n in (SAME, DEFAULT)}, "ms"),
            Figure("times as fast, bfloat16 channels last both", ratio(seconds, SAME, OURS), rounds, {}, goal=1.1),
            Figure("times as fast as its default float32", ratio(seconds, DEFAULT, OURS), rounds, {}, goal=1.8),
            Figure(f"once a run of {STEPS} steps: context and times", 1000 * once, rounds, {}, "ms"),
        ],
        f"U-Net on two copies of the latents, guidance, DDIM; one picture, random weights, the same in all. Latents "
        f"agree to {apart['float32']:.1e} of their scale in float32; in bfloat16 they are {apart[OURS]:.1e} (ours) and "
        f"{apart[SAME]:.1e} (diffusers) away from float32's. ldm-edu: weights packed, keys and values of the context "
        f"and time embeddings computed once a run. Timed in turn in one process, {clock_name}; ratios are medians over "
        "N rounds.",
    )


def bench_sizes(preset: UNetPreset, *, sizes: tuple[int, int], rounds: int, seed: int = 0) -> Section:
    """Our guided step at two sizes, and what the growth of its arithmetic alone would cost.

    In bfloat16, or in float32 on a processor that only imitates bfloat16.

    Raises
    ------
    ValueError
        if the preset does not draw from prompts alone, or not at those sizes.
    """
    for size in sizes:
        check_step(preset, size)
    torch.manual_seed(seed)
    dtype = torch.bfloat16 if quick_bfloat16() else torch.float32
    unet = UNet(preset.unet).eval().to(dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    pack(unet)
    steps = {size: guided_step(unet, preset, *step_inputs(preset, size, seed)) for size in sizes}
    return growth(preset, steps, rounds, kind=str(dtype).removeprefix("torch."))


def growth(
    preset: UNetPreset, steps: Mapping[int, Callable[[], object]], rounds: int, burst: int = 1, kind: str = "bfloat16"
) -> Section:
    """Guided steps at two sizes, the smaller first, timed in turn; each function takes ``burst`` steps.

    ``kind``: of numbers, in words.
    """
    small, large = steps
    clock, clock_name = best_clock() if burst == 1 else (time.perf_counter, "wall time")
    seconds = time_in_turn({str(size): step for size, step in steps.items()}, rounds, clock)
    medians = {size: 1000 * statistics.median(seconds[str(size)]) / burst for size in steps}
    work = {size: sum(step_flops(preset, size).values()) for size in steps}
    cost, beside = ratio(seconds, str(large), str(small)), {f"{small} px": medians[small]}
    return Section(
        f"A guided step of {preset.name} at {large} px",
        f"{large} px",
        [
            Figure("median step", medians[large], rounds, beside, "ms"),
            Figure(f"times the cost of {small} px", cost, rounds, {}, goal=6.4, better="lower"),
            Figure("times its arithmetic", work[large] / work[small], 1, {}),
            Figure("TFLOP a step", work[large] / 1e12, 1, {f"{small} px": work[small] / 1e12}),
        ],
        f"{kind}, one picture with guidance; in turn, {clock_name}.",
    )


def check_step(preset: UNetPreset, size: int) -> None:
    """Whether a step from noise and a context alone is one of this preset, at ``size`` pixels.

    Raises
    ------
    ValueError
        if its U-Net reads a picture beside the latents, or the size is no multiple of what both networks halve it to.
    """
    beside = preset.unet.in_channels - preset.unet.out_channels
    if beside:
        raise ValueError(
            f"{preset.name} reads {beside} channels of a given picture beside the latents, and none is given here; "
            "take a preset that draws from prompts alone, such as sd15"
        )
    _check_size(preset, size)


def _check_size(preset: UNetPreset, size: int) -> None:
    multiple = preset.unet.factor * (preset.autoencoder.factor if preset.autoencoder else 1)
    if size < 1 or size % multiple:
        below = max(multiple, size // multiple * multiple)
        raise ValueError(
            f"a side of {size} pixels does not fit: {preset.name} draws multiples of {multiple}, such as {below}"
        )


def step_inputs(preset: UNetPreset, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noise (1, C, h, w) for a picture of ``size`` pixels, and two contexts (2, L, D), the blank one first.

    Raises
    ------
    ValueError
        if the size is not a multiple of what both networks halve it to.
    """
    _check_size(preset, size)
    factor, length = preset.autoencoder.factor if preset.autoencoder else 1, preset.text.length if preset.text else 1
    rng = torch.Generator().manual_seed(seed)
    x = initial_noise([seed], (preset.unet.in_channels, size // factor, size // factor))
    return x, torch.randn(2, length, preset.unet.context_dim or 1, generator=rng)


def our_unet(config: UNetConfig, theirs: dict[str, Tensor]) -> UNet:
    """Our U-Net with the weights of a `diffusers` network, channels last."""
    with torch.device("meta"):
        unet = UNet(config).eval()
    unet.load_state_dict(convert(theirs, unet_pairs(config)), assign=True)
    return unet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def their_unet(config: UNetConfig, weights: dict[str, Tensor]) -> Any:
    """`diffusers`' U-Net with these weights, channels last."""
    with torch.device("meta"):
        unet = diffusers_unet(config).eval()
    unet.load_state_dict(weights, assign=True)
    return unet.to(memory_format=torch.channels_last)


def guided_step(unet: UNet, preset: UNetPreset, x: Tensor, contexts: Tensor) -> Callable[[], Tensor]:
    """The first step of a run as a function that returns the latents after it; the first call prepares the run."""
    run = levels(make_schedule(preset.schedule), STEPS, "leading", "first")
    blank, cond = (
        NetworkDenoiser(unet, preset.prediction, Conditioning(context=part), run) for part in contexts.split(1)
    )
    guided = cfg(cond, blank, GUIDANCE)
    return lambda: next(ddim(guided, x, run[:2])).x


def prepare(unet: UNet, preset: UNetPreset, contexts: Tensor) -> None:
    """What is computed once a run: keys and values of both contexts, and the time embeddings of all steps."""
    run = levels(make_schedule(preset.schedule), STEPS, "leading", "first")
    with torch.no_grad():
        times = torch.stack([level.t for level in run[:-1]]).float()
        unet.prepare(Conditioning(context=contexts.to(unet.conv_in.weight.dtype)), times)


def their_guided_step(unet: Any, preset: UNetPreset, x: Tensor, contexts: Tensor) -> Callable[[], Tensor]:
    """The same step with `diffusers`' U-Net and scheduler."""
    scheduler = their_scheduler("ddim", preset.prediction, steps_offset=1, set_alpha_to_one=False)
    scheduler.set_timesteps(STEPS, device=x.device)
    t, contexts = scheduler.timesteps[0], contexts.to(unet.dtype)

    @torch.no_grad()
    def step() -> Tensor:
        out = unet(torch.cat([x, x]).to(unet.dtype), t, encoder_hidden_states=contexts).sample
        blank, cond = out.to(x.dtype).chunk(2)
        return scheduler.step(blank + GUIDANCE * (cond - blank), t, x).prev_sample

    return step


def step_flops(preset: UNetPreset, size: int) -> dict[str, float]:
    """Floating-point operations of the U-Net's run in a guided step, by kind; a multiply-add is two.

    They are counted on PyTorch's ``meta`` device, where nothing is computed. What is done once a run is left out.
    """
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        x, contexts = (tensor.to("meta") for tensor in step_inputs(preset, size, 0))
        unet = UNet(preset.unet)
        (prepared,) = unet.prepare(Conditioning(context=contexts), torch.zeros(1))
        before = dict(counter.get_flop_counts()["Global"])
        unet.step(torch.cat([x, x]), prepared)
        counts = counter.get_flop_counts()["Global"]
    kinds = {"convolution": "convolutions", "mm": "linear maps", "addmm": "linear maps", "bmm": "attention"}
    flops = dict.fromkeys(kinds.values(), 0.0)
    for operator, count in counts.items():
        flops[kinds[str(operator).removeprefix("aten.")]] += count - before.get(operator, 0)
    return flops


def ratio(seconds: dict[str, list[float]], over: str, under: str) -> float:
    """The median over the rounds of one action's time by another's: what disturbs a round disturbs both."""
    return statistics.median(a / b for a, b in zip(seconds[over], seconds[under], strict=True))


def difference(got: Tensor, wanted: Tensor) -> float:
    """The largest difference, relative to the scale of what is wanted."""
    return float((got - wanted).abs().max() / wanted.abs().max())
