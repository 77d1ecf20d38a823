"""A mixture of Gaussians: the one distribution whose best denoiser is known exactly.

Samplers are measured on it (order of convergence, the distribution they end at), and a small network's loss against it.
"""

import torch
from einops import rearrange, reduce
from torch import Tensor

from ldm_edu.schedule import Level


class GaussianMixture:
    """A mixture of round Gaussians; called with ``(x, level)`` it is the exact denoiser E[x0 | x].

    Parameters
    ----------
    weights : (K,) of sum 1. ``means`` : (K, D). ``stds`` : (K,).

    Raises
    ------
    ValueError
        if the shapes or the weights do not fit.
    """

    def __init__(self, weights: Tensor, means: Tensor, stds: Tensor) -> None:
        if not (weights.ndim == stds.ndim == 1 and means.ndim == 2 and len(weights) == len(means) == len(stds)):
            raise ValueError(
                f"expected weights (K,), means (K, D) and stds (K,), not {tuple(weights.shape)}, "
                f"{tuple(means.shape)} and {tuple(stds.shape)}"
            )
        if (weights < 0).any() or abs(float(weights.sum()) - 1) > 1e-5 or (stds <= 0).any():
            raise ValueError("weights must be at least 0 and of sum 1, and stds positive")
        self.weights, self.means, self.stds = weights, means, stds

    def __call__(self, x: Tensor, level: Level) -> Tensor:
        """The exact estimate of x0 for ``x`` (B, D) at a 0-d level: (B, D).

        Component k alone gives ``mean_k + alpha std_k^2 / (alpha^2 std_k^2 + sigma^2) (x - alpha mean_k)``; the
        estimates of all are weighted by how probable each is, given x.
        """
        away = self._away(x, level)  # (B, K, D)
        gain = level.alpha * self.stds**2 / self._variances(level)  # (K,)
        each = self.means + rearrange(gain, "k -> k 1") * away  # (B, K, D)
        share = self._log_joint(x, level).softmax(dim=1)  # (B, K)
        return reduce(rearrange(share, "b k -> b k 1") * each, "b k d -> b d", "sum")

    def log_density(self, x: Tensor, level: Level) -> Tensor:
        """log p(x) of the samples noised to a 0-d ``level`` (`NoiseSchedule.clean`: the data): (B, D) -> (B,)."""
        return self._log_joint(x, level).logsumexp(dim=1)

    def sample(self, count: int, rng: torch.Generator) -> Tensor:
        """Samples of the data, (count, D)."""
        k = torch.multinomial(self.weights, count, replacement=True, generator=rng)  # (count,)
        noise = torch.randn(count, self.means.shape[1], generator=rng, dtype=self.means.dtype)
        return self.means[k] + rearrange(self.stds[k], "n -> n 1") * noise

    def _variances(self, level: Level) -> Tensor:
        return (level.alpha * self.stds) ** 2 + level.sigma**2  # (K,)

    def _away(self, x: Tensor, level: Level) -> Tensor:
        return rearrange(x, "b d -> b 1 d") - level.alpha * self.means  # (B, K, D)

    def _log_joint(self, x: Tensor, level: Level) -> Tensor:
        """log (weight_k N(x; alpha mean_k, variance_k)): (B, K)."""
        variances = self._variances(level)
        squares = reduce(self._away(x, level) ** 2, "b k d -> b k", "sum")
        return self.weights.log() - 0.5 * (squares / variances + x.shape[1] * torch.log(2 * torch.pi * variances))
