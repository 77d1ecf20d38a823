"""The project as a whole: what is promised is there, what is shipped is small, nothing names the maker's machine."""

import ast
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
MIB = 1024 * 1024
# what a path of the machine that something was made on looks like; written in pieces, or this file would be found
MACHINE_PATH = re.compile("|".join(["/" + top + "/[A-Za-z0-9_.]" for top in ("work", "root", "home", "farm", "Users")]))
TEMPORARY = re.compile("/" + "tmp/[A-Za-z0-9_.]")


def tracked() -> list[Path]:
    """The files of the project: git's, or all that are not ignored where it is no checkout."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def text_of(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_no_file_names_a_path_of_the_machine_it_was_made_on() -> None:
    found = []
    for path in tracked():
        text = text_of(path) or ""
        if path.suffix == ".ipynb":  # pictures are base64, which has slashes too
            text = re.sub(r'"(image/(png|gif|jpeg)|value)": "[^"]*"', "", text)
        elif path.suffix == ".json":
            text = re.sub(r'"[^"]{500,}"', "", text)
        for number, line in enumerate(text.splitlines(), 1):
            if MACHINE_PATH.search(line) or TEMPORARY.search(line):
                found.append(f"{relative(path)}:{number}: {line.strip()[:100]}")
    assert found == []


def test_the_search_for_such_paths_finds_them() -> None:
    for top in ("work", "root", "home"):
        assert MACHINE_PATH.search(f"open('/{top}/someone/file')")
    assert TEMPORARY.search("'/tmp" + "/x'")
    assert not MACHINE_PATH.search("ldm_edu/networks and/or a framework/that")


def test_no_file_is_larger_than_16_mib_and_the_checkpoints_than_60() -> None:
    sizes = {relative(path): path.stat().st_size for path in tracked()}
    assert {name: size for name, size in sizes.items() if size > 16 * MIB} == {}
    shipped = sum(size for name, size in sizes.items() if name.startswith("data/checkpoints/"))
    assert shipped <= 60 * MIB, f"{shipped / MIB:.1f} MiB"


def test_files_of_code_hold_one_idea() -> None:
    # 300 lines is the aim, and a file at 400 holds two ideas; a lesson's exercise items are data, with what draws it
    lengths = {relative(p): len(p.read_text().splitlines()) for p in (ROOT / "ldm_edu").rglob("*.py")}
    assert {name: n for name, n in lengths.items() if n > (540 if name.startswith(ITEMS) else 400)} == {}


ITEMS = "ldm_edu/grading/items/l"
LINK = re.compile(r"\]\(([^)#\s]+)(#[^)]*)?\)|(?:src|href)=\"([^\"#]+)\"")


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "data/README.md"])
def test_links_lead_to_files_that_exist(name: str) -> None:
    page = ROOT / name
    links = [a or b for a, _, b in LINK.findall(page.read_text(encoding="utf-8"))]
    local = [link for link in links if not re.match(r"[a-z]+:", link)]
    assert [link for link in local if not (page.parent / link).exists()] == []


def test_commands_of_the_readme_and_contributing_are_targets() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    for name in ("README.md", "CONTRIBUTING.md"):
        named = set(re.findall(r"`make ([a-z-]+)|^make ([a-z-]+)", (ROOT / name).read_text(encoding="utf-8"), re.M))
        assert {a or b for a, b in named} - targets == set(), name


@pytest.mark.slow
def test_python_in_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if not (ROOT / "data" / "checkpoints" / "emoji" / "config.json").is_file():
        pytest.skip("the emoji checkpoint is not in this checkout")
    pytest.importorskip("diffusers")
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S):
        exec(compile(block, "README.md", "exec"), names)
    assert torch.allclose(names["same"], names["image"], atol=1e-3)  # our weights and samplers, their network
    assert names["level"].t.shape == (8,) and names["x0"].shape == names["noisy"].shape == (1, 4, 16, 16)
    assert len(names["losses"]) == 10 and names["losses"][-1] < names["losses"][0]
    assert names["scores"].shape == (2, 1)
    assert names["image"].shape == (1, 3, 64, 64)
    assert (tmp_path / "apple.png").is_file()


def test_shipped_checkpoints_have_a_model_card_and_a_preset() -> None:
    for config in (ROOT / "data" / "checkpoints").glob("*/config.json"):
        card = config.parent / "README.md"
        assert card.is_file(), f"{relative(config.parent)} has no model card (README.md)"
        text = card.read_text(encoding="utf-8").lower()
        missing = [w for w in ("data", "seed", "command", "hardware", "minutes", "limits") if w not in text]
        assert missing == [], f"{relative(card)} does not say: {missing}"
        assert json.loads(config.read_text(encoding="utf-8"))["format"] == "ldm-edu/1"


def public(tree: ast.Module) -> list[tuple[str, ast.AST]]:
    """Public functions, classes and their public methods, by name."""
    found: list[tuple[str, ast.AST]] = []
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            found.append((node.name, node))
            if isinstance(node, ast.ClassDef):
                methods = [n for n in node.body if isinstance(n, ast.FunctionDef) and not n.name.startswith("_")]
                found += [(f"{node.name}.{method.name}", method) for method in methods]
    return found


def modules() -> list[Path]:
    return sorted((ROOT / "ldm_edu").rglob("*.py"))


def is_stub(node: ast.AST) -> bool:
    """A method of a protocol: its body is only an ellipsis."""
    body = getattr(node, "body", [])
    return len(body) == 1 and isinstance(body[0], ast.Expr) and getattr(body[0].value, "value", None) is Ellipsis


def test_everything_public_has_a_docstring() -> None:
    missing = []
    for path in modules():
        if relative(path).startswith(ITEMS):  # answers to be compared with; the item beside each says what it is
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if tree.body and not ast.get_docstring(tree):
            missing.append(relative(path))
        for name, node in public(tree):
            if not ast.get_docstring(node) and not is_stub(node):  # type: ignore[arg-type]
                missing.append(f"{relative(path)}: {name}")
    assert missing == []


def test_library_code_prints_nothing() -> None:
    """Progress is the caller's to show: only the command line, a check, and programs of their own speak."""
    speaks = {"print", "tqdm"}
    found = []
    for path in modules():
        if relative(path).startswith(
            ("ldm_edu/cli", "ldm_edu/datasets/make", "ldm_edu/grading/interactive", "ldm_edu/training/compress")
        ):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in speaks:
                found.append(f"{relative(path)}:{node.lineno}: {node.func.id}")
    assert found == []


def test_the_lock_pins_everything_the_project_asks_for() -> None:
    import tomllib
    from importlib.metadata import version

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(r for extra in project["optional-dependencies"].values() for r in extra)]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    lock = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    pinned = {re.sub(r"[-_.]+", "-", name).lower(): release for name, release in lock.items()}
    names = [re.sub(r"[-_.]+", "-", re.split(r"[<>=!~\[ ]", each)[0]).lower() for each in wanted]
    assert [name for name in names if name not in pinned] == []
    assert pinned["torch"] == version("torch").split("+")[0], "the lock is not what is tested: run `make lock`"
