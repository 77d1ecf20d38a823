"""The parts of `make data` that can be tested without a network."""

import gzip
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ldm_edu.datasets.emoji import STYLES
from ldm_edu.datasets.make import emoji, fashion, splits
from ldm_edu.datasets.make.sources import EMOJIBASE, PACKAGES, download

ICONS = {
    "width": 10,
    "height": 10,
    "icons": {
        "left": {"body": '<rect width="5" height="10" fill="#f00"/>'},
        "wide": {"body": '<rect width="20" height="10" fill="#00f"/>', "width": 20},
    },
    "aliases": {"right": {"parent": "left", "hFlip": True}},
}


def test_style_words_are_the_reader_s() -> None:
    assert tuple(style.word for style in emoji.STYLES) == STYLES


def test_slug() -> None:
    assert emoji.slug("woman’s hat (piñata)") == "womans-hat-pinata"


def test_sources_are_pinned() -> None:
    assert all(len(package.sha256) == 64 and package.version in package.archive for package in PACKAGES)


def test_another_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / EMOJIBASE.archive).write_bytes(b"not the package")
    with pytest.raises(RuntimeError, match=r"emojibase-data 17\.0\.0 should have"):
        download(EMOJIBASE, tmp_path)


def test_a_missing_client_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match=r"Install that client, or put emojibase-data-17\.0\.0\.tgz into"):
        download(EMOJIBASE, tmp_path)


def test_rasterise() -> None:
    pytest.importorskip("resvg_py")

    def alpha_and_colour(name: str) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(emoji._rasterise(ICONS, name))))

    left, right, wide = alpha_and_colour("left"), alpha_and_colour("right"), alpha_and_colour("wide")
    assert left.shape == right.shape == wide.shape == (64, 64, 4)
    assert (left[:, :32] == (255, 0, 0, 255)).all() and (left[:, 32:] == 0).all()
    assert (right == left[:, ::-1]).all()
    assert (wide[16:48] == (0, 0, 255, 255)).all() and (wide[:16] == 0).all() and (wide[48:] == 0).all()


@pytest.mark.parametrize(
    ("slug", "codepoint", "names", "expected"),
    [
        ("tram", "1f68a", {"tram"}, "tram"),
        ("red-apple", "1f34e", {"redapple"}, "redapple"),
        ("wrapped-gift", "1f381", {"wrappedpresent"}, "wrappedpresent"),  # Unicode calls it WRAPPED PRESENT
        ("red-apple", "1f34e", {"apple"}, None),
    ],
)
def test_icon_names(slug: str, codepoint: str, names: set[str], expected: str | None) -> None:
    concept = emoji.Concept(slug, slug.replace("-", " "), "", "", (), codepoint)
    assert emoji._named(concept, names, {name.replace("-", ""): name for name in names}) == expected


def test_idx_files() -> None:
    values = np.arange(6, dtype=np.uint8).reshape(1, 2, 3)
    header = bytes([0, 0, 8, 3]) + np.array(values.shape, ">i4").tobytes()
    assert np.array_equal(fashion._idx(gzip.compress(header + values.tobytes())), values)


def test_debian_packages(tmp_path: Path) -> None:
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w:xz") as archive:
        member = tarfile.TarInfo("usr/share/set/a.gz")
        member.size = 3
        archive.addfile(member, io.BytesIO(b"abc"))
    members = {"debian-binary": b"2.0", "data.tar.xz": tar.getvalue()}  # an odd length first: it is padded
    body = b"".join(
        f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) % 2)
        for name, data in members.items()
    )
    (tmp_path / "set.deb").write_bytes(b"!<arch>\n" + body)
    assert fashion._deb_files(tmp_path / "set.deb") == {"a.gz": b"abc"}


def test_core_rule() -> None:
    assert splits.is_core("red apple", "food-drink", "food-fruit", 6)
    assert not splits.is_core("red apple", "food-drink", "food-fruit", 4)
    assert not splits.is_core("red apple", "symbols", "other-symbol", 6)
    assert not splits.is_core("pot of food", "food-drink", "food-prepared", 6)
    assert not splits.is_core("T-Rex", "animals-nature", "animal-reptile", 6)
    assert splits.is_core("cat face", "animals-nature", "animal-mammal", 5)


def test_held_out_pairs_are_spread_and_never_double() -> None:
    stratum = {f"concept-{i}": list(STYLES) for i in range(200)}
    chosen = splits.held_out_pairs([stratum])
    assert len(chosen) == len({concept for concept, _ in chosen}) == 60
    assert all(sum(style == word for _, style in chosen) == 10 for word in STYLES)
