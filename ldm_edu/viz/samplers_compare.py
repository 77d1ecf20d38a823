"""Samplers side by side: one slider over the number of evaluations, a picture of each sampler.

As in the explorer, every position of the slider is a small page of HTML made once; the browser chooses which is shown.
"""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ldm_edu.extras import need
from ldm_edu.viz.figures import as_array, matrix
from ldm_edu.viz.style import RULE, Drawing

SIDE = 148  # of a picture on the page, in pixels


def compare_samplers(
    pictures: Mapping[str, Mapping[int, Tensor]], budgets: Sequence[int], *, title: str = ""
) -> "SamplersCompared":
    """Look at what each sampler draws with a number of evaluations: the last line of a notebook's cell.

    Parameters
    ----------
    pictures : sampler -> number of evaluations -> picture (3, H, W) in [-1, 1].
    budgets : the positions of the slider, rising; a sampler shows its run of the most evaluations that fit in one.

    Raises
    ------
    ValueError
        if there is nothing to show, the budgets do not rise, or a sampler has no run within the smallest one.
    """
    if not pictures or not budgets or sorted(set(budgets)) != list(budgets):
        raise ValueError("give at least one sampler, and budgets that rise, such as [5, 10, 20]")
    for name, runs in pictures.items():
        if not runs or min(runs) > budgets[0]:
            raise ValueError(f"{name} has no run of at most {budgets[0]} evaluations; start the budgets higher")
    frozen = {name: dict(runs) for name, runs in pictures.items()}
    return SamplersCompared(frozen, tuple(budgets), title)


@dataclass(frozen=True, eq=False)
class SamplersCompared:
    """What `compare_samplers` returns: a slider where widgets run, a table of all pictures elsewhere."""

    pictures: Mapping[str, Mapping[int, Tensor]]
    budgets: tuple[int, ...]
    title: str = ""

    def used(self, name: str, budget: int) -> int:
        """The evaluations of the run that a sampler shows for a budget."""
        return max(count for count in self.pictures[name] if count <= budget)

    @cached_property
    def table(self) -> Drawing:
        """All pictures, a row a sampler and a column a budget."""
        shown = [self.pictures[name][self.used(name, budget)] for name in self.pictures for budget in self.budgets]
        columns = [f"at most {budget}" for budget in self.budgets]
        names = list(self.pictures)
        words = f"Pictures of {', '.join(names)} (rows) with at most {', '.join(map(str, self.budgets))} evaluations."
        return matrix(torch.stack(shown), names, columns, alt=words)

    def page(self, place: int) -> str:
        """The HTML of one position of the slider: the pictures of all samplers, and what each has used."""
        budget = self.budgets[place]
        figures = "".join(self._figure(name, self.used(name, budget)) for name in self.pictures)
        return (
            f'<p style="margin: 2px">At most {budget} evaluations.</p>'
            f'<div style="display: flex; flex-wrap: wrap; gap: 10px">{figures}</div>'
        )

    def _figure(self, name: str, count: int) -> str:
        file = io.BytesIO()
        Image.fromarray(as_array(self.pictures[name][count])).save(file, "PNG")
        data, label = base64.b64encode(file.getvalue()).decode(), html.escape(name)
        return (
            f'<figure style="margin: 2px"><img src="data:image/png;base64,{data}" decoding="sync" '
            f'alt="{label} with {count} evaluations" width="{SIDE}" height="{SIDE}" '
            f'style="border: 1px solid {RULE}; border-radius: 4px">'
            f'<figcaption style="text-align: center; line-height: 1.4">{label}<br>{count} evaluations</figcaption>'
            "</figure>"
        )

    def widget(self) -> Any:
        """A slider over the budgets that the arrow keys move, and the pictures."""
        widgets = need("ipywidgets")

        last = len(self.budgets) - 1
        slider = widgets.SelectionSlider(
            options=[(str(budget), place) for place, budget in enumerate(self.budgets)],
            value=last,
            description="evaluations",
            style={"description_width": "initial"},
            layout=widgets.Layout(width="420px"),
            tooltip="Drag, or use the arrow keys; Home and End jump.",
        )
        view = widgets.Stack([widgets.HTML(self.page(i)) for i in range(last + 1)], selected_index=last)
        widgets.jslink((slider, "index"), (view, "selected_index"))
        heading = [widgets.HTML(f"<b>{html.escape(self.title)}</b>")] if self.title else []
        return widgets.VBox([*heading, slider, view])

    def __repr__(self) -> str:
        return f"[{len(self.pictures)} samplers side by side{': ' + self.title if self.title else ''}]"

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> tuple[dict, dict]:
        data, metadata = self.table._repr_mimebundle_()
        if find_spec("ipywidgets") is not None:  # a front end without widgets takes the next kind: the table
            data = {**data, **self.widget()._repr_mimebundle_(), "text/plain": repr(self)}
        return data, metadata
