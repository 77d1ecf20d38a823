"""The processes that a notebook starts: counted while it runs, and ended with it.

A limit on the number of processes (RLIMIT_NPROC) does not bind the superuser and counts all that a user runs, so the
grader counts those of one notebook itself.
"""

import os
from contextlib import suppress

import psutil

MANY = 8  # processes of one notebook, its own among them
ROUNDS = 20  # of ending a family, most: the second finds what a fork left behind in the first


def family(leader: psutil.Process) -> list[psutil.Process]:
    """The living descendants of a process, and what is left of the session that it leads; without itself.

    The first process of a PID namespace has all others of the namespace among its descendants.
    """
    found = set[psutil.Process]()
    with suppress(psutil.Error):
        found |= set(leader.children(recursive=True))
    for process in psutil.process_iter():
        with suppress(ProcessLookupError, PermissionError):
            if os.getsid(process.pid) == leader.pid:
                found.add(process)
    return [process for process in found - {leader} if _alive(process)]


def end(leader: psutil.Process) -> None:
    """End a process and its family: first all are stopped, so that none goes on starting others.

    A process that is stopped within a fork still finishes that fork, and its child runs: so the family is looked for
    again after the end, until nobody is left of it.
    """
    for _ in range(ROUNDS):
        stopped = set[psutil.Process]()
        while new := {leader, *family(leader)} - stopped:
            for process in new:
                with suppress(psutil.Error):
                    process.suspend()
            stopped |= new
        for process in stopped:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(stopped, timeout=10)
        if not family(leader):
            return


def _alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
