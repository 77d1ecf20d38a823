"""Trainings killed at random moments lose nothing and end as the undisturbed one: a few of them here, many by hand.

``LDM_KILLS=200 python -m pytest tests/test_training_kills.py`` kills every trainer in turn, 200 times in all.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = os.environ.get("LDM_KILLS")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked there")
def test_nothing_is_lost_and_every_number_is_that_of_the_undisturbed_run(root: Path) -> None:
    few = ["--kills", "6", "--only", "decoder", "clip", "unet on own pictures"]
    command = [sys.executable, str(root / "tests" / "kills.py"), "--seed", "3"]
    command += ["--kills", KILLS, "--minutes", "600"] if KILLS else few
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(root)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert " 0 kills" not in done.stdout, done.stdout
