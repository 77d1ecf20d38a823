"""On a machine without a GPU: the whole package on a second device, in a process of its own (see `second_device`)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils import backend_registration


@pytest.mark.slow
@pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this PyTorch cannot be told of a device from Python",
)
def test_everything_works_on_another_device(root: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "tests/second_device_checks.py",
        "-q",
        "--tb=short",
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run(
        command, cwd=root, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2000:]
    assert " passed" in done.stdout and "skipped" not in done.stdout
