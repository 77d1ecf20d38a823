"""Is everything here that a lesson needs? A table that says what was found, and what to do where something is not."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from ldm_edu.device import default_device, device_name
from ldm_edu.extras import INSTALL
from ldm_edu.paths import data_dir
from ldm_edu.viz.style import Table

ENOUGH = (3, 11)


def environment(model: str = "emoji") -> Table:
    """What this machine offers to the lessons.

    Nothing is downloaded and no path of the machine is shown: the table can be pasted into a bug report.
    """
    rows = [_python(), _torch(), _processor(), _gpu(), _widgets(), *_files(model)]
    complete = all(verdict.startswith("fine") or verdict == "not needed" for _, _, verdict in rows)
    network = "nothing will be downloaded" if complete else "see the lines above"
    rows.append(("network", network, "not needed" if complete else "not needed once the rest is fine"))
    return Table(("what", "found", "verdict"), tuple(rows))


def _python() -> tuple[str, str, str]:
    enough = tuple(map(int, platform.python_version_tuple()[:2])) >= ENOUGH
    return "Python", platform.python_version(), "fine" if enough else "too old: install Python 3.11 or newer"


def _torch() -> tuple[str, str, str]:
    return "PyTorch", torch.__version__, "fine"


def _processor() -> tuple[str, str, str]:
    cores = os.cpu_count() or 1
    return "processor cores", str(cores), "fine" if cores >= 2 else "fine, but expect twice the minutes"


def _gpu() -> tuple[str, str, str]:
    device = default_device()
    return "GPU", "none" if device.type == "cpu" else device_name(device), "not needed"


def _widgets() -> tuple[str, str, str]:
    try:
        return "sliders (ipywidgets)", version("ipywidgets"), "fine"
    except PackageNotFoundError:
        return (
            "sliders (ipywidgets)",
            "missing",
            f"fine: you will see film strips; pip install {INSTALL['ipywidgets']} for sliders",
        )


def _files(model: str) -> list[tuple[str, str, str]]:
    try:
        folder = data_dir()
    except FileNotFoundError as error:
        return [("data", "missing", str(error))]
    wanted = {
        "data: emoji pictures": sorted(folder.glob("emoji/*.parquet")),
        "data: tokenizer": sorted(folder.glob("tokenizer/*.gz")),
        f"model: {model}": sorted(folder.glob(f"checkpoints/{model}/*.safetensors")),
    }
    return [(name, _size(paths), _verdict(paths)) for name, paths in wanted.items()]


def _size(paths: list[Path]) -> str:
    return f"{sum(path.stat().st_size for path in paths) / 1e6:.1f} MB" if paths else "missing"


def _verdict(paths: list[Path]) -> str:
    return "fine" if paths else "get the project again (git clone), or set LDM_EDU_DATA to its data/ folder"
