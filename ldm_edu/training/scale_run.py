"""A run on a person's own pictures, from a folder to a checkpoint: the cache is filled, then the U-Net is trained."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ldm_edu.checkpoint.io import save_checkpoint
from ldm_edu.config import Preset
from ldm_edu.datasets.folder import CaptionedPictures, read_pictures
from ldm_edu.files import atomic_write_text
from ldm_edu.nn.precision import autocast
from ldm_edu.tokenizer import Tokenizer
from ldm_edu.training.buckets import Order, bucket_sizes
from ldm_edu.training.cache import SHARD, Cache, fill_cache, fingerprint, read_index, stale, start_cache
from ldm_edu.training.parallel import Precision, Way, is_main, patient_wait, wait
from ldm_edu.training.parts import Parts, load_unet, new_unet
from ldm_edu.training.recipes import UNetRecipe
from ldm_edu.training.runs import Run
from ldm_edu.training.scale import ScaledTask, Share
from ldm_edu.training.sharded import whole_states, whole_weights

EXPORT_BYTES = 2**30  # a file of an exported checkpoint, at most


@dataclass(frozen=True)
class How:
    """What may differ from start to start of one run without changing its curve, but for rounding."""

    share: Share
    way: Way = "ddp"
    recompute: bool = False  # gradient checkpointing


def cached(
    source: str | Path,
    folder: Path,
    parts: Parts,
    share: Share,
    *,
    size: int,
    progress: Callable[[int, int], object] = lambda done, total: None,
    shard: int = SHARD,
) -> Cache:
    """The latents and text states of some pictures: read from ``folder``, or made there by all processes together.

    Parameters
    ----------
    source
        pictures, as `read_pictures` takes them; or a finished cache's own folder, where the pictures are not at hand.
    parts
        the networks that make it.
    size
        side of the square bucket in pixels; the others have about its area.
    progress
        called in the main process with pictures and captions done, and of how many in this process.

    Raises
    ------
    ValueError
        if a picture or the cache cannot be used, with what to do.
    SaveError
        if the disk refuses; what has been made stays.
    """
    preset = parts.preset
    networks = {
        "autoencoder": fingerprint(parts.autoencoder, note=str(preset.autoencoder)),
        "text encoder": fingerprint(parts.text, note=str(preset.text)),
    }
    if (Path(source) / "index.json").is_file():
        cache = Cache(Path(source))
        if other := stale(cache.index, networks):
            raise ValueError(f"the cache {source} was made with other weights ({', '.join(other)}); give its --parts")
        return cache
    assert preset.autoencoder is not None
    until_all = patient_wait()
    pictures: CaptionedPictures | None = None
    if is_main():
        pictures = read_pictures(source)
        sizes = bucket_sizes(size, preset.autoencoder.factor * preset.unet.factor)
        start_cache(folder, pictures, sizes, networks, shard=shard)
    until_all()
    if any(not (folder / name).exists() for name, *_ in read_index(folder).files()):
        encode, embed = partial(_encode, parts), partial(_embed, parts)
        pictures = pictures or read_pictures(source)
        for done, total in fill_cache(folder, pictures, encode, embed, part=share.rank, parts=share.world):
            if is_main():
                progress(done, total)
    until_all()
    return Cache(folder)


@torch.no_grad()
def _encode(parts: Parts, pictures: Tensor) -> Tensor:
    device = parts.autoencoder.quant.weight.device
    config = parts.autoencoder.config
    with autocast(device):
        raw = parts.autoencoder.encode(pictures.to(device)).mode.float()
    return (raw - config.shift) * config.scale


@torch.no_grad()
def _embed(parts: Parts, captions: Sequence[str], at_once: int = 64) -> Tensor:
    config = parts.text.config
    tokens = Tokenizer(config.vocab, config.length)(list(captions))
    device = parts.text.position.device
    return torch.cat([parts.text(rows.to(device)).last.float().cpu() for rows in tokens.split(at_once)])


def scale_run(
    parts: Parts,
    recipe: UNetRecipe,
    cache: Cache,
    folder: Path,
    state: Path,
    how: How,
    *,
    size: int,
    precision: Precision = "bf16",
    start: Path | None = None,
    device: torch.device | None = None,
) -> Run:
    """Train a U-Net on a cache; its export writes the whole checkpoint ``folder``.

    Parameters
    ----------
    state
        where the run's own state is kept; what decides its curve is written there, and must stay the same.
    start
        a checkpoint whose U-Net is trained on; left out, training starts from random weights.

    Raises
    ------
    ValueError
        if ``state`` belongs to a run with other settings, naming them.
    """
    device = device or torch.device("cpu")
    preset = dataclasses.replace(parts.preset, size=size)
    _same_settings(state, preset, recipe, cache, precision)
    torch.manual_seed(recipe.seed)
    model = new_unet(preset, device, channels_last=how.way == "ddp")
    if start is not None:
        load_unet(model, start, preset)
    order = Order(cache.index.counts, batch=recipe.batch, steps=recipe.steps, seed=recipe.seed)
    task = ScaledTask(
        model, preset, cache, order, recipe, how.share, way=how.way, precision=precision, recompute=how.recompute
    )

    def export() -> None:
        averaged = whole_weights(task.average)
        if is_main():
            kept = {"autoencoder": parts.autoencoder.state_dict(), "text": parts.text.state_dict()}
            save_checkpoint(folder, preset, {"unet": averaged, **kept}, shard_bytes=EXPORT_BYTES)
        wait()

    return Run(task, recipe.steps, recipe.seed, export)


def _same_settings(state: Path, preset: Preset, recipe: UNetRecipe, cache: Cache, precision: Precision) -> None:
    """Write what decides the curve of a run; a run that is resumed must have the same."""
    if (state / "state.safetensors").exists():
        raise ValueError(f"{state} holds a run without --data; give another --out, or remove that folder to start anew")
    settings = json.loads(json.dumps(dict(_settings(preset, recipe, cache, precision))))
    path = state / "run.json"
    if whole_states(state) and path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        if changed := [f"{k} was {before.get(k)}, not {v}" for k, v in settings.items() if before.get(k) != v]:
            raise ValueError(
                f"{state} holds a run with other settings: {'; '.join(changed)}. Give the same to resume it, or "
                "another --out to start anew"
            )
    elif is_main():
        atomic_write_text(path, json.dumps(settings, indent=1) + "\n")
    wait()


def _settings(preset: Preset, recipe: UNetRecipe, cache: Cache, precision: Precision) -> Iterator[tuple[str, object]]:
    yield "preset", preset.name
    yield "size", preset.size
    yield "precision", precision
    yield from ((name, value) for name, value in dataclasses.asdict(recipe).items() if name != "steps")
    yield from cache.index.made_from.items()
