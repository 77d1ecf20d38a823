"""What every test shares: nothing from the network, one random state, and parts that say what they are."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent

# Before any test imports the libraries that read them; `make` sets the same.
for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"):
    os.environ.setdefault(name, "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# The parts of a run, in their order, with the start of the paths that belong to each; the first takes all others.
PARTS = (
    ("units: one test file a module", ()),
    ("parity with diffusers and transformers", ("parity/",)),
    ("the project: layers, links, sizes, docstrings", ("test_project", "test_layers")),
    ("the command line", ("test_cli",)),
    ("faults: killed runs, damaged files, full disks", ("test_faults",)),
    ("the exercises: solutions, stubs, wrong answers and harm through the grader", ("test_grading",)),
    ("the lessons, executed without a network", ("test_notebooks",)),
    ("the wheel, installed elsewhere", ("test_wheel",)),
    ("lesson 00 in a real browser", ("test_browser",)),
)
_PART = pytest.StashKey[int]()


def part(item: pytest.Item) -> int:
    """Which of `PARTS` a test belongs to."""
    place = item.nodeid.removeprefix("tests/")
    return next((i for i, (_, starts) in enumerate(PARTS) if place.startswith(starts)), 0)


def pytest_report_header() -> list[str]:
    chromium = find_chromium() or "none: the browser test will be skipped"
    return [
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, GPU: {torch.cuda.is_available()}",
        f"chromium: {chromium}",
    ]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=part)  # stable: the order within a part stays


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    reporter = item.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and item.config.stash.get(_PART, -1) != part(item):
        item.config.stash[_PART] = part(item)
        reporter.ensure_newline()
        reporter.write_sep("-", PARTS[part(item)][0], bold=True)
    return (yield)


def find_chromium() -> str | None:
    """A Chromium or Chrome on this machine, or None. CHROMIUM names another."""
    named = os.environ.get("CHROMIUM")
    names = [named] if named else ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"]
    return next((found for found in map(shutil.which, names) if found), None)


@pytest.fixture(autouse=True)
def same_random_state() -> None:
    """Tests that draw without a generator of their own draw the same numbers in any order."""
    torch.manual_seed(0)


@pytest.fixture
def root() -> Path:
    """The checkout's root folder."""
    return ROOT


@pytest.fixture
def chromium() -> str:
    """A browser's path; the test is skipped, visibly, where there is none."""
    found = find_chromium()
    if found is None:
        pytest.skip("no Chromium here: install it (apt-get install chromium) or set CHROMIUM to its path")
    return found
