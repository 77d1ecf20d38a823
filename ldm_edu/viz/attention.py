"""Which places of a picture attend to which word: heat maps over the picture, still, and on a slider over a run."""

import base64
import html
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from typing import Any

import matplotlib as mpl
import numpy as np
import torch.nn.functional as F
from einops import rearrange
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from ldm_edu.extras import need
from ldm_edu.viz.figures import as_array, grid, show, spread
from ldm_edu.viz.style import INK, RULE, Drawing, drawing, look

HEAT = "cividis"  # dark blue to yellow, of rising lightness: it reads the same to the colour-blind, and in print
SEEN = 0.18  # how much of the grey picture shows through
ACROSS = 9  # pictures in a line
SIDE = 112  # of a picture on the page, in pixels


def heat_strip(
    images: Tensor, heat: Tensor, words: Sequence[str], rows: Sequence[str] = (), *, alt: str = ""
) -> Drawing:
    """Pictures, and beside each one heat map a word.

    Parameters
    ----------
    images : (R, 3, H, W) in [-1, 1], a row each.
    heat : (R, L, h, w), the attention of each place to each of L words, as `AttentionMaps.average` gives it. A word's
        colours run from 0 to its own highest value, the same in all rows; its share of all attention stands below it.
    words : L headings. ``rows`` : R headings, or none.

    Raises
    ------
    ValueError
        if the numbers of pictures, words and maps do not agree.
    """
    _check(images, heat, words, rows)
    if len(images) == 1 and not rows:
        return _wrapped(images[0], heat[0], words, _laid(images, heat)[0], alt)
    cell, left = 1.0, 0.12 + (0.8 if rows else 0.0)
    laid = _laid(images, heat)
    with look():
        figure = Figure(figsize=(left + (len(words) + 1) * (cell + 0.06) + 0.75, 0.36 + len(images) * (cell + 0.26)))
        place = grid(figure, len(images), len(words) + 1, cell, cell + 0.2, gap=(0.06, 0.06), margin=(left, 0.3))
        for r, image in enumerate(images):
            for c, array in enumerate([as_array(image), *laid[r]]):
                axes = place(r, c)
                show(axes, array)
                if r == 0:
                    _title(axes, words[c - 1] if c else "picture")
                if c:
                    axes.set_xlabel(_share(heat[r, c - 1]), fontsize=8.5, labelpad=2)
                elif rows:
                    axes.set_ylabel(rows[r], rotation=0, ha="right", va="center", labelpad=6, color=INK)
        _scale(figure, 0.3, cell)
        return drawing(figure, alt or _told(heat, words))


def _wrapped(image: Tensor, heat: Tensor, words: Sequence[str], laid: list[np.ndarray], alt: str) -> Drawing:
    """One picture and its words, in as many lines as they need."""
    cell, across = 1.0, min(ACROSS, len(words) + 1)
    lines = math.ceil((len(words) + 1) / across)
    with look():
        figure = Figure(figsize=(0.12 + across * (cell + 0.06) + 0.75, 0.1 + lines * (cell + 0.54)))
        place = grid(figure, lines, across, cell, cell + 0.48, gap=(0.06, 0.06), margin=(0.12, 0.3))
        for i, array in enumerate([as_array(image), *laid]):
            axes = place(*divmod(i, across))
            show(axes, array)
            _title(axes, words[i - 1] if i else "picture")
            if i:
                axes.set_xlabel(_share(heat[i - 1]), fontsize=8.5, labelpad=2)
        _scale(figure, 0.3, cell)
        return drawing(figure, alt or _told(heat[None], words))


def _title(axes: Axes, words: str) -> None:
    axes.set_title(words, loc="center", fontsize=9, fontweight="normal", pad=4)


def _share(heat: Tensor) -> str:
    return f"{100 * float(heat.mean()):.0f} %"


def _scale(figure: Figure, top: float, cell: float) -> None:
    """The scale of the colours, at the right end of the first line."""
    wide, high = figure.get_size_inches()
    axes = figure.add_axes(((wide - 0.62) / wide, 1 - (top + cell) / high, 0.1 / wide, cell / high))
    bar = figure.colorbar(ScalarMappable(cmap=HEAT), cax=axes, ticks=[0, 1])
    bar.ax.set_yticklabels(["0", "most"], fontsize=8)


def _told(heat: Tensor, words: Sequence[str]) -> str:
    shares = ", ".join(f"{word} {_share(heat[:, i])}" for i, word in enumerate(words))
    return f"Heat maps over a picture, one a word, with the share of attention: {shares}."


def explore_words(images: Tensor, heat: Tensor, words: Sequence[str], *, title: str = "") -> "WordExplorer":
    """A run with its heat maps on a slider: the last line of a notebook's cell. Parameters as for `heat_strip`.

    ``images`` (S, 3, H, W) are the estimates of the S steps, and ``heat`` (S, L, h, w) their attention.
    """
    _check(images, heat, words, ())
    return WordExplorer(images, heat, tuple(words), title)


@dataclass(frozen=True, eq=False)
class WordExplorer:
    """What `explore_words` returns: a slider over the steps where widgets run, a few steps in rows elsewhere."""

    images: Tensor
    heat: Tensor
    words: tuple[str, ...]
    title: str = ""

    @cached_property
    def film(self) -> Drawing:
        """The static form: five of the steps, a row each."""
        shown = spread(len(self.images), 5)
        return heat_strip(self.images[shown], self.heat[shown], self.words, [f"step {i + 1}" for i in shown])

    def widget(self) -> Any:
        """An ipywidgets box: play, and a slider that the arrow keys move; the browser alone turns the pages."""
        widgets = need("ipywidgets")

        last = len(self.images)
        slider = widgets.IntSlider(
            value=last,
            min=1,
            max=last,
            description="step",
            layout=widgets.Layout(width="420px"),
            tooltip="Drag, or use the arrow keys; Home and End jump.",
        )
        play = widgets.Play(value=last, min=1, max=last, interval=250, tooltip="Play the run")
        widgets.jslink((play, "value"), (slider, "value"))
        laid = _laid(self.images, self.heat)
        pages = [widgets.HTML(), *(widgets.HTML(self._page(place, laid[place])) for place in range(last))]
        view = widgets.Stack(pages, selected_index=last)
        widgets.jslink((slider, "value"), (view, "selected_index"))
        heading = [widgets.HTML(f"<b>{html.escape(self.title)}</b>")] if self.title else []
        return widgets.VBox([*heading, widgets.HBox([play, slider]), view])

    def _page(self, place: int, laid: list[np.ndarray]) -> str:
        figures = [_figure(as_array(self.images[place]), f"estimate, step {place + 1}")]
        for word, array, heat in zip(self.words, laid, self.heat[place], strict=True):
            figures.append(_figure(array, f"{word}: {_share(heat)}"))
        return f'<div style="display: flex; flex-wrap: wrap; gap: 8px">{"".join(figures)}</div>'

    def __repr__(self) -> str:
        name = f": {self.title}" if self.title else ""
        return f"[attention of {len(self.words)} words over {len(self.images)} steps{name}]"

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> tuple[dict, dict]:
        data, metadata = self.film._repr_mimebundle_()
        if find_spec("ipywidgets") is not None:
            data = {**data, **self.widget()._repr_mimebundle_(), "text/plain": repr(self)}
        return data, metadata


def _check(images: Tensor, heat: Tensor, words: Sequence[str], rows: Sequence[str]) -> None:
    if len(images) == 0 or len(images) != len(heat) or (rows and len(rows) != len(images)):
        raise ValueError(f"{len(images)} pictures, {len(heat)} sets of maps, {len(rows)} headings: give one each")
    if heat.shape[1] != len(words):
        raise ValueError(f"{len(words)} words for {heat.shape[1]} maps; give one each")


def _laid(images: Tensor, heat: Tensor) -> list[list[np.ndarray]]:
    """Each word's map over each grey picture: (H, W, 3) bytes, by row and word."""
    images, heat = images.float().cpu(), heat.float().cpu()
    fine = F.interpolate(heat, images.shape[-2:], mode="bilinear")  # (R, L, H, W)
    share = fine / rearrange(fine.amax(dim=(0, 2, 3)).clamp_min(1e-12), "l -> 1 l 1 1")
    colours = mpl.colormaps[HEAT](share.numpy())[..., :3]  # (R, L, H, W, 3)
    grey = (images.mean(dim=1).clamp(-1, 1) / 2 + 0.5).numpy()[:, None, :, :, None]  # (R, 1, H, W, 1)
    mixed = ((SEEN * grey + (1 - SEEN) * colours) * 255).round().astype(np.uint8)
    return [list(row) for row in mixed]


def _figure(array: np.ndarray, caption: str) -> str:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    data, caption = base64.b64encode(file.getvalue()).decode(), html.escape(caption, quote=True)
    return (
        f'<figure style="margin: 2px"><img src="data:image/png;base64,{data}" decoding="sync" alt="{caption}" '
        f'width="{SIDE}" height="{SIDE}" style="border: 1px solid {RULE}; border-radius: 4px">'
        f'<figcaption style="text-align: center; line-height: 1.4">{caption}</figcaption></figure>'
    )
