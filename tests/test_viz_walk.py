"""The walk: a page a picture, moved by a slider, a film strip where no slider can be."""

import re
import sys

import pytest
import torch

from ldm_edu.viz.walk import Walk, walk

COUNT = 9
WIDGET = "application/vnd.jupyter.widget-view+json"


def example(title: str = "") -> Walk:
    frames = torch.linspace(-1, 1, COUNT).view(COUNT, 1, 1, 1).expand(COUNT, 3, 8, 8)
    return walk(frames, [f"part {i} <of> 8" for i in range(COUNT)], title=title)


def test_the_slider_shows_the_page_of_its_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    import ipywidgets as widgets

    linked: list[tuple[object, object]] = []
    monkeypatch.setattr(widgets, "jslink", lambda source, target: linked.append((source, target)))
    controls, view = example().widget().children
    play, slider = controls.children
    assert (slider.min, slider.value, slider.max) == (1, 1, COUNT)
    assert view.selected_index == slider.value
    assert linked == [((play, "value"), (slider, "value")), ((slider, "value"), (view, "selected_index"))]
    assert len({page.value for page in view.children}) == COUNT + 1


def test_every_picture_has_its_words() -> None:
    page = example().page(3)
    assert re.findall(r'alt="([^"]*)"', page) == ["part 3 &lt;of&gt; 8"]


def test_a_title_is_text() -> None:
    assert "&lt;b&gt;" in example(title="<b>").widget().children[0].value


def test_a_saved_page_shows_the_strip() -> None:
    data, _ = example()._repr_mimebundle_()
    assert set(data) == {WIDGET, "text/html", "image/jpeg", "text/plain"}
    assert "a strip of 7 of 9 pictures" in data["text/html"]


def test_without_ipywidgets_the_strip_is_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["ldm_edu.viz.walk"], "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    data, _ = example()._repr_mimebundle_()
    assert set(data) == {"text/html", "image/jpeg", "text/plain"}


def test_what_cannot_be_walked_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        walk(torch.zeros(0, 3, 4, 4), [])
    with pytest.raises(ValueError, match="1 labels for 2"):
        walk(torch.zeros(2, 3, 4, 4), ["a"])
