"""The look of every figure: its colours by meaning, its type, and how it is shown.

A figure brings its own light card, so it reads the same on a light page and on a dark one. The accents are from Okabe
and Ito's palette for the colour-blind, darkened until each stands out on the card; a second cue (dashes, labels) goes
with every colour, and a test measures both.
"""

import base64
import html
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from PIL import Image

from ldm_edu.files import atomic_write_bytes

PAPER = "#fbfaf7"  # the card
INK = "#22252b"
SOFT = "#5c6370"  # labels of axes, second thoughts
RULE = "#d8d6cf"  # grids and frames

SIGNAL = "#0072b2"  # what is left of the picture: alpha, x0
NOISE = "#c04f00"  # sigma, eps
TEXT = "#20602d"  # prompts and what becomes of them
NETWORK = "#8a3f73"  # what is learned
ACCENTS = {"signal": SIGNAL, "noise": NOISE, "text": TEXT, "network": NETWORK}

# numbers of both signs: negative blue, nothing the card, positive vermillion
SIGNED = LinearSegmentedColormap.from_list("signed", [SIGNAL, "#8fc1de", PAPER, "#e8a87c", NOISE])

DPI = 192  # two pixels of the file for one of the page: sharp on dense screens
INCH = 96  # pixels of the page

LOOK: Any = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same on every machine
    "font.size": 9.5,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 2.0,
    "text.color": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "legend.frameon": False,
    "mathtext.fontset": "dejavusans",
}


@contextmanager
def look() -> Iterator[None]:
    """Figures made inside have the look of the course; the user's own settings come back afterwards."""
    with mpl.rc_context(LOOK):
        yield


@dataclass(frozen=True)
class Drawing:
    """A finished figure that Jupyter shows, with words for those who do not see it.

    ``png`` : the file's bytes. ``alt`` : what it shows, in a sentence. ``width`` : on the page, in pixels.
    """

    png: bytes
    alt: str
    width: int

    def save(self, path: Path | str) -> None:
        """Write the PNG, whole or not at all.

        Raises
        ------
        SaveError
            if the disk refuses.
        """
        atomic_write_bytes(Path(path), self.png)

    def __repr__(self) -> str:
        return f"[figure: {self.alt}]"

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> tuple[dict, dict]:
        # Front ends take HTML where they know it, and only there a screen reader gets the words; the small JPEG is for
        # the others, and for programs that look for pictures in a notebook.
        small = base64.b64encode(self._small()).decode()
        return (
            {"text/html": self.as_html(), "image/jpeg": small, "text/plain": repr(self)},
            {"image/jpeg": {"width": self.width, "alt": self.alt}},
        )

    def as_html(self) -> str:
        """The figure as one HTML element with its words, WebP inside: a fifth of the PNG's size."""
        file = io.BytesIO()
        self._image().save(file, "WEBP", quality=75, method=3)
        data = base64.b64encode(file.getvalue()).decode()
        return (
            f'<img src="data:image/webp;base64,{data}" alt="{html.escape(self.alt, quote=True)}" width="{self.width}" '
            'style="max-width: 100%; height: auto; border-radius: 6px">'
        )

    def _image(self) -> Image.Image:
        return Image.open(io.BytesIO(self.png)).convert("RGB")

    def _small(self) -> bytes:
        """One pixel of the file for one of the page, as a JPEG."""
        image = self._image()
        file = io.BytesIO()
        size = (self.width, round(image.height * self.width / image.width))
        image.resize(size, Image.Resampling.LANCZOS).save(file, "JPEG", quality=80, subsampling=0, optimize=True)
        return file.getvalue()


def drawing(figure: Figure, alt: str) -> Drawing:
    """Render a matplotlib figure, at the size that it has in inches."""
    FigureCanvasAgg(figure)
    file = io.BytesIO()
    # without the date and the version, the same figure is the same file
    figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None})
    return Drawing(file.getvalue(), alt, round(figure.get_figwidth() * INCH))


@dataclass(frozen=True)
class Table:
    """Rows of words that Jupyter shows as a table, and a terminal as aligned columns."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def __repr__(self) -> str:
        lines = [self.header, *self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.header))]
        return "\n".join(
            "  ".join(f"{cell:<{w}}" for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines
        )

    def _repr_html_(self) -> str:
        def row(cells: Sequence[str], tag: str, attributes: str = "") -> str:
            style = 'style="text-align: left"'
            inner = "".join(f"<{tag}{attributes} {style}>{html.escape(cell)}</{tag}>" for cell in cells)
            return f"<tr>{inner}</tr>"

        head = row(self.header, "th", ' scope="col"')
        body = "".join(row(cells, "td") for cells in self.rows)
        return f"<table><thead>{head}</thead><tbody>{body}</tbody></table>"
