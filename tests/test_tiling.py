"""Tiles: together they are the whole, and between two of them there is a fade and no seam."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ldm_edu.tiling import decode_tiled, encode_tiled, even_tile, feather, piecewise, starts


def enlarge(z: Tensor) -> Tensor:
    return z.repeat_interleave(4, -1).repeat_interleave(4, -2)


@pytest.mark.parametrize(("tile", "overlap"), [(8, 0), (8, 3), (5, 2), (7, 6), (64, 8)])
def test_a_decoder_that_sees_one_pixel_does_not_notice_tiles(tile: int, overlap: int) -> None:
    z = torch.randn(2, 3, 17, 21, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(decode_tiled(enlarge, z, tile, overlap), enlarge(z))


def test_an_encoder_that_sees_one_block_does_not_notice_tiles() -> None:
    x = torch.randn(1, 3, 40, 56, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(encode_tiled(lambda p: F.avg_pool2d(p, 4), x, 16, 8), F.avg_pool2d(x, 4))


def test_tiles_that_disagree_meet_in_a_fade() -> None:
    calls = iter(range(100))
    z = torch.zeros(1, 1, 8, 24)
    step = lambda part: torch.full((1, 1, *part.shape[-2:]), float(next(calls)))  # noqa: E731
    row = decode_tiled(step, z, 16, 8)[0, 0, 0]
    assert row[:8].tolist() == [0.0] * 8 and row[16:].tolist() == [1.0] * 8
    assert (row.diff() >= 0).all() and row.diff().max() < 0.2


def test_a_tile_is_all_that_is_decoded_at_once() -> None:
    seen: list[tuple[int, ...]] = []

    def decode(part: Tensor) -> Tensor:
        seen.append(tuple(part.shape[-2:]))
        return enlarge(part)

    decode_tiled(decode, torch.zeros(1, 4, 33, 20), 16, 4)
    assert set(seen) == {(16, 16)} and len(seen) == len(starts(33, 16, 4)) * len(starts(20, 16, 4))


def test_tiles_cover_the_side() -> None:
    for length in range(1, 40):
        places = starts(length, 8, 3)
        covered = {i for s in places for i in range(s, min(s + 8, length))}
        assert covered == set(range(length)) and len(places) == len(set(places))


def test_the_feather_of_two_neighbours_sums_to_one() -> None:
    weight = feather(16, 6)
    torch.testing.assert_close(weight[-6:] + weight[:6], torch.ones(6))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        decode_tiled(enlarge, torch.zeros(1, 1, 8, 8), 4, 4)
    with pytest.raises(ValueError, match="multiples"):
        encode_tiled(lambda p: F.avg_pool2d(p, 4), torch.zeros(1, 3, 32, 32), 16, 6)


def watched(seen: list[tuple[int, ...]]) -> Callable[[Tensor], Tensor]:
    def decode(part: Tensor) -> Tensor:
        seen.append(tuple(part.shape))
        return enlarge(part)

    return decode


@pytest.mark.parametrize(
    "shape", [(7, 4, 8, 8), (1, 4, 16, 16), (3, 4, 17, 16), (2, 4, 5, 61), (1, 4, 2, 200), (1, 4, 40, 40)]
)
def test_pieces_are_the_whole_and_none_is_larger_than_allowed(shape: tuple[int, ...]) -> None:
    z = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    seen: list[tuple[int, ...]] = []
    torch.testing.assert_close(piecewise(watched(seen), z, 16), enlarge(z))
    assert all(b * h * w <= 256 for b, _, h, w in seen)
    if shape[2] * shape[3] <= 256:  # slices of the batch, as few as can be
        assert len(seen) == -(-shape[0] * shape[2] * shape[3] // 256)


def test_encoded_pieces_end_where_latent_pixels_do() -> None:
    x = torch.randn(1, 3, 72, 104, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(piecewise(lambda p: F.avg_pool2d(p, 8), x, 48, 8), F.avg_pool2d(x, 8))


def test_tiles_are_of_about_equal_size() -> None:
    for most, overlap, multiple in [(16, 4, 1), (64, 16, 8), (32, 8, 4)]:
        for length in range(multiple, 8 * most, multiple):
            tile = even_tile(length, most, overlap, multiple)
            assert tile <= most and tile % multiple == 0
            assert len(starts(length, tile, overlap)) == len(starts(length, most, overlap))
    with pytest.raises(ValueError, match="at least 16"):
        piecewise(lambda p: F.avg_pool2d(p, 8), torch.zeros(1, 3, 64, 64), 8, 8)
