"""What was measured, on what, by which command: a record that is printed as tables and written as JSON."""

import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import torch

from ldm_edu.device import default_device, device_name
from ldm_edu.files import atomic_write_text

PACKAGES = ("ldm-edu", "torch", "numpy", "diffusers")


@dataclass(frozen=True)
class Figure:
    """One measured number beside those that tell what it is worth.

    ``beside`` holds the same figure for real pictures, for chance, for another program. ``goal`` is the least value
    aimed at, or the largest where ``better`` is "lower". ``count`` is the number of pictures, or of timed runs.
    """

    name: str
    value: float
    count: int
    beside: Mapping[str, float]
    unit: Literal["", "%", "dB", "s", "ms"] = ""
    goal: float | None = None
    better: Literal["higher", "lower"] = "higher"

    @property
    def reached(self) -> bool | None:
        """Whether the goal is reached; None where there is none."""
        if self.goal is None:
            return None
        return self.value >= self.goal if self.better == "higher" else self.value <= self.goal


@dataclass(frozen=True)
class Section:
    """Figures that share a table: ``what`` the first column of numbers is of, and a ``note`` below."""

    title: str
    what: str
    figures: Sequence[Figure]
    note: str = ""


@dataclass(frozen=True)
class Record:
    """A whole measurement."""

    command: str
    date: str
    seconds: float
    settings: Mapping[str, Any]  # what decides the numbers: seed, steps, guidance ...
    hardware: Mapping[str, Any]
    versions: Mapping[str, str]
    sections: Sequence[Section]


def record(command: str, settings: Mapping[str, Any], sections: Sequence[Section], *, seconds: float) -> Record:
    """A record of today, on this machine."""
    date = datetime.now(UTC).strftime("%Y-%m-%d")
    return Record(command, date, round(seconds, 1), settings, hardware(), versions(), sections)


def hardware() -> dict[str, Any]:
    """The processor, its memory, the threads that torch uses, and the GPU if there is one."""
    found: dict[str, Any] = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found["memory_gib"] = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    if (device := default_device()).type != "cpu":
        found["gpu"] = device_name(device)
    return found


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that the numbers depend on, where installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def write_record(path: Path, measured: Record) -> None:
    """Write a record as JSON, whole or not at all.

    Raises
    ------
    SaveError
        if the disk refuses.
    """
    values = asdict(measured)
    for section in values["sections"]:
        for figure in section["figures"]:
            figure["value"] = _rounded(figure["value"])
            figure["beside"] = {name: _rounded(value) for name, value in figure["beside"].items()}
    atomic_write_text(path, json.dumps(values, indent=1, ensure_ascii=False) + "\n")


def _rounded(value: float) -> float | str:
    """Six significant digits; JSON has no infinity and no NaN, so these are words."""
    return float(f"{value:.6g}") if abs(value) < float("inf") else str(value)


def markdown(measured: Record) -> str:
    """A record as Markdown: a table a section, then what it was measured on and by which command."""
    return "\n".join([*_body(measured), ""])


def _body(measured: Record) -> Iterator[str]:
    for section in measured.sections:
        yield from (f"### {section.title}", "", *table(section), "")
        if section.note:
            yield from (section.note, "")
    machine, used = measured.hardware, measured.versions
    yield f"`{measured.command}` on {measured.date}, {measured.seconds:.0f} s."
    place = machine.get("gpu") or f"{machine['processor']}, {machine['threads']} of {machine['cores']} cores"
    yield f"{place}; {', '.join(f'{name} {number}' for name, number in used.items())}."
    if measured.settings:
        yield f"Settings: {', '.join(f'{name} {value}' for name, value in measured.settings.items())}."


def table(section: Section) -> Iterator[str]:
    """The figures of a section as the lines of a Markdown table."""
    columns = list(dict.fromkeys(name for figure in section.figures for name in figure.beside))
    goals = any(figure.goal is not None for figure in section.figures)
    yield _row(["", section.what, *(["goal"] if goals else []), *columns, "N"])
    yield _row(["---", *["--:"] * (len(columns) + 2 + goals)])
    for figure in section.figures:
        cells = [figure.name, shown(figure.value, figure.unit)]
        if goals:
            cells.append(_goal(figure))
        cells += [shown(figure.beside[name], figure.unit) if name in figure.beside else "" for name in columns]
        yield _row([*cells, f"{figure.count:,}"])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _goal(figure: Figure) -> str:
    if figure.goal is None:
        return ""
    sign = "≥" if figure.better == "higher" else "≤"
    return f"{sign} {shown(figure.goal, figure.unit)} {'✓' if figure.reached else '✗'}"


def shown(value: float, unit: str) -> str:
    """A number for reading; shares are shown in percent.

    >>> shown(0.613, "%"), shown(30.06, "dB"), shown(1234.0, "ms"), shown(0.0254, "ms"), shown(1.352, "")
    ('61.3 %', '30.1 dB', '1234 ms', '0.025 ms', '1.352')
    """
    if unit == "%":
        return f"{100 * value:.1f} %"
    if unit == "":
        return f"{value:.4g}"
    digits = 1 if unit != "ms" or 1 <= value < 100 else 0 if value >= 100 else 3
    return f"{value:.{digits}f} {unit}"
