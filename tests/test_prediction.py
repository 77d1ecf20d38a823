import pytest
import torch

from ldm_edu.config import Prediction
from ldm_edu.prediction import PREDICTIONS, SIGMA_DATA, network_input, preconditioning, target, to_eps, to_x0
from ldm_edu.schedule import Level, NoiseSchedule, add_noise, edm, flow, scaled_linear, zero_terminal_snr

SCHEDULES = [scaled_linear(), flow(shift=3.0)]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("kind", PREDICTIONS)
@pytest.mark.parametrize("t", [1.0, 250.5, 998.0])
def test_what_is_predicted_is_found_again(kind: Prediction, schedule: NoiseSchedule, t: float) -> None:
    x0, eps = torch.randn(2, 3, 4, 5, 5, dtype=torch.float64)
    level = schedule.level(t)
    x = add_noise(x0, eps, level)
    torch.testing.assert_close(to_x0(kind, target(kind, x0, eps, level), x, level), x0)
    torch.testing.assert_close(to_eps(x0, x, level), eps)


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_a_batch_of_levels(kind: Prediction) -> None:
    x0, eps = torch.randn(2, 3, 4, 5, 5)
    level = scaled_linear().level(torch.tensor([10, 400, 900]))
    x = add_noise(x0, eps, level)
    out = target(kind, x0, eps, level)
    assert out.dtype == torch.float32
    torch.testing.assert_close(to_x0(kind, out, x, level), x0, rtol=1e-4, atol=1e-5)


def test_the_published_formulas() -> None:
    x0, eps = torch.randn(2, 2, 3, dtype=torch.float64)
    level = scaled_linear().level(700)
    alpha, sigma = level.alpha, level.sigma
    x = alpha * x0 + sigma * eps
    v = alpha * eps - sigma * x0
    torch.testing.assert_close(target("v", x0, eps, level), v)
    torch.testing.assert_close(to_x0("v", v, x, level), alpha * x - sigma * v)
    torch.testing.assert_close(to_eps(to_x0("v", v, x, level), x, level), alpha * v + sigma * x)
    torch.testing.assert_close(target("flow", x0, eps, level), eps - x0)
    torch.testing.assert_close(target("eps", x0, eps, level), eps)
    torch.testing.assert_close(target("x0", x0, eps, level), x0)


def test_pure_noise() -> None:
    eps = torch.randn(2, 4, 3, 3)
    x0 = torch.randn(2, 4, 3, 3)
    for level in (flow().level(1000), zero_terminal_snr(scaled_linear()).level(999)):
        for kind in ("v", "flow", "x0"):
            torch.testing.assert_close(to_x0(kind, target(kind, x0, eps, level), eps, level), x0)
        with pytest.raises(ValueError, match="says nothing about x0 where alpha is 0"):
            to_x0("eps", eps, eps, level)


def test_the_clean_end() -> None:
    x0 = torch.randn(2, 4, 3, 3)
    level = scaled_linear().clean()
    for kind in PREDICTIONS:
        out = target(kind, x0, torch.randn_like(x0), level)
        torch.testing.assert_close(to_x0(kind, out, x0, level), x0)


def test_an_unknown_prediction() -> None:
    level = Level(torch.tensor(1.0), torch.tensor(0.6), torch.tensor(0.8))
    with pytest.raises(ValueError, match="choose one of eps, x0, v, flow, edm, edm_v"):
        to_x0("noise", torch.zeros(1, 1), torch.zeros(1, 1), level)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", SIGMA_DATA)
def test_edm_finds_x0_again_and_its_input_output_and_target_have_variance_1(kind: Prediction) -> None:
    x0, eps = torch.randn(2, 64, 4, 64, 64, dtype=torch.float64)
    x0 = SIGMA_DATA[kind] * x0
    for level in (edm().level(0), edm().level(500), edm().level(999), edm().level(torch.full((64,), 700))):
        x, wanted = add_noise(x0, eps, level), target(kind, x0, eps, level)
        torch.testing.assert_close(to_x0(kind, wanted, x, level), x0, rtol=1e-5, atol=1e-7)
        assert float(wanted.std()) == pytest.approx(1, abs=0.01)
        assert float(network_input(kind, x, level).std()) == pytest.approx(1, abs=0.01)
    assert torch.equal(to_x0(kind, x0, x0, edm().clean()), x0)


def test_edm_v_is_v_of_the_scaled_sample() -> None:
    x0, eps = torch.randn(2, 2, 3, dtype=torch.float64)
    level, scale = edm().level(600), preconditioning("edm_v", edm().level(600).sigma).c_in
    preserving = Level(level.t, scale, scale * level.sigma)
    torch.testing.assert_close(target("edm_v", x0, eps, level), target("v", x0, eps, preserving))
    torch.testing.assert_close(network_input("edm_v", add_noise(x0, eps, level), level), add_noise(x0, eps, preserving))


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_other_networks_read_the_sample_itself(kind: Prediction) -> None:
    x = torch.randn(2, 3)
    assert network_input(kind, x, scaled_linear().level(700)) is x
