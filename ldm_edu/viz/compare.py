"""Runs side by side: two or more trajectories, one slider.

As in the explorer, every step is a small page of HTML made once; the browser chooses which is shown.
"""

import html
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from typing import Any

from matplotlib.figure import Figure

from ldm_edu.extras import need
from ldm_edu.viz.explore import Explorer
from ldm_edu.viz.figures import grid, show, spread
from ldm_edu.viz.style import INK, Drawing, drawing, look

COLUMNS = 8  # steps of the static figure
LEFT, CELL = 1.6, 1.05  # its width for words and the side of a picture, in inches


def compare(*explorers: Explorer) -> "Compared":
    """Look at runs step by step, one below the other: the last line of a notebook's cell.

    Parameters
    ----------
    explorers : what `explore` returned, two or more, with a title each; all with the same number of steps.

    Raises
    ------
    ValueError
        if there are fewer than two, their lengths differ, or one has no title.
    """
    if len(explorers) < 2:
        raise ValueError("give at least two explorers; one alone shows itself")
    lengths = [len(explorer.steps) for explorer in explorers]
    if len(set(lengths)) > 1:
        raise ValueError(f"runs of {lengths} steps have no common slider; take the same number of steps in each")
    if not all(explorer.title for explorer in explorers):
        raise ValueError("give every explorer a title, or nobody can tell the runs apart")
    return Compared(explorers)


@dataclass(frozen=True, eq=False)
class Compared:
    """What `compare` returns: one slider where widgets run, a strip a run elsewhere."""

    explorers: tuple[Explorer, ...]

    @cached_property
    def strips(self) -> Drawing:
        """The pictures of every run, a column a step: samples and estimates."""
        rows = [(each.title, view) for each in self.explorers for view in each.views if view.smooth]
        shown = spread(len(self.explorers[0].steps), COLUMNS)
        with look():
            figure = Figure(figsize=(LEFT + len(shown) * (CELL + 0.05) + 0.1, 0.35 + len(rows) * (CELL + 0.05) + 0.08))
            place = grid(figure, len(rows), len(shown), CELL, CELL, gap=(0.05, 0.05), margin=(LEFT, 0.35))
            for r, (title, view) in enumerate(rows):
                for c, step in enumerate(shown):
                    axes = place(r, c)
                    show(axes, view.frames[step])
                    if r == 0:
                        axes.set_title(f"step {step + 1}", loc="center", fontsize=9, fontweight="normal", pad=4)
                    if c == 0:
                        words = f"{title}:\n" + view.caption.replace(", ", ",\n")
                        axes.set_ylabel(words, rotation=0, ha="right", va="center", labelpad=7, color=INK)
            titles = " and ".join(each.title for each in self.explorers)
            alt = (
                f"Runs side by side: {titles}. For each the sample and the estimate of the clean picture, step by step."
            )
            return drawing(figure, alt)

    def page(self, place: int) -> str:
        """The HTML of one step: the page of every run, under its title."""
        return "".join(
            f'<p style="margin: 6px 2px 2px"><b>{html.escape(each.title)}</b></p>{each.page(place)}'
            for each in self.explorers
        )

    def widget(self) -> Any:
        """Play, a slider that the arrow keys move, and the runs."""
        widgets = need("ipywidgets")

        last = len(self.explorers[0].steps)
        slider = widgets.IntSlider(
            value=last,
            min=1,
            max=last,
            description="step",
            continuous_update=True,
            layout=widgets.Layout(width="420px"),
            tooltip="Drag, or use the arrow keys; Home and End jump.",
        )
        play = widgets.Play(value=last, min=1, max=last, interval=250, tooltip="Play the runs")
        widgets.jslink((play, "value"), (slider, "value"))
        # page 0 is never shown: steps are counted from 1
        pages = [widgets.HTML(), *(widgets.HTML(self.page(place)) for place in range(last))]
        view = widgets.Stack(pages, selected_index=last)
        widgets.jslink((slider, "value"), (view, "selected_index"))
        return widgets.VBox([widgets.HBox([play, slider]), view])

    def __repr__(self) -> str:
        return f"[runs side by side: {', '.join(each.title for each in self.explorers)}]"

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> tuple[dict, dict]:
        data, metadata = self.strips._repr_mimebundle_()
        if find_spec("ipywidgets") is not None:  # a front end without widgets takes the next kind: the strips
            data = {**data, **self.widget()._repr_mimebundle_(), "text/plain": repr(self)}
        return data, metadata
