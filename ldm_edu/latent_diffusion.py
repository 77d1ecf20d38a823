"""The whole system: prompts to conditions, noise to latents, latents to pictures (Rombach et al. 2022, figure 3).

This is the reading line of the package. Each name in it is a plain function or a small class that can be read, replaced
or called by itself:

>>> from ldm_edu.config import TOY
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

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import SupportsIndex

import torch
from torch import Tensor, nn

from ldm_edu.build import build, build_on_meta
from ldm_edu.checkpoint.io import save_checkpoint
from ldm_edu.checkpoint.layouts import open_checkpoint
from ldm_edu.checkpoint.parts import Weights, fill
from ldm_edu.conditioning import ClassConditioner, Conditioning, TextConditioner, refuse_one
from ldm_edu.config import Preset
from ldm_edu.denoise import NetworkDenoiser
from ldm_edu.editing import Edit, begin
from ldm_edu.guidance import cfg, cfg2
from ldm_edu.models.autoencoder import AutoencoderKL
from ldm_edu.models.clip import TextEncoder
from ldm_edu.models.unet import UNet
from ldm_edu.nn.packed import pack
from ldm_edu.samplers import Rng, Sampler, Step, dpmpp_2m, initial_noise
from ldm_edu.schedule import Level, Spacing, levels, make_schedule
from ldm_edu.tiling import TILE, piecewise
from ldm_edu.tokenizer import Tokenizer


class LatentDiffusion:
    """A preset, the networks that it asks for, its noise schedule and its tokenizer.

    Make one by `from_pretrained` or `from_preset`. A part that the preset leaves out is None: without ``autoencoder``
    the "latents" are the pixels themselves; without ``text`` and ``classes`` the model is unconditional.
    """

    def __init__(
        self,
        preset: Preset,
        unet: UNet,
        autoencoder: AutoencoderKL | None = None,
        text: TextEncoder | None = None,
        classes: ClassConditioner | None = None,
    ) -> None:
        self.preset = preset
        self.unet, self.autoencoder, self.text, self.classes = unet, autoencoder, text, classes
        self.tokenizer = Tokenizer(text.config.vocab, text.config.length) if text else None
        self.schedule = make_schedule(preset.schedule)
        for module in self.modules().values():
            module.eval()

    @classmethod
    def from_preset(cls, preset: Preset, *, seed: int = 0) -> "LatentDiffusion":
        """A model with random weights, which depend on ``seed`` alone: to train, or to look inside."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(preset, **build(preset))

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        preset: Preset | None = None,
        weights: Weights | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> "LatentDiffusion":
        """A trained model.

        Parameters
        ----------
        name
            a shipped checkpoint ("emoji"); a folder that `save` or ``ldm-edu train`` wrote; Stable Diffusion 1.x as
            published, a diffusers folder or one .safetensors or .ckpt file; or an id on the Hugging Face hub,
            "owner/model". A folder called like a shipped checkpoint is reached as ``"./emoji"``.
        preset
            the model that is expected; None: told from the config, or from the file.
        weights
            which copy of the U-Net, where a file has two: "ema", averaged over training; "last", as it ended.
        device, dtype
            where the networks run, and in which type. Never float16 on a CPU: it is many times slower there.

        Weights that are stored in ``dtype`` are used where they lie, in the file: do not overwrite it meanwhile (the
        package never does: it writes beside and renames).

        Raises
        ------
        CheckpointError
            if there is none of that name, or it is damaged, incomplete, another model's, or asks to run a program.
        """
        found = open_checkpoint(name, preset=preset, weights=weights)
        found.check()
        parts = build_on_meta(found.preset)
        for part, module in parts.items():  # one after another: the next is read when this one is in its place
            fill(module, found.parts[part], dtype=dtype)
            module.to(device)
        return cls(found.preset, **parts)

    def save(self, folder: Path | str, *, dtype: torch.dtype = torch.bfloat16) -> None:
        """Write a checkpoint folder that `from_pretrained` reads; ``dtype`` is that of the numbers on disk.

        CLIP's picture tower, which drawing does not need, is not held here and so not written.

        Raises
        ------
        SaveError
            if the folder cannot be written; an older checkpoint in it is untouched then.
        """
        parts = {name: module.state_dict() for name, module in self.modules().items()}
        save_checkpoint(Path(folder), self.preset, parts, dtype=dtype)

    def modules(self) -> dict[str, nn.Module]:
        """The networks that this model has, by the names of their files: unet, autoencoder, text, classes."""
        parts = {"unet": self.unet, "autoencoder": self.autoencoder, "text": self.text, "classes": self.classes}
        return {name: module for name, module in parts.items() if module is not None}

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "LatentDiffusion":
        """Move or convert all networks in place, as `torch.nn.Module.to` does; returns the model itself."""
        for module in self.modules().values():
            module.to(device=device, dtype=dtype)
        return self

    def pack(self) -> "LatentDiffusion":
        """Make drawing on a CPU quicker, for good: see `ldm_edu.nn.packed`; returns the model itself.

        A packed model cannot be trained, moved, converted or saved. On other devices nothing changes.
        """
        for module in self.modules().values():
            pack(module)
        return self

    @property
    def device(self) -> torch.device:
        """Where the U-Net is."""
        return self.unet.conv_in.weight.device

    @torch.no_grad()
    def condition(self, prompts: Sequence[str | int | None]) -> Conditioning:
        """What each picture is to show.

        Parameters
        ----------
        prompts
            one a picture: texts for a text-to-image model, whole numbers for a class-conditional one. "" is the blank
            condition of every model, and the only one of an unconditional model.

        Raises
        ------
        ValueError
            if the model has no such condition.
        TypeError
            if a single prompt is given instead of a list.
        """
        refuse_one(prompts)
        if self.text is not None and self.tokenizer is not None:
            texts = [prompt for prompt in prompts if isinstance(prompt, str)]
            if len(texts) < len(prompts):
                raise ValueError(f"{self.preset.name} draws from texts, not from {list(prompts)}; '' is the blank")
            return TextConditioner(self.tokenizer, self.text)(texts)
        labels = [None if prompt == "" else prompt for prompt in prompts]
        if self.classes is not None:
            return self.classes(labels)
        if set(labels) - {None}:
            raise ValueError(f"{self.preset.name} is unconditional: it takes no prompt but '', not {list(prompts)}")
        return Conditioning()

    def denoiser(self, cond: Conditioning, levels: Sequence[Level] | None = None) -> NetworkDenoiser:
        """The U-Net under a condition, as a function of a noisy sample and its level.

        ``levels``, if known, lets it compute the time embeddings of the whole run at once.
        """
        return NetworkDenoiser(self.unet, self.preset.prediction, cond, levels)

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
        if self.autoencoder is None:
            return images
        self.check_tile(tile)
        autoencoder, config = self.autoencoder, self.autoencoder.config
        to_mode = lambda x: autoencoder.encode(x.to(autoencoder.quant.weight)).mode.float()  # noqa: E731
        return (piecewise(to_mode, images, tile, config.factor) - config.shift) * config.scale

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
        channels = self.unet.config.out_channels
        if latents.ndim != 4 or latents.shape[1] != channels:
            raise ValueError(f"expected latents (B, {channels}, h, w), not {tuple(latents.shape)}")
        if self.autoencoder is None:
            return latents.clamp(-1, 1)
        self.check_tile(tile)
        autoencoder = self.autoencoder
        to_images = lambda z: autoencoder.decode(z.to(autoencoder.quant.weight)).float()  # noqa: E731
        return piecewise(to_images, self.unscaled(latents), tile // self.factor).clamp(-1, 1)

    def unscaled(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) as the autoencoder has them, before they were scaled to unit variance."""
        config = self.preset.autoencoder
        return latents if config is None else latents / config.scale + config.shift

    @property
    def multiple(self) -> int:
        """Sides of a picture are multiples of this, which both networks together halve them by."""
        return self.factor * self.unet.config.factor

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
        size = self.preset.size if size is None else size
        height, width = (size, size) if isinstance(size, SupportsIndex) else size
        factor, multiple = self.factor, self.multiple
        for side in (height, width):
            if side <= 0 or side % multiple:
                near = sorted(
                    {max(multiple, side // multiple * multiple), max(multiple, -(-side // multiple) * multiple)}
                )
                raise ValueError(
                    f"a side of {side} pixels does not fit: {self.preset.name} draws multiples of {multiple}; the "
                    f"nearest {'is' if len(near) == 1 else 'are'} {' and '.join(map(str, near))}"
                )
        return self.unet.config.out_channels, height // factor, width // factor

    def generate(
        self,
        prompts: Sequence[str | int | None],
        *,
        seeds: Sequence[int] | None = None,
        steps: int = 20,
        guidance: float = 5.0,
        sampler: Sampler = dpmpp_2m,
        spacing: Spacing = "trailing",
        negative: str | int = "",
        size: int | tuple[int, int] | None = None,
        edit: Edit | None = None,
    ) -> Iterator[Step]:
        """Draw pictures, and let every step be watched. `decode` the last step's ``x`` for the pictures.

        Parameters
        ----------
        prompts
            as in `condition`: one a picture, or one for all ``seeds``.
        seeds
            one a picture; a picture depends on its prompt and its seed, not on its neighbours. None: 0, 1, 2 ...
        guidance
            how strongly to follow the prompts; 1 is no guidance, and takes half the time.
        negative
            what to steer away from, instead of the blank condition.
        size
            as in `latent_shape`; None: the model's own, or that of the picture to edit.
        edit
            a picture to start from, and what may change in it: image to image, inpainting, outpainting. A network that
            was trained for one of these is told of it; one that edits by instruction can do nothing else.

        Raises
        ------
        ValueError
            at the call, not at the first step, for a number, a size or a condition that does not fit.
        """
        refuse_one(prompts)
        seeds = list(range(len(prompts)) if seeds is None else seeds)
        if len(prompts) not in (1, len(seeds)):
            raise ValueError(f"{len(prompts)} prompts and {len(seeds)} seeds: give one seed a picture, and one prompt")
        shape = self.latent_shape(edit.size if edit and size is None else size)
        if edit and self.latent_shape(edit.size) != shape:
            raise ValueError(f"a picture of {edit.size} cannot be drawn at size={size}; resize it, or leave size out")
        noise = initial_noise(seeds, shape).to(self.device)
        start = begin(edit, noise, levels(self.schedule, steps, spacing), self)
        cond, blank = self.condition(prompts), self.condition([negative])
        towards, away = (self.denoiser(each.beside(start.concat), start.levels) for each in (cond, blank))
        if start.concat is not None and start.image_guidance is not None:
            nothing = self.denoiser(blank.beside(torch.zeros_like(start.concat)), start.levels)
            guided = cfg2(towards, away, nothing, guidance, start.image_guidance)
        else:
            guided = cfg(towards, away, guidance) if len(cond) else towards
        return sampler(start.keep(guided), start.x, start.levels, rng=Rng(seeds))

    @property
    def factor(self) -> int:
        """How many pixels a latent pixel is wide."""
        return self.preset.autoencoder.factor if self.preset.autoencoder is not None else 1

    @property
    def extra(self) -> int:
        """Channels that the U-Net takes beside the noisy sample's: a mask, a picture (see `ldm_edu.editing`)."""
        return self.unet.config.in_channels - self.unet.config.out_channels

    def check_tile(self, tile: int) -> None:
        """Raise `ValueError` if `encode` and `decode` could not go in tiles of that side, in pixels."""
        if tile % self.factor or tile < 2 * self.factor:
            raise ValueError(f"tile={tile} must be a multiple of {self.factor}, and at least {2 * self.factor}")
