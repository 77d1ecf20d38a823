"""What `pip install` of the wheel gives, in an environment of its own, away from the checkout: all of it works."""

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.slow


def call(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command with nothing of the checkout's environment: no PYTHONPATH, no data folder set from outside."""
    dropped = ("PYTHONPATH", "PYTHONHOME", "LDM_EDU_DATA")
    environment = {name: value for name, value in os.environ.items() if name not in dropped}
    return subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=600
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling", reason="hatchling is not installed: the wheel cannot be built")
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-q"]
    done = call(*build, "-w", folder, ROOT, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an empty environment with the wheel in it; the dependencies are this environment's."""
    home = tmp_path_factory.mktemp("elsewhere") / "venv"
    venv.create(home, with_pip=False)
    python = home / ("Scripts" if os.name == "nt" else "bin") / "python"
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "-q", wheel]
    done = call(*install, cwd=home)
    assert done.returncode == 0, done.stdout + done.stderr
    # A .pth adds folders to the path without reading the .pth files inside them, so an editable install of the
    # checkout, which is one such file, stays out.
    site = call(python, "-c", "import site; print(site.getsitepackages()[0])", cwd=home).stdout.strip()
    others = [path for path in sys.path if path.endswith("site-packages")]
    (Path(site) / "dependencies.pth").write_text("\n".join(others) + "\n")
    return python


def test_the_wheel_holds_the_package_and_the_data_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    tops = {name.split("/")[0] for name in names}
    assert tops == {"ldm_edu", next(top for top in tops if top.endswith(".dist-info"))}
    data = ROOT / "data"
    shipped = {p.relative_to(data).as_posix() for p in data.rglob("*") if p.is_file() and not p.name.startswith(".")}
    assert {name.removeprefix("ldm_edu/_data/") for name in names if name.startswith("ldm_edu/_data/")} == shipped
    code = {p.relative_to(ROOT).as_posix() for p in (ROOT / "ldm_edu").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == code
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_package_and_data_are_the_installed_ones(python: Path, tmp_path: Path) -> None:
    code = "import ldm_edu; print(ldm_edu.__file__); print(ldm_edu.data_dir())"
    done = call(python, "-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    home = python.parent.parent
    package, data = (Path(line) for line in done.stdout.splitlines())
    assert package.is_relative_to(home)
    assert data == package.parent / "_data"
    done = call(python.parent / "ldm-edu", "data", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_generate_works_from_any_folder(python: Path, tmp_path: Path) -> None:
    if not (ROOT / "data" / "checkpoints" / "emoji" / "config.json").is_file():
        pytest.skip("the emoji checkpoint is not in this checkout")
    options = ["--steps", "2", "--seed", "7", "--film", "film.gif"]
    done = call(python.parent / "ldm-edu", "generate", "red apple, 3d style", "rocket", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for name in ("sheet.png", "film.gif"):
        with Image.open(tmp_path / name) as picture:
            assert picture.width > 2 * 192
