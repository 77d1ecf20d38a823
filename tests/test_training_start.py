"""Training on from a model: found by its name, its recipe by the number of pictures, and said beforehand."""

import json
from pathlib import Path

import pytest
import torch
from test_training_scale import write_pictures

from ldm_edu.checkpoint import find
from ldm_edu.checkpoint.io import load_tensors
from ldm_edu.families import TOY
from ldm_edu.model import LatentDiffusion
from ldm_edu.training.recipes import LEAST, SEEN, UNETS, UNETS_ON, on_own_pictures


@pytest.mark.parametrize("preset", UNETS_ON)
@pytest.mark.parametrize("pictures", [1, 7, 30, 1000, 10**6])
def test_the_recipe_follows_the_number_of_pictures(preset: str, pictures: int) -> None:
    recipe, most = UNETS_ON[preset], UNETS[preset].steps
    own = on_own_pictures(recipe, pictures, most=most)
    assert own.batch <= max(1, pictures // 2) and own.batch <= recipe.batch
    assert own.lr <= recipe.lr and (own.batch == recipe.batch) == (own.lr == recipe.lr)
    assert min(LEAST, most) <= own.steps <= most
    if LEAST < own.steps < most:
        assert SEEN <= own.steps * own.batch / pictures < SEEN + own.batch
    chosen = on_own_pictures(recipe, pictures, most=most, steps=3, batch=5, lr=0.25)
    assert (chosen.steps, chosen.batch, chosen.lr) == (3, 5, 0.25)
    assert on_own_pictures(recipe, 1, most=most, at_once=6).batch == 6  # every process has one


@pytest.mark.slow
def test_a_model_is_trained_on_by_its_name_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from ldm_edu.cli import app

    monkeypatch.setattr(find, "checkpoints_dir", lambda: tmp_path / "shipped")
    LatentDiffusion.from_preset(TOY).save(tmp_path / "shipped" / "begun")
    write_pictures(tmp_path / "pictures", 5)
    out = tmp_path / "out"
    command = ["train", "unet", "--preset", "toy", "--data", str(tmp_path / "pictures"), "--out", str(out)]
    result = CliRunner().invoke(app, [*command, "--start", "begun", "--steps", "8"])
    assert result.exit_code == 0, result.output
    assert "5 pictures: 8 steps of 2, so each is shown about 3 times" in result.stderr
    assert "2 more steps at " in result.stderr and f"{out}: unet after 8 steps" in result.stderr
    told = json.loads((out / "training" / "unet" / "run.json").read_text())
    assert (told["batch"], told["lr"], told["decay"]) == (2, UNETS_ON["toy"].lr / 2, UNETS_ON["toy"].decay)
    before, after = load_tensors(tmp_path / "shipped" / "begun", "unet"), load_tensors(out, "unet")
    assert 0 < max(float((after[name] - before[name]).abs().max()) for name in before) < 0.02
    assert torch.equal(LatentDiffusion.from_pretrained(out).unet.conv_in.weight, after["conv_in.weight"])

    result = CliRunner().invoke(app, [*command[:-1], str(tmp_path / "other"), "--start", "begum"])
    assert result.exit_code != 0 and "'begum'" in str(result.exception)
