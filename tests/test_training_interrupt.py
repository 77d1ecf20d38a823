"""CTRL-C and its like in a training: the step is finished and saved, the same command goes on to the same weights."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from test_training import assert_equal, toy_task, weights

from ldm_edu.families import TOY
from ldm_edu.model import LatentDiffusion
from ldm_edu.training import interrupt, loop, state
from ldm_edu.training.diffusion import DiffusionTask
from ldm_edu.training.interrupt import Ending, Interrupted, reaching
from ldm_edu.training.loop import train
from ldm_edu.training.state import Store, load_state
from ldm_edu.training.tasks import BaseTask

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name == "nt", reason="signals are sent in another way there")]


def ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def end(*numbers: int) -> Callable[[], None]:
    """Send this process some signals at once."""

    def send() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
        for number in numbers:
            os.kill(os.getpid(), number)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)

    return send


@pytest.fixture(autouse=True)
def handlers_are_put_back() -> Iterator[None]:
    """After a training every signal does what it did before."""
    before = {number: signal.getsignal(number) for number in interrupt.ENDING}
    yield
    assert {number: signal.getsignal(number) for number in interrupt.ENDING} == before


def disturbed(task: DiffusionTask, at: int, disturb: Callable[[], None] = ctrl_c) -> DiffusionTask:
    """A task in which something happens half-way through a step, between the U-Net's update and its average's."""
    update, steps = task.ema.update, iter(range(1, 1000))

    def late(model: torch.nn.Module) -> None:
        if next(steps) == at:
            disturb()
        update(model)

    task.ema.update = late  # type: ignore[method-assign]
    return task


@pytest.mark.slow
def test_the_step_is_finished_and_saved_and_the_run_goes_on_as_the_unbroken_one(tmp_path: Path) -> None:
    unbroken, told = toy_task(), []
    list(train(unbroken, steps=6, seed=5))
    steps = train(disturbed(toy_task(), at=3), steps=6, seed=5, folder=tmp_path)
    with pytest.raises(Interrupted) as stopped:
        told.extend(record.step for record in steps)
    assert stopped.value.step == 3 and told == [1, 2, 3]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    resumed = toy_task()
    assert [record.step for record in train(resumed, steps=6, seed=5, folder=tmp_path)] == [4, 5, 6]
    assert_equal(weights(resumed), weights(unbroken))


def test_it_reaches_the_training_from_the_callers_own_code(tmp_path: Path) -> None:
    steps = train(toy_task(), steps=6, seed=5, folder=tmp_path)

    def watch() -> None:
        with reaching(steps):
            for record in steps:
                if record.step == 2:
                    ctrl_c()

    with pytest.raises(Interrupted) as stopped:
        watch()
    assert stopped.value.step == load_state(toy_task(), tmp_path) == 2


def test_what_was_saved_already_is_not_saved_again(tmp_path: Path) -> None:
    saved: list[int] = []
    store = Store(lambda task, folder, step: saved.append(step), lambda task, folder: 0)
    with pytest.raises(Interrupted):
        list(train(disturbed(toy_task(), at=2), steps=6, seed=5, folder=tmp_path, save_every=2, store=store))
    assert saved == [2]


def test_a_run_that_is_left_is_not_saved(tmp_path: Path) -> None:
    for record in train(toy_task(), steps=6, seed=5, folder=tmp_path):
        if record.step == 2:
            break
    assert load_state(toy_task(), tmp_path) == 0
    with pytest.raises(KeyboardInterrupt) as stopped:  # nothing to save in
        list(train(disturbed(toy_task(), at=1), steps=2, seed=5))
    assert not isinstance(stopped.value, Interrupted)


def twice() -> None:
    ctrl_c()
    ctrl_c()


def test_a_second_one_does_not_wait_and_keeps_the_state_before(tmp_path: Path) -> None:
    list(train(toy_task(), steps=1, seed=5, folder=tmp_path))
    before = (tmp_path / "state.safetensors").read_bytes()
    with pytest.raises(KeyboardInterrupt) as stopped:
        list(train(disturbed(toy_task(), at=1, disturb=twice), steps=3, seed=5, folder=tmp_path))
    assert not isinstance(stopped.value, Interrupted)
    assert (tmp_path / "state.safetensors").read_bytes() == before


def test_a_second_one_while_it_is_saved_keeps_the_state_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    list(train(toy_task(), steps=1, seed=5, folder=tmp_path))
    before = (tmp_path / "state.safetensors").read_bytes()
    write = state.safetensors.torch.save_file

    def cut(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
        write(tensors, path, metadata)
        ctrl_c()

    monkeypatch.setattr(state.safetensors.torch, "save_file", cut)
    with pytest.raises(KeyboardInterrupt) as stopped:
        list(train(disturbed(toy_task(), at=1), steps=3, seed=5, folder=tmp_path))
    assert not isinstance(stopped.value, Interrupted)
    assert (tmp_path / "state.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["state.safetensors"]


def test_one_process_of_many_saves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for where in (interrupt, loop):
        monkeypatch.setattr(where, "alone", lambda: False)
    store = Store(lambda task, folder, step: pytest.fail("waits for the others"), lambda task, folder: 0)
    with pytest.raises(KeyboardInterrupt) as stopped:
        list(train(disturbed(toy_task(), at=2), steps=6, seed=5, folder=tmp_path, store=store))
    assert not isinstance(stopped.value, Interrupted)
    steps = train(toy_task(), steps=6, seed=5, folder=tmp_path, store=store)
    next(steps)
    with pytest.raises(KeyboardInterrupt) as stopped:
        steps.throw(KeyboardInterrupt())
    assert not isinstance(stopped.value, Interrupted)


TERM, HUP = signal.SIGTERM, getattr(signal, "SIGHUP", 0)


@pytest.mark.parametrize("numbers", [(TERM,), (HUP,), (HUP, TERM), (TERM, TERM, HUP)])
def test_signals_of_the_system_save_as_a_person_does(tmp_path: Path, numbers: tuple[int, ...]) -> None:
    """Several of them mean the same: a shell and the system both send SIGHUP when a terminal is closed."""
    with pytest.raises(Interrupted) as stopped:
        list(train(disturbed(toy_task(), at=2, disturb=end(*numbers)), steps=6, seed=5, folder=tmp_path))
    assert stopped.value.step == 2 and stopped.value.number in numbers  # which one comes first is the system's business
    assert load_state(toy_task(), tmp_path) == 2


@pytest.mark.parametrize("numbers", [(TERM,), (HUP, TERM)])
def test_they_reach_the_training_from_the_callers_own_code(tmp_path: Path, numbers: tuple[int, ...]) -> None:
    steps = train(toy_task(), steps=6, seed=5, folder=tmp_path)

    def watch() -> None:
        with reaching(steps):
            for record in steps:
                if record.step == 2:
                    end(*numbers)()

    with pytest.raises(Interrupted, match=str(min(numbers))):
        watch()
    assert load_state(toy_task(), tmp_path) == 2


def test_a_signal_that_is_ignored_stays_so(tmp_path: Path) -> None:
    before = signal.signal(HUP, signal.SIG_IGN)  # as `nohup` does
    try:
        list(train(disturbed(toy_task(), at=1, disturb=end(HUP)), steps=2, seed=5, folder=tmp_path))
        assert signal.getsignal(HUP) is signal.SIG_IGN
    finally:
        signal.signal(HUP, before)
    assert load_state(toy_task(), tmp_path) == 2


def test_a_signal_before_the_first_step_ends_the_training(tmp_path: Path) -> None:
    steps = train(toy_task(), steps=6, seed=5, folder=tmp_path)
    with pytest.raises(Ending) as stopped, reaching(steps):
        end(TERM)()
    assert not isinstance(stopped.value, Interrupted) and stopped.value.number == TERM


@pytest.mark.slow
@pytest.mark.parametrize(("own", "number"), [(False, signal.SIGINT), (False, TERM), (True, HUP)])
def test_the_command_says_where_it_stopped_and_goes_on_from_there(
    own: bool, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    from ldm_edu.cli import app

    out, descend = tmp_path / "out", BaseTask._descend
    LatentDiffusion.from_preset(TOY).save(out)
    (out / "unet.safetensors").unlink()
    for name in "ab":
        Image.new("RGB", (16, 16)).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text(name)
    command = ["train", "unet", "--preset", "toy", "--out", str(out), "--steps", "4", "--batch", "2"]
    if own:
        command += ["--data", str(tmp_path), "--cache", str(tmp_path / "cache"), "--precision", "fp32"]

    def stop(task: BaseTask, name: str, step: int, *rest: float) -> None:
        descend(task, name, step, *rest)
        if step == 1:
            end(number)()

    with monkeypatch.context() as patched:
        patched.setattr(BaseTask, "_descend", stop)
        stopped = CliRunner().invoke(app, command)
    assert stopped.exit_code == 128 + number, stopped.output
    assert LatentDiffusion.from_pretrained(out).preset.name == "toy"  # what was learned until then draws
    assert f"{out}: stopped after step 2; the same command goes on from there" in stopped.stderr
    steps: list[int] = []
    monkeypatch.setattr(BaseTask, "_descend", lambda task, name, step, *rest: steps.append(step))
    assert CliRunner().invoke(app, command).exit_code == 0
    assert steps == [2, 3]
