"""``ldm-edu inspect``: what a model is made of, and how many parameters each part has; how a picture was drawn."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from ldm_edu.cli.convert import Predicts, Text, Vae, Weights
from ldm_edu.config import Preset, TextConfig
from ldm_edu.paths import checkpoints_dir
from ldm_edu.weights.errors import printable

MAX_SHOWN = 2000  # letters of what a picture says of itself


def inspect(
    model: Annotated[
        str | None,
        typer.Argument(help="A preset, a checkpoint's file, folder or hub id, or a .png that was drawn."),
    ] = None,
    weights: Weights = None,
    prediction: Predicts = None,
    vae: Vae = None,
    text: Text = None,
    list_: Annotated[bool, typer.Option("--list", help="Name every preset, by model family.")] = False,
) -> None:
    """Say what a model is made of, part by part, without loading any weights; or how a picture was drawn.

    Of a checkpoint: which model it is, and what is missing or unexpected in it; status 1 if it cannot be loaded.
    """
    from ldm_edu.cli.describe import describe, describe_classifier, find_classifier
    from ldm_edu.counts import parameter_counts
    from ldm_edu.families import PRESETS

    if list_ or model is None:
        typer.echo("\n".join(_families()))
        return
    if Path(model).suffix.lower() == ".png":
        typer.echo("\n".join(_drawn(Path(model))))
        return
    if (classifier := find_classifier(model)) is not None:
        typer.echo("\n".join(describe_classifier(classifier)))
        return
    if model in PRESETS or (Path(model) / "config.json").is_file():
        preset = find_preset(model)
        typer.echo("\n".join([*_summary(preset), "", *_table(parameter_counts(preset))]))
        if model in PRESETS:
            return
        typer.echo("")
    if "/" not in model and not Path(model).exists():
        raise ValueError(
            f"{model!r} is neither a preset ({', '.join(PRESETS)}) nor a checkpoint; the shipped ones lie in "
            f"{checkpoints_dir()}."
        )
    lines, loadable = describe(model, weights, prediction, {"vae": vae, "text": text})
    typer.echo("\n".join(lines))
    if not loadable:
        raise typer.Exit(1)


def find_preset(model: str) -> Preset:
    """The preset of that name, or the one recorded in a checkpoint's folder.

    Raises
    ------
    ValueError
        if ``model`` is neither.
    """
    from ldm_edu.checkpoint.io import load_preset
    from ldm_edu.families import PRESETS

    if model in PRESETS:
        return PRESETS[model]
    if not (Path(model) / "config.json").is_file():
        raise ValueError(
            f"{model!r} is neither a preset ({', '.join(PRESETS)}) nor a folder with a config.json; "
            f"the shipped checkpoints lie in {checkpoints_dir()}."
        )
    return load_preset(Path(model))


def _drawn(path: Path) -> Iterator[str]:
    """What a picture says of itself, a line each."""
    from ldm_edu.pictures import read_metadata

    about = read_metadata(path)
    drawn = about.pop("pictures", [{name: about.pop(name) for name in ("prompt", "seed") if name in about}])
    for each in [*drawn, about]:
        yield from (f"{_shown(name.replace('_', ' ')):<16}{_shown(value)}" for name, value in each.items())


def _shown(value: object) -> str:
    """A value of a file that anybody may have made: signs that a terminal would obey are spelt out."""
    return printable(value, MAX_SHOWN)


def _families() -> Iterator[str]:
    from ldm_edu.families import FAMILIES

    for family in FAMILIES:
        yield f"{family.title}: {', '.join(preset.name for preset in family.presets)}"


def _summary(preset: Preset) -> Iterator[str]:
    from ldm_edu.build import build_on_meta
    from ldm_edu.families import family_of

    family = family_of(preset)
    networks = build_on_meta(preset)
    network, factor = networks[family.network], family.codec(networks).factor
    side = preset.size // factor
    yield f"{preset.name} ({family.title}): pictures of {preset.size} x {preset.size}"
    kind = "pixels" if factor == 1 else "latents"
    besides = "" if preset.beside == "nothing" else f", and reads a {preset.beside.replace('_', ' ')} besides"
    yield f"  diffuses  {kind} {network.channels} x {side} x {side}{besides}"
    yield f"  predicts  {preset.prediction}, schedule {preset.schedule.kind}, {preset.schedule.steps} steps"
    for part in family.parts_of(preset):
        if isinstance(config := part.config(preset), TextConfig):
            yield f"  reads     {config.length} tokens of {config.vocab:,}"
    usual = preset.defaults
    yield f"  draws     in {usual.steps} steps of {usual.sampler}, guidance {usual.guidance:g}"


def _table(counts: dict[str, dict[str, int]]) -> Iterator[str]:
    total = sum(sum(parts.values()) for parts in counts.values())
    width = max(len(name) for parts in counts.values() for name in [*parts, *counts]) + 4
    for model, parts in counts.items():
        yield f"{model:<{width}}{sum(parts.values()):>15,}"
        if len(parts) > 1:
            yield from (f"  {part:<{width - 2}}{number:>15,}" for part, number in parts.items())
    yield f"{'total':<{width}}{total:>15,}"
