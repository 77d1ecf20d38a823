"""Runs side by side: the slider, the pages, what stands where widgets cannot run, and what is refused."""

import sys

import pytest
import torch

from ldm_edu.config import ScheduleConfig
from ldm_edu.samplers.step import Step
from ldm_edu.schedule import levels, make_schedule
from ldm_edu.viz import Explorer, compare, explore

COUNT = 3


def run(title: str, count: int = COUNT) -> Explorer:
    stops = levels(make_schedule(ScheduleConfig()), count)
    steps = [Step(i, torch.full((1, 3, 8, 8), i / 10), torch.zeros(1, 3, 8, 8), stops[i + 1]) for i in range(count)]
    return explore(steps, title=title)


def test_one_slider_moves_every_run(monkeypatch: pytest.MonkeyPatch) -> None:
    import ipywidgets as widgets

    linked: list[tuple[object, object]] = []
    monkeypatch.setattr(widgets, "jslink", lambda source, target: linked.append((source, target)))
    controls, view = compare(run("pixels"), run("a < b")).widget().children
    play, slider = controls.children
    assert (slider.min, slider.value, slider.max) == (1, COUNT, COUNT)
    assert linked == [((play, "value"), (slider, "value")), ((slider, "value"), (view, "selected_index"))]
    assert len(view.children) == COUNT + 1 and view.selected_index == COUNT
    for step in range(1, COUNT + 1):
        page = view.children[step].value
        assert page.count(f"After step {step} of {COUNT}") == 2
        assert "pixels" in page and "a &lt; b" in page


def test_without_widgets_there_are_the_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["ldm_edu.viz.compare"], "find_spec", lambda name: None)
    data, _ = compare(run("pixels"), run("latents"))._repr_mimebundle_()
    assert set(data) == {"text/html", "image/jpeg", "text/plain"}
    assert "Runs side by side: pixels and latents" in data["text/html"]


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match="at least two"):
        compare(run("pixels"))
    with pytest.raises(ValueError, match="no common slider"):
        compare(run("pixels"), run("latents", COUNT + 1))
    with pytest.raises(ValueError, match="title"):
        compare(run("pixels"), run(""))
