"""A notebook's processes are counted and ended from outside, with all that they started (a bomb is held to 200)."""

import subprocess
import sys
import time

import psutil
import pytest

from ldm_edu.grading import sandbox
from ldm_edu.grading.processes import MANY, end, family
from ldm_edu.grading.session import Stopped, session

BOMB = """
import multiprocessing, os, time
left = multiprocessing.Value("i", 200)
while True:
    with left.get_lock():
        if left.value == 0:
            break
        left.value -= 1
    if os.fork() == 0 and left.value % 3 == 0:
        os.setpgid(0, 0)
time.sleep(120)
"""
CHILD = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(120)'])"
# Leaves its parent, its session and its group, as a daemon does.
DAEMON = """
import os, sys
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(60)", "A-DAEMON"])
    os._exit(0)
"""


def started(program: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", program], start_new_session=True)


def test_a_child_that_outlives_its_parent_is_ended_too() -> None:
    parent = started(CHILD)
    leader = psutil.Process(parent.pid)
    while parent.poll() is None or not family(leader):
        time.sleep(0.02)
    assert len(family(leader)) == 1
    end(leader)
    assert family(leader) == []


@pytest.mark.slow
@pytest.mark.parametrize("isolated", [True, False])
def test_a_fork_bomb_is_put_out(isolated: bool) -> None:
    if isolated and sandbox.obstacle():
        pytest.skip(sandbox.obstacle())
    with session(8 * 2**30, isolated=isolated) as worker:
        assert len(family(worker.leader)) < MANY
        with pytest.raises(Stopped, match="one process after the other"):
            worker.ask(60, "cell", BOMB)
    assert family(worker.leader) == []
    assert not worker.leader.is_running()
    assert worker.process.poll() is not None


@pytest.mark.slow
@pytest.mark.skipif(bool(sandbox.obstacle()), reason=sandbox.obstacle() or "there is a sandbox")
def test_nothing_leaves_the_sandbox_alive() -> None:
    def daemons() -> list[int]:
        return [p.pid for p in psutil.process_iter(["cmdline"]) if "A-DAEMON" in (p.info["cmdline"] or [])]

    with session(8 * 2**30, isolated=True) as worker:
        assert worker.ask(60, "cell", DAEMON) == b""
        worker.ask(60, "cell", "import time; time.sleep(1)")
        assert len(daemons()) == 1
    assert daemons() == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("harm", "words"),
    [
        ("os.write({channel}, bytes(100))", "other than its answer"),
        ("os.write({channel}, bytes(range(8)))\nimport time\ntime.sleep(60)", "more than 2 seconds"),
        ("os.close({channel})\nimport time\ntime.sleep(60)", "ended the whole notebook"),
        ("os.read({channel}, 1)", "more than 2 seconds"),
    ],
)
def test_whatever_is_done_to_the_channel_ends_in_words(harm: str, words: str) -> None:
    with session(8 * 2**30, isolated=not sandbox.obstacle()) as worker:
        find = "import os, stat\nown = [f for f in range(3, 64) if os.path.exists(f'/proc/self/fd/{f}') and "
        find += "stat.S_ISSOCK(os.fstat(f).st_mode)]"
        assert worker.ask(60, "cell", find) == b""
        with pytest.raises(Stopped, match=words):
            worker.ask(2, "cell", harm.replace("{channel}", "own[0]"))
