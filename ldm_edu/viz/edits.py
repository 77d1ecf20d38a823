"""What `Edit` does, in one picture drawn by the shipped model: image to image, and inpainting.

``python -m ldm_edu.viz.edits docs`` writes ``docs/editing.png``.
"""

import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ldm_edu.editing import Edit
from ldm_edu.model import LatentDiffusion
from ldm_edu.viz.figures import as_array, grid, show
from ldm_edu.viz.style import Drawing, drawing, look

STRENGTHS = (0.2, 0.4, 0.6)
CHANGED = ("cookie, 3d style", "doughnut, 3d style")
PAINTED = ("sunflower, 3d style", "tulip, 3d style", "mushroom, 3d style")
HIDDEN = 44  # rows of the sunflower that are painted anew


def edits(model: LatentDiffusion) -> Drawing:
    """A row of eight: a picture and three strengths of image to image; another, a mask on it, two ways to fill it."""
    cookie, sunflower = draw(model, CHANGED[0], None), draw(model, PAINTED[0], None)
    mask = torch.zeros_like(sunflower[:, :1])
    mask[..., :HIDDEN, :] = 1
    row = [(cookie, "a cookie")]
    row += [(draw(model, CHANGED[1], Edit(cookie, s)), f"doughnut,\nstrength {s:g}") for s in STRENGTHS]
    row += [(sunflower, "a sunflower"), (torch.where(mask > 0, 0.6, sunflower), "a mask\non its head")]
    row += [(draw(model, p, Edit(sunflower, mask=mask)), f"{p.partition(',')[0]}\ninstead") for p in PAINTED[1:]]
    side, gap, margin = 1.28, 0.09, 0.12
    with look():
        figure = Figure(figsize=(2 * margin + len(row) * (side + gap), side + 0.62))
        place = grid(figure, 1, len(row), side, side, gap=(gap, gap), margin=(margin, margin))
        for c, (picture, words) in enumerate(row):
            axes = place(0, c)
            show(axes, as_array(picture[0]))
            axes.set_xlabel(words, fontsize=9, labelpad=4)
        said = "; ".join(words.replace("\n", " ") for _, words in row)
        return drawing(figure, f"Eight pictures: {said}.")


def draw(model: LatentDiffusion, prompt: str, edit: Edit | None) -> Tensor:
    """One picture, (1, 3, H, W) in [-1, 1]; an edit has another seed than what it edits."""
    *_, last = model.generate([prompt], seeds=[7 if edit is None else 8], guidance=3.0, edit=edit)
    image = model.decode(last.x)
    return image if edit is None else edit.paste(image)


def main(folder: Path) -> None:
    """Draw the picture with the shipped emoji model."""
    edits(LatentDiffusion.from_pretrained("emoji")).save(folder / "editing.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
