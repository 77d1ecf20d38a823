"""One worker process from its start to its end, and what passes between it and the grader."""

import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from ldm_edu.grading import sandbox
from ldm_edu.grading.processes import MANY, end, family
from ldm_edu.grading.transfer import LARGEST, pack
from ldm_edu.grading.worker import HEADER

START = 120.0  # seconds until a worker is ready
EVERY = 0.05  # seconds from one look at a worker's processes to the next


class Stopped(Exception):  # noqa: N818 (the worker has gone; the words say why)
    """``died`` : by itself, so that it may have been the work of a cell before."""

    def __init__(self, words: str, *, died: bool = False) -> None:
        super().__init__(words)
        self.died = died


@dataclass(frozen=True)
class Session:
    """A running worker. ``leader`` : the process whose family are all processes of the notebook."""

    channel: socket.socket
    process: "subprocess.Popen[bytes]"
    leader: psutil.Process

    def ask(self, seconds: float, *request: object) -> bytes:
        """The worker's reply to a request (see `ldm_edu.grading.worker.serve`).

        Raises
        ------
        Stopped
            if there is none within ``seconds``, the worker has ended, or the notebook has too many processes.
        """
        deadline = time.monotonic() + seconds
        token, content = secrets.token_bytes(16), pack(request)
        try:
            self._send(HEADER.pack(token, len(content)) + content, deadline)
            answered, size = HEADER.unpack(self._receive(HEADER.size, deadline))
            if answered != token or size > 2 * LARGEST:
                raise Stopped("something other than its answer was sent to the grader", died=True)
            return self._receive(size, deadline)
        except TimeoutError:
            raise Stopped(
                f"it ran for more than {seconds:.0f} seconds and was stopped: is there an endless loop?"
            ) from None
        except OSError:
            raise Stopped("it ended the whole notebook (an exit, or no memory left)", died=True) from None

    def _send(self, content: bytes, deadline: float) -> None:
        left = memoryview(content)
        while left:
            try:
                left = left[self.channel.send(left) :]
            except TimeoutError:
                self._look(deadline)

    def _receive(self, size: int, deadline: float) -> bytes:
        found = bytearray()
        while len(found) < size:
            try:
                part = self.channel.recv(min(size - len(found), 2**20))
            except TimeoutError:
                self._look(deadline)
                continue
            if not part:
                raise ConnectionResetError
            if time.monotonic() > deadline:  # one byte after the other would never end
                raise TimeoutError
            found += part
        return bytes(found)

    def _look(self, deadline: float) -> None:
        """Between two waits: is the worker alive, alone, and in time?"""
        if self.process.poll() is not None:
            raise ConnectionResetError
        if len(family(self.leader)) >= MANY:
            raise Stopped("it started one process after the other, and was stopped", died=True)
        if time.monotonic() > deadline:
            raise TimeoutError


@contextmanager
def session(memory: int, *, isolated: bool) -> Iterator[Session]:
    """A new worker that may use so many bytes of memory; at the end it is gone, with all that it started.

    Raises
    ------
    RuntimeError
        if the worker does not start.
    """
    ours, theirs = socket.socketpair()
    with ours, tempfile.TemporaryDirectory(prefix="ldm-edu-grade-", ignore_cleanup_errors=True) as folder:
        with theirs:
            process, leader = _start(theirs, memory, folder, isolated)
        try:
            ours.settimeout(EVERY)
            worker = Session(ours, process, leader)
            try:
                worker.ask(START, "start")
            except Stopped as stop:
                raise RuntimeError(f"the grader's own process does not work: {stop}") from stop
            _offer(leader, *family(leader))
            yield worker
        finally:
            end(leader)
            process.kill()
            process.wait()


def _offer(*processes: psutil.Process) -> None:
    """Where the computer's memory runs out, let these processes, and what they start, end first."""
    for process in processes:
        with suppress(OSError):
            Path(f"/proc/{process.pid}/oom_score_adj").write_text("1000")


def _start(
    channel: socket.socket, memory: int, folder: str, isolated: bool
) -> tuple["subprocess.Popen[bytes]", psutil.Process]:
    """The process, and the one that leads all of the notebook: inside a sandbox, the first of its PID namespace."""
    command = [sys.executable, "-P", "-m", "ldm_edu.grading.worker", str(channel.fileno()), str(memory)]
    with open(os.devnull, "r+b") as nowhere:
        if not isolated:
            process = subprocess.Popen(
                command,
                stdin=nowhere,
                stdout=nowhere,
                stderr=nowhere,
                pass_fds=[channel.fileno()],
                env=sandbox.environment(folder),
                cwd=folder,
                start_new_session=True,
            )
            return process, psutil.Process(process.pid)
        read, write = os.pipe()
        with open(read, "rb") as about:
            try:
                process = subprocess.Popen(
                    sandbox.isolated(command, "--info-fd", str(write)),
                    stdin=nowhere,
                    stdout=nowhere,
                    stderr=nowhere,
                    pass_fds=[channel.fileno(), write],
                    env=sandbox.environment(sandbox.HOME),
                    start_new_session=True,
                )
            finally:
                os.close(write)
            try:
                return process, psutil.Process(json.load(about)["child-pid"])
            except (ValueError, KeyError, psutil.Error) as error:
                process.kill()
                raise RuntimeError("the grader's own process does not work: bubblewrap ended at once") from error
