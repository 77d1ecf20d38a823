"""A toy run of every trainer, built as the commands build it: the real tasks, whose convolutions are channels-last."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ldm_edu.config import ClassifierConfig
from ldm_edu.families import FASHION, TOY
from ldm_edu.model import LatentDiffusion
from ldm_edu.training import recipes
from ldm_edu.training.diffusion import Share
from ldm_edu.training.parts import load_parts
from ldm_edu.training.runs import (
    Run,
    autoencoder_run,
    classifier_run,
    clip_run,
    decoder_run,
    pixels_run,
    unet_run,
)
from ldm_edu.training.scale_run import How, cached, scale_run
from ldm_edu.training.sharded import SHARDS
from ldm_edu.training.state import Store, Task, load_state, save_state

CPU = torch.device("cpu")
# every loss of the autoencoder from an early step on, so that the discriminator's moments are in the state too
VAE = dataclasses.replace(recipes.AUTOENCODERS["toy"], perceptual=0.05, adversarial=0.002, adversarial_from=0.2)
SMALL = dataclasses.replace(recipes.CLASSIFIERS["perceptual"], config=ClassifierConfig(1386, 6, 16, (1, 1)), batch=4)
UNET = recipes.UNETS["toy"]


def write_home(folder: Path) -> Path:
    """What the later trainers need: a toy model's parts, and a few pictures with captions."""
    LatentDiffusion.from_preset(TOY).save(folder / "parts")
    (folder / "pictures").mkdir()
    for i in range(6):
        Image.new("RGB", (24, 16) if i % 3 == 1 else (16, 16), (40 * i, 255 - 40 * i, 90)).save(
            folder / "pictures" / f"{i}.png"
        )
        (folder / "pictures" / f"{i}.txt").write_text(f"a field of colour {i}")
    return folder


def own_pictures(home: Path, out: Path) -> Run:
    share, parts = Share(UNET.batch), load_parts(home / "parts", TOY, CPU)
    cache = cached(home / "pictures", home / "cache", parts, share, size=16)
    return scale_run(parts, UNET, cache, out, out / "training" / "unet", How(share), size=16)


def joint_unet(home: Path, out: Path) -> Run:
    return unet_run(TOY, dataclasses.replace(UNET, joint_text=True), home / "parts", CPU)


def fashion(home: Path, out: Path) -> Run:
    return pixels_run(FASHION, dataclasses.replace(recipes.UNETS["fashion"], batch=2), out, CPU)


TRAINERS: dict[str, Callable[[Path, Path], Run]] = {
    "vae": lambda home, out: autoencoder_run(TOY, VAE, out, CPU, perceptual="perceptual"),
    "decoder": lambda home, out: decoder_run(TOY, recipes.DECODERS["toy"], home / "parts", CPU, perceptual="judge"),
    "clip": lambda home, out: clip_run(TOY, recipes.CLIPS["toy"], out, CPU),
    "classifier": lambda home, out: classifier_run(SMALL, out, CPU),
    "unet": lambda home, out: unet_run(TOY, UNET, home / "parts", CPU),
    "unet with its text encoder": joint_unet,
    "unet on pixels": fashion,
    "unet on own pictures": own_pictures,
}


def store_of(name: str) -> Store:
    return SHARDS if name == "unet on own pictures" else Store(save_state, load_state)


def whole_state(task: Task) -> dict[str, Tensor]:
    """Every weight and every moment of a task, copied."""
    weights = {
        f"{name}/{key}": value for name, module in task.modules.items() for key, value in module.state_dict().items()
    }
    for name, optimizer in task.optimizers.items():
        for index, moments in optimizer.state_dict()["state"].items():
            weights |= {f"{name}/{index}/{moment}": value for moment, value in moments.items()}
    return {name: value.clone() for name, value in weights.items()}
