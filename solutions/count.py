"""Count the items of each lesson, and try every answer that is known on them: all that are right, all that are wrong.

python solutions/count.py           print the table of CONTRIBUTING.md, and how long a check takes
python solutions/count.py --write   put it there
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

from ldm_edu.files import atomic_write_text
from ldm_edu.grading.items import LESSONS
from ldm_edu.grading.verdict import tried

PAGE = Path(__file__).resolve().parent.parent / "CONTRIBUTING.md"
HEADER = ("lesson", "items", "points", "minutes", "right answers", "passed", "wrong answers", "diagnosed")


def counted() -> tuple[list[str], list[float]]:
    """The table's lines, as Markdown; and the seconds of every check."""
    lines = ["| " + " | ".join(HEADER) + " |", "|---" * len(HEADER) + "|"]
    seconds: list[float] = []
    sums = [0] * (len(HEADER) - 1)
    for lesson in LESSONS:
        found = [tuple(_item(item, seconds)) for item in lesson.ITEMS]
        counts = [sum(column) for column in zip(*found, strict=True)]
        sums = [a + b for a, b in zip(sums, counts, strict=True)]
        lines.append(f"| {lesson.ITEMS[0].lesson} | " + " | ".join(map(str, counts)) + " |")
    return [*lines, "| all | " + " | ".join(map(str, sums)) + " |"], seconds


def _item(item, seconds: list[float]) -> Iterator[int]:
    def verdict(answer):
        start = time.perf_counter()
        found = tried(item, answer, ours=True)
        seconds.append(time.perf_counter() - start)
        return found

    right = [verdict(answer) for answer in (item.answer, *item.others.values())]
    wrong = [(verdict(mistake.answer), mistake) for mistake in item.mistakes]
    yield from (1, item.points, item.minutes)
    yield from (len(right), sum(v.passed for v in right))
    yield from (len(wrong), sum(v.points == 0 and v.diagnosis == m.diagnosis for v, m in wrong))


def main() -> None:
    """Print, or write, the table."""
    parser = argparse.ArgumentParser(description="Count the items, and try every known answer on them.")
    parser.add_argument("--write", action="store_true", help="put the table into CONTRIBUTING.md")
    lines, seconds = counted()
    if parser.parse_args().write:
        text = PAGE.read_text(encoding="utf-8")
        old = text[text.index(f"| {HEADER[0]} |") :].partition("\n\n")[0]
        atomic_write_text(PAGE, text.replace(old, "\n".join(lines)))
    print("\n".join(lines))
    print(f"{len(seconds)} checks, {1000 * sum(seconds) / len(seconds):.0f} ms each, {max(seconds):.2f} s at most")


if __name__ == "__main__":
    main()
