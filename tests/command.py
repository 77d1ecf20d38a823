"""``ldm-edu ARGUMENTS`` in this process, and a small model to run it on."""

import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest
from randomized import randomized_model, toy_with

from ldm_edu.cli import main


@dataclass(frozen=True)
class Done:
    returncode: int | str | None
    stdout: str
    stderr: str


def run(*arguments: str | Path, cwd: Path | None = None, **environment: str) -> Done:
    """What ``ldm-edu ARGUMENTS`` does, in this process: importing torch anew for each would take minutes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["ldm-edu", *map(str, arguments)])
        patch.chdir(cwd or Path.cwd())
        for name, value in environment.items():
            patch.setenv(name, value)
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
            main()
        return Done(ended.value.code or 0, out.getvalue(), err.getvalue())


def refused(done: Done) -> str:
    """The sentence on stderr of a command that was refused as it should be."""
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return done.stderr


def randomized_toy(folder: Path, in_channels: int = 4) -> Path:
    """A small model whose every weight is random: fresh ones start with zeros that hide the prompt."""
    randomized_model(toy_with(in_channels)).save(folder)
    return folder
