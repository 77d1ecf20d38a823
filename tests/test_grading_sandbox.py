"""The ways in: a notebook that is out to read the answers, to change files, or to outlive its grading gets nothing.

What a sandbox must hold is tried inside one; without it the same notebook shows what does not hold.
"""

import hashlib
import json
import os
import socket
from pathlib import Path

import nbformat
import psutil
import pytest
from click.testing import Result
from typer.testing import CliRunner

from ldm_edu.cli import app
from ldm_edu.grading import sandbox
from ldm_edu.grading.items import ITEMS

ROOT = Path(__file__).resolve().parent.parent
ANSWERS = ROOT / "ldm_edu" / "grading" / "items"
LESSON = [item for item in ITEMS.values() if item.lesson == "01"]
FULL = sum(item.points for item in LESSON)
NAMES = [item.name for item in LESSON]

needs_sandbox = pytest.mark.skipif(bool(sandbox.obstacle()), reason=f"no sandbox here: {sandbox.obstacle()}")

LOOT = """
loot = {}
def way(name):
    def take(f):
        with contextlib.suppress(BaseException):
            got = f()
            if got and (not isinstance(got, str) or "def recover_x0" in got):
                loot[name] = got
    return take
"""

# Each returns the text of the answers, by another door of Python or of the system.
READERS = """
@way("path")
def _(): return Path(F).read_text()
@way("a file object on Path")
def _(): return type(Path(F)).open(Path(F)).read()
@way("io")
def _(): return io.FileIO(F).read().decode()
@way("a folder's descriptor")
def _():
    folder = os.open(os.path.dirname(F), os.O_RDONLY)
    return os.read(os.open("l01.py", os.O_RDONLY, dir_fd=folder), 10**6).decode()
@way("from the root, by steps")
def _():
    here = os.open("/", os.O_RDONLY)
    for step in F.split("/")[1:-1]:
        here = os.open(step, os.O_RDONLY, dir_fd=here)
    return os.read(os.open("l01.py", os.O_RDONLY, dir_fd=here), 10**6).decode()
@way("a memory map")
def _():
    with open(F, "r+b") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)[:].decode()
@way("the C library")
def _():
    libc, room = ctypes.CDLL(None), ctypes.create_string_buffer(10**6)
    size = libc.read(libc.open(F.encode(), 0), room, 10**6)
    return room.raw[:size].decode()
@way("numpy")
def _(): return np.fromfile(F, dtype=np.uint8).tobytes().decode()
@way("torch")
def _(): return bytes(torch.UntypedStorage.from_file(F, False, os.path.getsize(F))).decode()
@way("linecache")
def _(): return "".join(linecache.getlines(F))
@way("an import's loader")
def _(): return importlib.util.spec_from_file_location("x", F).loader.get_data(F).decode()
@way("a process")
def _(): return subprocess.run(["cat", F], capture_output=True, text=True).stdout
@way("a magic")
def _(): return "\\n".join(get_ipython().getoutput("cat " + F))
@way("a link")
def _(): return os.symlink(F, "x") or open("x").read()
@way("another process's root")
def _(): return next(t for p in glob.glob("/proc/*/root") for t in [open(p + F).read()])
@way("the process that grades")
def _(): return open(f"/proc/{GRADER}/root" + F).read()
@way("the module")
def _():
    sys.modules.pop("ldm_edu.grading.items")
    return inspect.getsource(importlib.import_module("ldm_edu.grading.items.l01"))
@way("a mount of one's own")
def _():
    words = ["unshare", "-Urm", "sh", "-c", f"umount {os.path.dirname(F)}; cat {F}"]
    return subprocess.run(words, capture_output=True, text=True).stdout
@way("any file of any place")
def _():
    for folder, inner, names in os.walk("/"):
        inner[:] = [] if folder in ("/proc", "/sys", "/usr/share") or folder.endswith("/torch") else inner
        if "grading" in folder + "".join(inner) or "solutions" in folder:
            for name in names:
                text = open(os.path.join(folder, name), errors="replace").read()
                if "def recover_x0" in text and "others=" in text:
                    return text
@way("the garbage collector")
def _(): return [o for o in gc.get_objects() if type(o).__name__ == "Item"]
"""

# Each tells the marker of something that it changed, reached or left behind.
HARMS = """
@way("writes into the course")
def _(): return open(os.path.join(PACKAGE, "cheated.txt"), "w")
@way("writes into the installed packages")
def _(): return open(os.path.join(os.path.dirname(torch.__path__[0]), "cheated.pth"), "w")
@way("writes into the system")
def _(): return open("/usr/cheated.txt", "w")
@way("writes to the kernel")
def _(): return open("/proc/sys/kernel/core_pattern", "w")
@way("makes a device")
def _(): return os.mknod("memory", 0o600 | stat.S_IFCHR, os.makedev(1, 1)) or 1
@way("deletes the course")
def _(): return shutil.rmtree(os.path.dirname(OUTSIDE)) or 1
@way("replaces a folder by a link")
def _(): return os.rename(os.path.dirname(OUTSIDE), "x") or os.symlink("/", os.path.dirname(OUTSIDE)) or 1
@way("reads what another handed in")
def _(): return [open(OUTSIDE).read()]
@way("ends the process that grades")
def _(): return os.kill(GRADER, 15) or 1
@way("the network")
def _(): return socket.create_connection(("127.0.0.1", PORT), 2)
@way("the user's environment")
def _(): return [os.environ["SECRET_OF_THE_TEACHER"]]
# these succeed in the sandbox, and are gone with it
os.makedirs(os.path.expanduser("~/.ipython/profile_default/startup"), exist_ok=True)
for place in ("~/.ipython/profile_default/startup/00.py", "~/sitecustomize.py", "~/usercustomize.py", "torch.py"):
    with contextlib.suppress(OSError):
        open(os.path.expanduser(place), "w").write("raise SystemExit('a file that one notebook left for the next')")
LEFT = "import time\\nfor _ in range(99):\\n  time.sleep(.1)\\n  try: open(%r, 'w').write('{}')\\n  except OSError: 0"
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execv(sys.executable, [sys.executable, "-c", LEFT % REPORT, "LEFT-OVER"])
    os._exit(0)
"""

IMPORTS = (
    "import contextlib, ctypes, gc, glob, importlib.util, inspect, io, linecache, mmap, os, shutil, socket, stat, "
)
IMPORTS += "subprocess, sys\nfrom pathlib import Path\nimport numpy as np\nimport torch\n"

# Whoever has read the answers defines all of them at once.
TYPED_IN = """
class Part:
    def __init__(self, *args, **named):
        self.__dict__.update(named)
texts = [text for text in loot.values() if isinstance(text, str)]
source = "\\n".join(line for line in texts[0].splitlines() if "ldm_edu" not in line) if texts else ""
answers = dict.fromkeys(("Case", "Item", "Mistake"), Part) | {"gaussian": lambda *shape, seed=0: torch.zeros(*shape)}
exec(source, answers)
globals().update({name: answers[name] for name in NAMES if name in answers})
"""


def notebook(path: Path, *sources: str, base: Path) -> None:
    """The notebook at ``base`` with cells appended."""
    made = nbformat.read(base, as_version=4)
    made.cells += [nbformat.v4.new_code_cell(source) for source in sources]
    nbformat.write(made, path)


def state(*folders: Path) -> str:
    """What is in the files of some folders, but for what Python compiles."""
    found = hashlib.sha256()
    for path in sorted(p for folder in folders for p in folder.rglob("*") if "__pycache__" not in p.parts):
        found.update(f"{path} {path.is_symlink()} {path.stat().st_mode}".encode())
        found.update(path.read_bytes() if path.is_file() else b"")
    return found.hexdigest()


def grade(folder: Path, report: Path, *options: str) -> Result:
    command = ["grade", str(folder), "--json", str(report), "--pass-mark", "0"]
    return CliRunner().invoke(app, [*command, *options])


def remarks(report: Path, name: str) -> str:
    found = json.loads(report.read_text(encoding="utf-8"))["notebooks"]
    return "\n".join(line for one in found if one["file"] == name for line in one["remarks"])


@needs_sandbox
@pytest.mark.slow
def test_no_way_in_gets_marks_changes_a_file_or_leaves_a_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_TEACHER", "secret")
    handed_in, out = tmp_path / "handed in", tmp_path / "out"
    handed_in.mkdir()
    out.mkdir()
    report = out / "report.json"
    with socket.create_server(("127.0.0.1", 0)) as server:
        facts = {
            "F": str(ANSWERS / "l01.py"),
            "PACKAGE": str(ROOT / "ldm_edu"),
            "OUTSIDE": str(handed_in / "02_honest.ipynb"),
            "REPORT": str(report),
            "PORT": server.getsockname()[1],
            "GRADER": os.getpid(),
            "NAMES": NAMES,
        }
        known = "".join(f"{name} = {value!r}\n" for name, value in facts.items())
        show = "raise RuntimeError(f'the loot: {sorted(loot)}')"
        exercise, solution = (next((ROOT / place).glob("01_*.ipynb")) for place in ("exercises", "solutions"))
        sources = (IMPORTS, known, LOOT, READERS, HARMS, TYPED_IN, show)
        notebook(handed_in / "01_hostile.ipynb", *sources, base=exercise)
        notebook(handed_in / "02_honest.ipynb", base=solution)
        before = state(ROOT / "ldm_edu", ROOT / "solutions", ROOT / "exercises", handed_in)
        result = grade(handed_in, report, "--isolate", "require")
    assert result.exit_code == 0, result.output
    assert state(ROOT / "ldm_edu", ROOT / "solutions", ROOT / "exercises", handed_in) == before
    assert [p.pid for p in psutil.process_iter(["cmdline"]) if "LEFT-OVER" in (p.info["cmdline"] or [])] == []
    assert "the loot: []" in remarks(report, "01_hostile.ipynb")
    assert "01_hostile.ipynb: 0 of 0 points" in result.output, "all its items are counted where they are right"
    assert json.loads(report.read_text(encoding="utf-8"))["score"] == FULL, "the honest notebook lost nothing"


@pytest.mark.slow
def test_without_isolation_the_answers_can_be_read_and_the_grader_says_that_marks_mean_nothing(tmp_path: Path) -> None:
    exercise = next((ROOT / "exercises").glob("01_*.ipynb"))
    known = f"F = {str(ANSWERS / 'l01.py')!r}\nNAMES = {NAMES!r}\n"
    first = READERS[: READERS.index('@way("a file object')]
    notebook(tmp_path / "01_hostile.ipynb", IMPORTS, known, LOOT, first, TYPED_IN, base=exercise)
    result = grade(tmp_path, tmp_path / "report.json", "--isolate", "off")
    assert "fine for your own notebook, not for marks" in result.output
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["score"] > FULL / 2
