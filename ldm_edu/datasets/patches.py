"""The connected patches of a mask: what stands apart in a picture."""

import torch
import torch.nn.functional as F
from torch import Tensor


def patches(mask: Tensor, least: float) -> list[Tensor]:
    """The connected patches of a mask but for the specks.

    Parameters
    ----------
    mask : (H, W), boolean; a pixel is connected with its four neighbours.
    least : the smallest patch that counts, in pixels.

    Returns
    -------
    Masks (H, W), one a patch, the largest first.
    """
    height, width = mask.shape
    fenced = F.pad(mask, (0, 1, 1, 1))  # (H + 2, W + 1): no neighbour of a border pixel is on the other side
    left = set(fenced.flatten().nonzero()[:, 0].tolist())
    found = []
    while left:
        patch = [left.pop()]
        for pixel in patch:  # grows while it is walked
            near = {pixel - 1, pixel + 1, pixel - width - 1, pixel + width + 1} & left
            left -= near
            patch += near
        if len(patch) >= least:
            found.append(patch)
    masks = []
    for patch in sorted(found, key=len, reverse=True):
        flat = torch.zeros(fenced.numel(), dtype=torch.bool)
        flat[patch] = True
        masks.append(flat.view(height + 2, width + 1)[1:-1, :-1])  # (H, W)
    return masks
