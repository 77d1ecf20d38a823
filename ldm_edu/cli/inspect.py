"""``ldm-edu inspect``: what a model is made of, and how many parameters each part has; how a picture was drawn."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from ldm_edu.cli.convert import Weights
from ldm_edu.config import Preset
from ldm_edu.families import PRESETS
from ldm_edu.paths import checkpoints_dir


def inspect(
    model: Annotated[
        str,
        typer.Argument(
            help=f"A preset ({', '.join(PRESETS)}), a checkpoint's file, folder or hub id, or a .png that was drawn."
        ),
    ],
    weights: Weights = None,
) -> None:
    """Say what a model is made of, part by part, without loading any weights; or how a picture was drawn.

    Of a checkpoint: which model it is, and what is missing or unexpected in it; status 1 if it cannot be loaded.
    """
    from ldm_edu.cli.look import find_classifier, look, look_at_classifier
    from ldm_edu.counts import parameter_counts

    if Path(model).suffix.lower() == ".png":
        typer.echo("\n".join(_drawn(Path(model))))
        return
    if (classifier := find_classifier(model)) is not None:
        typer.echo("\n".join(look_at_classifier(classifier)))
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
    lines, loadable = look(model, weights)
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
    text = str(value)
    return text if text.isprintable() else repr(text)


def _summary(preset: Preset) -> Iterator[str]:
    factor = preset.autoencoder.factor if preset.autoencoder else 1
    side = preset.size // factor
    yield f"{preset.name}: pictures of {preset.size} x {preset.size}"
    channels, kind = preset.unet.out_channels, "latents" if preset.autoencoder else "pixels"
    more = preset.unet.in_channels - channels  # of the picture that is edited, and its mask
    beside = f", and reads {more} more channels beside them" if more else ""
    yield f"  diffuses  {kind} {channels} x {side} x {side}{beside}"
    yield f"  predicts  {preset.prediction}, schedule {preset.schedule.kind}, {preset.schedule.steps} steps"
    if preset.text:
        yield f"  reads     {preset.text.length} tokens of {preset.text.vocab:,}"


def _table(counts: dict[str, dict[str, int]]) -> Iterator[str]:
    total = sum(sum(parts.values()) for parts in counts.values())
    width = max(len(name) for parts in counts.values() for name in [*parts, *counts]) + 4
    for model, parts in counts.items():
        yield f"{model:<{width}}{sum(parts.values()):>15,}"
        if len(parts) > 1:
            yield from (f"  {part:<{width - 2}}{number:>15,}" for part, number in parts.items())
    yield f"{'total':<{width}}{total:>15,}"
