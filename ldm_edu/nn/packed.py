"""Convolutions and linear maps whose weights lie in memory as a CPU's kernels want them, for drawing.

oneDNN, the library under PyTorch's convolutions, lays a weight out anew at every call. A big network at small latents
spends much of its time so: Stable Diffusion's U-Net at 32x32 latents more than a third of what its convolutions take.
`pack` does it once. Linear maps gain less in bfloat16, but run twice as fast in float32 on an AMD processor, where
PyTorch takes them to another library. (`ldm-edu bench step` measures the whole.)
"""

from typing import Any, NoReturn

import torch
from einops import rearrange
from torch import Tensor, nn

BIG = 2**20  # numbers in a 3x3 convolution's weight; a smaller one is laid out in no time


def pack(module: nn.Module) -> None:
    """Replace the linear maps and big convolutions inside a network by their packed forms, in place and for good.

    The plain weights are let go on the way, so that memory holds one of the two at a time. What is packed can draw, but
    not be trained, moved, converted or saved. Networks on other devices, and builds of PyTorch without oneDNN, are left
    as they are.
    """
    if not torch.backends.mkldnn.is_available():
        return
    for name, child in module.named_children():
        packed = _packed(child) if isinstance(child, nn.Conv2d | nn.Linear) else None
        if packed is not None:
            setattr(module, name, packed)
        else:
            pack(child)


def _packed(layer: nn.Conv2d | nn.Linear) -> nn.Module | None:
    """The packed form; None where there is none, or where it would not pay."""
    if layer.weight.device.type != "cpu" or layer.weight.dtype not in (torch.float32, torch.bfloat16):
        return None
    if isinstance(layer, nn.Linear):
        return PackedLinear(layer.weight, layer.bias)
    if layer.groups > 1 or layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        return None
    if layer.kernel_size == (1, 1) and layer.stride == (1, 1) and layer.padding == (0, 0):
        return PackedPointwise(layer)
    # where channels are no multiple of 64, the order that a kernel wants depends on the size of the picture
    return PackedConv2d(layer) if layer.weight.numel() >= BIG and layer.out_channels % 64 == 0 else None


class _Packed(nn.Module):
    """What all packed layers refuse."""

    def _apply(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise ValueError("this network was packed for drawing on a CPU: load it again to move or convert it")

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise ValueError("this network was packed for drawing on a CPU: load it again to save or train it")


class PackedLinear(_Packed):
    """x W^T + b."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach())  # (out, in) to look at, blocks inside
        self.bias = None if bias is None else bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")


class PackedPointwise(PackedLinear):
    """A 1x1 convolution: a linear map of each pixel's channels."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__(rearrange(conv.weight.detach(), "o i 1 1 -> o i").contiguous(), conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H, W)."""
        return rearrange(super().forward(rearrange(x, "b c h w -> b h w c")), "b h w c -> b c h w")


class PackedConv2d(_Packed):
    """A convolution without groups."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.how = list(conv.padding), list(conv.stride), list(conv.dilation), 1
        self.weight = torch.ops.mkldnn._reorder_convolution_weight(conv.weight.detach(), *self.how)
        self.bias = None if conv.bias is None else conv.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H', W')."""
        return torch.ops.mkldnn._convolution_pointwise(x, self.weight, self.bias, *self.how, "none", [], "")
