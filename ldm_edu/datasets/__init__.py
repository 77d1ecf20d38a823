"""Readers of the shipped data, as ``datasets.Dataset``; nothing is downloaded and nothing is cached."""

from ldm_edu.datasets.backgrounds import background, background_names, composite, random_backgrounds
from ldm_edu.datasets.emoji import EmojiSplits, EmojiTensors, emoji, emoji_labels, emoji_splits, emoji_tensors

__all__ = [
    "EmojiSplits",
    "EmojiTensors",
    "background",
    "background_names",
    "composite",
    "emoji",
    "emoji_labels",
    "emoji_splits",
    "emoji_tensors",
    "random_backgrounds",
]
