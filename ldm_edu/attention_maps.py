"""Which words each place of the picture attends to: a U-Net's cross-attention, watched from outside.

The U-Net computes its attention in one fused step that never holds the weights. `watch_attention` computes them a
second time, from the same queries and keys, while it is open; nothing in the network changes, and outside of it nothing
is slower. Averages of such maps over layers and steps are what Hertz et al. 2022, section 3, and Tang et al. 2022
(DAAM), section 3, look at.

>>> import torch
>>> from ldm_edu.condition import Conditioning
>>> from ldm_edu.families import TOY
>>> unet = UNet(TOY.unet)
>>> with watch_attention(unet) as maps:
...     _ = unet(torch.randn(1, 4, 8, 8), torch.tensor(500), Conditioning(context=torch.randn(1, 16, 32)))
>>> len(maps.seen), maps.calls, tuple(maps.average().shape)     # layers, calls, (B, L, H, W)
(4, 1, (1, 16, 4, 4))
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor, nn

from ldm_edu.models.unet import UNet
from ldm_edu.nn.attention import Attention, KeyValue


def attention_weights(attention: Attention, x: Tensor, keys_values: KeyValue | None = None) -> Tensor:
    """Softmax(q k^T / sqrt(d)) of an attention layer (Vaswani et al. 2017, equation 1), before it meets the values.

    ``x`` (B, N, width) and ``keys_values`` are the layer's own arguments; returns (B, heads, N, L), each row of sum 1.
    """
    q = rearrange(attention.to_q(x), "b n (h d) -> b h n d", h=attention.heads)
    k, _ = attention.keys_values(x) if keys_values is None else keys_values
    scores = (q.float() * q.shape[-1] ** -0.5) @ rearrange(k.float(), "b h l d -> b h d l")  # (B, heads, N, L)
    return scores.softmax(dim=-1)


@dataclass(frozen=True)
class LayerMap:
    """The weights of one cross-attention in one call of the network, as their mean over the heads."""

    call: int  # from 0; in a run, the step
    layer: int  # from 0, in the order of the forward pass
    weights: Tensor  # (B, L, H, W), at every place of sum 1 over the L tokens


@dataclass
class AttentionMaps:
    """What `watch_attention` saw."""

    calls: int = 0
    seen: list[LayerMap] = field(default_factory=list)

    def average(self, calls: Sequence[int] | None = None, layers: Sequence[int] | None = None) -> Tensor:
        """The mean over some calls and layers (None: all), (B, L, H, W) in the finest of their resolutions.

        Coarser maps are enlarged bilinearly, which keeps the sum over the tokens 1. A guided run holds each picture
        twice, as the U-Net does: first all under their prompts, then all under the blank one.

        Raises
        ------
        ValueError
            if none was seen.
        """
        found = [
            each
            for each in self.seen
            if (calls is None or each.call in calls) and (layers is None or each.layer in layers)
        ]
        if not found:
            raise ValueError(f"no attention was seen there: {self.calls} calls, {len(self.seen)} maps in all")
        height, width = max(tuple(each.weights.shape[-2:]) for each in found)
        fine = [F.interpolate(each.weights, (height, width), mode="bilinear", antialias=False) for each in found]
        return torch.stack(fine).mean(dim=0)


@contextmanager
def watch_attention(unet: UNet) -> Iterator[AttentionMaps]:
    """Record the cross-attention of every call of a U-Net, as long as the context is open.

    Raises
    ------
    ValueError
        if the network has no cross-attention.
    """
    maps = AttentionMaps()
    transformers = [stage.transformer for stage in unet.stages() if stage.transformer is not None]
    watched: list[tuple[nn.Module, Attention]] = [
        (transformer, layer.cross_attention)
        for transformer in transformers
        for layer in transformer.layers
        if isinstance(layer.cross_attention, Attention)
    ]
    if not watched:
        raise ValueError("this U-Net has no cross-attention: it was built without context_dim")
    sizes: dict[nn.Module, tuple[int, int]] = {}  # of the map that a transformer is at work on

    def note_size(module: nn.Module, args: tuple[Any, ...]) -> None:
        sizes[module] = args[0].shape[-2:]

    def note_weights(layer: int, transformer: nn.Module) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        @torch.no_grad()
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            assert isinstance(module, Attention)
            height, width = sizes[transformer]
            mean = reduce(attention_weights(module, *args), "b heads n l -> b n l", "mean")
            weights = rearrange(mean, "b (h w) l -> b l h w", h=height, w=width).cpu()
            maps.seen.append(LayerMap(maps.calls, layer, weights))

        return hook

    def count(module: nn.Module, args: Any, out: Any) -> None:
        maps.calls += 1

    hooks = [transformer.register_forward_pre_hook(note_size) for transformer in transformers]
    hooks += [
        attention.register_forward_pre_hook(note_weights(layer, transformer))
        for layer, (transformer, attention) in enumerate(watched)
    ]
    hooks.append(unet.conv_out.register_forward_hook(count))
    try:
        yield maps
    finally:
        for hook in hooks:
            hook.remove()
