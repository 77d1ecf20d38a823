"""Fix, before anything is trained, which emoji are held out. No picture is looked at; the choice is by rule and seed.

Order is by a hash of the seed and the name, not by a random number generator, so that it depends on no library.
"""

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow.parquet as pq

from ldm_edu.datasets.make.emoji import STYLES

SEED = 2024
SHARE = 0.05  # of the concepts, and then of the (concept, style) pairs of the remaining ones
PAIR_STYLES = 4  # a concept gives up one pair only if it has this many styles, so at least three stay trained
# what the README and the first lesson ask for, and what a newcomer types first: always trained, in every style
SHOWN = ("red-apple", "fish", "dog", "dog-face", "cat", "cat-face", "rocket", "pizza")

CORE_STYLES = 5
CORE_LABEL = re.compile(r"[a-z]+( [a-z]+)?")
CORE_LETTERS = 12
CORE_GROUPS = ("animals-nature", "food-drink", "travel-places", "activities", "objects")
CORE_SUBGROUPS = ("face-smiling", "face-costume", "cat-face", "monkey-face")

RULES = {
    "core": f"concepts with at least {CORE_STYLES} styles whose label is one or two words of plain letters and at most "
    f"{CORE_LETTERS} characters long, of the groups {', '.join(CORE_GROUPS)} or the subgroups "
    f"{', '.join(CORE_SUBGROUPS)}",
    "concepts": f"{SHARE:.0%} of the core concepts and {SHARE:.0%} of the others, every style of each; for the "
    "autoencoder's test, and kept out of text-to-image training too",
    "pairs": f"of the remaining concepts with at least {PAIR_STYLES} styles, {SHARE:.0%} of the pairs of every style, "
    "core and others apart, at most one pair a concept; for the text-to-image test",
    "order": "by sha256 of 'seed:concept' or 'seed:concept:style'",
    "never held out": ", ".join(SHOWN),
}


def _shuffled(names: Iterable[str]) -> list[str]:
    return sorted(names, key=lambda name: hashlib.sha256(f"{SEED}:{name}".encode()).hexdigest())


def is_core(label: str, group: str, subgroup: str, styles: int) -> bool:
    """Whether a concept belongs to the plain ones that a small model on a CPU is trained on."""
    plain = CORE_LABEL.fullmatch(label) is not None and len(label) <= CORE_LETTERS
    return plain and styles >= CORE_STYLES and (group in CORE_GROUPS or subgroup in CORE_SUBGROUPS)


def held_out_concepts(strata: Iterable[Sequence[str]]) -> list[str]:
    """A share of every stratum of concepts."""
    chosen: list[str] = []
    for stratum in strata:
        chosen += _shuffled(c for c in stratum if c not in SHOWN)[: round(SHARE * len(stratum))]
    return sorted(chosen)


def held_out_pairs(strata: Iterable[dict[str, list[str]]]) -> list[tuple[str, str]]:
    """A share of every style's pairs in every stratum {concept: styles}, at most one pair a concept."""
    chosen: dict[str, str] = {}
    for stratum in strata:
        for style in (s.word for s in STYLES):
            pairs = [concept for concept, styles in stratum.items() if style in styles]
            free = _shuffled(f"{c}:{style}" for c in pairs if c not in chosen and c not in SHOWN)
            for name in free[: round(SHARE * len(pairs))]:
                chosen[name.partition(":")[0]] = style
    return sorted(chosen.items())


def build(folder: Path) -> Path:
    """Read the emoji shards in ``folder`` and write ``folder/splits.json``."""
    columns = ["concept", "label", "style", "group", "subgroup"]
    rows = [
        row
        for path in sorted(folder.glob("emoji-*.parquet"))
        for row in pq.read_table(path, columns=columns).to_pylist()
    ]
    styles: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        styles[row["concept"]].append(row["style"])
    about = {row["concept"]: (row["label"], row["group"], row["subgroup"]) for row in rows}
    core = sorted(c for c, about_c in about.items() if is_core(*about_c, len(styles[c])))
    strata = (core, sorted(set(styles) - set(core)))
    concepts = held_out_concepts(strata)
    pairs = held_out_pairs(
        {c: styles[c] for c in stratum if c not in concepts and len(styles[c]) >= PAIR_STYLES} for stratum in strata
    )
    content = {"seed": SEED, "rules": RULES, "concepts": concepts, "pairs": pairs, "core": core}
    path = folder / "splits.json"
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return path
