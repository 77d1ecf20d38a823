"""The losses against what the papers state."""

import math

import pytest
import torch
import torch.nn.functional as F

from ldm_edu.config import ClassifierConfig
from ldm_edu.models.classifier import Classifier
from ldm_edu.prediction import target, to_x0
from ldm_edu.schedule import add_noise, scaled_linear
from ldm_edu.training.losses import (
    contrastive_loss,
    diffusion_loss,
    discriminator_loss,
    min_snr_weight,
    perceptual_loss,
)

KINDS = ("eps", "x0", "v", "flow")


@pytest.mark.parametrize("kind", KINDS)
def test_min_snr_is_the_same_loss_whatever_the_network_predicts(kind: str) -> None:
    """A weighted error of the prediction equals min(SNR, 5) times the error of x0 that it implies."""
    torch.manual_seed(0)
    level = scaled_linear().level(torch.tensor([10, 300, 600, 990]))
    if kind == "flow":  # its x0 = x - sigma * flow holds where alpha = 1 - sigma
        level = type(level)(level.t, 1 - level.sigma, level.sigma)
    x0, eps, error = (torch.randn(4, 3, 2, 2) for _ in range(3))
    x = add_noise(x0, eps, level)
    wanted = target(kind, x0, eps, level)  # type: ignore[arg-type]
    out = wanted + 0.1 * error
    wrong_x0 = to_x0(kind, out, x, level)  # type: ignore[arg-type]
    snr = (level.alpha / level.sigma) ** 2
    expected = snr.clamp(max=5.0) * (wrong_x0 - x0).square().mean(dim=(1, 2, 3))
    got = diffusion_loss(kind, out, wanted, level)  # type: ignore[arg-type]
    torch.testing.assert_close(got.double(), expected.double(), rtol=2e-3, atol=0)


def test_min_snr_for_eps_is_the_papers_formula() -> None:
    level = scaled_linear().level(torch.tensor([0, 500, 999]))
    snr = ((level.alpha / level.sigma) ** 2).double()
    torch.testing.assert_close(min_snr_weight("eps", level).double(), (snr.clamp(max=5) / snr), rtol=1e-5, atol=1e-7)


def test_the_floor_keeps_the_noisiest_levels_and_leaves_the_others() -> None:
    level = scaled_linear().level(torch.tensor([0, 500, 999]))
    snr = ((level.alpha / level.sigma) ** 2).double()
    assert snr[2] < 1 < 5 < snr[0]
    got = min_snr_weight("x0", level, floor=1.0).double()
    torch.testing.assert_close(got, snr.clamp(1, 5), rtol=1e-5, atol=0)


def test_without_gamma_the_loss_is_the_plain_mean_square() -> None:
    a, b = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    level = scaled_linear().level(torch.tensor([1, 2]))
    torch.testing.assert_close(diffusion_loss("v", a, b, level, gamma=None), (a - b).square().mean(dim=(1, 2, 3)))


def test_contrastive_loss_of_perfect_and_of_uninformed_pairs() -> None:
    eye = torch.eye(8)
    assert contrastive_loss(eye, eye, torch.tensor(100.0)).item() < 1e-6
    same = torch.ones(8, 4) / 2
    assert contrastive_loss(same, same, torch.tensor(10.0)).item() == pytest.approx(math.log(8), rel=1e-5)
    assert contrastive_loss(eye, eye.roll(1, 0), torch.tensor(100.0)).item() > 50


def test_contrastive_loss_of_texts_that_are_true_of_several_pictures() -> None:
    torch.manual_seed(0)
    images, texts = F.normalize(torch.randn(4, 8), dim=-1), F.normalize(torch.randn(4, 8), dim=-1)
    scale = torch.tensor(3.0)
    assert torch.equal(
        contrastive_loss(images, texts, scale, torch.eye(4, dtype=torch.bool)), contrastive_loss(images, texts, scale)
    )
    apart = torch.eye(2)[[0, 0, 1, 1]]  # two things, each in two pictures; all that is said of them is the thing
    true = torch.block_diag(torch.ones(2, 2), torch.ones(2, 2)).bool()
    sharp = torch.tensor(100.0)
    assert contrastive_loss(apart, apart, sharp, true).item() == pytest.approx(math.log(2), rel=1e-4)
    # the least that there is: a text cannot tell the two pictures apart that it is true of
    assert contrastive_loss(images, apart @ texts[:2], sharp, true) > math.log(2)


def test_hinge_loss_is_zero_beyond_the_margin() -> None:
    assert discriminator_loss(torch.tensor([1.5]), torch.tensor([-1.5])).item() == 0
    assert discriminator_loss(torch.tensor([0.0]), torch.tensor([0.0])).item() == pytest.approx(1.0)


def test_perceptual_loss_is_zero_for_equal_pictures_and_grows_with_the_difference() -> None:
    torch.manual_seed(0)
    classifier = Classifier(ClassifierConfig(concepts=3, styles=2, channels=8, mults=(1, 2))).requires_grad_(False)
    x = torch.rand(2, 3, 16, 16) * 2 - 1
    small, large = (perceptual_loss(classifier, x + s * torch.randn(x.shape), x) for s in (0.05, 0.5))
    assert perceptual_loss(classifier, x, x).item() == pytest.approx(0, abs=1e-6)
    assert 0 < small.item() < large.item()
    moved = x.clone().requires_grad_()
    perceptual_loss(classifier, moved, x.flip(-1)).backward()
    assert moved.grad is not None and moved.grad.abs().sum() > 0
