"""Fix, before anything is trained, which emoji are held out. No picture is looked at; the choice is by rule and seed.

Order is by a hash of the seed and the name, not by a random number generator, so that it depends on no library.
"""

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path

import pyarrow.parquet as pq

from ldm_edu.datasets.make.emoji import STYLES
from ldm_edu.datasets.words import COUNTS, HUES, countable, thing

SEED = 2024
SHARE = 0.05  # of the concepts, and then of the (concept, style) pairs of the remaining ones
PAIR_STYLES = 4  # a concept gives up one pair only if it has this many styles, so at least three stay trained
# what the README and the first lesson ask for, and what a newcomer types first: always trained, in every style
SHOWN = ("red-apple", "fish", "dog", "dog-face", "cat", "cat-face", "rocket", "pizza")

# of the things that the composed pictures show: see `ldm_edu.datasets.compose`
HUE_SHARE = 0.5  # of the things give up one colour
COUNT_SHARE = 0.25  # of the things that can be counted give up one count
TOGETHER = 200  # pairs of things are never seen together

CORE_STYLES = 5
CORE_LABEL = re.compile(r"[a-z]+( [a-z]+)?")
CORE_LETTERS = 12
CORE_GROUPS = ("animals-nature", "food-drink", "travel-places", "activities", "objects")
STARTER_GROUPS = ("animals-nature", "food-drink")
CORE_SUBGROUPS = ("face-smiling", "face-costume", "cat-face", "monkey-face")

RULES = {
    "core": f"concepts with at least {CORE_STYLES} styles whose label is one or two words of plain letters and at most "
    f"{CORE_LETTERS} characters long, of the groups {', '.join(CORE_GROUPS)} or the subgroups "
    f"{', '.join(CORE_SUBGROUPS)}",
    "concepts": f"{SHARE:.0%} of the core concepts and {SHARE:.0%} of the others, every style of each; for the "
    "autoencoder's test, and kept out of text-to-image training too",
    "pairs": f"of the remaining concepts with at least {PAIR_STYLES} styles, {SHARE:.0%} of the pairs of every style, "
    "core and others apart, at most one pair a concept; for the text-to-image test",
    "hues": f"{HUE_SHARE:.0%} of the things of the remaining core concepts are never shown in one of the colours "
    f"{', '.join(HUES)}, but for those that their label says",
    "counts": f"{COUNT_SHARE:.0%} of the things that have a plural have one of the counts {', '.join(COUNTS.values())} "
    "never seen",
    "together": f"{TOGETHER} pairs of things of the groups {', '.join(STARTER_GROUPS)} are never in one picture, in "
    "either order",
    "order": "by sha256 of 'seed:concept' or 'seed:concept:style', and so for things",
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


def held_out_hues(labels: dict[str, list[str]]) -> list[tuple[str, str]]:
    """One colour of a share of the things; ``labels`` {thing: labels of its concepts} says which it must keep."""
    chosen = _shuffled(f"{name}:hue" for name in labels)[: round(HUE_SHARE * len(labels))]
    found = []
    for name in (each.partition(":")[0] for each in chosen):
        free = [hue for hue in HUES if not any(hue in label.split() for label in labels[name])]
        found.append((name, _shuffled(f"{name}:{hue}" for hue in free)[0].partition(":")[2]))
    return sorted(found)


def held_out_counts(names: Iterable[str]) -> list[tuple[str, int]]:
    """One count of a share of the things that can be counted."""
    counted = [name for name in names if countable(name)]
    chosen = _shuffled(f"{name}:count" for name in counted)[: round(COUNT_SHARE * len(counted))]
    first = (_shuffled(f"{each.partition(':')[0]}:{count}" for count in COUNTS)[0] for each in chosen)
    return sorted((name, int(count)) for name, _, count in (each.partition(":") for each in first))


def held_out_together(names: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of things, each pair in the order of the alphabet."""
    pairs = _shuffled(f"{a}:{b}" for a, b in combinations(sorted(names), 2))[:TOGETHER]
    return sorted((a, b) for a, _, b in (pair.partition(":") for pair in pairs))


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
    shown = {thing(about[c][0]) for c in SHOWN}
    labels: dict[str, list[str]] = defaultdict(list)
    for label in (about[c][0] for c in core if c not in concepts):
        if thing(label) not in shown:
            labels[thing(label)].append(label)
    plain = [thing(about[c][0]) for c in core if c not in concepts and about[c][1] in STARTER_GROUPS]
    content = {
        "seed": SEED,
        "rules": RULES,
        "concepts": concepts,
        "pairs": pairs,
        "hues": held_out_hues(labels),
        "counts": held_out_counts(labels),
        "together": held_out_together(sorted(set(plain) - shown)),
        "core": core,
    }
    path = folder / "splits.json"
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return path
