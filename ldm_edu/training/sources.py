"""Where training's batches come from: pictures, captions and their latents, drawn by a seeded generator."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ldm_edu.condition import Conditioning
from ldm_edu.conditioners.conditioner import Conditioner
from ldm_edu.config import TextConfig, UNetPreset
from ldm_edu.datasets.backgrounds import PALETTE, background, composite, random_backgrounds
from ldm_edu.datasets.compose import compose
from ldm_edu.datasets.emoji import STYLES, EmojiTensors, emoji_labels, emoji_tensors, on_background
from ldm_edu.datasets.folder import digest
from ldm_edu.datasets.shapes import ShapesTensors, shapes_tensors
from ldm_edu.files import atomic_write
from ldm_edu.kernels.precision import autocast
from ldm_edu.models.autoencoder import AutoencoderKL
from ldm_edu.models.clip import TextEncoder
from ldm_edu.tokenizer import Tokenizer
from ldm_edu.training.diffusion import DiffusionBatch
from ldm_edu.training.fingerprints import checksum, latent_fingerprint, tensor_bytes
from ldm_edu.training.phrases import Phrases
from ldm_edu.training.tasks import Pictures

SHAPES_SHOWN = 20_000  # scenes drawn for a training set
TOY_SHOWN = 256
COMPOSED = 8_000  # pictures that the reader composes for a training set
CHUNK = 64  # pictures encoded at once


def pictures(preset: UNetPreset) -> Pictures:
    """Pictures for the autoencoder of a preset: emoji on random backgrounds, or drawn shapes."""
    if preset.name == "emoji":
        rgba = emoji_tensors("train").rgba
        return lambda rng, n: composite(rgba[torch.randint(len(rgba), (n,), generator=rng)], random_backgrounds(n, rng))
    images = _drawn(preset).images
    return lambda rng, n: images[torch.randint(len(images), (n,), generator=rng)]


def labelled_pictures(*, core: bool, held_out: bool) -> Callable[[torch.Generator, int], tuple[Tensor, Tensor, Tensor]]:
    """Emoji on random backgrounds with the ids of concept and style, for a classifier."""
    data = emoji_tensors("all" if held_out else "train", core=core)

    def draw(rng: torch.Generator, n: int) -> tuple[Tensor, Tensor, Tensor]:
        i = torch.randint(len(data.rgba), (n,), generator=rng)
        return composite(data.rgba[i], random_backgrounds(n, rng)), data.concepts[i], data.styles[i]

    return draw


def caption_pairs(
    preset: UNetPreset, *, partial: float = 0.0, composed: float = 0.0
) -> Callable[[torch.Generator, int], tuple[Tensor, Tensor, Tensor]]:
    """Pictures, the tokens of a text for each, and which texts are true of which pictures, for CLIP.

    A batch never holds the same picture twice. ``partial``: the share of captions of which only a part is said;
    ``composed``: the share of pictures that the reader composes.
    """
    captioned = captioned_pictures(preset, composed=composed > 0)
    phrases = captioned.phrases()
    assert preset.text is not None, f"the preset {preset.name} has no text"
    tokens = tokenizer_for(preset.text)(phrases.texts)

    def draw(rng: torch.Generator, n: int) -> tuple[Tensor, Tensor, Tensor]:
        new = torch.randperm(len(captioned.composed), generator=rng)[: round(composed * n)]
        kinds = torch.randperm(len(captioned.base), generator=rng)[: n - len(new)]
        rows = torch.cat([captioned.pick(kinds, rng), captioned.composed[new]])
        texts = phrases.pick(rows, rng, partial)
        return captioned.images(rows), tokens[texts], phrases.true_of(rows, texts)

    return draw


@dataclass(frozen=True)
class Captioned:
    """Pictures on several backgrounds, each with its caption; a ``base`` picture's first row is on white.

    The rows after those of the ``base`` pictures are composed ones.
    """

    base: Tensor  # (P,) the first row of each picture
    variants: int  # rows a picture
    rgba: Tensor | None
    drawn: Tensor | None  # (N, 3, H, W), where there is no transparency; uint8 if composed
    colours: Tensor  # (N, 3)
    captions: list[str]
    starter: Tensor  # the places in ``base`` of the pictures that a narrowed run goes on with
    facts: list[tuple[str, str, str]] | None = None  # of each row: thing, style and background

    @property
    def composed(self) -> Tensor:
        """The rows of the composed pictures."""
        return torch.arange(len(self.base) * self.variants, len(self.captions))

    def pick(self, kinds: Tensor, rng: torch.Generator, plain: float = 0.75) -> Tensor:
        """Rows for some pictures: on white with probability ``plain``, else on one of the coloured backgrounds."""
        if self.variants == 1:
            return self.base[kinds]
        other = 1 + torch.randint(self.variants - 1, kinds.shape, generator=rng)
        return self.base[kinds] + torch.where(torch.rand(kinds.shape, generator=rng) < plain, 0, other)

    def phrases(self) -> Phrases:
        """The captions, and the things and styles that stand alone."""
        return Phrases(self.captions, self.facts, standing=2 if self.facts else 0)

    def images(self, rows: Tensor) -> Tensor:
        """The pictures of some rows, (n, 3, H, W) in [-1, 1]."""
        if self.rgba is None:
            assert self.drawn is not None
            return self.drawn[rows]
        simple = rows < len(self.base) * self.variants
        images = torch.empty(len(rows), 3, *self.rgba.shape[2:])
        images[simple] = composite(self.rgba[rows[simple] // self.variants], self.colours[rows[simple]])
        if self.drawn is not None:
            images[~simple] = self.drawn[rows[~simple] - len(self.base) * self.variants] / 127.5 - 1
        return images


def captioned_pictures(preset: UNetPreset, variants: int = 3, seed: int = 0, *, composed: bool = False) -> Captioned:
    """The captioned training set of a preset.

    Emoji: the core concepts, on white and on ``variants - 1`` colours; ``composed``: pictures made of these too.
    """
    if preset.name != "emoji":
        data = _drawn(preset)
        rows = torch.arange(len(data.images))
        return Captioned(rows, 1, None, data.images, torch.ones(len(rows), 3), data.captions, rows)
    emoji: EmojiTensors = emoji_tensors("train", core=True)
    rng = torch.Generator().manual_seed(seed)
    names = [name for name in PALETTE if name != "white"]
    labels = emoji_labels()
    captions, colours, facts = [], [], []
    for plain, concept, style in zip(emoji.captions, emoji.concepts.tolist(), emoji.styles.tolist(), strict=True):
        picked = [names[i] for i in torch.randperm(len(names), generator=rng)[: variants - 1]]
        captions += [plain] + [on_background(plain, name) for name in picked]
        colours += [background("white")] + [background(name) for name in picked]
        facts += [(labels[concept], f"{STYLES[style]} style", name) for name in ("white", *picked)]
    base = torch.arange(len(emoji.captions)) * variants
    few = set(emoji_tensors("train", starter=True).captions)
    starter = torch.tensor([place for place, plain in enumerate(emoji.captions) if plain in few])
    plain_set = Captioned(base, variants, emoji.rgba, None, torch.cat(colours), captions, starter, facts)
    return with_composed(plain_set, COMPOSED) if composed else plain_set


def with_composed(captioned: Captioned, n: int) -> Captioned:
    """The same pictures, and ``n`` composed ones after them."""
    assert captioned.facts is not None, "only the emoji set is composed"
    images, captions, facts = compose(n)
    return replace(captioned, drawn=images, captions=captioned.captions + captions, facts=captioned.facts + facts)


@torch.no_grad()
def raw_latents(model: AutoencoderKL, images: Tensor) -> Tensor:
    """The most likely latents (B, c, h, w) of pictures (B, C, H, W), not scaled yet (see `LatentCodec.scaled`).

    Computed in bfloat16 where that is quicker, and kept in float32 in the CPU's memory.
    """
    device = model.quant.weight.device
    with autocast(device):
        return model.encode(images.to(device)).mode.float().cpu()


def encode_all(model: AutoencoderKL, captioned: Captioned) -> Tensor:
    """The raw latents of every row, (N, C, h, w), computed once for the whole run."""
    rows = torch.arange(len(captioned.captions)).split(CHUNK)
    return torch.cat([raw_latents(model, captioned.images(some)) for some in rows])


def cached_latents(model: AutoencoderKL, captioned: Captioned, path: Path) -> Tensor:
    """`encode_all`, kept in a file: a resumed run reads it, and it is made anew when weights or pictures have changed,
    or the file has.

    Raises
    ------
    SaveError
        if the file cannot be written.
    """
    pictures = [each for each in (captioned.rgba, captioned.drawn) if each is not None]
    made_from = digest([latent_fingerprint(model), *map(tensor_bytes, pictures), tensor_bytes(captioned.colours)])
    if path.is_file():
        with contextlib.suppress(safetensors.SafetensorError), safetensors.safe_open(path, framework="pt") as file:
            latents = file.get_tensor("latents")
            if file.metadata() == {"made_from": made_from, "checksum": checksum({"latents": latents})}:
                return latents
    latents = encode_all(model, captioned).contiguous()
    told = {"made_from": made_from, "checksum": checksum({"latents": latents})}
    write = partial(safetensors.torch.save_file, {"latents": latents}, metadata=told)
    atomic_write(path, write)
    return latents


def measure_scale(latents: Tensor) -> tuple[float, float]:
    """(scale, shift) that give latents of mean 0 and standard deviation 1 (Rombach et al. 2022, appendix G)."""
    shift = float(latents.mean())
    return float(1.0 / (latents - shift).std()), shift


def tokenizer_for(config: TextConfig) -> Tokenizer:
    """The tokenizer that goes with a text encoder of ours."""
    return Tokenizer(config.vocab, config.length)


@torch.no_grad()
def text_states(encoder: TextEncoder, captions: Sequence[str]) -> Tensor:
    """The states of a kept text encoder for every caption, (N, L, D), computed once for the whole run."""
    tokens = tokenizer_for(encoder.config)(list(captions))
    device = encoder.position.device
    return torch.cat([encoder(rows.to(device)).last.float().cpu() for rows in tokens.split(4 * CHUNK)])


def diffusion_batches(
    preset: UNetPreset,
    captioned: Captioned,
    latents: Tensor,
    encoder: TextEncoder,
    *,
    drop: float,
    joint: bool,
    partial: float = 0.0,
    narrow_from: float = 1.0,
    others: float = 0.0,
    composed: float = 0.0,
) -> Callable[[torch.Generator, int, float], DiffusionBatch]:
    """Latents (already scaled) with their text states; a share ``drop`` of the captions is replaced by the blank one.

    ``partial``: the share of the captions of which only a part is said (see `ldm_edu.training.phrases`).
    ``joint``: the states are computed anew in each step, with gradients, because the encoder learns along.
    ``narrow_from``: the share of the run after which the starter pictures are drawn, and all pictures with probability
    ``others`` only.
    ``composed``: the share of composed pictures, whose captions are too many to keep the states of all.
    """
    device = next(encoder.parameters()).device
    phrases = captioned.phrases()
    texts = [*phrases.texts, ""]
    blank = len(phrases.texts)
    assert preset.text is not None, f"the preset {preset.name} has no text"
    tokens = tokenizer_for(preset.text)(texts)
    states = None if joint or composed else text_states(encoder, texts)

    def draw(rng: torch.Generator, n: int, progress: float) -> DiffusionBatch:
        kinds = torch.randint(len(captioned.base), (n,), generator=rng)
        if progress >= narrow_from:
            few = captioned.starter[torch.randint(len(captioned.starter), (n,), generator=rng)]
            kinds = torch.where(torch.rand(n, generator=rng) < others, kinds, few)
        rows = captioned.pick(kinds, rng)
        if composed:
            new = captioned.composed[torch.randint(len(captioned.composed), (n,), generator=rng)]
            rows = torch.where(torch.rand(n, generator=rng) < composed, new, rows)
        told = phrases.pick(rows, rng, partial)
        told = torch.where(torch.rand(n, generator=rng) < drop, blank, told)
        if states is not None:
            return DiffusionBatch(latents[rows], Conditioning(context=states[told].to(device)))
        with autocast(device):
            return DiffusionBatch(latents[rows], Conditioning(context=encoder(tokens[told].to(device)).last))

    return draw


def class_batches(
    images: Tensor, labels: Tensor, conditioner: Conditioner, *, drop: float
) -> Callable[[torch.Generator, int, float], DiffusionBatch]:
    """Pictures (N, C, H, W) with the vectors of their classes (N,); a share ``drop`` has the blank one.

    The vectors are looked up anew in each step, with gradients, because the table learns along.
    """

    def draw(rng: torch.Generator, n: int, progress: float) -> DiffusionBatch:
        rows = torch.randint(len(images), (n,), generator=rng)
        blank = torch.rand(n, generator=rng) < drop
        told = [None if b else int(label) for b, label in zip(blank, labels[rows], strict=True)]
        return DiffusionBatch(images[rows], conditioner(told))

    return draw


def _drawn(preset: UNetPreset) -> ShapesTensors:
    return shapes_tensors("train", TOY_SHOWN if preset.name == "toy" else SHAPES_SHOWN, size=preset.size)
