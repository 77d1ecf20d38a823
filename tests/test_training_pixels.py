"""The fashion preset: pixels, classes, and the losses that are usual for it."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from ldm_edu.datasets.fashion import FashionTensors
from ldm_edu.families import FASHION, TOY
from ldm_edu.model import LatentDiffusion
from ldm_edu.training import bands
from ldm_edu.training.levels import loss_per_level
from ldm_edu.training.loop import train
from ldm_edu.training.recipes import UNETS, UNetRecipe
from ldm_edu.training.runs import pixels_parts, pixels_task

RECIPE = dataclasses.replace(UNETS["fashion"], steps=12, batch=8, decay=0.1)


def pictures(count: int = 20) -> FashionTensors:
    rng = torch.Generator().manual_seed(0)
    shades = torch.rand(count, 1, 1, 1, generator=rng) * 2 - 1
    return FashionTensors(shades.expand(-1, 1, 28, 28).contiguous(), torch.arange(count) % 10)


def test_training_lowers_the_loss_and_moves_the_class_table() -> None:
    task = pixels_task(FASHION, RECIPE, pictures(), torch.device("cpu"))
    before = pixels_parts(task, FASHION)["classes"].state_dict()["table.weight"].clone()
    records = list(train(task, steps=RECIPE.steps, seed=1))
    assert records[-1].values["loss"] < records[0].values["loss"]
    assert records[0].values["loss"] == pytest.approx(1.0, abs=0.1)  # it starts by saying "no noise"
    after = pixels_parts(task, FASHION)["classes"].state_dict()["table.weight"]
    assert not torch.equal(before, after)


def test_some_conditions_are_dropped() -> None:
    from ldm_edu.conditioners.classes import ClassConditioner
    from ldm_edu.training.sources import class_batches

    data, conditioner = pictures(), ClassConditioner(10, 16)
    rng = torch.Generator().manual_seed(3)
    vector = class_batches(data.images, data.labels, conditioner, drop=0.3)(rng, 400, 0.0).cond.vector
    assert vector is not None
    blank = float((vector == 0).all(dim=1).float().mean())
    assert 0.2 < blank < 0.4


def test_other_presets_are_refused() -> None:
    with pytest.raises(ValueError, match="choose fashion"):
        pixels_task(TOY, RECIPE, pictures(), torch.device("cpu"))


@pytest.mark.slow
def test_the_command_writes_a_model_that_draws(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from ldm_edu.cli import app

    command = ["train", "unet", "--preset", "fashion", "--out", str(tmp_path), "--steps", "2", "--batch", "4"]
    result = CliRunner().invoke(app, [*command, "--sheet-every", "2"])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "training" / "unet" / "sheet-000002.png").is_file()
    model = LatentDiffusion.from_pretrained(tmp_path)
    assert model.preset == FASHION
    *_, last = model.generate([3, ""], seeds=[1, 2], steps=2, guidance=1.0)
    assert model.decode(last.x).shape == (2, 1, 28, 28)
    # it goes on from here: the same command again does nothing but write
    assert CliRunner().invoke(app, [*command, "--sheet-every", "0"]).exit_code == 0


def test_the_loss_of_a_network_that_says_nothing_is_the_variance_of_the_noise() -> None:
    task = pixels_task(FASHION, RECIPE, pictures(), torch.device("cpu"))
    parts = pixels_parts(task, FASHION)
    with torch.no_grad():
        parts["unet"].conv_out.bias.zero_()  # type: ignore[union-attr,operator]
    data = pictures()
    losses = loss_per_level(parts["unet"], parts["classes"](data.labels.tolist()), task.schedule, data.images)
    torch.testing.assert_close(losses, torch.ones(len(bands.TIMES)), rtol=0.05, atol=0.0)


def test_bands_hold_the_extremes_of_their_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = iter([{m: [0.1 * m] * 10 for m in bands.MARKS}, {m: [0.2 * m] * 10 for m in bands.MARKS}])
    monkeypatch.setattr(bands, "repeat", lambda seed: next(runs))
    found = bands.bands([1, 2])
    mark = bands.MARKS[0]
    steps = found["steps"]
    assert isinstance(steps, dict)
    assert steps[str(mark)]["low"] == [0.1 * mark] * 10
    assert steps[str(mark)]["high"] == [0.2 * mark] * 10
    json.dumps(found)


def test_the_shipped_bands_belong_to_this_code() -> None:
    path = Path(__file__).parents[1] / "data" / "checkpoints" / "fashion" / "bands.json"
    shipped = json.loads(path.read_text())
    assert shipped["times"] == list(bands.TIMES)
    assert list(map(int, shipped["steps"])) == list(bands.MARKS)
    # a field that a recipe got since then has its default here, which leaves the training as it was
    assert UNetRecipe(**shipped["recipe"]) == bands.short_recipe()
