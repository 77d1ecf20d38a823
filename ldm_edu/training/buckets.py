"""Pictures of every shape in batches of one shape: buckets of about equal area, and who comes when.

A bucket is a size (height, width). Each picture goes to the bucket nearest to its shape, and every batch is taken from
one bucket, so that nothing is squashed, little is cropped and all steps cost about the same.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

Size = tuple[int, int]  # height, width

GOLDEN = (math.sqrt(5) - 1) / 2


def bucket_sizes(side: int, multiple: int, longest: float = 2.0) -> list[Size]:
    """All sizes (height, width) of at most ``side`` x ``side`` pixels, as large as they can be, the square among them.

    Parameters
    ----------
    side
        of the square one.
    multiple
        what every side is a multiple of: 64 for Stable Diffusion, 8 for the autoencoder times 8 for the U-Net.
    longest
        how many times longer the longer side may be.

    Raises
    ------
    ValueError
        if ``side`` is no multiple itself.

    >>> bucket_sizes(256, 64)
    [(192, 320), (256, 256), (320, 192)]
    """
    if side <= 0 or side % multiple:
        near = sorted({max(multiple, side // multiple * multiple), (side // multiple + 1) * multiple})
        raise ValueError(f"a side of {side} pixels does not fit; the nearest are {' and '.join(map(str, near))}")
    pairs = [(short, side * side // short // multiple * multiple) for short in range(multiple, side + 1, multiple)]
    wide = [(short, long) for short, long in pairs if long <= longest * short]
    return sorted({*wide, *((long, short) for short, long in wide)})


def nearest_bucket(width: int, height: int, sizes: Sequence[Size]) -> int:
    """The place of the bucket whose shape is nearest to a picture's: the least is cropped there."""
    shape = math.log(height / width)
    return min(range(len(sizes)), key=lambda i: abs(shape - math.log(sizes[i][0] / sizes[i][1])))


class Order:
    """Which pictures each step sees: a function of the step and the seed alone, so a resumed run needs no memory.

    Every bucket is an endless row of permutations of its pictures, one an epoch; a step takes the next ``batch`` of
    one bucket. Which bucket follows a golden-ratio sequence: in any stretch of steps each comes as often as its share
    of the pictures says, to within a few steps. So all pictures are seen equally often, those of rare shapes too.

    Parameters
    ----------
    counts
        the number of pictures in each bucket.
    batch
        pictures a step.
    steps
        the length of the run; a longer run starts with the same steps.
    seed
        decides the order.

    >>> order = Order([4, 2], batch=2, steps=3, seed=0)
    >>> sorted(row for step in range(3) for row in order.at(step)[1] if order.at(step)[0] == 0)
    [0, 1, 2, 3]
    """

    def __init__(self, counts: Sequence[int], *, batch: int, steps: int, seed: int) -> None:
        self.counts, self.batch, self.seed = list(counts), batch, seed
        edges = np.cumsum(counts) / sum(counts)
        points = (np.random.default_rng(seed).random() + GOLDEN * np.arange(steps)) % 1.0
        self.buckets = np.minimum(np.searchsorted(edges, points, side="right"), len(self.counts) - 1)  # (steps,)
        self.turns = np.zeros(steps, dtype=np.int64)  # how often the bucket has been taken before
        for bucket in range(len(self.counts)):
            mine = self.buckets == bucket
            self.turns[mine] = np.arange(mine.sum())

    def at(self, step: int) -> tuple[int, list[int]]:
        """The bucket of a step, and the ``batch`` rows in it, in the order of the batch."""
        bucket = int(self.buckets[step])
        count = self.counts[bucket]
        places = int(self.turns[step]) * self.batch + np.arange(self.batch)
        return bucket, [int(_permutation(count, self.seed, bucket, p // count)[p % count]) for p in places.tolist()]


@lru_cache(maxsize=64)
def _permutation(count: int, seed: int, bucket: int, epoch: int) -> np.ndarray:
    """The order of a bucket's pictures in one epoch."""
    return np.random.default_rng([seed, bucket, epoch]).permutation(count)
