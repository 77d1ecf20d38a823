"""The plan of a training run as tables: what `ldm-edu plan` prints."""

from collections.abc import Iterator, Sequence

from ldm_edu.config import UNetPreset
from ldm_edu.training.plan import PUBLISHED, STATE, Machine, counts, failures, parameters, resident, step

GB, TB = 1e9, 1e12


def report(
    preset: UNetPreset,
    *,
    gpus: Sequence[int] = (1, 8, 64, 256),
    batch: int = 2048,
    utilisation: float = 0.25,
    pictures: int = 600_000_000,
    stages: dict[int, int] | None = None,
    machine: Machine | None = None,
) -> Iterator[str]:
    """The plan as lines of Markdown: what a picture costs, a step, the run, the data, the failures."""
    machine, stages = machine or Machine(), stages or PUBLISHED
    yield from _pictures(preset, stages, machine)
    yield from _steps(preset, stages, gpus, batch, utilisation, machine)
    yield from _run(preset, stages, gpus, batch, utilisation, machine)
    yield from _data(preset, stages, max(gpus), batch, utilisation, pictures, machine)
    yield from _failures(preset, gpus, machine)


def _pictures(preset: UNetPreset, stages: dict[int, int], machine: Machine) -> Iterator[str]:
    yield f"**A picture.** The U-Net of {preset.name} has {parameters(preset):,} parameters; in each GPU they take"
    yield f"{resident(preset, 'ddp', machine) / GB:.1f} GB with gradients, moments, average and bfloat16 copies (DDP),"
    yield f"{resident(preset, 'fsdp', machine) / GB:.1f} GB shared by {machine.per_node} (FSDP)."
    yield from _head("size", "GFLOP a training picture", "kept for backward, GB", "recomputed, GB", "text encoder")
    for size in stages:
        each = counts(preset, size)
        yield _row(
            f"{size} px",
            f"{each.flops / 1e9:,.0f}",
            f"{each.activations / GB:.3f}",
            f"{each.recomputed / GB:.3f}",
            f"{each.text_flops / each.flops:.1%} more",
        )
    yield ""


def _steps(
    preset: UNetPreset, stages: dict[int, int], gpus: Sequence[int], batch: int, utilisation: float, machine: Machine
) -> Iterator[str]:
    speed = f"{utilisation:.0%} of {machine.flops / 1e12:.0f} TFLOP/s"
    yield f"**A step** of {batch:,} pictures, DDP, {machine.gpu} at {speed}."
    yield from _head("size", "GPUs", "pictures each", "at once", "compute, s", "exchange, s", "step, s", "pictures/s")
    for size in stages:
        for number in gpus:
            one = step(preset, size, batch, number, "ddp", machine, utilisation=utilisation)
            times = (f"{one.compute:.3f}", f"{one.exchange:.3f}", f"{one.seconds:.3f}", f"{batch / one.seconds:,.0f}")
            yield _row(f"{size} px", f"{number}", f"{one.own}", f"{one.micro or 'none fits'}", *times)
    yield ""


def _run(
    preset: UNetPreset, stages: dict[int, int], gpus: Sequence[int], batch: int, utilisation: float, machine: Machine
) -> Iterator[str]:
    told = ", then ".join(f"{steps:,} steps at {size} px" for size, steps in stages.items())
    yield f"**The run:** {told}; {machine.price:.2f} dollars a GPU hour; time lost to failures included."
    yield from _head("GPUs", *(f"days at {size} px" for size in stages), "days", "GPU hours", "dollars")
    for number in gpus:
        lost = 1 - failures(preset, number, machine).lost
        days = [
            steps * step(preset, size, batch, number, "ddp", machine, utilisation=utilisation).seconds / lost / 86_400
            for size, steps in stages.items()
        ]
        hours = 24 * number * sum(days)
        yield _row(
            f"{number}",
            *(f"{each:,.1f}" for each in days),
            f"{sum(days):,.1f}",
            f"{hours:,.0f}",
            f"{hours * machine.price:,.0f}",
        )
    yield ""


def _data(
    preset: UNetPreset,
    stages: dict[int, int],
    gpus: int,
    batch: int,
    utilisation: float,
    pictures: int,
    machine: Machine,
) -> Iterator[str]:
    yield f"**The data:** {pictures:,} pictures, each with a caption of its own, read by {gpus} GPUs."
    yield from _head("size", "latents, TB", "text states, TB", "one row, kB", "each GPU reads, MB/s", "all read, GB/s")
    for size in stages:
        each = counts(preset, size)
        rate = batch / step(preset, size, batch, gpus, "ddp", machine, utilisation=utilisation).seconds
        row = each.latents + each.text
        yield _row(
            f"{size} px",
            f"{pictures * each.latents / TB:.1f}",
            f"{pictures * each.text / TB:.1f}",
            f"{row / 1e3:.0f}",
            f"{rate * row / gpus / 1e6:.1f}",
            f"{rate * row / GB:.2f}",
        )
    yield ""


def _failures(preset: UNetPreset, gpus: Sequence[int], machine: Machine) -> Iterator[str]:
    size = parameters(preset) * sum(STATE.values()) / GB
    yield f"**Failures:** a state has {size:.1f} GB and is written at {machine.disk / GB:.0f} GB/s; a GPU fails once in"
    yield f"{machine.hours_between_failures:,.0f} hours; a restart takes {machine.restart / 60:.0f} minutes."
    yield from _head("GPUs", "hours between failures", "saving, s", "best: save every, minutes", "time lost")
    for number in gpus:
        found = failures(preset, number, machine)
        yield _row(
            f"{number}",
            f"{found.between / 3600:,.0f}",
            f"{found.saving:.1f}",
            f"{found.every / 60:,.0f}",
            f"{found.lost:.2%}",
        )


def _head(*names: str) -> Iterator[str]:
    yield from ("", _row(*names), _row(*["--:"] * len(names)))


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
