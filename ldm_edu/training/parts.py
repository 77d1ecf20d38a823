"""What the training of a U-Net starts from: the parts that are trained before it, and a U-Net with fresh weights."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ldm_edu.checkpoint.find import find_checkpoint
from ldm_edu.checkpoint.io import CheckpointError, Tensors, load_into, load_preset, load_tensors
from ldm_edu.checkpoint.published import is_published, load_published
from ldm_edu.config import Preset
from ldm_edu.models.autoencoder import AutoencoderKL
from ldm_edu.models.clip import TextEncoder
from ldm_edu.models.unet import UNet

BEFORE = ("autoencoder", "text")  # trained before the U-Net, and kept


@dataclass(frozen=True)
class Parts:
    """A preset with its latent scale as measured, and the networks that are kept."""

    preset: Preset
    autoencoder: AutoencoderKL
    text: TextEncoder


def load_parts(name: str | Path, preset: Preset, device: torch.device) -> Parts:
    """The autoencoder and the text encoder of a checkpoint: one of ours, or Stable Diffusion 1.x as published.

    Raises
    ------
    CheckpointError
        if there is none, it is damaged, or made for another preset.
    """
    if preset.autoencoder is None or preset.text is None:
        raise CheckpointError(
            f"the preset {preset.name} has no autoencoder or no text encoder: there are no latents and no captions to "
            "learn from; choose toy, shapes, emoji or sd15"
        )
    path = find_checkpoint(name)
    if is_published(path):
        tensors = load_published(path, preset)
    else:
        preset = same_model(load_preset(path), preset, path, parts=BEFORE)
        tensors = {part: load_tensors(path, part) for part in BEFORE}
    assert preset.autoencoder is not None and preset.text is not None  # for the type checker
    autoencoder, text = AutoencoderKL(preset.autoencoder), TextEncoder(preset.text)
    load_into(autoencoder, tensors["autoencoder"], f"the autoencoder of {path}")
    load_into(text, tensors["text"], f"the text encoder of {path}")
    for network in (autoencoder, text):
        network.to(device).eval().requires_grad_(False)
    return Parts(preset, autoencoder, text)


def same_model(found: Preset, wanted: Preset, where: Path, *, parts: tuple[str, ...] = ()) -> Preset:
    """``wanted`` with the latent scale that was measured for the autoencoder of the checkpoint ``where``.

    Parameters
    ----------
    found
        the preset that the checkpoint was saved with.
    parts
        the fields that must be the same in both; none named: all.

    Raises
    ------
    CheckpointError
        if another field differs, naming it.
    """
    if found.autoencoder is not None and wanted.autoencoder is not None:
        scale, shift = found.autoencoder.scale, found.autoencoder.shift
        wanted = dataclasses.replace(
            wanted, autoencoder=dataclasses.replace(wanted.autoencoder, scale=scale, shift=shift)
        )
    names = parts or tuple(field.name for field in dataclasses.fields(Preset))
    if other := [name for name in names if getattr(found, name) != getattr(wanted, name)]:
        raise CheckpointError(
            f"{where} was made for the preset {found.name}, not {wanted.name}: {', '.join(other)} "
            f"{'differs' if len(other) == 1 else 'differ'}. Give --preset {found.name}, or another folder."
        )
    return wanted


def load_published_unet(name: str | Path, preset: Preset) -> Tensors | None:
    """The U-Net of a published checkpoint; None where the checkpoint is one of ours.

    Raises
    ------
    CheckpointError
        if it is damaged or another model's.
    """
    path = find_checkpoint(name)
    return load_published(path, preset)["unet"] if is_published(path) else None


def new_unet(preset: Preset, device: torch.device, *, channels_last: bool = True) -> UNet:
    """A U-Net with random weights, ready to be trained; torch's random state decides them.

    ``channels_last``: its convolutions are quicker so; weights that will be sharded must stay as they are.
    """
    model = UNet(preset.unet).to(device)
    if channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    nn.init.zeros_(model.conv_out.weight)  # the first prediction is 0, its mean: training starts calm
    return model
