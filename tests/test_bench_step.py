"""The benchmarks of a step: what is compared is the same, the counts are right; how quick it is, no test asserts."""

import json
import statistics
import sys
from pathlib import Path

import pytest
import torch
from command import refused, run
from typer.testing import CliRunner

from ldm_edu.cli import app
from ldm_edu.evaluate import bench_samplers, bench_step, verify
from ldm_edu.families import SD15, TOY
from ldm_edu.samplers import SAMPLERS

pytestmark = pytest.mark.slow


def test_a_guided_step_is_timed_against_the_reference() -> None:
    pytest.importorskip("diffusers")
    section = bench_step.bench_step(TOY, size=16, rounds=2)
    step, same, default, once = section.figures
    assert step.count == 2 and set(step.beside) == {bench_step.SAME, bench_step.DEFAULT}
    assert (same.goal, default.goal) == (1.1, 1.8) and once.value > 0
    assert "agree to" in section.note


def test_latents_that_differ_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("diffusers")
    honest = bench_step.convert

    def wrong(*args: object) -> dict[str, torch.Tensor]:
        return {name: tensor * 1.01 for name, tensor in honest(*args).items()}  # type: ignore[arg-type]

    monkeypatch.setattr(bench_step, "convert", wrong)
    with pytest.raises(ValueError, match="differ too much"):
        bench_step.bench_step(TOY, size=16, rounds=1)


def test_ratios_are_taken_within_a_round() -> None:
    seconds = {"a": [1.0, 10.0, 2.0], "b": [2.0, 40.0, 2.0]}  # the second round was disturbed
    assert bench_step.ratio(seconds, "b", "a") == statistics.median([2.0, 4.0, 1.0]) == 2.0


def test_the_arithmetic_of_stable_diffusion() -> None:
    """Without the keys and values of the context, which are computed once a run."""
    small, large = (bench_step.step_flops(SD15, size) for size in (512, 1024))
    assert sum(small.values()) == pytest.approx(2 * 800.3e9, rel=1e-3)
    assert sum(large.values()) / sum(small.values()) == pytest.approx(5.837, rel=1e-3)
    assert large["convolutions"] == pytest.approx(4 * small["convolutions"])
    assert small["attention"] < large["attention"] / 10  # self-attention grows by 16, cross-attention by 4


def test_two_sizes() -> None:
    step, cost, work, _ = bench_step.bench_sizes(TOY, sizes=(16, 32), rounds=1).figures
    assert cost.value == pytest.approx(step.value / step.beside["16 px"]) and cost.goal == 6.4
    assert 4 < work.value < 5


def test_every_sampler_is_timed_beside_its_scheduler() -> None:
    pytest.importorskip("diffusers")
    section = bench_samplers.bench_samplers(steps=5, rounds=1, shape=(4, 8, 8))
    assert [figure.name for figure in section.figures] == list(SAMPLERS)
    assert all(figure.goal == 0.1 and figure.value > 0 for figure in section.figures)
    assert all(figure.beside["diffusers"] > 0 for figure in section.figures if figure.name in bench_samplers.SCHEDULERS)
    assert set(SAMPLERS) - set(bench_samplers.SCHEDULERS) == {"dpmpp_2s_ancestral", "dpmpp_sde"}


def test_without_diffusers_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ValueError, match=r"ldm-edu\[test\]"):
        bench_samplers.bench_samplers(steps=5, rounds=1)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["bench", "step", "--preset", "toy", "--size", "17"], "toy draws multiples of 4, such as 16"),
        (["bench", "sizes", "--preset", "toy", "--small", "16", "--large", "33"], "a side of 33 pixels does not fit"),
        (["bench", "step", "--preset", "sd15_inpaint"], "sd15_inpaint reads 5 channels of a given picture"),
        (["verify", "toy", "--size", "7"], "toy draws multiples of 4; the nearest are 4 and 8"),
        (["verify", "toy", "--size", "1"], "toy draws multiples of 4; the nearest is 4"),
        (["verify", "sd15_pix2pix", "--size", "33"], "sd15_pix2pix does not draw from prompts alone"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_made(
    arguments: list[str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, maker in ((bench_step, "diffusers_unet"), (bench_step, "pack"), (verify, "write_reference")):
        monkeypatch.setattr(module, maker, lambda *_, **__: pytest.fail("made for nothing"))
    said = refused(run(*arguments))
    assert words in said and len(said.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        "bench step --preset toy --size 16 --rounds 1",
        "bench sizes --preset toy --small 16 --large 32 --rounds 1",
        "bench samplers --steps 3 --rounds 1",
        "bench gpu step --preset toy --size 16 --rounds 1",
        "bench train-step --preset toy --batch 2 --rounds 1",
        "bench generate --model nowhere",
        "verify toy",
    ],
)
def test_a_record_that_cannot_be_written_is_found_before_anything_is_timed(arguments: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert "a.json cannot be saved" in refused(run(*arguments.split(), "--out", tmp_path / "file" / "a.json"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["step", "--preset", "toy", "--size", "16", "--rounds", "1"],
        ["sizes", "--preset", "toy", "--small", "16", "--large", "32", "--rounds", "1"],
        ["samplers", "--steps", "3", "--rounds", "1"],
    ],
)
def test_commands_write_records(arguments: list[str], tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    out = tmp_path / "record.json"
    result = CliRunner().invoke(app, ["bench", *arguments, "--out", str(out)])
    assert result.exit_code == 0, result.output
    values = json.loads(out.read_text(encoding="utf-8"))
    assert values["sections"][0]["figures"] and values["hardware"]["processor"] and values["versions"]["torch"]
