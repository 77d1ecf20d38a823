"""Decode a large latent, or encode a large picture, piece by piece: memory then depends on the tile, not the picture.

Neighbouring tiles overlap, and in the overlap each fades into the next. (An autoencoder's group norms and attention see
a whole tile, so two tiles disagree a little about the pixels that they share: without a fade there is a seam.)
"""

from collections.abc import Callable
from fractions import Fraction

import torch
from torch import Tensor

TILE = 1024  # an autoencoder works on no more than the pixels of one picture of this side at a time, if not told other


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
    return _tiled(decode, latents, (tile, tile), overlap)


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
    return _tiled(encode, images, (tile, tile), overlap)


def piecewise(function: Callable[[Tensor], Tensor], x: Tensor, side: int, multiple: int = 1) -> Tensor:
    """``function(x)`` for ``x`` (B, C, H, W), on no more than ``side * side`` of its positions at a time.

    Pictures that are small enough go in slices of the batch, which changes nothing. A larger one goes in tiles of about
    equal size, neighbours sharing a quarter of ``side``.

    Parameters
    ----------
    multiple : what the sides of a tile, and of x, are multiples of: f for an encoder, 1 for a decoder.

    Raises
    ------
    ValueError
        if ``side`` is too small for a tile and its overlap.
    """
    high, wide = x.shape[-2:]
    if high * wide <= side * side:
        return torch.cat([function(part) for part in x.split(side * side // (high * wide))])
    overlap = -(-side // (4 * multiple)) * multiple
    if side <= overlap:
        raise ValueError(f"tiles of side {side} cannot overlap by {overlap}: choose at least {2 * multiple}")
    tiles = even_tile(high, side, overlap, multiple), even_tile(wide, side, overlap, multiple)
    return torch.cat([_tiled(function, picture, tiles, overlap) for picture in x.split(1)])


def even_tile(length: int, most: int, overlap: int, multiple: int = 1) -> int:
    """The shortest tile that covers a side with as few tiles as one of length ``most`` would.

    >>> even_tile(1088, 1024, 128, 8), starts(1088, 608, 128)      # not [0, 64]
    (608, [0, 480])
    """
    if length <= most:
        return most  # one is enough; a side may be shorter than the overlap, a tile may not
    count = -(-(length - overlap) // (most - overlap))
    return -(-(length + (count - 1) * overlap) // (count * multiple)) * multiple


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


def _tiled(function: Callable[[Tensor], Tensor], x: Tensor, tile: tuple[int, int], overlap: int) -> Tensor:
    if min(tile) < 1 or not 0 <= overlap < min(tile):
        raise ValueError(f"tile={min(tile)} and overlap={overlap} do not fit: 0 <= overlap < tile is needed")
    high, wide = x.shape[-2:]
    total: Tensor | None = None
    for top in starts(high, tile[0], overlap):
        for left in starts(wide, tile[1], overlap):
            part = x[..., top : top + tile[0], left : left + tile[1]]
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
