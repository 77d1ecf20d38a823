"""The figures that lessons share: sheets and tables of pictures, the film strip of a run, the schedule's curve."""

import math
import textwrap
from collections.abc import Callable, Sequence

import numpy as np
import torch
from einops import rearrange
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ldm_edu.pictures import to_pil
from ldm_edu.samplers.step import Step
from ldm_edu.schedule import Level, NoiseSchedule
from ldm_edu.viz.style import INK, NOISE, RULE, SIGNAL, SIGNED, SOFT, Drawing, drawing, look

Decode = Callable[[Tensor], Tensor]  # latents (B, C, h, w) -> pictures (B, 3, H, W) in [-1, 1]

RANGE = 3.0  # latents have about unit variance: 99.7 % of them lie within three standard deviations
CELL = 1.25  # side of a picture, in inches


def sheet(images: Tensor, captions: Sequence[str] = (), *, columns: int = 4, alt: str = "") -> Drawing:
    """Pictures in a grid, the caption below each.

    Parameters
    ----------
    images : (N, 3, H, W) in [-1, 1].
    captions : one a picture, or none.
    alt : words for those who do not see it; left out: the captions.

    Raises
    ------
    ValueError
        if there is no picture, or another number of captions.
    """
    if len(images) == 0:
        raise ValueError("a sheet needs at least one picture")
    if captions and len(captions) != len(images):
        raise ValueError(f"{len(captions)} captions for {len(images)} pictures; give one each, or none")
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    texts = [textwrap.fill(caption, 22) for caption in captions]
    below = 0.19 * max((text.count("\n") + 1 for text in texts), default=0)
    cell = 1.6
    with look():
        figure = Figure(figsize=(columns * (cell + 0.12) + 0.2, rows * (cell + below + 0.15) + 0.12))
        place = grid(figure, rows, columns, cell, cell + below, gap=(0.12, 0.15), margin=(0.16, 0.12))
        for i, image in enumerate(images):
            axes = place(i // columns, i % columns)
            show(axes, as_array(image))
            if texts:
                axes.set_xlabel(texts[i], labelpad=4)
        return drawing(figure, alt or _listed("Pictures drawn by the model", captions, len(images)))


def matrix(images: Tensor, rows: Sequence[str], columns: Sequence[str], *, alt: str = "") -> Drawing:
    """Pictures in a table with a heading for each row and each column.

    Parameters
    ----------
    images : (len(rows) * len(columns), 3, H, W) in [-1, 1], row by row.

    Raises
    ------
    ValueError
        if the number of pictures is another.
    """
    if len(images) != len(rows) * len(columns):
        raise ValueError(f"{len(images)} pictures do not fill {len(rows)} rows of {len(columns)}")
    top = 0.2 + 0.16 * (1 + max(column.count("\n") for column in columns))
    left = 0.2 + 0.085 * max(len(line) for row in rows for line in textwrap.wrap(row, 14) or [""])
    with look():
        figure = Figure(figsize=(left + len(columns) * (CELL + 0.06) + 0.1, top + len(rows) * (CELL + 0.06) + 0.08))
        place = grid(figure, len(rows), len(columns), CELL, CELL, gap=(0.06, 0.06), margin=(left, top))
        for r, row in enumerate(rows):
            for c, column in enumerate(columns):
                axes = place(r, c)
                show(axes, as_array(images[r * len(columns) + c]))
                if r == 0:
                    axes.set_title(column, loc="center", fontsize=9.5, fontweight="normal", pad=5)
                if c == 0:
                    _row_label(axes, textwrap.fill(row, 14))
        headings = ", ".join(" ".join(column.split()) for column in columns)
        words = f"A table of pictures. Rows: {', '.join(rows)}. Columns: {headings}."
        return drawing(figure, alt or words)


def film_strip(
    steps: Sequence[Step], decode: Decode | None = None, *, picture: int = 0, columns: int = 8, alt: str = ""
) -> Drawing:
    """One run as a strip: a column a step; the sample x_t after the step, and the estimate of x0 that led to it.

    Parameters
    ----------
    steps : the whole run; ``columns`` of them are shown, the first and the last among them.
    decode : latents to pictures; the sample is then shown as latents and decoded. None: the samples are pictures.
    picture : which one of the batch.

    Raises
    ------
    ValueError
        if there is no step.
    """
    if not steps:
        raise ValueError("a film strip needs at least one step")
    shown = [steps[i] for i in spread(len(steps), columns)]
    x, x0 = (torch.stack([getattr(step, name)[picture] for step in shown]).float() for name in ("x", "x0"))
    below = ",\ndecoded" if decode else ""
    rows = [
        ("sample $x_t$" + below, [as_array(each) for each in (decode(x) if decode else x)]),
        (r"estimate $\hat{x}_0$" + below, [as_array(each) for each in (decode(x0) if decode else x0)]),
    ]
    if decode:
        rows = [("sample $x_t$,\nlatent", [latent_array(each) for each in x]), *rows]
    left, cell = 1.05, 1.08
    with look():
        figure = Figure(figsize=(left + len(shown) * (cell + 0.05) + 0.1, 0.5 + len(rows) * (cell + 0.05) + 0.08))
        place = grid(figure, len(rows), len(shown), cell, cell, gap=(0.05, 0.05), margin=(left, 0.5))
        for r, (label, arrays) in enumerate(rows):
            for c, (step, array) in enumerate(zip(shown, arrays, strict=True)):
                axes = place(r, c)
                show(axes, array, smooth=decode is None or r > 0)
                if r == 0:
                    heading = f"step {step.index + 1}\n$\\sigma$ = {float(step.level.sigma):.2f}"
                    axes.set_title(heading, loc="center", fontsize=9, fontweight="normal", pad=4)
                if c == 0:
                    _row_label(axes, label)
        first, last = shown[0], shown[-1]
        words = (
            f"Film strip of {len(shown)} of {len(steps)} sampling steps, from noise (sigma "
            f"{float(first.level.sigma):.2f}) on the left to the picture (sigma {float(last.level.sigma):.2f}) on the "
            "right. Upper rows: the noisy sample. Lowest row: the estimate of the clean picture, blurred at first, "
            "sharper with every step."
        )
        return drawing(figure, alt or words)


def schedule_curve(schedule: NoiseSchedule, stops: Sequence[Level] = (), *, alt: str = "") -> Drawing:
    """How much signal and how much noise a sample holds at every time; dots where a run stops.

    Time runs from noise (left) to data (right), as a sampler goes.
    """
    times = torch.linspace(schedule.first, schedule.last, 400, dtype=torch.float64)
    level = schedule.level(times)
    with look():
        figure = Figure(figsize=(7.2, 2.7), layout="constrained")
        axes = figure.add_subplot()
        axes.plot(times, level.alpha, color=SIGNAL, label=r"$\alpha$, share of the picture")
        axes.plot(times, level.sigma, color=NOISE, linestyle=(0, (5, 2)), label=r"$\sigma$, share of the noise")
        if stops:
            at = [float(stop.t) for stop in stops]
            axes.plot(at, [float(s.alpha) for s in stops], "o", ms=4, color=SIGNAL)
            axes.plot(at, [float(s.sigma) for s in stops], "o", ms=4, color=NOISE, label=f"{len(stops)} stops of a run")
        axes.set(xlabel="time t (steps of the forward process)", ylabel="factor (no unit)", ylim=(-0.03, 1.05))
        axes.invert_xaxis()
        axes.legend(loc="center left", fontsize=9)
        words = (
            f"Curves of alpha and sigma over time t, from t = {schedule.last} (almost pure noise, left) to "
            f"t = {schedule.first} (clean, right): alpha rises from {float(level.alpha[-1]):.2f} to "
            f"{float(level.alpha[0]):.2f} while sigma falls."
        )
        return drawing(figure, alt or words)


def channels(latents: Tensor, *, alt: str = "") -> Drawing:
    """The channels of one latent (C, h, w) side by side, with the scale of their colours."""
    count = len(latents)
    cell = 1.3
    with look():
        figure = Figure(figsize=(count * (cell + 0.1) + 0.9, cell + 0.45))
        place = grid(figure, 1, count, cell, cell, gap=(0.1, 0.0), margin=(0.1, 0.32))
        for c, channel in enumerate(latents.float()):
            axes = place(0, c)
            drawn = axes.imshow(channel.cpu().numpy(), cmap=SIGNED, vmin=-RANGE, vmax=RANGE, interpolation="nearest")
            bare(axes)
            axes.set_title(f"channel {c}", loc="center", fontsize=9, fontweight="normal", pad=4)
        width, height = figure.get_size_inches()
        scale = figure.add_axes(((width - 0.72) / width, 0.12 / height, 0.12 / width, cell / height))
        figure.colorbar(drawn, cax=scale, label="value")
        size = " by ".join(map(str, latents.shape[1:]))
        return drawing(figure, alt or f"A latent: {count} channels of {size} numbers, blue below zero, orange above.")


def spread(count: int, shown: int) -> list[int]:
    """At most ``shown`` places out of ``count``, evenly spread, the first and the last among them.

    >>> spread(20, 5), spread(3, 8)
    ([0, 5, 10, 14, 19], [0, 1, 2])
    """
    if count <= shown:
        return list(range(count))
    return [round(i * (count - 1) / (shown - 1)) for i in range(shown)] if shown > 1 else [count - 1]


def as_array(image: Tensor) -> np.ndarray:
    """A picture (3, H, W) or (1, H, W) in [-1, 1] as (H, W, 3) bytes; values outside are clipped."""
    return np.asarray(to_pil(image.expand(3, -1, -1)))


def latent_array(latent: Tensor, zoom: int = 4) -> np.ndarray:
    """The channels of a latent (C, h, w) as tiles of one picture (rows, columns, 3), bytes, each number a square."""
    count = len(latent)
    across = math.ceil(math.sqrt(count))
    values = (latent.detach().float().cpu() / (2 * RANGE) + 0.5).clamp(0, 1).numpy()
    tiles = (SIGNED(values)[..., :3] * 255).round().astype(np.uint8)  # (C, h, w, 3)
    tiles = tiles.repeat(zoom, axis=1).repeat(zoom, axis=2)
    tiles = np.pad(tiles, ((0, across * math.ceil(count / across) - count), (1, 1), (1, 1), (0, 0)), constant_values=90)
    return rearrange(tiles, "(r c) h w k -> (r h) (c w) k", c=across)


def grid(
    figure: Figure,
    rows: int,
    columns: int,
    width: float,
    height: float,
    *,
    gap: tuple[float, float],
    margin: tuple[float, float],
) -> Callable[[int, int], Axes]:
    """Places for square axes, measured in inches from the upper left; ``margin`` is (left, top).

    A cell is ``width`` by ``height``: what it is higher than wide is left free below the square.
    """
    wide, high = figure.get_size_inches()

    def place(row: int, column: int) -> Axes:
        left = margin[0] + column * (width + gap[0])
        top = margin[1] + row * (height + gap[1])
        return figure.add_axes((left / wide, (high - top - width) / high, width / wide, width / high))

    return place


def show(axes: Axes, array: np.ndarray, smooth: bool = True) -> None:
    """A picture (H, W, 3), enlarged smoothly or as squares."""
    axes.imshow(array, interpolation="bicubic" if smooth else "nearest")
    bare(axes)


def bare(axes: Axes) -> None:
    """Axes for a picture: a thin frame, no ticks."""
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set(visible=True, color=RULE, linewidth=0.8)


def _row_label(axes: Axes, text: str) -> None:
    axes.set_ylabel(text, rotation=0, ha="right", va="center", labelpad=7, color=INK if text else SOFT)


def _listed(what: str, captions: Sequence[str], count: int) -> str:
    return f"{what}: {'; '.join(captions)}." if captions else f"{what}: {count} of them."
