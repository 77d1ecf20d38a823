"""The averaged copy of a network's weights, from which samples are drawn."""

import copy

import torch
from torch import nn

from ldm_edu.training.parallel import local


class Ema(nn.Module):
    """Exponential moving average of weights, with a warm-up (Karras et al. 2024 show why its length matters).

    At update ``n`` the decay is ``min(decay, (1 + n) / (10 + n))``: the first, random weights are soon forgotten.
    """

    updates: torch.Tensor

    def __init__(self, model: nn.Module, decay: float = 0.999) -> None:
        super().__init__()
        self.decay = decay
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self.register_buffer("updates", torch.tensor(0))

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards the weights of ``model``."""
        n = int(self.updates)
        decay = min(self.decay, (1 + n) / (10 + n))
        averages = [local(p) for p in self.model.state_dict().values() if p.is_floating_point()]
        current = [local(p) for p in model.state_dict().values() if p.is_floating_point()]
        torch._foreach_lerp_(averages, current, 1.0 - decay)
        self.updates += 1
