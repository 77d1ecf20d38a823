"""A Pillow image of any mode as 8-bit RGB: grey of 16 or 32 bits, palettes, what is transparent."""

import numpy as np
from PIL import Image

WHITE = (255, 255, 255, 255)
_WHITE_16, _WHITE_32 = 2**16 - 1, 2**32 - 1


def on_white(picture: Image.Image) -> Image.Image:
    """A picture of any mode as RGB; what is transparent becomes white."""
    picture = eight_bits(picture)
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    layer = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, WHITE), layer).convert("RGB")


def eight_bits(picture: Image.Image) -> Image.Image:
    """Grey of 16 or 32 bits as grey of 8, which `convert` would clip at 255; a picture of another mode as it is.

    White is the largest whole number of 16 bits; of 32 bits, where one number is larger than that; and 1.0 where the
    numbers are floats.

    Raises
    ------
    ValueError
        if floats are outside of [0, 1]: how bright they are is not known.
    """
    if not picture.mode.startswith(("I", "F")):
        return picture
    values = np.asarray(picture)  # (H, W)
    if picture.mode == "F":
        low, high = float(values.min()), float(values.max())
        if not (low >= 0 and high <= 1):  # NaN is not
            raise ValueError(f"its numbers run from {low:g} to {high:g}, and white is 1 where they are floats")
        levels = np.rint(values * 255)
    elif picture.mode == "I":
        whole = values.view(np.uint32)  # Pillow has no unsigned mode of 32 bits
        levels = whole // ((_WHITE_16 if whole.max() <= _WHITE_16 else _WHITE_32) // 255)
    else:
        levels = values // (_WHITE_16 // 255)
    grey = Image.fromarray(levels.astype(np.uint8))
    if "transparency" in picture.info:  # the number of the grey that is seen through
        alpha = np.where(values == picture.info["transparency"], 0, 255).astype(np.uint8)
        grey = Image.merge("LA", (grey, Image.fromarray(alpha)))
    return grey
