"""Put transparent pictures on coloured backgrounds: augmentation, and captions that say "on a blue background"."""

import torch
from einops import rearrange
from torch import Tensor

# sRGB in [0, 1]; soft enough that a picture of the same colour still stands out
PALETTE = {
    "white": (1.00, 1.00, 1.00),
    "gray": (0.60, 0.60, 0.60),
    "black": (0.08, 0.08, 0.08),
    "red": (0.90, 0.25, 0.25),
    "orange": (1.00, 0.62, 0.25),
    "yellow": (1.00, 0.90, 0.40),
    "green": (0.40, 0.78, 0.45),
    "blue": (0.30, 0.55, 0.95),
    "purple": (0.62, 0.42, 0.86),
    "pink": (1.00, 0.66, 0.80),
}
WHITE_SHARE, NAMED_SHARE = 0.5, 0.25  # the rest has any light or saturated colour
JITTER = 0.04  # a named background is its palette colour give or take this much a channel
NEAR = 0.12  # a colour this close to a palette colour (Euclidean, [0, 1]) has its name


def random_backgrounds(n: int, generator: torch.Generator) -> Tensor:
    """Background colours, (n, 3) in [-1, 1]: half of them white, a quarter of the palette, the rest any light or
    saturated colour."""
    kind = torch.rand(n, generator=generator)  # (N,)
    which = torch.randint(1, len(PALETTE), (n,), generator=generator)  # (N,), white is entry 0
    jitter = (2 * torch.rand(n, 3, generator=generator) - 1) * JITTER  # (N, 3)
    palette = torch.tensor(list(PALETTE.values()))  # (P, 3)
    named = (palette[which] + jitter).clamp(0, 1)  # (N, 3)
    free = _free_colours(n, generator)  # (N, 3)
    rgb = torch.where((kind < WHITE_SHARE + NAMED_SHARE)[:, None], named, free)
    rgb = torch.where((kind < WHITE_SHARE)[:, None], palette[0], rgb)
    return 2 * rgb - 1


def _free_colours(n: int, generator: torch.Generator) -> Tensor:
    """Any hue, pale or strong: a random colour stretched so that its largest channel is bright. (n, 3) in [0, 1]."""
    hue = torch.rand(n, 3, generator=generator)  # (N, 3)
    low, high = hue.amin(1, keepdim=True), hue.amax(1, keepdim=True)
    pure = (hue - low) / (high - low).clamp(min=1e-6)  # (N, 3), from 0 to 1
    paleness = torch.rand(n, 1, generator=generator)
    brightness = 0.7 + 0.3 * torch.rand(n, 1, generator=generator)
    return brightness * (paleness + (1 - paleness) * pure)


def background_names(colours: Tensor) -> list[str]:
    """The palette's word for each colour of (N, 3) in [-1, 1], or "" where no word fits."""
    palette = torch.tensor(list(PALETTE.values()))
    distance, which = torch.cdist((colours.float().cpu() + 1) / 2, palette).min(dim=1)  # (N,), (N,)
    words = list(PALETTE)
    return [words[i] if d <= NEAR else "" for d, i in zip(distance.tolist(), which.tolist(), strict=True)]


def background(name: str, n: int = 1) -> Tensor:
    """One of the palette's colours, (n, 3) in [-1, 1].

    Raises
    ------
    ValueError
        if the palette has no such word; the message lists them.
    """
    if name not in PALETTE:
        raise ValueError(f"No background colour {name!r}. Use one of: {', '.join(PALETTE)}.")
    return (2 * torch.tensor(PALETTE[name]) - 1).repeat(n, 1)


def composite(rgba: Tensor, colours: Tensor) -> Tensor:
    """Lay pictures over flat backgrounds: ``alpha * rgb + (1 - alpha) * background``.

    Parameters
    ----------
    rgba : (N, 4, H, W) uint8, on any device.
    colours : (N, 3) in [-1, 1]; moved to the pictures' device.

    Returns
    -------
    (N, 3, H, W) float32 in [-1, 1].

    Raises
    ------
    ValueError
        if the shapes or the type are others.
    """
    if rgba.ndim != 4 or rgba.shape[1] != 4 or rgba.dtype != torch.uint8:
        raise ValueError(f"Expected pictures (N, 4, H, W) of uint8, got {tuple(rgba.shape)} of {rgba.dtype}.")
    if colours.shape != (len(rgba), 3):
        raise ValueError(f"Expected one background colour a picture, ({len(rgba)}, 3), got {tuple(colours.shape)}.")
    rgb, alpha = (rgba / 255).split([3, 1], dim=1)  # (N, 3, H, W), (N, 1, H, W)
    under = rearrange(colours.to(rgba.device, torch.float32), "n c -> n c 1 1")
    return alpha * (2 * rgb - 1) + (1 - alpha) * under
