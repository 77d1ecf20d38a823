"""The whole system: prompts to conditions, noise to latents, latents to pictures (Rombach et al. 2022, figure 3).

This is the reading line of the package. Each name in it is a plain function or a small class that can be read, replaced
or called by itself:

>>> from ldm_edu.families import TOY
>>> from ldm_edu.guidance import cfg
>>> from ldm_edu.samplers import dpmpp_2m, initial_noise
>>> from ldm_edu.schedule import levels
>>> model = LatentDiffusion.from_preset(TOY)        # random weights; from_pretrained("emoji") has trained ones
>>> cond = model.condition(["red apple, 3d style"])
>>> blank = model.condition([""])
>>> guided = cfg(model.denoiser(cond), model.denoiser(blank), scale=7.5)
>>> noise = initial_noise([7], model.latent_shape())
>>> for step in dpmpp_2m(guided, noise, levels(model.schedule, 4)):
...     print(step.index, tuple(step.x.shape), f"{float(step.level.sigma):.2f}")
0 (1, 4, 8, 8) 0.97
1 (1, 4, 8, 8) 0.85
2 (1, 4, 8, 8) 0.57
3 (1, 4, 8, 8) 0.00
>>> image = model.decode(step.x)                    # (1, 3, 16, 16) in [-1, 1]

The same in one line:

>>> *_, last = model.generate(["red apple, 3d style"], guidance=7.5, steps=4, seeds=[7])
>>> torch.equal(image, model.decode(last.x))
True
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, SupportsIndex

import torch
from torch import Tensor, nn

from ldm_edu.build import build, build_on_meta
from ldm_edu.checkpoint.fill import Weights, fill
from ldm_edu.checkpoint.io import save_checkpoint
from ldm_edu.checkpoint.open import open_checkpoint
from ldm_edu.condition import Conditioning, refuse_one
from ldm_edu.config import Beside, Prediction, Preset, Spacing
from ldm_edu.denoise import NetworkDenoiser
from ldm_edu.editing import Edit, begin
from ldm_edu.families import family_of
from ldm_edu.guidance import cfg, cfg2
from ldm_edu.kernels.packed import pack
from ldm_edu.models.network import Network, weight_of
from ldm_edu.samplers import SAMPLERS, Rng, Sampler, Step, initial_noise
from ldm_edu.schedule import Level, levels, make_schedule
from ldm_edu.tiling import TILE
from ldm_edu.tokenizer import Tokenizer


class LatentDiffusion:
    """A preset, the networks that it asks for, its noise schedule, and what reads its prompts.

    Make one by `from_pretrained` or `from_preset`. The network that predicts is ``network``; ``codec`` turns pictures
    into what is diffused; ``conditioner`` reads prompts. A network by the name of its part: ``model.networks["text"]``.
    ``notes`` say, a sentence each, what was assumed of a file that does not tell all.
    """

    def __init__(self, preset: Preset, networks: Mapping[str, nn.Module], notes: Sequence[str] = ()) -> None:
        family = family_of(preset)
        self.preset, self.networks, self.notes = preset, dict(networks), list(notes)
        self.network: Network = self.networks[family.network]  # type: ignore[assignment]
        self.codec = family.codec(self.networks)
        self.conditioner = family.conditioner(preset, self.networks)
        self.schedule = make_schedule(preset.schedule)
        for module in self.networks.values():
            module.eval()

    @classmethod
    def from_preset(cls, preset: Preset, *, seed: int = 0) -> "LatentDiffusion":
        """A model with random weights, which depend on ``seed`` alone: to train, or to look inside."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(preset, build(preset))

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        preset: Preset | None = None,
        weights: Weights | None = None,
        prediction: Prediction | None = None,
        vae: str | Path | None = None,
        text: str | Path | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> "LatentDiffusion":
        """A trained model.

        Parameters
        ----------
        name
            a shipped checkpoint ("emoji"); a folder that `save` or ``ldm-edu train`` wrote; a model as it was
            published, a diffusers folder or one .safetensors or .ckpt file; or an id on the Hugging Face hub,
            "owner/model". A folder called like a shipped checkpoint is reached as ``"./emoji"``.
        preset
            the model that is expected; None: told from the config, or from the file.
        weights
            which copy of the U-Net, where a file has two: "ema", averaged over training; "last", as it ended.
        prediction
            what the network predicts, where neither a folder nor a file says so; None: as ``notes`` say.
        vae, text
            where the autoencoder and the text encoder are taken from, named as in ``name``: a file or a folder that
            holds nothing else, or a whole model. None: the model's own.
        device, dtype
            where the networks run, and in which type. Never float16 on a CPU: it is many times slower there. A network
            that overflows in float16, as SDXL's autoencoder, is float32 then.

        Weights that are stored in ``dtype`` are used where they lie, in the file: do not overwrite it meanwhile (the
        package never does: it writes beside and renames).

        Raises
        ------
        CheckpointError
            if there is none of that name, or it is damaged, incomplete, another model's, or asks to run a program.
        """
        parts = {"vae": vae, "text": text}
        found = open_checkpoint(name, preset=preset, weights=weights, prediction=prediction, parts=parts)
        found.check()
        networks = build_on_meta(found.preset)
        for part, module in networks.items():  # one after another: the next is read when this one is in its place
            fill(module, found.parts[part], dtype=_type_of(found.preset, part, dtype))
            module.to(device)
        return cls(found.preset, networks, found.notes)

    def save(self, folder: Path | str, *, dtype: torch.dtype = torch.bfloat16) -> None:
        """Write a checkpoint folder that `from_pretrained` reads; ``dtype`` is that of the numbers on disk.

        CLIP's picture tower, which drawing does not need, is not held here and so not written.

        Raises
        ------
        SaveError
            if the folder cannot be written; an older checkpoint in it is untouched then.
        """
        parts = {name: module.state_dict() for name, module in self.networks.items()}
        save_checkpoint(Path(folder), self.preset, parts, dtype=dtype)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "LatentDiffusion":
        """Move or convert all networks in place, as `torch.nn.Module.to` does; returns the model itself."""
        for part, module in self.networks.items():
            module.to(device=device, dtype=dtype and _type_of(self.preset, part, dtype))
        return self

    def pack(self) -> "LatentDiffusion":
        """Make drawing on a CPU quicker, for good: see `ldm_edu.kernels.packed`; returns the model itself.

        A packed model cannot be trained, moved, converted or saved. On other devices nothing changes.
        """
        for module in self.networks.values():
            pack(module)
        return self

    def __getattr__(self, name: str) -> Any:
        """A network by the name of its part, as in ``model.unet``; None for a part that this preset leaves out."""
        if name in ("preset", "networks") or name not in {part.name for part in family_of(self.preset).parts}:
            raise AttributeError(f"a LatentDiffusion has no attribute {name!r}")
        return self.networks.get(name)

    @property
    def tokenizer(self) -> Tokenizer | None:
        """What cuts prompts into tokens; None for a model whose prompts are not texts."""
        return getattr(self.conditioner, "tokenizer", None)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return weight_of(self.network).device

    def read(self, prompts: Sequence[Any]) -> list[Any]:
        """Prompts cut into tokens, once: `condition` and `generate` take the results in the place of the prompts.

        Raises
        ------
        ValueError
            if the model does not read such a prompt.
        """
        refuse_one(prompts)
        return self.conditioner.read(prompts)

    @torch.no_grad()
    def condition(
        self, prompts: Sequence[Any], size: int | tuple[int, int] | None = None, **about: Any
    ) -> Conditioning:
        """What each picture is to show.

        Parameters
        ----------
        prompts
            one a picture: texts for a text-to-image model, whole numbers for a class-conditional one, or what `read`
            made of them. "" is the blank condition of every model, and the only one of an unconditional model.
        size
            of the pictures, as in `latent_shape`; some models are asked for a size in the condition.
        about
            what else this model's conditioner reads: ``original`` and ``crop`` for SDXL, see `TwoTextConditioner`.

        Raises
        ------
        ValueError
            if the model has no such condition.
        TypeError
            if a single prompt is given instead of a list.
        """
        refuse_one(prompts)
        if about and (unread := sorted(about.keys() - set(getattr(self.conditioner, "about", ())))):
            raise ValueError(f"{self.preset.name} reads nothing about {', '.join(unread)}; leave that out")
        if prompts and all(isinstance(prompt, str) and not prompt for prompt in prompts):
            return self.conditioner.blank(len(prompts), self._pixels(size), **about)
        return self.conditioner(prompts, self._pixels(size), **about)

    def denoiser(self, cond: Conditioning, levels: Sequence[Level] | None = None) -> NetworkDenoiser:
        """The network under a condition, as a function of a noisy sample and its level.

        ``levels``, if known, lets it compute the time embeddings of the whole run at once.
        """
        return NetworkDenoiser(self.network, self.preset.prediction, cond, levels)

    @torch.no_grad()
    def encode(self, images: Tensor, *, tile: int = TILE) -> Tensor:
        """Pictures (B, 3, H, W) in [-1, 1] to latents (B, C, H/f, W/f) of about unit variance, in float32.

        Parameters
        ----------
        tile
            no more than ``tile * tile`` pixels are encoded at a time (see `ldm_edu.tiling`): a picture that has more
            goes in tiles, and its latents are a little different then.

        Raises
        ------
        ValueError
            if a side, or ``tile``, is not a multiple of the autoencoder's factor f.
        """
        return self.codec.encode(images, tile=tile)

    @torch.no_grad()
    def decode(self, latents: Tensor, *, tile: int = TILE) -> Tensor:
        """Latents (B, C, h, w) to pictures (B, 3, h*f, w*f) in [-1, 1], in float32; values outside are clipped.

        Parameters
        ----------
        tile
            no more than ``tile * tile`` pixels are decoded at a time, as in `encode`. Smaller tiles take less memory.

        Raises
        ------
        ValueError
            if they are no latents of this model, or ``tile`` is not a multiple of the autoencoder's factor f.
        """
        channels = self.network.channels
        if latents.ndim != 4 or latents.shape[1] != channels:
            raise ValueError(f"expected latents (B, {channels}, h, w), not {tuple(latents.shape)}")
        return self.codec.decode(latents, tile=tile)

    @property
    def multiple(self) -> int:
        """Sides of a picture are multiples of this, which both networks together halve them by."""
        return self.codec.factor * self.network.multiple

    def latent_shape(self, size: int | tuple[int, int] | None = None) -> tuple[int, int, int]:
        """The shape (C, h, w) of the latents of a picture.

        Parameters
        ----------
        size
            its side, or its height and width, in pixels; None: the size that the model was made for.

        Raises
        ------
        ValueError
            if a side is not a multiple of what both networks halve it to, naming the nearest that are.
        """
        height, width = self._pixels(size)
        factor, multiple = self.codec.factor, self.multiple
        for side in (height, width):
            if side <= 0 or side % multiple:
                near = sorted(
                    {max(multiple, side // multiple * multiple), max(multiple, -(-side // multiple) * multiple)}
                )
                raise ValueError(
                    f"a side of {side} pixels does not fit: {self.preset.name} draws multiples of {multiple}; the "
                    f"nearest {'is' if len(near) == 1 else 'are'} {' and '.join(map(str, near))}"
                )
        return self.network.channels, height // factor, width // factor

    def _pixels(self, size: int | tuple[int, int] | None) -> tuple[int, int]:
        """Height and width."""
        size = self.preset.size if size is None else size
        return (int(size), int(size)) if isinstance(size, SupportsIndex) else size

    def generate(
        self,
        prompts: Sequence[Any],
        *,
        seeds: Sequence[int] | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        sampler: Sampler | None = None,
        spacing: Spacing | None = None,
        negative: Any = "",
        size: int | tuple[int, int] | None = None,
        edit: Edit | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> Iterator[Step]:
        """Draw pictures, and let every step be watched. `decode` the last step's ``x`` for the pictures.

        Parameters
        ----------
        prompts
            as in `condition`: one a picture, or one for all ``seeds``.
        seeds
            one a picture; a picture depends on its prompt and its seed, not on its neighbours. None: 0, 1, 2 ...
        steps, guidance, sampler, spacing
            None: as the preset's ``defaults`` say. Guidance says how strongly to follow the prompts; 1 is no guidance,
            and takes half the time.
        negative
            what to steer away from, instead of the blank condition.
        size
            as in `latent_shape`; None: the model's own, or that of the picture to edit.
        edit
            a picture to start from, and what may change in it: image to image, inpainting, outpainting. A network that
            was trained for one of these is told of it; one that edits by instruction can do nothing else.
        about
            as in `condition`; the same for the prompts and for what to steer away from.

        Raises
        ------
        ValueError
            at the call, not at the first step, for a number, a size or a condition that does not fit.
        """
        seeds, run, guidance, sampler = self.settings(prompts, seeds, steps, guidance, sampler, spacing)
        shape = self.latent_shape(edit.size if edit and size is None else size)
        if edit and self.latent_shape(edit.size) != shape:
            raise ValueError(f"a picture of {edit.size} cannot be drawn at size={size}; resize it, or leave size out")
        noise = initial_noise(seeds, shape).to(self.device)
        start = begin(edit, noise, run, self)
        pixels = (shape[1] * self.codec.factor, shape[2] * self.codec.factor)
        cond, blank = (self.condition(each, pixels, **(about or {})) for each in (prompts, [negative]))
        towards, away = (self.denoiser(each.beside(start.concat), start.levels) for each in (cond, blank))
        if start.concat is not None and start.image_guidance is not None:
            nothing = self.denoiser(blank.beside(torch.zeros_like(start.concat)), start.levels)
            guided = cfg2(towards, away, nothing, guidance, start.image_guidance)
        else:
            guided = cfg(towards, away, guidance) if len(cond) else towards
        return sampler(start.keep(guided), start.x, start.levels, rng=Rng(seeds))

    def settings(
        self,
        prompts: Sequence[Any],
        seeds: Sequence[int] | None,
        steps: int | None,
        guidance: float | None,
        sampler: Sampler | None,
        spacing: Spacing | None,
    ) -> tuple[list[int], list[Level], float, Sampler]:
        """Seeds, levels, guidance and sampler of a drawing: those given, and for None as in `generate`.

        Raises
        ------
        ValueError
            if the seeds are not as many as the prompts, or there is no such number of steps.
        """
        refuse_one(prompts)
        usual = self.preset.defaults
        seeds = list(range(len(prompts)) if seeds is None else seeds)
        if len(prompts) not in (1, len(seeds)):
            raise ValueError(f"{len(prompts)} prompts and {len(seeds)} seeds: give one seed a picture, and one prompt")
        return (
            seeds,
            levels(
                self.schedule, usual.steps if steps is None else steps, usual.spacing if spacing is None else spacing
            ),
            usual.guidance if guidance is None else guidance,
            SAMPLERS[usual.sampler] if sampler is None else sampler,
        )

    @property
    def beside(self) -> Beside:
        """What the network reads besides the noisy sample: a mask, a picture (see `ldm_edu.editing`)."""
        return self.preset.beside


def _type_of(preset: Preset, part: str, dtype: torch.dtype) -> torch.dtype:
    """The type in which a network runs where ``dtype`` is wanted."""
    fits = next(each.float16 for each in family_of(preset).parts if each.name == part)
    return torch.float32 if dtype == torch.float16 and not fits else dtype
