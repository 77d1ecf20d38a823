import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ldm_edu.config import ScheduleConfig, Spacing
from ldm_edu.schedule import (
    EDM,
    Level,
    NoiseSchedule,
    RectifiedFlow,
    VariancePreserving,
    add_noise,
    cosine,
    edm,
    flow,
    karras_levels,
    levels,
    levels_at,
    levels_at_sigmas,
    linear,
    make_schedule,
    original_times,
    per_picture,
    pure_noise,
    scaled_linear,
    sigma_to_level,
    zero_terminal_snr,
)

FALLING = [linear(), scaled_linear(), cosine(), flow(), flow(shift=3.0)]  # the signal falls at every time
SCHEDULES = [*FALLING, zero_terminal_snr(scaled_linear()), edm()]
SPACINGS: list[Spacing] = ["leading", "trailing", "linspace"]


def times(run: list[Level]) -> list[float]:
    return [float(level.t) for level in run]


def test_published_numbers() -> None:
    schedule = scaled_linear()
    assert float(schedule.alpha_bar[0]) == pytest.approx(0.99915, abs=1e-7)
    assert float(schedule.alpha_bar[999]) == pytest.approx(0.0046601, abs=5e-8)
    assert float(schedule.level(0).ratio) == pytest.approx(0.029167, abs=5e-7)
    assert float(schedule.level(999).ratio) == pytest.approx(14.61464, abs=5e-6)
    assert float(linear().level(999).ratio) == pytest.approx(25.146, abs=5e-4)
    assert float(levels(schedule, 50, "leading")[0].ratio) == pytest.approx(13.1204, abs=5e-5)


def test_the_closed_form_is_the_chain_of_small_steps() -> None:
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    mean, variance = 1.0, 0.0
    for beta in betas:
        mean, variance = mean * math.sqrt(1 - beta), variance * (1 - beta) + beta
    level = scaled_linear().level(999)
    assert float(level.alpha) == pytest.approx(mean)
    assert float(level.sigma) ** 2 == pytest.approx(float(variance))


@pytest.mark.parametrize("schedule", FALLING)
def test_levels_are_in_float64_and_noise_grows(schedule: NoiseSchedule) -> None:
    level = schedule.level(torch.linspace(schedule.first, schedule.last, 3001))
    assert {level.t.dtype, level.alpha.dtype, level.sigma.dtype} == {torch.float64}
    assert (level.sigma.diff() > 0).all() and (level.alpha.diff() < 0).all()
    assert (level.snr.diff() < 0).all()
    torch.testing.assert_close(level.log_snr, 0.5 * level.snr.log())
    torch.testing.assert_close(level.ratio, level.snr**-0.5)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_signal_and_noise_add_up(schedule: NoiseSchedule) -> None:
    level = schedule.level(torch.linspace(schedule.first, schedule.last, 77))
    straight = isinstance(schedule, RectifiedFlow)
    total = level.alpha + level.sigma if straight else level.alpha**2 + level.sigma**2
    if not isinstance(schedule, EDM):
        torch.testing.assert_close(total, torch.ones_like(total))
    clean = schedule.clean()
    assert (float(clean.alpha), float(clean.sigma)) == (1.0, 0.0)
    assert float(clean.t) < float(schedule.level(schedule.first).t)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("schedule", SCHEDULES)
@settings(max_examples=20, deadline=None)
@given(steps=st.integers(1, 1000))
def test_any_number_of_steps_is_that_number(schedule: NoiseSchedule, spacing: Spacing, steps: int) -> None:
    run = levels(schedule, steps, spacing)
    assert len(run) == steps + 1
    sigmas = torch.stack([level.sigma for level in run])
    assert (sigmas.diff() < 0).all() and sigmas[-1] == 0 and sigmas[0] <= schedule.level(schedule.last).sigma
    assert run[0].t.ndim == run[0].alpha.ndim == run[0].sigma.ndim == 0


def test_spacings_of_fifty_steps() -> None:
    schedule = scaled_linear()
    leading, trailing, linspace = (times(levels(schedule, 50, spacing)) for spacing in SPACINGS)
    assert leading == [*range(981, 0, -20), -1]
    assert trailing == [*range(999, 0, -20), -1]
    assert (linspace[0], linspace[-2]) == (999, 0) and linspace[1] == pytest.approx(999 - 999 / 49)
    assert times(levels(schedule, 50)) == trailing


def test_awkward_numbers_of_steps() -> None:
    schedule = scaled_linear()
    assert times(levels(schedule, 30, "leading"))[:3] == [958, 925, 892]
    assert times(levels(schedule, 30, "trailing"))[:3] == [999, 966, 932]
    assert times(levels(schedule, 1000, "leading")) == [*range(999, -1, -1), -1]
    assert times(levels(schedule, 1, "leading")) == [1, -1]
    assert times(levels(schedule, 1, "trailing")) == times(levels(schedule, 1, "linspace")) == [999, -1]
    assert times(levels(flow(), 4, "trailing")) == [1000, 750, 500, 250, 0]


@pytest.mark.parametrize("steps", [1, 2, 10, 1000])
def test_karras_strides_are_equal_in_the_seventh_root(steps: int) -> None:
    run = levels(scaled_linear(), steps, "karras")
    assert len(run) == steps + 1
    roots = torch.stack([level.ratio for level in run[:-1]]) ** (1 / 7)
    torch.testing.assert_close(roots, torch.linspace(14.614642 ** (1 / 7), roots[-1], steps, dtype=torch.float64))
    if steps > 1:
        assert float(run[-2].t) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("schedule", [*FALLING, edm()])
@settings(max_examples=20, deadline=None)
@given(t=st.floats(1, 999))
def test_time_is_the_inverse_of_level(schedule: NoiseSchedule, t: float) -> None:
    assert float(schedule.time(schedule.level(t).ratio)) == pytest.approx(t, abs=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_sigmas_to_levels(schedule: NoiseSchedule) -> None:
    level = sigma_to_level(schedule, 2.5)
    assert float(level.ratio) == pytest.approx(2.5) and level.schedule is schedule
    torch.testing.assert_close(level.t, schedule.level(schedule.time(level.ratio)).t)
    run = levels_at_sigmas(schedule, [5.0, 2.5, 0.1])
    assert [float(level.ratio) for level in run] == pytest.approx([5, 2.5, 0.1, 0])
    assert all(level.schedule is schedule for level in run)
    assert sigma_to_level(schedule, torch.tensor([0.5, 2.0])).alpha.shape == (2,)


def test_sigmas_that_no_level_has() -> None:
    for schedule, sigma in [(scaled_linear(), 80.0), (scaled_linear(), 0.001), (edm(), 0.0001), (edm(), 90.0)]:
        with pytest.raises(ValueError, match=rf"sigma={sigma} is not within the noise .* from 0\.0\d+ to \d+"):
            sigma_to_level(schedule, sigma)
    with pytest.raises(ValueError, match=r"sigma=1000000\.0 is not within"):  # between the last time and pure noise
        sigma_to_level(zero_terminal_snr(scaled_linear()), 1e6)
    with pytest.raises(ValueError, match="must fall"):
        levels_at_sigmas(scaled_linear(), torch.tensor([1.0, 2.0]))


def test_karras_with_its_own_exponent_and_range() -> None:
    run = karras_levels(scaled_linear(), 5, rho=3.0, sigma_min=0.1, sigma_max=10.0)
    roots = torch.stack([level.ratio for level in run[:-1]]) ** (1 / 3)
    torch.testing.assert_close(roots, torch.linspace(10 ** (1 / 3), 0.1 ** (1 / 3), 5, dtype=torch.float64))
    same = zip(karras_levels(scaled_linear(), 7), levels(scaled_linear(), 7, "karras"), strict=True)
    assert all(float(a.t) == pytest.approx(float(b.t)) for a, b in same)
    assert float(karras_levels(flow(), 4, sigma_min=0.1, sigma_max=20.0)[0].sigma) == pytest.approx(20 / 21)
    published = [80, 17.5278, 2.5152, 0.16975, 0.002, 0]  # Karras et al. 2022 and Playground 2.5, five steps
    assert [float(level.sigma) for level in karras_levels(edm(), 5)] == pytest.approx(published, rel=1e-4)
    with pytest.raises(ValueError, match="karras spacing needs a schedule with a signal"):
        karras_levels(flow(), 4, sigma_max=20.0)
    with pytest.raises(ValueError, match="sigma must fall from 1"):
        karras_levels(scaled_linear(), 4, sigma_min=2.0, sigma_max=1.0)
    with pytest.raises(ValueError, match=r"rho=0\.0"):
        karras_levels(scaled_linear(), 4, rho=0.0)


@pytest.mark.parametrize("spacing", ["exponential", "beta", "sgm_uniform", "align_your_steps", "align_your_steps_xl"])
@settings(max_examples=10, deadline=None)
@given(steps=st.integers(1, 1000))
def test_other_spacings_of_any_number_of_steps(spacing: Spacing, steps: int) -> None:
    run = levels(scaled_linear(), steps, spacing)
    sigmas = torch.stack([level.sigma for level in run])
    assert len(run) == steps + 1 and (sigmas.diff() < 0).all()
    assert float(run[0].t) == pytest.approx(999) and sigmas[-1] == 0


def test_other_spacings() -> None:
    def seen(spacing: Spacing, steps: int = 4) -> list[float]:
        return [round(t, 2) for t in times(levels(scaled_linear(), steps, spacing))[:-1]]

    assert seen("sgm_uniform") == [999, 749.25, 499.5, 249.75]
    assert seen("beta") == [999, 823.5, 499.5, 175.5]
    logs = torch.stack([level.ratio for level in levels(scaled_linear(), 6, "exponential")[:-1]]).log().diff()
    torch.testing.assert_close(logs, logs[:1].expand(5))
    table = [999, 850, 736, 645, 545, 455, 343, 233, 124, 24]
    assert seen("align_your_steps", 10) == table and seen("align_your_steps", 20)[::2] == table
    assert seen("align_your_steps_xl", 10) == [999, 845, 730, 587, 443, 310, 193, 116, 53, 13]
    for schedule in (flow(), edm(), linear(steps=100)):
        with pytest.raises(ValueError, match="a table of Stable Diffusion's 1000 times"):
            levels(schedule, 10, "align_your_steps")


def test_the_original_s_times() -> None:
    """numpy's range(0, 1000, 1000 // steps) + 1, whatever the number of them."""
    assert original_times(50).tolist() == times(levels(scaled_linear(), 50, "leading"))[:-1]
    assert original_times(30).tolist() == list(range(991, 0, -33)) and len(original_times(30)) == 31
    assert len(levels_at(scaled_linear(), original_times(30), final="first")) == 32
    for steps in (0, 1000):
        with pytest.raises(ValueError, match=f"steps={steps} must lie from 1 to 999"):
            original_times(steps)


def test_what_is_not_a_level() -> None:
    x = torch.zeros(1, 2)
    for wrong, named in [(500, "the int 500"), (0.5, r"the float 0\.5"), (torch.tensor(3), "the Tensor")]:
        with pytest.raises(TypeError, match=f"a level must be a Level, not {named}.*: make one with schedule.level"):
            add_noise(x, x, wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_ends(schedule: NoiseSchedule) -> None:
    zero, first = levels(schedule, 10)[-1], levels(schedule, 10, final="first")[-1]
    assert float(zero.sigma) == 0
    assert float(first.sigma) == float(schedule.level(schedule.first).sigma) > 0


@pytest.mark.parametrize("steps", [0, -1, 1001, 20.0, True, "20", None])
def test_impossible_numbers_of_steps(steps: object) -> None:
    with pytest.raises(ValueError, match=r"steps=.* must be a whole number from 1 to 1000"):
        levels(scaled_linear(), steps)  # type: ignore[arg-type]


def test_what_makes_no_schedule() -> None:
    with pytest.raises(ValueError, match="choose linear, scaled_linear, cosine, flow or edm"):
        make_schedule(ScheduleConfig(kind="sigmoid"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="betas must rise"):
        make_schedule(ScheduleConfig(beta_start=0.02, beta_end=0.01))
    with pytest.raises(ValueError, match="steps=1"):
        make_schedule(ScheduleConfig(steps=1))
    with pytest.raises(ValueError, match=r"shift=-1\.0"):
        make_schedule(ScheduleConfig(kind="flow", shift=-1.0))
    with pytest.raises(ValueError, match=r"sigma_min=0\.0, sigma_max=80\.0"):
        make_schedule(ScheduleConfig(kind="edm", sigma_min=0.0))


def test_what_makes_no_run() -> None:
    schedule = scaled_linear()
    with pytest.raises(ValueError, match="choose leading, trailing, linspace"):
        levels(schedule, 10, "quadratic")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'zero' or 'first'"):
        levels(schedule, 10, final="last")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="use trailing spacing, or linspace"):
        levels(flow(), 10, "karras")
    with pytest.raises(ValueError, match="must fall"):
        levels_at(schedule, torch.tensor([500.0, 500.0, 0.0]))
    with pytest.raises(ValueError, match="zero-SNR schedule starts"):
        levels(zero_terminal_snr(schedule), 10, "karras")
    for t in (1000, -0.5, math.nan):
        with pytest.raises(ValueError, match="from 0 to 999"):
            schedule.level(t)


@pytest.mark.parametrize("kind", ["linear", "scaled_linear", "cosine", "flow", "edm"])
def test_make_schedule(kind: str) -> None:
    schedule = make_schedule(ScheduleConfig(kind=kind, steps=10, shift=2.0))  # type: ignore[arg-type]
    assert schedule.steps == 10
    assert schedule.last - schedule.first == 9


def test_zero_terminal_snr_starts_in_pure_noise_and_ends_as_before() -> None:
    before, schedule = scaled_linear(), make_schedule(ScheduleConfig(rescale_betas_zero_snr=True))
    start, end = schedule.level(999), schedule.level(0)
    assert (float(start.alpha), float(start.sigma), float(start.snr)) == (0.0, 1.0, 0.0)
    assert float(start.ratio) == math.inf and float(start.log_snr) == -math.inf
    torch.testing.assert_close(end.alpha, before.level(0).alpha)
    roots = schedule.level(torch.arange(1000)).alpha / before.level(torch.arange(1000)).alpha
    assert (roots.diff() < 0).all()  # the noisier, the more signal is taken away
    assert math.isfinite(float(schedule.level(998).ratio)) and float(schedule.level(998.5).alpha) == 0
    assert times(levels(schedule, 4)) == [999, 749, 499, 249, -1]


def test_edm_steps_are_those_of_the_paper() -> None:
    run = levels(edm(), 5, "linspace")
    sigmas = [float(level.sigma) for level in run]
    assert sigmas == pytest.approx([80, 17.5278, 2.5152, 0.16975, 0.002, 0], rel=1e-4)
    assert times(run[:-1]) == pytest.approx([math.log(sigma) / 4 for sigma in sigmas[:-1]])
    assert {float(level.alpha) for level in run} == {1.0}
    assert float(levels(edm(sigma_max=120.0), 3)[0].sigma) == pytest.approx(120)


def test_pure_noise_has_the_deviation_of_a_noisy_sample() -> None:
    noise = torch.randn(2, 4, 3, 3)
    for schedule in (scaled_linear(), zero_terminal_snr(scaled_linear()), flow()):
        assert torch.equal(pure_noise(noise, schedule.level(schedule.last)), noise)
    torch.testing.assert_close(pure_noise(noise, edm().level(999)), noise * 80.00625)


def test_asking_changes_nothing() -> None:
    schedule = scaled_linear()
    before = times(levels(schedule, 50))
    levels(schedule, 7, "karras")
    assert times(levels(schedule, 50)) == before


def test_noise_of_a_batch_is_each_picture_s_own() -> None:
    schedule = scaled_linear()
    x0, eps = torch.randn(2, 3, 4, 5, 5)
    t = torch.tensor([1, 500, 999])
    batch = add_noise(x0, eps, schedule.level(t))
    alone = torch.cat([add_noise(x0[i : i + 1], eps[i : i + 1], schedule.level(t[i])) for i in range(3)])
    assert batch.dtype == torch.float32
    torch.testing.assert_close(batch, alone)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_level_leaves_the_type_of_a_sample(dtype: torch.dtype) -> None:
    x0 = torch.randn(2, 4, 3, 3, dtype=dtype)
    schedule = scaled_linear()
    for level in (schedule.level(3), schedule.level(torch.tensor([3, 4]))):
        assert add_noise(x0, x0, level).dtype == dtype


def test_per_picture() -> None:
    x = torch.zeros(2, 3, 4, 4)
    assert per_picture(torch.tensor(0.5), x).ndim == 0
    assert per_picture(torch.tensor([0.5, 1.0]), x).shape == (2, 1, 1, 1)


@pytest.mark.parametrize("alpha_bar", [[0.9, 0.0, 0.0], [0.9, -0.1], [1.0, 0.5], [0.5, 0.9], [0.5], [0.9, math.nan]])
def test_a_chain_that_cannot_be(alpha_bar: list[float]) -> None:
    with pytest.raises(ValueError, match="must fall from below 1 to 0 or above"):
        VariancePreserving(torch.tensor(alpha_bar))


def test_whole_numbers_of_other_libraries_are_whole() -> None:
    assert len(levels(scaled_linear(), np.int64(3))) == 4  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="steps=True"):
        levels(scaled_linear(), True)
