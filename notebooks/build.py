"""Execute lessons: notebooks/text/NAME.py becomes notebooks/NAME.ipynb, run from start to end in a fresh kernel.

    python notebooks/build.py                 all of them
    python notebooks/build.py 00_start_here   one
    python notebooks/build.py --words         prose alone: nothing is run, and no code may have changed

It prints the minutes that each took, and the processor time in them, which a busy machine changes little. A notebook is
written only if every cell ran, nothing was written to stderr (a warning, say), no path of this machine is in it, and it
is smaller than 2 MB. It carries no times and no random names: what changes in it has changed.
"""

import argparse
import os
import re
import resource
import sys
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from ldm_edu.files import atomic_write_text

HERE = Path(__file__).resolve().parent
LIMIT = 2_000_000  # bytes
TIMEOUT = 900  # seconds a cell; a lesson takes 4 minutes at most on an idle machine
WIDGET = "application/vnd.jupyter.widget-view+json"  # dead in a saved notebook; the picture beside it is not


def execute(text: Path) -> Any:
    """The lesson as a notebook, run in a fresh kernel that starts in the notebooks' folder."""
    notebook = jupytext.read(text)
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    client = NotebookClient(
        notebook,
        timeout=TIMEOUT,
        kernel_name="python3",
        resources={"metadata": {"path": str(HERE)}},
        record_timing=False,
        store_widget_state=False,
        coalesce_streams=True,
        extra_arguments=["--log-level=ERROR"],  # the kernel's own advice on encryption is not the lesson's
    )
    client.execute()
    return notebook


def clean(notebook: Any) -> Any:
    """Leave out what differs between two runs of the same lesson, and what needs a running kernel."""
    notebook.metadata = {key: notebook.metadata[key] for key in ("kernelspec", "language_info")}
    notebook.metadata["language_info"] = {"name": "python"}
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for place, cell in enumerate(notebook.cells):
        cell.id = f"{place:02d}-{sha256(cell.source.encode()).hexdigest()[:8]}"
        cell.metadata = {key: value for key, value in cell.metadata.items() if key == "tags"}
        if "hide-input" in cell.metadata.get("tags", []):  # what the site's builder hides, JupyterLab folds away
            cell.metadata["jupyter"] = {"source_hidden": True}
        for output in cell.get("outputs", []):
            if "data" in output:
                output.data.pop(WIDGET, None)
                output.metadata = {kind: value for kind, value in output.metadata.items() if kind in output.data}
    return notebook


def complaints(notebook: Any) -> list[str]:
    """What must not be in a saved lesson."""
    found = []
    machine = re.compile("|".join(re.escape(str(path)) for path in {HERE.parent, Path.home(), Path(sys.prefix)}))
    for place, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr":
                found.append(f"cell {place} wrote to stderr: {output.text.strip()[:300]}")
            if hit := machine.search(str(output)):
                found.append(f"cell {place} shows a path of this machine: {hit[0]}")
            if re.search(r" at 0x[0-9a-f]{6,}", str(output.get("data", {}).get("text/plain", ""))):
                found.append(f"cell {place} shows an address in memory, which is another one at every run")
    size = len(nbformat.writes(notebook).encode())
    if size > LIMIT:
        found.append(f"the notebook has {size / 1e6:.2f} MB, more than {LIMIT / 1e6:.0f}")
    return found


def build(name: str) -> bool:
    """Execute and save one lesson, and say how long it took; False if it was not saved."""
    start, worked = time.monotonic(), processor_seconds()
    try:
        notebook = clean(execute(HERE / "text" / f"{name}.py"))
    except CellExecutionError as error:
        print(f"{name}: not saved, a cell failed\n{error}", flush=True)
        return False
    minutes, working = (time.monotonic() - start) / 60, (processor_seconds() - worked) / 60
    if found := complaints(notebook):
        print(f"{name}: not saved", *found, sep="\n  ", flush=True)
        return False
    nbformat.validate(notebook)
    content = nbformat.writes(notebook) + "\n"
    atomic_write_text(HERE / f"{name}.ipynb", content)
    megabytes = len(content.encode()) / 1e6
    print(f"{name}: {minutes:.1f} minutes, {working:.1f} of processor time, {megabytes:.2f} MB", flush=True)
    return True


def reword(name: str) -> bool:
    """Give a saved lesson its text's prose, and leave code and outputs; False, and nothing saved, if code differs."""
    saved = nbformat.read(HERE / f"{name}.ipynb", as_version=4)
    written = jupytext.read(HERE / "text" / f"{name}.py")
    code, outputs = ([cell for cell in book.cells if cell.cell_type == "code"] for book in (written, saved))
    if [cell.source for cell in code] != [cell.source for cell in outputs]:
        print(f"{name}: not saved, its code has changed too; run `make lessons LESSON={name}`", flush=True)
        return False
    run = iter(outputs)
    saved.cells = [next(run) if cell.cell_type == "code" else cell for cell in written.cells]
    atomic_write_text(HERE / f"{name}.ipynb", nbformat.writes(clean(saved)) + "\n")
    return True


def processor_seconds() -> float:
    """What the kernels that have ended computed, on all cores together."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Build the lessons named on the command line, or all; exit status 1 if one was not saved."""
    known = sorted(path.stem for path in (HERE / "text").glob("*.py"))
    parser = argparse.ArgumentParser(description="Execute lessons and save them as notebooks.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of: {', '.join(known)}; none: all")
    parser.add_argument("--words", action="store_true", help="only take over changed prose; nothing is executed")
    given = parser.parse_args()
    names = given.names or known
    if unknown := sorted(set(names) - set(known)):
        parser.error(f"no lesson is called {', '.join(unknown)}; there are: {', '.join(known)}")
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"):
        os.environ[name] = "1"  # inherited by the kernel
    saved = [reword(name) if given.words else build(name) for name in names]
    sys.exit(not all(saved))


if __name__ == "__main__":
    main()
