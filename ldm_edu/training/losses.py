"""The losses, each a function of tensors."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ldm_edu.config import Prediction
from ldm_edu.models.classifier import Classifier
from ldm_edu.prediction import SIGMA_DATA, preconditioning
from ldm_edu.schedule import Level


def min_snr_weight(kind: Prediction, level: Level, gamma: float = 5.0, floor: float = 0.0) -> Tensor:
    """Weight of the squared error of a prediction at a noise level (Hang et al. 2023, section 3.4).

    In x0 space the weight is min(SNR, gamma): easy, almost clean levels do not drown the others. The same loss, stated
    for the prediction that the network makes, divides by what turns an error of it into an error of x0.

    Parameters
    ----------
    kind : what the network predicts. ``level`` : (B,) levels. ``gamma`` : the ceiling of the weight.
    floor : its floor, 1 in the truncated weight of Salimans and Ho 2022, section 4: without one the noisiest levels,
        where a picture's layout is decided, count next to nothing, and a short training draws shapeless things.

    Returns
    -------
    (B,) weights.
    """
    alpha, sigma = level.alpha.double(), level.sigma.double()
    weight = ((alpha / sigma) ** 2).clamp(floor, gamma)
    # d x0 / d prediction, squared: x0 = (x - sigma eps) / alpha, = alpha x - sigma v, = x - sigma flow
    squares = {"eps": (sigma / alpha) ** 2, "x0": torch.ones_like(sigma), "v": sigma**2, "flow": sigma**2}
    squared = preconditioning(kind, sigma).c_out ** 2 if kind in SIGMA_DATA else squares[kind]
    return (weight * squared).float()


def diffusion_loss(
    kind: Prediction, out: Tensor, target: Tensor, level: Level, gamma: float | None = 5.0, floor: float = 0.0
) -> Tensor:
    """Mean squared error of a prediction (Ho et al. 2020, equation 14), weighted unless ``gamma`` is None.

    ``out`` and ``target`` are (B, C, H, W), ``level`` is (B,); returns one number a picture, (B,).
    """
    error = (out.float() - target.float()).square().mean(dim=(1, 2, 3))  # (B,)
    return error if gamma is None else error * min_snr_weight(kind, level, gamma, floor).to(error.device)


def perceptual_loss(classifier: Classifier, images: Tensor, reference: Tensor) -> Tensor:
    """Distance of two batches of pictures in the feature maps of a classifier (Zhang et al. 2018, equation 1).

    Features are scaled to unit length at every pixel, so that each level counts alike. (B, 3, H, W) twice -> 0-d.
    """
    with torch.no_grad():
        wanted = [F.normalize(m.float(), dim=1) for m in classifier.maps(reference)]
    got = [F.normalize(m.float(), dim=1) for m in classifier.maps(images)]
    distances = [(g - w).square().sum(dim=1).mean() for g, w in zip(got, wanted, strict=True)]
    return torch.stack(distances).mean()


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Hinge loss: logits of real patches above 1, of decoded ones below -1 (Lim and Ye 2017)."""
    return 0.5 * (F.relu(1.0 - real).mean() + F.relu(1.0 + fake).mean())


def contrastive_loss(images: Tensor, texts: Tensor, logit_scale: Tensor, true: Tensor | None = None) -> Tensor:
    """CLIP's symmetric cross-entropy over a batch of N pairs (Radford et al. 2021, figure 3).

    ``images`` and ``texts`` are (N, D) of unit length; ``logit_scale`` is the factor itself, not its logarithm.
    ``true`` (N, N), boolean: which texts, the columns, are true of which pictures; each row and column shares its
    probability among these (Yang et al. 2022, equations 3 and 4). None: of each picture its own text alone.
    """
    logits = logit_scale * images @ rearrange(texts, "n d -> d n")  # (N, N)
    wanted = torch.eye(len(images), device=logits.device) if true is None else true.to(logits)
    by_picture = F.cross_entropy(logits, wanted / wanted.sum(dim=1, keepdim=True))
    by_text = F.cross_entropy(logits.T, (wanted / wanted.sum(dim=0, keepdim=True)).T)
    return 0.5 * (by_picture + by_text)
