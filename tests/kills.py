"""Kill trainings at random moments until each has come to its end, and compare it with one that nobody disturbed.

    python tests/kills.py --kills 200 --minutes 15

Every trainer is the real command on a toy preset. SIGKILL, SIGTERM and CTRL-C come at any moment from the start of a
process to its end: while it loads, trains, saves, exports and draws. Nothing may be lost (a state never goes back, what
a command says that it has saved is there) and every final number must be that of the undisturbed run, bit for bit.

The trainings are forked from this process, which has imported everything and computed nothing: that is quick, and torch
permits it as long as no gradient was computed before.
"""

import argparse
import dataclasses
import functools
import importlib
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import safetensors
import torch
from trainers import SMALL, UNET, VAE, write_home

from ldm_edu.families import TOY
from ldm_edu.training import recipes, runs, sheets, sources
from ldm_edu.training.sharded import whole_states
from ldm_edu.training.state import STATE

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
NETWORKS = {
    "vae": "vae --preset toy",
    "decoder": "decoder --preset toy",
    "clip": "clip --preset toy",
    "classifier": "classifier --preset perceptual",
    "unet": "unet --preset toy",
    "unet with its text encoder": "unet --preset toy",
    "unet on pixels": "unet --preset fashion --batch 2",
    "unet on own pictures": "unet --preset toy --data pictures --parts parts --precision fp32",
}


@dataclass(frozen=True)
class Child:
    """A training in a process of its own; what it says goes to a file."""

    pid: int
    said: Path

    def wait(self, seconds: float) -> int | None:
        """Its exit status, minus the signal's number where one ended it; None if it still runs after that time."""
        until = time.monotonic() + seconds
        while True:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() > until:
                return None
            time.sleep(0.002)


def start(name: str, home: Path, out: Path, steps: int) -> Child:
    """Fork a training."""
    said = out.with_suffix(".txt")
    sys.stdout.flush()
    if pid := os.fork():
        return Child(pid, said)
    status = 70
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        text = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(text, 1), os.dup2(text, 2)
        _toy_recipes(name)
        words = f"{NETWORKS[name]} --out {out} --steps {steps} --save-every 3 --sheet-every {steps - 1}"
        sys.argv = ["ldm-edu", "train", *words.split()]
        os.chdir(home)
        from ldm_edu.cli import main

        main()
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 71
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(status)


def _toy_recipes(name: str) -> None:
    sheets.COUNT = 2
    recipes.AUTOENCODERS["toy"], recipes.CLASSIFIERS["perceptual"] = VAE, SMALL
    recipes.UNETS["toy"] = dataclasses.replace(UNET, batch=2, joint_text=name == "unet with its text encoder")


def new_folder(name: str, home: Path, out: Path) -> Path:
    """A folder with what a training needs, and no more."""
    if name in ("decoder", "unet", "unet with its text encoder"):
        shutil.copytree(home / "parts", out)
    return out


def saved_step(out: Path) -> int:
    """The step of the newest state in a checkpoint folder; 0 where there is none."""
    (state,) = [*(out / "training").glob("*")] or [out]
    if states := whole_states(state):
        return int(states[-1].name.removeprefix("step-"))
    if not (state / STATE).is_file():
        return 0
    with safetensors.safe_open(state / STATE, framework="pt") as file:
        return int(file.metadata()["step"])


def numbers(out: Path) -> dict[str, bytes]:
    """All that a run has learned: its exported weights, its last state."""
    states = whole_states(next((out / "training").glob("*")))[:-1]
    files = [path for path in out.rglob("*.safetensors") if path.parent not in states and path.parent.name != "cache"]
    found: dict[str, bytes] = {}
    for path in files:
        with safetensors.safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118
                tensor = file.get_tensor(key).contiguous().flatten().view(torch.uint8)
                found[f"{path.relative_to(out)}: {key}"] = tensor.numpy().tobytes()
    return found


def leftovers(out: Path) -> list[Path]:
    return [path for path in out.rglob(".*") if path.name != ".lock"]


@dataclass
class Tally:
    kills: Counter[str] = dataclasses.field(default_factory=Counter)
    runs: int = 0  # that came to their end
    wrong: list[str] = dataclasses.field(default_factory=list)


def disturbed(
    name: str,
    home: Path,
    out: Path,
    steps: int,
    seconds: float,
    rng: random.Random,
    tally: Tally,
    over: Callable[[], bool],
) -> None:
    """Start a training again and again until it has come to its end; kill it at random moments until it is ``over``."""
    before = 0
    while True:
        child = start(name, home, out, steps)
        number = rng.choice(SIGNALS)
        status = child.wait(120 if over() else rng.uniform(0, seconds))
        if status is None:
            os.kill(child.pid, number)
            status = child.wait(120)
            if status is None:
                os.kill(child.pid, signal.SIGKILL)
                tally.wrong.append(f"{name}: {number!r} did not end it")
                return
            if status:
                tally.kills[f"{name}: {signal.Signals(number).name}"] += 1
        said = child.said.read_text(errors="replace")
        step = saved_step(out)
        if status not in (0, 1, -number, 128 + number) or (status == 1 and "Aborted" not in said):
            tally.wrong.append(f"{name}: status {status} after step {before}: {said[-2000:]}")
            return
        if step < before:
            tally.wrong.append(f"{name}: the state went back from step {before} to {step}")
        if (stopped := re.search(r"stopped after step (\d+)", said)) and step != int(stopped[1]):
            tally.wrong.append(f"{name}: said that step {stopped[1]} is saved, but {step} is")
        if status == 0:
            tally.runs += 1
            return
        before = step


def compare(name: str, got: Path, wanted: dict[str, bytes], tally: Tally) -> None:
    found = numbers(got)
    other = sorted(key for key in wanted.keys() | found.keys() if found.get(key) != wanted.get(key))
    if other:
        tally.wrong.append(f"{name}: {len(other)} of {len(wanted)} tensors differ, the first is {other[0]}")
    if left := leftovers(got):
        tally.wrong.append(f"{name}: {len(left)} files are left, the first is {left[0]}")


def rounds(names: list[str]) -> Iterator[tuple[int, str]]:
    turn = 0
    while True:
        for name in names:
            yield turn, name
        turn += 1


def main() -> int:
    parser = argparse.ArgumentParser(description="Kill trainings at random moments, resume them, and compare.")
    parser.add_argument("--kills", type=int, default=24, help="in all; each training that was begun comes to its end")
    parser.add_argument("--minutes", type=float, default=15.0, help="after which no more is killed")
    parser.add_argument("--steps", type=int, default=10, help="of each training")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the signals")
    parser.add_argument("--only", nargs="*", choices=list(NETWORKS), help="these trainers; left out: all")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rng, tally, names = random.Random(options.seed), Tally(), options.only or list(NETWORKS)
    until = time.monotonic() + 60 * options.minutes
    place = Path(tempfile.mkdtemp(prefix="ldm-kills-"))
    home = write_home(place)
    wanted: dict[str, dict[str, bytes]] = {}
    lasted: dict[str, float] = {}

    def over() -> bool:
        return tally.kills.total() >= options.kills or time.monotonic() > until

    for turn, name in rounds(names):
        if over():
            break
        if name not in wanted:
            out, began = new_folder(name, home, place / f"whole-{len(wanted)}"), time.monotonic()
            status = start(name, home, out, options.steps).wait(300)
            assert status == 0, f"{name} ended with {status}: {out.with_suffix('.txt').read_text()[-3000:]}"
            lasted[name], wanted[name] = time.monotonic() - began, numbers(out)
        out = new_folder(name, home, place / f"{turn}-{names.index(name)}")
        disturbed(name, home, out, options.steps, lasted[name], rng, tally, over)
        compare(name, out, wanted[name], tally)
        shutil.rmtree(out)
    shutil.rmtree(place)
    for key, count in sorted(tally.kills.items()):
        print(f"{count:5} {key}")
    print(
        f"{tally.kills.total()} kills, {tally.runs} runs came to their end, {len(tally.wrong)} wrong",
        *tally.wrong,
        sep="\n",
    )
    return bool(tally.wrong)


def _prepare() -> None:
    """Import what a training imports on its way, and decode the data sets, so that a fork need not."""
    for module in ("accelerate", "torch.utils.tensorboard", "tqdm", "ldm_edu.cli.train", "ldm_edu.training.scale_run"):
        importlib.import_module(module)
    sources.emoji_tensors = functools.cache(sources.emoji_tensors)
    sources.shapes_tensors = functools.cache(sources.shapes_tensors)
    runs.fashion_tensors = functools.cache(runs.fashion_tensors)
    sources.labelled_pictures(core=SMALL.core, held_out=SMALL.held_out)
    sources.pictures(TOY)
    runs.fashion_tensors("train")


if __name__ == "__main__":
    _prepare()
    sys.exit(main())
