"""A table of classes, which only our own checkpoints have."""

from collections.abc import Iterable

from ldm_edu.conditioners.classes import ClassConditioner
from ldm_edu.config import ClassesConfig
from ldm_edu.layouts.pair import Format, Layout, Pair


def classes_pairs(config: ClassesConfig, format: Format, names: Iterable[str] = ()) -> list[Pair]:
    """The one tensor of a table of classes."""
    return [Pair("table.weight", "table.weight")]


CLASSES = Layout(lambda config: ClassConditioner(config.classes, config.width), classes_pairs)
