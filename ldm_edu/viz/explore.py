"""The trajectory explorer: scrub through a run, and see what the sampler saw.

A run is decoded once, when the explorer is made. Every step becomes a small page of HTML with its pictures inside, sent
to the browser once; the slider only chooses which one is shown, so nothing is drawn anew, however busy the kernel is.
"""

import base64
import html
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ldm_edu.extras import need
from ldm_edu.pictures import save_gif
from ldm_edu.pictures import sheet as picture_sheet
from ldm_edu.samplers.step import Step
from ldm_edu.viz.curve import curve_svg
from ldm_edu.viz.figures import Decode, as_array, film_strip, latent_array
from ldm_edu.viz.style import RULE, Drawing

SIDE = 176  # of a picture on the page, in pixels
BATCH = 8  # latents decoded at once


@torch.no_grad()
def explore(
    steps: Iterable[Step],
    decode: Decode | None = None,
    *,
    picture: int = 0,
    title: str = "",
    guidance: float | None = None,
) -> "Explorer":
    """Look at a run step by step: the last line of a notebook's cell.

    Parameters
    ----------
    steps : any run, also one that is still to be taken (a sampler's generator).
    decode : latents (B, C, h, w) to pictures (B, 3, H, W) in [-1, 1], as in ``model.decode``. None: pixels.
    picture : which one of the batch.
    guidance : the scale that the run was guided with, to be shown; a step does not know it.

    Raises
    ------
    ValueError
        if the run has no step, or the batch no such picture.
    """
    run = [Step(s.index, s.x[picture : picture + 1], s.x0[picture : picture + 1], s.level) for s in steps]
    if not run:
        raise ValueError("there is nothing to explore: the run has no step")
    if len(run[0].x) == 0:
        raise ValueError(f"the batch has no picture {picture}; the first is 0")
    return Explorer(tuple(run), _views(run, decode), decode, title, guidance)


@dataclass(frozen=True, eq=False)
class View:
    """One way to look at a run: a caption, and a frame (H, W, 3) of bytes for every step."""

    caption: str
    frames: tuple[np.ndarray, ...]
    smooth: bool  # enlarge smoothly; latents stay squares

    def png(self, place: int) -> bytes:
        """The frame of one step, small: the browser enlarges it."""
        file = io.BytesIO()
        Image.fromarray(self.frames[place]).save(file, "PNG")
        return file.getvalue()


@dataclass(frozen=True, eq=False)
class Explorer:
    """What `explore` returns: shows itself in Jupyter, as a slider where widgets run and as a film strip elsewhere."""

    steps: tuple[Step, ...]  # of one picture, (1, C, h, w)
    views: tuple[View, ...]
    decode: Decode | None
    title: str = ""
    guidance: float | None = None

    @cached_property
    def film(self) -> Drawing:
        """The run as a static film strip."""
        return film_strip(self.steps, self.decode)

    def save_gif(self, path: Path | str) -> None:
        """Write the pictures of all steps as a GIF, their views side by side.

        Raises
        ------
        SaveError
            if the disk refuses.
        """
        shown = [view for view in self.views if view.smooth]
        frames = []
        for i, step in enumerate(self.steps):
            pictures = [Image.fromarray(view.frames[i]) for view in shown]
            frames.append(picture_sheet(pictures, [f"{view.caption}, step {step.index + 1}" for view in shown]))
        save_gif(Path(path), frames)

    def words(self, place: int) -> str:
        """One step in a sentence: where it is, and how much noise is left."""
        step = self.steps[place]
        alpha, sigma = float(step.level.alpha), float(step.level.sigma)
        ratio = "no noise is left" if sigma == 0 else f"signal-to-noise ratio {(alpha / sigma) ** 2:.3g}"
        guided = "" if self.guidance is None else f" Guidance scale {self.guidance:g}."
        return (
            f"After step {place + 1} of {len(self.steps)}: t = {float(step.level.t):.0f}, "
            f"alpha = {alpha:.3f}, sigma = {sigma:.3f}; {ratio}.{guided}"
        )

    def page(self, place: int) -> str:
        """The HTML of one step: the sentence, the pictures with their words, the noise level on its curve."""
        figures = "".join(self._figure(view, place) for view in self.views)
        curve = curve_svg([step.level for step in self.steps], place)
        return (
            f'<p style="margin: 2px">{html.escape(self.words(place))}</p>'
            f'<div style="display: flex; flex-wrap: wrap; gap: 10px">{figures}</div>{curve}'
        )

    def _figure(self, view: View, place: int) -> str:
        data = base64.b64encode(view.png(place)).decode()
        caption = html.escape(view.caption)
        return (
            f'<figure style="margin: 2px"><img src="data:image/png;base64,{data}" decoding="sync" '
            f'alt="{caption}, after step {place + 1}" width="{SIDE}" height="{SIDE}" '
            f'style="border: 1px solid {RULE}; border-radius: 4px; '
            f'image-rendering: {"auto" if view.smooth else "pixelated"}">'
            f'<figcaption style="text-align: center; line-height: 1.4">{caption}</figcaption></figure>'
        )

    def widget(self) -> Any:
        """The explorer as an ipywidgets box: play, and a slider that the arrow keys move."""
        widgets = need("ipywidgets")

        last = len(self.steps)
        slider = widgets.IntSlider(
            value=last,
            min=1,
            max=last,
            description="step",
            continuous_update=True,
            layout=widgets.Layout(width="420px"),
            tooltip="Drag, or use the arrow keys; Home and End jump.",
        )
        play = widgets.Play(value=last, min=1, max=last, interval=250, tooltip="Play the run")
        widgets.jslink((play, "value"), (slider, "value"))
        # The browser alone decides which page is shown. Page 0 never is: steps are counted from 1.
        pages = [widgets.HTML(), *(widgets.HTML(self.page(place)) for place in range(last))]
        view = widgets.Stack(pages, selected_index=last)
        widgets.jslink((slider, "value"), (view, "selected_index"))
        heading = [widgets.HTML(f"<b>{html.escape(self.title)}</b>")] if self.title else []
        return widgets.VBox([*heading, widgets.HBox([play, slider]), view])

    def __repr__(self) -> str:
        return f"[explorer of a run of {len(self.steps)} steps{': ' + self.title if self.title else ''}]"

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> tuple[dict, dict]:
        data, metadata = self.film._repr_mimebundle_()
        if find_spec("ipywidgets") is not None:  # a front end without widgets takes the next kind: the film strip
            data = {**data, **self.widget()._repr_mimebundle_(), "text/plain": repr(self)}
        return data, metadata


def _views(run: Sequence[Step], decode: Decode | None) -> tuple[View, ...]:
    x, x0 = torch.cat([step.x for step in run]).float(), torch.cat([step.x0 for step in run]).float()
    if decode is None:
        return (View("sample x_t", _arrays(x), True), View("estimate of x0", _arrays(x0), True))
    return (
        View("sample x_t, latent", tuple(latent_array(each) for each in x), False),
        View("estimate of x0, latent", tuple(latent_array(each) for each in x0), False),
        View("sample x_t, decoded", _arrays(_in_batches(decode, x)), True),
        View("estimate of x0, decoded", _arrays(_in_batches(decode, x0)), True),
    )


def _in_batches(decode: Decode, latents: Tensor) -> Tensor:
    return torch.cat([decode(part) for part in latents.split(BATCH)])


def _arrays(images: Tensor) -> tuple[np.ndarray, ...]:
    return tuple(as_array(image) for image in images)
