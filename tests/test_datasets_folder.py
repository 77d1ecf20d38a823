"""A person's own pictures: read by either convention, and refused with a sentence where something is missing."""

import json
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from ldm_edu.datasets.folder import read_pictures


def picture(path: Path, colour: tuple[int, ...] = (200, 10, 10), size: tuple[int, int] = (20, 10)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB" if len(colour) == 3 else "RGBA", size, colour).save(path)
    return path


def test_captions_beside_the_pictures(tmp_path: Path) -> None:
    picture(tmp_path / "b.png").with_suffix(".txt").write_text("a red field\n")
    picture(tmp_path / "deeper" / "a.jpg", (0, 0, 250)).with_suffix(".txt").write_text("a blue field")
    found = read_pictures(tmp_path)
    assert list(found.captions) == ["a red field", "a blue field"]
    assert found.size(0) == (20, 10)
    assert found.rgb(0).getpixel((0, 0)) == (200, 10, 10)


def test_captions_in_metadata(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        picture(tmp_path / "train" / name)
    rows = [{"file_name": "b.png", "text": "second"}, {"file_name": "a.png", "caption": "first"}]
    (tmp_path / "train" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    assert list(read_pictures(tmp_path).captions) == ["first", "second"]


@pytest.mark.parametrize("listed", [False, True])
def test_a_byte_order_mark_is_no_part_of_a_caption(tmp_path: Path, listed: bool) -> None:
    text = '{"file_name": "a.png", "text": "a red field"}' if listed else "a red field"
    picture(tmp_path / "a.png")
    (tmp_path / ("metadata.jsonl" if listed else "a.txt")).write_text(text, encoding="utf-8-sig")
    assert list(read_pictures(tmp_path).captions) == ["a red field"]


def test_hidden_files_are_left_out(tmp_path: Path) -> None:
    picture(tmp_path / "a.png").with_suffix(".txt").write_text("a red field")
    (tmp_path / "._a.png").write_bytes(b"what macOS puts beside a picture")
    picture(tmp_path / ".thumbnails" / "a.png")
    (tmp_path / ".thumbnails" / "metadata.jsonl").write_text("nothing")
    assert [Path(name).name for name in read_pictures(tmp_path).names] == ["a.png"]
    (tmp_path / ".hidden").mkdir()
    picture(tmp_path / ".hidden" / "seen" / "b.png").with_suffix(".txt").write_text("a blue field")
    assert list(read_pictures(tmp_path / ".hidden" / "seen").captions) == ["a blue field"]  # asked for by its name


def test_what_datasets_saved(tmp_path: Path) -> None:
    import datasets

    images = [Image.new("RGB", (8, 6), (value, 0, 0)) for value in (10, 20)]
    features = datasets.Features({"picture": datasets.Image(), "caption": datasets.Value("string")})
    table = datasets.Dataset.from_dict({"picture": images, "caption": ["dark", "darker"]}, features=features)
    table.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": table, "test": table}).save_to_disk(str(tmp_path / "split"))
    for name in ("one", "split"):
        found = read_pictures(tmp_path / name)
        assert list(found.captions) == ["dark", "darker"]
        assert found.size(1) == (8, 6)
        assert found.rgb(1).getpixel((0, 0)) == (20, 0, 0)
    table.rename_column("caption", "words").save_to_disk(str(tmp_path / "other"))
    with pytest.raises(ValueError, match=r"columns picture, words; needed .* text or caption"):
        read_pictures(tmp_path / "other")


def test_a_turned_picture_is_upright_and_a_transparent_one_on_white(tmp_path: Path) -> None:
    turned = Image.new("RGB", (20, 10))
    exif = turned.getexif()
    exif[0x0112] = 6  # the camera was held upright
    turned.save(tmp_path / "a.jpg", exif=exif)
    picture(tmp_path / "b.png", (0, 0, 0, 0))
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text(name)
    found = read_pictures(tmp_path)
    assert found.size(0) == found.rgb(0).size == (10, 20)
    assert found.rgb(1).getpixel((3, 3)) == (255, 255, 255)


def test_the_fingerprint_changes_with_a_caption_or_a_picture(tmp_path: Path) -> None:
    a = picture(tmp_path / "a.png")
    a.with_suffix(".txt").write_text("one")
    seen = [read_pictures(tmp_path).fingerprint, read_pictures(tmp_path).fingerprint]
    assert seen[0] == seen[1]
    a.with_suffix(".txt").write_text("two")
    seen.append(read_pictures(tmp_path).fingerprint)
    picture(a, (1, 2, 3), (64, 64))
    seen.append(read_pictures(tmp_path).fingerprint)
    assert len(set(seen)) == 3


def test_a_folder_without_pictures(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a caption alone")
    with pytest.raises(ValueError, match=r"holds no picture .*check the path"):
        read_pictures(tmp_path)


def test_missing_captions_are_named_with_what_to_do(tmp_path: Path) -> None:
    picture(tmp_path / "a.png").with_suffix(".txt").write_text("has one")
    for name in "bcdef":
        picture(tmp_path / f"{name}.png")
    with pytest.raises(ValueError, match=r"5 of 6 .* no caption: b\.png, c\.png, d\.png and 2 more.*b\.txt"):
        read_pictures(tmp_path)


@pytest.mark.parametrize("line", ["{", '{"file_name": "a.png"}', '{"text": "x"}', "[1]"])
def test_a_broken_line_of_metadata_is_named(tmp_path: Path, line: str) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text(f'{{"file_name": "a.png", "text": "fine"}}\n{line}\n')
    with pytest.raises(ValueError, match="line 2 of"):
        read_pictures(tmp_path)


def test_a_listed_picture_that_is_not_there(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "z.png", "text": "gone"}\n')
    with pytest.raises(ValueError, match=r"z\.png, which is not there"):
        read_pictures(tmp_path)


def test_an_unreadable_picture_is_named_when_it_is_opened(tmp_path: Path) -> None:
    whole = picture(tmp_path / "cut.png", size=(200, 200)).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "none.png").write_bytes(b"no picture at all")
    for name in ("cut", "none"):
        (tmp_path / f"{name}.txt").write_text(name)
    found = read_pictures(tmp_path)
    assert found.size(0) == (200, 200)  # its head is whole
    with pytest.raises(ValueError, match=r"cut\.png cannot be read as a picture .*save it again .*or leave it out"):
        found.rgb(0)
    with pytest.raises(ValueError, match=r"none\.png cannot be read"):
        found.size(1)


def test_neither_a_folder_nor_a_known_data_set() -> None:
    with pytest.raises(ValueError, match="is not a folder, and no data set of that name could be loaded"):
        read_pictures("nobody/no-such-pictures")


def test_a_caption_may_be_a_list_of_which_each_is_learned_with_the_picture(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", size=(8, 6))
    picture(tmp_path / "b.png", (0, 0, 250), (6, 8))
    rows = [{"file_name": "b.png", "text": "blue"}, {"file_name": "a.png", "text": ["red ", "a red field", "red"]}]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = read_pictures(tmp_path)
    assert list(found.captions) == ["red", "a red field", "blue"]
    assert [found.size(i) for i in range(3)] == [(8, 6), (8, 6), (6, 8)]
    assert [found.rgb(i).getpixel((0, 0)) for i in range(3)] == [(200, 10, 10), (200, 10, 10), (0, 0, 250)]


def test_lists_of_captions_and_missing_pictures_in_a_data_set(tmp_path: Path) -> None:
    import datasets

    image, texts = Image.new("RGB", (8, 6)), datasets.List(datasets.Value("string"))
    features = datasets.Features({"image": datasets.Image(), "text": texts})
    rows = {"image": [image, None], "text": [["one", "two"], ["three"]]}
    datasets.Dataset.from_dict(rows, features=features).select([0]).save_to_disk(str(tmp_path / "fine"))
    assert list(read_pictures(tmp_path / "fine").captions) == ["one", "two"]
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "gone"))
    with pytest.raises(ValueError, match=r"row 1 of .* has no picture: remove the row"):
        read_pictures(tmp_path / "gone")
    none = {"image": [image, image], "text": [["one"], None]}
    datasets.Dataset.from_dict(none, features=features).save_to_disk(str(tmp_path / "none"))
    with pytest.raises(ValueError, match=r"row 1 of .* has no caption in 'text'"):
        read_pictures(tmp_path / "none")


def test_a_copy_has_the_same_fingerprint_and_a_changed_byte_another(tmp_path: Path) -> None:
    for i in range(3):
        picture(tmp_path / "one" / f"{i}.bmp", (i, 0, 0)).with_suffix(".txt").write_text(str(i))
    shutil.copytree(tmp_path / "one", tmp_path / "two", copy_function=shutil.copyfile)
    os.utime(tmp_path / "two" / "1.bmp", (1, 1))
    assert read_pictures(tmp_path / "one").fingerprint == read_pictures(tmp_path / "two").fingerprint
    data = bytearray((tmp_path / "two" / "1.bmp").read_bytes())
    data[len(data) // 2] ^= 1  # as long as before, and of the same time
    (tmp_path / "two" / "1.bmp").write_bytes(data)
    os.utime(tmp_path / "two" / "1.bmp", (1, 1))
    assert read_pictures(tmp_path / "one").fingerprint != read_pictures(tmp_path / "two").fingerprint


def test_a_file_is_not_a_folder_of_pictures(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    os.mkfifo(tmp_path / "pipe")
    for name in ("a.png", "pipe"):
        with pytest.raises(ValueError, match=f"{name} is not a folder: give the folder that the pictures are in"):
            read_pictures(tmp_path / name)
