"""Environments of their own for a test, with parts of this one linked in, so that nothing is fetched twice."""

import os
import subprocess
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def call(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command with nothing of the checkout's environment: no PYTHONPATH, no data folder set from outside."""
    dropped = ("PYTHONPATH", "PYTHONHOME", "LDM_EDU_DATA")
    environment = {name: value for name, value in os.environ.items() if name not in dropped}
    return subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=600
    )


def link(python: Path, *names: str, itself: bool = True) -> None:
    """Put distributions of this environment, with all that they require, into another, where they are not there yet."""
    place = call(python, "-c", "import site; print(site.getsitepackages()[0])", cwd=python.parent)
    for path in files_of(closure(*names) | ({*names} if itself else set())):
        there = Path(place.stdout.strip()) / path.name
        if not there.exists():
            there.symlink_to(path, target_is_directory=path.is_dir())


def closure(*names: str) -> set[str]:
    """Distributions with all that they require, by their normalised names; but for the first ones themselves."""
    found, waiting = set(), [(name, "") for name in names]  # each with an extra of its own, or with none
    while waiting:
        one = waiting.pop()
        for requirement in map(Requirement, metadata.requires(one[0]) or ()):
            if requirement.marker is None or requirement.marker.evaluate({"extra": one[1]}):
                more = {(canonicalize_name(requirement.name), extra) for extra in ("", *requirement.extras)} - found
                found |= more
                waiting += more
    return {name for name, _ in found} - set(names)


def files_of(distributions: set[str]) -> set[Path]:
    """What distributions have put right into site-packages: folders and files."""
    found = set()
    for name in distributions:
        distribution = metadata.distribution(name)
        root = Path(str(distribution.locate_file("")))
        tops = {path.parts[0] for path in distribution.files or ()} - {"..", "__pycache__"}
        found |= {root / top for top in tops if (root / top).exists()}
    return found
