"""The one way from a `Run` to a trained checkpoint, for every command that trains: watched, logged and stopped."""

import statistics
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from torch import Tensor

    from ldm_edu.training.loop import Record
    from ldm_edu.training.runs import Run

    Log = Callable[[Record, float], object]  # a step, and pictures a second
    Sheet = Callable[[], tuple[Sequence[str], Sequence[Tensor]]]  # captions and pictures of the model as it is then

STOPPED = 128  # and the number of the signal: the exit status of a program that a signal has ended
TIMED = range(1, 6)  # the steps whose time says how long the rest will take; the one before them warms up


def drive(
    run: "Run",
    network: str,
    folder: Path,
    *,
    preset: str,
    save_every: int,
    sheet_every: int = 0,
    sheet: "Sheet | None" = None,
    log: "Log | None" = None,
) -> None:
    """Train to the end, or to a signal, and write what was learned into the checkpoint ``folder``.

    In each process of several; the main one draws the progress bar and the sheets, and writes TensorBoard's log.

    Parameters
    ----------
    network
        what is trained: the name of the folder in ``folder/training`` that holds the run's own state.
    sheet
        what to draw every ``sheet_every`` steps (0: never), after the export.
    log
        called after each step, besides TensorBoard's log.
    """
    from ldm_edu.training.loop import train
    from ldm_edu.training.parallel import is_main
    from ldm_edu.training.sheets import save_sheet

    state = folder / "training" / network
    steps = train(run.task, steps=run.steps, seed=run.seed, folder=state, save_every=save_every, store=run.store)
    logs = [_tensorboard(state)] + ([log] if log else [])
    means, seconds = dict[str, float](), list[float]()
    with (
        interruptible(steps, folder, run.export if network == "unet" else None),
        progress_bar(f"{network} {preset}", "step") as show,
    ):
        for record in steps:
            for write in logs:
                write(record, run.batch / record.seconds)
            means |= {name: 0.95 * means.get(name, value) + 0.05 * value for name, value in record.values.items()}
            show(record.step, run.steps, " ".join(f"{name} {value:.4g}" for name, value in means.items()))

            seconds.append(record.seconds)
            if len(seconds) == TIMED.stop and record.step < run.steps:
                say(what_is_left(run.steps - record.step, statistics.median(seconds[TIMED.start :])))

            if sheet is not None and sheet_every and record.step % sheet_every == 0:
                run.export()
                if is_main():
                    save_sheet(state / f"sheet-{record.step:06}.png", *sheet())
    run.export()
    say(f"{folder}: {network} after {run.steps} steps")


def what_is_left(steps: int, seconds: float) -> str:
    """How long ``steps`` more steps of some seconds each take, as a sentence.

    >>> what_is_left(400, 1.5)
    '400 more steps at 1.5 s each: about 10 minutes, sample sheets not counted'
    """
    minutes = steps * seconds / 60
    time = f"{minutes / 60:.1f} hours" if minutes >= 120 else f"{minutes:.0f} minutes" if minutes >= 2 else "2 minutes"
    about = "about" if minutes >= 2 else "less than"
    return f"{steps} more steps at {seconds:.2g} s each: {about} {time}, sample sheets not counted"


def say(sentence: str) -> None:
    """Tell the person who waits, in the main process; results go to files, so this goes to the standard error."""
    from tqdm import tqdm

    from ldm_edu.training.parallel import is_main

    if is_main():
        tqdm.write(sentence, file=sys.stderr)  # above a progress bar that is there


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


@contextmanager
def progress_bar(what: str, unit: str) -> Iterator[Callable[..., None]]:
    """A progress bar of the main process, as a function of (done, total, and a text that stands to its right)."""
    from tqdm import tqdm

    from ldm_edu.training.parallel import is_main

    bar = tqdm(desc=what, unit=unit, dynamic_ncols=True, disable=not is_main())

    def show(done: int, total: int, text: str = "") -> None:
        bar.total = total
        bar.set_postfix_str(text, refresh=False)
        bar.update(done - bar.n)

    try:
        yield show
    finally:
        bar.close()


def _tensorboard(folder: Path) -> "Log":
    """Log for TensorBoard in the main process; nothing where TensorBoard is not installed."""
    from ldm_edu.training.parallel import is_main

    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return lambda record, speed: None
    if not is_main():
        return lambda record, speed: None
    writer: Any = SummaryWriter(str(folder))

    def log(record: "Record", speed: float) -> None:
        for name, value in (record.values | {"pictures_per_second": speed}).items():
            writer.add_scalar(name, value, record.step)

    return log
