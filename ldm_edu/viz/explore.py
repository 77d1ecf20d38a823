"""The trajectory explorer: scrub through a run, and see what the sampler saw.

A run is decoded once, when the explorer is made. Each view (the sample, the estimate, as latents and decoded) becomes
one strip of small frames, sent to the page once; moving the slider only moves the strips, in the browser, so nothing is
drawn anew and a busy kernel does not matter.
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
from uuid import uuid4

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ldm_edu.pictures import save_gif
from ldm_edu.pictures import sheet as picture_sheet
from ldm_edu.samplers.step import Step
from ldm_edu.viz.curve import curve_svg
from ldm_edu.viz.figures import Decode, as_array, film_strip, latent_array
from ldm_edu.viz.style import RULE, Drawing

SIDE = 176  # of a picture on the page, in pixels
BATCH = 8  # latents decoded at once
EMPTY = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"  # a transparent pixel


@torch.no_grad()
def explore(steps: Iterable[Step], decode: Decode | None = None, *, picture: int = 0, title: str = "") -> "Explorer":
    """Look at a run step by step: the last line of a notebook's cell.

    Parameters
    ----------
    steps : any run, also one that is still to be taken (a sampler's generator).
    decode : latents (B, C, h, w) to pictures (B, 3, H, W) in [-1, 1], as in ``model.decode``. None: pixels.
    picture : which one of the batch.

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
    return Explorer(tuple(run), _views(run, decode), decode, title)


@dataclass(frozen=True, eq=False)
class View:
    """One way to look at a run: a caption, and a frame (H, W, 3) of bytes for every step."""

    caption: str
    frames: tuple[np.ndarray, ...]
    smooth: bool  # enlarge smoothly; latents stay squares

    @cached_property
    def strip(self) -> bytes:
        """All frames side by side, as a PNG."""
        file = io.BytesIO()
        Image.fromarray(np.concatenate(self.frames, axis=1)).save(file, "PNG")
        return file.getvalue()


@dataclass(frozen=True, eq=False)
class Explorer:
    """What `explore` returns: shows itself in Jupyter, as a slider where widgets run and as a film strip elsewhere."""

    steps: tuple[Step, ...]  # of one picture, (1, C, h, w)
    views: tuple[View, ...]
    decode: Decode | None
    title: str = ""

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
        return (
            f"After step {place + 1} of {len(self.steps)}: t = {float(step.level.t):.0f}, "
            f"alpha = {alpha:.3f}, sigma = {sigma:.3f}; {ratio}."
        )

    def page(self, place: int, name: str) -> str:
        """The HTML of one step. ``name`` is the explorer's own class on the page, see `sheet_of_styles`."""
        figures = "".join(
            f'<figure><img src="{EMPTY}" alt="{html.escape(f"{view.caption}, after step {place + 1}")}" '
            f'class="{name}-{i}" style="background-position: {-place * SIDE}px 0">'
            f"<figcaption>{html.escape(view.caption)}</figcaption></figure>"
            for i, view in enumerate(self.views)
        )
        words = html.escape(self.words(place))
        curve = curve_svg([step.level for step in self.steps], place)
        return f'<div class="{name}"><p aria-live="polite">{words}</p><div class="views">{figures}</div>{curve}</div>'

    def sheet_of_styles(self, name: str) -> str:
        """The HTML that carries every frame, once: one strip a view, as the background of its place."""
        rules = [
            f".{name} p {{margin: 2px; font-variant-numeric: tabular-nums}}",
            f".{name} .views {{display: flex; flex-wrap: wrap; gap: 10px}}",
            f".{name} figure {{margin: 2px}} .{name} figcaption {{text-align: center; line-height: 1.4}}",
        ]
        for i, view in enumerate(self.views):
            data = base64.b64encode(view.strip).decode()
            rules.append(
                f".{name}-{i} {{width: {SIDE}px; height: {SIDE}px; border: 1px solid {RULE}; border-radius: 4px; "
                f"background: url(data:image/png;base64,{data}) 0 0 / {SIDE * len(view.frames)}px {SIDE}px; "
                f"image-rendering: {'auto' if view.smooth else 'pixelated'}}}"
            )
        return f"<style>{' '.join(rules)}</style>"

    def widget(self) -> Any:
        """The explorer as an ipywidgets box: play, and a slider that the arrow keys move."""
        import ipywidgets as widgets  # the one part of the package that needs it

        name = f"ldm-{uuid4().hex[:8]}"  # two explorers on one page keep their own frames
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
        # Every step has its page, 4 KB of HTML; the browser alone decides which one is shown, without the kernel. Page
        # 0 is never shown: steps are counted from 1.
        pages = [widgets.HTML(), *(widgets.HTML(self.page(place, name)) for place in range(last))]
        view = widgets.Stack(pages, selected_index=last)
        widgets.jslink((slider, "value"), (view, "selected_index"))
        heading = [widgets.HTML(f"<b>{html.escape(self.title)}</b>")] if self.title else []
        styles = widgets.HTML(self.sheet_of_styles(name))
        return widgets.VBox([*heading, styles, widgets.HBox([play, slider]), view])

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
