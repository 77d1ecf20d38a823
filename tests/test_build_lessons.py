"""The builder of lessons: what it leaves out, what it refuses, and that it runs the cells."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
v4 = nbformat.v4
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The builder, at work in an empty folder."""
    spec = importlib.util.spec_from_file_location("build_lessons", ROOT / "notebooks" / "build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "notebooks" / "text").mkdir(parents=True)
    monkeypatch.setattr(module, "HERE", tmp_path / "notebooks")
    return module


def notebook(*outputs: Any) -> Any:
    cell = v4.new_code_cell("1 + 1", outputs=list(outputs), metadata={"tags": ["kept"], "execution": {"busy": "now"}})
    metadata = {
        "kernelspec": KERNEL,
        "language_info": {"name": "python", "version": "3.99"},
        "widgets": {},
    }
    return v4.new_notebook(cells=[v4.new_markdown_cell("Hello"), cell], metadata=metadata)


def result(**data: str) -> Any:
    return v4.new_output("execute_result", {kind.replace("__", "/"): text for kind, text in data.items()})


def test_what_differs_between_runs_is_left_out(build: Any) -> None:
    one, other = (build.clean(notebook(result(text__plain="2"))) for _ in range(2))
    assert nbformat.writes(one) == nbformat.writes(other)
    assert one.metadata == {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    assert one.cells[1].metadata == {"tags": ["kept"]}
    nbformat.validate(one)


def test_a_dead_widget_is_left_out_and_the_picture_beside_it_stays(build: Any) -> None:
    output = v4.new_output("display_data", {build.WIDGET: {"model_id": "1"}, "image/jpeg": "abc"})
    output.metadata = {"image/jpeg": {"alt": "words"}, build.WIDGET: {}}
    (kept,) = build.clean(notebook(output)).cells[1].outputs
    assert set(kept.data) == {"image/jpeg"}
    assert kept.metadata == {"image/jpeg": {"alt": "words"}}


def test_a_clean_notebook_is_not_complained_of(build: Any) -> None:
    assert build.complaints(notebook(result(text__plain="2"))) == []


def test_what_must_not_be_saved_is_named(build: Any) -> None:
    (found,) = build.complaints(notebook(v4.new_output("stream", name="stderr", text="UserWarning: old")))
    assert "cell 1 wrote to stderr: UserWarning: old" in found
    (found,) = build.complaints(notebook(result(text__plain=f"'{build.HERE.parent}/data'")))
    assert "a path of this machine" in found
    (found,) = build.complaints(notebook(result(text__plain="<object at 0x7f3c2a1b0d90>")))
    assert "an address in memory" in found
    (found,) = build.complaints(notebook(result(image__png="A" * build.LIMIT)))
    assert "more than 2" in found


def test_an_unknown_lesson_is_refused(build: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    (build.HERE / "text" / "00_a.py").write_text("# %%\n1")
    monkeypatch.setattr(sys, "argv", ["build.py", "99_z"])
    with pytest.raises(SystemExit):
        build.main()
    assert "no lesson is called 99_z; there are: 00_a" in capsys.readouterr().err


@pytest.mark.slow
def test_a_lesson_is_executed_and_a_failing_one_is_not_saved(
    build: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    (build.HERE / "text" / "00_good.py").write_text("# %% [markdown]\n# # Title\n\n# %%\nx = 20\n\n# %%\nx + 1\n")
    (build.HERE / "text" / "01_bad.py").write_text("# %%\nraise ValueError('no good')\n")
    monkeypatch.setattr(sys, "argv", ["build.py"])
    with pytest.raises(SystemExit) as left:
        build.main()
    assert left.value.code == 1
    printed = capsys.readouterr().out
    assert "00_good: 0." in printed and "no good" in printed
    assert sorted(path.name for path in build.HERE.glob("*.ipynb")) == ["00_good.ipynb"]
    saved = nbformat.read(build.HERE / "00_good.ipynb", as_version=4)
    assert saved.cells[2].outputs[0].data["text/plain"] == "21"
    assert [cell.execution_count for cell in saved.cells[1:]] == [1, 2]


def test_prose_alone_is_taken_over_without_running_anything(
    build: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    text = build.HERE / "text" / "00_a.py"
    saved = notebook(result(text__plain="2"))
    nbformat.write(build.clean(saved), build.HERE / "00_a.ipynb")
    text.write_text("# %% [markdown]\n# Goodbye\n\n# %%\n1 + 1\n\n# %% [markdown]\n# More\n")
    monkeypatch.setattr(sys, "argv", ["build.py", "--words"])
    with pytest.raises(SystemExit) as left:
        build.main()
    assert left.value.code == 0
    now = nbformat.read(build.HERE / "00_a.ipynb", as_version=4)
    assert [cell.source for cell in now.cells] == ["Goodbye", "1 + 1", "More"]
    assert now.cells[1].outputs == saved.cells[1].outputs
    nbformat.validate(now)

    text.write_text("# %% [markdown]\n# Changed\n\n# %%\n1 + 2\n")
    with pytest.raises(SystemExit) as left:
        build.main()
    assert left.value.code == 1
    assert "its code has changed too; run `make lessons LESSON=00_a`" in capsys.readouterr().out
    assert nbformat.read(build.HERE / "00_a.ipynb", as_version=4).cells[0].source == "Goodbye"
