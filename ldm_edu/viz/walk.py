"""A walk: pictures in a row, one at a time under a slider, such as the way from one latent to another, decoded.

The pictures are rendered once, when the walk is made; the browser alone decides which one is shown.
"""

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from typing import Any

from PIL import Image
from torch import Tensor

from ldm_edu.extras import need
from ldm_edu.viz.figures import as_array, sheet, spread
from ldm_edu.viz.style import RULE, Drawing

SIDE = 224  # of the picture on the page, in pixels
COLUMNS = 7  # pictures of the strip


def walk(frames: Tensor, labels: Sequence[str], *, title: str = "") -> "Walk":
    """Look at pictures one after the other: the last line of a notebook's cell.

    Parameters
    ----------
    frames : (N, 3, H, W) in [-1, 1].
    labels : one a picture; it is shown below it and read out in its place.

    Raises
    ------
    ValueError
        if there is no picture, or another number of labels.
    """
    if not len(frames):
        raise ValueError("a walk needs at least one picture")
    if len(labels) != len(frames):
        raise ValueError(f"{len(labels)} labels for {len(frames)} pictures; give one each")
    return Walk(frames.detach().float().cpu(), tuple(labels), title)


@dataclass(frozen=True, eq=False)
class Walk:
    """What `walk` returns: shows itself in Jupyter, as a slider where widgets run and as a film strip elsewhere."""

    frames: Tensor  # (N, 3, H, W)
    labels: tuple[str, ...]
    title: str = ""

    @cached_property
    def film(self) -> Drawing:
        """Some of the pictures as a static strip, the first and the last among them."""
        shown = spread(len(self.frames), COLUMNS)
        labels = [self.labels[i] for i in shown]
        words = (
            f"{self.title or 'A walk'}: a strip of {len(shown)} of {len(self.frames)} pictures. {'; '.join(labels)}."
        )
        return sheet(self.frames[shown], labels, columns=COLUMNS, alt=words)

    def page(self, place: int) -> str:
        """The HTML of one picture with its label."""
        file = io.BytesIO()
        Image.fromarray(as_array(self.frames[place])).save(file, "PNG")
        data = base64.b64encode(file.getvalue()).decode()
        label = html.escape(self.labels[place], quote=True)
        return (
            f'<figure style="margin: 2px"><img src="data:image/png;base64,{data}" decoding="sync" alt="{label}" '
            f'width="{SIDE}" height="{SIDE}" style="border: 1px solid {RULE}; border-radius: 4px">'
            f'<figcaption style="line-height: 1.4">{label}</figcaption></figure>'
        )

    def widget(self) -> Any:
        """The walk as an ipywidgets box: play, and a slider that the arrow keys move."""
        widgets = need("ipywidgets")

        last = len(self.frames)
        slider = widgets.IntSlider(
            value=1,
            min=1,
            max=last,
            description="picture",
            layout=widgets.Layout(width="420px"),
            tooltip="Drag, or use the arrow keys; Home and End jump.",
        )
        play = widgets.Play(value=1, min=1, max=last, interval=250, tooltip="Play the walk")
        widgets.jslink((play, "value"), (slider, "value"))
        # Page 0 is never shown: pictures are counted from 1.
        pages = [widgets.HTML(), *(widgets.HTML(self.page(place)) for place in range(last))]
        view = widgets.Stack(pages, selected_index=1)
        widgets.jslink((slider, "value"), (view, "selected_index"))
        heading = [widgets.HTML(f"<b>{html.escape(self.title)}</b>")] if self.title else []
        return widgets.VBox([*heading, widgets.HBox([play, slider]), view])

    def __repr__(self) -> str:
        return f"[walk of {len(self.frames)} pictures{': ' + self.title if self.title else ''}]"

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> tuple[dict, dict]:
        data, metadata = self.film._repr_mimebundle_()
        if find_spec("ipywidgets") is not None:  # a front end without widgets takes the next kind: the strip
            data = {**data, **self.widget()._repr_mimebundle_(), "text/plain": repr(self)}
        return data, metadata
