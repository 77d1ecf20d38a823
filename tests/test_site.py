"""The site builds offline without a warning, and each lesson is on it with its figures."""

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest

pytest.importorskip("myst_nb", reason="the extra `docs` is not installed")

ROOT = Path(__file__).resolve().parent.parent
LESSONS = sorted((ROOT / "notebooks").glob("*.ipynb"))
ELSEWHERE = re.compile(r'<(?:script|link|img|iframe)[^>]+(?:src|href)="(?:https?:)?//')

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("built") / "site"
    path = os.pathsep.join([str(ROOT / "tests" / "offline"), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "site" / "build.py"), str(target)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "WARNING" not in done.stderr, done.stderr
    return target


class Images(HTMLParser):
    """The pictures of a page: where from, and their words."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[dict[str, str | None]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.found.append(dict(attributes))


def figures(lesson: Path) -> int:
    outputs = [o for c in nbformat.read(lesson, as_version=4).cells if c.cell_type == "code" for o in c.outputs]
    return sum("<img" in o.get("data", {}).get("text/html", "") for o in outputs)


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_is_there_with_its_figures_and_their_words(site: Path, lesson: Path) -> None:
    page = site / "lessons" / f"{lesson.stem}.html"
    images = Images(page.read_text(encoding="utf-8")).found
    shown = [image for image in images if (image["src"] or "").startswith("data:image/")]
    assert len(shown) >= figures(lesson) > 0
    assert [image["src"] for image in images if not (image.get("alt") or "").strip()] == []


def test_pictures_of_files_are_there(site: Path) -> None:
    for page in site.rglob("*.html"):
        sources = [image["src"] or "" for image in Images(page.read_text(encoding="utf-8")).found]
        assert [s for s in sources if not s.startswith("data:") and not (page.parent / s).is_file()] == [], page.name


def test_the_search_finds_every_lesson_and_the_package(site: Path) -> None:
    index = (site / "searchindex.js").read_text(encoding="utf-8")
    names = json.loads(index[index.index("{") : index.rindex("}") + 1])["docnames"]
    assert {f"lessons/{lesson.stem}" for lesson in LESSONS} <= set(names)
    assert {"index", "api/index", "api/guidance", "api/samplers", "api/viz"} <= set(names)
    assert (site / "search.html").is_file()


def test_every_public_name_is_explained(site: Path) -> None:
    import ldm_edu
    from ldm_edu import viz

    pages = "".join(page.read_text(encoding="utf-8") for page in (site / "api").glob("*.html"))
    named = {id_.rpartition(".")[2] for id_ in re.findall(r'id="(ldm_edu\.[\w.]+)"', pages)}
    assert {*ldm_edu.__all__, *viz.__all__} - {"__version__"} - named == set()


def test_nothing_is_fetched_and_no_path_of_the_machine_is_shown(site: Path) -> None:
    tops = "|".join(("work", "root", "home", "tmp", "Users"))
    machine = re.compile(rf"(?<![\w.>])/(?:{tops})/[A-Za-z0-9_.]")
    for page in site.rglob("*.html"):
        text = re.sub(r"data:image/[^\"]+", "", page.read_text(encoding="utf-8"))
        assert not ELSEWHERE.search(text), (page.name, ELSEWHERE.search(text))
        assert not machine.search(text) and str(ROOT) not in text, page.name
