"""The project's pictures: one that says what it does, drawn by the shipped model, and the map of the system.

``python -m ldm_edu.viz.hero docs`` writes ``docs/hero.png`` and ``docs/system_map.png``.
"""

import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ldm_edu.families import unet_preset
from ldm_edu.model import LatentDiffusion
from ldm_edu.samplers.step import Step
from ldm_edu.viz.figures import as_array, grid, latent_array, show, spread
from ldm_edu.viz.style import INK, SOFT, Drawing, drawing, look
from ldm_edu.viz.system_map import system_map

FILM = "red apple, 3d style"
PROMPTS = (
    "dog face, noto style",
    "pizza, flat style",
    "sunflower, twemoji style",
    "cat face, blob style",
    "mushroom, 3d style",
    "owl, noto style",
    "carrot, flat style",
    "panda, firefox style",
)
SEED = 7  # of every picture
COLUMNS = 8


def hero(model: LatentDiffusion, film: list[Step]) -> Drawing:
    """A run from noise to a picture (``film``, of the prompt ``FILM``), and what other prompts give.

    Upper row: the sample decoded. Second row: the estimate of the clean picture. Below: eight prompts, one seed.
    """
    shown = [film[i] for i in spread(len(film), COLUMNS)]
    latents = torch.cat([step.x for step in shown])
    estimates = model.decode(torch.cat([step.x0 for step in shown]))
    pictures = draw(model, PROMPTS)
    side, gap, left = 1.28, 0.09, 1.2
    wide = left + COLUMNS * (side + gap) + 0.12
    with look():
        figure = Figure(figsize=(wide, 3 * side + 1.62))
        upper = grid(figure, 2, COLUMNS, side, side, gap=(gap, gap), margin=(left, 0.52))
        lower = grid(figure, 1, COLUMNS, side, side, gap=(gap, gap), margin=(left, 3.55))
        for c, (step, latent, estimate) in enumerate(zip(shown, latents, estimates, strict=True)):
            axes = upper(0, c)
            show(axes, latent_array(latent), smooth=False)
            axes.set_title(f"step {step.index + 1}", loc="center", fontsize=10, fontweight="normal", color=SOFT, pad=5)
            show(upper(1, c), as_array(estimate))
        for c, (prompt, picture) in enumerate(zip(PROMPTS, pictures, strict=True)):
            axes = lower(0, c)
            show(axes, as_array(picture))
            axes.set_xlabel(prompt.replace(", ", ",\n"), fontsize=9, labelpad=4)
        high = figure.get_figheight()
        labels = (
            (0.52 + side / 2, "the latent,\nfrom noise", INK),
            (0.52 + side * 1.5 + gap, f"the model's\nguess at\n“{FILM.replace(', ', ',')}”".replace(",", ",\n"), INK),
            (3.55 + side / 2, "other\nprompts,\nthe same\nseed", INK),
        )
        for y, label, color in labels:
            figure.text((left - 0.12) / wide, 1 - y / high, label, ha="right", va="center", fontsize=10, color=color)
        words = (
            f"Eight stages of a run of {len(film)} steps from noise to a picture of {FILM!r}: the latent above, the "
            f"model's estimate of the clean picture below it. Then pictures of: {'; '.join(PROMPTS)}."
        )
        return drawing(figure, words)


def draw(model: LatentDiffusion, prompts: tuple[str, ...]) -> Tensor:
    """One picture a prompt, (N, 3, H, W) in [-1, 1]."""
    *_, last = model.generate(prompts, seeds=[SEED] * len(prompts))
    return model.decode(last.x)


def main(folder: Path) -> None:
    """Draw both pictures with the shipped emoji model."""
    model = LatentDiffusion.from_pretrained("emoji")
    film = list(model.generate([FILM], seeds=[SEED]))
    hero(model, film).save(folder / "hero.png")
    system_map(unet_preset(model.preset), prompt=FILM, drawn=model.decode(film[-1].x)[0]).save(
        folder / "system_map.png"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
