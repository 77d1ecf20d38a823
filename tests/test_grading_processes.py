"""A fork bomb, held to 200 processes in all, is put out from outside, with all that it started."""

import subprocess
import sys
import time

import pytest

from ldm_edu.grading.processes import MANY, counted, end, family

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
PARENT = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(120)']); {}"


def started(program: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", program], start_new_session=True)


def gone(session: int) -> bool:
    """What was killed is gone a little later."""
    deadline = time.monotonic() + 10
    while family(session) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not family(session)


@pytest.mark.slow
def test_a_fork_bomb_is_put_out() -> None:
    bomb = started(BOMB)
    with counted(bomb.pid) as crowded:
        assert bomb.wait(timeout=60) == -9
    assert crowded.is_set()
    assert gone(bomb.pid)


def test_a_few_processes_are_let_be_and_ended_at_the_end() -> None:
    parent = started(PARENT.format("time.sleep(120)"))
    with counted(parent.pid) as crowded:
        while not family(parent.pid):
            time.sleep(0.02)
        time.sleep(0.3)
        assert not crowded.is_set()
        assert 1 == len(family(parent.pid)) <= MANY
    assert gone(parent.pid)
    assert parent.poll() is None
    end(parent.pid, itself=True)
    assert parent.wait(timeout=10) == -9


def test_a_child_that_outlives_its_parent_is_ended_too() -> None:
    parent = started(PARENT.format("pass"))
    with counted(parent.pid):
        parent.wait(timeout=60)
        assert len(family(parent.pid)) == 1
    assert gone(parent.pid)
