"""The lowest releases that pyproject.toml allows: an environment of theirs, in which tests of what uses them run.

It is made with pip, which takes minutes and needs a package index, so it is asked for: ``LDM_EDU_LOWEST=1``. PyTorch
and pytest are those of this environment.
"""

import os
import sys
import tomllib
import venv
from pathlib import Path

import pytest
from environments import call, link
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
FILES = ("pictures", "pictures_reading", "pictures_masks", "datasets_folder", "datasets_captions", "checkpoint", "cli")
NEEDS_AN_EXTRA = "grade"  # which this environment does not have

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("LDM_EDU_LOWEST" not in os.environ, reason="asked for by LDM_EDU_LOWEST=1: it needs an index"),
]


def lowest() -> list[str]:
    """The first release of each range, but for PyTorch's."""
    wanted = map(Requirement, tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"])
    return [f"{each.name}=={str(each.specifier).removeprefix('>=')}" for each in wanted if each.name != "torch"]


def test_the_lowest_releases_are_enough(tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    done = call(sys.executable, "-m", "pip", "--python", python, "install", "-q", *lowest(), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    link(python, "torch", "pytest", "hypothesis")
    tests = [f"tests/test_{name}.py" for name in FILES]
    how = ["-q", "-m", "not slow", "-k", f"not {NEEDS_AN_EXTRA}", "-p", "no:cacheprovider"]
    done = call(python, "-m", "pytest", *how, *tests, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-5000:]
