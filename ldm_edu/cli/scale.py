"""``ldm-edu train unet --data``: a person's own pictures, on one processor or many machines, by the same command."""

import dataclasses
import os
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

if TYPE_CHECKING:
    from accelerate import Accelerator

    from ldm_edu.training.loop import Record
    from ldm_edu.training.recipes import UNetRecipe

SHOWN = 8  # pictures on a sample sheet
STOPPED = 128  # and the number of the signal: the exit status of a program that a signal has ended

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
    preset: str, recipe: "UNetRecipe", folder: Path, options: Scaled, *, start: Path | None, save_every: int
) -> None:
    """Fill the cache, train the U-Net, write the checkpoint; in each process that the launcher has started."""
    import torch

    from ldm_edu.families import preset_named, unet_preset
    from ldm_edu.kernels.precision import quick_bfloat16
    from ldm_edu.training.diffusion import Share
    from ldm_edu.training.guard import refuse_another_model
    from ldm_edu.training.loop import train as records
    from ldm_edu.training.parts import load_parts
    from ldm_edu.training.scale_run import How, cached, scale_run
    from ldm_edu.training.sharded import SHARDS
    from ldm_edu.training.sheets import drawn, save_sheet

    chosen = unet_preset(preset_named(preset))
    refuse_another_model(folder, chosen, but=("size",))
    if options.parts is None and not (folder / "config.json").is_file():
        raise ValueError(
            f"{folder} holds no autoencoder and no text encoder: name a checkpoint that does with --parts, or train "
            f"them first (ldm-edu train vae --preset {preset} --out {folder}, then clip)"
        )
    state = folder / "training" / "unet"
    where = options.cache or folder / "cache"
    with _processes(state, wandb=options.wandb) as accelerator, _only_one(accelerator, state, folder, where):
        here: torch.device = accelerator.device
        share = Share(
            recipe.batch,
            accelerator.process_index,
            accelerator.num_processes,
            options.micro,
            int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        )
        size = options.size or chosen.size
        parts = load_parts(options.parts or folder, chosen, here)
        with _bar(accelerator, "caching", "picture") as show:
            cache = cached(options.data, where, parts, share, size=size, progress=show, tell=say)
        for network in (parts.autoencoder, parts.text):
            network.to("cpu")  # only the export needs them from here on
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
        _track(accelerator, dataclasses.asdict(recipe) | {"preset": preset, "size": size}, state, wandb=options.wandb)
        steps = records(run.task, steps=run.steps, seed=run.seed, folder=state, save_every=save_every, store=SHARDS)
        with interruptible(steps, folder, run.export), _bar(accelerator, f"unet {preset}", "step") as show:
            for record in steps:
                speed = {"pictures_per_second": recipe.batch / record.seconds}
                accelerator.log(record.values | speed, step=record.step)
                show(record.step, run.steps, f"loss {record.values['loss']:.4g}")
                if options.sheet_every and record.step % options.sheet_every == 0:
                    run.export()
                    if accelerator.is_main_process:
                        pictures = drawn(folder, cache.words(SHOWN), device=here)
                        save_sheet(state / f"sheet-{record.step:06}.png", *pictures)
        run.export()
        if accelerator.is_main_process:
            say(f"{folder}: unet after {run.steps} steps")


def say(sentence: str) -> None:
    """Tell the person who waits; results go to files, so this goes to the standard error."""
    typer.echo(sentence, err=True)


@contextmanager
def interruptible(
    steps: "Generator[Record, None, None]", folder: Path, export: Callable[[], None] | None = None
) -> Iterator[None]:
    """At CTRL-C, SIGTERM and SIGHUP the training is saved, a sentence says so, and the status is 128 + the signal's.

    ``export`` then writes a checkpoint that can draw. Several processes save nothing, and end as if they were killed.
    """
    from ldm_edu.training.interrupt import Ending, Interrupted, reaching

    try:
        with reaching(steps):
            yield
    except Interrupted as stop:
        say(f"{folder}: stopped after step {stop.step}; the same command goes on from there")
        if export is not None and stop.step:
            export()
            say(f'{folder}: ldm-edu generate "..." --model {folder} draws with what was learned until then')
        raise typer.Exit(STOPPED + stop.number) from None
    except Ending as stop:  # before the first step
        raise typer.Exit(STOPPED + stop.number) from None


def _only_one(accelerator: "Accelerator", state: Path, *others: Path) -> AbstractContextManager[None]:
    """The main process keeps other trainings out of the folder of the run, for all of its processes."""
    from ldm_edu.training.guard import writing

    return writing(state, *others) if accelerator.is_main_process else nullcontext()


@contextmanager
def _processes(state: Path, *, wandb: bool) -> "Iterator[Accelerator]":
    """The processes that were started together, their device and their trackers; ended however the run ends."""
    from importlib.util import find_spec

    from ldm_edu.device import default_device
    from ldm_edu.extras import need

    accelerate = need("accelerate")
    if wandb:
        need("wandb")
    trackers = [*(["tensorboard"] if find_spec("tensorboard") else []), *(["wandb"] if wandb else [])]
    cpu = default_device(float64=True).type == "cpu"
    accelerator = accelerate.Accelerator(cpu=cpu, mixed_precision="no", log_with=trackers, project_dir=state.parent)
    try:
        yield accelerator
    finally:
        accelerator.end_training()


def _track(accelerator: "Accelerator", settings: dict[str, Any], state: Path, *, wandb: bool) -> None:
    """Start the trackers; what Weights & Biases keeps on disk lies beside the run's state."""
    config, where = (settings, {"wandb": {"dir": str(state)}}) if wandb else (None, {})
    try:
        accelerator.init_trackers("unet", config=config, init_kwargs=where)
    except Exception as error:  # whatever a tracker's own library raises: no account, no network, a broken install
        accelerator.trackers = []  # one that did not start cannot be ended
        remedy = "log in to it, set WANDB_MODE=offline, or leave --wandb out" if wandb else "reinstall tensorboard"
        raise ValueError(f"a tracker did not start ({error}): {remedy}") from error


@contextmanager
def _bar(accelerator: "Accelerator", what: str, unit: str) -> Iterator[Any]:
    """A progress bar of the main process, as a function of (done, total, and what stands beside it)."""
    from tqdm import tqdm

    bar = tqdm(desc=what, unit=unit, dynamic_ncols=True, disable=not accelerator.is_main_process)

    def show(done: int, total: int, beside: str = "") -> None:
        bar.total = total
        bar.set_postfix_str(beside, refresh=False)
        bar.update(done - bar.n)

    try:
        yield show
    finally:
        bar.close()
