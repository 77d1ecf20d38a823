"""``ldm-edu data``: where the shipped data and checkpoints lie, and whether they are whole."""

from pathlib import Path
from typing import Annotated

import typer

from ldm_edu.checksums import listed, record, verify
from ldm_edu.paths import data_dir


def data(
    write: Annotated[
        bool, typer.Option("--record", help="Record the files as they are now as the right ones.")
    ] = False,
) -> None:
    """Show where the data and checkpoints are, and verify their checksums."""
    folder = data_dir()
    names = list(record(folder) if write else listed(folder))
    typer.echo(f"{folder}")
    for group in dict.fromkeys(_group(name) for name in names):
        files = [folder / name for name in names if _group(name) == group]
        size = sum(file.stat().st_size for file in files if file.is_file()) / 2**20  # bytes to MiB
        typer.echo(f"  {group:<32}{len(files):>4} files{size:>8.1f} MiB")
    if write:
        return
    wrong = verify(folder)
    for name, what in wrong.items():
        typer.echo(f"ldm-edu: {name} is {what}", err=True)
    if wrong:
        typer.echo("ldm-edu: restore the files with `git checkout -- data`, or reinstall the package", err=True)
        raise typer.Exit(1)
    typer.echo(f"  all {len(names)} files are as they were shipped")


def _group(name: str) -> str:
    """The set or checkpoint that a file belongs to."""
    parts = Path(name).parts
    return "/".join(parts[: 2 if parts[0] == "checkpoints" else 1])
