"""The measures, on cases whose answer is known."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ldm_edu.config import ClassifierConfig
from ldm_edu.evaluate.frechet import Gaussian, frechet_distance, gaussian, sqrtm
from ldm_edu.evaluate.judge import Verdicts, chance_score, judge_pictures, judge_score
from ldm_edu.evaluate.nearest import Nearest, copy_score, nearest, nearest_sheet
from ldm_edu.evaluate.psnr import flat_colour, pooled_copy, psnr, psnr_score
from ldm_edu.models.classifier import Classifier


def covariance(d: int, rank: int | None = None) -> torch.Tensor:
    root = torch.randn(d, rank or d, dtype=torch.float64)
    return root @ root.T


# --- PSNR


@pytest.mark.parametrize("error, decibels", [(2.0, 0.0), (0.2, 20.0), (0.02, 40.0)])
def test_psnr_of_a_constant_error(error: float, decibels: float) -> None:
    images = torch.full((3, 3, 4, 4), -1.0)
    torch.testing.assert_close(psnr(images + error, images), torch.full((3,), decibels).double(), rtol=1e-5, atol=1e-5)


def test_psnr_clips_as_a_screen_would_and_of_a_copy_is_infinite() -> None:
    white = torch.ones(1, 3, 4, 4)
    assert psnr(white + 5, white).item() == math.inf
    assert psnr_score(lambda x: x, white.repeat(3, 1, 1, 1)).pooled == math.inf


def test_psnr_agrees_with_its_definition_on_noise_and_with_any_batch() -> None:
    images = torch.rand(7, 3, 8, 8) * 1.6 - 0.8
    noisy = lambda x: x + 0.1 * torch.sin(17 * x)  # noqa: E731
    score = psnr_score(noisy, images, batch=3)
    errors = (noisy(images).double() - images.double()).square().flatten(1).mean(1)
    assert score.mean == pytest.approx(float((10 * torch.log10(4 / errors)).mean()))
    assert score.pooled == pytest.approx(float(10 * torch.log10(4 / errors.mean())))
    assert score.pooled <= score.mean and score.count == 7


def test_the_baselines_keep_what_they_say() -> None:
    images = torch.randn(2, 3, 8, 8)
    assert flat_colour(images).shape == images.shape
    torch.testing.assert_close(flat_colour(images).mean((2, 3)), images.mean((2, 3)))
    flat = torch.full((1, 3, 8, 8), 0.3)
    torch.testing.assert_close(pooled_copy(flat, 4), flat)
    blocks = torch.randn(1, 3, 2, 2).repeat_interleave(4, 2).repeat_interleave(4, 3)
    assert psnr(pooled_copy(blocks, 4).clamp(-1, 1), blocks.clamp(-1, 1)) > psnr(
        flat_colour(blocks), blocks.clamp(-1, 1)
    )


def test_psnr_refuses_other_shapes() -> None:
    with pytest.raises(ValueError, match="one shape"):
        psnr(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 5))


# --- Fréchet


def test_the_distance_of_round_gaussians_has_a_closed_form() -> None:
    mean, d = torch.randn(6, dtype=torch.float64), 6
    a = Gaussian(mean, 4.0 * torch.eye(d, dtype=torch.float64), 9)
    b = Gaussian(mean + 0.5, 9.0 * torch.eye(d, dtype=torch.float64), 9)
    assert frechet_distance(a, b) == pytest.approx(d * 0.25 + d * (3 - 2) ** 2)


def test_the_distance_of_commuting_covariances_has_a_closed_form() -> None:
    basis, _ = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64))
    p, q = torch.rand(5, dtype=torch.float64), torch.rand(5, dtype=torch.float64)
    zero = torch.zeros(5, dtype=torch.float64)
    distance = frechet_distance(
        Gaussian(zero, basis @ p.diag() @ basis.T, 9), Gaussian(zero, basis @ q.diag() @ basis.T, 9)
    )
    assert distance == pytest.approx(float((p.sqrt() - q.sqrt()).square().sum()))


@pytest.mark.parametrize("rank", [8, 3])  # 3: degenerate, fewer pictures than features
def test_the_distance_agrees_with_the_general_matrix_root(rank: int) -> None:
    linalg = pytest.importorskip("scipy.linalg")
    a = Gaussian(torch.randn(8, dtype=torch.float64), covariance(8, rank), 9)
    b = Gaussian(torch.randn(8, dtype=torch.float64), covariance(8), 9)
    root = torch.as_tensor(linalg.sqrtm((a.covariance @ b.covariance).numpy())).real
    wanted = (a.mean - b.mean).square().sum() + (a.covariance + b.covariance).trace() - 2 * root.trace()
    assert frechet_distance(a, b) == pytest.approx(float(wanted), rel=1e-6)


def test_the_symmetric_root_squares_to_its_matrix_and_agrees_with_scipy() -> None:
    linalg = pytest.importorskip("scipy.linalg")
    matrix = covariance(7)
    torch.testing.assert_close(sqrtm(matrix) @ sqrtm(matrix), matrix)
    torch.testing.assert_close(sqrtm(matrix), torch.as_tensor(linalg.sqrtm(matrix.numpy())).real)


def test_degenerate_features_give_a_finite_distance_and_a_set_is_at_none_from_itself() -> None:
    few = torch.randn(4, 30)  # rank 3 of 30
    constant = torch.ones(5, 30)
    assert frechet_distance(gaussian(few), gaussian(few)) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(gaussian(constant), gaussian(constant)) == 0
    assert math.isfinite(frechet_distance(gaussian(few), gaussian(constant)))


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 12), st.integers(1, 6), st.integers(0, 1000))
def test_the_distance_is_symmetric_and_never_negative(n: int, d: int, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    a, b = (gaussian(torch.randn(n, d, generator=rng)) for _ in range(2))
    assert frechet_distance(a, b) >= 0
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), abs=1e-6)


def test_the_fitted_gaussian_is_that_of_the_features() -> None:
    features = torch.randn(50, 4)
    fitted = gaussian(features)
    torch.testing.assert_close(fitted.covariance, torch.cov(features.double().T))
    assert fitted.mean.dtype == torch.float64 and fitted.count == 50


@pytest.mark.parametrize(
    "features, words", [(torch.zeros(1, 4), "at least two"), (torch.tensor([[math.nan], [0.0]]), "NaN")]
)
def test_what_has_no_distance_is_refused(features: torch.Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        gaussian(features)


def test_features_of_two_networks_are_refused() -> None:
    with pytest.raises(ValueError, match="one classifier"):
        frechet_distance(gaussian(torch.randn(5, 3)), gaussian(torch.randn(5, 4)))


# --- the judge


LOGITS = torch.tensor([[9.0, 5, 4, 3, 2, 1, 0], [9.0, 5, 4, 3, 2, 1, 0], [9.0, 5, 4, 3, 2, 1, 0]])
STYLE_LOGITS = torch.tensor([[1.0, 0], [1.0, 0], [0.0, 1]])
VERDICTS = Verdicts(torch.zeros(3, 2), LOGITS, STYLE_LOGITS)


def test_top_1_top_5_and_style_are_counted() -> None:
    score = judge_score(VERDICTS, torch.tensor([0, 4, 6]), torch.tensor([0, 1, 1]))
    assert score.top1 == pytest.approx(1 / 3)  # the first
    assert score.top5 == pytest.approx(2 / 3)  # the first two: concept 4 is fifth
    assert score.style == pytest.approx(2 / 3)  # the first and the third
    assert score.count == 3


def test_answers_can_be_restricted() -> None:
    score = judge_score(VERDICTS, torch.tensor([1, 4, 6]), torch.tensor([0, 0, 0]), among=[1, 4, 6])
    assert score.top1 == pytest.approx(1 / 3) and score.top5 == 1.0
    with pytest.raises(ValueError, match="concept 2"):
        judge_score(VERDICTS, torch.tensor([1, 2, 6]), torch.tensor([0, 0, 0]), among=[1, 6])


def test_chance() -> None:
    assert chance_score(400, 6).top5 == pytest.approx(5 / 400)
    assert chance_score(3, 6).top5 == 1.0


def test_the_judge_sees_the_same_in_any_batch_and_clips() -> None:
    judge = Classifier(ClassifierConfig(concepts=4, styles=2, channels=8, mults=(1, 2), groups=4)).eval()
    images = torch.randn(5, 3, 16, 16)
    whole, parts = judge_pictures(judge, images), judge_pictures(judge, images, batch=2)
    torch.testing.assert_close(whole.concept_logits, parts.concept_logits)
    concepts, styles = judge(images.clamp(-1, 1))
    torch.testing.assert_close(whole.concept_logits, concepts.detach())
    torch.testing.assert_close(whole.style_logits, styles.detach())
    torch.testing.assert_close(whole.features, judge.features(images.clamp(-1, 1)).detach())


# --- nearest training picture


def test_the_nearest_is_found_at_its_distance() -> None:
    reference = torch.randn(40, 3, 4, 4)
    wanted = torch.tensor([7, 0, 39, 7])
    found = nearest(reference[wanted] + 0.01, reference, batch=3)
    assert found.index.tolist() == wanted.tolist()
    torch.testing.assert_close(found.distance, torch.full((4,), 0.01), rtol=0.05, atol=0)  # root mean square


def test_no_neighbours_is_an_error() -> None:
    with pytest.raises(ValueError, match="no neighbours"):
        nearest(torch.zeros(1, 3), torch.zeros(0, 3))


def test_copies_are_told_from_new_pictures() -> None:
    training, held_out, new = torch.randn(50, 20), torch.randn(40, 20), torch.randn(30, 20)
    real = nearest(held_out, training)
    copies = copy_score(nearest(training[:30] + 1e-3, training), real)
    honest = copy_score(nearest(new, training), real)
    assert copies.closer == 1.0 and copies.median < 0.01
    assert honest.closer < 0.3 and honest.held_out == copies.held_out


def test_the_sheet_shows_three_pictures_for_each_drawn_one() -> None:
    drawn, training = torch.zeros(2, 3, 8, 8), torch.ones(5, 3, 8, 8)
    near = Nearest(torch.tensor([0, 4]), torch.tensor([0.5, 0.25]))
    page = nearest_sheet(drawn, ["a", "b"], training, near, near, columns=1)
    one_row = nearest_sheet(drawn, ["a", "b"], training, near, near, columns=2)
    assert page.height > 1.5 * one_row.height and one_row.width > 1.5 * page.width
