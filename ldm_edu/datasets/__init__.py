"""Readers of the shipped data, as ``datasets.Dataset`` and as tensors; nothing is downloaded and nothing is cached."""

from ldm_edu.datasets.backgrounds import background, background_names, composite, random_backgrounds
from ldm_edu.datasets.emoji import EmojiSplits, EmojiTensors, emoji, emoji_labels, emoji_splits, emoji_tensors
from ldm_edu.datasets.fashion import FASHION_CLASSES, FashionTensors, fashion_mnist, fashion_tensors
from ldm_edu.datasets.shapes import ShapesTensors, shapes, shapes_tensors
from ldm_edu.datasets.shapes_check import CaptionScore, caption_accuracy, check_caption

__all__ = [
    "FASHION_CLASSES",
    "CaptionScore",
    "EmojiSplits",
    "EmojiTensors",
    "FashionTensors",
    "ShapesTensors",
    "background",
    "background_names",
    "caption_accuracy",
    "check_caption",
    "composite",
    "emoji",
    "emoji_labels",
    "emoji_splits",
    "emoji_tensors",
    "fashion_mnist",
    "fashion_tensors",
    "random_backgrounds",
    "shapes",
    "shapes_tensors",
]
