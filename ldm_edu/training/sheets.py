"""Sample sheets: what a model in training can do so far, always of the same captions and seeds."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ldm_edu.checkpoint.io import load_preset, load_tensors
from ldm_edu.families import unet_preset
from ldm_edu.model import LatentDiffusion
from ldm_edu.models.autoencoder import AutoencoderKL
from ldm_edu.pictures import save_png, sheet, to_pil
from ldm_edu.prompts import escape
from ldm_edu.training.sources import captioned_pictures
from ldm_edu.weights.fit import load_into

COUNT = 16
CLASSES = 10  # of clothes


@torch.no_grad()
def decoded(folder: Path) -> tuple[list[str], list[Tensor]]:
    """Captions and pictures: every picture of the training set beside its reconstruction."""
    preset = unet_preset(load_preset(folder))
    assert preset.autoencoder is not None
    model = AutoencoderKL(preset.autoencoder)
    load_into(model, load_tensors(folder, "autoencoder"), f"the autoencoder of {folder}")
    captioned = captioned_pictures(preset, 1)
    rows = captioned.base[torch.linspace(0, len(captioned.base) - 1, COUNT // 2).long()]
    images = captioned.images(rows)
    again = model.decode(model.encode(images).mode)
    pairs = [picture for pair in zip(images, again, strict=True) for picture in pair]
    return [caption for i in rows for caption in (captioned.captions[i], "decoded")], pairs


@torch.no_grad()
def drawn(
    folder: Path, captions: Sequence[str] = (), *, device: torch.device | str = "cpu"
) -> tuple[list[str], list[Tensor]]:
    """Captions and pictures drawn from them, 20 steps at guidance 4 (2 for classes).

    ``captions`` left out: those of the preset's own pictures.
    """
    model = LatentDiffusion.from_pretrained(folder, device=device)
    if model.codec.factor == 1:  # pixels, and classes
        labels = [place % CLASSES for place in range(COUNT)]
        *_, last = model.generate(labels, seeds=list(range(COUNT)), steps=20, guidance=2.0)
        return [f"class {label}" for label in labels], list(model.decode(last.x))
    if not captions:
        own = captioned_pictures(unet_preset(model.preset), 1)
        captions = [own.captions[i] for i in own.starter[torch.linspace(0, len(own.starter) - 1, COUNT).long()]]
    prompts = [escape(caption) for caption in captions]  # the text encoder has learned brackets as they stand
    *_, last = model.generate(prompts, seeds=range(len(captions)), steps=20, guidance=4.0)
    return list(captions), list(model.decode(last.x))


def save_sheet(path: Path, captions: Sequence[str], images: Sequence[Tensor]) -> None:
    """Pictures (3, H, W) under one another's captions, as a PNG.

    Raises
    ------
    SaveError
        if the disk refuses.
    """
    save_png(path, sheet([to_pil(image) for image in images], captions))
