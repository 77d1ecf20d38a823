"""What `pip install` of the wheel gives, in an environment with the core dependencies alone, away from the checkout."""

import os
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from environments import call, link
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.slow


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
    """The interpreter of an environment that holds the wheel and what it depends on, and none of the extras."""
    home = tmp_path_factory.mktemp("elsewhere") / "venv"
    venv.create(home, with_pip=False)
    python = home / ("Scripts" if os.name == "nt" else "bin") / "python"
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "-q", wheel]
    done = call(*install, cwd=home)
    assert done.returncode == 0, done.stdout + done.stderr
    link(python, "ldm-edu", itself=False)
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
    assert "ldm_edu/py.typed" in names


def test_an_editable_install_copies_nothing(tmp_path: Path) -> None:
    """The 84 MB of data are read from the checkout."""
    pytest.importorskip("hatchling")
    code = "import hatchling.build, sys; print(hatchling.build.build_editable(sys.argv[1]))"
    done = call(sys.executable, "-c", code, tmp_path, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(tmp_path / done.stdout.split()[-1]) as archive:
        assert sum(entry.file_size for entry in archive.infolist()) < 200_000
        (path,) = [name for name in archive.namelist() if name.endswith(".pth")]
        assert archive.read(path).decode().strip() == str(ROOT)


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


@pytest.mark.parametrize(
    "command, package",
    [
        ("grade .", "psutil"),
        ("train unet --preset toy --parts emoji --data pictures", "accelerate"),
    ],
)
def test_a_command_whose_extra_is_missing_says_so(python: Path, command: str, package: str, tmp_path: Path) -> None:
    (tmp_path / "a.ipynb").write_text("{}")
    done = call(python.parent / "ldm-edu", *command.split(), cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"ldm-edu: this needs the package {package}, which is not installed: pip install 'ldm-edu[")
    assert "Traceback" not in done.stderr


def test_lessons_show_tables_where_there_are_no_widgets(python: Path, tmp_path: Path) -> None:
    code = (
        "from ldm_edu.viz.quiz import Choice, Question, quiz\n"
        "asked = quiz(Question('?', [Choice('a', 'x', right=True), Choice('b', 'x'), Choice('c', 'x')]))\n"
        "assert 'text/html' in asked._repr_mimebundle_()[0]\n"
        "try:\n"
        "    asked.widget()\n"
        "except ValueError as error:\n"
        "    print(error)\n"
        "from ldm_edu.viz.environment import environment; print(environment())\n"
        "from ldm_edu.grading import hint\n"
    )
    done = call(python, "-c", code, cwd=tmp_path)
    assert done.stdout.startswith("this needs the package ipywidgets, which is not installed"), done.stderr
    assert done.returncode == 0, done.stderr


def test_what_needs_no_extra_works_without_one(python: Path, tmp_path: Path) -> None:
    for command in ("train clip --preset toy --steps 2 --out toy", "progress ."):
        done = call(python.parent / "ldm-edu", *command.split(), cwd=tmp_path)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
