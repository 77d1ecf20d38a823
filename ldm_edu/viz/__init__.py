"""Figures and widgets: one visual language for every lesson, readable on light and dark pages."""

from ldm_edu.viz.compare import Compared, compare
from ldm_edu.viz.environment import environment
from ldm_edu.viz.explore import Explorer, explore
from ldm_edu.viz.figures import channels, film_strip, matrix, schedule_curve, sheet
from ldm_edu.viz.gallery import Gallery, gallery
from ldm_edu.viz.noising import Noising, noising
from ldm_edu.viz.quiz import Choice, Question, Quiz, quiz
from ldm_edu.viz.style import Drawing, Table
from ldm_edu.viz.system_map import system_map

__all__ = [
    "Choice",
    "Compared",
    "Drawing",
    "Explorer",
    "Gallery",
    "Noising",
    "Question",
    "Quiz",
    "Table",
    "channels",
    "compare",
    "environment",
    "explore",
    "film_strip",
    "gallery",
    "matrix",
    "noising",
    "quiz",
    "schedule_curve",
    "sheet",
    "system_map",
]
