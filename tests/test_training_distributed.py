"""The command itself under torchrun: two processes on the CPU draw one process's curve, die, and are resumed by one.

Tolerance: in float32 the gradients of two halves of a batch are summed in another order than those of the whole, which
moves each by about 1e-7 of its size; AdamW divides by their size, so the weights, and with them the losses of later
steps, follow to a few times that. 1e-4 of a loss is far above it, and far below what a wrong sample, noise or scale of
the gradients would change (a test below measures one).
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors
import torch
from PIL import Image

from ldm_edu.families import TOY
from ldm_edu.model import LatentDiffusion
from ldm_edu.models.unet import UNet
from ldm_edu.schedule import make_schedule
from ldm_edu.training.buckets import Order
from ldm_edu.training.cache import Cache
from ldm_edu.training.cached import CachedBatches
from ldm_edu.training.diffusion import DiffusionTask, Share
from ldm_edu.training.recipes import UNETS
from ldm_edu.training.sharded import load_sharded, state_tensors, whole_states

pytestmark = pytest.mark.slow
CLOSE = 1e-4
STEPS = 16


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("distributed")
    (folder / "pictures").mkdir()
    for i in range(20):
        size = (24, 16) if i % 4 == 1 else (16, 16)
        Image.new("RGB", size, (12 * i, 255 - 12 * i, 90)).save(folder / "pictures" / f"{i:02}.png")
        (folder / "pictures" / f"{i:02}.txt").write_text(f"a field of colour {i % 5}")
    LatentDiffusion.from_preset(TOY).save(folder / "parts")
    return folder


def command(home: Path, out: Path, *options: str, steps: int = STEPS) -> list[str]:
    """``ldm-edu train unet``, the same in every launcher."""
    told = f"train unet --preset toy --batch 8 --seed 3 --precision fp32 --save-every 4 --steps {steps} --lr 3e-3"
    named = ["--data", home / "pictures", "--parts", home / "parts", "--cache", home / "cache", "--out", out]
    return ["-m", "ldm_edu", *told.split(), *map(str, named), *options]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def torchrun(processes: int) -> list[str]:
    where = ["--master_addr", "127.0.0.1", "--master_port", str(free_port()), "--nproc_per_node", str(processes)]
    return [sys.executable, "-m", "torch.distributed.run", *where]


def run(command: list[str]) -> str:
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


def curve(out: Path) -> dict[int, float]:
    """The losses by step, as TensorBoard reads them; of a step that was done twice, the later."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found: dict[int, float] = {}
    for log in sorted((out / "training" / "unet").glob("events.*"), key=lambda path: path.stat().st_mtime):
        events = EventAccumulator(str(log))
        events.Reload()
        if "loss" in events.Tags()["scalars"]:
            found |= {event.step: event.value for event in events.Scalars("loss")}
    return found


def assert_same_curve(got: dict[int, float], wanted: dict[int, float]) -> None:
    assert got.keys() == wanted.keys()
    apart = {step: abs(got[step] - wanted[step]) / wanted[step] for step in wanted}
    assert max(apart.values()) < CLOSE, apart


@pytest.fixture(scope="module")
def alone(home: Path) -> Path:
    """One process with the whole batch."""
    out = home / "alone"
    run([sys.executable, *command(home, out)])
    assert list(curve(out)) == list(range(1, STEPS + 1))
    return out


def test_two_processes_draw_the_curve_of_one(home: Path, alone: Path) -> None:
    out = home / "two"
    run([*torchrun(2), *command(home, out)])
    assert_same_curve(curve(out), curve(alone))


def test_the_tolerance_tells_another_noise_apart(home: Path, alone: Path) -> None:
    out = home / "another-seed"
    run([sys.executable, *command(home, out, "--seed", "4")])
    wanted = curve(alone)
    assert sum(abs(loss - wanted[step]) / wanted[step] > 10 * CLOSE for step, loss in curve(out).items()) > STEPS // 2


def test_shares_of_the_weights_draw_the_same_curve_and_one_process_reads_them(home: Path, alone: Path) -> None:
    out = home / "fsdp"
    told = ["--parallel", "fsdp", "--recompute", "--micro", "2", "--sheet-every", "8"]
    run([*torchrun(2), *command(home, out, *told, steps=8)])
    assert (out / "training" / "unet" / "sheet-000008.png").is_file()
    state = whole_states(out / "training" / "unet")[-1]
    halves = [_shapes(path) for path in sorted(state.glob("*.safetensors"))]
    assert len(halves) == 2 and all(half["module/unet/mid.0.res.conv1.weight"] == (32, 64, 3, 3) for half in halves)
    run([sys.executable, *command(home, out)])  # the same command, another number of processes
    # 8 steps or 16: the learning rate is still rising when its fall would begin, so the curve is that of one long run
    assert_same_curve(curve(out), curve(alone))


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    with safetensors.safe_open(path, framework="pt") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def test_two_nodes_shard_within_and_repeat_across(home: Path, alone: Path) -> None:
    out = home / "nodes"
    port = free_port()
    where = ["--nnodes", "2", "--nproc_per_node", "2", "--master_addr", "127.0.0.1", "--master_port", str(port)]
    launcher = [sys.executable, "-m", "torch.distributed.run", *where]
    told = command(home, out, "--parallel", "fsdp")
    nodes = [
        subprocess.Popen(
            [*launcher, "--node_rank", str(rank), *told], env=environment(), stderr=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    errors = [node.communicate(timeout=240)[1] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], errors[0][-3000:]
    assert_same_curve(curve(out), curve(alone))
    state = whole_states(out / "training" / "unet")[-1]
    width = {_shapes(path).get("module/unet/mid.0.res.conv1.weight", (0,))[0] for path in state.glob("*.safetensors")}
    assert width <= {0, 32}  # of 64: halves, not quarters; each is written by one of its two holders


def test_accelerate_launches_the_same(home: Path, alone: Path) -> None:
    out = home / "accelerate"
    told = "--cpu --num_processes 2 --num_machines 1 --mixed_precision no --main_process_port 0"
    launcher = [sys.executable, "-m", "accelerate.commands.launch", *told.split()]
    run([*launcher, *command(home, out, "--micro", "2", "--recompute")])  # DDP, two micro-batches a process
    assert_same_curve(curve(out), curve(alone))


def test_shares_in_bfloat16_follow(home: Path, alone: Path) -> None:
    out = home / "bfloat16"
    run([*torchrun(2), *command(home, out, "--parallel", "fsdp", "--precision", "bf16")])
    assert curve(out) == pytest.approx(curve(alone), rel=0.03)  # bfloat16 has steps of 0.8 %


def test_one_of_two_is_killed_and_one_process_goes_on(home: Path, alone: Path) -> None:
    out = home / "killed"
    state = out / "training" / "unet"
    two = [*torchrun(2), *command(home, out)]
    started = subprocess.Popen(two, env=environment(), stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 200
        while not whole_states(state):
            assert started.poll() is None and time.monotonic() < deadline, "ended before the first state was saved"
            time.sleep(0.01)
        victim = list(children(started.pid))[-1]
        os.kill(victim, signal.SIGKILL)
        started.communicate(timeout=120)
    finally:
        started.kill()
    assert started.returncode != 0, "the run was over before one of its processes could be killed; make it longer"

    newest = whole_states(state)[-1]
    saved = {name: tensor for path in newest.glob("*.safetensors") for name, tensor in _tensors(path).items()}
    resumed = resumed_weights(home, out)
    assert resumed.keys() == saved.keys()
    assert [name for name in saved if not torch.equal(saved[name], resumed[name])] == []

    run([sys.executable, *command(home, out)])
    got, saved_at = curve(out), int(newest.name.removeprefix("step-"))
    wanted = curve(alone)
    got.setdefault(saved_at, wanted[saved_at])  # its process may have been ended between saving and logging this step
    assert_same_curve(got, wanted)
    assert LatentDiffusion.from_pretrained(out).preset.name == "toy"


def children(pid: int) -> Iterator[int]:
    """The processes that a process has started."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        yield from map(int, (task / "children").read_text().split())


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    with safetensors.safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def resumed_weights(home: Path, out: Path) -> dict[str, torch.Tensor]:
    """What one process holds right after it has read the state that two have written."""
    cache = Cache(home / "cache")
    order = Order(cache.index.counts, batch=8, steps=STEPS, seed=3)
    schedule, share = make_schedule(TOY.schedule), Share(8)
    source = CachedBatches(cache, order, schedule, share, UNETS["toy"].drop)
    task = DiffusionTask(UNet(TOY.unet), schedule, TOY.prediction, source, UNETS["toy"], share=share)
    folder = out / "training" / "unet"
    assert load_sharded(task, folder) == int(whole_states(folder)[-1].name.removeprefix("step-"))
    return state_tensors(task)
