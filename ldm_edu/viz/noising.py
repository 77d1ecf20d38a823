"""The forward process to play with: one picture, one noise, any time, any schedule.

As in the explorer, every frame is made once and sent to the browser; the menu and the slider only choose which one is
shown, so nothing is drawn anew, however busy the kernel is.
"""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from math import log10
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ldm_edu.extras import need
from ldm_edu.schedule import Level, NoiseSchedule, add_noise
from ldm_edu.viz.figures import as_array, matrix, spread
from ldm_edu.viz.style import NOISE, RULE, SIGNAL, Drawing

PLACES = 21  # times of a schedule that the slider stops at
POINTS = 61  # of a drawn curve
SIDE = 208  # of a picture on the page, in pixels
COLUMNS = 5  # of the static table


def noising(
    x0: Tensor, schedules: Mapping[str, NoiseSchedule], *, eps: Tensor | None = None, title: str = ""
) -> "Noising":
    """Noise a picture at any time of any schedule: the last line of a notebook's cell.

    Parameters
    ----------
    x0 : the picture, (3, H, W) or (1, H, W) in [-1, 1].
    schedules : by the name that the menu shows; the first is shown at the start.
    eps : the noise, like ``x0``; the same for every frame. None: drawn with seed 0.

    Raises
    ------
    ValueError
        if there is no schedule, or ``x0`` is not one picture.
    """
    if not schedules:
        raise ValueError("there is nothing to choose from: give at least one schedule, {'linear': linear()} say")
    if x0.ndim != 3 or x0.shape[0] not in (1, 3):
        raise ValueError(f"x0 must be one picture, (3, H, W) or (1, H, W), not {tuple(x0.shape)}")
    if eps is None:
        eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
    x0, eps = x0.detach().float().cpu(), eps.detach().float().cpu()
    tracks = tuple(_track(name, schedule, x0, eps) for name, schedule in schedules.items())
    return Noising(as_array(x0), tracks, title)


@dataclass(frozen=True, eq=False)
class Track:
    """One schedule: the levels at which the slider stops, and the sample at each."""

    name: str
    levels: tuple[Level, ...]
    curve: tuple[Level, ...]  # the same way in finer steps, to draw
    samples: Tensor  # (T, C, H, W)

    def png(self, place: int) -> bytes:
        """The sample at one time, small: the browser enlarges it."""
        return _png(as_array(self.samples[place]))


@dataclass(frozen=True, eq=False)
class Noising:
    """What `noising` returns: shows itself in Jupyter, with menu and slider where widgets run, as a table elsewhere."""

    picture: np.ndarray  # (H, W, 3) bytes
    tracks: tuple[Track, ...]
    title: str = ""

    @cached_property
    def table(self) -> Drawing:
        """The static form: a row a schedule, a column a time."""
        shown = spread(PLACES, COLUMNS)
        samples = torch.cat([track.samples[shown] for track in self.tracks])
        times = [_whole(self.tracks[0].levels[place]) for place in shown]
        ends = [track.levels[-1] for track in self.tracks]
        left = "; ".join(f"{track.name} {_ratio(end)}" for track, end in zip(self.tracks, ends, strict=True))
        words = (
            f"A picture with more and more noise, a row a schedule ({', '.join(t.name for t in self.tracks)}), "
            f"a column a time: t about {', '.join(times)}. Signal-to-noise ratio at the right end: {left}."
        )
        columns = [f"t = {time}" for time in times]
        return matrix(samples, rows=[_breakable(track.name) for track in self.tracks], columns=columns, alt=words)

    def words(self, track: int, place: int) -> str:
        """One level in a sentence."""
        level = self.tracks[track].levels[place]
        alpha, sigma = float(level.alpha), float(level.sigma)
        return (
            f"{self.tracks[track].name}, t = {_whole(level)}: alpha = {alpha:.3f}, alpha squared = {alpha**2:.3g}, "
            f"sigma = {sigma:.3f}; signal-to-noise ratio {_ratio(level)}."
        )

    def page(self, track: int, place: int) -> str:
        """The HTML of one level: the sentence, the picture and the noisy sample, the level on its curves."""
        shown = self.tracks[track]
        sample = f"sample x_t at t = {_whole(shown.levels[place])}"
        curves = level_svg([each.curve for each in self.tracks], track, shown.levels[place])
        return (
            f'<p style="margin: 2px">{html.escape(self.words(track, place))}</p>'
            '<div style="display: flex; flex-wrap: wrap; gap: 10px">'
            f"{_figure(_png(self.picture), 'picture x_0')}{_figure(shown.png(place), sample)}</div>{curves}"
        )

    def widget(self) -> Any:
        """An ipywidgets box: a menu of schedules and a slider over t; both go without a mouse."""
        widgets = need("ipywidgets")

        menu = widgets.Dropdown(
            options=[track.name for track in self.tracks],
            index=0,
            description="schedule",
            tooltip="Space opens the list, the arrow keys and Enter choose.",
        )
        slider = widgets.SelectionSlider(
            options=["first", *(_whole(level) for level in self.tracks[0].levels[1:-1]), "last"],
            index=PLACES // 2,
            description="time t",
            continuous_update=True,
            layout=widgets.Layout(width="420px"),
            tooltip="Drag, or use the arrow keys; Home and End jump.",
        )
        # The browser alone decides which page is shown: the menu picks a stack, the slider a page in every stack.
        stacks = []
        for track in range(len(self.tracks)):
            pages = [widgets.HTML(self.page(track, place)) for place in range(PLACES)]
            stack = widgets.Stack(pages, selected_index=slider.index)
            widgets.jslink((slider, "index"), (stack, "selected_index"))
            stacks.append(stack)
        view = widgets.Stack(stacks, selected_index=0)
        widgets.jslink((menu, "index"), (view, "selected_index"))
        heading = [widgets.HTML(f"<b>{html.escape(self.title)}</b>")] if self.title else []
        return widgets.VBox([*heading, widgets.HBox([menu, slider]), view])

    def __repr__(self) -> str:
        names = ", ".join(track.name for track in self.tracks)
        return f"[noising with {names}{': ' + self.title if self.title else ''}]"

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> tuple[dict, dict]:
        data, metadata = self.table._repr_mimebundle_()
        if find_spec("ipywidgets") is not None:  # a front end without widgets takes the next kind: the table
            data = {**data, **self.widget()._repr_mimebundle_(), "text/plain": repr(self)}
        return data, metadata


def _track(name: str, schedule: NoiseSchedule, x0: Tensor, eps: Tensor) -> Track:
    # The ends are each schedule's own; between them all stop at the same times, so that they can be compared.
    between = [round(schedule.steps * i / (PLACES - 1)) for i in range(1, PLACES - 1)]
    found = [schedule.level(float(t)) for t in (schedule.first, *between, schedule.last)]
    samples = torch.stack([add_noise(x0[None], eps[None], level)[0] for level in found])  # (T, C, H, W)
    curve = torch.linspace(schedule.first, schedule.last, POINTS, dtype=torch.float64)
    return Track(name, tuple(found), tuple(schedule.level(t) for t in curve), samples.expand(-1, 3, -1, -1))


W, H = 280, 150  # of one of the two drawings
LEFT, TOP, BOTTOM = 44, 14, 34  # margins
DECADES = (-4.0, 4.0)  # of the signal-to-noise ratio; what lies outside is drawn at the edge


def level_svg(curves: Sequence[Sequence[Level]], track: int, here: Level) -> str:
    """One level on its curves: alpha and sigma over t on the left, the signal-to-noise ratio of all on the right.

    ``curves`` : of every schedule, from clean to noise. ``track`` : which is shown. ``here`` : the level to mark.
    Lines are in the colours of signal and noise, words in the page's own colour, so it reads on light and dark pages.
    """
    shown, last = curves[track], float(curves[track][-1].t)

    def x(level: Level, panel: int) -> float:
        return panel * (W + 20) + LEFT + (W - LEFT - 10) * min(1.0, float(level.t) / last)

    def y(share: float) -> float:
        return TOP + (H - TOP - BOTTOM) * (1 - share)

    def line(points: list[tuple[float, float]], style: str) -> str:
        return f'<polyline points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in points)}" fill="none" {style}/>'

    def dot(level: Level, panel: int, share: float, color: str) -> str:
        return f'<circle cx="{x(level, panel):.1f}" cy="{y(share):.1f}" r="4.5" fill="{color}"/>'

    parts = [_frame(0, ((0.0, "0"), (0.5, "0.5"), (1.0, "1")), "alpha, picture (line); sigma, noise (dashes)", last)]
    for name, color, dashes in (("alpha", SIGNAL, ""), ("sigma", NOISE, ' stroke-dasharray="6 3"')):
        shares = [float(getattr(level, name)) for level in shown]
        points = [(x(level, 0), y(share)) for level, share in zip(shown, shares, strict=True)]
        parts.append(line(points, f'stroke="{color}" stroke-width="2"{dashes}'))
        parts.append(dot(here, 0, float(getattr(here, name)), color))
    ticks = ((0.0, "0.0001"), (0.5, "1"), (1.0, "10000"))
    parts.append(_frame(1, ticks, "signal-to-noise ratio (log scale)", last))
    for other, levels in enumerate(curves):
        points = [(x(level, 1), y(_decade(level))) for level in levels]
        strong = 'stroke="currentColor" stroke-width="2.5"'
        parts.append(line(points, strong if other == track else 'stroke="#888" stroke-opacity="0.6"'))
    parts.append(dot(here, 1, _decade(here), "currentColor"))
    alpha, sigma = float(here.alpha), float(here.sigma)
    words = (
        f"Left: alpha (whole line) falls and sigma (dashed) rises with t; here alpha {alpha:.2f}, sigma {sigma:.2f}. "
        f"Right: the signal-to-noise ratio falls with t, here {_ratio(here)}; grey: other schedules."
    )
    return (
        f'<svg role="img" aria-label="{html.escape(words, quote=True)}" viewBox="0 0 {2 * W + 20} {H}" '
        f'width="{2 * W + 20}" style="max-width: 100%; font-size: 12px">{"".join(parts)}</svg>'
    )


def _frame(panel: int, ticks: Sequence[tuple[float, str]], heading: str, last: float) -> str:
    """Ticks, rules and words of one of the two drawings."""
    start = panel * (W + 20)
    left, right = start + LEFT, start + W - 10
    rules = ""
    for share, label in ticks:
        height = TOP + (H - TOP - BOTTOM) * (1 - share)
        rules += (
            f'<text x="{left - 5}" y="{height + 4:.1f}" text-anchor="end" fill="currentColor">{label}</text>'
            f'<line x1="{left}" x2="{right}" y1="{height:.1f}" y2="{height:.1f}" stroke="#888" stroke-opacity="0.4"/>'
        )
    low = H - BOTTOM + 14
    return (
        f'{rules}<text x="{left}" y="{low}" fill="currentColor">t = 0</text>'
        f'<text x="{right}" y="{low}" text-anchor="end" fill="currentColor">{last:.0f}</text>'
        f'<text x="{(left + right) / 2:.0f}" y="{H - 4}" text-anchor="middle" fill="currentColor">{heading}</text>'
    )


def _decade(level: Level) -> float:
    """The SNR as a share of the drawing's height."""
    low, high = DECADES
    snr = float(level.snr)
    value = high if snr == float("inf") else log10(snr) if snr > 0 else low
    return (min(max(value, low), high) - low) / (high - low)


def _ratio(level: Level) -> str:
    snr = float(level.snr)
    return "0 (no signal is left)" if snr == 0 else f"{snr:.2g}" if snr < 100 else f"{snr:.0f}"


def _whole(level: Level) -> str:
    return f"{float(level.t):.0f}"


def _breakable(name: str) -> str:
    """An identifier as words, so that a narrow heading can break it."""
    return name.replace("_", " ")


def _png(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def _figure(png: bytes, caption: str) -> str:
    data, caption = base64.b64encode(png).decode(), html.escape(caption, quote=True)
    return (
        f'<figure style="margin: 2px"><img src="data:image/png;base64,{data}" decoding="sync" alt="{caption}" '
        f'width="{SIDE}" height="{SIDE}" style="border: 1px solid {RULE}; border-radius: 4px">'
        f'<figcaption style="text-align: center; line-height: 1.4">{caption}</figcaption></figure>'
    )
