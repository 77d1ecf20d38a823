"""Build the site: the executed lessons, a start page and a reference of the package, as pages that need no server.

    python docs/site/build.py            into build/site
    python docs/site/build.py FOLDER     elsewhere

The sources are gathered in a folder beside it first, so that nothing is written into the checkout.
"""

import argparse
import importlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat

import ldm_edu

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)#\s:]+)(#[^)]*)?\)")
KEYWORDS = ("-W", "--keep-going", "-q", "-b", "html")

# What of each module has no public name of `ldm_edu` itself and is met in the lessons all the same.
MORE = {
    "viz": importlib.import_module("ldm_edu.viz").__all__,
    "denoise": ("Denoiser", "Joinable", "NetworkDenoiser"),
}


def gather(source: Path) -> None:
    """Everything that Sphinx reads, in one folder."""
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(HERE, source, ignore=shutil.ignore_patterns("build.py", "__pycache__"))
    for name in ("hero.png", "system_map.png"):
        shutil.copy(ROOT / "docs" / name, source / name)
    favicon(source / "_static" / "favicon.png")
    lessons = source / "lessons"
    lessons.mkdir()
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                cell.source = LINK.sub(only_lessons, cell.source)
        nbformat.write(notebook, lessons / path.name)
    reference(source / "api")


def only_lessons(link: re.Match[str]) -> str:
    """A link to another lesson stays; one to a file of the checkout, which is not on the site, becomes its words."""
    there = (ROOT / "notebooks" / link[2]).resolve()
    return link[0] if there.parent == ROOT / "notebooks" and there.is_file() else link[1]


def favicon(path: Path) -> None:
    """The apple of the start page, as the small picture on the browser's tab."""
    from PIL import Image

    path.parent.mkdir(exist_ok=True)
    with Image.open(ROOT / "docs" / "hero.png") as hero:
        side = min(hero.size) // 3
        hero.convert("RGB").crop((0, 0, side, side)).resize((64, 64)).save(path)


def reference(folder: Path) -> None:
    """A page a module with its public names, and a page with a table of them all."""
    folder.mkdir()
    homes = {**ldm_edu._HOME, **MORE}
    tables = []
    for module, names in homes.items():
        name = f"ldm_edu.{module}"
        shown = [entry(name, each) for each in names]
        title = f"{name}\n{'=' * len(name)}\n\n"
        (folder / f"{module}.rst").write_text(f"{title}.. automodule:: {name}\n   :no-members:\n\n" + "".join(shown))
        described = [each for each in names if callable(getattr(importlib.import_module(name), each))]
        rows = "".join(f"   ~{name}.{each}\n" for each in described)
        tables.append(f"{name}\n{'-' * len(name)}\n\n.. autosummary::\n   :nosignatures:\n\n{rows}\n")
    pages = "".join(f"   {module}\n" for module in homes)
    title = "The package\n===========\n\n"
    words = "What `from ldm_edu import ...` offers, and the figures of `ldm_edu.viz`, module by module.\n\n"
    text = f"{title}{words}.. toctree::\n   :hidden:\n\n{pages}\n{''.join(tables)}"
    (folder / "index.rst").write_text(text)


def entry(module: str, name: str) -> str:
    """The directive that shows one name."""
    value = getattr(importlib.import_module(module), name)
    if isinstance(value, type):
        return f".. autoclass:: {module}.{name}\n   :members:\n\n"
    if callable(value) and hasattr(value, "__code__"):
        return f".. autofunction:: {module}.{name}\n\n"
    keys = ", ".join(f"`{key}`" for key in value) if isinstance(value, dict) else ""
    words = f"A dictionary with the entries {keys}." if keys else f"A `{type(value).__name__}`."
    return f".. py:data:: {module}.{name}\n\n   {words}\n\n"


def build(target: Path) -> int:
    """The site in ``target``; 0 if there was no warning."""
    source, trees = target.with_name(target.name + "-source"), target.with_name(target.name + "-trees")
    shutil.rmtree(target, ignore_errors=True)
    gather(source)
    command = [sys.executable, "-m", "sphinx", *KEYWORDS, "-d", str(trees), str(source), str(target)]
    return subprocess.run(command, cwd=ROOT).returncode


def main() -> None:
    """Build, and say where."""
    parser = argparse.ArgumentParser(description="Build the site.")
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "build" / "site", help="build/site if left out")
    target = parser.parse_args().folder.resolve()
    if status := build(target):
        sys.exit(status)
    print(f"open {target / 'index.html'}")


if __name__ == "__main__":
    main()
