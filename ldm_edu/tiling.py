"""Decode a large latent, or encode a large picture, piece by piece: memory then depends on the tile, not the picture.

Neighbouring tiles overlap, and in the overlap each fades into the next. (An autoencoder's group norms and attention see
a whole tile, so two tiles disagree a little about the pixels that they share: without a fade there is a seam.)
"""

from collections.abc import Callable
from fractions import Fraction

import torch
from torch import Tensor


def decode_tiled(decode: Callable[[Tensor], Tensor], latents: Tensor, tile: int, overlap: int) -> Tensor:
    """Pictures (B, 3, h*f, w*f) of latents (B, C, h, w), decoded in tiles.

    Parameters
    ----------
    decode : (B, C, t, t) -> (B, 3, t*f, t*f), any f.
    tile, overlap : side of a tile and what two neighbours share, in latent pixels; 0 <= overlap < tile.

    Raises
    ------
    ValueError
        if tile and overlap do not fit.
    """
    return _tiled(decode, latents, tile, overlap)


def encode_tiled(encode: Callable[[Tensor], Tensor], images: Tensor, tile: int, overlap: int) -> Tensor:
    """Latents (B, C, H/f, W/f) of pictures (B, 3, H, W), encoded in tiles.

    Parameters
    ----------
    encode : (B, 3, t, t) -> (B, C, t/f, t/f), as ``lambda x: model.encode(x).mode``.
    tile, overlap : in pixels, both multiples of f, as the picture's sides must be; 0 <= overlap < tile.

    Raises
    ------
    ValueError
        if tile and overlap do not fit, or are no multiples of f.
    """
    return _tiled(encode, images, tile, overlap)


def starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where the tiles begin along one side; the last one is moved back so that it ends with the side.

    >>> starts(40, 16, 4), starts(10, 16, 4)
    ([0, 12, 24], [0])
    """
    return [*range(0, max(length - tile, 0), tile - overlap), max(length - tile, 0)]


def feather(length: int, overlap: int) -> Tensor:
    """Weights along one side of a tile, (length,): up over ``overlap`` pixels, 1 in the middle, down again."""
    place = torch.arange(length) + 0.5
    edge = torch.minimum(place, length - place)  # distance to the nearer end
    return (edge / overlap).clamp(max=1.0) if overlap else torch.ones(length)


def _tiled(function: Callable[[Tensor], Tensor], x: Tensor, tile: int, overlap: int) -> Tensor:
    if tile < 1 or not 0 <= overlap < tile:
        raise ValueError(f"tile={tile} and overlap={overlap} do not fit: 0 <= overlap < tile is needed")
    high, wide = x.shape[-2:]
    total: Tensor | None = None
    for top in starts(high, tile, overlap):
        for left in starts(wide, tile, overlap):
            part = x[..., top : top + tile, left : left + tile]
            piece = function(part)  # (B, C', t', t')
            ratio = Fraction(piece.shape[-1], part.shape[-1])
            row, column = _whole(top * ratio), _whole(left * ratio)
            fade = _whole(overlap * ratio)
            if total is None:
                size = (*piece.shape[:2], _whole(high * ratio), _whole(wide * ratio))
                total, weights = piece.new_zeros(size), piece.new_zeros(size[-2:])
            weight = feather(piece.shape[-2], fade)[:, None] * feather(piece.shape[-1], fade)  # (t', t')
            weight = weight.to(piece)
            total[..., row : row + piece.shape[-2], column : column + piece.shape[-1]] += weight * piece
            weights[row : row + piece.shape[-2], column : column + piece.shape[-1]] += weight
    assert total is not None  # there is always a first tile
    return total / weights


def _whole(number: Fraction) -> int:
    if number.denominator != 1:
        raise ValueError("sides, tile and overlap must be multiples of the factor between the picture and its latent")
    return int(number)
