"""The explorer: decoded once, moved by a slider, a film strip where no slider can be."""

import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from ldm_edu.config import ScheduleConfig
from ldm_edu.samplers.step import Step
from ldm_edu.schedule import levels, make_schedule
from ldm_edu.viz import explore
from ldm_edu.viz.curve import curve_svg

COUNT = 5
WIDGET = "application/vnd.jupyter.widget-view+json"


def run() -> Iterator[Step]:
    stops = levels(make_schedule(ScheduleConfig()), COUNT)
    for i in range(COUNT):
        x = torch.full((2, 4, 4, 4), float(i))
        yield Step(i, x, -x, stops[i + 1])


class Decoder:
    """Counts what it decodes; a latent of value v becomes a grey picture of brightness v / 10."""

    def __init__(self) -> None:
        self.decoded = 0

    def __call__(self, latents: Tensor) -> Tensor:
        self.decoded += len(latents)
        return latents[:, :3].repeat_interleave(4, -1).repeat_interleave(4, -2) / 10


def test_a_run_is_decoded_once() -> None:
    decode = Decoder()
    explorer = explore(run(), decode)
    explorer.widget()
    explorer.widget()
    assert decode.decoded == 2 * COUNT  # x and x0 of one picture, for two widgets


def test_every_view_has_a_frame_a_step() -> None:
    explorer = explore(run(), Decoder(), picture=1)
    assert len(explorer.views) == 4
    assert [len(view.frames) for view in explorer.views] == [COUNT] * 4
    frame = Image.open(io.BytesIO(explorer.views[2].png(1)))
    assert frame.getpixel((0, 0)) == (140,) * 3
    decoded = explorer.views[2].frames
    assert [int(frame[0, 0, 0]) for frame in decoded] == [128, 140, 153, 166, 178]  # (v / 10 + 1) * 127.5


def test_pixels_need_no_decoder() -> None:
    steps = [Step(s.index, s.x[:, :3], s.x0[:, :3], s.level) for s in run()]
    assert [view.caption for view in explore(steps).views] == ["sample x_t", "estimate of x0"]


def test_what_cannot_be_explored_is_refused() -> None:
    with pytest.raises(ValueError, match="no step"):
        explore(iter(()))
    with pytest.raises(ValueError, match="no picture 2"):
        explore(run(), Decoder(), picture=2)


def test_the_slider_shows_the_page_of_its_step(monkeypatch: pytest.MonkeyPatch) -> None:
    import ipywidgets as widgets

    linked: list[tuple[object, object]] = []
    monkeypatch.setattr(widgets, "jslink", lambda source, target: linked.append((source, target)))
    *_, controls, view = explore(run(), Decoder()).widget().children
    play, slider = controls.children
    assert isinstance(slider, widgets.IntSlider) and slider.description == "step"
    assert (slider.min, slider.value, slider.max) == (1, COUNT, COUNT)  # it starts at the picture
    assert view.selected_index == slider.value
    assert linked == [((play, "value"), (slider, "value")), ((slider, "value"), (view, "selected_index"))]
    for step in range(1, COUNT + 1):
        assert f"After step {step} of {COUNT}" in view.children[step].value
    assert len({page.value for page in view.children}) == COUNT + 1


def test_every_picture_has_words() -> None:
    page = explore(run(), Decoder()).page(1)
    images = re.findall(r"<img [^>]*>", page)
    assert len(images) == 4
    assert all(re.search(r'alt="[^"]+, after step 2"', image) for image in images)
    assert 'role="img" aria-label="Alpha' in page


def test_the_words_know_the_end() -> None:
    explorer = explore(run(), Decoder())
    assert "sigma = 0.000; no noise is left" in explorer.words(COUNT - 1)
    assert re.search(r"t = 799, alpha = 0\.\d+, sigma = 0\.\d+; signal-to-noise ratio", explorer.words(0))


def test_the_words_tell_the_guidance_if_there_was_one() -> None:
    assert explore(run(), Decoder(), guidance=5.0).words(0).endswith("Guidance scale 5.")
    assert "Guidance" not in explore(run(), Decoder()).words(0)


def test_a_title_is_text() -> None:
    box = explore(run(), Decoder(), title="<script>").widget()
    assert "&lt;script&gt;" in box.children[0].value


def test_a_saved_page_shows_the_film_strip_instead() -> None:
    data, _ = explore(run(), Decoder())._repr_mimebundle_()
    assert set(data) == {WIDGET, "text/html", "image/jpeg", "text/plain"}
    assert "Film strip of 5 of 5" in data["text/html"]
    assert data["text/plain"] == "[explorer of a run of 5 steps]"


def test_without_ipywidgets_the_film_strip_is_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["ldm_edu.viz.explore"], "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    data, _ = explore(run(), Decoder())._repr_mimebundle_()
    assert set(data) == {"text/html", "image/jpeg", "text/plain"}


def test_a_gif_has_a_frame_a_step(tmp_path: Path) -> None:
    explore(run(), Decoder()).save_gif(tmp_path / "film.gif")
    film = Image.open(tmp_path / "film.gif")
    assert film.n_frames == COUNT
    wide, high = film.size
    assert wide > high  # the sample beside the estimate


def test_the_curve_marks_the_step() -> None:
    stops = [step.level for step in run()]
    marks = [float(re.findall(r'<circle cx="([\d.]+)"', curve_svg(stops, i))[0]) for i in range(COUNT)]
    assert marks == sorted(set(marks))
    heights = [float(re.findall(r'<circle cx="[\d.]+" cy="([\d.]+)"', curve_svg(stops, i))[0]) for i in range(COUNT)]
    assert heights == sorted(heights, reverse=True)  # alpha grows, and up is less in SVG
    assert curve_svg(stops[:1], 0).count("<circle") == 2
