"""Where drawn pictures go: one file, a sheet of several, or a folder with a file for each, named by its prompt."""

import unicodedata
from collections import Counter
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ldm_edu.files import check_writable

if TYPE_CHECKING:
    from PIL.Image import Image

Order = tuple[str, int]  # a prompt and a seed

BARE = 192  # a single picture of at least this width is written without a frame and a caption
SLUG = 40  # signs of a prompt in a file's name


def check_places(out: Path, film: Path | None) -> None:
    """Refuse, before anything is drawn, what could not be written afterwards.

    Raises
    ------
    ValueError
        if a file's name does not end as its format does.
    SaveError
        if the file system refuses.
    """
    if not _is_folder(out):
        check_suffix(out, ".png")
    if film is not None:
        check_suffix(film, ".gif")
        check_writable(film)
    check_writable(out / "picture.png" if _is_folder(out) else out)


def check_suffix(path: Path, suffix: str) -> None:
    """Whether a file's name ends as its format does.

    Raises
    ------
    ValueError
        if not.
    """
    if path.suffix.lower() != suffix:
        raise ValueError(f"{str(path)!r} should end in {suffix}: other formats are not written.")


def save_pictures(out: Path, orders: list[Order], pictures: "list[Image]", settings: dict[str, Any]) -> None:
    """One PNG with its settings in it: the picture itself, or a sheet; or in a folder, one for each picture.

    Raises
    ------
    SaveError
        if the disk refuses.
    """
    from ldm_edu.pictures import save_png, sheet

    about = [{"prompt": prompt, "seed": seed} for prompt, seed in orders]
    if _is_folder(out):
        written: set[Path] = set()
        for picture, order, said in zip(pictures, orders, about, strict=True):
            path = _free_path(out, order, written)
            save_png(path, picture, said | settings)
            written.add(path)
    elif len(pictures) == 1 and pictures[0].width >= BARE:
        save_png(out, pictures[0], about[0] | settings)
    else:
        whole = about[0] if len(about) == 1 else {"pictures": about}
        save_png(out, sheet(pictures, captions(orders)), whole | settings)


def captions(orders: list[Order]) -> list[str]:
    """What stands below each picture of a sheet: its prompt, and its seed where that prompt is drawn again."""
    again = Counter(prompt for prompt, _ in orders)
    return [f"{prompt} · seed {seed}" if again[prompt] > 1 else prompt for prompt, seed in orders]


def _is_folder(out: Path) -> bool:
    return out.is_dir() or not out.suffix


def _free_path(folder: Path, order: Order, written: set[Path]) -> Path:
    """The first of slug-seed.png, slug-seed-2.png ... that is free, or holds an earlier drawing of the same order."""
    stem = f"{_slug(order[0])}-{order[1]}"
    paths = (folder / (f"{stem}.png" if number == 1 else f"{stem}-{number}.png") for number in count(1))
    return next(p for p in paths if p not in written and (not p.exists() or _drawn_from(p) == order))


def _drawn_from(path: Path) -> Order | None:
    """The prompt and the seed that a file says it was drawn from; None where it is not ours."""
    from ldm_edu.pictures import read_metadata

    try:
        about = read_metadata(path)
    except (ValueError, OSError):
        return None
    return (about["prompt"], about["seed"]) if {"prompt", "seed"} <= about.keys() else None


def _slug(prompt: str) -> str:
    """The first words of a prompt in any script, without their weights, as a file's name."""
    from ldm_edu.prompts import parse

    text = unicodedata.normalize("NFC", "".join(span.text for span in parse(prompt)).lower())
    kept = "".join(sign if _is_of_a_word(sign) else " " for sign in text)
    return "-".join(kept.split())[:SLUG].strip("-") or "picture"


def _is_of_a_word(sign: str) -> bool:
    """Letters, digits, and the marks upon them, which a regular expression's \\w leaves out: "सेब" has one."""
    return unicodedata.category(sign)[0] in "LNM"
