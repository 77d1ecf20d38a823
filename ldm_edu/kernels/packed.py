"""Forms of layers that only draw: weights laid out as a CPU's kernels want them, or three maps as one for a GPU.

oneDNN, the library under PyTorch's convolutions, lays a weight out anew at every call. A big network at small latents
spends much of its time so: Stable Diffusion's U-Net at 32x32 latents more than a third of what its convolutions take.
`pack` does it once. Linear maps gain less in bfloat16, but run twice as fast in float32 on an AMD processor, where
PyTorch takes them to another library. (`ldm-edu bench step` measures the whole.)
"""

from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ldm_edu.nn.attention import Attention, PixelAttention, TransformerLayer, attend

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
        packed = _packed(child) if _plain(child) else None  # type: ignore[arg-type]
        if packed is not None:
            setattr(module, name, packed)
        else:
            pack(child)


def fuse(module: nn.Module) -> None:
    """Replace every self-attention inside a network by its fused form, in place and for good: fewer launches on a GPU.

    What is fused can draw, but not be trained, moved, converted or saved.
    """
    for layer in list(module.modules()):
        if isinstance(layer, TransformerLayer) and isinstance(layer.self_attention, Attention):
            layer.self_attention = FusedSelfAttention(layer.self_attention)
        elif isinstance(layer, PixelAttention) and isinstance(layer.attention, Attention):
            layer.attention = FusedSelfAttention(layer.attention)


def _plain(layer: nn.Module) -> bool:
    """Whether a layer is what it seems: a subclass (LoRA, say) or one that is watched does more than its map."""
    return type(layer) in (nn.Conv2d, nn.Linear) and not layer._forward_hooks and not layer._forward_pre_hooks


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
    """What all of these layers refuse."""

    def _apply(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise ValueError("this network was made ready for drawing only: load it again to move or convert it")

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise ValueError("this network was made ready for drawing only: load it again to save or train it")

    def _no_gradient(self, x: Tensor) -> None:
        if x.requires_grad and torch.is_grad_enabled():
            raise ValueError("this network was made ready for drawing only, without gradients: load it again to train")


class PackedLinear(_Packed):
    """x W^T + b."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        blocks = torch.ops.mkldnn._reorder_linear_weight(weight.detach())  # (out, in) to look at, blocks inside
        self.register_buffer("weight", blocks, persistent=False)
        self.bias = None if bias is None else bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        self._no_gradient(x)
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
        blocks = torch.ops.mkldnn._reorder_convolution_weight(conv.weight.detach(), *self.how)
        self.register_buffer("weight", blocks, persistent=False)
        self.bias = None if conv.bias is None else conv.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H', W')."""
        self._no_gradient(x)
        return torch.ops.mkldnn._convolution_pointwise(x, self.weight, self.bias, *self.how, "none", [], "")


class FusedSelfAttention(_Packed):
    """Self-attention whose queries, keys and values come from one linear map instead of three."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        maps = (attention.to_q, attention.to_k, attention.to_v)
        self.heads, self.to_out = attention.heads, attention.to_out
        self.weight = torch.cat([each.weight.detach() for each in maps])  # (3 heads head_dim, width)
        biases = [each.bias.detach() for each in maps if each.bias is not None]
        self.bias = torch.cat(biases) if biases else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, width) -> (B, N, width)."""
        q, k, v = rearrange(F.linear(x, self.weight, self.bias), "b n (s h d) -> s b h n d", s=3, h=self.heads)
        return self.to_out(rearrange(attend(q, k, v), "b h n d -> b n (h d)"))
