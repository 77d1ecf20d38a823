"""The benchmarks run on small models and report; how quick a machine is, no test asserts."""

import dataclasses
import sys
from pathlib import Path

import pytest
import torch

from ldm_edu.evaluate import bench
from ldm_edu.evaluate.bench import bench_generate, bench_train_step, diffusers_unet, step_input, time_in_turn
from ldm_edu.families import SD15, TOY


def test_actions_take_turns_and_the_first_round_is_not_counted() -> None:
    order: list[str] = []
    seconds = time_in_turn({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3)
    assert [len(each) for each in seconds.values()] == [3, 3]
    assert "".join(order) == "ba" + "abbaab"
    with pytest.raises(ValueError, match="rounds=0"):
        time_in_turn({}, 0)


def test_another_clock() -> None:
    ticks = iter(range(100))
    seconds = time_in_turn({"a": lambda: next(ticks), "b": lambda: None}, 2, lambda: float(next(ticks)))
    assert seconds == {"a": [2.0, 2.0], "b": [1.0, 1.0]}  # a itself takes a tick


def test_the_input_has_the_shapes_of_training_and_depends_on_its_seed() -> None:
    data = step_input(TOY, 3, seed=1)
    assert data.x.shape == data.target.shape == (3, 4, 8, 8)
    assert data.context.shape == (3, 16, 32) and data.t.max() < 1000
    assert torch.equal(data.x, step_input(TOY, 3, seed=1).x) and not torch.equal(data.x, step_input(TOY, 3, seed=2).x)


@pytest.mark.slow
def test_a_training_step_is_timed_against_the_reference() -> None:
    pytest.importorskip("diffusers")
    section = bench_train_step(TOY, batch=2, rounds=2)
    step, rate, ratio, tuned = section.figures
    assert step.count == rate.count == ratio.count == 2
    assert ratio.value == pytest.approx(step.beside["diffusers"] / step.value) and ratio.goal == 1.35
    assert tuned.value == pytest.approx(step.beside["diffusers, our settings"] / step.value)
    assert rate.value == pytest.approx(2 / (step.value / 1000))
    assert f"{sum(p.numel() for p in bench.UNet(TOY.unet).parameters()):,} parameters" in section.note


def test_both_steps_learn_the_same() -> None:
    pytest.importorskip("diffusers")
    data, theirs, ours = step_input(TOY, 4, seed=0), diffusers_unet(TOY.unet), bench.UNet(TOY.unet)
    ours.load_state_dict(bench.convert(theirs.state_dict(), bench.unet_pairs(TOY.unet)))
    mine = bench.training_step(bench.forward_of(ours), ours, data, tuned=True)
    other = bench.training_step(bench.sample_of(theirs), theirs, data, tuned=False)
    losses = [(mine(), other()) for _ in range(4)]
    assert losses[-1][0] < losses[0][0]
    for a, b in losses:
        assert a == pytest.approx(b, rel=0.02)  # bfloat16 has three digits


def test_networks_that_differ_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("diffusers")
    honest = bench.convert

    def wrong(*args: object) -> dict[str, torch.Tensor]:
        return {name: tensor * 1.01 for name, tensor in honest(*args).items()}  # type: ignore[arg-type]

    monkeypatch.setattr(bench, "convert", wrong)
    with pytest.raises(ValueError, match="nothing was timed"):
        bench_train_step(TOY, batch=2, rounds=1)


def test_without_diffusers_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ValueError, match=r"ldm-edu\[test\]"):
        bench_train_step(TOY, batch=2, rounds=1)


def test_a_network_that_diffusers_has_not_is_refused() -> None:
    pytest.importorskip("diffusers")
    config = dataclasses.replace(TOY.unet, mid_depth=2)
    with pytest.raises(ValueError, match="middle of another depth"):
        diffusers_unet(config)


def test_the_reference_of_stable_diffusion_has_its_size() -> None:
    pytest.importorskip("diffusers")
    with torch.device("meta"):
        assert sum(p.numel() for p in diffusers_unet(SD15.unet).parameters()) == 859_520_964


@pytest.mark.slow
def test_a_failing_command_is_reported_with_its_last_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"status 2: .*there is no folder or file"):
        bench_generate(str(tmp_path / "nothing"), steps=1, rounds=1)


@pytest.mark.slow
def test_drawing_is_timed_from_process_start_and_loaded(tmp_path: Path) -> None:
    from ldm_edu.model import LatentDiffusion

    LatentDiffusion.from_preset(TOY).save(tmp_path / "toy")
    started, loaded, loading = bench_generate(str(tmp_path / "toy"), steps=2, rounds=1).figures
    assert (started.goal, loaded.goal) == (10.0, 4.0)
    assert started.value > 0 and loaded.value > 0 and started.count == loaded.count == 1
    assert loading.value > 0


@pytest.mark.parametrize("threads, name", [(1, "the processor's time on one thread"), (2, "wall time on 2 threads")])
def test_on_one_thread_the_processor_is_timed(monkeypatch: pytest.MonkeyPatch, threads: int, name: str) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert bench.best_clock()[1] == name
