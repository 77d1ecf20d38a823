"""What the training of a U-Net starts from: the parts that are trained before it, and a U-Net with fresh weights."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from ldm_edu.checkpoint.fill import fill
from ldm_edu.checkpoint.find import find_checkpoint
from ldm_edu.checkpoint.io import load_preset, load_tensors
from ldm_edu.checkpoint.open import open_checkpoint, with_scale_of
from ldm_edu.config import Preset, UNetPreset
from ldm_edu.models.autoencoder import AutoencoderKL
from ldm_edu.models.clip import TextEncoder
from ldm_edu.models.unet import UNet
from ldm_edu.weights.errors import CheckpointError
from ldm_edu.weights.fit import load_into

P = TypeVar("P", bound=Preset)
Trained = TypeVar("Trained", bound=nn.Module)
BEFORE = ("autoencoder", "text")  # trained before the U-Net, and kept
UNET = ("unet", "prediction", "schedule")  # what makes U-Nets the same


@dataclass(frozen=True)
class Parts:
    """A preset with its latent scale as measured, and the networks that are kept."""

    preset: UNetPreset
    autoencoder: AutoencoderKL
    text: TextEncoder


def load_parts(name: str | Path, preset: UNetPreset, device: torch.device) -> Parts:
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
    published = open_checkpoint(path) if _is_published(path) else None
    preset = same_model(published.preset if published else load_preset(path), preset, path, parts=BEFORE)
    assert preset.autoencoder is not None and preset.text is not None  # for the type checker
    with torch.device("meta"):
        autoencoder, text = AutoencoderKL(preset.autoencoder), TextEncoder(preset.text)
    for part, network in zip(BEFORE, (autoencoder, text), strict=True):
        if published:
            fill(network, published.parts[part])
        else:  # which may have no U-Net yet
            load_into(network, load_tensors(path, part), f"the {part} of {path}")
    for network in (autoencoder, text):
        network.to(device).eval().requires_grad_(False)
    return Parts(preset, autoencoder, text)


def same_model(found: Preset, wanted: P, where: Path, *, parts: tuple[str, ...] = ()) -> P:
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
    wanted = with_scale_of(found, wanted)
    names = parts or tuple(field.name for field in dataclasses.fields(wanted))
    if other := [name for name in names if getattr(found, name, None) != getattr(wanted, name)]:
        raise CheckpointError(
            f"{where} was made for the preset {found.name}, not {wanted.name}: {', '.join(other)} "
            f"{'differs' if len(other) == 1 else 'differ'}. Give --preset {found.name}, or another folder."
        )
    return wanted


def load_unet(model: UNet, name: str | Path, preset: UNetPreset) -> None:
    """Make the U-Net of a checkpoint, ours or a published one, the weights of ``model``, in float32.

    Raises
    ------
    CheckpointError
        if there is none, it is damaged, or another model's.
    """
    path = find_checkpoint(name)
    if _is_published(path):
        found = open_checkpoint(path)
        same_model(found.preset, preset, path, parts=UNET)
        with torch.device("meta"):
            there = UNet(preset.unet)
        fill(there, found.parts["unet"])
        model.load_state_dict(there.state_dict())  # a copy: what is mapped from a file must not be trained
    else:
        same_model(load_preset(path), preset, path, parts=UNET)
        load_into(model, load_tensors(path, "unet"), f"the U-Net of {path}")


def _is_published(path: Path) -> bool:
    """Whether it is one file, or a folder in diffusers' layout."""
    return path.is_file() or (path / "model_index.json").is_file() or (path / "unet").is_dir()


def new_unet(preset: UNetPreset, device: torch.device, *, channels_last: bool = True) -> UNet:
    """A U-Net with random weights, ready to be trained; torch's random state decides them."""
    return ready_to_learn(UNet(preset.unet), device, channels_last=channels_last)


def ready_to_learn(network: Trained, device: torch.device, *, channels_last: bool = True) -> Trained:
    """A fresh network on its device, with a first prediction of 0, which is the mean: training starts calm.

    ``channels_last``: convolutions are quicker so; weights that will be sharded must stay as they are.
    """
    network.to(device)
    if channels_last:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if isinstance(network, UNet):  # a transformer starts so by itself
        nn.init.zeros_(network.conv_out.weight)
    return network
