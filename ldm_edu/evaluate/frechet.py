"""The Fréchet distance between two sets of pictures, in the space of a classifier's features (Heusel et al. 2017)."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Gaussian:
    """The normal distribution that stands for a set of feature vectors; everything in float64.

    ``mean`` (D,), ``covariance`` (D, D), and the ``count`` of vectors it was taken from.
    """

    mean: Tensor
    covariance: Tensor
    count: int


def gaussian(features: Tensor) -> Gaussian:
    """Mean and unbiased covariance of feature vectors (N, D), of any type.

    Raises
    ------
    ValueError
        if there are fewer than two vectors, or one holds NaN or infinity.
    """
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"a covariance needs at least two feature vectors (N, D), not {tuple(features.shape)}")
    values = features.detach().to("cpu", torch.float64)
    if not values.isfinite().all():
        raise ValueError("the features hold NaN or infinity; look at the pictures they were taken from")
    mean = values.mean(dim=0)  # (D,)
    away = values - mean  # (N, D)
    return Gaussian(mean, away.T @ away / (len(values) - 1), len(values))


def sqrtm(matrix: Tensor) -> Tensor:
    """The symmetric square root of a symmetric positive semi-definite matrix (D, D), by its eigenvectors.

    Eigenvalues that rounding has pushed below 0 count as 0, so a degenerate covariance (fewer pictures than features)
    needs no ridge.
    """
    values, vectors = torch.linalg.eigh(0.5 * (matrix + matrix.T))  # (D,), (D, D)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """``|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2))`` (Dowson and Landau 1982; Heusel et al. 2017, equation 6).

    ``C_a C_b`` is not symmetric, but has the eigenvalues of ``C_a^(1/2) C_b C_a^(1/2)``, whose roots are the singular
    values of ``C_a^(1/2) C_b^(1/2)``: their sum is the trace of the root, and no general matrix root is needed. The
    estimate is biased upwards, the more so the fewer vectors there are: compare only distances of equal counts.

    Raises
    ------
    ValueError
        if the two have another number of features.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"the features must have one width, not {len(a.mean)} and {len(b.mean)}: use one classifier")
    cross = torch.linalg.svdvals(sqrtm(a.covariance) @ sqrtm(b.covariance)).sum()
    distance = (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace() - 2 * cross
    return max(float(distance), 0.0)  # rounding may leave a hair below 0
