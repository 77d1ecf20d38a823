"""From a picture to a picture: image to image, inpainting, outpainting, and editing by instruction.

All of it is where a run starts and what its denoiser is told; the samplers know nothing of it.

- Image to image: the picture with noise, at a level in the middle of the run, and `levels[k:]` from there (Meng et al.
  2022, SDEdit, algorithm 1).
- Inpainting with any model: where the picture is known, the estimate of x0 is the picture. That is `inpaint`, made of a
  denoiser and one itself; a sampler then holds the known part to ``alpha * x0 + sigma * eps`` at every level.
  A mask m between 0 and 1 mixes the two, in latents and again in pixels: ``m * drawn + (1 - m) * known``.
- Inpainting with a network that was trained for it (Stable Diffusion's has 9 input channels): the mask, and the picture
  without what is hidden, stand beside the sample in `Conditioning.concat` (Rombach et al. 2022, section 4.5).
- Outpainting: inpainting of a picture that has been given a border, `Edit.outpaint`.
- Editing by instruction (Brooks et al. 2023; 8 input channels): the picture stands beside the sample, and guidance has
  two scales, `ldm_edu.guidance.cfg2`.

In pieces, and in one line:

>>> from ldm_edu import TOY, LatentDiffusion, Rng, cfg, ddim, initial_noise, levels
>>> model = LatentDiffusion.from_preset(TOY)
>>> picture = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
>>> guided = cfg(model.denoiser(model.condition(["red apple"])), model.denoiser(model.condition([""])), scale=5.0)
>>> known, noise = model.encode(picture), initial_noise([7], model.latent_shape())
>>> run = levels(model.schedule, 10)[first_step(10, strength=0.6) :]
>>> len(run) - 1                                                # 6 of 10 steps are left
6
>>> *_, last = ddim(guided, add_noise(known, noise, run[0]), run)
>>> how = {"seeds": [7], "steps": 10, "sampler": ddim}
>>> *_, same = model.generate(["red apple"], edit=Edit(picture, strength=0.6), **how)
>>> torch.equal(last.x, same.x)
True
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ldm_edu.codec import Codec
from ldm_edu.config import Beside
from ldm_edu.denoise import Denoiser
from ldm_edu.schedule import Level, add_noise, pure_noise

HALF = 0.5  # from here on a soft mask hides a pixel from a network that was trained with masks of 0 and 1
RANGE = 1.5  # of a picture's numbers, which lie in [-1, 1]; one that was enlarged may overshoot a little


@dataclass(frozen=True, eq=False)
class Edit:
    """A picture to change, and what may change in it.

    Parameters
    ----------
    picture : (1, 3, H, W), or one for each that is drawn (B, 3, H, W), in [-1, 1].
    strength : how much of the run is left to go, in (0, 1]: 0.6 of 20 steps are the last 12. At 1, what may change
        starts from pure noise. None: 0.6 for image to image; 1 with a mask, or for a model that edits by instruction.
    mask : (1 or B, 1, H, W), 1 where the picture is painted, 0 where it stays, between the two for an edge that blends
        (see `paste` and `inpaint`). None: all may change.
    image_guidance : how strongly a model that edits by instruction keeps to the picture; other models do not ask.
    depth : (1 or B, 1, H, W), larger where the scene is nearer, in any unit; for a model that reads depths.

    Raises
    ------
    ValueError
        if a shape, a value or the strength does not fit.
    """

    picture: Tensor
    strength: float | None = None
    mask: Tensor | None = None
    image_guidance: float = 1.5
    depth: Tensor | None = None

    def __post_init__(self) -> None:
        if self.picture.ndim != 4:
            raise ValueError(f"expected pictures (B, C, H, W), not {tuple(self.picture.shape)}; picture[None] adds B")
        if not self.picture.is_floating_point() or not (self.picture.abs() <= RANGE).all():  # NaN is not
            raise ValueError("a picture holds numbers from -1 to 1; from_pil makes such of an image")
        if self.strength is not None:
            first_step(1, self.strength)
        if self.mask is not None:
            _check_mask(self.mask, self.size, len(self.picture))
        if self.depth is not None and (self.depth.ndim, *self.depth.shape[1:]) != (4, 1, *self.size):
            raise ValueError(
                f"expected depths (1 or B, 1, {self.size[0]}, {self.size[1]}), not {tuple(self.depth.shape)}"
            )

    @staticmethod
    def outpaint(
        picture: Tensor, *, left: int = 0, top: int = 0, right: int = 0, bottom: int = 0, strength: float | None = None
    ) -> "Edit":
        """Paint a border of so many pixels around pictures (B, 3, H, W).

        >>> Edit.outpaint(torch.zeros(1, 3, 64, 64), left=16, right=16).size
        (64, 96)

        Raises
        ------
        ValueError
            if a width is negative, or all are 0.
        """
        if min(left, top, right, bottom) < 0 or not any((left, top, right, bottom)):
            raise ValueError(
                f"a border of left={left}, top={top}, right={right}, bottom={bottom} pixels is none: give at least one "
                "side a width, and none a negative one"
            )
        border = (left, right, top, bottom)
        mask = F.pad(torch.zeros_like(picture[:1, :1]), border, value=1.0)
        return Edit(F.pad(picture, border, mode="replicate"), strength, mask)  # the encoder sees no edge there

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the pictures, in pixels."""
        return self.picture.shape[-2], self.picture.shape[-1]

    def paste(self, images: Tensor) -> Tensor:
        """Drawn pictures (B, 3, H, W) with the known pixels put back: ``m * drawn + (1 - m) * picture``.

        Where the mask m is 0 nothing has changed, to the last bit; where it is 1 the drawn pixels stand alone.
        """
        if self.mask is None:
            return images
        return torch.lerp(self.picture.to(images), images, self.mask.to(images))  # (B, 3, H, W)


@dataclass(frozen=True)
class Start:
    """A run as an edit begins it."""

    x: Tensor  # (B, C, h, w) at levels[0]
    levels: list[Level]
    concat: Tensor | None = None  # (1 or B, extra channels, h, w) what the network sees beside the sample
    known: tuple[Tensor, Tensor] | None = None  # latents (1 or B, C, h, w) and mask (1 or B, 1, h, w), see `inpaint`
    image_guidance: float | None = None  # for a model that edits by instruction: guidance has two scales then

    def keep(self, denoise: Denoiser) -> Denoiser:
        """The denoiser, told of the known part where that is not the network's own business."""
        return denoise if self.known is None else inpaint(denoise, *self.known)


class Edited(Protocol):
    """What `begin` asks of a model."""

    @property
    def codec(self) -> Codec:
        """Pictures to what is diffused, and back."""
        ...

    @property
    def beside(self) -> Beside:
        """What the network reads besides the noisy sample."""
        ...


def begin(edit: Edit | None, noise: Tensor, run: Sequence[Level], model: Edited) -> Start:
    """Where a run starts from, what the network is shown, and what is kept.

    By ``model.beside``, what the network reads besides the sample: nothing; a mask, for a network that was trained to
    fill in what a mask hides, and draws by filling in the whole; a picture, for a network that edits by instruction and
    can do nothing else; a map of depths, for a network that keeps to it.

    Parameters
    ----------
    edit : None: a picture from noise alone.
    noise : (B, C, h, w). ``run`` : all levels, from noise to data.

    Raises
    ------
    ValueError
        if the network takes other channels, lacks a picture, or pictures or masks are not as many as the seeds.
    """
    channels, beside, codec = noise.shape[1], model.beside, model.codec
    if beside not in ("nothing", "mask", "picture", "depth"):
        raise ValueError(f"this network reads {beside!r} besides the sample, which pictures cannot be edited with yet")
    if edit is None:
        if beside == "nothing":
            return Start(pure_noise(noise, run[0]), list(run))
        if beside == "picture":
            raise ValueError("this model edits pictures: give it one, edit=Edit(picture), or --init FILE")
        if beside == "depth":
            raise ValueError("this model reads depths: give it a picture and its depths, edit=Edit(picture, depth=map)")
        edit = Edit(noise.new_zeros(1, 3, *(side * codec.factor for side in noise.shape[2:])), strength=1.0)
    if len(edit.picture) not in (1, len(noise)):
        raise ValueError(f"{len(edit.picture)} pictures to edit and {len(noise)} seeds: give one each, or one picture")
    if (edit.depth is None) == (beside == "depth"):
        raise ValueError("depths belong to a model that reads them, as sd2_depth: give both, or neither")
    if edit.mask is not None and len(edit.mask) not in (1, len(noise)):
        raise ValueError(f"{len(edit.mask)} masks and {len(noise)} seeds: give one each, or one mask")

    known = codec.encode(edit.picture).to(noise)  # (1 or B, C, h, w)
    if known.shape[1] != channels:
        raise ValueError(f"the model draws pictures of {channels} channels, and these have {known.shape[1]}")
    hidden = None if edit.mask is None else latent_mask(edit.mask, codec.factor).to(noise)  # (1 or B, 1, h, w)
    strength = edit.strength or (0.6 if hidden is None and beside != "picture" else 1.0)
    left = list(run[first_step(len(run) - 1, strength) :])
    x = add_noise(known, noise, left[0])
    if strength == 1:
        fresh = pure_noise(noise, left[0])
        x = fresh if hidden is None or beside == "mask" else torch.lerp(x, fresh, hidden)

    if beside == "mask":
        covered = torch.ones_like(edit.picture[:, :1]) if edit.mask is None else (edit.mask >= HALF).to(edit.picture)
        masked = codec.encode((1 - covered) * edit.picture).to(noise)  # (1 or B, C, h, w) grey where it is hidden
        flags = latent_mask(covered, codec.factor).to(noise).expand(len(masked), -1, -1, -1)  # trained with 0 and 1
        return Start(x, left, concat=torch.cat([flags, masked], dim=1))  # (1 or B, 1 + C, h, w)
    keep = None if hidden is None else (known, hidden)
    if beside == "picture":
        return Start(x, left, codec.unscaled(known), keep, edit.image_guidance)
    if edit.depth is not None:
        return Start(x, left, depth_map(edit.depth, codec.factor).to(noise), keep)
    return Start(x, left, None, keep)


def depth_map(depth: Tensor, factor: int) -> Tensor:
    """Depths (B, 1, H, W) in any unit as a network reads them: (B, 1, H/f, W/f), each map from -1, far, to 1, near."""
    small = F.interpolate(depth.float(), scale_factor=1 / factor, mode="bicubic")  # (B, 1, h, w)
    low, high = small.amin(dim=(1, 2, 3), keepdim=True), small.amax(dim=(1, 2, 3), keepdim=True)
    return 2 * (small - low) / (high - low).clamp(min=torch.finfo(small.dtype).tiny) - 1


def first_step(steps: int, strength: float) -> int:
    """Which of ``steps`` steps an edit begins with: ``levels[first_step:]`` are left. At least one step is.

    >>> first_step(20, 1.0), first_step(20, 0.6), first_step(50, 0.58), first_step(20, 0.01)
    (0, 8, 21, 19)

    Raises
    ------
    ValueError
        if the strength is not in (0, 1].
    """
    if not 0 < strength <= 1:
        raise ValueError(
            f"strength={strength} must lie above 0, which would leave the picture as it is, and be at most 1, which "
            "starts from noise alone"
        )
    return steps - max(1, math.floor(strength * steps + 1e-6))  # 0.58 * 50 is a little less than 29


def inpaint(denoise: Denoiser, known: Tensor, mask: Tensor) -> Denoiser:
    """A denoiser that knows part of the answer: ``x0 = m * denoise(x) + (1 - m) * known`` with the mask m.

    Where m is 0, x0 is ``known``, to the last bit. Between 0 and 1 the estimates are mixed at every level, so that a
    soft edge leads from the one into the other.

    With a deterministic sampler, started from ``alpha * known + sigma * noise``, the known part stays just that at
    every level: what is otherwise reached by blending after each step (Lugmayr et al. 2022, RePaint, equation 8), here
    without the sampler's doing.

    Parameters
    ----------
    known : (1 or B, C, h, w) latents. ``mask`` : (1 or B, 1, h, w) in [0, 1], 1 where the denoiser decides alone.
    """

    def told(x: Tensor, level: Level) -> Tensor:
        return torch.lerp(known, denoise(x, level), mask)  # (B, C, h, w)

    return told


def latent_mask(mask: Tensor, factor: int) -> Tensor:
    """A mask of pixels (B, 1, H, W) as one of latent pixels (B, 1, H/f, W/f): the largest value of each block.

    The largest, so that a latent pixel may change as much as any of the pixels that are drawn from it.
    """
    return F.max_pool2d(mask.float(), factor)


def _check_mask(mask: Tensor, size: tuple[int, int], pictures: int) -> None:
    if mask.ndim != 4 or mask.shape[1] != 1 or mask.shape[2:] != size:
        raise ValueError(f"the picture needs a mask (1, 1, {size[0]}, {size[1]}), not {tuple(mask.shape)}")
    if 1 != pictures != len(mask) != 1:
        raise ValueError(f"{len(mask)} masks and {pictures} pictures to edit: give one each, or one of either")
    if not ((mask >= 0) & (mask <= 1)).all():  # NaN is not
        raise ValueError(
            "a mask holds numbers from 0, where the picture stays, to 1, where it is painted: divide bytes by 255"
        )
    if not mask.any():
        raise ValueError("the mask is 0 everywhere, so nothing would be painted: 1 marks what is")
