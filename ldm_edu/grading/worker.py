"""The process that runs a learner's code: it executes cells, calls answers, and sends back what they did, no more.

What is expected stays in the process that grades, and the items with it: this process gets the inputs of one item
after the other, once all cells have run. So nothing that a notebook does to this module, or to anything else in its
own process, can make a wrong answer right.
"""

import os
import pickle
import socket
import struct
import sys
from collections.abc import Sequence
from typing import Any

import torch

from ldm_edu import grading
from ldm_edu.grading.borrowed import disarm, folders
from ldm_edu.grading.outcome import described, run
from ldm_edu.grading.transfer import ITEMS, LARGEST, encode, plain, unpack

HEADER = struct.Struct("!16sQ")  # the token of a request, repeated in its reply, and the bytes that follow


def serve(channel: socket.socket, memory: int) -> None:
    """Answer requests until the grader closes the channel.

    A request is ("start",), ("cell", source), ("disarm",) or ("answer", name, packed inputs). A reply is UTF-8 text:
    the error, or "" where there is none; to "answer" it is what `encode` makes of the outcomes.
    """
    limit(memory)
    shell = prepare()
    while header := _receive(channel, HEADER.size):
        token, size = HEADER.unpack(header)
        content = _reply(shell, *pickle.loads(_receive(channel, size)))
        channel.sendall(HEADER.pack(token, len(content)) + content)


def _reply(shell: Any, kind: str, *given: Any) -> bytes:
    try:
        if kind == "cell":
            return execute(shell, *given).encode(errors="replace")
        if kind == "disarm":
            disarm()
        if kind == "answer":
            return answer(shell.user_ns, *given)
        return b""
    except BaseException as error:
        return described(error).encode(errors="replace")


def execute(shell: Any, source: str) -> str:
    """Execute a cell as Jupyter does, magics and top-level `await` too; what it raised, or ""."""
    done = shell.run_cell(source, store_history=False)
    error = done.error_before_exec or done.error_in_exec
    return "" if error is None else described(error)


def answer(namespace: dict[str, Any], name: str, inputs: bytes) -> bytes:
    """Call the answer of that name on the packed ``inputs``."""
    if name not in namespace:
        raise NameError("nothing of that name was defined")
    return encode([run(namespace[name], args, finish=plain) for args in unpack(inputs)])


def limit(memory: int) -> None:
    """Set the limits of this process and of all that it starts: bytes of memory (address space) and of a file."""
    import resource

    for what, most in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_FSIZE, 4 * LARGEST), (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(what, (most, most))
    torch.set_num_threads(1)


def prepare() -> Any:
    """A shell that shows nothing, where `check` and `hint` do nothing and no more of the grader can be imported."""
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    folders()  # found before a learner's code can put others in their place
    for name in ("check", "hint"):
        setattr(grading, name, quiet)
    for name in (ITEMS, "ldm_edu.grading.interactive", *(n for n in sys.modules if n.startswith("ldm_edu.grading."))):
        sys.modules[name] = None  # type: ignore[assignment]  # importing it fails from now on
        vars(grading).pop(name.rpartition(".")[2], None)
    shell: Any = InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    shell.ast_node_interactivity = "none"  # the value of a cell's last line is not shown
    shell.display_formatter.active_types = []  # pictures are not looked at, and may be any size
    shell.display_pub.publish = shell.showtraceback = shell.showsyntaxerror = quiet
    shell.enable_gui = quiet  # there is no window, and `%matplotlib inline` needs none
    sys.path.insert(0, "")  # as in Jupyter: a module that a cell writes can be imported
    return shell


def quiet(*_: Any, **__: Any) -> None:
    """While grading, `check`, `hint` and `display` do nothing: the grader asks for itself."""


def _receive(channel: socket.socket, size: int) -> bytes:
    """The next bytes; fewer where the grader has closed the channel."""
    found = bytearray()
    while len(found) < size and (part := channel.recv(min(size - len(found), 2**20))):
        found += part
    return bytes(found)


def main(words: Sequence[str]) -> None:
    """Serve the channel with the file descriptor, and under the memory limit, that the command line names."""
    os.set_inheritable(int(words[0]), False)
    with socket.socket(fileno=int(words[0])) as channel:
        serve(channel, int(words[1]))


if __name__ == "__main__":
    main(sys.argv[1:])
