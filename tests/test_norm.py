"""Our group norm against PyTorch's: values and all three gradients, in float32 and bfloat16, in both layouts."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ldm_edu.nn.norm import GroupNorm


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_equals_the_reference(channels_last: bool, dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    norm = GroupNorm(4, 16, eps=1e-5)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x0 = (2 * torch.randn(3, 16, 5, 7) + 0.5).to(memory_format=layout)
    upstream = torch.randn(3, 16, 5, 7)

    def gradients(mine: bool, dtype: torch.dtype) -> list[Tensor]:
        x = x0.clone().to(dtype).requires_grad_()
        norm.zero_grad()
        y = norm(x) if mine else F.group_norm(x, 4, norm.weight.to(dtype), norm.bias.to(dtype), norm.eps)
        (y.float() * upstream).sum().backward()
        return [g.detach().clone().float() for g in (y, x.grad, norm.weight.grad, norm.bias.grad)]  # type: ignore

    for got, wanted in zip(gradients(True, dtype), gradients(False, torch.float32), strict=True):
        assert (got - wanted).abs().max() <= tolerance * wanted.abs().max()


def test_without_gradients_it_is_the_reference() -> None:
    norm, x = GroupNorm(2, 4), torch.randn(1, 4, 3, 3)
    with torch.no_grad():
        assert torch.equal(norm(x), F.group_norm(x, 2, norm.weight, norm.bias, norm.eps))
