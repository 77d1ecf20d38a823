"""Training folders: nothing is left out, and nothing is put in, without a word."""

import json
import os
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from ldm_edu.datasets.folder import read_pictures

CAFE, UE = "caf\u00e9", "\u00fc"  # one character each, which macOS writes as two
PNG = b"\x89PNG\r\n\x1a\n"


def filled(folder: Path, files: dict[str, object]) -> Path:
    """A folder of files by name: a text, bytes, a list of rows for a table; None is a picture."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            Image.new("RGB", (8, 8)).save(path, format={".jfif": "JPEG"}.get(path.suffix.lower()))
        elif isinstance(content, bytes):
            path.write_bytes(content)
        elif isinstance(content, list):
            path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content), encoding="utf-8")
        else:
            path.write_text(str(content), encoding="utf-8")
    return folder


def learned(folder: Path) -> dict[str, str]:
    found = read_pictures(folder)
    return dict(zip((Path(name).name for name in found.names), found.captions, strict=True))


def row(name: object, text: object, column: str = "text") -> dict[str, object]:
    return {"file_name": name, column: text}


# --- what is read -----------------------------------------------------------------------------------------------------


def test_every_format_and_both_kinds_of_text_files(tmp_path: Path) -> None:
    names = ["a.png", "b.gif", "c.avif", "d.jfif", "E.JPG", "f.webp", "g.tiff", "h.bmp", "i.ppm"]
    files: dict[str, object] = dict.fromkeys(names)
    for i, name in enumerate(names):
        files[str(Path(name).with_suffix([".txt", ".caption"][i % 2]))] = name
    assert learned(filled(tmp_path, files)) == {name: name for name in names}


def test_text_files_of_windows_and_equal_captions_twice(tmp_path: Path) -> None:
    files = {"A.PNG": None, "A.TXT": b"\xef\xbb\xbfa cat\r\n", "metadata.jsonl": [row("A.PNG", "a cat")]}
    assert learned(filled(tmp_path, files)) == {"A.PNG": "a cat"}


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\u0085", "\x0b", "\x1c"])
def test_a_table_is_split_at_newlines_only(tmp_path: Path, separator: str) -> None:
    caption = f"a cat{separator}on a mat"
    line = json.dumps(row("a.png", caption), ensure_ascii=False)
    filled(tmp_path, {"a.png": None, "b.png": None})
    (tmp_path / "metadata.jsonl").write_bytes(f"{line}\r\n{json.dumps(row('b.png', 'b'))}".encode())
    assert learned(tmp_path) == {"a.png": caption, "b.png": "b"}


@pytest.mark.parametrize("stored, listed", [("NFC", "NFD"), ("NFD", "NFC"), ("NFD", "NFD")])
def test_both_spellings_of_an_accent_are_the_same_name(tmp_path: Path, stored: str, listed: str) -> None:
    spell = unicodedata.normalize
    folder = {f"{spell(stored, CAFE)}/{spell(stored, UE)}.png": None}
    table = filled(tmp_path / "one", {**folder, "metadata.jsonl": [row(spell(listed, f"{CAFE}/{UE}.png"), "x")]})
    assert list(learned(table).values()) == ["x"]
    beside = filled(tmp_path / "two", {**folder, f"{spell(stored, CAFE)}/{spell(listed, UE)}.txt": "y"})
    assert list(learned(beside).values()) == ["y"]


def test_tables_in_folders_name_files_from_there_on(tmp_path: Path) -> None:
    files = {"x/a.png": None, "y/a.png": None, "x/metadata.jsonl": [row("./a.png", "1"), row("../y/a.png", "2")]}
    found = read_pictures(filled(tmp_path, files))
    assert list(found.captions) == ["1", "2"]
    assert list(read_pictures(tmp_path / "x" / ".." / "x" / "..").captions) == ["1", "2"]


def test_links_are_followed_once(tmp_path: Path) -> None:
    filled(tmp_path, {"data/a.png": None, "data/a.txt": "a", "disk/z.png": None, "disk/z.txt": "z", "one.png": None})
    (tmp_path / "data" / "more").symlink_to(tmp_path / "disk", target_is_directory=True)
    (tmp_path / "data" / "one.png").symlink_to(tmp_path / "one.png")
    (tmp_path / "data" / "one.txt").write_text("one")
    assert learned(tmp_path / "data") == {"a.png": "a", "z.png": "z", "one.png": "one"}
    (tmp_path / "data" / "again").symlink_to(tmp_path / "disk", target_is_directory=True)
    with pytest.raises(ValueError, match=r"(again|more).* same folder by a link, .*: remove the link"):
        read_pictures(tmp_path / "data")
    (tmp_path / "data" / "again").unlink()
    (tmp_path / "disk" / "round").symlink_to(tmp_path / "data", target_is_directory=True)
    with pytest.raises(ValueError, match="same folder by a link"):
        read_pictures(tmp_path / "data")


def test_a_folder_of_held_out_pictures_by_itself_is_read(tmp_path: Path) -> None:
    assert learned(filled(tmp_path, {"test/a.png": None, "test/a.txt": "a", "train/notes.md": "none"})) == {
        "a.png": "a"
    }


# --- what is refused --------------------------------------------------------------------------------------------------

HEIC = bytes(4) + b"ftypheic"
ONE: dict[str, object] = {"a.png": None, "a.txt": "a"}


@pytest.mark.parametrize(
    "files, words",
    [
        ({"b.heic": HEIC}, r"b\.heic in .* is a HEIC photo that would be left out: save it as a PNG"),
        ({"b.svg": "<svg>", "c.svg": "<svg>"}, r"b\.svg .* an SVG drawing .* left out, and so are c\.svg: save it"),
        ({"b.nef": b"II*\0"}, "a camera's raw photo .*: develop it"),
        ({"IMG_0001": PNG}, r"IMG_0001 .* is a picture .*: end its name as its format is called, such as \.png"),
        ({"b.tar": b"x"}, r"b\.tar .* is an archive .*: unpack it"),
        ({"metadata.csv": "file_name,text\n"}, r"metadata\.csv holds captions, and metadata\.jsonl alone is read"),
        ({"b.txt": "b", "c.caption": "c"}, r"2 captions in .* have no picture: b\.txt, c\.caption\. Put each next to"),
        ({"b.png": None}, r"1 of 2 pictures in .* have no caption: b\.png.*\(b\.txt\)"),
        ({"a.jpg": None}, r"a\.txt would be the caption of 2 pictures, a\.jpg, a\.png: give each a name of its own"),
        ({"a.caption": "b"}, r"a\.png in .* has two captions, one of them in .*a\.txt: keep one"),
        ({"metadata.jsonl": [row("a.png", "b")]}, r"a\.png in .* has two captions"),
        ({"metadata.jsonl": [row("a.png", "a"), row("./a.png", "a")]}, "line 2 of .* again, after line 1 of"),
        ({"metadata.jsonl": [row("x.png", "a")]}, r"line 1 of .* lists x\.png, which is not there; mend its file_name"),
        ({"metadata.jsonl": [row(".a.png", "a")], ".a.png": None}, r"lists \.a\.png, which is there and is not read"),
        ({"metadata.jsonl": [row("../a.png", "a")]}, r"line 1 of .* lists \.\./a\.png: give the path of a picture in"),
        ({"metadata.jsonl": [row("/a.png", "a")]}, r"lists /a\.png: give the path of a picture in"),
        ({"metadata.jsonl": b"\xff\xfe{\0"}, r"metadata\.jsonl is not a text in UTF-8 .*save it again"),
        ({"b.png": None, "b.txt": b"caf\xe9"}, r"b\.txt is not a text in UTF-8"),
        ({"b.png": None, "b.txt": b"x" * (2**20 + 1)}, r"b\.txt has 1048577 bytes, .* shorten it"),
        ({"train/b.png": None, "Val/c.png": None}, r"others set apart \(train, Val\): give .*train to learn"),
        ({"x/training/b.png": None, "x/test/c.png": None}, r"x has pictures .* \(training, test\)"),
    ],
)
def test_one_sentence_names_what_would_be_passed_over(tmp_path: Path, files: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_pictures(filled(tmp_path, {**ONE, **files}))


@pytest.mark.parametrize(
    "text, words",
    [
        (None, r"line 2 of .*metadata\.jsonl has no caption in 'text', but null: a caption is a string, or a list"),
        (7, "but 7"),
        (True, "but true"),
        ([], r"but \[\]"),
        (["a", None], "null"),
        (["a", ["b"]], "a list of strings"),
        ({"en": "a"}, "but .*en"),
        ("a\ud800", "half a character"),
    ],
)
def test_a_caption_is_a_string_or_a_list_of_strings(tmp_path: Path, text: object, words: str) -> None:
    filled(tmp_path, {"a.png": None, "b.png": None})
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, [row("a.png", "fine"), row("b.png", text)])))
    with pytest.raises(ValueError, match=words):
        read_pictures(tmp_path)


def test_one_column_of_captions(tmp_path: Path) -> None:
    both = {**row("a.png", "a"), **row("a.png", "b", "caption")}
    for line, words in ((both, "has both text and caption"), (row("a.png", "a", "label"), "neither text nor caption")):
        with pytest.raises(ValueError, match=f"line 1 of .* {words}"):
            read_pictures(filled(tmp_path, {"a.png": None, "metadata.jsonl": [line]}))


@pytest.mark.parametrize("line", ["[" * 100_000, "7", '"a.png"', '{"file_name": 7, "text": "a"}'])
def test_a_line_that_is_no_row_is_named(tmp_path: Path, line: str) -> None:
    with pytest.raises(ValueError, match=r"line 1 of .* is not of the form \{"):
        read_pictures(filled(tmp_path, {"a.png": None, "metadata.jsonl": line}))


def test_pipes_and_links_to_nothing_and_vast_files_are_named(tmp_path: Path) -> None:
    folders = [filled(tmp_path / name, ONE) for name in ("pipe", "link", "vast")]
    os.mkfifo(folders[0] / "b.png")
    (folders[1] / "b.png").symlink_to("nowhere.png")
    with open(folders[2] / "b.png", "wb") as file:
        file.truncate(2**40)
    for folder, words in zip(
        folders, ["is a pipe", "is a link to what is not there", "larger than 1 GiB"], strict=True
    ):
        with pytest.raises(ValueError, match=rf"b\.png {words}|b\.png is {words}"):
            read_pictures(folder)


def test_two_spellings_of_one_name_side_by_side(tmp_path: Path) -> None:
    names = [f"{unicodedata.normalize(form, CAFE)}.png" for form in ("NFC", "NFD")]
    filled(tmp_path, dict.fromkeys(names))
    if len(list(tmp_path.iterdir())) == 1:
        pytest.skip("this file system takes the two for one")
    with pytest.raises(ValueError, match="two pictures whose names look alike"):
        read_pictures(tmp_path)
