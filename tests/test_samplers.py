import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast, get_args

import pytest
import torch
from torch import Tensor

from ldm_edu.config import Spacing
from ldm_edu.denoise import Denoiser
from ldm_edu.prediction import to_x0
from ldm_edu.samplers import (
    SAMPLERS,
    Rng,
    Step,
    ddim,
    ddpm,
    deis,
    dpm2,
    dpmpp_2m,
    dpmpp_3m,
    euler,
    euler_ancestral,
    heun,
    initial_noise,
    lms,
    plms,
    unipc,
)
from ldm_edu.schedule import Final, Level, NoiseSchedule, add_noise, flow, levels, scaled_linear

STOCHASTIC = {
    *("ddpm", "euler_ancestral", "dpm2_ancestral", "dpmpp_2s_ancestral"),
    *("dpmpp_sde", "dpmpp_2m_sde", "dpmpp_3m_sde", "lcm"),
}
TWICE = {"heun", "dpm2", "dpm2_ancestral", "dpmpp_2s_ancestral", "dpmpp_sde"}  # evaluations a step
SHAPE = (2, 3, 3)
SCHEDULES = [scaled_linear(), flow(shift=3.0)]


def denoise(x: Tensor, level: Level) -> Tensor:
    """A smooth estimate that treats each picture alike, whatever its neighbours."""
    return torch.tanh(x + x.roll(1, dims=-1)) * (1 - level.sigma / 2)


def last(steps: Iterator[Step]) -> Step:
    return list(steps)[-1]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 20])
def test_every_sampler_takes_its_steps(name: str, schedule: NoiseSchedule, steps: int) -> None:
    run, x = levels(schedule, steps), initial_noise([1, 2], SHAPE)
    kept = x.clone()
    result = list(SAMPLERS[name](denoise, x, run, rng=Rng([1, 2])))
    assert [step.index for step in result] == list(range(steps))
    assert [step.level for step in result] == run[1:]
    assert all(step.x.shape == step.x0.shape == x.shape and step.x.dtype == torch.float32 for step in result)
    assert all(step.x.isfinite().all() for step in result)
    assert torch.equal(x, kept)  # the caller's noise is left alone


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_known_picture_is_found(name: str, schedule: NoiseSchedule) -> None:
    """A denoiser that is always right: every method must end at what it says, and on the way at the right noise."""
    truth = torch.randn(2, *SHAPE)
    run = levels(schedule, 20)
    step = last(SAMPLERS[name](lambda x, level: truth, initial_noise([1, 2], SHAPE), run, rng=Rng([1, 2])))
    torch.testing.assert_close(step.x, truth, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", SAMPLERS)
def test_nothing_is_kept_between_runs(name: str) -> None:
    run, x = levels(scaled_linear(), 8), initial_noise([5], SHAPE)
    first = SAMPLERS[name](denoise, x, run, rng=Rng([5]))
    next(first), next(first)
    again = last(SAMPLERS[name](denoise, x, run, rng=Rng([5])))  # while the first run is still going on
    assert torch.equal(last(first).x, again.x)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_picture_depends_on_its_seed_alone(name: str) -> None:
    def pictures(seeds: list[int]) -> Tensor:
        return last(SAMPLERS[name](denoise, initial_noise(seeds, SHAPE), run, rng=Rng(seeds))).x

    run = levels(scaled_linear(), 6)
    batch = pictures([7, 8, 9, 7])
    torch.testing.assert_close(pictures([9, 8]), batch[[2, 1]])
    torch.testing.assert_close(pictures([7]), batch[:1])
    assert torch.equal(batch[0], batch[3])
    assert not torch.allclose(batch[0], batch[1])


@pytest.mark.parametrize("name", sorted(STOCHASTIC))
def test_fresh_noise_depends_on_the_seed(name: str) -> None:
    run, x = levels(scaled_linear(), 6), initial_noise([7], SHAPE)
    ends = [last(SAMPLERS[name](denoise, x, run, rng=Rng([seed]))).x for seed in (1, 1, 2)]
    assert torch.equal(ends[0], ends[1])
    assert not torch.allclose(ends[0], ends[2])


def test_the_noise_on_the_way_is_not_the_initial_noise() -> None:
    x = initial_noise(range(100), (4, 8, 8))
    rng = Rng(range(100))
    first, second = rng.normal(x), rng.normal(x)
    for a, b in ((x, first), (x, second), (first, second)):
        assert abs(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]) < 0.02


def test_noise_is_standard_normal_and_of_the_type_asked_for() -> None:
    x = initial_noise(range(50), (4, 16, 16))
    assert x.shape == (50, 4, 16, 16)
    assert abs(float(x.mean())) < 0.01 and abs(float(x.std()) - 1) < 0.01
    assert Rng([1, 2]).normal(torch.zeros(2, 5, dtype=torch.bfloat16)).dtype == torch.bfloat16
    torch.testing.assert_close(
        Rng([1]).normal(torch.zeros(1, 40, dtype=torch.float64)).float(), Rng([1]).normal(torch.zeros(1, 40))
    )


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_impossible_seeds(seed: int) -> None:
    with pytest.raises(ValueError, match=f"seed={seed} must be a whole number from 0 to 4294967295"):
        initial_noise([1, seed], SHAPE)
    with pytest.raises(ValueError, match=f"seed={seed}"):
        Rng([seed])


def test_seeds_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="seeds is empty"):
        initial_noise([], SHAPE)
    with pytest.raises(ValueError, match="2 seeds do not fit a batch of 3"):
        Rng([1, 2]).normal(torch.zeros(3, 4))


def test_large_seeds_are_not_small_ones() -> None:
    assert not torch.equal(initial_noise([2**31], SHAPE), initial_noise([0], SHAPE))
    assert not torch.equal(initial_noise([2**32 - 1], SHAPE), initial_noise([2**31 - 1], SHAPE))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_euler_is_ddim_and_ancestral_sampling_is_ddpm(schedule: NoiseSchedule) -> None:
    run, x = levels(schedule, 12), initial_noise([1, 2], SHAPE)
    for a, b in zip(euler(denoise, x, run), ddim(denoise, x, run), strict=True):
        torch.testing.assert_close(a.x, b.x, rtol=1e-4, atol=1e-5)
    for a, b, c in zip(
        ddpm(denoise, x, run, rng=Rng([1, 2])),
        ddim(denoise, x, run, eta=1.0, rng=Rng([1, 2])),
        euler_ancestral(denoise, x, run, rng=Rng([1, 2])),
        strict=True,
    ):
        torch.testing.assert_close(a.x, b.x, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(a.x, c.x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SAMPLERS)
def test_evaluations(name: str) -> None:
    evaluations = 2 * 10 - 1 if name in TWICE else 10 + 1 if name == "plms" else 10
    asked = []

    def counted(x: Tensor, level: Level) -> Tensor:
        asked.append(level)
        return denoise(x, level)

    last(SAMPLERS[name](counted, initial_noise([1], SHAPE), levels(scaled_linear(), 10), rng=Rng([1])))
    assert len(asked) == evaluations
    assert all(level.sigma > 0 for level in asked)  # nobody asks what a clean picture would be


def test_picture_to_picture() -> None:
    run = levels(scaled_linear(), 20)[12:]
    x0 = torch.tanh(torch.randn(1, *SHAPE))
    x = add_noise(x0, initial_noise([1], SHAPE), run[0])
    result = list(dpmpp_2m(lambda x, level: x0, x, run))
    assert len(result) == 8
    torch.testing.assert_close(result[-1].x, x0)


def test_there_and_back() -> None:
    """DDIM from data to noise is DDIM with the levels turned round (Song et al. 2021, section 4.3)."""

    def gaussian(x: Tensor, level: Level) -> Tensor:  # exact for data of standard deviation 1/2
        return x * level.alpha / 4 / (level.alpha**2 / 4 + level.sigma**2)

    run = levels(scaled_linear(), 100, "karras")[:-1]
    x = initial_noise([1], SHAPE)
    down = last(ddim(gaussian, x, run)).x
    up = last(ddim(gaussian, down, run[::-1])).x
    assert float((up - x).abs().max()) < 0.1 < float((down - x).abs().max())


@pytest.mark.parametrize("spacing", get_args(Spacing))
@pytest.mark.parametrize("final", ["zero", "first"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_every_spacing_and_end(name: str, spacing: Spacing, final: Final) -> None:
    """linspace and karras with the end "first" repeat their last level: a step that changes nothing."""
    run = levels(scaled_linear(), 20, spacing, final)
    step = last(SAMPLERS[name](denoise, initial_noise([1], SHAPE), run, rng=Rng([1])))
    assert step.x.isfinite().all()


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_model_that_fails_is_named_with_its_step(name: str) -> None:
    def fails_late(x: Tensor, level: Level) -> Tensor:
        return denoise(x, level) * (torch.nan if level.t < 500 else 1.0)

    run = levels(scaled_linear(), 10)  # 999, 899, 799, 699, 599, 499
    ahead = name in ("heun", "dpm2_ancestral", "dpmpp_2s_ancestral")  # with eta 1 the middle is the next level
    at = 4 if ahead else 5
    with pytest.raises(ValueError, match=rf"at step {at} \(t = 499\.0\).*NaN or infinity; lower the guidance scale"):
        last(SAMPLERS[name](fails_late, initial_noise([1], SHAPE), run, rng=Rng([1])))


@pytest.mark.parametrize("name", SAMPLERS)
def test_no_steps(name: str) -> None:
    run = levels(scaled_linear(), 10)
    for too_few in (run[10:], []):
        with pytest.raises(ValueError, match="a run needs at least 2 levels"):
            next(SAMPLERS[name](denoise, initial_noise([1], SHAPE), too_few, rng=Rng([1])))


@pytest.mark.parametrize("name", sorted(STOCHASTIC))
def test_noise_without_a_seed(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} draws noise at every step: pass rng=Rng\(seeds\)"):
        last(SAMPLERS[name](denoise, initial_noise([1], SHAPE), levels(scaled_linear(), 3)))
    with pytest.raises(ValueError, match=r"eta=0\.5"):
        last(ddim(denoise, initial_noise([1], SHAPE), levels(scaled_linear(), 3), eta=0.5))


def test_options_out_of_range() -> None:
    run, x = levels(scaled_linear(), 3), initial_noise([1], SHAPE)
    for eta in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="must lie from 0"):
            next(ddim(denoise, x, run, eta=eta, rng=Rng([1])))
    for sampler in (unipc, lms, deis):
        with pytest.raises(ValueError, match="order=0"):
            next(sampler(denoise, x, run, order=0))


@pytest.mark.parametrize("name", sorted(STOCHASTIC - {"ddpm", "lcm"}))
def test_how_much_noise_is_fresh(name: str) -> None:
    run, x = levels(scaled_linear(), 8), initial_noise([1], SHAPE)
    sampler: Any = SAMPLERS[name]
    for options, wrong in [({"eta": 1.5}, r"eta=1\.5 must lie from 0"), ({"s_noise": -1.0}, r"s_noise=-1\.0")]:
        with pytest.raises(ValueError, match=wrong):
            next(sampler(denoise, x, run, rng=Rng([1]), **options))
    usual, half, none = (last(sampler(denoise, x, run, rng=Rng([1]), eta=eta)).x for eta in (1.0, 0.5, 0.0))
    assert torch.equal(none, last(sampler(denoise, x, run, eta=0.0)).x)  # no noise is drawn, no rng is needed
    assert not torch.allclose(usual, half) and not torch.allclose(half, none)
    quieter = last(sampler(denoise, x, run, rng=Rng([1]), s_noise=0.5)).x
    assert not torch.allclose(usual, quieter)


# --- the wrong kind of argument -------------------------------------------------------------------------------------


@dataclass
class Output:
    """What a network of `diffusers` returns."""

    sample: Tensor


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_wrong_kind_of_argument_is_a_sentence(name: str) -> None:
    run, x, sampler = levels(scaled_linear(), 4), initial_noise([1], SHAPE), cast(Any, SAMPLERS[name])
    wrong = [
        ((denoise, x, [14.6, 7.0, 0.0]), "a level must be a Level, not the float 14.6: make one with"),
        ((denoise, x, torch.tensor([999, 500])), "`levels` must be a list of Level, not a Tensor: make one with"),
        ((lambda x, level: Output(x), x, run), "a denoiser must return the estimate of x0, a tensor, not a Output"),
    ]
    for arguments, sentence in wrong:
        with pytest.raises(TypeError, match=sentence):
            last(sampler(*arguments, rng=Rng([1])))
    with pytest.raises(ValueError, match=r"returned a tensor of \(1, 4, 3, 3\) for a sample of \(1, 2, 3, 3\)"):
        last(sampler(lambda x, level: torch.cat([x, x], dim=1), x, run, rng=Rng([1])))  # a learned variance beside
    if name in STOCHASTIC:
        with pytest.raises(TypeError, match=r"`rng` must be Rng\(seeds\), one seed a picture, not a Generator"):
            last(sampler(denoise, x, run, rng=torch.Generator()))


@pytest.mark.parametrize("name", sorted(TWICE - {"heun"}))
def test_levels_without_a_schedule_have_no_middle(name: str) -> None:
    run = [Level(level.t, level.alpha, level.sigma) for level in levels(scaled_linear(), 4)]
    with pytest.raises(ValueError, match=r"asks between two levels.*: make them with levels\(schedule, steps\)"):
        last(SAMPLERS[name](denoise, initial_noise([1], SHAPE), run, rng=Rng([1])))


@pytest.mark.parametrize("name", SAMPLERS)
def test_no_graph_of_a_network_is_kept(name: str) -> None:
    weight = torch.ones(1, requires_grad=True)
    x = initial_noise([1], SHAPE)
    for step in SAMPLERS[name](
        lambda x, level: weight * denoise(x, level), x, levels(scaled_linear(), 4), rng=Rng([1])
    ):
        assert not step.x.requires_grad and not step.x0.requires_grad
    assert torch.is_grad_enabled()  # between the steps the caller may train


def test_a_denoiser_may_take_gradients_itself() -> None:
    def guided(x: Tensor, level: Level) -> Tensor:
        with torch.enable_grad():
            seen = x.detach().requires_grad_()
            (slope,) = torch.autograd.grad((seen**2).sum(), seen)
        return x - 0.1 * slope

    assert last(euler(guided, initial_noise([1], SHAPE), levels(scaled_linear(), 4))).x.isfinite().all()


def test_a_middle_has_the_schedule_s_own_time() -> None:
    for schedule in SCHEDULES:
        asked: list[Level] = []

        def counted(x: Tensor, level: Level, asked: list[Level] = asked) -> Tensor:
            asked.append(level)
            return denoise(x, level)

        run = levels(schedule, 4)[1:]
        last(dpm2(counted, initial_noise([1], SHAPE), run))
        middle = asked[1]
        torch.testing.assert_close(middle.log_snr, (run[0].log_snr + run[1].log_snr) / 2)
        torch.testing.assert_close(middle.t, schedule.level(schedule.time(middle.ratio)).t)
        assert run[1].t < middle.t < run[0].t


@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_are_called_alike(name: str) -> None:
    signature = inspect.signature(SAMPLERS[name])
    assert list(signature.parameters)[:3] == ["denoise", "x", "levels"]
    options = list(signature.parameters.values())[3:]
    assert "rng" in signature.parameters
    assert all(p.kind is p.KEYWORD_ONLY and p.default is not p.empty for p in options)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sample_keeps_its_type(name: str) -> None:
    x = initial_noise([1], SHAPE).bfloat16()
    assert last(SAMPLERS[name](denoise, x, levels(scaled_linear(), 4), rng=Rng([1]))).x.dtype == torch.bfloat16


def test_the_parabola_is_laid_right() -> None:
    """Where x0 is linear in log-SNR, dpmpp_3m is exact from step 3 on; where it is a parabola, third_order is."""
    base, slope, bend = torch.randn(3, 1, *SHAPE, dtype=torch.float64)
    run = levels(scaled_linear(), 40, "karras")[:-1]

    def worst(bend: Tensor, third_order: bool) -> float:
        def moving(x: Tensor, level: Level) -> Tensor:
            return base + slope * level.log_snr + bend * level.log_snr**2

        def integral(level: Level) -> Tensor:  # of exp(l) (base + slope l + bend l^2), over exp(l)
            u = level.log_snr
            return base + slope * (u - 1) + bend * (u**2 - 2 * u + 2)

        steps = list(dpmpp_3m(moving, torch.zeros_like(base), run, third_order=third_order))
        errors = []
        for before, step, now in zip(steps[2:], steps[3:], run[3:], strict=False):
            nxt = step.level
            exact = nxt.sigma / now.sigma * (before.x - now.alpha * integral(now)) + nxt.alpha * integral(nxt)
            errors.append(float((step.x - exact).abs().max()))
        return max(errors)

    straight = torch.zeros_like(bend)
    assert worst(straight, third_order=False) < 1e-10
    assert worst(bend, third_order=True) < 1e-10
    assert worst(bend, third_order=False) > 1e-4


def test_heun_and_plms_begin_alike() -> None:
    """The first step of plms is one of heun's."""
    run, x = levels(scaled_linear(), 10), initial_noise([1], SHAPE)
    torch.testing.assert_close(next(plms(denoise, x, run)).x, next(heun(denoise, x, run)).x)


def predicts_flow(x: Tensor, level: Level) -> Tensor:
    return to_x0("flow", torch.tanh(x), x, level)


def test_euler_on_a_flow_is_euler() -> None:
    x = initial_noise([1], SHAPE)
    run = levels(flow(), 10)
    denoiser: Denoiser = predicts_flow
    for step, now in zip(euler(denoiser, x, run), run, strict=False):
        x = x + (step.level.sigma - now.sigma) * torch.tanh(x)
        torch.testing.assert_close(step.x, x)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_run_from_data_to_noise_is_refused(name: str) -> None:
    run = levels(scaled_linear(), 4)[::-1]
    with pytest.raises(ValueError, match="turn them round"):
        last(SAMPLERS[name](denoise, initial_noise([1], SHAPE), run, rng=Rng([1])))


def test_a_seed_is_a_whole_number() -> None:
    with pytest.raises(ValueError, match=r"seed=1\.7 must be a whole number"):
        initial_noise([1.7], SHAPE)  # type: ignore[list-item]
