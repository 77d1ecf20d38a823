"""What the emoji model was trained to draw, in words: for `ldm-edu generate --list`."""

import textwrap

from ldm_edu.datasets.backgrounds import PALETTE
from ldm_edu.datasets.emoji import STYLES, emoji
from ldm_edu.datasets.words import thing

WIDTH = 100


def vocabulary() -> str:
    """Things, styles and backgrounds, with an example of each, as text of some screens."""
    often = sorted({thing(label) for label in emoji("train", starter=True)["label"]})
    others = sorted({thing(label) for label in emoji("train", core=True)["label"]} - set(often))
    styles = [f"{style} style" for style in STYLES]
    named = [name for name in PALETTE if name != "white"]
    parts = [
        ("The emoji model knows animals, plants and food best", often),
        ("and, less well", others),
        ('in these styles ("fish, flat style")', styles),
        ('on a background ("fish, flat style, on an orange background")', named),
    ]
    return "\n\n".join(f"{title}:\n{textwrap.fill(', '.join(names), WIDTH)}" for title, names in parts)
