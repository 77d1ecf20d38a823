"""How quick: a training step of the U-Net against the same network of `diffusers`, and text to picture.

Runs that are to be compared are timed in turn, one of each a round: what else the machine does hits them alike.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm_edu.condition import Conditioning
from ldm_edu.config import UNetConfig, UNetPreset
from ldm_edu.evaluate.record import Figure, Section
from ldm_edu.extras import need
from ldm_edu.kernels.precision import autocast, quick_bfloat16
from ldm_edu.layouts.pair import convert
from ldm_edu.layouts.unet import unet_pairs
from ldm_edu.models.unet import UNet

AGREE = 1e-4  # the outputs of both networks may differ by this share of their scale
OURS, THEIRS, THEIRS_TUNED = "ldm-edu", "diffusers", "diffusers, our settings"
PROMPTS = ("red apple, 3d style", "tropical fish, flat style", "rocket, noto style", "cat face, blob style")


def time_in_turn(
    actions: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds that each action took in each round, the actions in turn; one round before is not counted.

    ``clock`` may be `time.process_time` for what runs on one core: the work of others hardly shows in it.

    Raises
    ------
    ValueError
        if there is no round.
    """
    if rounds < 1:
        raise ValueError(f"rounds={rounds} times nothing; give at least 1, better 5 or more")
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for turn in range(rounds + 1):
        names = list(actions) if turn % 2 else list(actions)[::-1]  # neither is always the one after
        for name in names:
            began = clock()
            actions[name]()
            if turn:
                seconds[name].append(clock() - began)
    return seconds


def best_clock() -> tuple[Callable[[], float], str]:
    """The processor's time where torch runs on one thread, as the work of others hardly shows in it, else the wall's.

    Also what to call it in a record.
    """
    if torch.get_num_threads() == 1:
        return time.process_time, "the processor's time on one thread"
    return time.perf_counter, f"wall time on {torch.get_num_threads()} threads"


def diffusers_unet(config: UNetConfig) -> Any:
    """`diffusers`' U-Net of the same size, with random weights, in float32.

    Raises
    ------
    ValueError
        if the package is not installed, or has no such network.
    """
    diffusers = need("diffusers")
    if not config.context_dim or (config.depth[-1] or config.mid_depth) != config.mid_depth:
        raise ValueError(
            "diffusers has no U-Net without a context, or with a middle of another depth; use another preset"
        )
    widths = [config.channels * m for m in config.mults]
    down = ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in config.depth]
    up = ["CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(config.depth)]
    # what this argument holds is the number of heads a level, whatever its name says
    heads = [config.heads or width // (config.head_dim or 1) for width in widths]
    return diffusers.UNet2DConditionModel(
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        block_out_channels=tuple(widths),
        layers_per_block=config.blocks,
        down_block_types=tuple(down),
        up_block_types=tuple(up),
        transformer_layers_per_block=tuple(depth or config.mid_depth for depth in config.depth),
        attention_head_dim=tuple(heads),
        cross_attention_dim=config.context_dim,
        norm_num_groups=config.groups,
        use_linear_projection=config.linear_proj,
    )


@dataclass(frozen=True)
class StepInput:
    """What a training step sees: noisy latents (B, C, h, w), times (B,), contexts (B, L, D), targets (B, C, h, w)."""

    x: Tensor
    t: Tensor
    context: Tensor
    target: Tensor


def step_input(preset: UNetPreset, batch: int, seed: int) -> StepInput:
    """Random numbers of the shapes that training has."""
    config, rng = preset.unet, torch.Generator().manual_seed(seed)
    side = preset.size // (preset.autoencoder.factor if preset.autoencoder else 1)
    length = preset.text.length if preset.text else 1
    return StepInput(
        torch.randn(batch, config.in_channels, side, side, generator=rng),
        torch.randint(0, preset.schedule.steps, (batch,), generator=rng).float(),
        torch.randn(batch, length, config.context_dim or 1, generator=rng),
        torch.randn(batch, config.out_channels, side, side, generator=rng),
    )


def training_step(
    forward: Callable[[Tensor, Tensor, Tensor], Tensor], model: nn.Module, data: StepInput, *, tuned: bool
) -> Callable[[], float]:
    """One step of training as a function that returns the loss: forward, squared error, backward, AdamW.

    ``tuned``: bfloat16 autocast where the processor has it, channels last, fused AdamW, as our training has it; else
    everything as PyTorch's defaults have it.
    """
    x = data.x
    if tuned:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        x = x.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=tuned or None)

    def step() -> float:
        precision: AbstractContextManager[Any] = autocast(x.device) if tuned else nullcontext()
        with precision:
            out = forward(x, data.t, data.context)
        loss = F.mse_loss(out.float(), data.target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def bench_train_step(preset: UNetPreset, *, batch: int, rounds: int, seed: int = 0) -> Section:
    """Our training step against that of `diffusers`' U-Net with the same weights.

    Before anything is timed, both must give the same output in float32.

    Raises
    ------
    ValueError
        if `diffusers` is not installed, the preset has no counterpart there, or the outputs differ.
    """
    torch.manual_seed(seed)
    data = step_input(preset, batch, seed)
    theirs, tuned, ours = diffusers_unet(preset.unet), diffusers_unet(preset.unet), UNet(preset.unet)
    tuned.load_state_dict(theirs.state_dict())
    ours.load_state_dict(convert(theirs.state_dict(), unet_pairs(preset.unet)))
    difference = disagreement(ours, theirs, data)
    if difference > AGREE:
        raise ValueError(
            f"the outputs of the two networks differ by {difference:.1e} of their scale: nothing was timed"
        )

    seconds = time_in_turn(
        {
            OURS: training_step(forward_of(ours), ours, data, tuned=True),
            THEIRS: training_step(sample_of(theirs), theirs, data, tuned=False),
            THEIRS_TUNED: training_step(sample_of(tuned), tuned, data, tuned=True),
        },
        rounds,
    )
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    others = (THEIRS, THEIRS_TUNED)
    figures = [
        Figure(
            f"median step, batch {batch}", 1000 * medians[OURS], rounds, {n: 1000 * medians[n] for n in others}, "ms"
        ),
        Figure("pictures a second", batch / medians[OURS], rounds, {n: batch / medians[n] for n in others}),
        Figure("times as fast as diffusers", medians[THEIRS] / medians[OURS], rounds, {}, goal=1.35),
        Figure("times as fast as diffusers, our settings", medians[THEIRS_TUNED] / medians[OURS], rounds, {}),
    ]
    count = sum(p.numel() for p in ours.parameters())
    precision = "bfloat16 autocast" if quick_bfloat16() else "float32 (this processor only imitates bfloat16)"
    return Section(
        f"A training step of the {preset.name} U-Net",
        OURS,
        figures,
        f"{count:,} parameters, the same in all; outputs agree to {difference:.1e} of their scale. ldm-edu: "
        f"{precision}, channels last, fused AdamW, its own group norm. diffusers: its defaults, float32 (and, last "
        f"column, with {precision}, channels last and fused AdamW too). Timed in turn in one process; N rounds.",
    )


def forward_of(model: nn.Module) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """A network of ours as a function from (x, t, context) to the prediction."""
    return lambda x, t, context: model(x, t, Conditioning(context=context))


def sample_of(model: nn.Module) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """A `diffusers` network as a function from (x, t, context) to the prediction."""
    return lambda x, t, context: model(x, t, encoder_hidden_states=context).sample


def disagreement(ours: UNet, theirs: nn.Module, data: StepInput) -> float:
    """Largest difference of both outputs in float32, relative to their scale."""
    with torch.no_grad():
        wanted = sample_of(theirs)(data.x[:2], data.t[:2], data.context[:2])
        got = forward_of(ours)(data.x[:2], data.t[:2], data.context[:2])
    return float((got - wanted).abs().max() / wanted.abs().max())


def bench_generate(model: str, *, steps: int, rounds: int, prompts: Sequence[str] = PROMPTS) -> Section:
    """Four pictures from their prompts: from the start of the process, and with the model loaded.

    Raises
    ------
    ValueError
        if the command fails; with its last line.
    """
    from ldm_edu.model import LatentDiffusion

    started = [_run_command(model, steps, prompts) for _ in range(rounds)]
    began = time.perf_counter()
    pipeline = LatentDiffusion.from_pretrained(model)
    loading = time.perf_counter() - began

    def draw() -> None:
        *_, last = pipeline.generate(list(prompts), steps=steps, guidance=5.0, seeds=range(len(prompts)))
        pipeline.decode(last.x)

    loaded = time_in_turn({"draw": draw}, rounds)["draw"]
    words = f"{len(prompts)} pictures at {steps} steps"
    return Section(
        "Text to picture",
        "median",
        [
            Figure(f"{words}, from process start", *_summary(started), unit="s", goal=10.0, better="lower"),
            Figure(f"{words}, model loaded", *_summary(loaded), unit="s", goal=4.0, better="lower"),
            Figure("loading the model", loading, 1, {}, "s"),
        ],
    )


def _summary(seconds: Sequence[float]) -> tuple[float, int, dict[str, float]]:
    return statistics.median(seconds), len(seconds), {"fastest": min(seconds), "slowest": max(seconds)}


def _run_command(model: str, steps: int, prompts: Sequence[str]) -> float:
    """Seconds that `ldm-edu generate` takes, as a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "sheet.png"
        options = ["--model", model, "--steps", str(steps), "--guidance", "5", "--out", str(out)]
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "ldm_edu", "generate", *prompts, *options],
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.perf_counter() - began
        if done.returncode or not out.is_file():
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise ValueError(f"ldm-edu generate failed with status {done.returncode}: {last}")
    return seconds
