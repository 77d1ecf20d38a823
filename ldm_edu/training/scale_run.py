"""A run on a person's own pictures, from a folder to a checkpoint: the cache is filled, then the U-Net is trained."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from ldm_edu.checkpoint.find import find_checkpoint
from ldm_edu.checkpoint.io import save_checkpoint
from ldm_edu.codec import LatentCodec
from ldm_edu.datasets.folder import CaptionedPictures, read_pictures
from ldm_edu.schedule import make_schedule
from ldm_edu.training.buckets import Order, bucket_sizes
from ldm_edu.training.cache import SHARD, Cache, fill_cache, read_index, stale, start_cache
from ldm_edu.training.cached import CachedBatches
from ldm_edu.training.diffusion import DiffusionTask, Share
from ldm_edu.training.fingerprints import latent_fingerprint, text_fingerprint
from ldm_edu.training.guard import origin, refuse_another_model, same_settings, settings
from ldm_edu.training.parallel import Precision, Way, is_main, patient_wait, wait
from ldm_edu.training.parts import Parts, load_unet, new_unet
from ldm_edu.training.recipes import UNetRecipe
from ldm_edu.training.runs import Run
from ldm_edu.training.sharded import SHARDS, whole_weights
from ldm_edu.training.sources import raw_latents, text_states, tokenizer_for

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
    tell: Callable[[str], object] = lambda sentence: None,
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
    tell
        called there with a sentence if captions are longer than the text encoder's window, when they are first read.

    Raises
    ------
    ValueError
        if a picture or the cache cannot be used, with what to do.
    SaveError
        if the disk refuses; what has been made stays.
    """
    preset = parts.preset
    networks = {
        "latent encoder": latent_fingerprint(parts.autoencoder),
        "text encoder": text_fingerprint(parts.text),
    }
    if (Path(source) / "index.json").is_file():
        cache = Cache(Path(source), share.rank, share.world)
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
        codec = LatentCodec(parts.autoencoder)
        pictures = pictures or read_pictures(source)
        if is_main() and (sentence := _cut(parts, pictures.captions)):
            tell(sentence)
        for done, total in fill_cache(
            folder,
            pictures,
            lambda images: codec.scaled(raw_latents(parts.autoencoder, images)),
            partial(text_states, parts.text),
            part=share.rank,
            parts=share.world,
        ):
            if is_main():
                progress(done, total)
    until_all()
    return Cache(folder, share.rank, share.world)


def _cut(parts: Parts, captions: Sequence[str]) -> str | None:
    """How many of the different captions are not learned whole."""
    tokenizer, different = tokenizer_for(parts.text.config), set(captions)
    if not (cut := sum(tokenizer.truncated(caption) is not None for caption in different)):
        return None
    are = "is" if cut == 1 else "are"
    window = f"the text encoder's window of {tokenizer.length} tokens"
    return f"{cut} of {len(different)} captions {are} longer than {window}; what comes after it is not learned"


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
    start: str | Path | None = None,
    device: torch.device | None = None,
    tell: Callable[[str], object] = lambda sentence: None,
) -> Run:
    """Train a U-Net on a cache; its export writes the whole checkpoint ``folder``.

    Parameters
    ----------
    state
        where the run's own state is kept; what decides its curve is written there, and must stay the same.
    start
        a checkpoint whose U-Net is trained on; left out, training starts from random weights.
    tell
        as `same_settings` takes it.

    Raises
    ------
    ValueError
        if ``state`` belongs to a run with other settings, naming them, or ``folder`` holds another model.
    """
    device = device or torch.device("cpu")
    preset = dataclasses.replace(parts.preset, size=size)
    refuse_another_model(folder, preset, but=("size",))
    torch.manual_seed(recipe.seed)
    model = new_unet(preset, device, channels_last=how.way == "ddp")
    if start is not None:
        start = find_checkpoint(start)
        load_unet(model, start, preset)
    begun = {"preset": preset.name, "size": size, "precision": precision, "start": origin(start, folder, model)}
    told = settings(recipe, **begun, **cache.index.made_from)
    same_settings(state, told, with_data=True, may_write=is_main(), tell=tell)
    wait()
    order = Order(cache.index.counts, batch=recipe.batch, steps=recipe.steps, seed=recipe.seed)
    schedule = make_schedule(preset.schedule)
    task = DiffusionTask(
        model,
        schedule,
        preset.prediction,
        CachedBatches(cache, order, schedule, how.share, recipe.drop),
        recipe,
        share=how.share,
        way=how.way,
        precision=precision,
        recompute=how.recompute,
    )

    def export() -> None:
        averaged = whole_weights(task.ema.model)
        if is_main():
            kept = {"autoencoder": parts.autoencoder.state_dict(), "text": parts.text.state_dict()}
            save_checkpoint(folder, preset, {"unet": averaged, **kept}, shard_bytes=EXPORT_BYTES)
        wait()

    return Run(task, recipe, export, told, SHARDS)
