"""``ldm-edu train``: one network of a preset, resumed where it was left."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from ldm_edu.cli.drive import drive, say
from ldm_edu.cli.scale import Precision, Scaled, Way, train_on_data

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from ldm_edu.training.runs import Run

T = TypeVar("T")
Network = Literal["vae", "decoder", "clip", "classifier", "unet"]


def train(
    network: Annotated[
        Network, typer.Argument(help="What to train. In this order: classifier, vae, decoder, clip, unet.")
    ],
    preset: Annotated[
        str, typer.Option(help="toy, shapes or emoji; unet: fashion too; classifier: perceptual or judge.")
    ] = "emoji",
    out: Annotated[Path | None, typer.Option(help="The checkpoint folder; left out: runs/PRESET.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps in all; left out: the recipe's.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Pictures a step; left out: the recipe's.")] = None,
    lr: Annotated[float | None, typer.Option(min=0.0, help="Learning rate; left out: the recipe's.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Left out: the recipe's.")] = None,
    start: Annotated[
        str | None,
        typer.Option(help="clip, unet: begin with the weights of this checkpoint: a name, as emoji, or a path."),
    ] = None,
    perceptual: Annotated[
        str | None, typer.Option(help="vae, decoder: the classifier in the loss; left out: the shipped one.")
    ] = None,
    save_every: Annotated[int, typer.Option(min=1, help="Steps between saved states.")] = 250,
    sheet_every: Annotated[int, typer.Option(min=0, help="Steps between sample sheets; 0: none.")] = 1000,
    data: Annotated[
        str | None,
        typer.Option(help="unet: own pictures, a folder or a data set of `datasets`; options below need it."),
    ] = None,
    parts: Annotated[
        str | None, typer.Option(help="Whose autoencoder and text encoder: a checkpoint, SD 1.x too. Left out: OUT.")
    ] = None,
    cache: Annotated[Path | None, typer.Option(help="Where latents and text states go; left out: OUT/cache.")] = None,
    size: Annotated[int | None, typer.Option(min=1, help="Side in pixels; left out: the preset's.")] = None,
    micro: Annotated[int | None, typer.Option(min=1, help="Pictures at once in a process; left out: all.")] = None,
    parallel: Annotated[Way, typer.Option(help="Many processes: whole copies, or shares of the weights.")] = "ddp",
    precision: Annotated[
        Precision | None, typer.Option(help="What the U-Net computes in; left out: bf16 where that is quicker.")
    ] = None,
    recompute: Annotated[
        bool, typer.Option("--recompute", help="Gradient checkpointing: less memory, more time.")
    ] = False,
    wandb: Annotated[bool, typer.Option("--wandb", help="Log to Weights & Biases too.")] = False,
) -> None:
    """Train one network; kill it and start it again as you like, it goes on from its last saved state.

    The state, TensorBoard's log and the sample sheets are in OUT/training/NETWORK; the trained part lands in OUT.
    With --data the same command runs on one CPU, one GPU, or under `torchrun` and `accelerate launch` on many;
    --parts and the options after it need --data. With --start the steps and the batch go by the number of pictures, and
    a sentence says what to expect. CTRL-C and SIGTERM save the last step, and of a U-Net
    the model as it is then. A run is resumed with the settings that it began with, --steps may be higher; another model
    in OUT is never replaced.
    """
    folder = out or Path("runs") / preset
    if perceptual is not None and network not in ("vae", "decoder"):
        raise ValueError(f"--perceptual is for vae and decoder, not for {network}; leave it out")
    chosen = {"steps": steps, "batch": batch, "lr": lr, "seed": seed}
    changes: dict[str, Any] = {name: value for name, value in chosen.items() if value is not None}
    if data is not None:
        if network != "unet":
            raise ValueError(f"--data is for the unet, not for {network}; leave it out")
        options = Scaled(data, parts, cache, size, micro, parallel, precision, recompute, wandb, sheet_every)
        from ldm_edu.training.recipes import UNETS, UNETS_ON

        recipe = _recipe(UNETS_ON if start else UNETS, network, preset)
        train_on_data(preset, recipe, changes, folder, options, start=start, save_every=save_every)
        return
    only_with_data = {"parts": parts, "cache": cache, "size": size, "micro": micro, "precision": precision}
    _refuse_without_data(only_with_data | {"parallel": parallel != "ddp", "recompute": recompute, "wandb": wandb})
    from ldm_edu.device import default_device
    from ldm_edu.training.guard import refuse_other_kind

    refuse_other_kind(folder / "training" / network, with_data=False)
    device = default_device(float64=True)
    run = _run(network, preset, folder, device, perceptual=perceptual or "perceptual", start=start, **changes)
    _train(run, network, preset, folder, save_every=save_every, sheet_every=sheet_every)


def _refuse_without_data(options: "Mapping[str, object]") -> None:
    """Options that only a training on own pictures reads must not be given without them."""
    for name, value in options.items():
        if value not in (None, False):
            raise ValueError(f"--{name} needs --data, without which it does nothing; give --data too, or leave it out")


def _train(run: "Run", network: Network, preset: str, folder: Path, *, save_every: int, sheet_every: int) -> None:
    """Train alone in the folder, with sheets of the preset's own pictures."""
    from ldm_edu.training.guard import same_settings, writing
    from ldm_edu.training.sheets import decoded, drawn

    state = folder / "training" / network
    shown = {"vae": decoded, "decoder": decoded, "unet": drawn}
    sheet = partial(shown[network], folder) if network in shown else None
    with writing(state, folder):
        same_settings(state, run.settings, tell=say)
        drive(run, network, folder, preset=preset, save_every=save_every, sheet_every=sheet_every, sheet=sheet)


def _run(
    network: Network,
    preset: str,
    folder: Path,
    device: "torch.device",
    *,
    perceptual: str,
    start: str | None,
    **given: Any,
) -> "Run":
    from ldm_edu.families import PRESETS, preset_named, unet_preset
    from ldm_edu.training import recipes, runs

    if start is not None and network not in ("clip", "unet"):
        raise ValueError(f"--start goes on with CLIP or a U-Net, not with {network}; leave it out")
    if network == "classifier":
        chosen = dataclasses.replace(_recipe(recipes.CLASSIFIERS, network, preset), **given)
        return runs.classifier_run(chosen, folder, device)
    if network == "vae":
        vae = dataclasses.replace(_recipe(recipes.AUTOENCODERS, network, preset), **given)
        return runs.autoencoder_run(unet_preset(preset_named(preset)), vae, folder, device, perceptual=perceptual)
    if network == "decoder":
        decoder = dataclasses.replace(_recipe(recipes.DECODERS, network, preset), **given)
        return runs.decoder_run(unet_preset(preset_named(preset)), decoder, folder, device, perceptual=perceptual)
    if network == "clip":
        clip = dataclasses.replace(_recipe(recipes.CLIPS_ON if start else recipes.CLIPS, network, preset), **given)
        return runs.clip_run(unet_preset(preset_named(preset)), clip, folder, device, start=start)
    if start is None and preset in PRESETS and getattr(PRESETS[preset], "autoencoder", None) is None:
        pixels = dataclasses.replace(_recipe(recipes.UNETS, network, preset), **given)
        return runs.pixels_run(PRESETS[preset], pixels, folder, device)
    unet = dataclasses.replace(_recipe(recipes.UNETS_ON if start else recipes.UNETS, network, preset), **given)
    return runs.unet_run(unet_preset(preset_named(preset)), unet, folder, device, start=start)


def _recipe(table: "Mapping[str, T]", network: Network, preset: str) -> T:
    if preset not in table:
        raise ValueError(f"there is no recipe for {network} {preset!r}; choose one of {', '.join(table)}")
    return table[preset]
