"""The noise level of a run as a small drawing of lines: SVG, in the colours of the page that it stands on."""

from collections.abc import Sequence

from ldm_edu.schedule import Level
from ldm_edu.viz.style import NOISE, SIGNAL

WIDE, HIGH = 560, 120
LEFT, RIGHT, TOP, BOTTOM = 40, 110, 8, 30  # margins


def curve_svg(levels: Sequence[Level], place: int) -> str:
    """alpha and sigma at every level of a run, and a line at the one that is shown.

    The lines are in the two colours of signal and noise, the words in the page's own colour, so it reads on light and
    on dark pages.
    """
    xs = [LEFT + (WIDE - LEFT - RIGHT) * i / max(1, len(levels) - 1) for i in range(len(levels))]
    alphas, sigmas = ([float(getattr(level, name)) for level in levels] for name in ("alpha", "sigma"))
    curves = "".join(
        f'<polyline points="{_points(xs, values)}" fill="none" stroke="{color}" stroke-width="2"{dashes}/>'
        f'<circle cx="{xs[place]:.1f}" cy="{_y(values[place]):.1f}" r="4.5" fill="{color}"/>'
        f'<text x="{xs[-1] + 10:.1f}" y="{_y(values[-1]) + offset:.1f}" {ink}>{label}</text>'
        for values, color, dashes, label, offset, ink in (
            (alphas, SIGNAL, "", "alpha: picture", 6, 'fill="currentColor"'),
            (sigmas, NOISE, ' stroke-dasharray="6 3"', "sigma: noise", 2, 'fill="currentColor"'),
        )
    )
    ticks = "".join(
        f'<text x="{LEFT - 6}" y="{_y(value) + 4:.1f}" text-anchor="end" fill="currentColor">{value:g}</text>'
        f'<line x1="{LEFT}" x2="{xs[-1]:.1f}" y1="{_y(value):.1f}" y2="{_y(value):.1f}" stroke="#888" '
        'stroke-opacity="0.4"/>'
        for value in (0.0, 0.5, 1.0)
    )
    marker = (
        f'<line x1="{xs[place]:.1f}" x2="{xs[place]:.1f}" y1="{TOP}" y2="{HIGH - BOTTOM}" stroke="currentColor" '
        'stroke-opacity="0.6"/>'
    )
    below = (
        f'<text x="{LEFT}" y="{HIGH - 8}" fill="currentColor">noise</text>'
        f'<text x="{(LEFT + xs[-1]) / 2:.0f}" y="{HIGH - 8}" text-anchor="middle" fill="currentColor">steps</text>'
        f'<text x="{xs[-1]:.0f}" y="{HIGH - 8}" text-anchor="end" fill="currentColor">picture</text>'
    )
    words = f"Alpha {alphas[place]:.2f} and sigma {sigmas[place]:.2f} at step {place + 1} of {len(levels)}"
    return (
        f'<svg role="img" aria-label="{words}" viewBox="0 0 {WIDE} {HIGH}" width="{WIDE}" '
        f'style="max-width: 100%; font-size: 12px">{ticks}{marker}{curves}{below}</svg>'
    )


def _y(value: float) -> float:
    return TOP + (HIGH - TOP - BOTTOM) * (1 - value)


def _points(xs: Sequence[float], values: Sequence[float]) -> str:
    return " ".join(f"{x:.1f},{_y(value):.1f}" for x, value in zip(xs, values, strict=True))
