"""Heat maps over pictures: the highest value is the brightest, the words are said, the widget holds every step."""

import pytest
import torch

from ldm_edu.viz.attention import _laid, explore_words, heat_strip

WORDS = ["red", "apple"]


def data(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.rand(rows, 3, 16, 16) * 2 - 1, torch.rand(rows, 2, 4, 4).softmax(dim=1)


def test_the_strip_says_each_word_and_its_share() -> None:
    images, heat = data(2)
    strip = heat_strip(images, heat, WORDS, ["early", "late"])
    assert f"apple {100 * float(heat[:, 1].mean()):.0f} %" in strip.alt
    assert strip.png.startswith(b"\x89PNG")


def test_the_most_attended_place_is_the_lightest() -> None:
    heat = torch.zeros(1, 1, 4, 4)
    heat[0, 0, 1, 2] = 0.5
    laid = _laid(torch.zeros(1, 3, 4, 4), heat)[0][0].sum(-1)
    assert divmod(int(laid.argmax()), 4) == (1, 2)


def test_numbers_that_do_not_agree_are_refused() -> None:
    images, heat = data(2)
    with pytest.raises(ValueError, match="3 words for 2 maps"):
        heat_strip(images, heat, ["a", "b", "c"])
    with pytest.raises(ValueError, match="1 headings"):
        heat_strip(images, heat, WORDS, ["one"])


def test_the_explorer_holds_every_step_and_a_static_form() -> None:
    pytest.importorskip("ipywidgets")
    found = explore_words(*data(6), WORDS, title="an apple")
    assert len(found.widget().children[-1].children) == 7
    shown, _ = found._repr_mimebundle_()
    assert "text/html" in shown
    assert shown["text/plain"] == "[attention of 2 words over 6 steps: an apple]"
