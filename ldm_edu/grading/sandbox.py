"""A process that sees of this computer what a notebook needs, and can change none of it (bubblewrap, Linux).

Inside there are: the system and the installed packages, read-only; this package without its answers; the shipped data;
an empty home and an empty folder for temporary files; no other process, no network, no user's environment. What is
written there is gone when the process ends, and all that it started ends with it.
"""

import os
import shutil
import site
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Literal

from ldm_edu.grading.outcome import printable
from ldm_edu.paths import data_dir

Isolation = Literal["auto", "require", "off"]

PACKAGE = Path(__file__).resolve().parent.parent
HOME = "/learner"
SPACE = 2**30  # bytes that may be written to the home, and to the folder for temporary files
SYSTEM = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/usr", "/nix/store")
SETTINGS = ("alternatives", "fonts", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "nsswitch.conf")


class IsolationError(ValueError):
    """Isolation is asked for, and this computer has none."""


def isolates(choice: Isolation) -> bool:
    """Whether notebooks are to run isolated.

    Raises
    ------
    IsolationError
        if isolation is required and there is none, with the reason and the remedy.
    """
    if choice == "off":
        return False
    if choice == "require" and obstacle():
        raise IsolationError(f"notebooks cannot be isolated here: {obstacle()}")
    return not obstacle()


def unprotected(choice: Isolation) -> str:
    """One line on what grading without isolation means."""
    why = "isolation is off" if choice == "off" else f"notebooks are not isolated: {obstacle()}"
    return f"{why}. Their code can read, and change, what you can: fine for your own notebook, not for marks"


@cache
def obstacle() -> str:
    """Why notebooks cannot be isolated on this computer, with what to do about it; "" where they can."""
    if not sys.platform.startswith("linux"):
        return "that needs Linux; grade in a virtual machine or a container that has bubblewrap"
    if shutil.which("bwrap") is None:
        return "bubblewrap is missing; install it (`apt-get install bubblewrap`)"
    try:
        tried = subprocess.run(
            isolated([sys.executable, "-c", "pass"]), env=environment(HOME), capture_output=True, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"bubblewrap does not start ({error})"
    words = tried.stderr.decode(errors="replace").strip().splitlines() or ["no reason is given"]
    if tried.returncode == 0:
        return ""
    return f"the system forbids it ({printable(words[-1])}); allow user namespaces, or grade on another computer"


def environment(home: str) -> dict[str, str]:
    """The environment of a process that runs a learner's code: nothing of the user's own."""
    variables = {
        "HOME": home,
        "TMPDIR": "/tmp" if home == HOME else home,
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), "/usr/local/bin", "/usr/bin", "/bin")),
        "LANG": "C.UTF-8",
        "USER": "learner",
        "PYTHONPATH": str(PACKAGE.parent),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    }
    for folder in _data():
        variables["LDM_EDU_DATA"] = str(folder)
    return variables


def isolated(command: Sequence[str], *options: str) -> list[str]:
    """A command inside the sandbox, for `subprocess`; ``options`` are bubblewrap's."""
    return [str(shutil.which("bwrap")), *_namespaces(), *_view(), *options, "--chdir", HOME, "--", *command]


def _namespaces() -> Iterator[str]:
    yield from ("--unshare-all", "--unshare-user", "--die-with-parent", "--new-session", "--cap-drop", "ALL")
    if _knows("--disable-userns"):
        yield "--disable-userns"


def _view() -> Iterator[str]:
    """The file system, from the outside in: a later mount covers what an earlier one shows at its place."""
    yield from _space("/tmp")
    yield from _space(HOME)
    for name in SYSTEM:
        if Path(name).is_symlink():
            yield from ("--symlink", os.readlink(name), name)
        elif Path(name).is_dir():
            yield from ("--ro-bind", name, name)
    for name in SETTINGS:
        yield from ("--ro-bind-try", f"/etc/{name}", f"/etc/{name}")
    installed = _installed()
    shown = {folder: ["--ro-bind", str(folder), str(folder)] for folder in (*installed, PACKAGE, *_data())}
    shown |= {folder: ["--tmpfs", str(folder)] for folder in _answers(installed)}
    for folder in sorted(shown):  # each comes before those inside it
        yield from shown[folder]
    yield from ("--proc", "/proc", "--dev", "/dev", *_space("/dev/shm"))
    # in /proc/sys the superuser could write to the kernel, even from in here
    for place in ("/proc", "/dev", *map(str, _answers(installed)), "/"):
        yield from ("--remount-ro", place)


def _space(folder: str) -> Iterator[str]:
    if _knows("--size"):
        yield from ("--size", str(SPACE))
    yield from ("--tmpfs", folder)


def _installed() -> list[Path]:
    """The folders of Python and of all installed packages."""
    prefixes = [sys.base_prefix, sys.prefix, *site.getsitepackages(), site.getusersitepackages()]
    packages = [name for name in sys.path if Path(name).name in ("site-packages", "dist-packages")]
    found = {Path(os.path.abspath(name)) for name in (*prefixes, *packages)}
    return [folder for folder in found if folder.is_dir() and folder != Path("/usr")]


def _data() -> list[Path]:
    """The folder of the shipped data, if there is one."""
    try:
        return [data_dir().resolve()]
    except FileNotFoundError:
        return []


def _answers(installed: Sequence[Path]) -> Iterator[Path]:
    """Every place where the right answers of this course, or of another copy that is installed, would show."""
    if PACKAGE.parent not in installed:  # a checkout, with solutions: none of it shows but the package and the data
        yield PACKAGE.parent
    for folder in {PACKAGE.parent, *installed}:
        answers = folder / PACKAGE.name / "grading" / "items"
        if answers.is_dir():
            yield answers


@cache
def _knows(option: str) -> bool:
    """Whether the installed bubblewrap has an option: releases before 0.8 lack some."""
    said = subprocess.run([str(shutil.which("bwrap")), "--help"], capture_output=True, text=True, timeout=60)
    return option in said.stdout + said.stderr
