"""The gallery: pictures drawn beforehand, one group on show at a time, chosen with a slider or a menu.

Every group becomes a small page of HTML that is sent to the browser once; the browser alone turns the pages, so it is
quick however slow the drawing was. Where no widget runs, all groups stand side by side in one table.
"""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from ldm_edu.extras import need
from ldm_edu.viz.figures import as_array, matrix
from ldm_edu.viz.style import RULE, Drawing

Control = Literal["slider", "menu"]

SIDE = 128  # of a picture on the page, in pixels


def gallery(
    frames_by_label: Mapping[str, Tensor],
    captions: Sequence[str],
    *,
    name: str = "choice",
    control: Control = "slider",
    start: int = 0,
    title: str = "",
    alt: str = "",
) -> "Gallery":
    """Choose among groups of pictures drawn beforehand: the last line of a notebook's cell.

    Parameters
    ----------
    frames_by_label : for each label of the control, in its order, pictures (N, 3, H, W) in [-1, 1]; values outside are
        clipped.
    captions : (N,) what stays the same from group to group: a prompt or a seed for each picture.
    name : of that which is chosen, beside the control.
    control : a slider for labels with an order, a menu for others.
    start : which label is shown first.
    alt : words for the table that is shown where no widget runs; left out: its rows and columns.

    Raises
    ------
    ValueError
        if there is no group, the number of pictures in one is not that of the captions, or a choice does not exist.
    """
    if not frames_by_label or not captions:
        raise ValueError("a gallery needs at least one label, and at least one caption")
    for label, images in frames_by_label.items():
        if images.ndim != 4 or len(images) != len(captions):
            raise ValueError(
                f"{label!r} has pictures of shape {tuple(images.shape)}; give {len(captions)}, one a caption: "
                f"({len(captions)}, 3, H, W)"
            )
    if control not in ("slider", "menu"):
        raise ValueError(f"no control {control!r}: use 'slider' or 'menu'")
    if start not in range(len(frames_by_label)):
        raise ValueError(f"start={start} is no place among {len(frames_by_label)} labels; they count from 0")
    frames = tuple(images.detach().float().cpu() for images in frames_by_label.values())
    return Gallery(tuple(frames_by_label), frames, tuple(captions), name, control, start, title, alt)


@dataclass(frozen=True, eq=False)
class Gallery:
    """What `gallery` returns: shows itself in Jupyter, with a control where widgets run and as a table elsewhere."""

    labels: tuple[str, ...]
    frames: tuple[Tensor, ...]  # (N, 3, H, W) for each label
    captions: tuple[str, ...]
    name: str
    control: Control
    start: int
    title: str = ""
    alt: str = ""

    @cached_property
    def table(self) -> Drawing:
        """All groups at once: a row a caption, a column a label."""
        images = torch.stack(self.frames, dim=1).flatten(0, 1)  # (N, labels, 3, H, W) -> (N * labels, 3, H, W)
        return matrix(images, rows=self.captions, columns=self.labels, alt=self.alt)

    def page(self, place: int) -> str:
        """The HTML of one group: its pictures with their captions, and words for those who do not see them."""
        figures = "".join(self._figure(place, i) for i in range(len(self.captions)))
        return f'<div style="display: flex; flex-wrap: wrap; gap: 10px">{figures}</div>'

    def widget(self) -> Any:
        """The gallery as an ipywidgets box: the control, which the arrow keys move, above the pictures."""
        widgets = need("ipywidgets")

        kind = widgets.SelectionSlider if self.control == "slider" else widgets.Dropdown
        chooser = kind(
            options=self.labels,
            index=self.start,
            description=self.name,
            tooltip="Click, or go there with Tab; then use the arrow keys.",
            layout=widgets.Layout(width="420px"),
            style={"description_width": "initial"},
        )
        view = widgets.Stack([widgets.HTML(self.page(i)) for i in range(len(self.labels))], selected_index=self.start)
        widgets.jslink((chooser, "index"), (view, "selected_index"))
        heading = [widgets.HTML(f"<b>{html.escape(self.title)}</b>")] if self.title else []
        return widgets.VBox([*heading, chooser, view])

    def __repr__(self) -> str:
        return f"[gallery of {len(self.captions)} pictures for each of {len(self.labels)} labels]"

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> tuple[dict, dict]:
        data, metadata = self.table._repr_mimebundle_()
        if find_spec("ipywidgets") is not None:  # a front end without widgets takes the next kind: the table
            data = {**data, **self.widget()._repr_mimebundle_(), "text/plain": repr(self)}
        return data, metadata

    def _figure(self, place: int, picture: int) -> str:
        file = io.BytesIO()
        Image.fromarray(as_array(self.frames[place][picture])).save(file, "PNG")
        data = base64.b64encode(file.getvalue()).decode()
        caption = html.escape(self.captions[picture], quote=True)
        words = html.escape(f"{self.captions[picture]}, {self.name} {self.labels[place]}", quote=True)
        return (
            f'<figure style="margin: 2px; width: {SIDE}px"><img src="data:image/png;base64,{data}" decoding="sync" '
            f'alt="{words}" width="{SIDE}" height="{SIDE}" style="border: 1px solid {RULE}; border-radius: 4px">'
            f'<figcaption style="text-align: center; line-height: 1.3">{caption}</figcaption></figure>'
        )
