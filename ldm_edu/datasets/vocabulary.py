"""What the emoji model was trained to draw, in words: for `ldm-edu generate --list`."""

import textwrap

from ldm_edu.datasets.backgrounds import PALETTE
from ldm_edu.datasets.emoji import STYLES, emoji
from ldm_edu.datasets.words import COUNTS, HUES, RELATIONS, countable, counted, thing, together

WIDTH = 100


def vocabulary() -> str:
    """Things, styles, colours, counts, pairs and backgrounds, with an example of each, as text of some screens."""
    often = sorted({thing(label) for label in emoji("train", starter=True)["label"]})
    others = sorted({thing(label) for label in emoji("train", core=True)["label"]} - set(often))
    styles = [f"{style} style" for style in STYLES]
    named = [name for name in PALETTE if name != "white"]
    uncounted = [name for name in often + others if not countable(name)]
    parts = [
        ("The emoji model knows animals, plants and food best", often),
        ("and, less well", others),
        ('in these styles ("fish, flat style")', styles),
        ('in other colours ("blue fish, flat style")', HUES),
        (f'{" or ".join(COUNTS.values())} of them ("{counted("rocket", 2)}, noto style"), but for', uncounted),
        (f'two of them side by side ("{together("cat", "and", "pizza")}, 3d style"), by the words', RELATIONS),
        ('on a background ("fish, flat style, on an orange background")', named),
    ]
    return "\n\n".join(f"{title}:\n{textwrap.fill(', '.join(names), WIDTH)}" for title, names in parts)
