"""The shared figures: the right picture at the right place, and words beside it."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ldm_edu.config import ScheduleConfig
from ldm_edu.families import EMOJI, TOY
from ldm_edu.model import LatentDiffusion
from ldm_edu.samplers.step import Step
from ldm_edu.schedule import levels, make_schedule
from ldm_edu.viz import Drawing, channels, edits, film_strip, hero, matrix, schedule_curve, sheet, system_map
from ldm_edu.viz.figures import as_array, latent_array, spread

RED, GREEN, BLUE, WHITE = ([1, -1, -1], [-1, 1, -1], [-1, -1, 1], [1, 1, 1])


def plain(*colors: list[int]) -> Tensor:
    """A batch (B, 3, 8, 8) of pictures of one colour each."""
    return torch.tensor(colors, dtype=torch.float32)[:, :, None, None].expand(-1, -1, 8, 8)


def seen(shown: Drawing) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(shown.png)).convert("RGB")).astype(int)


def places(shown: Drawing, color: list[int]) -> tuple[float, float]:
    """The middle of all pixels of a colour, as shares of the height and of the width."""
    pixels = seen(shown)
    wanted = (np.array(color) + 1) * 127.5
    found = np.argwhere(np.abs(pixels - wanted).max(axis=-1) <= 2)
    assert len(found) > 100, f"{color} is not shown"
    y, x = found.mean(axis=0) / pixels.shape[:2]
    return float(y), float(x)


def test_a_sheet_shows_pictures_in_reading_order() -> None:
    shown = sheet(plain(RED, GREEN, BLUE), ["a", "b", "c"], columns=2)
    (ry, rx), (gy, gx), (by, bx) = (places(shown, color) for color in (RED, GREEN, BLUE))
    assert abs(ry - gy) < 0.01 and rx < gx
    assert by > ry and abs(bx - rx) < 0.01
    assert "a; b; c" in shown.alt


def test_a_sheet_leaves_room_for_long_captions() -> None:
    short, long = (sheet(plain(RED), [text]) for text in ("apple", "a very long prompt " * 5))
    assert len(seen(long)) > len(seen(short))


def test_a_sheet_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="at least one"):
        sheet(torch.zeros(0, 3, 8, 8))
    with pytest.raises(ValueError, match="1 captions for 2"):
        sheet(plain(RED, BLUE), ["one"])


def test_a_matrix_is_filled_row_by_row() -> None:
    shown = matrix(plain(RED, GREEN, BLUE, RED, GREEN, WHITE), ["one", "two"], ["x", "y", "z"])
    (by, bx), (gy, gx) = places(shown, BLUE), places(shown, GREEN)
    assert by < gy and bx > gx
    assert "one, two" in shown.alt and "x, y, z" in shown.alt
    with pytest.raises(ValueError, match="3 pictures do not fill 2 rows of 2"):
        matrix(plain(RED, GREEN, BLUE), ["one", "two"], ["x", "y"])


def run(count: int) -> list[Step]:
    """Two pictures a step: the first goes from red to blue, the second is green; their estimates are white."""
    stops = levels(make_schedule(ScheduleConfig()), count)
    x = [torch.cat([plain(RED if i < count - 1 else BLUE), plain(GREEN)]) for i in range(count)]
    return [Step(i, x[i], torch.cat([plain(WHITE), plain(RED)]), stops[i + 1]) for i in range(count)]


def test_a_film_strip_goes_from_the_first_step_to_the_last() -> None:
    shown = film_strip(run(12), columns=4)
    (ry, rx), (by, bx) = places(shown, RED), places(shown, BLUE)
    assert abs(ry - by) < 0.01 and rx < bx  # one row, later is further right
    assert places(shown, WHITE)[0] > ry  # estimates below
    assert "4 of 12" in shown.alt
    with pytest.raises(ValueError, match="at least one step"):
        film_strip([])


def test_a_film_strip_shows_the_picture_asked_for() -> None:
    second = film_strip(run(3), picture=1)
    assert places(second, GREEN)[0] < places(second, RED)[0]


def test_a_film_strip_decodes_latents() -> None:
    def decode(latents: Tensor) -> Tensor:
        return plain(*[BLUE] * len(latents))

    latents = [Step(s.index, torch.zeros(1, 4, 2, 2), torch.zeros(1, 4, 2, 2), s.level) for s in run(3)]
    raw, decoded = film_strip(latents[:1], decode), film_strip(run(3))
    assert len(seen(raw)) > len(seen(decoded))  # three rows against two
    places(raw, BLUE)


def test_spread_holds_both_ends() -> None:
    assert [spread(n, 8)[0] for n in (1, 5, 50)] == [0, 0, 0]
    assert [spread(n, 8)[-1] for n in (1, 5, 50)] == [0, 4, 49]
    assert all(len(set(spread(n, 8))) == min(n, 8) for n in range(1, 60))
    assert spread(9, 1) == [8]


def test_a_picture_becomes_bytes() -> None:
    assert as_array(plain(RED)[0])[3, 4].tolist() == [255, 0, 0]
    assert as_array(torch.full((1, 2, 3), 7.0)).tolist() == [[[255] * 3] * 3] * 2  # grey, clipped


def test_a_latent_becomes_tiles() -> None:
    latent = torch.stack([torch.full((2, 2), value) for value in (-9.0, 0.0, 9.0, 0.0)])
    tiles = latent_array(latent, zoom=1)
    assert tiles.shape == (8, 8, 3)
    low, zero, high = tiles[1, 1].astype(int), tiles[1, 5].astype(int), tiles[5, 1].astype(int)
    assert low[2] - low[0] > 100  # blue
    assert high[0] - high[2] > 100  # vermillion
    assert zero.min() > 240
    assert latent_array(latent[:3], zoom=2).shape == (12, 12, 3)  # an empty place for the fourth


def test_the_schedules_curve_has_units_and_words() -> None:
    schedule = make_schedule(ScheduleConfig())
    shown = schedule_curve(schedule, levels(schedule, 10)[:-1])
    assert "t = 999" in shown.alt and "alpha rises from 0.07 to 1.00" in shown.alt
    assert not np.array_equal(seen(shown), seen(schedule_curve(schedule)))  # the stops are drawn


def test_channels_are_side_by_side() -> None:
    latent = torch.stack([torch.full((4, 4), value) for value in (-3.0, 3.0)])
    pixels = seen(channels(latent))
    middle = pixels[pixels.shape[0] // 2 + 20]
    warm = np.flatnonzero(middle[:, 0] - middle[:, 2] > 150)
    cold = np.flatnonzero(middle[:, 2] - middle[:, 0] > 150)
    assert cold.min() < warm.min()


def test_the_map_carries_the_presets_sizes_and_the_picture() -> None:
    shown = system_map(EMOJI, drawn=plain(GREEN)[0])
    assert "4 × 16 × 16" in shown.alt
    y, x = places(shown, GREEN)
    assert y < 0.5 and x > 0.8  # the end of the way is at the upper right
    assert all(f"({lesson})" in shown.alt for lesson in ("01", "02, 04", "03", "06", "07"))


def test_the_map_needs_latents_and_text() -> None:
    from dataclasses import replace

    with pytest.raises(ValueError, match="lacks"):
        system_map(replace(TOY, autoencoder=None))


@pytest.mark.slow
def test_the_projects_pictures_are_drawn_by_one_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = LatentDiffusion.from_preset(TOY)
    monkeypatch.setattr(LatentDiffusion, "from_pretrained", lambda name: model)
    hero.main(tmp_path)
    edits.main(tmp_path)
    for name in ("hero.png", "system_map.png"):
        assert min(Image.open(tmp_path / name).size) > 800
    assert Image.open(tmp_path / "editing.png").width > 2000
