"""Batches from a cache of latents, the same in one process and in many: the same noise, the same curve.

A step's batch is fixed by (seed, step) and has as many pictures whatever the number of processes: each takes its share
of the places, in micro-batches that fit its memory. Every place has a random state of its own, drawn from the step's
generator, so a process draws only what its places need and still sees what one process alone would see.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ldm_edu.condition import Conditioning
from ldm_edu.schedule import NoiseSchedule
from ldm_edu.training.buckets import Order
from ldm_edu.training.cache import BLANK, Cache
from ldm_edu.training.diffusion import Noised, Share


@dataclass(frozen=True)
class CachedBatches:
    """This process's micro-batches of a step; times are spread evenly over the whole batch.

    ``drop`` is the share of captions that are replaced by the blank one.
    """

    cache: Cache
    order: Order
    schedule: NoiseSchedule
    share: Share
    drop: float

    def __call__(self, step: int, progress: float, rng: torch.Generator) -> Iterator[Noised]:
        """As `ldm_edu.training.diffusion.Source`."""
        seeds = torch.randint(2**62, (self.share.batch,), generator=rng).tolist()
        for places in self.share.micro_batches():
            yield self._at(step, places, [seeds[place] for place in places])

    def _at(self, step: int, places: range, seeds: list[int]) -> Noised:
        bucket, rows = self.order.at(step)
        rows = rows[places.start : places.stop]
        x0 = self.cache.latents(bucket, rows)  # (b, C, h, w)
        captions = self.cache.captions(bucket, rows).tolist()
        texts, times, noise = [], [], []
        for place, caption, seed in zip(places, captions, seeds, strict=True):
            rng = torch.Generator().manual_seed(seed)
            drop, u = torch.rand(2, generator=rng).tolist()
            texts.append(BLANK if drop < self.drop else caption)
            times.append(self.schedule.first + int((place + u) / self.share.batch * self.schedule.steps))
            noise.append(torch.randn(x0.shape[1:], generator=rng))
        cond = Conditioning(context=self.cache.states(texts))
        return Noised(x0, cond, torch.tensor(times), torch.stack(noise), places)
