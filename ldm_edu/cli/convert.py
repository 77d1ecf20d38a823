"""``ldm-edu convert``: a checkpoint from one layout to another, bit for bit."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from ldm_edu.config import Prediction

Weights = Annotated[
    Literal["ema", "last"] | None,
    typer.Option(
        "--weights", help="Which copy of the U-Net, where a file has two: averaged over training, or the last step's."
    ),
]

Predicts = Annotated[
    Prediction | None,
    typer.Option("--prediction", help="What the network predicts; left out: what the checkpoint says."),
]
Vae = Annotated[str | None, typer.Option("--vae", metavar="FILE", help="Another autoencoder: a file or a folder.")]
Text = Annotated[str | None, typer.Option("--text", metavar="FILE", help="Another text encoder: a file or a folder.")]


def convert(
    source: Annotated[str, typer.Argument(metavar="IN", help="A checkpoint: file, folder, shipped name or hub id.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="What to write: NAME.safetensors, or a new folder.")],
    to: Annotated[
        Literal["original", "compvis", "diffusers", "ldm-edu"],
        typer.Option(help="One file (original; compvis is its older name), or a folder of either kind."),
    ],
    dtype: Annotated[
        Literal["float32", "float16", "bfloat16"] | None,
        typer.Option(help="Of the numbers; left out: as they are stored, so that nothing is lost."),
    ] = None,
    weights: Weights = None,
    prediction: Predicts = None,
    vae: Vae = None,
    text: Text = None,
) -> None:
    """Write a checkpoint in another layout; there and back gives the same numbers, bit for bit.

    What is at OUT already is never overwritten.
    """
    import torch

    from ldm_edu.checkpoint.open import open_checkpoint
    from ldm_edu.convert import convert_checkpoint
    from ldm_edu.layouts.pair import Format

    format: Format = "original" if to == "compvis" else to
    found = open_checkpoint(source, weights=weights, prediction=prediction, parts={"vae": vae, "text": text})
    for note in found.notes:
        typer.echo(f"ldm-edu: {source}: {note}", err=True)
    convert_checkpoint(found, out, format, dtype=getattr(torch, dtype) if dtype else None)
    count = sum(part.parameters for part in found.parts.values())
    typer.echo(f"{out}: {found.preset.name}, {count:,} parameters, from {found.format} to {format}")
