"""How quick a GPU draws and trains at Stable Diffusion's size, as a share of what its arithmetic units can do.

The roof is measured, not read off a data sheet: bfloat16 products of big square matrices. (No numbers of these are
recorded yet: they wait for a GPU. The tests run all of it at toy size but for the compiler, on a second device that is
made of the CPU.)
"""

import copy
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from ldm_edu.config import UNetPreset
from ldm_edu.evaluate.bench import AGREE, StepInput, diffusers_unet, forward_of, time_in_turn, training_step
from ldm_edu.evaluate.bench_step import (
    check_step,
    difference,
    growth,
    guided_step,
    our_unet,
    step_flops,
    step_inputs,
    their_guided_step,
    their_unet,
)
from ldm_edu.evaluate.record import Figure, Section
from ldm_edu.kernels.graphs import record_launches
from ldm_edu.kernels.packed import fuse
from ldm_edu.model import LatentDiffusion
from ldm_edu.models.unet import UNet
from ldm_edu.samplers import ddim

Part = Literal["all", "step", "picture", "training"]
EAGER, GRAPH, COMPILED = "as it is", "CUDA graph", "compiled, CUDA graph"
THEIRS, THEIRS_OVERHEAD, THEIRS_TUNED = "diffusers", "diffusers, reduce-overhead", "diffusers, max-autotune"
OUR_COMPILER: dict[str, Any] = {"mode": "max-autotune-no-cudagraphs", "fullgraph": True}  # the graph is ours
THEIR_COMPILERS: dict[str, dict[str, Any]] = {
    THEIRS_OVERHEAD: {"mode": "reduce-overhead", "fullgraph": True},
    THEIRS_TUNED: {"mode": "max-autotune", "fullgraph": True},
}
BURST = 5  # steps between two looks at the clock: a sampler does not wait for the GPU after each either
KINDS = {  # PyTorch's operators by what `step_flops` calls them
    "convolutions": ("aten::convolution", "aten::cudnn_convolution", "aten::mkldnn_convolution"),
    "linear maps": ("aten::mm", "aten::addmm", "aten::linear"),
    "attention": ("aten::_scaled_dot_product", "aten::_flash_attention", "aten::_efficient_attention", "aten::bmm"),
}


def bench_gpu(
    preset: UNetPreset, part: Part, *, size: int, rounds: int, device: str = "cuda", matrix: int = 8192
) -> Iterator[Section]:
    """One part or all, one section after another, so that what is measured can be kept if a later one fails.

    Raises
    ------
    ValueError
        if there is no such device, the size or the preset does not fit, `diffusers` is not installed, or outputs
        differ.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("PyTorch finds no GPU here; ldm-edu bench step and sizes measure a CPU")
    check_step(preset, size)
    roof = matmul_roof(device, matrix, rounds)
    if part in ("all", "step"):
        yield bench_step(preset, roof, size=size, rounds=rounds, device=device)
        yield where_it_goes(preset, roof, size=size, device=device)
        yield bench_growth(preset, sizes=(size, 2 * size), rounds=rounds, device=device)
    if part in ("all", "picture"):
        yield bench_picture(preset, size=size, rounds=rounds, device=device)
    if part in ("all", "training"):
        for side, batch in ((size // 2, 64), (size, 16)):
            yield bench_training(preset, roof, size=side, batch=batch, rounds=rounds, device=device)


def matmul_roof(device: str, side: int, rounds: int) -> float:
    """Operations a second of bfloat16 products of square matrices; the best of some rounds."""
    a, b = (torch.randn(side, side, device=device).bfloat16() for _ in range(2))
    seconds = time_in_turn({"": finished(lambda: [a @ b for _ in range(10)], device)}, rounds)[""]
    return 10 * 2 * side**3 / min(seconds)


def bench_step(preset: UNetPreset, roof: float, *, size: int, rounds: int, device: str, seed: int = 0) -> Section:
    """Our guided step in three forms against that of `diffusers`, as it is and compiled; in bfloat16, channels last.

    Raises
    ------
    ValueError
        if ours are not as near to float32's latents as theirs.
    """
    torch.manual_seed(seed)
    x, contexts = (tensor.to(device) for tensor in step_inputs(preset, size, seed))
    plain = diffusers_unet(preset.unet).eval().to(device)
    halved = {name: tensor.bfloat16() for name, tensor in plain.state_dict().items()}
    wanted = their_guided_step(plain, preset, x, contexts)()
    del plain

    steps: dict[str, Callable[[], Tensor]] = {}
    for form in (EAGER, GRAPH, COMPILED):
        unet = our_unet(preset.unet, halved)
        if form != EAGER:
            ready(unet, "step", compiled=form == COMPILED)
        steps[form] = guided_step(unet, preset, x, contexts)
    steps[THEIRS] = their_guided_step(their_unet(preset.unet, halved), preset, x, contexts)
    for form, how in THEIR_COMPILERS.items():
        theirs = their_unet(preset.unet, halved)
        theirs.compile(**how)
        steps[form] = their_guided_step(theirs, preset, x, contexts)
    apart = {form: difference(step(), wanted) for form, step in steps.items()}
    if max(apart[form] for form in (EAGER, GRAPH, COMPILED)) > 2 * apart[THEIRS] + AGREE:
        raise ValueError(f"the latents after a step differ too much, by these shares of their scale: {apart}")

    actions = {form: finished(burst(step), device) for form, step in steps.items()}
    medians = {form: statistics.median(each) / BURST for form, each in time_in_turn(actions, rounds).items()}
    best = min((EAGER, GRAPH, COMPILED), key=lambda form: medians[form])
    their_best = min(medians[form] for form in THEIR_COMPILERS)
    work = sum(step_flops(preset, size).values())
    return Section(
        f"A guided step of {preset.name} at {size} px on a GPU",
        f"ldm-edu, {best}",
        [
            Figure(
                "median step", 1000 * medians[best], rounds, {f: 1000 * medians[f] for f in steps if f != best}, "ms"
            ),
            Figure("share of the roof", work / medians[best] / roof, rounds, {}, "%", goal=0.35),
            Figure("times as fast as diffusers", medians[THEIRS] / medians[best], rounds, {}, goal=2.2),
            Figure("times as fast as diffusers compiled", their_best / medians[best], rounds, {}, goal=1.15),
        ],
        f"{work / 1e12:.3f} TFLOP; roof {roof / 1e12:.0f} TFLOP/s. Distance of the latents from float32's, as a share "
        f"of their scale: {', '.join(f'{form} {value:.1e}' for form, value in apart.items())}.",
    )


def where_it_goes(preset: UNetPreset, roof: float, *, size: int, device: str) -> Section:
    """The time of one step by kind of operator, and how near each kind comes to the roof."""
    torch.manual_seed(0)
    x, contexts = (tensor.to(device) for tensor in step_inputs(preset, size, 0))
    unet = UNet(preset.unet).to(device, torch.bfloat16, memory_format=torch.channels_last)  # type: ignore[call-overload]
    step = guided_step(unet.eval(), preset, x, contexts)
    for _ in range(3):
        step()
    with torch.profiler.profile() as profile:
        finished(step, device)()
    spent = dict.fromkeys([*KINDS, "everything else"], 0.0)
    for event in (each for each in profile.key_averages() if each.key.startswith("aten::")):  # kernels are in these
        kind = next((kind for kind, names in KINDS.items() if event.key.startswith(names)), "everything else")
        spent[kind] += event.self_device_time_total if device == "cuda" else event.self_cpu_time_total
    work, total = step_flops(preset, size), sum(spent.values())
    figures = [Figure(f"{kind}: share of the time", micros / total, 1, {}, "%") for kind, micros in spent.items()]
    figures += [
        Figure(f"{kind}: share of the roof", work[kind] / (1e-6 * spent[kind]) / roof, 1, {}, "%")
        for kind in KINDS
        if spent[kind]
    ]
    return Section(f"Where a guided step of {preset.name} at {size} px spends its time", "of one step", figures)


def bench_growth(preset: UNetPreset, *, sizes: tuple[int, int], rounds: int, device: str) -> Section:
    """A guided step at two sizes, replayed but not compiled."""
    torch.manual_seed(0)
    unet = UNet(preset.unet).to(device, torch.bfloat16, memory_format=torch.channels_last)  # type: ignore[call-overload]
    ready(unet.eval(), "step", compiled=False)
    inputs = {size: [tensor.to(device) for tensor in step_inputs(preset, size, 0)] for size in sizes}
    steps = {size: finished(burst(guided_step(unet, preset, *inputs[size])), device) for size in sizes}
    return growth(preset, steps, rounds, BURST)


def bench_picture(preset: UNetPreset, *, size: int, rounds: int, device: str, steps: int = 20) -> Section:
    """A picture from its prompt: text, 20 guided steps, decoder; all in bfloat16, compiled and replayed."""
    model = LatentDiffusion.from_preset(preset).to(device, torch.bfloat16)
    if model.autoencoder is None:
        raise ValueError(f"{preset.name} has no decoder; use a preset with an autoencoder")
    for module, method in ((model.unet, "step"), (model.autoencoder.decoder, "forward")):
        module.to(memory_format=torch.channels_last)
        ready(module, method, compiled=True)

    def draw() -> Tensor:
        *_, last = model.generate(["an astronaut riding a horse"], seeds=[0], steps=steps, sampler=ddim, size=size)
        return model.decode(last.x)

    began = time.perf_counter()
    finished(draw, device)()
    first = time.perf_counter() - began
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = time_in_turn({"": finished(draw, device)}, rounds)[""]
    figures = [
        Figure("median picture", 1000 * statistics.median(seconds), rounds, {}, "ms", goal=130.0, better="lower"),
        Figure("the first one, which compiles", first, 1, {}, "s"),
    ]
    if device == "cuda":
        peak = torch.cuda.max_memory_allocated() / 1e9
        figures.append(Figure("peak memory, GB", peak, rounds, {}, goal=2.8, better="lower"))
    return Section(
        f"Text to picture of {preset.name} at {size} px on a GPU, {steps} steps", "median", figures, "Random weights."
    )


def bench_training(preset: UNetPreset, roof: float, *, size: int, batch: int, rounds: int, device: str) -> Section:
    """A training step of the U-Net on latents and contexts that are at hand: bfloat16 autocast, fused AdamW."""
    torch.manual_seed(0)
    (x, contexts), rng = step_inputs(preset, size, 0), torch.Generator().manual_seed(0)
    many = (torch.randn(batch, *x.shape[1:], generator=rng), torch.rand(batch, generator=rng) * preset.schedule.steps)
    context = torch.randn(batch, *contexts.shape[1:], generator=rng)
    data = StepInput(*(tensor.to(device) for tensor in (*many, context, many[0][:, : preset.unet.out_channels])))
    unet = UNet(preset.unet).to(device)
    compiled = torch.compile(copy.deepcopy(unet), **OUR_COMPILER)
    actions = {
        COMPILED: finished(training_step(forward_of(compiled), compiled, data, tuned=True), device),  # type: ignore[arg-type]
        EAGER: finished(training_step(forward_of(unet), unet, data, tuned=True), device),
    }
    medians = {form: statistics.median(each) for form, each in time_in_turn(actions, rounds).items()}
    work = 3 * batch * sum(step_flops(preset, size).values()) / 2  # a backward pass costs two forward passes
    return Section(
        f"Training {preset.name} at {size} px on a GPU, batch {batch}",
        "compiled",
        [
            Figure("median step", 1000 * medians[COMPILED], rounds, {EAGER: 1000 * medians[EAGER]}, "ms"),
            Figure("pictures a second", batch / medians[COMPILED], rounds, {EAGER: batch / medians[EAGER]}),
            Figure(
                "share of the roof",
                work / medians[COMPILED] / roof,
                rounds,
                {EAGER: work / medians[EAGER] / roof},
                "%",
                0.4,
            ),
        ],
        f"Latents and contexts at hand; {work / 1e12:.1f} TFLOP a step; roof {roof / 1e12:.0f} TFLOP/s.",
    )


def ready(network: torch.nn.Module, method: str, *, compiled: bool) -> None:
    """Make a network on a GPU ready to draw: self-attention fused, compiled if asked for, launches replayed.

    ``method`` is what draws: "step" of a network that predicts noise, "forward" of a decoder.
    """
    fuse(network)
    if compiled:
        setattr(network, method, torch.compile(getattr(network, method), **OUR_COMPILER))
    record_launches(network, method)


def burst(step: Callable[[], object]) -> Callable[[], object]:
    """Some steps, one after another."""
    return lambda: [step() for _ in range(BURST)]


def finished(action: Callable[[], object], device: str) -> Callable[[], None]:
    """The action, and a wait until the GPU has done all of it."""

    def wait() -> None:
        action()
        if device == "cuda":
            torch.cuda.synchronize()

    return wait
