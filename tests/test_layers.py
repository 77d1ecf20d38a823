"""Imports run one way, from the command line down to the configs: a file is read knowing only those below it."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "ldm_edu"

# A module imports only from lower levels, or from its own. The longest name that fits decides.
LEVELS = {
    "ldm_edu.config": 0,
    "ldm_edu.device": 0,
    "ldm_edu.extras": 0,
    "ldm_edu.paths": 0,
    "ldm_edu.checksums": 1,
    "ldm_edu.files": 1,
    "ldm_edu.kernels": 1,
    "ldm_edu.pictures": 1,
    "ldm_edu.prediction": 1,
    "ldm_edu.schedule": 1,
    "ldm_edu.tiling": 1,
    "ldm_edu.tokenizer": 1,
    "ldm_edu.weights": 1,
    "ldm_edu.condition": 2,
    "ldm_edu.nn": 2,
    "ldm_edu.prompts": 2,
    "ldm_edu.kernels.packed": 3,  # the layers of ldm_edu.nn in another form
    "ldm_edu.models": 3,
    "ldm_edu.attention_maps": 4,
    "ldm_edu.codec": 4,
    "ldm_edu.conditioners": 4,
    "ldm_edu.denoise": 4,
    "ldm_edu.guidance": 4,
    "ldm_edu.editing": 5,
    "ldm_edu.layouts": 5,
    "ldm_edu.samplers": 5,
    "ldm_edu.families": 6,
    "ldm_edu.adapters": 8,
    "ldm_edu.build": 7,
    "ldm_edu.checkpoint": 7,
    "ldm_edu.counts": 8,
    "ldm_edu.convert": 8,
    "ldm_edu.classifiers": 8,
    "ldm_edu.model": 8,
    "ldm_edu.cascade": 8,
    "ldm_edu.datasets": 9,
    "ldm_edu.training": 9,
    "ldm_edu.evaluate": 10,
    "ldm_edu.viz": 10,
    "ldm_edu.grading": 10,
    "ldm_edu.cli": 11,
    "ldm_edu.__main__": 12,
    "ldm_edu": 11,  # the public names; nothing below the command line may import them from here
}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def level(module: str) -> int:
    name = module
    while name != "ldm_edu":
        if name in LEVELS:
            return LEVELS[name]
        name = name.rpartition(".")[0]
    if module != "ldm_edu":
        pytest.fail(f"{module} has no level: give it one in {Path(__file__).name}")
    return LEVELS["ldm_edu"]


def imports(path: Path, modules: set[str]) -> set[str]:
    """The modules of this package that a file imports, at its top or inside its functions."""
    module = module_name(path)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "ldm_edu"}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([node.module] if node.module else [])])
            if base.split(".")[0] == "ldm_edu":
                inside = {f"{base}.{alias.name}" for alias in node.names} & modules
                found |= inside or {base}
    return found - {module}


def graph(package: Path = PACKAGE) -> dict[str, set[str]]:
    paths = {module_name(path): path for path in sorted(package.rglob("*.py"))}
    return {module: imports(path, set(paths)) for module, path in paths.items()}


def upward(edges: dict[str, set[str]]) -> list[str]:
    return [
        f"{module} (level {level(module)}) imports {other} (level {level(other)})"
        for module, others in edges.items()
        for other in sorted(others)
        if level(other) > level(module)
    ]


def test_imports_run_downwards_only() -> None:
    assert upward(graph()) == []


def test_no_module_imports_itself_through_others() -> None:
    edges = graph()
    # a package's __init__ gathers the names of its modules; what matters is that they do not need one another
    packages = {module for module in edges if (PACKAGE.parent / module.replace(".", "/")).is_dir()}
    try:
        TopologicalSorter({m: o - packages for m, o in edges.items() if m not in packages}).prepare()
    except CycleError as error:
        pytest.fail("imports go round: " + " -> ".join(error.args[1]))


def test_an_upward_import_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "ldm_edu"
    (package / "nn").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "config.py").write_text("")
    (package / "samplers.py").write_text("")
    (package / "nn" / "attention.py").write_text("def f():\n    from ..samplers import ddim\n")
    (package / "schedule.py").write_text("import ldm_edu.config\nfrom ldm_edu import samplers\n")
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    found = upward(graph(package))
    assert [line.split()[0] for line in found] == ["ldm_edu.nn.attention", "ldm_edu.schedule"]


@pytest.mark.parametrize("module", ["ldm_edu", "ldm_edu.config", "ldm_edu.paths", "ldm_edu.cli"])
def test_is_imported_without_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
