"""The watched attention is the network's own: rows sum to 1, values times weights give its output, nothing is left."""

import dataclasses

import pytest
import torch
from einops import rearrange
from torch import nn

from ldm_edu.attention_maps import attention_weights, watch_attention
from ldm_edu.condition import Conditioning
from ldm_edu.families import TOY
from ldm_edu.model import LatentDiffusion
from ldm_edu.models.unet import UNet
from ldm_edu.nn.attention import Attention


@pytest.fixture(scope="module")
def model() -> LatentDiffusion:
    return LatentDiffusion.from_preset(TOY)


def hooks_of(module: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


def test_weights_times_values_are_what_the_layer_computes() -> None:
    torch.manual_seed(0)
    layer = Attention(12, heads=3, head_dim=4, context_dim=8)
    x, context = torch.randn(2, 10, 12), torch.randn(2, 5, 8)
    pair = layer.keys_values(context)
    weights = attention_weights(layer, x, pair)
    assert weights.shape == (2, 3, 10, 5)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, 10))
    out = layer.to_out(rearrange(weights @ pair[1], "b h n d -> b n (h d)"))
    torch.testing.assert_close(out, layer(x, pair))
    itself = Attention(12, heads=3, head_dim=4)
    assert attention_weights(itself, x).shape == (2, 3, 10, 10)
    torch.testing.assert_close(attention_weights(itself, x).sum(-1), torch.ones(2, 3, 10))


def test_maps_of_a_network_equal_the_direct_computation(model: LatentDiffusion) -> None:
    unet, cond = model.unet, model.condition(["red apple"])
    caught = {}
    transformers = [stage.transformer for stage in unet.stages() if stage.transformer is not None]
    layer = transformers[-1].layers[0].cross_attention
    handle = layer.register_forward_pre_hook(lambda module, args: caught.update(x=args[0], pair=args[1]))
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    with watch_attention(unet) as maps, torch.no_grad():
        unet(x, torch.tensor(500), cond)
    handle.remove()
    last = maps.seen[-1]
    assert (last.call, last.layer) == (0, len(transformers) - 1)
    q = rearrange(layer.to_q(caught["x"]), "b n (h d) -> b h n d", h=layer.heads)
    direct = torch.einsum("bhnd,bhld->bhnl", q, caught["pair"][0]).div(q.shape[-1] ** 0.5).softmax(-1).mean(1)
    torch.testing.assert_close(last.weights, rearrange(direct, "b (h w) l -> b l h w", h=last.weights.shape[-2]))


def test_a_guided_run_is_watched_step_by_step_and_drawn_as_without(model: LatentDiffusion) -> None:
    *_, wanted = model.generate(["red apple", "fish"], seeds=[1, 2], steps=3)
    with watch_attention(model.unet) as maps:
        *_, last = model.generate(["red apple", "fish"], seeds=[1, 2], steps=3)
    assert torch.equal(last.x, wanted.x)
    assert maps.calls == 3
    whole = maps.average()
    assert whole.shape == (4, TOY.text.length, 4, 4)  # two pictures, under their prompts and under the blank one
    torch.testing.assert_close(whole.sum(dim=1), torch.ones(4, 4, 4))
    torch.testing.assert_close(torch.stack([maps.average([i]) for i in range(3)]).mean(0), whole)
    with pytest.raises(ValueError, match="3 calls"):
        maps.average([7])


def test_coarse_maps_are_enlarged_and_rows_still_sum_to_1() -> None:
    config = dataclasses.replace(TOY.unet, depth=(1, 1))
    unet = UNet(config)
    with watch_attention(unet) as maps, torch.no_grad():
        unet(torch.randn(2, 4, 8, 12), torch.tensor(3), Conditioning(torch.randn(2, 7, 32)))
    assert {tuple(each.weights.shape[-2:]) for each in maps.seen} == {(8, 12), (4, 6)}
    torch.testing.assert_close(maps.average().sum(dim=1), torch.ones(2, 8, 12))
    assert maps.average(layers=[1]).shape[-2:] == (4, 6)


def test_hooks_are_removed_even_after_an_error(model: LatentDiffusion) -> None:
    with watch_attention(model.unet):
        assert hooks_of(model.unet) > 0
    assert hooks_of(model.unet) == 0
    with pytest.raises(ValueError, match="expected x of shape"), watch_attention(model.unet):
        model.unet(torch.zeros(1, 9, 8, 8), torch.tensor(3), model.condition([""]))
    assert hooks_of(model.unet) == 0


def test_a_network_without_cross_attention_is_refused() -> None:
    unet = UNet(dataclasses.replace(TOY.unet, context_dim=None))
    with pytest.raises(ValueError, match="context_dim"), watch_attention(unet):
        pass
