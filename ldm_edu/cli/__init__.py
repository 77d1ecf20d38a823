"""The command line ``ldm-edu``: thin functions over the package, one file a command.

A command imports what it needs when it runs, so that ``ldm-edu --help`` does not wait for torch.
"""

import io
import sys
from typing import Annotated

import typer

import ldm_edu
from ldm_edu.cli.convert import convert
from ldm_edu.cli.data import data
from ldm_edu.cli.generate import generate
from ldm_edu.cli.grade import grade, progress
from ldm_edu.cli.inspect import inspect
from ldm_edu.cli.measure import bench, evaluate
from ldm_edu.cli.plan import plan
from ldm_edu.cli.train import train
from ldm_edu.cli.verify import verify
from ldm_edu.extras import extras
from ldm_edu.weights.errors import printable

MAX_SENTENCE = 4000  # letters of an error, which may name what a file holds

app = typer.Typer(
    name="ldm-edu",
    help="Latent diffusion from first principles: draw, train, measure and look inside.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ldm-edu {ldm_edu.__version__}")
        raise typer.Exit()


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of every command."""


for command in (generate, train, plan, evaluate, inspect, convert, verify, data, grade, progress):
    app.command()(command)
app.add_typer(bench, name="bench")


def main() -> None:
    """Run the command line; what the user can put right ends in one sentence and exit status 2, not in a traceback."""
    for stream in (sys.stdout, sys.stderr):  # a sign that the terminal's encoding lacks becomes a question mark
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        with extras():
            app(prog_name="ldm-edu")
    except (ValueError, OSError) as error:
        typer.echo(f"ldm-edu: {printable(error, MAX_SENTENCE)}", err=True)
        sys.exit(2)
