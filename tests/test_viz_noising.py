"""Noising as a toy: frames are what the schedule says, made once; a table where no slider can be."""

import io
import re
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from ldm_edu.schedule import NoiseSchedule, add_noise, cosine, flow, scaled_linear
from ldm_edu.viz import noising
from ldm_edu.viz.figures import as_array
from ldm_edu.viz.noising import PLACES, Noising, level_svg

WIDGET = "application/vnd.jupyter.widget-view+json"
SCHEDULES: dict[str, NoiseSchedule] = {"scaled_linear": scaled_linear(), "cosine": cosine(), "flow": flow()}
X0 = torch.full((3, 8, 8), 0.5)
EPS = torch.randn(X0.shape, generator=torch.Generator().manual_seed(3))


def toy(title: str = "") -> Noising:
    return noising(X0, SCHEDULES, eps=EPS, title=title)


def test_a_frame_is_the_noisy_sample_of_its_time() -> None:
    for track, schedule in zip(toy().tracks, SCHEDULES.values(), strict=True):
        times = [schedule.first, *range(50, 1000, 50), schedule.last]
        assert [round(float(level.t)) for level in track.levels] == times
        for place in (0, 7, PLACES - 1):
            expected = as_array(add_noise(X0[None], EPS[None], schedule.level(float(times[place])))[0])
            assert np.array_equal(np.asarray(Image.open(io.BytesIO(track.png(place)))), expected)


def test_the_noise_is_the_same_every_time_it_is_not_given() -> None:
    one, other = (noising(X0, SCHEDULES).tracks[0].samples for _ in range(2))
    assert torch.equal(one, other)


def test_grey_pictures_are_pictures() -> None:
    assert noising(X0[:1], SCHEDULES).tracks[0].samples.shape == (PLACES, 3, 8, 8)


def test_what_cannot_be_noised_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one schedule"):
        noising(X0, {})
    with pytest.raises(ValueError, match="one picture"):
        noising(X0[None], SCHEDULES)


def test_menu_and_slider_choose_the_page_in_the_browser(monkeypatch: pytest.MonkeyPatch) -> None:
    import ipywidgets as widgets

    linked: list[tuple[tuple[object, str], tuple[object, str]]] = []
    monkeypatch.setattr(widgets, "jslink", lambda source, target: linked.append((source, target)))
    shown = toy()
    controls, view = shown.widget().children
    menu, slider = controls.children
    assert isinstance(slider, widgets.SelectionSlider) and isinstance(menu, widgets.Dropdown)
    assert menu.options == tuple(SCHEDULES)
    assert len(slider.options) == PLACES and slider.options[1] == "50"
    for stack in view.children:
        assert ((slider, "index"), (stack, "selected_index")) in linked
        assert stack.selected_index == slider.index
    assert ((menu, "index"), (view, "selected_index")) in linked
    for track, stack in enumerate(view.children):
        assert [page.value for page in stack.children] == [shown.page(track, place) for place in range(PLACES)]
    assert len({page.value for stack in view.children for page in stack.children}) == PLACES * len(SCHEDULES)


def test_every_picture_has_words() -> None:
    page = toy().page(0, 10)
    images = re.findall(r"<img [^>]*>", page)
    assert [re.findall(r'alt="([^"]+)"', image) for image in images] == [["picture x_0"], ["sample x_t at t = 500"]]
    assert 'role="img" aria-label="Left: alpha' in page


def test_the_words_give_the_level() -> None:
    shown = toy()
    assert shown.words(0, PLACES - 1) == (
        "scaled_linear, t = 999: alpha = 0.068, alpha squared = 0.00466, sigma = 0.998; signal-to-noise ratio 0.0047."
    )
    assert shown.words(2, PLACES - 1).endswith("sigma = 1.000; signal-to-noise ratio 0 (no signal is left).")


def test_the_curves_mark_the_level() -> None:
    tracks = toy().tracks
    curves = [track.curve for track in tracks]
    marks = [
        re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', level_svg(curves, 1, level)) for level in tracks[1].levels
    ]
    alpha, sigma, snr = ([(float(x), float(y)) for x, y in column] for column in zip(*marks, strict=True))
    for curve, falls in ((alpha, True), (sigma, False), (snr, True)):
        assert [x for x, _ in curve] == sorted({x for x, _ in curve})
        assert [y for _, y in curve] == sorted((y for _, y in curve), reverse=not falls)  # up is less in SVG
    assert level_svg(curves, 1, tracks[1].levels[0]).count("<polyline") == 2 + len(curves)


def test_a_title_is_text() -> None:
    assert "&lt;script&gt;" in toy("<script>").widget().children[0].value


def test_a_saved_page_shows_the_table_instead() -> None:
    data, _ = toy()._repr_mimebundle_()
    assert set(data) == {WIDGET, "text/html", "image/jpeg", "text/plain"}
    assert "a row a schedule (scaled_linear, cosine, flow)" in data["text/html"]
    assert data["text/plain"] == "[noising with scaled_linear, cosine, flow]"


def test_without_ipywidgets_the_table_is_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["ldm_edu.viz.noising"], "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    data, _ = toy()._repr_mimebundle_()
    assert set(data) == {"text/html", "image/jpeg", "text/plain"}
