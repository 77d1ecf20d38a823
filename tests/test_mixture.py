import pytest
import torch

from ldm_edu.evaluate.mixture import GaussianMixture
from ldm_edu.schedule import NoiseSchedule, add_noise, flow, scaled_linear

WEIGHTS, STDS = torch.tensor([0.3, 0.5, 0.2]).double(), torch.tensor([0.3, 0.2, 0.4]).double()
MEANS = torch.tensor([[-1.0, 0.5], [1.0, 0.8], [0.2, -1.2]]).double()
MIXTURE = GaussianMixture(WEIGHTS, MEANS, STDS)


@pytest.mark.parametrize("schedule", [scaled_linear(), flow()])
@pytest.mark.parametrize("t", [1.0, 300.0, 999.0])
def test_the_denoiser_is_tweedie_s_formula(schedule: NoiseSchedule, t: float) -> None:
    """E[x0 | x] = (x + sigma^2 grad log p(x)) / alpha (Robbins 1956; Efron 2011)."""
    level = schedule.level(t)
    x = torch.randn(20, 2, dtype=torch.float64, requires_grad=True)
    (score,) = torch.autograd.grad(MIXTURE.log_density(x, level).sum(), x)
    torch.testing.assert_close(MIXTURE(x, level), (x + level.sigma**2 * score) / level.alpha)


def test_no_other_estimate_has_less_error() -> None:
    x0 = MIXTURE.sample(20_000, torch.Generator().manual_seed(0))
    level = scaled_linear().level(300)
    x = add_noise(x0, torch.randn_like(x0), level)
    best = MIXTURE(x, level)

    def error(estimate: torch.Tensor) -> float:
        return float((estimate - x0).square().mean())

    for other in (1.02 * best, best + 0.03, x / level.alpha, best + 0.1 * (x - best)):
        assert error(other) > error(best)


def test_the_density_is_torch_s() -> None:
    level = scaled_linear().level(500)
    stds = ((level.alpha * STDS) ** 2 + level.sigma**2).sqrt()
    each = torch.distributions.Independent(torch.distributions.Normal(level.alpha * MEANS, stds[:, None]), 1)
    theirs = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(WEIGHTS), each)
    x = torch.randn(20, 2, dtype=torch.float64)
    torch.testing.assert_close(MIXTURE.log_density(x, level), theirs.log_prob(x))


def test_samples_have_the_moments() -> None:
    x = MIXTURE.sample(50_000, torch.Generator().manual_seed(0))
    mean = WEIGHTS @ MEANS
    second = WEIGHTS @ (STDS**2 * 2 + MEANS.square().sum(1))
    torch.testing.assert_close(x.mean(0), mean, atol=0.02, rtol=0)
    torch.testing.assert_close(x.square().sum(1).mean(), second, atol=0.03, rtol=0)
    assert torch.equal(x, MIXTURE.sample(50_000, torch.Generator().manual_seed(0)))


def test_what_is_no_mixture() -> None:
    with pytest.raises(ValueError, match=r"expected weights \(K,\), means \(K, D\)"):
        GaussianMixture(WEIGHTS, MEANS[:2], STDS)
    with pytest.raises(ValueError, match="of sum 1"):
        GaussianMixture(2 * WEIGHTS, MEANS, STDS)
    with pytest.raises(ValueError, match="stds positive"):
        GaussianMixture(WEIGHTS, MEANS, -STDS)
