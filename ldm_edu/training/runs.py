"""A run of training, from the name of a preset to the files of a checkpoint.

The parts of a model are trained one after the other into one checkpoint folder: first the autoencoder, then CLIP, then
the U-Net, which reads both. Each run's own state, by which it resumes, lies in a folder of its own.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ldm_edu.build import build
from ldm_edu.checkpoint.find import find_checkpoint
from ldm_edu.checkpoint.io import load_preset, load_tensors, save_checkpoint, save_tensors
from ldm_edu.classifiers import load_classifier, save_classifier
from ldm_edu.codec import LatentCodec
from ldm_edu.config import Preset, UNetPreset
from ldm_edu.datasets.emoji import STYLES, emoji_labels
from ldm_edu.datasets.fashion import FashionTensors, fashion_tensors
from ldm_edu.families import family_of, unet_preset
from ldm_edu.models.autoencoder import AutoencoderKL
from ldm_edu.models.classifier import Classifier
from ldm_edu.models.clip import CLIP, TextEncoder
from ldm_edu.schedule import make_schedule
from ldm_edu.training import sources
from ldm_edu.training.diffusion import DiffusionTask, whole_batches
from ldm_edu.training.fingerprints import fingerprint, latent_fingerprint, text_fingerprint
from ldm_edu.training.guard import (
    origin,
    refuse_another_classifier,
    refuse_another_model,
    refuse_under_unet,
    settings,
)
from ldm_edu.training.parts import load_unet, new_unet, ready_to_learn, same_model
from ldm_edu.training.recipes import (
    AutoencoderRecipe,
    ClassifierRecipe,
    ClipRecipe,
    DecoderRecipe,
    Recipe,
    UNetRecipe,
)
from ldm_edu.training.state import ONE_FILE, Store, Task
from ldm_edu.training.tasks import AutoencoderTask, ClassifierTask, ClipTask, DecoderTask
from ldm_edu.weights.fit import load_into


@dataclass(frozen=True)
class Run:
    """Something to train: hand ``task``, ``steps``, ``seed`` and ``store`` to `train`, then call ``export``."""

    task: Task
    recipe: Recipe
    export: Callable[[], None]  # writes the trained part into the checkpoint folder
    settings: dict[str, Any]  # what decides its curve: see `same_settings`
    store: Store = ONE_FILE

    @property
    def steps(self) -> int:
        """Steps in all."""
        return self.recipe.steps

    @property
    def seed(self) -> int:
        """What each step draws its batch and its noise from."""
        return self.recipe.seed

    @property
    def batch(self) -> int:
        """Pictures a step."""
        return self.recipe.batch


def autoencoder_run(
    preset: UNetPreset, recipe: AutoencoderRecipe, folder: Path, device: torch.device, *, perceptual: str | Path
) -> Run:
    """Train the autoencoder of a preset; its export starts the checkpoint ``folder`` and measures the latent scale.

    ``perceptual`` names the classifier whose features the perceptual loss compares; unused where its weight is 0.

    Raises
    ------
    CheckpointError
        if ``folder`` holds another model, or a U-Net that was trained on another autoencoder.
    """
    assert preset.autoencoder is not None, f"the preset {preset.name} has no autoencoder"
    refuse_another_model(folder, preset)
    refuse_under_unet(folder, "vae", "autoencoder")
    torch.manual_seed(recipe.seed)
    model = AutoencoderKL(preset.autoencoder).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    judge = load_classifier(perceptual).model.to(device) if recipe.perceptual else None
    task = AutoencoderTask(model, sources.pictures(preset), recipe, perceptual=judge)

    def export() -> None:
        trained: AutoencoderKL = task.ema.model  # type: ignore[assignment]
        scale, shift = sources.measure_scale(sources.encode_all(trained, sources.captioned_pictures(preset, 1)))
        config = dataclasses.replace(trained.config, scale=round(scale, 5), shift=round(shift, 5))
        save_checkpoint(folder, dataclasses.replace(preset, autoencoder=config), {"autoencoder": trained.state_dict()})

    told = settings(recipe, preset=preset.name, perceptual_network=fingerprint(judge) if judge else None)
    return Run(task, recipe, export, told)


def decoder_run(
    preset: UNetPreset, recipe: DecoderRecipe, folder: Path, device: torch.device, *, perceptual: str | Path
) -> Run:
    """Train the decoder of the checkpoint ``folder``'s autoencoder on; its encoder and its latents stay.

    Raises
    ------
    CheckpointError
        if there is no autoencoder in ``folder``, or one of another preset.
    """
    torch.manual_seed(recipe.seed)
    config = same_model(unet_preset(load_preset(folder)), preset, folder).autoencoder
    assert config is not None, f"the preset {preset.name} has no autoencoder"
    model = AutoencoderKL(config)
    load_into(model, load_tensors(folder, "autoencoder"), f"the autoencoder of {folder}")
    model.float().to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    judge = load_classifier(perceptual).model.to(device) if recipe.perceptual else None
    task = DecoderTask(model, sources.pictures(preset), recipe, perceptual=judge)
    network = fingerprint(judge) if judge else None
    rests_on = {"perceptual_network": network, "latent encoder": latent_fingerprint(model)}
    told = settings(recipe, preset=preset.name, **rests_on)
    return Run(task, recipe, lambda: save_tensors(folder, "autoencoder", task.trained()), told)


def classifier_run(recipe: ClassifierRecipe, folder: Path, device: torch.device) -> Run:
    """Train a classifier of emoji.

    Raises
    ------
    CheckpointError
        if ``folder`` holds another classifier, or a model.
    """
    refuse_another_classifier(folder, recipe.config)
    torch.manual_seed(recipe.seed)
    model = Classifier(recipe.config).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    task = ClassifierTask(model, sources.labelled_pictures(core=recipe.core, held_out=recipe.held_out), recipe)
    seen = f"{'core' if recipe.core else 'all'} concepts, held-out pictures {'too' if recipe.held_out else 'excluded'}"

    def export() -> None:
        trained: Classifier = task.ema.model  # type: ignore[assignment]
        save_classifier(folder, trained, emoji_labels(), STYLES, trained_on=seen)

    return Run(task, recipe, export, settings(recipe))


def clip_run(
    preset: UNetPreset, recipe: ClipRecipe, folder: Path, device: torch.device, *, start: str | Path | None = None
) -> Run:
    """Train CLIP; its export adds both towers to the checkpoint ``folder``.

    ``start`` : a checkpoint whose CLIP is trained on, by name or folder; left out, training starts from random weights.

    Raises
    ------
    CheckpointError
        if ``folder`` holds another model, or a U-Net that was trained on another text encoder.
    """
    assert preset.text and preset.vision and preset.embed_dim, f"the preset {preset.name} has no CLIP to train"
    refuse_another_model(folder, preset)
    refuse_under_unet(folder, "clip", "text encoder")
    torch.manual_seed(recipe.seed)
    model = CLIP(preset.text, preset.vision, preset.embed_dim)
    if start is not None:
        start = find_checkpoint(start)
        towers = {f"{part}.{name}": t for part in ("text", "vision") for name, t in load_tensors(start, part).items()}
        load_into(model, towers | load_tensors(start, "clip"), f"the CLIP of {start}")
    model.float().to(device)
    task = ClipTask(model, sources.caption_pairs(preset, partial=recipe.partial, composed=recipe.composed), recipe)

    def export() -> None:
        save_tensors(folder, "text", model.text.state_dict())
        save_tensors(folder, "vision", model.vision.state_dict())
        joint = {k: v for k, v in model.state_dict().items() if not k.startswith(("text.", "vision."))}
        save_tensors(folder, "clip", joint)

    told = settings(recipe, preset=preset.name, start=origin(start, folder, model))
    return Run(task, recipe, export, told)


def unet_run(
    preset: UNetPreset, recipe: UNetRecipe, folder: Path, device: torch.device, *, start: str | Path | None = None
) -> Run:
    """Train the U-Net on the latents of the checkpoint ``folder``'s autoencoder, with its text encoder or a new one.

    ``start`` : a checkpoint whose U-Net is trained on, by name, folder or file; left out, training starts from random
    weights.

    Raises
    ------
    CheckpointError
        if the parts that are trained before are not in ``folder``, or were trained for another preset.
    """
    torch.manual_seed(recipe.seed)
    preset = same_model(unet_preset(load_preset(folder)), preset, folder)
    assert preset.autoencoder and preset.text, f"the preset {preset.name} has no autoencoder or no text"
    encoder = TextEncoder(preset.text).to(device)
    if not recipe.joint_text:
        load_into(encoder, load_tensors(folder, "text"), f"the text encoder of {folder}")
        encoder.to(device).requires_grad_(False)
    model = new_unet(preset, device)
    if start is not None:
        start = find_checkpoint(start)
        load_unet(model, start, preset)
    autoencoder = AutoencoderKL(preset.autoencoder)
    load_into(autoencoder, load_tensors(folder, "autoencoder"), f"the autoencoder of {folder}")
    rests_on = {"start": origin(start, folder, model), "latent encoder": latent_fingerprint(autoencoder)}
    if not recipe.joint_text:
        rests_on["text encoder"] = text_fingerprint(encoder)
    told = settings(recipe, preset=preset.name, **rests_on)
    captioned = sources.captioned_pictures(preset, composed=recipe.composed > 0)
    raw = sources.cached_latents(
        autoencoder.to(device), captioned, folder / "training" / "unet" / "latents.safetensors"
    )
    latents = LatentCodec(autoencoder).scaled(raw)
    batches = sources.diffusion_batches(
        preset,
        captioned,
        latents,
        encoder,
        drop=recipe.drop,
        partial=recipe.partial,
        joint=recipe.joint_text,
        narrow_from=recipe.narrow_from,
        others=recipe.others,
        composed=recipe.composed,
    )
    learning = encoder if recipe.joint_text else None
    schedule = make_schedule(preset.schedule)
    source = whole_batches(batches, recipe.batch, schedule)
    task = DiffusionTask(model, schedule, preset.prediction, source, recipe, encoder=learning)

    def export() -> None:
        averaged = task.ema.model
        if recipe.joint_text:
            save_tensors(folder, "text", averaged["text"].state_dict())  # type: ignore[index]
            averaged = averaged["unet"]  # type: ignore[index]
        save_tensors(folder, "unet", averaged.state_dict())

    return Run(task, recipe, export, told)


def pixels_run(preset: Preset, recipe: UNetRecipe, folder: Path, device: torch.device) -> Run:
    """Train a class-conditional network on pixels; its export writes the whole checkpoint ``folder``.

    Raises
    ------
    CheckpointError
        if ``folder`` holds another model.
    """
    refuse_another_model(folder, preset)
    task = pixels_task(preset, recipe, fashion_tensors("train"), device)

    def export() -> None:
        averaged = {name: part.state_dict() for name, part in pixels_parts(task, preset).items()}
        save_checkpoint(folder, preset, averaged)

    return Run(task, recipe, export, settings(recipe, preset=preset.name))


def pixels_task(preset: Preset, recipe: UNetRecipe, data: FashionTensors, device: torch.device) -> DiffusionTask:
    """A new network, learning from pictures and their labels; the recipe's seed decides its first weights.

    A table of classes that is a network of its own learns along.

    Raises
    ------
    ValueError
        if the preset is none of pixels and classes.
    """
    family = family_of(preset)
    torch.manual_seed(recipe.seed)
    networks = build(preset)
    if set(networks) - {family.network, "classes"}:
        raise ValueError(f"the preset {preset.name} does not draw pixels from classes; choose fashion or toy_dit")
    network = ready_to_learn(networks[family.network], device)
    conditioner = family.conditioner(preset, networks)
    table = networks["classes"].to(device) if "classes" in networks else None
    schedule = make_schedule(preset.schedule)
    batches = sources.class_batches(data.images, data.labels, conditioner, drop=recipe.drop)
    source = whole_batches(batches, recipe.batch, schedule)
    return DiffusionTask(network, schedule, preset.prediction, source, recipe, encoder=table)  # type: ignore[arg-type]


def pixels_parts(task: DiffusionTask, preset: Preset) -> dict[str, nn.Module]:
    """The averaged networks of a `pixels_task`, by the names of a checkpoint's parts."""
    averaged, network = task.ema.model, family_of(preset).network
    if not isinstance(averaged, nn.ModuleDict):
        return {network: averaged}
    return {network: averaged["unet"], "classes": averaged["text"]}
