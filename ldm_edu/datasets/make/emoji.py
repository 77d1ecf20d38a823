"""Draw the emoji set: six drawing styles of the same concepts, 64x64 RGBA, with captions from the CLDR labels."""

import io
import json
import re
import tarfile
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features, Image, List, Value
from PIL import Image as Pillow

from ldm_edu.datasets.make.sources import (
    EMOJIBASE,
    FLUENT_3D,
    FLUENT_FLAT,
    FXEMOJI,
    NOTO,
    NOTO_V1,
    TWEMOJI,
    Package,
    download,
)
from ldm_edu.extras import need

SIZE = 64
ROWS_A_SHARD = 2400  # keeps every shard below 8 MiB

FEATURES = Features(
    {
        "concept": Value("string"),
        "label": Value("string"),
        "style": Value("string"),
        "group": Value("string"),
        "subgroup": Value("string"),
        "tags": List(Value("string")),
        "codepoint": Value("string"),
        "image": Image(),
        "source": Value("string"),
        "licence": Value("string"),
    }
)


@dataclass(frozen=True)
class Style:
    """A style word of the captions and the package its pictures come from."""

    word: str
    package: Package
    licence: str


STYLES = (
    Style("3d", FLUENT_3D, "MIT"),
    Style("flat", FLUENT_FLAT, "MIT"),
    Style("noto", NOTO, "Apache-2.0"),
    Style("blob", NOTO_V1, "Apache-2.0"),
    Style("twemoji", TWEMOJI, "CC-BY-4.0"),
    Style("firefox", FXEMOJI, "CC-BY-4.0"),
)


@dataclass(frozen=True)
class Concept:
    """One emoji character: ``slug`` "red-apple", ``label`` "red apple", ``codepoint`` "1f34e"."""

    slug: str
    label: str
    group: str
    subgroup: str
    tags: tuple[str, ...]
    codepoint: str


def slug(label: str) -> str:
    """A label as a file name: ASCII letters and digits, words joined by hyphens."""
    plain = unicodedata.normalize("NFKD", label.lower()).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", plain.replace("'", "")).strip("-")


def concepts(archive: Path) -> list[Concept]:
    """The single-character emoji in CLDR order: flags, keycaps, skin tones and joined sequences are left out."""
    with tarfile.open(archive) as tar:
        entries = _json(tar, "package/en/data.json")
        names = _json(tar, "package/meta/groups.json")
    found = []
    for entry in sorted(entries, key=lambda e: e.get("order", -1)):
        codepoint = entry["hexcode"].lower().replace("-fe0f", "")
        group = names["groups"].get(str(entry.get("group")), "component")
        if "-" in codepoint or group in ("component", "flags"):
            continue
        subgroup = names["subgroups"][str(entry["subgroup"])]
        label = entry["label"].replace("\u2019", "'")
        found.append(Concept(slug(label), label, group, subgroup, tuple(entry["tags"]), codepoint))
    if len({c.slug for c in found}) != len(found):
        raise RuntimeError("Two concepts share a slug; change `slug` so that every label keeps its own.")
    return found


def pictures(style: Style, archive: Path, wanted: list[Concept]) -> Iterator[tuple[Concept, bytes]]:
    """The concepts this style has, each with its picture as an optimised 64x64 RGBA PNG."""
    with tarfile.open(archive) as tar:
        if style.package is FLUENT_3D:
            yield from _photographs(tar, wanted)
        else:
            yield from _drawings(tar, wanted)


def _photographs(tar: tarfile.TarFile, wanted: list[Concept]) -> Iterator[tuple[Concept, bytes]]:
    """Rendered pictures: one WebP file a code point, reduced to 64x64."""
    files = {Path(name).stem.replace("-fe0f", ""): name for name in tar.getnames() if name.endswith(".webp")}
    for concept in wanted:
        if concept.codepoint in files:
            member = tar.extractfile(files[concept.codepoint])
            assert member is not None
            picture = Pillow.open(io.BytesIO(member.read())).convert("RGBA")
            yield concept, _png(picture.resize((SIZE, SIZE), Pillow.Resampling.LANCZOS))


def _drawings(tar: tarfile.TarFile, wanted: list[Concept]) -> Iterator[tuple[Concept, bytes]]:
    """Vector drawings: one JSON of SVG bodies a style."""
    icons = _json(tar, "package/icons.json")
    by_codepoint = {key.replace("-fe0f", ""): name for key, name in _json(tar, "package/chars.json").items()}
    taken = {concept.slug for concept in wanted}  # an old name of another concept's icon is no name of this one
    aliases = {n for n, a in icons.get("aliases", {}).items() if a["parent"] not in taken or a.get("hFlip")}
    by_letters = {name.replace("-", ""): name for name in icons["icons"]}
    for concept in wanted:
        name = by_codepoint.get(concept.codepoint) or _named(concept, icons["icons"].keys() | aliases, by_letters)
        if name is not None:
            yield concept, _rasterise(icons, name)


def _named(concept: Concept, names: set[str], by_letters: dict[str, str]) -> str | None:
    """The icon called as the concept's label or as its Unicode character name (the older sets use that)."""
    if concept.slug in names:
        return concept.slug
    letters = concept.slug.replace("-", "")
    unicode_name = unicodedata.name(chr(int(concept.codepoint, 16)), "")
    return by_letters.get(letters) or by_letters.get(slug(unicode_name).replace("-", ""))


def _rasterise(icons: dict[str, Any], name: str) -> bytes:
    resvg_py = need("resvg_py")  # here, because only a rebuild needs it
    alias = icons.get("aliases", {}).get(name)
    icon = icons["icons"][alias["parent"] if alias else name]
    width, height = (icon.get(side, icons.get(side, 16)) for side in ("width", "height"))
    body = icon["body"]
    if alias and alias.get("hFlip"):
        body = f'<g transform="translate({width} 0) scale(-1 1)">{body}</g>'
    view = f"{icon.get('left', 0)} {icon.get('top', 0)} {width} {height}"
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{view}" width="{SIZE}" height="{SIZE}">{body}</svg>'
    )
    # dpi: the default of 0 fails on drawings measured in millimetres
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, dpi=96.0))
    return _png(Pillow.open(io.BytesIO(png)).convert("RGBA"))


def _png(picture: Pillow.Image) -> bytes:
    """The smallest PNG that Pillow makes, colours under full transparency set to black."""
    if picture.size != (SIZE, SIZE):
        raise RuntimeError(f"A picture came out as {picture.size}, not {SIZE}x{SIZE}.")
    clean = Pillow.composite(
        picture, Pillow.new("RGBA", picture.size), picture.getchannel("A").point(lambda a: 255 * (a > 0))
    )
    out = io.BytesIO()
    clean.save(out, "PNG", optimize=True)
    return out.getvalue()


def _json(tar: tarfile.TarFile, name: str) -> Any:
    member = tar.extractfile(name)
    assert member is not None
    return json.load(member)


def build(folder: Path, downloads: Path) -> list[Path]:
    """Write ``folder/emoji-00000-of-0000N.parquet`` and return the files, concepts in CLDR order, styles within."""
    wanted = concepts(download(EMOJIBASE, downloads))
    order = {concept.slug: place for place, concept in enumerate(wanted)}
    rows: list[dict[str, Any]] = []
    for style in STYLES:
        for concept, png in pictures(style, download(style.package, downloads), wanted):
            rows.append(
                {
                    "concept": concept.slug,
                    "label": concept.label,
                    "style": style.word,
                    "group": concept.group,
                    "subgroup": concept.subgroup,
                    "tags": list(concept.tags),
                    "codepoint": concept.codepoint,
                    "image": {"bytes": png, "path": f"{concept.slug}-{style.word}.png"},
                    "source": f"{style.package.name}@{style.package.version}",
                    "licence": style.licence,
                }
            )
    rows.sort(key=lambda row: order[row["concept"]])  # stable: styles keep their order within a concept
    folder.mkdir(parents=True, exist_ok=True)
    shards = [rows[start : start + ROWS_A_SHARD] for start in range(0, len(rows), ROWS_A_SHARD)]
    written = []
    for index, shard in enumerate(shards):
        path = folder / f"emoji-{index:05d}-of-{len(shards):05d}.parquet"
        table = pa.Table.from_pylist(shard, schema=FEATURES.arrow_schema)
        pq.write_table(
            table, path, compression="zstd", use_dictionary=["style", "group", "subgroup", "source", "licence"]
        )
        written.append(path)
    return written
