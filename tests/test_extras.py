"""A missing package of an extra is one sentence, in a command and in a widget; and where networks run by default."""

import re
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ldm_edu.cli import main
from ldm_edu.device import default_device
from ldm_edu.extras import INSTALL, MissingPackageError, extras, need
from ldm_edu.viz.quiz import Choice, Question, quiz

ROOT = Path(__file__).resolve().parent.parent


def without(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """Python then says of a package that it is not installed."""

    class Finder:
        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name.partition(".")[0] == package:
                raise ModuleNotFoundError(f"No module named {package!r}", name=name)

    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])


def test_a_missing_package_is_a_sentence_and_another_error_stays_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "ipywidgets")
    words = r"^this needs the package ipywidgets, which is not installed: pip install 'ldm-edu\[lab\]'$"
    with pytest.raises(MissingPackageError, match=words) as caught:
        need("ipywidgets.widgets")
    assert isinstance(caught.value, ValueError) and caught.value.name == "ipywidgets"
    with pytest.raises(ModuleNotFoundError, match="No module named 'no_such_package'") as other, extras():
        need("no_such_package")
    assert not isinstance(other.value, MissingPackageError)
    assert need("json").loads("7") == 7


def test_a_widget_ends_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "ipywidgets")
    with pytest.raises(ValueError, match=r"ipywidgets, which is not installed: pip install 'ldm-edu\[lab\]'"):
        quiz(Question("?", [Choice("a", "yes", right=True), Choice("b", "no"), Choice("c", "no")])).widget()


def test_every_extra_that_is_named_has_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    distributions = {  # which need the package
        **dict.fromkeys(("IPython", "ipykernel"), "ipywidgets"),
        **dict.fromkeys(("jupyter_client", "zmq"), "nbclient"),
        "nbconvert": "nbgrader",
    }
    for package, target in INSTALL.items():
        if found := re.fullmatch(r"'ldm-edu\[(\w+)\]'", target):
            named = [re.split(r"[<>=\[ ]", each)[0] for each in project["optional-dependencies"][found[1]]]
            assert distributions.get(package, package) in named, package


def test_what_is_imported_is_declared() -> None:
    """Every import of the package is of the standard library, of a dependency, or of an extra that a sentence names."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    modules = {"pillow": "PIL"}
    types = {"_typeshed"}  # which type checkers bring
    declared = {re.split(r"[<>=\[ ]", each)[0] for each in project["dependencies"]}
    known = {modules.get(name, name) for name in declared} | {"ldm_edu", *INSTALL, *sys.stdlib_module_names, *types}
    found = set()
    for path in (ROOT / "ldm_edu").rglob("*.py"):
        names = re.findall(r"^\s*(?:from|import) ([A-Za-z_]\w*)", code_of(path), re.M)
        found |= {f"{path.relative_to(ROOT)}: {name}" for name in names if name not in known}
    assert found == set()


def test_the_lock_is_inside_of_the_declared_ranges() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    locked = {canonicalize_name(line.split("==")[0]): line.split("==")[1] for line in lines if "==" in line}
    extra = [each for group in project["optional-dependencies"].values() for each in group]
    wanted = [Requirement(each) for each in (*project["dependencies"], *extra)]
    assert [str(each) for each in wanted if locked[canonicalize_name(each.name)] not in each.specifier] == []
    assert all(">=" in str(each.specifier) for each in wanted), "a range begins somewhere"


def code_of(path: Path) -> str:
    """A file without its texts of several lines."""
    return re.sub(r'"""[\s\S]*?"""', "", path.read_text(encoding="utf-8"))


def test_a_command_ends_in_one_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """More commands, in an environment without any extra: `test_wheel`."""
    without(monkeypatch, "diffusers")
    monkeypatch.setattr(sys, "argv", ["ldm-edu", "verify", "toy"])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2
    assert said[-1].startswith("ldm-edu: this needs the package diffusers, which is not installed: pip install ")


@pytest.mark.parametrize("found", ["cpu", "cuda", "mps", "xpu"])
def test_networks_run_on_the_accelerator_that_pytorch_finds(found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    accelerator = None if found == "cpu" else torch.device(found)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: accelerator)
    assert default_device() == torch.device(found)
    assert default_device(float64=True) == torch.device("cpu" if found == "mps" else found)


def test_nothing_else_looks_for_a_gpu() -> None:
    """A device is chosen in one place; what measures an NVIDIA GPU asks for one by name."""
    asks = re.compile(r"\b(cuda|mps|xpu|accelerator)\.(is_available|current_accelerator)\(")
    found = {str(p.relative_to(ROOT)) for p in (ROOT / "ldm_edu").rglob("*.py") if asks.search(p.read_text())}
    assert found == {"ldm_edu/device.py", "ldm_edu/evaluate/bench_gpu.py"}
