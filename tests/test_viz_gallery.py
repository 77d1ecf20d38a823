"""The gallery: pages made once, a control that turns them, a table where no control can be."""

import re
import sys

import pytest
import torch

from ldm_edu.viz import gallery
from ldm_edu.viz.gallery import Gallery

WIDGET = "application/vnd.jupyter.widget-view+json"
CAPTIONS = ["a cat", "a <dog>"]
LABELS = ["1", "3", "8"]


def made(**options: object) -> Gallery:
    frames = {label: torch.full((2, 3, 8, 8), float(label) / 10) for label in LABELS}
    return gallery(frames, CAPTIONS, name="guidance", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("control", "kind"), [("slider", "SelectionSlider"), ("menu", "Dropdown")])
def test_the_control_turns_the_pages_in_the_browser(monkeypatch: pytest.MonkeyPatch, control: str, kind: str) -> None:
    import ipywidgets as widgets

    linked: list[tuple[object, object]] = []
    monkeypatch.setattr(widgets, "jslink", lambda source, target: linked.append((source, target)))
    chooser, view = made(control=control, start=1).widget().children
    assert type(chooser).__name__ == kind
    assert (tuple(chooser.options), chooser.index, chooser.value) == (tuple(LABELS), 1, "3")
    assert chooser.description == "guidance" and "arrow keys" in chooser.tooltip
    assert view.selected_index == 1
    assert linked == [((chooser, "index"), (view, "selected_index"))]
    assert len({page.value for page in view.children}) == len(LABELS)


def test_every_picture_has_words() -> None:
    for place, label in enumerate(LABELS):
        alts = re.findall(r'<img [^>]*alt="([^"]*)"', made().page(place))
        assert alts == [f"a cat, guidance {label}", f"a &lt;dog&gt;, guidance {label}"]


def test_a_saved_page_shows_the_table_instead() -> None:
    data, _ = made()._repr_mimebundle_()
    assert set(data) == {WIDGET, "text/html", "image/jpeg", "text/plain"}
    assert "Rows: a cat, a &lt;dog&gt;. Columns: 1, 3, 8." in data["text/html"]
    assert data["text/plain"] == "[gallery of 2 pictures for each of 3 labels]"


def test_the_table_has_a_row_a_caption(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    module = sys.modules["ldm_edu.viz.gallery"]
    monkeypatch.setattr(module, "matrix", lambda images, rows, columns, alt: seen.append(images))
    frames = {"x": torch.tensor([0.1, 0.2]), "y": torch.tensor([0.3, 0.4])}
    _ = gallery({k: v.view(2, 1, 1, 1).expand(2, 3, 4, 4) for k, v in frames.items()}, CAPTIONS).table
    torch.testing.assert_close(seen[0][:, 0, 0, 0], torch.tensor([0.1, 0.3, 0.2, 0.4]))


def test_without_ipywidgets_the_table_is_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["ldm_edu.viz.gallery"], "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    data, _ = made(alt="Some <words>")._repr_mimebundle_()
    assert set(data) == {"text/html", "image/jpeg", "text/plain"}
    assert 'alt="Some &lt;words&gt;"' in data["text/html"]


def test_a_title_is_text() -> None:
    assert "&lt;b&gt;" in made(title="<b>").widget().children[0].value


def test_what_is_no_gallery() -> None:
    one = torch.zeros(1, 3, 8, 8)
    with pytest.raises(ValueError, match="at least one label"):
        gallery({}, CAPTIONS)
    with pytest.raises(ValueError, match="at least one caption"):
        gallery({"1": one}, [])
    with pytest.raises(ValueError, match="one a caption"):
        gallery({"1": one}, CAPTIONS)
    with pytest.raises(ValueError, match="no control 'dial'"):
        gallery({"1": one}, ["a"], control="dial")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="start=1"):
        gallery({"1": one}, ["a"], start=1)
