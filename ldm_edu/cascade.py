"""Stages one after another: SDXL's base draws what is coarse in a picture, its refiner what is fine.

(Podell et al. 2023, section 2.5.) Both know the same latents and the same noise schedule, so the refiner goes on from
the base's sample as it is, still noisy, where the base's levels end.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ldm_edu.config import Spacing
from ldm_edu.guidance import cfg
from ldm_edu.model import LatentDiffusion
from ldm_edu.samplers import Rng, Sampler, Step, initial_noise
from ldm_edu.schedule import Level, NoiseSchedule, pure_noise

SWITCH = 0.8  # as the authors have it


def split(run: Sequence[Level], schedule: NoiseSchedule, switch: float = SWITCH) -> tuple[list[Level], list[Level]]:
    """The levels of a run for the base, and those for the refiner: the last of the former is the first of the latter.

    The base draws down to the last ``1 - switch`` of the schedule's times.

    Raises
    ------
    ValueError
        if one of the two would have no step.
    """
    cutoff = round((1 - switch) * schedule.steps)
    k = sum(float(level.t) >= cutoff for level in run[:-1])
    if not 0 < k < len(run) - 1:
        raise ValueError(
            f"switch={switch} leaves one of two models without a step in a run of {len(run) - 1}; take more steps, or "
            "0.8, which is usual"
        )
    return list(run[: k + 1]), list(run[k:])


def base_then_refiner(
    base: LatentDiffusion,
    refiner: LatentDiffusion,
    prompts: Sequence[Any],
    *,
    switch: float = SWITCH,
    seeds: Sequence[int] | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    sampler: Sampler | None = None,
    spacing: Spacing | None = None,
    negative: Any = "",
    size: int | tuple[int, int] | None = None,
    about: Mapping[str, Any] | None = None,
) -> Iterator[Step]:
    """Draw pictures with two models in turn; the steps are those of both. `decode` the last step's ``x`` with either.

    Parameters
    ----------
    switch
        the share of the noise schedule that is the base's, see `split`. The others are as in
        `LatentDiffusion.generate`.

    Raises
    ------
    ValueError
        at the first step, for a number, a size or a condition that does not fit.
    """
    seeds, run, scale, sampler = base.settings(prompts, seeds, steps, guidance, sampler, spacing)
    rng = Rng(seeds)
    x, drawn = pure_noise(initial_noise(seeds, base.latent_shape(size)).to(base.device), run[0]), 0
    for model, some in zip((base, refiner), split(run, base.schedule, switch), strict=True):
        cond, blank = (model.condition(each, size, **(about or {})) for each in (prompts, [negative]))
        guided = cfg(model.denoiser(cond, some), model.denoiser(blank, some), scale)
        for step in sampler(guided, x, some, rng=rng):
            yield replace(step, index=drawn + step.index)
        x, drawn = step.x, drawn + len(some) - 1
