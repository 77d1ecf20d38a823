"""The look of the figures: colours that everyone tells apart, figures that say in words what they show."""

import base64
import io
import itertools
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from ldm_edu.files import SaveError
from ldm_edu.viz import Drawing, Table, environment
from ldm_edu.viz.style import ACCENTS, INK, NOISE, PAPER, SIGNAL, SIGNED, SOFT, drawing, look

DARK = "#111111"  # JupyterLab's dark page

# How the three kinds of colour-blindness see linear RGB (Vienot et al. 1999; tritanopia: Brettel's, one plane)
BLIND = {
    "none": np.eye(3),
    "protanopia": np.array([[0.11238, 0.88762, 0.0], [0.11238, 0.88762, 0.0], [0.00401, -0.00401, 1.0]]),
    "deuteranopia": np.array([[0.29275, 0.70725, 0.0], [0.29275, 0.70725, 0.0], [-0.02234, 0.02234, 1.0]]),
    "tritanopia": np.array([[1.01277, 0.13548, -0.14826], [-0.01243, 0.86812, 0.14431], [0.07589, 0.805, 0.11911]]),
}


def linear(color: object) -> np.ndarray:
    rgb = np.array(to_rgb(color))  # type: ignore[arg-type]
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    """WCAG 2.2, 1 to 21."""
    weights = np.array([0.2126, 0.7152, 0.0722])
    low, high = sorted(float(weights @ linear(color)) for color in (one, other))
    return (high + 0.05) / (low + 0.05)


def lab(rgb: np.ndarray) -> np.ndarray:
    """Linear RGB to CIELAB, where a distance of about 2 is just seen."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = (to_xyz @ rgb.clip(0, 1)) / np.array([0.9505, 1.0, 1.089])
    f = [v ** (1 / 3) if v > 0.008856 else 7.787 * v + 16 / 116 for v in (x, y, z)]
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def distance(one: object, other: object, seen_by: str) -> float:
    matrix = BLIND[seen_by]
    return float(np.linalg.norm(lab(matrix @ linear(one)) - lab(matrix @ linear(other))))


def test_words_stand_out_on_the_card() -> None:
    assert contrast("black", "white") == pytest.approx(21)
    assert contrast(INK, PAPER) >= 7
    assert {c: contrast(c, PAPER) for c in (SOFT, *ACCENTS.values()) if contrast(c, PAPER) < 4.5} == {}


def test_the_explorers_curves_stand_out_on_light_and_dark_pages() -> None:
    assert {(c, p) for c in (SIGNAL, NOISE) for p in ("white", DARK) if contrast(c, p) < 3} == set()


@pytest.mark.parametrize("seen_by", BLIND)
def test_colours_are_told_apart_by_the_colour_blind(seen_by: str) -> None:
    assert distance(SIGNAL, NOISE, seen_by) >= 30
    assert distance(SIGNED(0.0), SIGNED(1.0), seen_by) >= 30
    assert distance(SIGNED(0.0), PAPER, seen_by) >= 30
    assert distance(SIGNED(1.0), PAPER, seen_by) >= 30
    near = {
        (a, b): distance(ACCENTS[a], ACCENTS[b], seen_by)
        for a, b in itertools.combinations(ACCENTS, 2)
        if distance(ACCENTS[a], ACCENTS[b], seen_by) < 15  # they never stand without a name or dashes beside them
    }
    assert near == {}


def test_red_against_green_would_not_have_passed() -> None:
    assert distance("#c00000", "#5c5c00", "deuteranopia") < 20 < distance("#c00000", "#008000", "none")


def test_the_look_does_not_stay() -> None:
    before = dict(mpl.rcParams)
    with look():
        assert mpl.rcParams["figure.facecolor"] == PAPER
    assert dict(mpl.rcParams) == before


def a_drawing(alt: str = "a square") -> Drawing:
    with look():
        figure = Figure(figsize=(2, 1))
        figure.add_subplot().plot([0, 1])
        return drawing(figure, alt)


def test_a_drawing_is_sharp_on_dense_screens() -> None:
    shown = a_drawing()
    assert shown.width == 192
    assert Image.open(io.BytesIO(shown.png)).size == (384, 192)


def test_a_drawing_is_the_same_file_every_time() -> None:
    assert a_drawing().png == a_drawing().png


def test_a_drawing_says_in_words_what_it_shows() -> None:
    data, metadata = a_drawing('5 > 3 & "so on"')._repr_mimebundle_()
    assert 'alt="5 &gt; 3 &amp; &quot;so on&quot;"' in data["text/html"]
    assert data["text/plain"] == '[figure: 5 > 3 & "so on"]'
    assert metadata["image/jpeg"]["alt"] == '5 > 3 & "so on"'


def test_a_drawing_has_a_picture_for_every_front_end() -> None:
    data, _ = a_drawing()._repr_mimebundle_()
    inside = data["text/html"].split("base64,")[1].split('"')[0]
    for kind, encoded, size in (("WEBP", inside, (384, 192)), ("JPEG", data["image/jpeg"], (192, 96))):
        picture = Image.open(io.BytesIO(base64.b64decode(encoded)))
        assert (picture.format, picture.size) == (kind, size)
        assert np.asarray(picture.convert("RGB"))[1, 1].tolist() == pytest.approx([251, 250, 247], abs=3)  # the card


def test_a_drawing_is_saved(tmp_path: Path) -> None:
    shown = a_drawing()
    shown.save(tmp_path / "new" / "figure.png")
    assert (tmp_path / "new" / "figure.png").read_bytes() == shown.png
    with pytest.raises(SaveError, match="not a folder"):
        shown.save(tmp_path / "new" / "figure.png" / "below.png")


def test_a_table_reads_in_a_terminal_and_in_a_page() -> None:
    table = Table(("what", "found"), (("cores", "2"), ("a <tag>", "")))
    assert repr(table) == "what     found\ncores    2\na <tag>"
    assert "&lt;tag&gt;" in table._repr_html_()
    assert table._repr_html_().count("<tr>") == 3


def test_the_environment_is_complete_where_the_data_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("emoji/a.parquet", "tokenizer/a.gz", "checkpoints/tiny/unet.safetensors"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(bytes(2_000_000))
    monkeypatch.setenv("LDM_EDU_DATA", str(tmp_path))
    rows = {what: (found, verdict) for what, found, verdict in environment("tiny").rows}
    assert rows["model: tiny"] == ("2.0 MB", "fine")
    assert rows["network"] == ("nothing will be downloaded", "not needed")
    assert str(tmp_path) not in repr(environment("tiny"))


def test_the_environment_says_what_to_do_where_something_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LDM_EDU_DATA", str(tmp_path))
    rows = {what: (found, verdict) for what, found, verdict in environment("tiny").rows}
    assert rows["model: tiny"][0] == "missing"
    assert "LDM_EDU_DATA" in rows["model: tiny"][1]
    assert rows["network"][1] != "not needed"
    monkeypatch.setenv("LDM_EDU_DATA", str(tmp_path / "nowhere"))
    assert any("not a folder" in verdict for _, _, verdict in environment("tiny").rows)
