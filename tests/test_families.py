"""The table of families: nothing outside a family's own files asks which family a model is of."""

import ast
from collections import Counter
from pathlib import Path

import pytest

from ldm_edu.config import Preset
from ldm_edu.counts import parameter_counts
from ldm_edu.families import FAMILIES, PRESETS, family_named, family_of, preset_named

ROOT = Path(__file__).resolve().parent.parent
LATER = ("sd2", "sdxl", "sdxl_refiner", "dit")  # the families that came after the house was opened
OWN = (
    *("families/__init__.py", "families/sd2.py", "families/sdxl.py", "families/sdxl_presets.py", "families/dit.py"),
    *("layouts/dit.py", "layouts/openclip.py", "conditioners/two_texts.py", "models/dit.py"),
)


def outside() -> list[Path]:
    package = ROOT / "ldm_edu"
    return [path for path in sorted(package.rglob("*.py")) if path.relative_to(package).as_posix() not in OWN]


def mentions(tree: ast.AST) -> set[str]:
    """Names of the later families, their modules and their networks that code uses: strings, imports, names."""
    presets = {preset.name for name in LATER for preset in family_named(name).presets}
    modules = {f"ldm_edu.{path.removesuffix('.py').replace('/', '.')}" for path in OWN[1:]}
    found = set()
    for node in ast.walk(tree):
        match node:
            case ast.Compare() | ast.Match() | ast.Dict() | ast.Call():
                inside = [each.value for each in ast.walk(node) if isinstance(each, ast.Constant)]
                found |= {word for word in inside if isinstance(word, str) and word in {*LATER, *presets}}
            case ast.ImportFrom(module=str(module)) if module in modules:
                found.add(module)
            case ast.Name(id="DiT" | "TwoTextConditioner" | "SDXLPreset" | "DiTPreset" as name):
                found.add(name)
    return found


@pytest.mark.parametrize("path", outside(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_file_outside_asks_for_a_later_family(path: Path) -> None:
    allowed = {"toy_dit"} if path.name == "recipes.py" else set()  # a recipe is named by its preset
    assert mentions(ast.parse(path.read_text(encoding="utf-8"))) - allowed == set()


def test_the_search_would_find_such_a_question() -> None:
    for code, word in {
        'if preset.family == "sdxl":\n    pass': "sdxl",
        "from ldm_edu.models.dit import DiT": "ldm_edu.models.dit",
        "isinstance(network, DiT)": "DiT",
    }.items():
        assert word in mentions(ast.parse(code))


def test_names_are_the_only_ones_of_their_kind() -> None:
    assert max(Counter(family.name for family in FAMILIES).values()) == 1
    assert max(Counter(preset.name for family in FAMILIES for preset in family.presets).values()) == 1
    for family in FAMILIES:
        assert max(Counter(part.name for part in family.parts).values()) == 1
        assert family.network in {part.name for part in family.parts}
        assert all(family_of(preset) is family for preset in family.presets)
    with pytest.raises(ValueError, match="no model family 'sd9'; known are course, sd1, sd2"):
        family_named("sd9")
    with pytest.raises(ValueError, match="no preset 'sd99'; choose one of toy, fashion"):
        preset_named("sd99")


@pytest.mark.slow
def test_the_page_of_presets_has_their_counts() -> None:
    page = (ROOT / "docs" / "presets.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert rows == [row(preset) for preset in PRESETS.values()]


def row(preset: Preset) -> str:
    """A line of docs/presets.md; `python tests/test_families.py` prints all of them."""
    counts = {title: sum(parts.values()) for title, parts in parameter_counts(preset).items()}
    family = family_of(preset)
    network = next(part.title for part in family.parts if part.name == family.network)
    texts = " + ".join(f"{n:,}" for title, n in counts.items() if "text encoder" in title) or "0"
    usual = preset.defaults
    draws = f"{usual.steps} {usual.sampler}, {usual.guidance:g}"
    return (
        f"| `{preset.name}` | {family.title} | {preset.size} | {counts[network]:,} | {counts.get('autoencoder', 0):,} "
        f"| {texts} | {preset.prediction} | {draws} |"
    )


if __name__ == "__main__":
    print("\n".join(row(preset) for preset in PRESETS.values()))
