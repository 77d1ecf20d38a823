"""Is my model learning? The loss at every noise level, measured over repeated short trainings.

    python -m ldm_edu.training.bands --out data/checkpoints/fashion/bands.json

trains the fashion preset from several seeds and writes what its loss was after so many steps: lowest and highest of the
repeats, for ten noise levels. A training of your own that lies far above has something wrong with it.
"""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import torch

from ldm_edu.datasets.fashion import FashionTensors, fashion_tensors
from ldm_edu.families import FASHION
from ldm_edu.files import atomic_write_text
from ldm_edu.training.levels import TIMES, loss_per_level
from ldm_edu.training.loop import train
from ldm_edu.training.recipes import UNETS, UNetRecipe
from ldm_edu.training.runs import pixels_parts, pixels_task

MARKS = (50, 100, 400)  # after so many steps
SHOWN = 64  # test pictures


def short_recipe() -> UNetRecipe:
    """The fashion recipe, cut to the length of a lesson."""
    return dataclasses.replace(UNETS["fashion"], steps=MARKS[-1])


def held_out_pictures(count: int = SHOWN) -> FashionTensors:
    """The first pictures of the test split, with their labels."""
    data = fashion_tensors("test")
    return FashionTensors(data.images[:count], data.labels[:count])


def repeat(seed: int) -> dict[int, list[float]]:
    """One short training: steps done -> the loss at each of `TIMES`."""
    recipe = dataclasses.replace(short_recipe(), seed=seed)
    task = pixels_task(FASHION, recipe, fashion_tensors("train"), torch.device("cpu"))
    parts, data, found = pixels_parts(task, FASHION), held_out_pictures(), {}
    for record in train(task, steps=recipe.steps, seed=recipe.seed):
        if record.step in MARKS:
            cond = parts["classes"](data.labels.tolist())
            losses = loss_per_level(parts["unet"], cond, task.schedule, data.images)  # type: ignore[arg-type]
            found[record.step] = [round(float(loss), 5) for loss in losses]
    return found


def bands(seeds: Sequence[int]) -> dict[str, object]:
    """The repeats, and for each mark the lowest and the highest loss at each level."""
    runs = [repeat(seed) for seed in seeds]
    marks = {}
    for mark in MARKS:
        each = [run[mark] for run in runs]
        columns = list(zip(*each, strict=True))
        marks[str(mark)] = {"low": [min(c) for c in columns], "high": [max(c) for c in columns], "repeats": each}
    recipe = dataclasses.asdict(short_recipe())
    command = f"python -m ldm_edu.training.bands --seeds {' '.join(map(str, seeds))}"
    return {"command": command, "times": TIMES, "seeds": seeds, "recipe": recipe, "steps": marks}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description="Measure the expected loss per noise level of the fashion preset.")
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13])
    given = parser.parse_args()
    atomic_write_text(given.out, json.dumps(bands(given.seeds), indent=1) + "\n")


if __name__ == "__main__":
    main()
