"""A record: written, read, printed."""

import json
import math
from pathlib import Path

from ldm_edu.evaluate.record import Figure, Section, hardware, markdown, record, table, versions, write_record

FIGURES = [
    Figure("concept top-1", 0.614, 500, {"real": 0.98, "chance": 1 / 431}, "%", 0.6),
    Figure("style", 0.8, 500, {"real": 1.0}, "%", 0.9),
    Figure("PSNR", math.inf, 3, {}, "dB"),
]
SECTION = Section("Pictures", "drawn", FIGURES, "A note.")


def test_a_table_shows_every_figure_with_its_goal_and_what_stands_beside_it() -> None:
    lines = list(table(SECTION))
    assert lines[0] == "|  | drawn | goal | real | chance | N |"
    assert lines[2] == "| concept top-1 | 61.4 % | ≥ 60.0 % ✓ | 98.0 % | 0.2 % | 500 |"
    assert lines[3] == "| style | 80.0 % | ≥ 90.0 % ✗ | 100.0 % |  | 500 |"
    assert len({line.count("|") for line in lines}) == 1


def test_lower_may_be_better() -> None:
    assert Figure("time", 3.0, 5, {}, "s", goal=4.0, better="lower").reached
    assert not Figure("time", 3.0, 5, {}, "s", goal=4.0).reached
    assert Figure("time", 3.0, 5, {}, "s").reached is None


def test_a_table_without_goals_has_no_such_column() -> None:
    assert next(table(Section("t", "w", [FIGURES[2]]))) == "|  | w | N |"


def test_a_record_comes_back_from_json_with_where_and_how_it_was_made(tmp_path: Path) -> None:
    made = record("ldm-edu evaluate emoji", {"seed": 7}, [SECTION], seconds=12.34)
    write_record(tmp_path / "deep" / "record.json", made)
    read = json.loads((tmp_path / "deep" / "record.json").read_text(encoding="utf-8"))
    assert read["command"] == "ldm-edu evaluate emoji" and read["settings"] == {"seed": 7} and read["seconds"] == 12.3
    first, _, last = read["sections"][0]["figures"]
    assert first["value"] == 0.614 and first["beside"]["chance"] == 0.00232019 and first["count"] == 500
    assert last["value"] == "inf"  # JSON has no infinity
    assert read["hardware"]["threads"] >= 1 and read["versions"]["torch"]


def test_the_text_says_where_and_how_too() -> None:
    text = markdown(record("ldm-edu evaluate emoji", {"seed": 7}, [SECTION], seconds=12.34))
    assert "### Pictures" in text and "A note." in text and "`ldm-edu evaluate emoji`" in text and "seed 7" in text


def test_the_machine_is_named_without_naming_a_user_or_a_path() -> None:
    found = {**hardware(), **versions()}
    assert found["processor"] and found["cores"] >= 1
    assert not any("/" in str(value) for value in found.values())
