"""``ldm-edu train unet --data``: a person's own pictures, on one processor or many machines, by the same command."""

import dataclasses
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ldm_edu.cli.drive import drive, progress_bar, say

if TYPE_CHECKING:
    from accelerate import Accelerator

    from ldm_edu.cli.drive import Log
    from ldm_edu.training.cache import Cache
    from ldm_edu.training.diffusion import Share
    from ldm_edu.training.loop import Record
    from ldm_edu.training.recipes import UNetRecipe

SHOWN = 8  # pictures on a sample sheet

Way = Literal["ddp", "fsdp"]
Precision = Literal["bf16", "fp32"]


@dataclass(frozen=True)
class Scaled:
    """The options that only a training on own pictures has."""

    data: str
    parts: str | None = None
    cache: Path | None = None
    size: int | None = None
    micro: int | None = None
    way: Way = "ddp"
    precision: Precision | None = None  # None: bf16 where the processor has it
    recompute: bool = False
    wandb: bool = False
    sheet_every: int = 0


def train_on_data(
    preset: str,
    recipe: "UNetRecipe",
    changes: dict[str, Any],
    folder: Path,
    options: Scaled,
    *,
    start: str | None,
    save_every: int,
) -> None:
    """Fill the cache, train the U-Net, write the checkpoint; in each process that the launcher has started.

    ``recipe`` with what a person has changed is trained by; with ``start`` the number of pictures decides the rest.
    """
    import torch

    from ldm_edu.families import preset_named, unet_preset
    from ldm_edu.kernels.precision import quick_bfloat16
    from ldm_edu.training.diffusion import Share
    from ldm_edu.training.guard import refuse_another_model
    from ldm_edu.training.parts import load_parts
    from ldm_edu.training.recipes import UNETS
    from ldm_edu.training.scale_run import How, cached, scale_run
    from ldm_edu.training.sheets import drawn

    chosen = unet_preset(preset_named(preset))
    refuse_another_model(folder, chosen, but=("size",))
    parts_from = options.parts or (folder if (folder / "config.json").is_file() else start)
    if parts_from is None:
        raise ValueError(
            f"{folder} holds no autoencoder and no text encoder: name a checkpoint that does with --parts, or train "
            f"them first (ldm-edu train vae --preset {preset} --out {folder}, then clip)"
        )
    recipe = dataclasses.replace(recipe, joint_text=False, narrow_from=1.0)  # all pictures alike, the text kept
    state = folder / "training" / "unet"
    where = options.cache or folder / "cache"
    with _processes(state, wandb=options.wandb) as accelerator, _only_one(accelerator, state, folder, where):
        here: torch.device = accelerator.device
        share = Share(
            changes.get("batch", recipe.batch),
            accelerator.process_index,
            accelerator.num_processes,
            options.micro,
            int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        )
        size = options.size or chosen.size
        parts = load_parts(parts_from, chosen, here)
        with progress_bar("caching", "picture") as show:
            cache = cached(options.data, where, parts, share, size=size, progress=show, tell=say)
        for network in (parts.autoencoder, parts.text):
            network.to("cpu")  # only the export needs them from here on
        recipe = dataclasses.replace(recipe, **changes)
        if start is not None:
            recipe = _for_so_many(recipe, changes, cache, share, most=UNETS[preset].steps)
            share = dataclasses.replace(share, batch=recipe.batch)
        how = How(share, options.way, options.recompute)
        precision = options.precision or ("bf16" if quick_bfloat16(here.type) else "fp32")
        run = scale_run(
            parts,
            recipe,
            cache,
            folder,
            state,
            how,
            size=size,
            precision=precision,
            start=start,
            device=here,
            tell=say,
        )
        told = dataclasses.asdict(recipe) | {"preset": preset, "size": size}
        log = _track(accelerator, told, state) if options.wandb else None
        sheet = partial(drawn, folder, cache.words(SHOWN), device=here)
        every = options.sheet_every
        drive(run, "unet", folder, preset=preset, save_every=save_every, sheet_every=every, sheet=sheet, log=log)


def _for_so_many(
    recipe: "UNetRecipe", changes: dict[str, Any], cache: "Cache", share: "Share", *, most: int
) -> "UNetRecipe":
    """The recipe for a U-Net that is trained on, by the number of own pictures; a sentence says what to expect."""
    from ldm_edu.training.recipes import on_own_pictures

    pictures = sum(cache.index.counts)
    given = {name: value for name, value in changes.items() if name != "seed"}
    recipe = on_own_pictures(recipe, pictures, most=most, at_once=share.world * (share.micro or 1), **given)
    each = recipe.steps * recipe.batch / pictures
    say(f"{pictures} pictures: {recipe.steps} steps of {recipe.batch}, so each is shown about {each:.0f} times")
    return recipe


def _only_one(accelerator: "Accelerator", state: Path, *others: Path) -> AbstractContextManager[None]:
    """The main process keeps other trainings out of the folder of the run, for all of its processes."""
    from ldm_edu.training.guard import writing

    return writing(state, *others) if accelerator.is_main_process else nullcontext()


@contextmanager
def _processes(state: Path, *, wandb: bool) -> "Iterator[Accelerator]":
    """The processes that were started together, their device and their tracker; ended however the run ends."""
    from ldm_edu.device import default_device
    from ldm_edu.extras import need

    accelerate = need("accelerate")
    if wandb:
        need("wandb")
    cpu = default_device().type == "cpu"
    tracker = "wandb" if wandb else None
    accelerator = accelerate.Accelerator(cpu=cpu, mixed_precision="no", log_with=tracker, project_dir=state.parent)
    try:
        yield accelerator
    finally:
        accelerator.end_training()


def _track(accelerator: "Accelerator", settings: dict[str, Any], state: Path) -> "Log":
    """Start Weights & Biases; what it keeps on disk goes where the run's state is."""
    try:
        accelerator.init_trackers("unet", config=settings, init_kwargs={"wandb": {"dir": str(state)}})
    except Exception as error:  # whatever a tracker's own library raises: no account, no network, a broken install
        accelerator.trackers = []  # one that did not start cannot be ended
        remedy = "log in to it, set WANDB_MODE=offline, or leave --wandb out"
        raise ValueError(f"a tracker did not start ({error}): {remedy}") from error

    def log(record: "Record", speed: float) -> None:
        accelerator.log(record.values | {"pictures_per_second": speed}, step=record.step)

    return log
