"""``ldm-edu evaluate`` and ``ldm-edu bench``: how good the pictures are, and how quickly they are made."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ldm_edu.cli.generate import BATCH, MAX_SEED, load
from ldm_edu.cli.inspect import find_preset
from ldm_edu.cli.output import check_suffix
from ldm_edu.config import SamplerName
from ldm_edu.files import check_writable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from ldm_edu.evaluate.record import Section
    from ldm_edu.model import LatentDiffusion

Part = Literal["all", "step", "picture", "training"]


def _writable(path: Path | None) -> Path | None:
    if path is not None:
        check_writable(path)  # found out now, not after hours of measuring
    return path


Out = Annotated[Path | None, typer.Option(callback=_writable, help="Where the numbers go as well, a .json.")]


def evaluate(
    model: Annotated[str, typer.Argument(help="A shipped checkpoint, or the folder of an emoji or shapes model.")],
    judge: Annotated[
        str | None, typer.Option(help="The classifier that judges an emoji model; left out: judge.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Pictures drawn for each split.")] = 500,
    steps: Annotated[int, typer.Option(min=1, help="Steps from noise to picture.")] = 20,
    guidance: Annotated[float, typer.Option(help="1 is no guidance.")] = 5.0,
    sampler: Annotated[SamplerName, typer.Option(help="The solver.")] = "dpmpp_2m",
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Of the captions and the first picture.")] = 0,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, mps; left out: a GPU where there is one.")] = None,
    out: Out = None,
    sheet: Annotated[
        Path | None,
        typer.Option(callback=_writable, help="Where the nearest training pictures of an emoji model go, a .png."),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(callback=_writable, help="Where forty prompts never trained, as an emoji model draws them, go."),
    ] = None,
) -> None:
    """Measure a model on the fixed splits, beside real pictures and chance; print tables."""
    from ldm_edu.classifiers import load_classifier
    from ldm_edu.evaluate.compose import composed_sections, prompt_sheet
    from ldm_edu.evaluate.emoji import evaluate_emoji
    from ldm_edu.evaluate.shapes import evaluate_shapes
    from ldm_edu.pictures import save_png
    from ldm_edu.samplers import SAMPLERS

    began = time.perf_counter()
    for path in (sheet, prompts):
        if path is not None:
            check_suffix(path, ".png")
    pipeline = load(model, device)
    for option, value in {"judge": judge, "sheet": sheet, "prompts": prompts}.items():
        if value is not None and pipeline.preset.name != "emoji":
            raise ValueError(
                f"--{option} is for emoji models, and {model!r} is a {pipeline.preset.name} model: leave it out"
            )
    draw = _drawer(pipeline, steps=steps, guidance=guidance, sampler=SAMPLERS[sampler])
    restore = _restorer(pipeline)
    size, factor = pipeline.preset.size, pipeline.codec.factor
    if pipeline.preset.name == "shapes":
        sections = evaluate_shapes(draw, restore, count=count, size=size, seed=seed)
    elif pipeline.preset.name == "emoji":
        network = load_classifier(judge or "judge")
        sections, neighbours = evaluate_emoji(draw, restore, network, factor=factor, count=count, seed=seed)
        sections += composed_sections(draw, restore, network, count=count, seed=seed + 2 * count)
        if prompts is not None:
            save_png(prompts, prompt_sheet(draw, seed))
        if sheet is not None:
            save_png(sheet, neighbours)
    else:
        raise ValueError(f"{model!r} is a {pipeline.preset.name} model; only emoji and shapes models have test splits.")
    settings = {"model": model, "count": count, "steps": steps, "guidance": guidance, "sampler": sampler, "seed": seed}
    report(settings, sections, began, out)


bench = typer.Typer(help="Time training and drawing on this machine.", no_args_is_help=True, rich_markup_mode=None)


@bench.command("train-step")
def train_step(
    preset: Annotated[str, typer.Option(help="The preset, or a checkpoint's folder.")] = "emoji",
    batch: Annotated[int, typer.Option(min=1, help="Pictures a step.")] = 32,
    rounds: Annotated[int, typer.Option(min=1, help="Timed steps of each, in turn.")] = 10,
    out: Out = None,
) -> None:
    """Time a training step of the U-Net against the same network of diffusers, alternately."""
    from ldm_edu.evaluate.bench import bench_train_step
    from ldm_edu.families import unet_preset

    began = time.perf_counter()
    section = bench_train_step(unet_preset(find_preset(preset)), batch=batch, rounds=rounds)
    report({"preset": preset, "batch": batch, "rounds": rounds}, [section], began, out)


@bench.command("step")
def step(
    preset: Annotated[str, typer.Option(help="The preset, or a checkpoint's folder; weights are random.")] = "sd15",
    size: Annotated[int, typer.Option(min=1, help="Side of the picture in pixels.")] = 256,
    rounds: Annotated[int, typer.Option(min=1, help="Timed steps of each, in turn.")] = 7,
    out: Out = None,
) -> None:
    """Time a guided step on the CPU against diffusers, alternately; sd15 needs 12 GB of memory."""
    from ldm_edu.evaluate.bench_step import bench_step
    from ldm_edu.families import unet_preset

    began = time.perf_counter()
    section = bench_step(unet_preset(find_preset(preset)), size=size, rounds=rounds)
    report({"preset": preset, "size": size, "rounds": rounds}, [section], began, out)


@bench.command("sizes")
def sizes(
    preset: Annotated[str, typer.Option(help="The preset, or a checkpoint's folder; weights are random.")] = "sd15",
    small: Annotated[int, typer.Option(min=1, help="Side of the smaller picture in pixels.")] = 512,
    large: Annotated[int, typer.Option(min=1, help="Side of the larger picture in pixels.")] = 1024,
    rounds: Annotated[int, typer.Option(min=1, help="Timed steps of each, in turn.")] = 2,
    out: Out = None,
) -> None:
    """Time a guided step on the CPU at two sizes; sd15 needs 6 GB of memory and some minutes."""
    from ldm_edu.evaluate.bench_step import bench_sizes
    from ldm_edu.families import unet_preset

    began = time.perf_counter()
    section = bench_sizes(unet_preset(find_preset(preset)), sizes=(small, large), rounds=rounds)
    report({"preset": preset, "small": small, "large": large, "rounds": rounds}, [section], began, out)


@bench.command("samplers")
def samplers(
    steps: Annotated[int, typer.Option(min=1, help="Steps a run.")] = 50,
    rounds: Annotated[int, typer.Option(min=1, help="Timed runs of each, in turn.")] = 100,
    out: Out = None,
) -> None:
    """Time what each sampler adds to a step, beside the schedulers of diffusers."""
    from ldm_edu.evaluate.bench_samplers import bench_samplers

    began = time.perf_counter()
    section = bench_samplers(steps=steps, rounds=rounds)
    report({"steps": steps, "rounds": rounds}, [section], began, out)


@bench.command("gpu")
def gpu(
    part: Annotated[Part, typer.Argument(help="What to measure.")] = "all",
    preset: Annotated[str, typer.Option(help="The preset, or a checkpoint's folder; weights are random.")] = "sd15",
    size: Annotated[int, typer.Option(min=1, help="Side of the picture in pixels.")] = 512,
    rounds: Annotated[int, typer.Option(min=1, help="Timed bursts of each, in turn.")] = 20,
    out: Out = None,
) -> None:
    """Measure drawing and training on a GPU against its roof and diffusers; compiling takes some minutes.

    The record is written anew after each table.
    """
    from ldm_edu.evaluate.bench_gpu import bench_gpu
    from ldm_edu.families import unet_preset

    began, sections = time.perf_counter(), []
    for section in bench_gpu(unet_preset(find_preset(preset)), part, size=size, rounds=rounds):
        sections.append(section)
        report({"preset": preset, "part": part, "size": size, "rounds": rounds}, sections, began, out)


@bench.command("generate")
def time_generate(
    model: Annotated[str, typer.Option(help="A shipped checkpoint, or a checkpoint's folder.")] = "emoji",
    steps: Annotated[int, typer.Option(min=1, help="Steps from noise to picture.")] = 20,
    rounds: Annotated[int, typer.Option(min=1, help="Timed runs of each.")] = 3,
    out: Out = None,
) -> None:
    """Time four pictures, from the start of the process and with the model loaded."""
    from ldm_edu.evaluate.bench import bench_generate

    began = time.perf_counter()
    section = bench_generate(model, steps=steps, rounds=rounds)
    report({"model": model, "steps": steps, "rounds": rounds}, [section], began, out)


def _drawer(pipeline: "LatentDiffusion", **how: Any) -> "Callable[[Sequence[str], Sequence[int]], Tensor]":
    """Captions and seeds to pictures (N, 3, H, W), in batches, with a progress bar."""
    import torch
    from tqdm import tqdm

    def draw(captions: "Sequence[str]", seeds: "Sequence[int]") -> "Tensor":
        pictures = []
        for start in tqdm(range(0, len(captions), BATCH), unit="batch", leave=False, disable=None):
            part = slice(start, start + BATCH)
            *_, last = pipeline.generate(list(captions[part]), seeds=list(seeds[part]), **how)
            pictures.append(pipeline.decode(last.x).cpu())
        return torch.cat(pictures)

    return draw


def _restorer(pipeline: "LatentDiffusion") -> "Callable[[Tensor], Tensor]":
    """Pictures through the autoencoder and back, to where they came from."""
    return lambda images: pipeline.decode(pipeline.encode(images)).to(images)


def report(settings: dict[str, Any], sections: "Sequence[Section]", began: float, out: Path | None) -> None:
    """Print the tables; write the numbers as JSON where asked for."""
    from ldm_edu.evaluate.record import markdown, record, write_record

    command = " ".join(["ldm-edu", *sys.argv[1:]])
    measured = record(command, settings, sections, seconds=time.perf_counter() - began)
    typer.echo(markdown(measured))
    if out is not None:
        write_record(out, measured)
