"""``ldm-edu plan``: what a training run would take, on paper."""

from typing import Annotated

import typer


def plan(
    preset: Annotated[str, typer.Option(help="toy, shapes, emoji or sd15.")] = "sd15",
    gpus: Annotated[
        list[int] | None, typer.Option(min=1, help="How many; again for more rows. Left out: 1 to 256.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Pictures a step.")] = 2048,
    utilisation: Annotated[float, typer.Option(min=0.01, max=1.0, help="Share of the GPU's peak reached.")] = 0.25,
    pictures: Annotated[int, typer.Option(min=1, help="In the data set.")] = 600_000_000,
    price: Annotated[float, typer.Option(min=0.0, help="Dollars a GPU hour.")] = 2.0,
) -> None:
    """Print operations, memory, traffic, days, money and the cost of failures of a run, as Markdown."""
    from ldm_edu.families import preset_named, unet_preset
    from ldm_edu.training.plan import PUBLISHED, Machine
    from ldm_edu.training.plan_report import report

    chosen = unet_preset(preset_named(preset))
    stages = PUBLISHED if preset == "sd15" else {chosen.size: 100_000}
    lines = report(
        chosen,
        gpus=gpus or (1, 8, 64, 256),
        batch=batch,
        utilisation=utilisation,
        pictures=pictures,
        stages=stages,
        machine=Machine(price=price),
    )
    typer.echo("\n".join(lines))
