"""Samplers side by side: which run is shown for a budget, the widget, and what stands where widgets cannot run."""

import pytest
import torch

from ldm_edu.viz.samplers_compare import compare_samplers

PICTURES = {
    "ddim": {4: torch.zeros(3, 8, 8), 10: torch.ones(3, 8, 8)},
    "heun": {3: torch.zeros(3, 8, 8), 9: -torch.ones(3, 8, 8)},
}


def test_the_largest_run_that_fits_is_shown() -> None:
    shown = compare_samplers(PICTURES, [4, 9, 10])
    assert [shown.used("ddim", n) for n in shown.budgets] == [4, 4, 10]
    assert [shown.used("heun", n) for n in shown.budgets] == [3, 9, 9]


def test_the_slider_has_a_page_for_every_budget() -> None:
    shown = compare_samplers(PICTURES, [4, 10], title="a < b")
    heading, slider, view = shown.widget().children
    assert "a &lt; b" in heading.value and len(slider.options) == len(view.children) == 2
    assert "heun with 9 evaluations" in view.children[1].value and "At most 10" in view.children[1].value


def test_without_widgets_there_is_the_table() -> None:
    data, _ = compare_samplers(PICTURES, [4, 10])._repr_mimebundle_()
    assert "Pictures of ddim, heun" in data["text/html"] and "image/jpeg" in data


@pytest.mark.parametrize("budgets", [[], [10, 4], [2, 10]])
def test_budgets_that_do_not_fit_are_refused(budgets: list[int]) -> None:
    with pytest.raises(ValueError):
        compare_samplers(PICTURES, budgets)
