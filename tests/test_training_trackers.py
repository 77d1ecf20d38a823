"""`--wandb`: what goes to the tracker, with a stand-in for its package; and a tracker that does not start."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from ldm_edu import LatentDiffusion
from ldm_edu.families import TOY

pytestmark = pytest.mark.slow

STAND_IN = """
import json, os
class Config(dict):
    def update(self, values, allow_val_change=False): told(config=values)
config = Config()
def told(**what):
    with open(os.environ["TOLD"], "a") as file: file.write(json.dumps(what, default=str) + "\\n")
class Run:
    def log(self, values, step=None, **_): told(step=step, values=values)
    def finish(self): told(finished=True)
def init(project=None, **how):
    if os.environ.get("NO_ACCOUNT"): raise RuntimeError("no API key")
    told(project=project, **how)
    return Run()
"""


def train(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    (folder / "site").mkdir()
    (folder / "site" / "wandb.py").write_text(STAND_IN)
    (folder / "site" / "wandb-0.31.dist-info").mkdir()  # accelerate asks for what pip has installed
    (folder / "site" / "wandb-0.31.dist-info" / "METADATA").write_text("Name: wandb\nVersion: 0.31\n")
    (folder / "pictures").mkdir()
    for i in range(4):
        Image.new("RGB", (16, 16), (60 * i, 90, 90)).save(folder / "pictures" / f"{i}.png")
        (folder / "pictures" / f"{i}.txt").write_text(f"a field of colour {i}")
    LatentDiffusion.from_preset(TOY).save(folder / "parts")
    command = [sys.executable, "-m", "ldm_edu", "train", "unet", "--preset", "toy", "--data", "pictures"]
    options = ["--parts", "parts", "--out", "out", "--steps", "3", "--batch", "4", "--sheet-every", "0", "--wandb"]
    path = os.pathsep.join([str(folder / "site"), str(Path(__file__).parents[1])])
    told = {"PYTHONPATH": path, "TOLD": str(folder / "told"), "CUDA_VISIBLE_DEVICES": "", **environment}
    return subprocess.run(
        [*command, *options], cwd=folder, env={**os.environ, **told}, capture_output=True, text=True, timeout=240
    )


def test_losses_and_settings_go_to_the_tracker_and_its_files_beside_the_run(tmp_path: Path) -> None:
    done = train(tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    told = [json.loads(line) for line in (tmp_path / "told").read_text().splitlines()]
    assert told[0]["project"] == "unet"
    assert told[0]["dir"] == str(Path("out/training/unet"))
    assert told[1]["config"]["batch"] == 4 and told[1]["config"]["preset"] == "toy"
    assert [each["step"] for each in told[2:5]] == [1, 2, 3]
    assert all({"loss", "pictures_per_second"} <= set(each["values"]) for each in told[2:5])
    assert told[-1] == {"finished": True}


def test_a_tracker_that_does_not_start_is_said_in_a_sentence(tmp_path: Path) -> None:
    done = train(tmp_path, NO_ACCOUNT="1")
    assert done.returncode != 0
    assert "a tracker did not start (no API key)" in done.stderr
    assert "WANDB_MODE=offline" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "unet.safetensors").exists()
