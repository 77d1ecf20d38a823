"""Tensors as Pillow images and back, and images at the size that a model draws."""

import numpy as np
import torch
from einops import rearrange
from PIL import Image, ImageOps
from torch import Tensor

from ldm_edu.pictures.colours import on_white

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of colours 0 to 1


def to_pil(image: Tensor) -> Image.Image:
    """A picture (3, H, W), or a grey one (1, H, W), in [-1, 1] as 8-bit RGB; values outside are clipped.

    Raises
    ------
    ValueError
        if the tensor has another shape.
    """
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise ValueError(f"expected a picture of shape (3, H, W), not {tuple(image.shape)}")
    levels = ((image.expand(3, -1, -1).detach().float().cpu().clamp(-1, 1) + 1) * 127.5).round().byte()  # (3, H, W)
    return Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy())  # (H, W, 3)


def from_pil(picture: Image.Image) -> Tensor:
    """A picture as (1, 3, H, W) in [-1, 1], a grey one as (1, 1, H, W): `to_pil` undone.

    One of black and white alone is grey; one of another kind becomes RGB, as `open_picture` makes it of a file.
    """
    if picture.mode == "1":
        picture = picture.convert("L")
    elif picture.mode not in ("L", "RGB"):
        picture = on_white(picture)
    levels = torch.from_numpy(np.array(picture)).float()  # (H, W, 3) or (H, W)
    channels = levels.permute(2, 0, 1) if levels.ndim == 3 else levels[None]
    return channels[None] / 127.5 - 1


def clip_input(picture: Image.Image, size: int = 224) -> Tensor:
    """A picture as CLIP's picture tower reads one: (1, 3, size, size), each channel normalised.

    The shorter side is scaled to ``size``, the middle is cut out, and the colours get about mean 0 and deviation 1 over
    the pictures that CLIP was trained on (Radford et al. 2021; the numbers are those of OpenAI's release).
    """
    short, (wide, high) = min(picture.size), picture.size
    scaled = on_white(picture).resize((size * wide // short, size * high // short), Image.Resampling.BICUBIC)
    left, top = (scaled.width - size) // 2, (scaled.height - size) // 2
    middle = from_pil(scaled.crop((left, top, left + size, top + size)))  # (1, 3, size, size)
    mean, std = torch.tensor([CLIP_MEAN, CLIP_STD])  # (3,) each
    return ((middle + 1) / 2 - rearrange(mean, "c -> c 1 1")) / rearrange(std, "c -> c 1 1")


def fit(picture: Image.Image, size: tuple[int, int], how: Image.Resampling = Image.Resampling.LANCZOS) -> Image.Image:
    """A picture of (height, width) ``size``: scaled until it covers that, and cut around its middle.

    ``how``: a mask is scaled by ``BILINEAR``, which does not swing over at an edge, so that what is 0 stays 0 there.
    """
    return ImageOps.fit(picture, (size[1], size[0]), how)


def fitting_size(picture: Image.Image, side: int, multiple: int) -> tuple[int, int]:
    """The height and width at which a model draws a picture that it is given.

    The picture's own, if both are multiples of ``multiple`` and the model, made for ``side`` times ``side``, is not far
    from home (a quarter to four times the pixels); else the nearest shape with about as many pixels as that.

    >>> fitting_size(Image.new("RGB", (768, 512)), 512, 64), fitting_size(Image.new("RGB", (4000, 3000)), 512, 64)
    ((512, 768), (448, 576))
    """
    wide, high = picture.size
    if not (wide % multiple or high % multiple) and side**2 / 4 <= wide * high <= 4 * side**2:
        return high, wide
    ratio = min(max(wide / high, 1 / 4), 4.0)
    nearest = lambda length: max(multiple, round(length / multiple) * multiple)  # noqa: E731
    return nearest(side / ratio**0.5), nearest(side * ratio**0.5)
