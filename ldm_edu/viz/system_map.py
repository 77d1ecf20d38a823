"""The whole system in one picture: what happens to a prompt and to noise, and which lesson builds which part."""

from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from torch import Tensor

from ldm_edu.config import UNetPreset
from ldm_edu.families import EMOJI
from ldm_edu.viz.figures import as_array, bare
from ldm_edu.viz.style import INK, NETWORK, NOISE, PAPER, SIGNAL, SIGNED, SOFT, TEXT, Drawing, drawing, look

WIDE, HIGH = 10.6, 5.6  # inches; the places below are in inches from the lower left


@dataclass(frozen=True)
class Box:
    """A part of the system: where it stands, what it is called, the lesson that builds it."""

    x: float
    y: float
    wide: float
    high: float
    title: str
    below: str
    lesson: str
    color: str
    learned: bool = False

    @property
    def left(self) -> tuple[float, float]:
        """The middle of the left edge."""
        return self.x, self.y + self.high / 2

    @property
    def right(self) -> tuple[float, float]:
        """The middle of the right edge."""
        return self.x + self.wide, self.y + self.high / 2

    @property
    def top(self) -> tuple[float, float]:
        """The middle of the upper edge."""
        return self.x + self.wide / 2, self.y + self.high

    @property
    def bottom(self) -> tuple[float, float]:
        """The middle of the lower edge."""
        return self.x + self.wide / 2, self.y


def system_map(
    preset: UNetPreset = EMOJI, *, prompt: str = "red apple, 3d style", drawn: Tensor | None = None
) -> Drawing:
    """The map, with the sizes of one preset's tensors on its arrows.

    Parameters
    ----------
    preset : a latent text-to-image preset.
    prompt : written at the start.
    drawn : (3, H, W) in [-1, 1], a picture of that prompt shown at the end; None: an empty frame.

    Raises
    ------
    ValueError
        if the preset has no autoencoder or no text encoder.
    """
    if preset.autoencoder is None or preset.text is None:
        raise ValueError(f"the map shows latents and text; the preset {preset.name!r} lacks one of the two")
    side = preset.size // preset.autoencoder.factor
    latent = f"{preset.autoencoder.latent_channels} × {side} × {side}"
    states = f"{preset.text.length} × {preset.text.width}"

    tokens = Box(1.95, 4.2, 1.15, 0.72, "tokenizer", f"{preset.text.length} tokens", "05", TEXT)
    text = Box(3.55, 4.2, 1.3, 0.72, "text encoder", f"states {states}", "05", TEXT, learned=True)
    unet = Box(3.55, 2.35, 1.3, 0.95, "U-Net", "what is noise here?", "02, 04", NETWORK, learned=True)
    guide = Box(5.2, 2.35, 1.2, 0.95, "guidance", "with the prompt\nagainst without", "06", TEXT)
    move = Box(6.75, 2.35, 1.2, 0.95, "sampler", "one step to\nless noise", "07", SIGNAL)
    clock = Box(6.75, 4.2, 1.2, 0.72, "schedule", "how much noise", "01", NOISE)
    decoder = Box(8.72, 2.35, 1.2, 0.95, "decoder", "latent to picture", "03", SIGNAL, learned=True)
    encoder = Box(6.75, 0.45, 1.2, 0.72, "encoder", "picture to latent", "03", SIGNAL, learned=True)
    noising = Box(3.55, 0.45, 1.3, 0.72, "add noise", r"$\alpha\, x_0 + \sigma\, \epsilon$", "01", NOISE)
    boxes = (tokens, text, unet, guide, move, clock, decoder, encoder, noising)

    with look():
        figure = Figure(figsize=(WIDE, HIGH))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, WIDE), ylim=(0, HIGH))
        axes.axis("off")
        loop = FancyBboxPatch((3.3, 1.82), 4.9, 1.83, "round,pad=0,rounding_size=0.12", fc="#f1eee6", ec=SOFT, lw=1)
        axes.add_patch(loop)
        axes.text(5.75, 1.93, "again at every step, 20 or so", ha="center", color=SOFT, fontsize=9)
        for box in boxes:
            _draw(axes, box)

        axes.text(0.2, 4.56, f"“{prompt}”", va="center", fontsize=10, style="italic", color=TEXT)
        axes.text(0.2, 4.3, "and “”, the blank prompt", va="center", fontsize=8.5, color=SOFT)
        _arrow(axes, (1.72, 4.56), tokens.left, TEXT)
        _arrow(axes, tokens.right, text.left, TEXT)
        _arrow(axes, text.bottom, unet.top, TEXT, "by cross-attention", (0.08, 0.14))
        _arrow(axes, unet.right, guide.left, NETWORK)
        _arrow(axes, guide.right, move.left, INK, r"$\hat{x}_0$", (-0.06, 0.12))
        _arrow(axes, clock.bottom, move.top, NOISE, r"$\alpha, \sigma$", (0.08, 0.14))
        _arrow(axes, move.right, decoder.left, INK, "last $x$", (-0.08, 0.12))
        axes.plot([7.35, 7.35, 4.2, 4.2], [2.35, 2.17, 2.17, 2.26], color=INK, lw=1.6, solid_joinstyle="round")
        _arrow(axes, (4.2, 2.2), unet.bottom, INK)
        axes.text(
            5.75,
            2.19,
            "$x_t$, a little less noisy, and its time $t$",
            fontsize=8.5,
            color=INK,
            ha="center",
            va="bottom",
        )

        _tile(axes, 1.2, 2.33, _noise_tiles(), "nearest")
        axes.text(1.7, 2.22, f"noise, {latent}\nfrom a seed", ha="center", va="top", fontsize=8.5, color=SOFT)
        _arrow(axes, (2.25, 2.83), unet.left, NOISE, "start", (-0.33, 0.1))
        _end(axes, decoder, drawn, preset.size)

        _arrow(axes, encoder.left, noising.right, SIGNAL, f"$x_0$, {latent}", (-0.55, 0.1), dashed=True)
        _arrow(axes, (8.7, 0.81), encoder.right, SIGNAL, dashed=True)
        axes.text(8.8, 0.81, "a picture of the\ntraining set", va="center", fontsize=9.5, color=INK)
        axes.plot([3.55, 2.95, 2.95], [0.81, 0.81, 2.55], color=NOISE, lw=1.6, ls=(0, (4, 2)))
        _arrow(axes, (2.95, 2.55), (3.55, 2.55), NOISE)
        axes.text(2.85, 1.1, "training: guess\nwhat was added", ha="right", fontsize=9.5, color=INK)
        _legend(axes)
        return drawing(figure, _words(prompt, latent))


def _draw(axes: Axes, box: Box) -> None:
    face = "#ffffff"
    patch = FancyBboxPatch(
        (box.x, box.y),
        box.wide,
        box.high,
        "round,pad=0,rounding_size=0.1",
        fc=face,
        ec=box.color,
        lw=2.2 if box.learned else 1.1,
    )
    axes.add_patch(patch)
    middle = box.x + box.wide / 2
    axes.text(middle, box.y + box.high - 0.17, box.title, ha="center", va="center", fontweight="bold", color=box.color)
    axes.text(middle, box.y + (box.high - 0.26) / 2, box.below, ha="center", va="center", fontsize=8, color=INK)
    badge = {"boxstyle": "round,pad=0.22", "fc": box.color, "ec": PAPER}
    corner = (box.x + box.wide - 0.06, box.y + box.high + 0.02)
    axes.text(*corner, box.lesson, ha="right", va="center", fontsize=7.5, color=PAPER, bbox=badge)


def _arrow(
    axes: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    color: str,
    label: str = "",
    shift: tuple[float, float] = (0.0, 0.0),
    dashed: bool = False,
) -> None:
    style = (0, (4, 2)) if dashed else "-"
    axes.add_patch(
        FancyArrowPatch(
            start, end, arrowstyle="-|>", mutation_scale=11, color=color, lw=1.6, ls=style, shrinkA=0, shrinkB=1
        )
    )
    if label:
        x, y = (start[0] + end[0]) / 2 + shift[0], (start[1] + end[1]) / 2 + shift[1]
        axes.text(x, y, label, fontsize=8.5, color=color, va="center")


def _tile(axes: Axes, x: float, y: float, array: np.ndarray, interpolation: str, side: float = 1.0) -> None:
    inner = axes.inset_axes((x / WIDE, y / HIGH, side / WIDE, side / HIGH))
    inner.imshow(array, interpolation=interpolation)
    bare(inner)


def _noise_tiles() -> np.ndarray:
    noise = torch.randn(16, 16, generator=torch.Generator().manual_seed(7))
    return SIGNED((noise / 6 + 0.5).clamp(0, 1).numpy())


def _end(axes: Axes, decoder: Box, drawn: Tensor | None, size: int) -> None:
    x, _ = decoder.top
    _arrow(axes, decoder.top, (x, 3.83), SIGNAL)
    array = np.full((8, 8, 3), 255, np.uint8) if drawn is None else as_array(drawn)
    _tile(axes, x - 0.6, 3.87, array, "bicubic", side=1.2)
    axes.text(x, 5.15, f"picture, 3 × {size} × {size}", ha="center", va="bottom", fontsize=9, color=INK)


def _legend(axes: Axes) -> None:
    keys = "thick frame: learned from data      dashed: in training only      number: the lesson that builds it"
    axes.text(0.2, 0.13, keys, fontsize=8.5, color=SOFT, va="center")


def _words(prompt: str, latent: str) -> str:
    return (
        f"Map of the system. The prompt {prompt!r} goes through the tokenizer and the text encoder (lesson 05) and "
        f"steers the U-Net (02, 04) by cross-attention. The U-Net starts from noise of shape {latent}; guidance (06) "
        "compares its answer with and without the prompt; the sampler (07) takes one step to less noise, as the "
        "schedule (01) says; the sample and its time go back to the U-Net, about 20 times. The decoder (03) turns the "
        "last latent into a picture. In training, the encoder (03) turns a picture into a latent, noise is added (01), "
        "and the U-Net learns to tell what was added."
    )
