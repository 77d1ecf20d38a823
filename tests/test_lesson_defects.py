"""A lesson compares what it builds with the package: where the package is wrong, the lesson must fail.

Each case puts one small defect into one function of the package and runs the cell that compares, with the cells that it
needs. Without the defect the same cells pass.
"""

import os
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TEXTS = ROOT / "notebooks" / "text"

pytestmark = [pytest.mark.slow, pytest.mark.notebook]


@dataclass(frozen=True)
class Defect:
    """Where a lesson compares (`mark`, in the cell's code), and what `function` of `module` returns instead."""

    lesson: str
    mark: str
    module: str
    function: str
    wrong: str  # of `right` (the function), `args` and `named`

    def code(self) -> str:
        holder, _, name = f"{self.module}.{self.function}".rpartition(".")
        path = holder.removeprefix(self.module)
        return (
            f"import importlib\nholder = importlib.import_module('{self.module}'){path}\nright = holder.{name}\n"
            f"holder.{name} = lambda *args, **named: {self.wrong}\n"
        )


DEFECTS = [
    Defect(
        *("01_forward_noising", "schedule.add_noise(x0, eps, linear.level(t)))"),
        *("ldm_edu.schedule", "add_noise", "right(args[0], 1.01 * args[1], *args[2:])"),
    ),
    Defect(
        *("02_noise_predictor", "embeddings.timestep_embedding(t, 32)"),
        *("ldm_edu.nn.embeddings", "timestep_embedding", "right(*args, **named).flip(-1)"),
    ),
    Defect(
        *("02_noise_predictor", "prediction.target(kind, x0, eps, level)"),
        *("ldm_edu.prediction", "target", "-right(*args, **named)"),
    ),
    Defect(
        *("03_autoencoder", "posterior.kl(), rtol"),
        *("ldm_edu.models.autoencoder", "Posterior.kl", "1.01 * right(*args, **named)"),
    ),
    Defect(
        *("04_latent_diffusion", "ldm_edu.training.losses.diffusion_loss("),
        *("ldm_edu.training.losses", "diffusion_loss", "1.01 * right(*args, **named)"),
    ),
    Defect(
        *("05_text", "losses.contrastive_loss(u, v"),
        *("ldm_edu.training.losses", "contrastive_loss", "right(args[0], args[1].flip(0), *args[2:])"),
    ),
    Defect(
        *("05_text", "attention_maps.attention_weights("),
        *("ldm_edu.attention_maps", "attention_weights", "right(*args, **named) ** 1.05"),
    ),
    Defect(
        *("06_guidance", "guidance.cfg(left, everything, 3.0)"),
        *("ldm_edu.guidance", "cfg", "right(*args[:2], args[2] + 0.1, *args[3:])"),
    ),
    Defect(
        *("06_guidance", 'guidance.rescale(plain, 0.7, "v")'),
        *("ldm_edu.guidance", "rescale", "right(args[0], args[1] / 2, *args[2:])"),
    ),
    Defect(
        *("07_samplers", "check(my_ddpm, samplers.ddpm)"),
        *(
            "ldm_edu.samplers",
            "ddpm",
            "right(args[0], 1.001 * args[1], *args[2:], **named)",
        ),
    ),
    Defect(
        *("07_samplers", "check(my_ddim, samplers.ddim)"),
        *("ldm_edu.samplers", "ddim", "right(args[0], 1.001 * args[1], *args[2:], **named)"),
    ),
]


def run(lesson: str, mark: str, defect: str = "") -> str:
    text = TEXTS / f"{lesson}.py"
    if not text.is_file():
        pytest.skip(f"lesson {lesson} is not in this checkout")
    path = os.pathsep.join([str(ROOT / "tests" / "offline"), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "lesson_slice.py"), str(text), mark, defect],
        env={**os.environ, "PYTHONPATH": path, "MPLBACKEND": "agg"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"a cell above the comparison failed:\n{done.stderr[-2000:]}"
    return done.stdout.splitlines()[-1]


@cache
def healthy(lesson: str, mark: str) -> str:
    return run(lesson, mark)


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda d: f"{d.lesson[:2]}-{d.function}")
def test_a_defect_in_the_package_fails_its_lesson(defect: Defect) -> None:
    assert healthy(defect.lesson, defect.mark) == "passed"
    assert run(defect.lesson, defect.mark, defect.code()) == "failed: AssertionError"


def test_a_mark_that_no_cell_has_is_found() -> None:
    with pytest.raises(AssertionError, match="no cell contains"):
        run("01_forward_noising", "no such comparison")
