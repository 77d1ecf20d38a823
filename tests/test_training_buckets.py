"""Buckets of about equal area, and the order in which pictures come: every one as often as every other."""

from collections import Counter

import pytest

from ldm_edu.training.buckets import Order, bucket_sizes, nearest_bucket


@pytest.mark.parametrize("side, multiple", [(512, 64), (256, 64), (64, 16), (16, 4), (768, 64), (64, 64)])
def test_sizes_are_multiples_of_about_equal_area(side: int, multiple: int) -> None:
    sizes = bucket_sizes(side, multiple)
    assert (side, side) in sizes
    assert sorted((w, h) for h, w in sizes) == sorted(sizes)  # as many high as wide
    for height, width in sizes:
        assert height % multiple == width % multiple == 0
        assert side * side * 0.75 < height * width <= side * side
        assert max(height, width) <= 2 * min(height, width)


def test_a_side_that_fits_nothing() -> None:
    with pytest.raises(ValueError, match="500 pixels does not fit; the nearest are 448 and 512"):
        bucket_sizes(500, 64)


def test_a_picture_goes_to_the_nearest_shape() -> None:
    sizes = bucket_sizes(512, 64)
    assert sizes[nearest_bucket(1000, 1000, sizes)] == (512, 512)
    assert sizes[nearest_bucket(4000, 300, sizes)] == (384, 640)  # the widest
    assert sizes[nearest_bucket(300, 4000, sizes)] == (640, 384)


def test_every_picture_is_seen_once_before_any_is_seen_again() -> None:
    order = Order([64], batch=8, steps=24, seed=1)
    epochs = [[row for step in range(8 * e, 8 * e + 8) for row in order.at(step)[1]] for e in range(3)]
    assert all(sorted(epoch) == list(range(64)) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_rare_shapes_are_seen_as_often_as_common_ones() -> None:
    counts = [1000, 10, 300]
    order = Order(counts, batch=8, steps=4 * sum(counts) // 8, seed=3)
    seen = Counter((bucket, row) for step in range(len(order.buckets)) for bucket, row in _rows(order, step))
    assert len(seen) == sum(counts)
    assert set(seen.values()) <= {3, 4, 5}


def _rows(order: Order, step: int) -> list[tuple[int, int]]:
    bucket, rows = order.at(step)
    assert len(rows) == order.batch
    return [(bucket, row) for row in rows]


def test_a_batch_larger_than_its_bucket_repeats_it() -> None:
    order = Order([1], batch=4, steps=2, seed=0)
    assert order.at(1) == (0, [0, 0, 0, 0])


def test_a_longer_run_starts_alike_and_another_seed_does_not() -> None:
    short, long, other = (Order([50, 9], batch=4, steps=s, seed=seed) for s, seed in ((20, 1), (80, 1), (20, 2)))
    assert [short.at(i) for i in range(20)] == [long.at(i) for i in range(20)]
    assert [short.at(i) for i in range(20)] != [other.at(i) for i in range(20)]
