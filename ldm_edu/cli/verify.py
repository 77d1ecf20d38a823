"""``ldm-edu verify``: whether the whole pipeline draws what diffusers' draws."""

import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from ldm_edu.cli.measure import Out, report


def verify(
    preset: Annotated[
        str, typer.Argument(help="sd15, sd21, sdxl, or a smaller one that reads texts: toy takes seconds.")
    ],
    size: Annotated[
        int | None, typer.Option(min=1, help="Side of the picture; left out: 256, or the preset's own.")
    ] = None,
    out: Out = None,
) -> None:
    """Draw the same picture with diffusers' pipeline and with this one, on random weights, and compare.

    For sd15 this takes some minutes, 9 GB of memory, and 13 GB in the folder for temporary files (TMPDIR names
    another); for sdxl 42 GB there. It ends with status 1 if anything differs by more than 0.001, or a conversion
    changes a bit.
    """
    from ldm_edu.evaluate.verify import verify as compare
    from ldm_edu.families import preset_named

    model = preset_named(preset)
    size = size or min(256, model.size)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="ldm-edu-verify-") as folder:
        sections = compare(model, Path(folder), size=size, say=lambda what: typer.echo(f"... {what}", err=True))
    report({"preset": preset, "size": size}, sections, began, out)
    if not all(figure.reached for section in sections for figure in section.figures):
        raise typer.Exit(1)
