"""Noise schedules: what a level is, which level belongs to a time, and at which levels a sampler stops."""

from ldm_edu.schedule.level import Level, NoiseSchedule, add_noise, check_level, per_picture, pure_noise
from ldm_edu.schedule.processes import (
    EDM,
    RectifiedFlow,
    VariancePreserving,
    cosine,
    edm,
    flow,
    linear,
    make_schedule,
    scaled_linear,
    zero_terminal_snr,
)
from ldm_edu.schedule.run import Final, karras_levels, levels, levels_at, levels_at_sigmas, sigma_to_level
from ldm_edu.schedule.spacings import original_times

__all__ = [
    "EDM",
    "Final",
    "Level",
    "NoiseSchedule",
    "RectifiedFlow",
    "VariancePreserving",
    "add_noise",
    "check_level",
    "cosine",
    "edm",
    "flow",
    "karras_levels",
    "levels",
    "levels_at",
    "levels_at_sigmas",
    "linear",
    "make_schedule",
    "original_times",
    "per_picture",
    "pure_noise",
    "scaled_linear",
    "sigma_to_level",
    "zero_terminal_snr",
]
